//! What this rank sends to one peer.

use super::Here;
use super::bulk::{OfferWords, Verdict};
use super::distance::Distance;
use super::doorbell::wake;
use super::help::{self, Cut, Done, Help, Side};
use super::reading::process_of;
use super::ring::{Credit, INLINE_BYTES, Kind, Producer, RingMemory, Shape};
use super::segment::Ring;
use crate::error::{Error, Result};
use crate::op::Address;
use crate::system::{attach, clock, copy, memory};
use crate::transport::{Bulk, Head};

/// How much of a streamed packet is published at once: enough to make the slot's price small, little enough
/// that the receiver unpacks one piece while the next is written.
const PIECE_BYTES: usize = 8192;
/// How many pieces one poll moves at most.
const PIECES_PER_POLL: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Reserved {
    /// Where in the data; nothing for what fits into the slot.
    start: Option<u64>,
    bytes: usize,
}

/// The bulk packet under way.
#[derive(Clone, Copy, Debug)]
enum Sending {
    /// Piece by piece through the ring.
    Stream { source: Address, left: usize },
    /// Announced; the receiver fetches it, or asks for a stream. `direct`: it was offered within the process.
    Offer { source: Address, bytes: usize, direct: bool },
}

/// The sending half of an edge.
#[derive(Debug)]
pub(super) struct Outgoing {
    ring: Option<Ring>,
    producer: Producer,
    reserved: Option<Reserved>,
    sending: Option<Sending>,
    /// How many bulk packets were offered; the number of the last one.
    offers: u64,
    /// The receiver could not fetch the last offer of ordinary memory: the next is streamed at once.
    stream_at_once: bool,
    helper: Helper,
    pub(super) distance: Distance,
}

/// Whether this side can write the receiver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helper {
    Unknown,
    /// The receiver's number here.
    Works {
        pid: i32,
    },
    Refused,
}

impl Outgoing {
    pub(super) const fn new(shape: Shape) -> Outgoing {
        Outgoing {
            ring: None,
            producer: Producer::new(shape),
            reserved: None,
            sending: None,
            offers: 0,
            stream_at_once: false,
            helper: Helper::Unknown,
            distance: Distance::NEW,
        }
    }

    #[cold]
    fn map(&mut self, here: &Here, peer: u32) -> Result<()> {
        self.ring = Some(here.segment.ring(here.rank, peer)?);
        Ok(())
    }

    /// Gives back the data of the ring if it is empty. Both sides rest.
    pub(super) fn give_back(&mut self) {
        if let Some(ring) = &self.ring
            && self.sending.is_none()
            && self.producer.is_drained(ring) == Ok(true)
        {
            self.reserved = None;
            ring.give_back();
        }
    }

    #[inline]
    pub(super) fn reserve(&mut self, here: &Here, peer: u32, bytes: usize) -> Result<Option<*mut u8>> {
        self.reserved = None;
        if self.ring.is_none() {
            self.map(here, peer)?;
        }
        let Some(ring) = &self.ring else { return Ok(None) };
        if self.sending.is_some() || bytes > here.segment.shape().longest() {
            return Ok(None);
        }
        if bytes <= INLINE_BYTES {
            if !self.producer.has_slot(ring).map_err(|broken| here.broken(peer, broken))? {
                return Ok(None);
            }
            self.reserved = Some(Reserved { start: None, bytes });
            return Ok(Some(ring.inline(self.producer.slot())));
        }
        let start = self.producer.find_room(ring, bytes).map_err(|broken| here.broken(peer, broken))?;
        self.reserved = start.map(|start| Reserved { start: Some(start), bytes });
        Ok(start.map(|start| ring.data(start)))
    }

