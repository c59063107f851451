//! A long packet that both sides copy: the receiver from its start, the sender from its end.
//!
//! The kernel copies between processes on the core of whoever asks, and one core moves only so much. So the
//! receiver says, for a packet that it fetches straight to its target, where that lies, and *opens* the packet's
//! chunks to the sender. Each side *claims* a chunk, copies it, and claims the next, until they meet:
//!
//! ```text
//! receiver   target := where, permit := see below, done := 0, claims := (number, 0, 0)
//! receiver   claims := (number, front + 1, back), reads chunk front        from the start on
//! sender     claims := (number, front, back + 1), writes chunk count-1-back, done := back + 1
//! receiver   front + back = count, done = back:  claims := 0, all bytes are here
//! ```
//! A chunk that the sender could not write it reports as failed, and helps no more; the receiver fetches it.
//!
//! What each ordering publishes: a claim is one exchange of one word, so no chunk has two owners; `claims` is
//! opened with release after target and permit; `done` is written with release after the chunk's bytes.
//!
//! **Nobody writes the receiver's memory afterwards.** Who gives a packet up closes `claims`, so nothing is
//! claimed any more, and waits until what was claimed is done. A sender that was stopped between its claim and
//! its copy would keep it waiting; so each copy first writes a word of the receiver's *permit*, a page that the
//! receiver withdraws when it has waited long ([`crate::system::permit`]): the kernel then refuses the copy.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::ring::{Broken, RingMemory};

/// Packets are cut into about this many chunks, so that two sides that copy at different speed end together.
const CHUNKS: usize = 4;
/// Chunks are not shorter: a system call costs as much as 20 KiB, and two that ask for pages of one process at once
/// get into each other's way.
const LEAST_CHUNK_BYTES: usize = 48 << 10;
/// Nor longer: who gives a packet up waits for one.
const MOST_CHUNK_BYTES: usize = 1 << 20;
/// How many chunks the words can count.
const COUNT_LIMIT: usize = (1 << 24) - 1;

/// The words by which the two sides share a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Help {
    /// Which chunks are claimed; 0 if none can be. Written by both.
    Claims = 0,
    /// Where the packet goes. Written by the receiver.
    Target = 1,
    /// The word that each copy writes first. Written by the receiver.
    Permit = 2,
    /// How many chunks the sender has copied. Written by the sender, by the receiver while nothing is open.
    Done = 3,
}

/// How a packet is cut. Both sides compute it from the length alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    bytes: usize,
    chunk_bytes: usize,
    pub(super) count: u32,
}

impl Cut {
    /// The chunks of a packet of `bytes`.
    pub(super) fn new(bytes: usize) -> Cut {
        let fitting = bytes.div_ceil(CHUNKS).clamp(LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES);
        let chunk_bytes = fitting.max(bytes.div_ceil(COUNT_LIMIT)).next_multiple_of(4096);
        Cut { bytes, chunk_bytes, count: bytes.div_ceil(chunk_bytes) as u32 }
    }

    /// Which bytes chunk `index` is.
    pub(super) fn chunk(self, index: u32) -> Range<usize> {
        let at = |index: usize| self.bytes.min(index.saturating_mul(self.chunk_bytes));
        at(index as usize)..at(index as usize + 1)
    }
}

/// From which end one claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The receiver.
    Front,
    /// The sender.
    Back,
}

/// What [`Help::Claims`] says: of which offer, and how many chunks either side has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claims {
    number: u64,
    front: u32,
    back: u32,
}

const OPEN: u64 = 1 << 63;
const NUMBERS: u64 = (1 << 15) - 1;

impl Claims {
    const fn word(self) -> u64 {
        OPEN | (self.number & NUMBERS) << 48 | (self.front as u64) << 24 | self.back as u64
    }

