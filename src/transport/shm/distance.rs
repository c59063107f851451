//! How to write into a ring: through the caches, or past them.
//!
//! Where two cores share a cache, lines that one has written reach the other quickly. Where they do not, each
//! line is fetched out of the other core's cache, one after the other, and bytes that were written past the
//! caches arrive several times as fast. Measured one way, through the caches and past them:
//!
//! | cores | a line there | 4 KiB | 16 KiB | 64 KiB |
//! |---|---|---|---|---|
//! | beside: two threads of one core | 29 ns | 0.2 us, 0.9 | 0.7, 2.2 | 2.6, 6.0 |
//! | near: under one last cache | 52 ns | 0.6, 0.7 | 2.3, 1.8 | 8.2, 5.2 |
//! | far | 245 ns | 2.5, 0.8 | 8.8, 2.0 | 32, 6.8 |
//!
//! Which it is no table can know: threads move, and on a virtual machine so do the cores. So now and then a copy
//! through the caches is timed: it has to take the lines from where the peer read them.
#![forbid(unsafe_code)]

/// Shorter copies never go past the caches, and are not timed.
const LEAST_BYTES: usize = 1 << 10;
/// Every which copy is timed: where it costs little, and where it costs much.
const TIMED_NEAR: u32 = 16;
const TIMED_FAR: u32 = 64;
/// How many timed copies in a row have to say the same.
const VOTES: u32 = 2;

/// How far the peer's core is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Beside,
    Near,
    Far,
}

impl Way {
    /// Copies of so many bytes and more go past the caches.
    const fn limit_bytes(self) -> usize {
        match self {
            Way::Beside => usize::MAX,
            Way::Near => 8 << 10,
            Way::Far => LEAST_BYTES,
        }
    }

    /// By how long a line takes to write: 1 ns beside, 4 near, 17 far.
    const fn of(ns: u64, lines: u64) -> Way {
        match () {
            () if 2 * ns <= 3 * lines => Way::Beside,
            () if ns <= 9 * lines => Way::Near,
            () => Way::Far,
        }
    }
}

/// What is known of the way to a peer's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distance {
    way: Way,
    copies: u32,
    /// What the last timed copy said, if it was something else, and how often in a row.
    other: Way,
    votes: u32,
    /// The copy under way is timed: since when, and how long it is.
    timed: Option<(u64, usize)>,
}

impl Distance {
    /// As most are.
    pub(super) const NEW: Distance =
        Distance { way: Way::Near, copies: 0, other: Way::Near, votes: 0, timed: None };

    /// Whether the next copy of `bytes` goes past the caches. `is_whole`: it is all that is written before the
    /// packet is published, and may be timed.
    #[inline]
    pub(super) fn streams(&mut self, bytes: usize, is_whole: bool, now_ns: impl FnOnce() -> u64) -> bool {
        if bytes < LEAST_BYTES {
            return false;
        }
        let streams = bytes >= self.way.limit_bytes();
        self.copies = self.copies.wrapping_add(1);
        let period = if streams { TIMED_FAR } else { TIMED_NEAR };
        if is_whole && self.copies.is_multiple_of(period) {
            self.timed = Some((now_ns(), bytes));
            return false;
        }
        streams
    }

    /// Ends the copy, if it was timed.
    #[inline]
    pub(super) fn end(&mut self, now_ns: impl FnOnce() -> u64) {
        // Mostly not; then nothing is written.
        if let Some((start_ns, bytes)) = self.timed {
            self.timed = None;
            self.judge(Way::of(now_ns().saturating_sub(start_ns), (bytes as u64).div_ceil(64)));
        }
    }

    #[cold]
    fn judge(&mut self, way: Way) {
        self.votes = if way == self.other { self.votes + 1 } else { 1 };
        self.other = way;
        if self.votes >= VOTES {
            self.way = way;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays copies of so many bytes to a core at so many ns a line; how many of the last hundred went past the
    /// caches.
    fn play(distance: &mut Distance, copies: u32, bytes: usize, ns_per_line: u64) -> usize {
        let mut streamed = Vec::new();
        for _ in 0..copies {
            streamed.push(distance.streams(bytes, true, || 1000));
            distance.end(|| 1000 + bytes as u64 / 64 * ns_per_line);
        }
        streamed.iter().rev().take(100).filter(|streamed| **streamed).count()
    }

    #[test]
    fn it_follows_the_cores() {
        let mut distance = Distance::NEW;
        assert_eq!(play(&mut distance, 200, 4096, 4), 0);
        assert!(play(&mut distance, 200, 16384, 4) >= 98);
        assert!(play(&mut distance, 200, 4096, 17) >= 98);
        assert_eq!(play(&mut distance, 400, 4096, 4), 0);
        assert_eq!(play(&mut distance, 400, 16384, 1), 0);
        assert_eq!(distance.way, Way::Beside);
        assert!(play(&mut distance, 200, 16384, 4) >= 98);
        // One slow copy is nobody's distance.
        assert_eq!(play(&mut distance, 16, 4096, 1000), 0);
        assert_eq!(play(&mut distance, 200, 4096, 4), 0);
    }

    #[test]
    fn short_copies_and_parts_are_not_timed() {
        let mut distance = Distance::NEW;
        for _ in 0..100 {
            assert!(!distance.streams(1023, true, || unreachable!()));
            assert!(!distance.streams(2048, false, || unreachable!()));
            assert!(distance.streams(8192, false, || unreachable!()));
        }
    }
}
