//! A ring of cells in memory of its own: written by one, and readable by whoever maps it, also after the writer's
//! death in the middle of a cell.
//!
//! ```text
//! | 64 bytes of head | cell 0 | cell 1 | ... |      cell: | number + 1 | seven words |
//! ```
//! A cell's first word is 0 while the rest is written, and its number plus one when it is whole. Pages are taken
//! when they are first written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::map::{Mapping, pages};
use crate::error::Result;

/// Words of a cell behind its number.
pub const WORDS: usize = 7;

type Cell = [AtomicU64; WORDS + 1];

const CELL_BYTES: usize = size_of::<Cell>();
const _: () = assert!(CELL_BYTES == 64);

/// More cells than anybody wants.
const COUNT_MAX: usize = 1 << 24;

/// The ring. Clones are the same ring.
#[derive(Clone, Debug)]
pub struct Slots {
    map: Arc<Mapping>,
    /// One less than the number of cells, which is a power of two.
    mask: u64,
}

impl Slots {
    /// How many cells there are where `count` are asked for.
    #[must_use]
    pub fn rounded(count: usize) -> usize {
        count.clamp(1, COUNT_MAX).next_power_of_two()
    }

    /// What memory they take, whole pages.
    #[must_use]
    pub fn bytes(count: usize) -> usize {
        pages(CELL_BYTES * (1 + Slots::rounded(count)))
    }

    /// At least `count` cells, all empty, in memory of this process alone.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn new(count: usize) -> Result<Slots> {
        Ok(Slots::over(Arc::new(Mapping::private(Slots::bytes(count))?)))
    }

    /// The ring in this memory, of a length that [`Self::bytes`] gave.
    #[must_use]
    pub fn over(map: Arc<Mapping>) -> Slots {
        let cells = map.bytes() / CELL_BYTES;
        assert!(cells >= 2, "a page at least");
        // Less than all, so that the head has room.
        let count = (cells as u64).next_power_of_two() / 2;
        Slots { mask: count - 1, map }
    }

    /// Writes the head.
    pub fn begin(&mut self, head: [u64; WORDS + 1]) {
        for (word, value) in self.at(0).iter().zip(head) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The head, as its owner wrote it.
    #[must_use]
    pub fn head(&self) -> [u64; WORDS + 1] {
        self.at(0).each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// The highest number of a whole cell, found by looking at all.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let first = |place: u64| self.cell(place)[0].load(Ordering::Acquire);
        (0..=self.mask).map(first).max()?.checked_sub(1)
    }

    /// How many cells there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.mask + 1
    }

    #[inline]
    fn at(&self, place: usize) -> &Cell {
        // SAFETY: `place` is at most the number of cells (0 is the head), for which the mapping has room; it starts
        // at a page, so cells are aligned, and zeros are valid. It stays mapped while `self` is borrowed, and
        // all access is atomic.
        unsafe { &*self.map.start().cast::<Cell>().add(place) }
    }

    #[inline]
    fn cell(&self, number: u64) -> &Cell {
        self.at(1 + (number & self.mask) as usize)
    }

    /// Writes cell `number`, in place of the one that came so many numbers before.
    #[inline]
    pub fn write(&mut self, number: u64, words: [u64; WORDS]) {
        let [first, rest @ ..] = self.cell(number);
        first.store(0, Ordering::Relaxed);
        // Who sees a new word sees that the old number is gone.
        fence(Ordering::Release);
        for (word, value) in rest.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        // Who sees the number sees the words.
        first.store(number + 1, Ordering::Release);
    }

    /// Cell `number`, if it is still there and whole.
    #[must_use]
    pub fn read(&self, number: u64) -> Option<[u64; WORDS]> {
        let [first, rest @ ..] = self.cell(number);
        let is_whole = || first.load(Ordering::Acquire) == number + 1;
        if !is_whole() {
            return None;
        }
        let words = rest.each_ref().map(|word| word.load(Ordering::Relaxed));
        // What was read came before what is looked at now.
        fence(Ordering::Acquire);
        is_whole().then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_there_and_whole() {
        let mut slots = Slots::new(5).unwrap();
        slots.begin([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((slots.count(), slots.read(0), slots.newest()), (32, None, None));
        for number in 0..200 {
            slots.write(number, [number; WORDS]);
            assert_eq!(slots.read(number), Some([number; WORDS]));
            let oldest = (number + 1).saturating_sub(32);
            assert!((oldest..number).all(|kept| slots.read(kept) == Some([kept; WORDS])));
            assert_eq!(oldest.checked_sub(1).and_then(|gone| slots.read(gone)), None);
            assert_eq!(slots.read(number + 1), None, "it is still to come");
            assert_eq!(slots.newest(), Some(number));
        }
        assert_eq!(slots.head()[7], 8, "the head stays");
    }

    #[test]
    fn a_cell_whose_writer_died_is_not_read() {
        let mut slots = Slots::new(4).unwrap();
        slots.write(2, [9; WORDS]);
        slots.cell(2)[0].store(0, Ordering::Relaxed);
        assert_eq!(slots.read(2), None);
    }

    #[test]
    fn a_ring_knows_its_count_by_its_memory() {
        for (asked, count) in [(1, 32), (32, 32), (33, 64), (63, 64), (64, 64), (1000, 1024), (1024, 1024)] {
            assert_eq!(Slots::new(asked).unwrap().count(), count, "{asked}");
        }
    }
}
