//! The line from one rank to another: slots, data, credit. Prose first.
//!
//! A ring has one producer and one consumer, and three parts (a fourth, the help line, is for packets that do not
//! go through the ring: [`super::help`]).
//!
//! * **Slots**, one cache line each. The producer fills slot `p % slots` for its `p`-th packet, and publishes it
//!   with one release store of the slot's first word, the *header*: a stamp, the kind, the length of what lies in
//!   the slot itself. The stamp is `p + 1`, so what an earlier lap left there, or zeros, is never taken for a
//!   packet. Only headers are ever written to the first word of a slot. A small packet lies in its slot whole,
//!   and so costs the transfer of one cache line.
//! * **Data**, a ring of bytes for what does not fit into a slot. Each packet lies there in one piece; what
//!   would cross the end starts at the beginning instead ([`place`]). Both sides compute where from the
//!   lengths alone: no position is ever read from the other side's slots.
//! * **Credit**, one cache line that the consumer writes: how many slots and bytes of data it has read, ever.
//!   It writes only when a quarter of either was read since it last did, so that the line stays in the
//!   producer's cache meanwhile.
//!
//! Lazy credit cannot starve the producer. Suppose that the consumer has read everything. Then what the
//! producer takes for unread is less than a quarter of the slots, and less than a quarter of the data. The
//! next packet needs one slot, and in the data its own length plus what is skipped at the end, which is less
//! than its own length: together under a quarter, for no packet is longer than an eighth ([`Shape::longest`]).
//! Less than half is taken then, so there is room.
//!
//! What each ordering publishes:
//!
//! | written by | release | acquire | publishes |
//! |---|---|---|---|
//! | producer | header of slot p | consumer's look for p | the slot's words, and the data of the packet |
//! | consumer | slots read | producer's look for room | that the consumer has finished reading those slots |
//! | consumer | data read | producer's look for room | that the consumer has finished reading those bytes |
//! | consumer | the verdict on a bulk packet | producer's poll | the place from which to stream; that nobody reads the source any more |
//!
//! The consumer trusts nothing: lengths are bounded before use, and the producer takes no credit that goes
//! backwards or exceeds what it sent. Then the edge is *broken*, and stays so.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::help::Help;

/// How headers and credit are written: what was done before is seen by whoever sees the word.
pub(super) const PUBLISH: Ordering = Ordering::Release;
/// How they are read.
pub(super) const OBSERVE: Ordering = Ordering::Acquire;

/// One cache line.
pub(super) const LINE_BYTES: usize = 64;
/// How many words a slot has.
pub(super) const SLOT_WORDS: usize = 8;
/// The words in front of what lies in a slot itself: header, what, which.
pub(super) const SLOT_HEAD_WORDS: usize = 3;
/// The most bytes that a slot itself holds.
pub(super) const INLINE_BYTES: usize = (SLOT_WORDS - SLOT_HEAD_WORDS) * 8;

const _: () = assert!(SLOT_WORDS * 8 == LINE_BYTES && INLINE_BYTES == 40);

/// The words of the credit line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Credit {
    /// Slots read, ever.
    Slots = 0,
    /// Bytes of data passed, ever.
    Data = 1,
    /// Where streaming starts; read after the verdict.
    BulkFrom = 2,
    /// What became of the last bulk packet that was offered: its number and the verdict.
    Bulk = 3,
}

/// Where a ring's words lie. `shm` implements it on shared memory, the model on modelled atomics.
pub(super) trait RingMemory {
    /// The header of a slot; by [`OBSERVE`].
    fn header(&self, slot: usize) -> u64;
    /// Publishes a slot; by [`PUBLISH`].
    fn set_header(&self, slot: usize, value: u64);
    /// Another word of a slot, not 0.
    fn word(&self, slot: usize, index: usize) -> u64;
    /// Writes another word of a slot, not 0.
    fn set_word(&self, slot: usize, index: usize, value: u64);
    /// A slot is looked at soon.
    fn expect(&self, slot: usize);
    /// A word of the credit line; by [`OBSERVE`].
    fn credit(&self, which: Credit) -> u64;
    /// Writes a word of the credit line; by [`PUBLISH`].
    fn set_credit(&self, which: Credit, value: u64);
    /// A word of the help line; by [`OBSERVE`].
    fn help(&self, which: Help) -> u64;
    /// Writes a word of the help line; by [`PUBLISH`].
    fn set_help(&self, which: Help, value: u64);
    /// Writes the claims of the help line if they are still `before`, by [`PUBLISH`] and [`OBSERVE`]; else what
    /// they are.
    fn exchange_claims(&self, before: u64, after: u64) -> Result<(), u64>;
}

