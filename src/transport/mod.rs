//! Moves bytes between peers; has never heard of a collective.
//!
//! Between every ordered pair of ranks lies one first-in-first-out line of packets. A packet is a [`Head`]
//! of sixteen bytes, which the layer above reads and this one does not, and its bytes. A packet of at most
//! [`Transport::eager_bytes`] is copied into the line at once and arrives without further calls of the
//! sender. A larger one is *bulk*: its head announces it, and its bytes move when both sides poll; how
//! (through the line, from mapped memory, by a copy between processes) is settled edge by edge between the
//! two transports and never seen above.
//!
//! Nothing here blocks. Each call does a bounded piece of work and says whether there is more.

#[cfg(test)]
pub(crate) mod conformance_tests;
mod lines;
pub mod shm;
pub mod sim;
pub mod ucx;

use crate::error::Error;
use crate::op::Address;
pub use crate::op::Head;
use crate::system::slots::Slots;
pub use lines::{Bell, Lines, sleep_unless};

/// The packet at the front of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Its head, as published.
    pub head: Head,
    /// All its bytes, read or not.
    pub bytes: usize,
}

/// What lies at the front, seen the short way.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole<'a> {
    /// Nothing has come.
    Absent,
    /// What was expected.
    Here(&'a [u8]),
    /// Something that `front` has to look at.
    Unknown,
}

/// Where a bulk packet of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// Nothing moved since the last poll.
    Waiting,
    /// Something moved; poll again soon.
    Moving,
    /// The source may be reused, and the bytes arrive without further calls.
    Done,
}

/// Whether a peer still takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// As far as is known it does.
    Alive,
    /// It left in good order; what it published before remains readable.
    Closed,
    /// It aborted the communicator.
    Aborted,
    /// It stopped what ran on the communicator, of which children can still be born.
    Revoked,
    /// Its process is gone.
    Dead,
}

/// Where a rank stands in a long wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The head of the packets that it waits for or sends.
    pub head: Head,
    /// For whom it waits, a bit per rank; of ranks from 64 on nothing is said.
    pub waits_for: u64,
    /// Which of its batches it is in; 0 if that is not known here.
    pub batch: u64,
    /// When it began to stand there, by the clock of its host; 0 if that is not known here.
    pub since_ns: u64,
    /// When it last said so; 0 if that is not known here.
    pub said_ns: u64,
}

impl Standing {
    /// Whether it is the same place, whenever it was said.
    #[must_use]
    pub fn is_same_place(&self, other: &Standing) -> bool {
        (self.head, self.waits_for, self.batch) == (other.head, other.waits_for, other.batch)
    }
}

/// How much memory a rank's lines take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// What is needed as long as the communicator lives, or until what lies there is received.
    pub lasting_bytes: u64,
    /// What a communicator that rests can do without.
    pub spare_bytes: u64,
}

/// The lines between this rank and its peers. One owner at a time calls it.
pub trait Transport {
    /// The most bytes of one packet to `peer` that are copied at once.
    fn eager_bytes(&self, peer: u32) -> usize;

    /// Room for an eager packet of `bytes`, as a pointer to write them to, valid until [`Self::publish`].
    /// `None` while the peer has not freed enough. Reserving again without publishing forgets the first.
    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8>;

    /// Whether a copy of `bytes` into what was last reserved for `peer` is better done past the caches, since the
    /// peer's core is far or the copy long. `is_whole`: it is all of the packet.
    #[inline]
    fn streams(&mut self, _peer: u32, _bytes: usize, _is_whole: bool) -> bool {
        false
    }

    /// Sends what was last reserved for `peer`, which the caller has filled.
    fn publish(&mut self, peer: u32, head: Head);

    /// Announces a packet whose bytes lie at `source`. `false` while there is no room for the announcement.
    /// One bulk packet per peer at a time; nothing else is sent to that peer before it is done.
    ///
    /// # Safety
    /// `source` is readable for `bytes` until [`Self::poll_bulk`] says `Done`, or the transport is dropped.
    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool;

    /// Moves the bulk packet to `peer` a little further.
    ///
    /// # Errors
    /// What the path reported; the packet is then lost.
    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk, Error>;

    /// The packet at the front of the line from `peer`, if one has come.
    ///
    /// # Errors
    /// What lies there cannot be a packet.
    fn front(&mut self, peer: u32) -> Result<Option<Front>, Error>;

