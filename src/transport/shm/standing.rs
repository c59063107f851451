//! Where a rank stands in a long wait, for peers that wait as well.
//!
//! ```text
//! the rank   counts up (odd), fence, writes the words, counts up (even, release)
//! a peer     reads the count (acquire), the words, fence, the count again: even and the same, or it knows nothing
//! ```

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::transport::{Head, Standing};

/// In the rank's control area.
#[repr(C)]
pub(super) struct Place {
    count: AtomicU64,
    what: AtomicU64,
    which: AtomicU64,
    waits_for: AtomicU64,
}

impl Place {
    /// Says it. One writer at a time: who owns the transport.
    pub(super) fn write(&self, standing: Standing) {
        let count = self.count.load(Ordering::Relaxed) | 1;
        self.count.store(count, Ordering::Relaxed);
        // Whoever sees one of the words below sees the odd count at its second look.
        fence(Ordering::Release);
        self.what.store(standing.head.what, Ordering::Relaxed);
        self.which.store(standing.head.which, Ordering::Relaxed);
        self.waits_for.store(standing.waits_for, Ordering::Relaxed);
        // Release: publishes the words.
        self.count.store(count.wrapping_add(1), Ordering::Release);
    }

    /// What was said last, if anything.
    pub(super) fn read(&self) -> Option<Standing> {
        let count = self.count.load(Ordering::Acquire);
        let head =
            Head { what: self.what.load(Ordering::Relaxed), which: self.which.load(Ordering::Relaxed) };
        let waits_for = self.waits_for.load(Ordering::Relaxed);
        // Pairs with the fence of the writer.
        fence(Ordering::Acquire);
        let is_whole = count != 0 && count.is_multiple_of(2) && self.count.load(Ordering::Relaxed) == count;
        is_whole.then_some(Standing { head, waits_for })
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
        let standing = |n: u64| Standing { head: Head { what: n, which: n }, waits_for: n };
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
