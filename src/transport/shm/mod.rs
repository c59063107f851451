//! Shared memory of our own making, for ranks on one machine.
//!
//! One sealed file without a name per communicator and machine: `segment` says who has it, `layout` what lies
//! where, `host` how it is passed on. Nothing is left behind, however a process ends. Between each two ranks lie
//! two rings, one in each direction (`ring`). What is too large for them is fetched by the receiver itself where
//! it can (`bulk`). `doorbell` is how ranks sleep and wake one another; `local` what ranks that are threads of
//! one process tell one another besides.
//!
//! Everything read from the segment is checked as if a hostile hand had written it: a peer can send wrong
//! values, and break its own edges (which then report [`Error::Remote`]), but cannot make this process touch
//! memory that is not its own.
//!
//! Only calls of this object write the user's memory of this rank, and peers that it lets help (`help`); they
//! only write the targets that it is given. Once it is dropped nobody does; nobody reads it either, but for the kernel on behalf of a peer, which
//! then discards what it read. A view of a packet from another thread of the process keeps that thread's drop
//! waiting until it is consumed, so consume it soon.
//!
//! Whether a peer lives is known by a lock that the kernel keeps ([`crate::system::lock`]): its death is seen
//! even if it was killed, and even while a forked child of it lives on.
//!
//! # How an owner waits
//! ```text
//! let mut waiter = Waiter::new(spin_limit(config.spin, ranks_here, cores_here));
//! loop {
//!     if poll every transport and queue: something moved { waiter.reset(); continue }
//!     if waiter.is_long() { ask peer() of those that are waited for, now and then }
//!     if let Pause::Sleep(limit) = waiter.pause() {
//!         for each transport { transport.forget_freed() }
//!         sleep_unless(&bells, limit, || poll once more: whether something moved);
//!     }
//! }
//! ```
//! Other threads leave work for the owner in its queue, then call [`Doorbell::ring`].

mod bulk;
mod distance;
mod doorbell;
mod failure;
mod help;
mod helped;
mod host;
mod inbox;
mod incoming;
mod layout;
mod local;
#[cfg(all(test, loom))]
mod model;
mod outgoing;
mod reading;
mod rest;
mod ring;
mod segment;
mod standing;
#[cfg(test)]
mod tests;
mod window;
mod witness;

pub use doorbell::{Doorbell, sleep_unless};
pub use host::{Host, Invitation, Way};
pub use inbox::{CONTEXTS, SIGNALS};
pub use segment::Segment;
pub use window::{Facts, Opened, Reach};
pub use witness::Witness;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use inbox::Inbox;
use incoming::Incoming;
use layout::state;
use local::LocalRank;
use outgoing::Outgoing;
use reading::Attach;
use ring::Broken;

use super::{Bulk, Front, Head, Peer, Standing, Transport, Whole};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::op::Address;
use crate::system::permit::Permit;
use crate::system::slots::Slots;
use crate::system::{barrier, clock, fork, lock, random};

/// Packets of ordinary memory up to this size go through the ring although the kernel could copy them: two copies,
/// one of them past the caches (`distance`), cost less than system calls. Above, one copy by both sides at once
/// (`help`) wins (`benches/records/`). `SHOAL_BULK_BYTES` sets another.
pub const DEFAULT_BULK_BYTES: usize = 64 << 10;

/// What may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Plain copies between threads of one process.
    pub direct: bool,
    /// Mapping peers' allocations.
    pub mapped: bool,
    /// The kernel's copies between processes, where they work.
    pub attach: bool,
    /// Packets of ordinary memory above this size are offered to other processes; others are streamed.
    pub bulk_bytes: usize,
}

impl Settings {
    /// As the user wants it.
    #[must_use]
    pub fn new(config: &Config) -> Settings {
        Settings {
            direct: true,
            mapped: config.mapped,
            attach: config.cma != Some(false),
            bulk_bytes: config.bulk_bytes.unwrap_or(DEFAULT_BULK_BYTES),
        }
    }
}

/// By which paths bulk packets came so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkCounts {
    /// Copied from the memory of another thread's rank.
    pub direct: u64,
    /// Read in place, in memory that is mapped on both sides.
    pub mapped: u64,
    /// Copied by the kernel between two processes.
    pub attached: u64,
    /// Through the ring.
    pub streamed: u64,
}