    #[inline]
    pub(super) fn publish(&mut self, here: &Here, peer: u32, head: Head) {
        let (Some(ring), Some(reserved)) = (&self.ring, self.reserved.take()) else {
            debug_assert!(false, "published without a reservation");
            return;
        };
        let slot = self.producer.slot();
        ring.set_word(slot, 1, head.what);
        ring.set_word(slot, 2, head.which);
        if reserved.start.is_some() {
            self.distance.end(clock::now_ns);
            ring.set_word(slot, 3, reserved.bytes as u64);
            self.producer.publish(ring, Kind::Eager, 0, reserved.bytes);
        } else {
            self.producer.publish(ring, Kind::Inline, reserved.bytes, 0);
        }
        wake(here.segment.control(peer));
    }

    /// Whether the packet goes by an offer, and whether as one within the process.
    fn choose(&self, here: &Here, peer: u32, facts: bool, bytes: usize) -> (bool, bool) {
        let direct = here.settings.direct && bytes > 0 && here.is_local(peer);
        let fetched = facts || (bytes > here.settings.bulk_bytes && !self.stream_at_once);
        (direct || (fetched && bytes > 0), direct)
    }

    pub(super) fn begin(
        &mut self,
        here: &Here,
        peer: u32,
        head: Head,
        source: Address,
        bytes: usize,
    ) -> Result<bool> {
        if self.ring.is_none() {
            self.map(here, peer)?;
        }
        let Some(ring) = &self.ring else { return Ok(false) };
        let room = self.producer.has_slot(ring).map_err(|broken| here.broken(peer, broken))?;
        if self.sending.is_some() || !room {
            return Ok(false);
        }
        self.reserved = None;
        let facts = here.settings.mapped.then(|| memory::find(source, bytes)).flatten();
        let (offered, direct) = self.choose(here, peer, facts.is_some(), bytes);
        let slot = self.producer.slot();
        ring.set_word(slot, 1, head.what);
        ring.set_word(slot, 2, head.which);
        if offered {
            self.offers += 1;
            if direct {
                here.local.offer(peer, self.offers, source, bytes);
            }
            OfferWords::new(source, bytes, facts).write(ring, slot);
            self.producer.publish(ring, Kind::Offer, 0, 0);
            self.sending = Some(Sending::Offer { source, bytes, direct });
        } else {
            ring.set_word(slot, 3, bytes as u64);
            self.producer.publish(ring, Kind::Stream, 0, 0);
            self.sending = Some(Sending::Stream { source, left: bytes });
        }
        wake(here.segment.control(peer));
        Ok(true)
    }

    /// Whether the peer has yet to fetch something.
    #[inline]
    pub(super) const fn is_offering(&self) -> bool {
        matches!(self.sending, Some(Sending::Offer { .. }))
    }

    /// `may_help`: a chunk of an offered packet may be copied.
    pub(super) fn poll(&mut self, here: &Here, peer: u32, may_help: impl FnOnce() -> bool) -> Result<Bulk> {
        match self.sending {
            None => Ok(Bulk::Done),
            Some(Sending::Stream { source, left }) => self.stream(here, peer, source, left),
            Some(Sending::Offer { source, bytes, direct }) => {
                let bulk = self.answer(here, peer, source, bytes, direct)?;
                let helps = !direct && bulk == Bulk::Waiting && Cut::new(bytes).count > 1 && may_help();
                if helps { self.help(here, peer, source, bytes) } else { Ok(bulk) }
            }
        }
    }

    /// What the receiver made of the offer.
    fn answer(
        &mut self,
        here: &Here,
        peer: u32,
        source: Address,
        bytes: usize,
        direct: bool,
    ) -> Result<Bulk> {
        if direct && here.local.is_read(peer) {
            self.sending = None;
            return Ok(Bulk::Done);
        }
        let Some(ring) = &self.ring else { return Ok(Bulk::Waiting) };
        match Verdict::read(ring.credit(Credit::Bulk), self.offers) {
            Some(Verdict::Fetched) => {
                if direct {
                    // The receiver took another path, or a hostile hand wrote this: nobody reads afterwards.
                    here.local.withdraw(peer);
                }
                self.sending = None;
                Ok(Bulk::Done)
            }
            Some(verdict @ (Verdict::Stream | Verdict::Combine)) => {
                let from = usize::try_from(ring.credit(Credit::BulkFrom)).unwrap_or(usize::MAX);
                let left = bytes.checked_sub(from).ok_or_else(|| {
                    Error::Remote(format!("rank {peer} asked for bytes behind the end of a packet"))
                })?;
                if direct {
                    here.local.withdraw(peer);
                }
                self.stream_at_once =
                    verdict == Verdict::Stream && !direct && memory::find(source, bytes).is_none();
                self.stream(here, peer, source.add(from), left)
            }
            None => Ok(Bulk::Waiting),
        }
    }

