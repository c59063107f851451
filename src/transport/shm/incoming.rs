//! What comes to this rank from one peer.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::bulk::{OfferWords, Verdict};
use super::doorbell::wake;
use super::helped::Helped;
use super::layout::state;
use super::local::LocalRank;
use super::reading::{Attach, process_of, try_attach};
use super::ring::{Broken, Consumer, Credit, INLINE_BYTES, Kind, RingMemory, Shape};
use super::segment::Ring;
use super::{BulkCounts, Here};
use crate::error::{Error, Result};
use crate::system::{attach, memory::Seen};
use crate::transport::{Front, Head, Whole};

/// The most that one call hands out of a packet that it reads in place.
const SLICE_BYTES: usize = 256 << 10;
/// The most that the kernel copies at once. Each time costs as much as 20 KiB; who aborts waits for one.
const ATTACHED_SLICE_BYTES: usize = 4 << 20;
/// Attached packets that are viewed come in pieces of this size, which stay in the cache.
const SCRATCH_BYTES: usize = 128 << 10;
/// How many of the peer's allocations stay mapped.
const SEEN_LIMIT: usize = 64;

/// The front packet's bytes. Plain data, so that a packet costs no drop.
#[derive(Clone, Copy, Debug)]
enum Body {
    /// All there: in the slot, or `data_bytes` in the data.
    Plain { start: *const u8, data_bytes: usize },
    /// Coming piece by piece.
    Stream { piece: Option<Piece> },
    /// In the memory of another thread's rank; `held`: a view of it is out.
    Direct { source: usize, held: bool },
    /// In memory of the peer that is mapped here.
    Mapped { source: *const u8 },
    /// In the peer's memory. Bytes `from..to` of the packet lie in the scratch.
    Attached { source: usize, from: usize, to: usize },
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: *const u8,
    bytes: usize,
    read: usize,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    front: Front,
    /// How many of its bytes were consumed.
    at: usize,
    body: Body,
}

/// The receiving half of an edge.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) ring: Option<Ring>,
    consumer: Consumer,
    packet: Option<Packet>,
    /// The peer, if it is a thread of this process; known from its first direct packet on.
    owner: Option<Arc<LocalRank>>,
    pub(super) offers: u64,
    pub(super) attach: Attach,
    seen: Vec<Seen>,
    scratch: Vec<u8>,
    /// The front packet is copied by both sides.
    pub(super) help: Option<Helped>,
    pub(super) counts: BulkCounts,
}

// SAFETY: its pointers lead into the ring's mapping and the mappings in `seen`, which it owns, and into memory
// of the process that `owner` keeps in place while `held`. None belongs to a thread.
unsafe impl Send for Incoming {}

impl Incoming {
    pub(super) const fn new(shape: Shape) -> Incoming {
        Incoming {
            ring: None,
            consumer: Consumer::new(shape),
            packet: None,
            owner: None,
            offers: 0,
            attach: Attach::Unknown,
            seen: Vec::new(),
            scratch: Vec::new(),
            help: None,
            counts: BulkCounts { direct: 0, mapped: 0, attached: 0, streamed: 0 },
        }
    }

    #[inline]
    pub(super) fn front(&mut self, here: &Here, peer: u32) -> Result<Option<Front>> {
        if let Some(packet) = &self.packet {
            return Ok(Some(packet.front));
        }
        if self.ring.is_none() {
            self.ring = Some(here.segment.ring(peer, here.rank)?);
        }
        let Some(ring) = &self.ring else { return Ok(None) };
        match self.consumer.look(ring) {
            Ok(None) => Ok(None),
            Ok(Some((kind, inline_bytes))) => self.open(here, peer, kind, inline_bytes).map(Some),
            Err(broken) => Err(here.broken(peer, broken)),
        }
    }