/// What both halves of all edges need.
#[derive(Debug)]
struct Here {
    segment: Arc<Segment>,
    rank: u32,
    settings: Settings,
    local: Arc<LocalRank>,
    permit: OnceLock<Option<Permit>>,
}

impl Here {
    /// What peers need to copy into this process; nothing where there is no address space for it.
    fn permit(&self) -> Option<&Permit> {
        self.permit.get_or_init(|| Permit::new().ok()).as_ref()
    }

    fn find_local(&self, peer: u32) -> Option<Arc<LocalRank>> {
        LocalRank::find(self.segment.id(), peer)
    }

    fn is_local(&self, peer: u32) -> bool {
        self.find_local(peer).is_some()
    }

    #[cold]
    fn broken(&self, peer: u32, broken: Broken) -> Error {
        let Broken(what) = broken;
        Error::Remote(format!("rank {peer} {what} (seen by rank {}, in shared memory)", self.rank))
    }
}

#[derive(Debug)]
struct Edge {
    outgoing: Outgoing,
    incoming: Incoming,
    /// What broke it; it stays broken.
    fault: Option<Error>,
}

/// One rank's lines to its peers on the machine.
#[derive(Debug)]
pub struct ShmTransport {
    here: Here,
    edges: Box<[Edge]>,
    /// Those that were used.
    inboxes: HashMap<u32, Arc<Inbox>>,
    /// The stamps and places of this rank's open windows.
    own_windows: HashMap<u64, u32>,
    generation: u32,
    has_left: bool,
}

/// A word of this process that others read to prove that they read this process.
fn proof() -> &'static AtomicU64 {
    static PROOF: OnceLock<AtomicU64> = OnceLock::new();
    PROOF.get_or_init(|| AtomicU64::new(random::word()))
}

impl ShmTransport {
    /// Takes the place of `rank` in `segment`.
    ///
    /// # Errors
    /// The place is taken, or the system refused the lock.
    pub fn new(segment: Arc<Segment>, rank: u32, settings: Settings) -> Result<ShmTransport> {
        let taken = || Error::Internal(format!("rank {rank} joined its segment twice"));
        if rank >= segment.ranks() {
            return Err(Error::Internal(format!("rank {rank} in a segment of {}", segment.ranks())));
        }
        let control = segment.control(rank);
        if control.state.load(Ordering::Acquire) != state::AWAITED
            || !lock::hold(segment.file(), u64::from(rank))?
        {
            return Err(taken());
        }
        control.barriers.store(u32::from(barrier::register()), Ordering::Relaxed);
        control.proof.store(proof().load(Ordering::Relaxed), Ordering::Relaxed);
        control.proof_address.store(std::ptr::from_ref(proof()) as u64, Ordering::Relaxed);
        // Release: publishes what was said above.
        let (before, after) = (state::AWAITED, state::ALIVE);
        if control.state.compare_exchange(before, after, Ordering::Release, Ordering::Relaxed).is_err() {
            return Err(taken());
        }
        let local = LocalRank::enter(segment.id(), rank, segment.ranks());
        let shape = segment.shape();
        let edges = (0..segment.ranks())
            .map(|_| Edge { outgoing: Outgoing::new(shape), incoming: Incoming::new(shape), fault: None })
            .collect();
        let here = Here { segment, rank, settings, local, permit: OnceLock::new() };
        let (inboxes, own_windows) = (HashMap::new(), HashMap::new());
        Ok(ShmTransport {
            here,
            edges,
            inboxes,
            own_windows,
            generation: fork::generation(),
            has_left: false,
        })
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> &Arc<Segment> {
        &self.here.segment
    }

    /// The bell that peers ring when something has come or room was made.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        Doorbell::new(Arc::clone(&self.here.segment), self.here.rank)
    }