    /// Copies a chunk of the offered packet to where the receiver wants it, if the receiver lets us.
    fn help(&mut self, here: &Here, peer: u32, source: Address, bytes: usize) -> Result<Bulk> {
        let Some(ring) = &self.ring else { return Ok(Bulk::Waiting) };
        if self.helper == Helper::Refused {
            return Ok(Bulk::Waiting);
        }
        let cut = Cut::new(bytes);
        let claimed = help::claim(ring, self.offers, cut.count, Side::Back);
        let Some(index) = claimed.map_err(|broken| here.broken(peer, broken))? else {
            return Ok(Bulk::Waiting);
        };
        if self.helper == Helper::Unknown {
            let pid = if here.settings.attach { process_of(here, peer) } else { None };
            self.helper = pid.map_or(Helper::Refused, |pid| Helper::Works { pid });
        }
        let is_copied = match self.helper {
            Helper::Works { pid } => {
                let (chunk, permit) = (cut.chunk(index), ring.help(Help::Permit));
                let target = ring.help(Help::Target).wrapping_add(chunk.start as u64);
                let from = source.add(chunk.start).0 as *const u8;
                // SAFETY: the chunk lies within the packet, whose source is readable by the promise of
                // `begin_bulk`.
                unsafe { attach::write(pid, permit, from, target, chunk.len()) }.is_ok()
            }
            _ => false,
        };
        let count = cut.count - index - u32::from(!is_copied);
        // Release: all that was copied lies before.
        ring.set_help(Help::Done, Done { count, has_failed: !is_copied }.word());
        if !is_copied {
            self.helper = Helper::Refused;
        }
        wake(here.segment.control(peer));
        Ok(Bulk::Moving)
    }

    fn stream(&mut self, here: &Here, peer: u32, source: Address, left: usize) -> Result<Bulk> {
        let Some(ring) = &self.ring else { return Ok(Bulk::Waiting) };
        let (mut source, mut left, mut moved) = (source, left, Bulk::Waiting);
        let longest = PIECE_BYTES.min(here.segment.shape().longest());
        for _ in 0..PIECES_PER_POLL {
            if left == 0 {
                break;
            }
            let bytes = left.min(longest);
            let found = self.producer.find_room(ring, bytes).map_err(|broken| here.broken(peer, broken))?;
            let Some(start) = found else { break };
            // SAFETY: the source is readable for the bytes that are left, by the promise of `begin_bulk`. The
            // producer found `bytes` of data at `start` that the receiver does not read before they are
            // published. The caller's memory and the ring do not overlap: rings are mapped for us alone.
            unsafe {
                let (from, into) = (source.0 as *const u8, ring.data(start));
                if self.distance.streams(bytes, true, clock::now_ns) {
                    copy::streaming(from, into, bytes);
                } else {
                    into.copy_from_nonoverlapping(from, bytes);
                }
            }
            self.distance.end(clock::now_ns);
            ring.set_word(self.producer.slot(), 3, bytes as u64);
            self.producer.publish(ring, Kind::Piece, 0, bytes);
            wake(here.segment.control(peer));
            source = source.add(bytes);
            left -= bytes;
            moved = Bulk::Moving;
        }
        self.sending = (left > 0).then_some(Sending::Stream { source, left });
        Ok(if left == 0 { Bulk::Done } else { moved })
    }
}