    /// The short way for a packet that lies whole in its slot or in the data; see the trait.
    #[inline]
    pub(super) fn peek_whole(&mut self, head: Head, bytes: usize) -> Whole<'_> {
        let (None, Some(ring)) = (&self.packet, &self.ring) else { return Whole::Unknown };
        let (kind, inline_bytes) = match self.consumer.look(ring) {
            Ok(None) => return Whole::Absent,
            Ok(Some(found)) => found,
            Err(_) => return Whole::Unknown,
        };
        let slot = self.consumer.slot();
        if ring.word(slot, 1) != head.what || ring.word(slot, 2) != head.which {
            return Whole::Unknown;
        }
        let start = match kind {
            Kind::Inline if inline_bytes == bytes => ring.inline(slot),
            Kind::Eager if bytes > INLINE_BYTES => match self.consumer.data(ring.word(slot, 3)) {
                Ok((start, found)) if found == bytes => ring.data(start),
                _ => return Whole::Unknown,
            },
            _ => return Whole::Unknown,
        };
        // SAFETY: `look` and `data` checked that the bytes lie in the slot or in the data of the ring, which
        // `self` keeps mapped, and they are given back by `drop_whole` only. See also `view`.
        Whole::Here(unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    /// Ends the packet that [`Self::peek_whole`] showed.
    #[inline]
    pub(super) fn drop_whole(&mut self, here: &Here, peer: u32, bytes: usize) {
        self.release(here, peer, if bytes > INLINE_BYTES { bytes } else { 0 });
    }

    /// Takes the next slot as the front packet.
    fn open(&mut self, here: &Here, peer: u32, kind: Kind, inline_bytes: usize) -> Result<Front> {
        let ring = self.ring.as_ref().ok_or_else(no_packet)?;
        let slot = self.consumer.slot();
        let head = Head { what: ring.word(slot, 1), which: ring.word(slot, 2) };
        let word = ring.word(slot, 3);
        let broken = |broken| here.broken(peer, broken);
        let (bytes, body) = match kind {
            Kind::Inline => (inline_bytes, Body::Plain { start: ring.inline(slot), data_bytes: 0 }),
            Kind::Eager => {
                let (start, bytes) = self.consumer.data(word).map_err(broken)?;
                (bytes, Body::Plain { start: ring.data(start), data_bytes: bytes })
            }
            Kind::Stream | Kind::Offer => {
                let bytes = usize::try_from(word).ok().filter(|bytes| isize::try_from(*bytes).is_ok());
                let bytes = bytes.ok_or_else(|| broken(Broken("announced more than there can be")))?;
                let offer = OfferWords::read(ring, slot);
                if self.consumer.release(ring, 0) {
                    wake(here.segment.control(peer));
                }
                let body = match kind {
                    Kind::Offer => self.settle(here, peer, offer, bytes),
                    _ => self.expect_stream(),
                };
                (bytes, body)
            }
            Kind::Piece => return Err(broken(Broken("sent a piece of no packet"))),
        };
        let front = Front { head, bytes };
        self.packet = Some(Packet { front, at: 0, body });
        Ok(front)
    }

    /// Whether the kernel has yet to be asked for bytes of the peer.
    pub(super) fn has_to_fetch(&self) -> bool {
        match (&self.packet, &self.ring) {
            (Some(packet), _) => {
                matches!(packet.body, Body::Attached { .. }) && packet.at < packet.front.bytes
            }
            (None, Some(ring)) => matches!(self.consumer.look(ring), Ok(Some((Kind::Offer, _)))),
            (None, None) => false,
        }
    }

    /// How long the front packet is, if it is attached and none of it was read.
    pub(super) fn untouched_bytes(&self) -> Option<usize> {
        match &self.packet {
            Some(Packet { front, at: 0, body: Body::Attached { to: 0, .. } }) => Some(front.bytes),
            _ => None,
        }
    }

    /// How far the front packet was read, and how long it is.
    pub(super) fn position(&self) -> Option<(usize, usize)> {
        self.packet.as_ref().map(|packet| (packet.at, packet.front.bytes))
    }

    /// Picks the path by which an offered packet comes.
    fn settle(&mut self, here: &Here, peer: u32, offer: OfferWords, bytes: usize) -> Body {
        self.offers += 1;
        if here.settings.direct
            && let Some(owner) = here.find_local(peer)
            && let Some(source) = owner.source(here.rank, self.offers, bytes)
        {
            self.counts.direct += 1;
            self.owner = Some(owner);
            return Body::Direct { source: source.0, held: false };
        }
        if here.settings.mapped
            && let Some(source) = self.find_mapped(here, peer, offer, bytes)
        {
            self.counts.mapped += 1;
            return Body::Mapped { source };
        }
        self.probe(here, peer);
        if matches!(self.attach, Attach::Works { .. }) {
            self.counts.attached += 1;
            return Body::Attached { source: offer.source as usize, from: 0, to: 0 };
        }
        self.ask_for_stream(here, peer, 0, Verdict::Stream);
        self.expect_stream()
    }

    const fn expect_stream(&mut self) -> Body {
        self.counts.streamed += 1;
        Body::Stream { piece: None }
    }

    fn find_mapped(&mut self, here: &Here, peer: u32, offer: OfferWords, bytes: usize) -> Option<*const u8> {
        if offer.allocation == 0 {
            return None;
        }
        let offset = usize::try_from(offer.offset).ok()?;
        // No packet is being read from any of them now, so those that were freed can go.
        self.seen.retain(Seen::is_alive);
        if let Some(seen) = self.seen.iter().find(|seen| seen.id() == offer.allocation) {
            return seen.at(offset, bytes);
        }
        let descriptor = i32::try_from(offer.descriptor).ok()?;
        let seen = Seen::map(process_of(here, peer)?, descriptor, offer.allocation)?;
        let source = seen.at(offset, bytes);
        if self.seen.len() >= SEEN_LIMIT {
            self.seen.remove(0);
        }
        self.seen.push(seen);
        source
    }

    /// Tries, once, to read a word of the peer.
    pub(super) fn probe(&mut self, here: &Here, peer: u32) {
        if self.attach != Attach::Unknown {
            return;
        }
        self.attach = match try_attach(here, peer) {
            Ok(attach) => attach,
            Err(reason) => Attach::Refused(reason),
        };
    }

    fn ask_for_stream(&self, here: &Here, peer: u32, from: usize, verdict: Verdict) {
        let Some(ring) = &self.ring else { return };
        ring.set_credit(Credit::BulkFrom, from as u64);
        // Published by the release of the verdict behind it.
        ring.set_credit(Credit::Bulk, verdict.word(self.offers));
        wake(here.segment.control(peer));
    }

    pub(super) fn say_fetched(&self, here: &Here, peer: u32) {
        let Some(ring) = &self.ring else { return };
        // Release: all reads of the source lie before.
        ring.set_credit(Credit::Bulk, Verdict::Fetched.word(self.offers));
        wake(here.segment.control(peer));
    }

    pub(super) fn view(&mut self, here: &Here, peer: u32, limit: usize) -> Result<&[u8]> {
        if let Some(Packet { front, at, body: Body::Attached { from, to, .. } }) = &self.packet
            && !(*from..*to).contains(at)
            && *at < front.bytes
        {
            if *at == 0 && *to == 0 {
                self.go_on_streaming(here, peer, Verdict::Combine);
            } else {
                self.fill_scratch(here, peer)?;
            }
        }
        let packet = self.packet.as_mut().ok_or_else(no_packet)?;
        let want = limit.min(packet.front.bytes - packet.at);
        if want == 0 {
            return Ok(&[]);
        }
        let (start, bytes) = match &mut packet.body {
            Body::Plain { start, .. } => (start.wrapping_add(packet.at), want),
            Body::Stream { piece } => {
                if piece.is_none() {
                    let ring = self.ring.as_ref().ok_or_else(no_packet)?;
                    let left = packet.front.bytes - packet.at;
                    *piece =
                        next_piece(ring, &self.consumer, left).map_err(|broken| here.broken(peer, broken))?;
                }
                let Some(piece) = piece else { return Ok(&[]) };
                (piece.start.wrapping_add(piece.read), want.min(piece.bytes - piece.read))
            }
            Body::Direct { source, held } => {
                let owner = self.owner.as_ref().ok_or_else(no_packet)?;
                if !*held && !owner.hold(here.rank) {
                    return Err(lost(peer));
                }
                *held = true;
                ((*source as *const u8).wrapping_add(packet.at), want.min(SLICE_BYTES))
            }
            Body::Mapped { source } => {
                here.check_alive(peer)?;
                (source.wrapping_add(packet.at), want.min(SLICE_BYTES))
            }
            Body::Attached { from, to, .. } => {
                if packet.at >= *to {
                    return Ok(&[]);
                }
                (self.scratch.as_ptr().wrapping_add(packet.at - *from), want.min(*to - packet.at))
            }
        };
        // SAFETY: `start..start + bytes` was checked above to lie in a slot, in the data of the ring, in a
        // mapping or in the scratch, all kept by `self`, or in memory that the owner's gate keeps in place
        // while it is held. The slice borrows `self`, so none of them is given back before it ends. In shared
        // memory an honest peer does not write what it has not been given back; a dishonest one can change
        // bytes, which are only ever copied or reduced, never believed.
        Ok(unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    /// Fetches the next bytes of an attached packet into the scratch.
    fn fill_scratch(&mut self, here: &Here, peer: u32) -> Result<()> {
        self.scratch.resize(SCRATCH_BYTES, 0);
        let target = self.scratch.as_mut_ptr();
        // SAFETY: the scratch has that many bytes.
        let got = unsafe { self.fetch(here, peer, target, SCRATCH_BYTES)? };
        if let Some(Packet { at, body: Body::Attached { from, to, .. }, .. }) = &mut self.packet {
            (*from, *to) = (*at, *at + got);
        }
        Ok(())
    }

    /// Copies the next bytes of an attached packet to `target`: whole elements, at most `limit`. If the
    /// kernel does not do it, the rest is streamed, and none come now.
    ///
    /// # Safety
    /// `target` is writable for `limit` bytes.
    unsafe fn fetch(&mut self, here: &Here, peer: u32, target: *mut u8, limit: usize) -> Result<usize> {
        let Some(Packet { front, at, .. }) = &self.packet else { return Err(no_packet()) };
        let (at, total) = (*at, front.bytes);
        let asked = limit.min(total - at);
        // SAFETY: the caller's promise.
        let got = match unsafe { self.copy(here, peer, at, target, asked)? } {
            Ok(got) => got,
            Err(reason) => {
                self.refuse(here, peer, reason);
                0
            }
        };
        if at + got == total {
            self.say_fetched(here, peer);
        }
        Ok(got)
    }

    /// Has the kernel copy `asked` bytes of the front packet, which is attached, from byte `at` on. How many whole
    /// elements came, at least one; or why none did.
    ///
    /// # Safety
    /// `target` is writable for `asked` bytes.
    pub(super) unsafe fn copy(
        &self,
        here: &Here,
        peer: u32,
        at: usize,
        target: *mut u8,
        asked: usize,
    ) -> Result<std::result::Result<usize, String>> {
        let Some(Packet { body: Body::Attached { source, .. }, .. }) = &self.packet else {
            return Err(no_packet());
        };
        let Attach::Works { pid, proof, proof_address } = self.attach else { return Err(no_packet()) };
        // SAFETY: the caller's promise.
        let result = unsafe { attach::read(pid, proof_address, source.wrapping_add(at), target, asked) };
        // The copy lies before the look at the sender's state: had the sender left before the copy ended, and
        // reused its memory, then the look would tell.
        fence(Ordering::SeqCst);
        here.check_alive(peer)?;
        let (got, reason) = match result {
            Ok((word, got)) if word == proof => (got, "only part of a packet could be read".to_owned()),
            Ok(_) => (0, "its process number belongs to another process now".to_owned()),
            Err(cause) => (0, cause.to_string()),
        };
        // The ends of all parts but the last are multiples of the longest element.
        let got = if got == asked { got } else { ((at + got) & !7).saturating_sub(at) };
        Ok(if got == 0 && asked > 0 { Err(reason) } else { Ok(got) })
    }

    /// The kernel does not copy any more.
    #[cold]
    pub(super) fn refuse(&mut self, here: &Here, peer: u32, reason: String) {
        self.attach = Attach::Refused(reason);
        self.go_on_streaming(here, peer, Verdict::Stream);
    }

    /// The rest of the front packet comes through the ring.
    fn go_on_streaming(&mut self, here: &Here, peer: u32, verdict: Verdict) {
        let body = self.expect_stream();
        if let Some(packet) = &mut self.packet {
            packet.body = body;
        }
        let at = self.position().map_or(0, |(at, _)| at);
        self.ask_for_stream(here, peer, at, verdict);
    }

    /// `peer_is_busy`: it has something to fetch from here, so will not help.
    ///
    /// # Safety
    /// `target` is writable for `limit` bytes during the call.
    pub(super) unsafe fn read_into(
        &mut self,
        here: &Here,
        peer: u32,
        target: *mut u8,
        limit: usize,
        peer_is_busy: bool,
    ) -> Result<usize> {
        if let Some(Packet { front, at, body: Body::Attached { from, to, .. } }) = &self.packet
            && !(*from..*to).contains(at)
            && *at < front.bytes
        {
            // SAFETY: the caller's promise.
            let got = unsafe { self.read_helped(here, peer, target, limit, peer_is_busy) };
            let got = match got {
                Some(got) => got?,
                // SAFETY: the caller's promise, for less.
                None => unsafe { self.fetch(here, peer, target, limit.min(ATTACHED_SLICE_BYTES))? },
            };
            if let Some(packet) = &mut self.packet {
                packet.at += got;
            }
            return Ok(got);
        }
        let view = self.view(here, peer, limit)?;
        let (start, bytes) = (view.as_ptr(), view.len());
        if bytes > 0 {
            // SAFETY: the view is readable for its length, which is at most `limit`; `target` is writable for
            // that. `copy` and not `copy_nonoverlapping`: a thread may send from where another one receives
            // only against the interface's rules, which must not be undefined behaviour of ours.
            unsafe { std::ptr::copy(start, target, bytes) };
            self.consume(here, peer, bytes);
        }
        Ok(bytes)
    }

    pub(super) fn consume(&mut self, here: &Here, peer: u32, bytes: usize) {
        let Some(packet) = &mut self.packet else { return };
        debug_assert!(bytes <= packet.front.bytes - packet.at, "consumed more than there is");
        packet.at += bytes.min(packet.front.bytes - packet.at);
        let complete = packet.at == packet.front.bytes;
        match &mut packet.body {
            Body::Plain { .. } | Body::Attached { .. } => {}
            Body::Stream { piece } => {
                let Some(current) = piece else { return };
                current.read += bytes;
                if current.read >= current.bytes {
                    let data_bytes = current.bytes;
                    *piece = None;
                    self.release(here, peer, data_bytes);
                }
            }
            Body::Direct { held, .. } => {
                let held = std::mem::take(held);
                match &self.owner {
                    Some(owner) if held && complete => {
                        owner.done(here.rank);
                        wake(here.segment.control(peer));
                    }
                    Some(owner) if held => owner.let_go(here.rank),
                    _ => {}
                }
            }
            Body::Mapped { .. } => {
                if complete {
                    self.say_fetched(here, peer);
                }
            }
        }
    }

    #[inline]
    pub(super) fn finish(&mut self, here: &Here, peer: u32) -> Result<()> {
        let Some(packet) = &self.packet else { return Ok(()) };
        let complete = packet.at == packet.front.bytes;
        match packet.body {
            Body::Plain { data_bytes, .. } => {
                self.packet = None;
                self.release(here, peer, data_bytes);
            }
            _ if complete => self.packet = None,
            _ => return Err(Error::Internal("a packet was finished before all of it was read".into())),
        }
        Ok(())
    }

    #[inline]
    fn release(&mut self, here: &Here, peer: u32, data_bytes: usize) {
        if let Some(ring) = &self.ring
            && self.consumer.release(ring, data_bytes)
        {
            wake(here.segment.control(peer));
        }
    }

    /// Returns all credit, and what else can be had again.
    pub(super) fn rest(&mut self) {
        if self.packet.is_none() {
            self.seen.clear();
            self.scratch = Vec::new();
            if let Some(ring) = &self.ring {
                self.consumer.give_credit(ring);
            }
        }
    }

    /// Gives back the data of the ring if it is empty. Both sides rest.
    pub(super) fn give_back(&self) {
        if let Some(ring) = &self.ring
            && self.packet.is_none()
            && self.consumer.look(ring) == Ok(None)
        {
            ring.give_back();
        }
    }

    /// Unmaps allocations that the peer has freed, unless a packet is being read from one.
    pub(super) fn forget_freed(&mut self) {
        let reading = matches!(self.packet, Some(Packet { body: Body::Mapped { .. }, .. }));
        if !reading && !self.seen.is_empty() {
            self.seen.retain(Seen::is_alive);
        }
    }

    #[cfg(test)]
    pub(super) fn seen_count(&self) -> usize {
        self.seen.len()
    }

    /// Lets go of what another thread's rank keeps in place for us.
    pub(super) fn let_go(&mut self, here: &Here) {
        if let Some(Packet { body: Body::Direct { held, .. }, .. }) = &mut self.packet
            && let Some(owner) = &self.owner
            && std::mem::take(held)
        {
            owner.let_go(here.rank);
        }
    }
}

fn next_piece(ring: &Ring, consumer: &Consumer, left: usize) -> std::result::Result<Option<Piece>, Broken> {
    match consumer.look(ring)? {
        None => Ok(None),
        Some((Kind::Piece, _)) => {
            let (start, bytes) = consumer.data(ring.word(consumer.slot(), 3))?;
            if bytes > left {
                return Err(Broken("sent more than it announced"));
            }
            Ok(Some(Piece { start: ring.data(start), bytes, read: 0 }))
        }
        Some(_) => Err(Broken("sent a packet inside another one")),
    }
}

impl Here {
    /// Fails if the peer has left, so that its memory may hold anything.
    pub(super) fn check_alive(&self, peer: u32) -> Result<()> {
        match self.segment.control(peer).state.load(Ordering::Acquire) {
            state::ALIVE => Ok(()),
            _ => Err(lost(peer)),
        }
    }
}

#[cold]
fn lost(peer: u32) -> Error {
    Error::Remote(format!("rank {peer} left while a packet of it was being read"))
}

#[cold]
fn no_packet() -> Error {
    Error::Internal("bytes of a packet were asked for where there is none".into())
}
