//! What sender and receiver say about a packet that the receiver fetches by itself.
//!
//! The sender publishes an *offer*: how long the packet is, where it lies in the sender's process, and, if that
//! is memory of `ncclMemAlloc`, in which allocation. The receiver settles the path alone, and answers in the
//! credit line: either *fetched* (the source is no longer read), or *stream* (send it through the ring, from
//! here on). The paths, first that works:
//!
//! 1. *direct*: both are threads of one process; a plain copy from the sender's memory;
//! 2. *mapped*: the sender's allocation is mapped here as well, and read in place;
//! 3. *attached*: the kernel copies between the processes, straight to the target, where the sender helps
//!    ([`super::help`]), or through a buffer that stays in the cache;
//! 4. the ring.
//!
//! Without help only the receiving process writes its memory, and only inside calls of the receiver: once a
//! transport is dropped, nobody writes the user's memory on its behalf. What is read from a sender that leaves meanwhile may
//! be anything; so the receiver looks at the sender's state *after* each copy, and an error says that the packet
//! is lost.

use super::ring::RingMemory;
use crate::op::Address;
use crate::system::memory::AllocationFacts;

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All bytes are with the receiver.
    Fetched,
    /// The receiver cannot fetch it (any further).
    Stream,
}

impl Verdict {
    /// The word for the credit line.
    pub(super) const fn word(self, number: u64) -> u64 {
        let code = match self {
            Verdict::Fetched => 1,
            Verdict::Stream => 2,
        };
        number << 2 | code
    }

    /// The verdict on offer `number`, if the word holds it.
    pub(super) const fn read(word: u64, number: u64) -> Option<Verdict> {
        if word == Verdict::Fetched.word(number) {
            Some(Verdict::Fetched)
        } else if word == Verdict::Stream.word(number) {
            Some(Verdict::Stream)
        } else {
            None
        }
    }
}

/// Words 3 to 7 of an offer's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfferWords {
    pub(super) bytes: u64,
    pub(super) source: u64,
    /// The allocation; 0 for ordinary memory.
    pub(super) allocation: u64,
    pub(super) offset: u64,
    pub(super) descriptor: u64,
}

impl OfferWords {
    pub(super) fn new(source: Address, bytes: usize, facts: Option<AllocationFacts>) -> OfferWords {
        OfferWords {
            bytes: bytes as u64,
            source: source.0 as u64,
            allocation: facts.map_or(0, |facts| facts.id),
            offset: facts.map_or(0, |facts| facts.offset as u64),
            descriptor: facts.map_or(0, |facts| u64::from(facts.descriptor.unsigned_abs())),
        }
    }

    pub(super) fn write(self, memory: &impl RingMemory, slot: usize) {
        let words = [self.bytes, self.source, self.allocation, self.offset, self.descriptor];
        for (index, word) in words.into_iter().enumerate() {
            memory.set_word(slot, 3 + index, word);
        }
    }

    pub(super) fn read(memory: &impl RingMemory, slot: usize) -> OfferWords {
        OfferWords {
            bytes: memory.word(slot, 3),
            source: memory.word(slot, 4),
            allocation: memory.word(slot, 5),
            offset: memory.word(slot, 6),
            descriptor: memory.word(slot, 7),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_for_its_own_offer_only() {
        for verdict in [Verdict::Fetched, Verdict::Stream] {
            assert_eq!(Verdict::read(verdict.word(9), 9), Some(verdict));
            assert_eq!(Verdict::read(verdict.word(9), 10), None);
        }
        assert_eq!(Verdict::read(0, 0), None);
    }
}
