//! Where a rank stands in a long wait, for peers that wait as well, and for whoever looks from outside.
//!
//! ```text
//! the rank   counts up (odd), fence, writes the words, counts up (even, release)
//! a peer     reads the count (acquire), the words, fence, the count again: even and the same, or it knows nothing
//! ```

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::transport::{Head, Standing};

const WORDS: usize = 6;

/// In the rank's control area.
#[repr(C)]
pub(super) struct Place {
    count: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Place {
    /// Says it. One writer at a time: who owns the transport.
    pub(super) fn write(&self, standing: Standing) {
        let Standing { head, waits_for, batch, since_ns, said_ns } = standing;
        let count = self.count.load(Ordering::Relaxed) | 1;
        self.count.store(count, Ordering::Relaxed);
        // Whoever sees one of the words below sees the odd count at its second look.
        fence(Ordering::Release);
        for (word, value) in
            self.words.iter().zip([head.what, head.which, waits_for, batch, since_ns, said_ns])
        {
            word.store(value, Ordering::Relaxed);
        }
        // Release: publishes the words.
        self.count.store(count.wrapping_add(1), Ordering::Release);
    }

    /// What was said last, if anything.
    pub(super) fn read(&self) -> Option<Standing> {
        let count = self.count.load(Ordering::Acquire);
        let [what, which, waits_for, batch, since_ns, said_ns] =
            self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        // Pairs with the fence of the writer.
        fence(Ordering::Acquire);
        let is_whole = count != 0 && count.is_multiple_of(2) && self.count.load(Ordering::Relaxed) == count;
        is_whole.then_some(Standing { head: Head { what, which }, waits_for, batch, since_ns, said_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Segment;
    use super::*;

    #[test]
    fn what_is_read_was_written_as_a_whole() {
        let segment = Segment::create(2, 8192).expect("memory");
        let place = &segment.control(1).standing;
        assert_eq!(place.read(), None);
        let standing = |n: u64| Standing {
            head: Head { what: n, which: n },
            waits_for: n,
            batch: n,
            since_ns: n,
            said_ns: n,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| (1..20_000).for_each(|n| place.write(standing(n))));
            for _ in 0..20_000 {
                if let Some(seen) = place.read() {
                    assert_eq!(seen, standing(seen.waits_for));
                }
            }
        });
        assert_eq!(place.read(), Some(standing(19_999)));
    }
}