/// A slot that was written ahead comes while what is in the slots before it is looked after. What the other side has
/// yet to write is not kept from it: this side has held that line since the turn before.
const AHEAD_SLOTS: u64 = 1;

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Slots; a power of two.
    pub(super) slots: u64,
    /// Bytes of data; a power of two, whole lines.
    pub(super) data_bytes: u64,
}

impl Shape {
    /// The longest packet that the data takes in one piece.
    pub(super) const fn longest(self) -> usize {
        (self.data_bytes / 8) as usize
    }

    const fn slot(self, position: u64) -> usize {
        (position & (self.slots - 1)) as usize
    }

    /// Where in the data a position lies.
    pub(super) const fn offset(self, position: u64) -> usize {
        (position & (self.data_bytes - 1)) as usize
    }
}

/// Where `bytes` (at most [`Shape::longest`]) lie that follow position `head`, and the position behind them.
pub(super) const fn place(shape: Shape, head: u64, bytes: usize) -> (u64, u64) {
    let room_to_end = shape.data_bytes - (head & (shape.data_bytes - 1));
    let start = if bytes as u64 > room_to_end { head + room_to_end } else { head };
    (start, start + (bytes as u64).next_multiple_of(LINE_BYTES as u64))
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A packet in its slot.
    Inline = 1,
    /// A packet in the data; word 3 is its length.
    Eager = 2,
    /// A packet of word 3 bytes whose pieces follow.
    Stream = 3,
    /// The next piece of the packet before, in the data; word 3 is its length.
    Piece = 4,
    /// A packet that the consumer may fetch; see [`super::bulk`].
    Offer = 5,
}

impl Kind {
    const fn from_bits(bits: u64) -> Option<Kind> {
        Some(match bits {
            1 => Kind::Inline,
            2 => Kind::Eager,
            3 => Kind::Stream,
            4 => Kind::Piece,
            5 => Kind::Offer,
            _ => return None,
        })
    }
}

const fn stamp(position: u64) -> u64 {
    (position.wrapping_add(1) & 0xffff_ffff) << 32
}

/// The other side broke the protocol; what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The sender's end.
#[derive(Clone, Debug)]
pub(super) struct Producer {
    shape: Shape,
    slot_head: u64,
    data_head: u64,
    // What the credit line said when last looked at.
    slots_read: u64,
    data_read: u64,
}

impl Producer {
    pub(super) const fn new(shape: Shape) -> Producer {
        Producer { shape, slot_head: 0, data_head: 0, slots_read: 0, data_read: 0 }
    }

    /// The slot that is filled next.
    pub(super) const fn slot(&self) -> usize {
        self.shape.slot(self.slot_head)
    }

    /// Whether there is a slot.
    #[inline]
    pub(super) fn has_slot(&mut self, memory: &impl RingMemory) -> Result<bool, Broken> {
        if self.slot_head - self.slots_read < self.shape.slots {
            return Ok(true);
        }
        self.refresh(memory)?;
        Ok(self.slot_head - self.slots_read < self.shape.slots)
    }

    /// Where the next packet's bytes go, if there is a slot and room.
    #[inline]
    pub(super) fn find_room(
        &mut self,
        memory: &impl RingMemory,
        bytes: usize,
    ) -> Result<Option<u64>, Broken> {
        if !self.has_slot(memory)? {
            return Ok(None);
        }
        let (start, end) = place(self.shape, self.data_head, bytes);
        if end - self.data_read > self.shape.data_bytes {
            self.refresh(memory)?;
            if end - self.data_read > self.shape.data_bytes {
                return Ok(None);
            }
        }
        Ok(Some(start))
    }

    /// Whether the consumer has returned all that was sent.
    pub(super) fn is_drained(&mut self, memory: &impl RingMemory) -> Result<bool, Broken> {
        self.refresh(memory)?;
        Ok(self.slots_read == self.slot_head && self.data_read == self.data_head)
    }

    #[cold]
    fn refresh(&mut self, memory: &impl RingMemory) -> Result<(), Broken> {
        let slots_read = memory.credit(Credit::Slots);
        let data_read = memory.credit(Credit::Data);
        let credible = (self.slots_read..=self.slot_head).contains(&slots_read)
            && (self.data_read..=self.data_head).contains(&data_read);
        if !credible {
            return Err(Broken("returned credit that it was never given"));
        }
        self.slots_read = slots_read;
        self.data_read = data_read;
        Ok(())
    }