    /// How much of the segment this process has mapped, for all its ranks.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.here.segment.mapped_bytes()
    }

    /// Tries whether memory of `peer` (of another process, and here already) can be read by the kernel's help.
    /// Otherwise why not: large packets from it then take the slower path through the ring.
    ///
    /// # Errors
    /// Why not, in one clause.
    pub fn probe(&mut self, peer: u32) -> std::result::Result<(), String> {
        let incoming = &mut self.edges[peer as usize].incoming;
        incoming.probe(&self.here, peer);
        match &incoming.attach {
            Attach::Refused(reason) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Says that this rank has heard that all are there.
    pub fn say_born(&self) {
        self.here.segment.control(self.here.rank).born.store(1, Ordering::Release);
    }

    /// Whether `peer` has heard it too. Who has left by now needs no more words.
    #[must_use]
    pub fn is_born(&self, peer: u32) -> bool {
        let control = self.here.segment.control(peer);
        let takes_part = [state::AWAITED, state::ALIVE].contains(&control.state.load(Ordering::Acquire));
        control.born.load(Ordering::Acquire) == 1 || !takes_part
    }

    /// By which paths bulk packets of `peer` came.
    #[must_use]
    pub fn bulk_counts(&self, peer: u32) -> BulkCounts {
        self.edges[peer as usize].incoming.counts
    }

    /// Keeps what broke an edge.
    fn keep<T>(&mut self, peer: u32, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.edges[peer as usize].fault.get_or_insert_with(|| error.clone());
        }
        result
    }
}

impl Transport for ShmTransport {
    fn eager_bytes(&self, _peer: u32) -> usize {
        self.here.segment.shape().longest()
    }

    #[inline]
    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8> {
        let edge = &mut self.edges[peer as usize];
        match edge.outgoing.reserve(&self.here, peer, bytes) {
            Ok(place) => place,
            // Reported by `front` and `poll_bulk`.
            Err(error) => self.keep(peer, Err(error)).unwrap_or(None),
        }
    }

    #[inline]
    fn streams(&mut self, peer: u32, bytes: usize, is_whole: bool) -> bool {
        self.edges[peer as usize].outgoing.distance.streams(bytes, is_whole, clock::now_ns)
    }

