//! All lines of a rank: those on its host through shared memory, those to other hosts through UCX.
//!
//! Most communicators live on one host; for them every call costs one look at a field that says so.

use std::sync::Arc;
use std::time::Duration;

use super::shm::{self, Doorbell, Facts, Reach, ShmTransport};
use super::ucx::{Net, UcxTransport};
use super::{Bulk, Front, Head, Peer, Standing, Taken, Transport, Whole};
use crate::error::{Error, Result};
use crate::op::Address;
use crate::system::slots::Slots;

/// One rank's lines to all its peers.
#[derive(Debug)]
pub struct Lines {
    near: ShmTransport,
    far: Option<UcxTransport>,
}

/// Calls the transport that leads to a peer.
macro_rules! to {
    ($self:ident, $peer:expr, $transport:ident => $call:expr) => {
        match &mut $self.far {
            Some($transport) if $transport.reaches($peer) => $call,
            _ => {
                let $transport = &mut $self.near;
                $call
            }
        }
    };
}

impl Lines {
    /// The lines of a rank whose peers on other hosts are those that `far` reaches.
    #[must_use]
    pub const fn new(near: ShmTransport, far: Option<UcxTransport>) -> Lines {
        Lines { near, far }
    }

    /// Those on this host.
    pub const fn near(&mut self) -> &mut ShmTransport {
        &mut self.near
    }

    /// Gives back what memory a resting communicator can do without.
    pub fn rest(&mut self) {
        self.near.rest();
        if let Some(far) = &mut self.far {
            far.rest();
        }
    }

    /// How much memory they take.
    #[must_use]
    pub fn taken(&mut self) -> Taken {
        let (near, far) = (self.near.taken(), self.far.as_mut().map(UcxTransport::taken).unwrap_or_default());
        Taken {
            lasting_bytes: near.lasting_bytes + far.lasting_bytes,
            spare_bytes: near.spare_bytes + far.spare_bytes,
        }
    }

    /// A number that all ranks of the communicator see alike.
    #[must_use]
    pub fn id(&self) -> u128 {
        self.far.as_ref().map_or_else(|| self.near.segment().id(), UcxTransport::key)
    }

    /// What wakes whoever sleeps for the rank.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell { near: self.near.doorbell(), net: self.far.as_ref().map(UcxTransport::net) }
    }

    /// The way to a window of `peer`.
    ///
    /// # Errors
    /// There is none.
    pub fn reach(&mut self, call: &'static str, peer: u32, facts: &Facts) -> Result<Reach> {
        if self.far.as_ref().is_some_and(|far| far.reaches(peer)) {
            return Err(Error::usage(
                call,
                format_args!(
                    "rank {peer} is on another host, and windows of other hosts are not reached yet"
                ),
                "use ncclSend and ncclRecv between these ranks",
            ));
        }
        self.near.reach(call, peer, facts)
    }
}

/// A rank's bell, and the network that works while whoever would hear it sleeps.
#[derive(Clone, Debug)]
pub struct Bell {
    near: Doorbell,
    net: Option<Arc<Net>>,
}

impl Bell {
    /// Wakes whoever sleeps for the rank.
    pub fn ring(&self) {
        self.near.ring();
    }

    /// Tells all peers that this rank leaves, with everything it published: for the end of the process. Those on
    /// other hosts hear it from the network's own end.
    pub fn depart(&self) {
        self.near.depart();
    }
}

/// Sleeps until one of `bells` rings, at most for `limit`, as [`shm::sleep_unless`].
pub fn sleep_unless(bells: &[Bell], limit: Duration, is_ready: impl FnOnce() -> bool) {
    let near: Vec<&Doorbell> = bells.iter().map(|bell| &bell.near).collect();
    shm::sleep_unless(&near, limit, || {
        let is_ready = is_ready();
        // Behind the last look, which makes progress itself.
        if !is_ready {
            bells.iter().filter_map(|bell| bell.net.as_ref()).for_each(|net| net.hand_over());
        }
        is_ready
    });
}