    /// `None` if nothing is open, or another offer is.
    fn read(word: u64, number: u64) -> Option<Claims> {
        let of = |shift: u32| (word >> shift & COUNT_LIMIT as u64) as u32;
        let is_ours = word & OPEN != 0 && (word >> 48 & NUMBERS) == number & NUMBERS;
        is_ours.then(|| Claims { number, front: of(24), back: of(0) })
    }
}

/// What the sender has copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// This many chunks, from the end on.
    pub(super) count: u32,
    /// The next one could not be copied, and none will be claimed any more.
    pub(super) has_failed: bool,
}

impl Done {
    pub(super) const fn word(self) -> u64 {
        (self.has_failed as u64) << 63 | self.count as u64
    }

    pub(super) const fn read(word: u64) -> Done {
        Done { count: (word & COUNT_LIMIT as u64) as u32, has_failed: word >> 63 == 1 }
    }
}

/// Lets the sender of offer `number` help to copy it to `target`.
pub(super) fn open(memory: &impl RingMemory, number: u64, target: u64, permit: u64) {
    memory.set_help(Help::Target, target);
    memory.set_help(Help::Permit, permit);
    memory.set_help(Help::Done, 0);
    // Publishes the words above.
    memory.set_help(Help::Claims, Claims { number, front: 0, back: 0 }.word());
}

/// Claims the next chunk of offer `number`. `None` if it is not open or all `count` chunks are claimed.
pub(super) fn claim(
    memory: &impl RingMemory,
    number: u64,
    count: u32,
    side: Side,
) -> Result<Option<u32>, Broken> {
    let mut word = memory.help(Help::Claims);
    loop {
        let Some(claims) = Claims::read(word, number) else { return Ok(None) };
        let claimed = claims.front.checked_add(claims.back).filter(|claimed| *claimed <= count);
        match claimed {
            None => return Err(Broken("claimed more of a packet than there is")),
            Some(claimed) if claimed == count => return Ok(None),
            Some(_) => {}
        }
        let (index, after) = match side {
            Side::Front => (claims.front, Claims { front: claims.front + 1, ..claims }),
            Side::Back => (count - 1 - claims.back, Claims { back: claims.back + 1, ..claims }),
        };
        match memory.exchange_claims(word, after.word()) {
            Ok(()) => return Ok(Some(index)),
            Err(found) => word = found,
        }
    }
}

/// Ends the help with offer `number`: nothing is claimed any more. How many chunks the sender had claimed.
pub(super) fn close(memory: &impl RingMemory, number: u64) -> u32 {
    let mut word = memory.help(Help::Claims);
    loop {
        match memory.exchange_claims(word, 0) {
            Ok(()) => return Claims::read(word, number).map_or(0, |claims| claims.back),
            Err(found) => word = found,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_packet_once() {
        for bytes in [1, 4096, 16 << 10, 65_536, 65_537, 100_001, 4 << 20, (5 << 30) + 3, 1 << 45] {
            let cut = Cut::new(bytes);
            assert!(cut.count >= 1 && cut.count as usize <= COUNT_LIMIT, "{bytes}");
            assert_eq!(cut.chunk(0).start, 0);
            assert_eq!(cut.chunk(cut.count - 1).end, bytes);
            for index in 1..cut.count.min(1000) {
                assert_eq!(cut.chunk(index - 1).end, cut.chunk(index).start);
                assert!(!cut.chunk(index).is_empty());
            }
        }
    }

    #[test]
    fn words_are_read_as_written() {
        for number in [0, 1, 77, NUMBERS, NUMBERS + 1] {
            for (front, back) in [(0, 0), (1, 2), (COUNT_LIMIT as u32, 0), (7, COUNT_LIMIT as u32)] {
                let claims = Claims { number, front, back };
                assert_eq!(Claims::read(claims.word(), number), Some(claims));
                assert_eq!(Claims::read(claims.word(), number + 1), None);
            }
            assert_eq!(Claims::read(0, number), None);
        }
        for done in [Done { count: 0, has_failed: false }, Done { count: 9, has_failed: true }] {
            assert_eq!(Done::read(done.word()), done);
        }
    }
}