    /// Publishes the slot that [`Self::has_slot`] found, whose words are written; `data_bytes` of the data
    /// belong to it.
    #[inline]
    pub(super) fn publish(
        &mut self,
        memory: &impl RingMemory,
        kind: Kind,
        inline_bytes: usize,
        data_bytes: usize,
    ) {
        if data_bytes > 0 {
            self.data_head = place(self.shape, self.data_head, data_bytes).1;
        }
        let header = stamp(self.slot_head) | (kind as u64) << 8 | inline_bytes as u64;
        memory.set_header(self.slot(), header);
        self.slot_head += 1;
    }
}

/// The receiver's end.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    shape: Shape,
    slot_tail: u64,
    data_tail: u64,
    // What was last written to the credit line.
    slots_given: u64,
    data_given: u64,
}

impl Consumer {
    pub(super) const fn new(shape: Shape) -> Consumer {
        Consumer { shape, slot_tail: 0, data_tail: 0, slots_given: 0, data_given: 0 }
    }

    /// The slot that is read next.
    pub(super) const fn slot(&self) -> usize {
        self.shape.slot(self.slot_tail)
    }

    /// The kind and the inline length of the next slot, if it was published.
    #[inline]
    pub(super) fn look(&self, memory: &impl RingMemory) -> Result<Option<(Kind, usize)>, Broken> {
        let header = memory.header(self.slot());
        if (header ^ stamp(self.slot_tail)) >> 32 != 0 {
            return Ok(None);
        }
        let inline_bytes = (header & 0xff) as usize;
        match Kind::from_bits(header >> 8 & 0xff_ffff) {
            Some(kind) if inline_bytes <= INLINE_BYTES => Ok(Some((kind, inline_bytes))),
            _ => Err(Broken("published a slot of no known kind")),
        }
    }

    /// Where the bytes of the slot under [`Self::look`] start, if they are `1..=longest`.
    #[inline]
    pub(super) fn data(&self, bytes: u64) -> Result<(u64, usize), Broken> {
        match usize::try_from(bytes) {
            Ok(bytes) if bytes > 0 && bytes <= self.shape.longest() => {
                Ok((place(self.shape, self.data_tail, bytes).0, bytes))
            }
            _ => Err(Broken("published a packet longer than its ring takes")),
        }
    }

    /// Returns the slot, and the `data_bytes` that belong to it, none of which is read again. Whether the
    /// producer was told, and so may be waiting for a wake.
    #[inline]
    pub(super) fn release(&mut self, memory: &impl RingMemory, data_bytes: usize) -> bool {
        self.slot_tail += 1;
        memory.expect(self.shape.slot(self.slot_tail + AHEAD_SLOTS));
        if data_bytes > 0 {
            self.data_tail = place(self.shape, self.data_tail, data_bytes).1;
        }
        let lagging = (self.slot_tail - self.slots_given) * 4 >= self.shape.slots
            || (self.data_tail - self.data_given) * 4 >= self.shape.data_bytes;
        if lagging {
            self.give_credit(memory);
        }
        lagging
    }

    /// Returns all that was read.
    pub(super) fn give_credit(&mut self, memory: &impl RingMemory) {
        memory.set_credit(Credit::Slots, self.slot_tail);
        memory.set_credit(Credit::Data, self.data_tail);
        self.slots_given = self.slot_tail;
        self.data_given = self.data_tail;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { slots: 16, data_bytes: 8192 };

    #[test]
    fn places_never_cross_the_end_nor_overlap() {
        let mut head = 0;
        for step in 0..5000_usize {
            let bytes = 1 + step * 7919 % SHAPE.longest();
            let (start, end) = place(SHAPE, head, bytes);
            assert!(start >= head && start - head < bytes as u64);
            assert!(SHAPE.offset(start) + bytes <= 8192);
            assert!(end >= start + bytes as u64 && end % 64 == 0);
            head = end;
        }
    }

    #[test]
    fn a_stale_stamp_is_no_packet_for_a_whole_turn_of_the_counter() {
        for position in [0, 15, 16, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32] {
            assert_ne!(stamp(position), stamp(position + 16));
        }
        assert_ne!(stamp(0), 0);
    }

    #[test]
    fn whole_lines_of_credit_suffice_for_every_packet() {
        // The claim of the module's text, tried: everything read, nothing returned short of a quarter.
        for unreturned in (0..SHAPE.data_bytes / 4).step_by(64) {
            for read in (0..SHAPE.data_bytes).step_by(64) {
                let (head, given) = (unreturned + read, read);
                let (_, end) = place(SHAPE, head, SHAPE.longest());
                assert!(end - given <= SHAPE.data_bytes);
            }
        }
    }
}