impl Transport for Lines {
    #[inline]
    fn eager_bytes(&self, peer: u32) -> usize {
        match &self.far {
            Some(far) if far.reaches(peer) => far.eager_bytes(peer),
            _ => self.near.eager_bytes(peer),
        }
    }

    #[inline]
    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8> {
        to!(self, peer, lines => lines.reserve(peer, bytes))
    }

    #[inline]
    fn streams(&mut self, peer: u32, bytes: usize, is_whole: bool) -> bool {
        to!(self, peer, lines => lines.streams(peer, bytes, is_whole))
    }

    #[inline]
    fn publish(&mut self, peer: u32, head: Head) {
        to!(self, peer, lines => lines.publish(peer, head));
    }

    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        // SAFETY: the caller's promise.
        to!(self, peer, lines => unsafe { lines.begin_bulk(peer, head, source, bytes) })
    }

    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk> {
        to!(self, peer, lines => lines.poll_bulk(peer))
    }

    #[inline]
    fn front(&mut self, peer: u32) -> Result<Option<Front>> {
        to!(self, peer, lines => lines.front(peer))
    }

    #[inline]
    fn peek_whole(&mut self, peer: u32, head: Head, bytes: usize) -> Whole<'_> {
        to!(self, peer, lines => lines.peek_whole(peer, head, bytes))
    }

    #[inline]
    fn drop_whole(&mut self, peer: u32, bytes: usize) {
        to!(self, peer, lines => lines.drop_whole(peer, bytes));
    }

    #[inline]
    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8]> {
        to!(self, peer, lines => lines.view(peer, limit))
    }

    #[inline]
    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize> {
        // SAFETY: the caller's promise.
        to!(self, peer, lines => unsafe { lines.read_into(peer, target, limit) })
    }

    #[inline]
    fn consume(&mut self, peer: u32, bytes: usize) {
        to!(self, peer, lines => lines.consume(peer, bytes));
    }

    #[inline]
    fn finish(&mut self, peer: u32) {
        to!(self, peer, lines => lines.finish(peer));
    }

    fn forget_freed(&mut self) {
        self.near.forget_freed();
    }

    fn peer(&mut self, peer: u32) -> Peer {
        to!(self, peer, lines => lines.peer(peer))
    }

    fn raise(&mut self, reason: &str) {
        self.near.raise(reason);
        if let Some(far) = &mut self.far {
            far.raise(reason);
        }
    }

    fn raised(&mut self) -> Option<(u32, String)> {
        self.near.raised().or_else(|| self.far.as_mut()?.raised())
    }

    fn stand(&mut self, standing: Standing) {
        self.near.stand(standing);
        if let Some(far) = &mut self.far {
            far.stand(standing);
        }
    }

    fn standing(&mut self, peer: u32) -> Option<Standing> {
        to!(self, peer, lines => lines.standing(peer))
    }

    fn records(&mut self, rank: u32) -> Option<Slots> {
        to!(self, rank, lines => lines.records(rank))
    }

    fn process(&mut self, rank: u32) -> Option<i32> {
        to!(self, rank, lines => lines.process(rank))
    }

    unsafe fn put(
        &mut self,
        peer: u32,
        reach: &Reach,
        offset: usize,
        source: Address,
        bytes: usize,
    ) -> Result<usize> {
        // SAFETY: the caller's promise.
        to!(self, peer, lines => unsafe { lines.put(peer, reach, offset, source, bytes) })
    }

    fn signal(&mut self, peer: u32, index: u32) -> Result<()> {
        to!(self, peer, lines => lines.signal(peer, index))
    }

    fn signals(&mut self, peer: u32, index: u32) -> Result<u64> {
        to!(self, peer, lines => lines.signals(peer, index))
    }

    fn leave(&mut self, how: Peer) {
        self.near.leave(how);
        if let Some(far) = &mut self.far {
            far.leave(how);
        }
    }
}
