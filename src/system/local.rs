//! A thread's own memory, found in two instructions.
//!
//! What the compiler offers costs a shared library a call each time, since it might be loaded late and large. One
//! pointer fits into what the system keeps ready for libraries that come late, so one pointer is kept there, to
//! memory of the heap.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::thread::LocalKey;

/// What the pointer leads to. The type stands first, so that a wrong one is noticed whatever follows.
#[repr(C)]
struct Anchored<T> {
    of: TypeId,
    value: T,
}

/// A value for a `thread_local!`, from where [`anchored`] makes it known to [`with`].
#[derive(Debug)]
pub struct Anchor<T: 'static> {
    place: NonNull<Anchored<T>>,
    /// Belongs to its thread.
    stays: PhantomData<*const T>,
}

impl<T: 'static> Anchor<T> {
    /// Puts `value` where it can be found.
    #[must_use]
    pub fn new(value: T) -> Anchor<T> {
        let place = NonNull::from(Box::leak(Box::new(Anchored { of: TypeId::of::<T>(), value })));
        Anchor { place, stays: PhantomData }
    }
}

impl<T> Drop for Anchor<T> {
    fn drop(&mut self) {
        if slot::get() == Some(self.place.cast()) {
            slot::clear();
        }
        // SAFETY: it is a leaked box of ours, and nobody borrows it. If the slot ever led here, then the anchor is
        // the value of a `LocalKey` (only `anchored` fills the slot), which nothing but the end of its thread
        // drops, so no `with` is under way on this thread; and on another there never was one.
        drop(unsafe { Box::from_raw(self.place.as_ptr()) });
    }
}

/// Gives `body` the value that is anchored in this thread; `None` if there is none, or one of another type.
#[inline(always)]
pub fn with<T: 'static, R>(body: impl FnOnce(&T) -> R) -> Option<R> {
    let place = slot::get()?;
    // SAFETY: whatever its type, what the slot leads to starts with this word, and lives: its drop clears the slot.
    let of = unsafe { place.cast::<TypeId>().read() };
    if of != TypeId::of::<T>() {
        return None;
    }
    // SAFETY: it is of this type; see `Anchor::drop` for its life.
    let anchored = unsafe { place.cast::<Anchored<T>>().as_ref() };
    Some(body(&anchored.value))
}

/// As [`with`], and from now on [`with`] finds the value of `key`. `None` if the thread is ending.
pub fn anchored<T: 'static, R>(key: &'static LocalKey<Anchor<T>>, body: impl FnOnce(&T) -> R) -> Option<R> {
    // The key's value has no other place than the thread's, so the slot is right until its drop clears it.
    key.try_with(|anchor| slot::set(anchor.place.cast())).ok()?;
    with(body)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(loom)))]
mod slot {
    //! One word of the thread's static block, by the "initial exec" model.

    use std::arch::{asm, global_asm};
    use std::ptr::NonNull;

    global_asm!(
        ".pushsection .tbss.shoal_thread_slot,\"awT\",@nobits",
        ".globl shoal_thread_slot",
        ".hidden shoal_thread_slot",
        ".type shoal_thread_slot,@object",
        ".size shoal_thread_slot,8",
        ".p2align 3",
        "shoal_thread_slot:",
        ".zero 8",
        ".popsection",
    );

    #[inline(always)]
    pub(super) fn get() -> Option<NonNull<u8>> {
        let value: *mut u8;
        // SAFETY: reads the thread's own word, defined above; the offset comes from the loader.
        unsafe {
            asm!(
                "mov {value}, qword ptr [rip + shoal_thread_slot@GOTTPOFF]",
                "mov {value}, qword ptr fs:[{value}]",
                value = out(reg) value,
                options(nostack, preserves_flags, readonly),
            );
        }
        NonNull::new(value)
    }

    fn put(value: *mut u8) {
        // SAFETY: writes the same word.
        unsafe {
            asm!(
                "mov {offset}, qword ptr [rip + shoal_thread_slot@GOTTPOFF]",
                "mov qword ptr fs:[{offset}], {value}",
                offset = out(reg) _,
                value = in(reg) value,
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) fn set(value: NonNull<u8>) {
        put(value.as_ptr());
    }

    pub(super) fn clear() {
        put(std::ptr::null_mut());
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(loom))))]
mod slot {
    //! What the compiler offers.

    use std::cell::Cell;
    use std::ptr::NonNull;

    thread_local! {
        static SLOT: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
    }

    #[inline(always)]
    pub(super) fn get() -> Option<NonNull<u8>> {
        SLOT.get()
    }

    pub(super) fn set(value: NonNull<u8>) {
        SLOT.set(Some(value));
    }

    pub(super) fn clear() {
        SLOT.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static SMALL: Anchor<Cell<u32>> = Anchor::new(Cell::new(5));
        static LARGE: Anchor<Cell<u64>> = Anchor::new(Cell::new(7));
    }

    #[test]
    fn each_thread_finds_its_own_once_it_is_anchored() {
        let turn = || {
            assert_eq!(with(|_: &Cell<u32>| ()), None);
            assert_eq!(anchored(&SMALL, Cell::get), Some(5));
            for _ in 0..100 {
                with(|cell: &Cell<u32>| cell.set(cell.get() + 10)).expect("it is there");
                std::thread::yield_now();
            }
            assert_eq!(with(|cell: &Cell<u32>| cell.get()), Some(1005));
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(turn)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    #[test]
    fn the_newest_counts_and_another_type_is_not_found() {
        anchored(&SMALL, |_| ()).expect("the thread lives");
        assert_eq!(anchored(&LARGE, Cell::get), Some(7));
        assert_eq!(with(|_: &Cell<u32>| ()), None);
        assert_eq!(anchored(&SMALL, Cell::get), Some(5));
        assert_eq!(with(|_: &Cell<u64>| ()), None);
    }

    #[test]
    fn at_the_end_of_its_thread_nothing_is_found() {
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                // Whichever of the two ends first: what is found is alive.
                assert!(matches!(with(|cell: &Cell<u32>| cell.get()), None | Some(5)));
            }
        }
        thread_local! {
            static LAST: Last = const { Last };
        }
        let ends = || {
            LAST.with(|_| ());
            anchored(&SMALL, |_| ()).expect("the thread lives");
        };
        std::thread::spawn(ends).join().expect("no panic");
    }
}