    /// The short way for small packets, in place of `front`, `view` and `finish`: the bytes of the packet at
    /// the front, if it is the one that is expected and all of it is here. Ended by [`Self::drop_whole`]. A
    /// transport without a short way says [`Whole::Unknown`].
    #[inline]
    fn peek_whole(&mut self, _peer: u32, _head: Head, _bytes: usize) -> Whole<'_> {
        Whole::Unknown
    }

    /// Ends the packet that [`Self::peek_whole`] showed.
    fn drop_whole(&mut self, _peer: u32, _bytes: usize) {}

    /// A view of the next unread bytes of the front packet: at most `limit` (not 0) and possibly fewer, none if
    /// they are still under way. Of an eager packet all that is left is always there at once.
    /// Valid until the next call that receives from this peer. `limit` counts whole elements, and so does what
    /// is given.
    ///
    /// # Errors
    /// What the path reported.
    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8], Error>;

    /// Copies the next unread bytes of the front packet straight to `target`, at most `limit`, and
    /// consumes them. Returns how many; 0 if they are still under way. Calls for one packet that begin with room
    /// for all of it go on where the last one ended, and the room is the transport's until then, or until
    /// [`Self::raise`] or [`Self::leave`]: the sender may help to fill it.
    ///
    /// # Safety
    /// `target` is writable for `limit` bytes during the call, and of a packet with room for all of it as long as
    /// is said above.
    ///
    /// # Errors
    /// What the path reported.
    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize, Error>;

    /// Marks `bytes` of the last view as read.
    fn consume(&mut self, peer: u32, bytes: usize);

    /// Ends the front packet, all of whose bytes have been read; its room returns to the peer.
    fn finish(&mut self, peer: u32);

    /// Gives back what is kept of memory that peers have freed. Before a sleep; most have nothing to do.
    fn forget_freed(&mut self) {}

    /// Whether the peer still takes part. May ask the system: for long waits, not for every poll.
    fn peer(&mut self, peer: u32) -> Peer;

    /// Tells every peer that this rank failed, and why. Only the first reason of a communicator is kept.
    fn raise(&mut self, reason: &str);

    /// Who failed first, and why, if somebody did.
    fn raised(&mut self) -> Option<(u32, String)>;

    /// Says where this rank stands, for peers that ask. For long waits.
    fn stand(&mut self, standing: Standing);

    /// What the peer last said of where it stands; it may have gone on since. What it sent before it said so has
    /// come by now.
    fn standing(&mut self, peer: u32) -> Option<Standing>;

    /// Where a rank (also this one) notes what it does, if that can be seen from here, also after its death.
    fn records(&mut self, _rank: u32) -> Option<Slots> {
        None
    }

    /// The number that the process of a rank (also this one) has here, if it can be seen from here.
    fn process(&mut self, _rank: u32) -> Option<i32> {
        None
    }

    /// Writes the next bytes of a put into a window of `peer`, from `offset` of the window on. Returns how many
    /// were written, at least one of `bytes` (not 0).
    ///
    /// # Safety
    /// `source` is readable for `bytes` during the call.
    ///
    /// # Errors
    /// The peer has closed the window, or left.
    unsafe fn put(
        &mut self,
        _peer: u32,
        _reach: &shm::Reach,
        _offset: usize,
        _source: Address,
        _bytes: usize,
    ) -> Result<usize, Error> {
        Err(no_windows())
    }

    /// Gives `peer` a signal, behind all that was put there before.
    ///
    /// # Errors
    /// What the path reported.
    fn signal(&mut self, _peer: u32, _index: u32) -> Result<(), Error> {
        Err(no_windows())
    }

    /// How many signals have come from `peer`, ever.
    ///
    /// # Errors
    /// What the path reported.
    fn signals(&mut self, _peer: u32, _index: u32) -> Result<u64, Error> {
        Err(no_windows())
    }

    /// Ends this rank's part, as its peers see it ([`Peer::Closed`], [`Peer::Aborted`] or [`Peer::Revoked`]), and gives back what
    /// is shared with them. Nothing may be used afterwards.
    fn leave(&mut self, how: Peer);
}

#[cold]
fn no_windows() -> Error {
    Error::usage(
        "the call",
        "peers on this transport reach no windows",
        "use ncclSend and ncclRecv between these ranks",
    )
}
