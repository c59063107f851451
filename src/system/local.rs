//! A thread's own memory, found in two instructions.
//!
//! What the compiler offers costs a shared library a call each time, since it might be loaded late and large. One
//! pointer fits into what the system keeps ready for libraries that come late, so one pointer is kept there, to
//! memory of the heap.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// What the pointer leads to. The type stands first, so that a wrong one is noticed whatever follows.
#[repr(C)]
struct Anchored<T> {
    of: TypeId,
    value: T,
}

/// A value of this thread that [`with`] finds, from now until the anchor is dropped. The newest counts. To be
/// kept in a `thread_local!`, whose end is the thread's.
#[derive(Debug)]
pub struct Anchor<T: 'static> {
    place: NonNull<Anchored<T>>,
    /// Belongs to its thread.
    stays: PhantomData<*const T>,
}

impl<T: 'static> Anchor<T> {
    /// Anchors `value` in this thread.
    #[must_use]
    pub fn new(value: T) -> Anchor<T> {
        let place = NonNull::from(Box::leak(Box::new(Anchored { of: TypeId::of::<T>(), value })));
        slot::set(place.cast());
        Anchor { place, stays: PhantomData }
    }

    /// The value.
    #[must_use]
    pub const fn value(&self) -> &T {
        // SAFETY: `new` made it, and it is freed by `drop` only.
        unsafe { &self.place.as_ref().value }
    }
}

impl<T> Drop for Anchor<T> {
    fn drop(&mut self) {
        if slot::get() == Some(self.place.cast()) {
            slot::clear();
        }
        // SAFETY: it is a leaked box of ours. An anchor stays in its thread, where nobody is inside of `with` now:
        // what runs there holds a borrow of the value, and drops no anchor of this type, as its one owner is the
        // thread itself, at its end.
        drop(unsafe { Box::from_raw(self.place.as_ptr()) });
    }
}

/// Gives `body` the value that is anchored in this thread; `None` if there is none, or one of another type.
#[inline(always)]
pub fn with<T: 'static, R>(body: impl FnOnce(&T) -> R) -> Option<R> {
    let place = slot::get()?;
    // SAFETY: whatever its type, what is anchored starts with this word, and lives: its drop clears the slot.
    let of = unsafe { place.cast::<TypeId>().read() };
    if of != TypeId::of::<T>() {
        return None;
    }
    // SAFETY: it is of this type; see `Anchor::drop` for its life.
    let anchored = unsafe { place.cast::<Anchored<T>>().as_ref() };
    Some(body(&anchored.value))
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

    #[test]
    fn each_thread_finds_its_own_while_it_is_there() {
        let threads: Vec<_> = (0..4_u32)
            .map(|number| {
                std::thread::spawn(move || {
                    assert_eq!(with(|_: &Cell<u32>| ()), None);
                    let anchor = Anchor::new(Cell::new(number));
                    for _ in 0..100 {
                        with(|cell: &Cell<u32>| cell.set(cell.get() + 10)).expect("it is there");
                        std::thread::yield_now();
                    }
                    assert_eq!(anchor.value().get(), number + 1000);
                    assert_eq!(with(|_: &Cell<i32>| ()), None, "another type");
                    drop(anchor);
                    assert_eq!(with(|_: &Cell<u32>| ()), None);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }

    #[test]
    fn the_newest_counts() {
        let old = Anchor::new(Cell::new(1));
        let new = Anchor::new(Cell::new(2));
        assert_eq!(with(|cell: &Cell<i32>| cell.get()), Some(2));
        drop(old);
        assert_eq!(with(|cell: &Cell<i32>| cell.get()), Some(2));
        drop(new);
        assert_eq!(with(|_: &Cell<i32>| ()), None);
    }
}