    #[inline]
    fn publish(&mut self, peer: u32, head: Head) {
        self.edges[peer as usize].outgoing.publish(&self.here, peer, head);
    }

    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        let edge = &mut self.edges[peer as usize];
        let begun = edge.outgoing.begin(&self.here, peer, head, source, bytes);
        self.keep(peer, begun).unwrap_or(false)
    }

    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk> {
        let edge = &mut self.edges[peer as usize];
        if let Some(fault) = &edge.fault {
            return Err(fault.clone());
        }
        // Who has something to fetch does that first: the peer is as busy with its own.
        let polled = edge.outgoing.poll(&self.here, peer, || !edge.incoming.has_to_fetch());
        self.keep(peer, polled)
    }

    #[inline]
    fn front(&mut self, peer: u32) -> Result<Option<Front>> {
        let edge = &mut self.edges[peer as usize];
        if let Some(fault) = &edge.fault {
            return Err(fault.clone());
        }
        let front = edge.incoming.front(&self.here, peer);
        if front.is_err() {
            return self.keep(peer, front);
        }
        front
    }

    #[inline]
    fn peek_whole(&mut self, peer: u32, head: Head, bytes: usize) -> Whole<'_> {
        let edge = &mut self.edges[peer as usize];
        if edge.fault.is_some() { Whole::Unknown } else { edge.incoming.peek_whole(head, bytes) }
    }

    #[inline]
    fn drop_whole(&mut self, peer: u32, bytes: usize) {
        self.edges[peer as usize].incoming.drop_whole(&self.here, peer, bytes);
    }

    #[inline]
    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8]> {
        let edge = &mut self.edges[peer as usize];
        let viewed = edge.incoming.view(&self.here, peer, limit);
        if let Err(error) = &viewed {
            edge.fault.get_or_insert_with(|| error.clone());
        }
        viewed
    }

    #[inline]
    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize> {
        let Edge { incoming, outgoing, .. } = &mut self.edges[peer as usize];
        let peer_is_busy = outgoing.is_offering();
        // SAFETY: the caller's promise.
        let read = unsafe { incoming.read_into(&self.here, peer, target.0 as *mut u8, limit, peer_is_busy) };
        if read.is_err() {
            return self.keep(peer, read);
        }
        read
    }

    #[inline]
    fn consume(&mut self, peer: u32, bytes: usize) {
        self.edges[peer as usize].incoming.consume(&self.here, peer, bytes);
    }

    #[inline]
    fn finish(&mut self, peer: u32) {
        let finished = self.edges[peer as usize].incoming.finish(&self.here, peer);
        if finished.is_err() {
            let _ = self.keep(peer, finished);
        }
    }

    fn forget_freed(&mut self) {
        for edge in &mut self.edges {
            edge.incoming.forget_freed();
        }
    }

    fn peer(&mut self, peer: u32) -> Peer {
        let told = || match self.here.segment.control(peer).state.load(Ordering::Acquire) {
            state::AWAITED | state::ALIVE => Peer::Alive,
            state::CLOSED => Peer::Closed,
            state::REVOKED => Peer::Revoked,
            _ => Peer::Aborted,
        };
        let here = &self.here;
        let awaited = here.segment.control(peer).state.load(Ordering::Acquire) == state::AWAITED;
        if told() != Peer::Alive || awaited || self.has_left || here.is_local(peer) {
            return told();
        }
        if lock::holder(here.segment.file(), u64::from(peer)).is_some() {
            return Peer::Alive;
        }
        // It gave the lock back in good order, after it had said so, or it did not.
        match told() {
            Peer::Alive => Peer::Dead,
            known => known,
        }
    }

    fn raise(&mut self, reason: &str) {
        // The calls that fail return, and their buffers are the caller's again.
        for (peer, edge) in (0..).zip(&mut self.edges) {
            edge.incoming.end_help(&self.here, peer);
        }
        failure::raise(&self.here.segment, self.here.rank, reason);
        doorbell::wake_all(&self.here.segment);
    }

    fn raised(&mut self) -> Option<(u32, String)> {
        failure::raised(&self.here.segment)
    }

    fn stand(&mut self, standing: Standing) {
        let place = &self.here.segment.control(self.here.rank).standing;
        let said_ns = clock::now_ns();
        let stood = place.read().filter(|stood| stood.is_same_place(&standing));
        place.write(Standing {
            since_ns: stood.map_or(said_ns, |stood| stood.since_ns),
            said_ns,
            ..standing
        });
    }

    fn standing(&mut self, peer: u32) -> Option<Standing> {
        self.here.segment.control(peer).standing.read()
    }

    fn records(&mut self, rank: u32) -> Option<Slots> {
        // What cannot be mapped is not there.
        self.here.segment.records(rank).ok().flatten()
    }

    fn process(&mut self, rank: u32) -> Option<i32> {
        let here = &self.here;
        if rank == here.rank || here.is_local(rank) {
            return i32::try_from(std::process::id()).ok();
        }
        if self.has_left {
            return None;
        }
        lock::holder(here.segment.file(), u64::from(rank)).filter(|process| *process > 0)
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
        unsafe { self.put_slice(peer, reach, offset, source, bytes) }
    }

    fn signal(&mut self, peer: u32, index: u32) -> Result<()> {
        self.give_signal(peer, index)
    }

    fn signals(&mut self, peer: u32, index: u32) -> Result<u64> {
        self.count_signals(peer, index)
    }

    fn leave(&mut self, how: Peer) {
        self.go(match how {
            Peer::Aborted => state::ABORTED,
            Peer::Revoked => state::REVOKED,
            _ => state::CLOSED,
        });
    }
}

impl ShmTransport {
    /// Leaves, once; what is shared is let go of.
    fn go(&mut self, how: u32) {
        // In a child of the process none of this is its own.
        if self.has_left || self.generation != fork::generation() {
            return;
        }
        self.close_windows();
        self.has_left = true;
        for (peer, edge) in (0..).zip(&mut self.edges) {
            edge.incoming.end_help(&self.here, peer);
            edge.incoming.let_go(&self.here);
        }
        let here = &self.here;
        let control = here.segment.control(here.rank);
        let (before, after) = (state::ALIVE, how);
        // Fails if the rank has aborted, which then stays. Release: see `Doorbell::abort`.
        let _ = control.state.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
        here.local.leave();
        lock::release(here.segment.file(), u64::from(here.rank));
        std::sync::atomic::fence(Ordering::SeqCst);
        doorbell::wake_all(&here.segment);
        self.edges = Box::default();
        self.inboxes = HashMap::new();
        // Without memory for a husk all is kept until the rank itself is dropped.
        if let Ok(husk) = here.segment.husk() {
            self.here.segment = husk;
        }
    }
}

impl Drop for ShmTransport {
    fn drop(&mut self) {
        self.go(state::CLOSED);
    }
}
