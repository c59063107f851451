//! Who may touch an engine: one thread at a time, and nobody waits in the kernel for it.
//!
//! A baton is a lock that is nearly always free, held for short whiles (a slice of progress), and asked for
//! with [`Baton::try_take`] by those who can do without.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value that one thread at a time may touch.
#[derive(Debug, Default)]
pub struct Baton<T> {
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a `Held`, and `is_taken` lets at most one exist: the taker's
// acquire pairs with the last holder's release, so what one holder wrote the next one sees.
unsafe impl<T: Send> Sync for Baton<T> {}

impl<T> Baton<T> {
    /// A free baton.
    pub const fn new(value: T) -> Baton<T> {
        Baton { is_taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, if nobody has it.
    #[inline]
    pub fn try_take(&self) -> Option<Held<'_, T>> {
        let was_taken = self.is_taken.swap(true, Ordering::Acquire);
        // Made only if it is ours to give back: a `Held` that is dropped frees the baton.
        (!was_taken).then(|| Held { baton: self })
    }

    /// The value, once nobody has it. Holders keep it shortly, so this spins, then yields.
    #[inline]
    pub fn take(&self) -> Held<'_, T> {
        if let Some(held) = self.try_take() {
            return held;
        }
        self.take_contended()
    }

    #[cold]
    fn take_contended(&self) -> Held<'_, T> {
        let mut looks = 0u32;
        loop {
            if !self.is_taken.load(Ordering::Relaxed)
                && let Some(held) = self.try_take()
            {
                return held;
            }
            looks += 1;
            if looks < 64 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// The right to touch the value, given back on drop.
#[derive(Debug)]
pub struct Held<'a, T> {
    baton: &'a Baton<T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this is the one `Held`, so no other reference to the value exists but through it.
        unsafe { &*self.baton.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` keeps this reference alone.
        unsafe { &mut *self.baton.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.baton.is_taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_threads_add_up() {
        let baton = Baton::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        *baton.take() += 1;
                    }
                });
            }
        });
        assert_eq!(*baton.take(), 40_000);
    }

    #[test]
    fn a_taken_baton_is_not_given_twice() {
        let baton = Baton::new(());
        let held = baton.try_take();
        assert!(held.is_some() && baton.try_take().is_none());
        assert!(baton.try_take().is_none(), "asking in vain does not free it");
        drop(held);
        assert!(baton.try_take().is_some());
    }
}
