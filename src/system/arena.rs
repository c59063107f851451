//! Numbers for objects, as C programs hold them.
//!
//! An arena is one range of addresses that belongs to nothing else. A handle is an address in it: which
//! place of the range, and which of the place's births. So a handle is judged by arithmetic and one load,
//! and whatever a program passes is never followed: a number that was never ours lies outside, and one that
//! is no longer ours differs from the number that its place goes by now. Places are used again in the order
//! in which they became free, after all others, and change their number each time.
//!
//! The fast path keeps a share of the object in the calling thread ([`Recent`]), so that a call costs
//! neither a lock nor an atomic write, and the object lives on through a call that another thread ends. The
//! price: a thread keeps the husk of an object until it uses another in the same way, or ends.
#![forbid(unsafe_code)]

use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::LocalKey;

/// The most objects that live at once.
pub const PLACES: usize = 16384;
/// Addresses per place.
const PLACE_BYTES: usize = 256;
/// Handles keep the alignment of pointers, in case someone looks.
const STEP_BYTES: usize = 8;
/// How many numbers a place goes by, one birth after the other.
const NUMBERS: usize = PLACE_BYTES / STEP_BYTES;
/// How many objects a thread keeps at hand.
const WAYS: usize = 16;

/// Objects with numbers. All zeros when new, so that a static one costs nothing before its use.
pub struct Arena<T> {
    places: [Place<T>; PLACES],
    free: Mutex<Free>,
}

#[repr(align(256))]
struct Place<T> {
    /// The handle that names this place now; 0 if none does.
    live: AtomicUsize,
    inside: Mutex<Inside<T>>,
}

struct Inside<T> {
    object: Option<Arc<T>>,
    births: usize,
    /// The place that became free after this one, plus one.
    next_free: usize,
}

/// A queue through the places themselves; 0 is none, as everything here counts from one.
struct Free {
    used_count: usize,
    first: usize,
    last: usize,
}

const _: () = assert!(size_of::<Place<u8>>() == PLACE_BYTES);

/// The objects that a thread used last; for a `thread_local!` beside the arena. They lie on the heap: a library that is
/// opened late gets all its threads' own memory from the little that the system keeps for that.
pub struct Recent<T> {
    ways: OnceCell<Box<Ways<T>>>,
}

type Ways<T> = [Cell<Option<Kept<T>>>; WAYS];

/// A share, and the handle that it came by.
type Kept<T> = (usize, Arc<T>);

impl<T> Recent<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Recent<T> {
        Recent { ways: OnceCell::new() }
    }

    #[inline]
    fn way(&self, index: usize) -> &Cell<Option<Kept<T>>> {
        let ways = self.ways.get_or_init(|| Box::new([const { Cell::new(None) }; WAYS]));
        &ways[index % WAYS]
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent::new()
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena::new()
    }
}

impl<T> Arena<T> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Arena<T> {
        Arena { places: [const { Place::new() }; PLACES], free: Mutex::new(Free::new()) }
    }

    /// A number for `object`, not 0. `None` if [`PLACES`] objects live already.
    pub fn insert(&self, object: Arc<T>) -> Option<usize> {
        let index = self.take_place()?;
        let place = &self.places[index];
        let mut inside = lock(&place.inside);
        let handle = self.address(index) + inside.births % NUMBERS * STEP_BYTES;
        inside.births = inside.births.wrapping_add(1);
        inside.object = Some(object);
        place.live.store(handle, Ordering::Relaxed);
        Some(handle)
    }

    /// Gives `body` the object, with no lock and no atomic write if this thread used it before. `None` if
    /// the handle names nothing.
    #[inline]
    pub fn with<R>(
        &self,
        recent: &'static LocalKey<Recent<T>>,
        handle: usize,
        body: impl FnOnce(&Arc<T>) -> R,
    ) -> Option<R> {
        let index = self.index(handle)?;
        if self.places[index].live.load(Ordering::Relaxed) != handle {
            return None;
        }
        let mut body = Some(body);
        let mut call = |object: &Arc<T>| body.take().map(|body| body(object));
        let known = recent.try_with(|recent| {
            // Taken out for the time of the call, so that a call within the call finds nothing to take away.
            let way = recent.way(index);
            let object = match way.take() {
                Some((number, object)) if number == handle => object,
                _ => self.get(handle)?,
            };
            let result = call(&object);
            way.set(Some((handle, object)));
            result
        });
        // A thread that is ending has no place to keep it; then the share ends here.
        known.unwrap_or_else(|_| call(&self.get(handle)?))
    }

    /// Whether the handle names something.
    #[inline]
    pub fn is_live(&self, handle: usize) -> bool {
        self.index(handle).is_some_and(|index| self.places[index].live.load(Ordering::Relaxed) == handle)
    }

    /// A share of the object. `None` if the handle names nothing.
    #[cold]
    pub fn get(&self, handle: usize) -> Option<Arc<T>> {
        let place = &self.places[self.index(handle)?];
        let inside = lock(&place.inside);
        let is_live = place.live.load(Ordering::Relaxed) == handle;
        if is_live { inside.object.clone() } else { None }
    }

    /// Ends the handle and returns the object. Of several who try, one succeeds.
    pub fn remove(&self, recent: &'static LocalKey<Recent<T>>, handle: usize) -> Option<Arc<T>> {
        let index = self.index(handle)?;
        let place = &self.places[index];
        let object = {
            let mut inside = lock(&place.inside);
            if place.live.load(Ordering::Relaxed) != handle {
                return None;
            }
            place.live.store(0, Ordering::Relaxed);
            inside.object.take()
        };
        let _ = recent.try_with(|recent| recent.ways.get().map(|ways| ways[index % WAYS].take()));
        self.return_place(index);
        object
    }

    /// Shows every object whose place nobody is at, so that it never waits.
    pub fn each(&self, mut body: impl FnMut(&Arc<T>)) {
        let Ok(free) = self.free.try_lock() else { return };
        let used_count = free.used_count;
        drop(free);
        for place in &self.places[..used_count] {
            let object = place.inside.try_lock().ok().and_then(|inside| inside.object.clone());
            if let Some(object) = object {
                body(&object);
            }
        }
    }

    /// Whether the number lies in the arena, so that it can only be one that was given out and has ended.
    #[must_use]
    pub fn is_ours(&self, handle: usize) -> bool {
        self.index(handle).is_some()
    }

    /// The place that a handle could name.
    #[inline]
    fn index(&self, handle: usize) -> Option<usize> {
        let index = handle.wrapping_sub(self.address(0)) / PLACE_BYTES;
        (index < PLACES).then_some(index)
    }

    #[inline]
    fn address(&self, index: usize) -> usize {
        self.places.as_ptr().addr() + index * PLACE_BYTES
    }

    fn take_place(&self) -> Option<usize> {
        let mut free = lock(&self.free);
        if free.used_count < PLACES {
            free.used_count += 1;
            return Some(free.used_count - 1);
        }
        let index = free.first.checked_sub(1)?;
        free.first = std::mem::take(&mut lock(&self.places[index].inside).next_free);
        if free.first == 0 {
            free.last = 0;
        }
        Some(index)
    }

    fn return_place(&self, index: usize) {
        let mut free = lock(&self.free);
        match free.last.checked_sub(1) {
            Some(last) => lock(&self.places[last].inside).next_free = index + 1,
            None => free.first = index + 1,
        }
        free.last = index + 1;
    }
}

impl<T> Place<T> {
    const fn new() -> Place<T> {
        Place {
            live: AtomicUsize::new(0),
            inside: Mutex::new(Inside { object: None, births: 0, next_free: 0 }),
        }
    }
}

impl Free {
    const fn new() -> Free {
        Free { used_count: 0, first: 0, last: 0 }
    }
}

/// Nothing in here panics while it holds a lock, so a poisoned one holds what it should.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    static ARENA: Arena<u64> = Arena::new();
    thread_local! {
        static RECENT: Recent<u64> = const { Recent::new() };
    }

    #[test]
    fn a_handle_names_its_object_until_it_is_removed() {
        let handle = ARENA.insert(Arc::new(7)).unwrap();
        assert_eq!(ARENA.with(&RECENT, handle, |object| **object), Some(7));
        assert_eq!(ARENA.with(&RECENT, handle, |object| **object + 1), Some(8));
        assert_eq!(ARENA.get(handle).as_deref(), Some(&7));
        assert_eq!(ARENA.remove(&RECENT, handle).as_deref(), Some(&7));
        assert_eq!(ARENA.with(&RECENT, handle, |object| **object), None);
        assert_eq!(ARENA.remove(&RECENT, handle), None);
        assert!(ARENA.is_ours(handle));
    }

    #[test]
    fn foreign_numbers_name_nothing() {
        static EMPTY: Arena<u64> = Arena::new();
        let local = 1_u64;
        let heap = Box::new(1_u64);
        for number in [0, 1, 2, 0xdead_beef, usize::MAX, (&raw const local).addr(), (&raw const *heap).addr()]
        {
            assert_eq!(EMPTY.with(&RECENT, number, |_| ()), None);
            assert!(!EMPTY.is_ours(number));
        }
        for number in [EMPTY.address(0), EMPTY.address(PLACES - 1) + PLACE_BYTES - 1, EMPTY.address(3) + 8] {
            assert_eq!(EMPTY.with(&RECENT, number, |_| ()), None);
        }
        assert!(!EMPTY.is_ours(EMPTY.address(PLACES)));
    }

    #[test]
    fn places_are_used_again_first_in_first_out_under_new_numbers() {
        static FULL: Arena<usize> = Arena::new();
        thread_local! {
            static HERE: Recent<usize> = const { Recent::new() };
        }
        let first: Vec<usize> = (0..PLACES).map(|value| FULL.insert(Arc::new(value)).unwrap()).collect();
        assert_eq!(FULL.insert(Arc::new(0)), None, "full");
        for &handle in [&first[5], &first[900], &first[2]] {
            FULL.remove(&HERE, handle).unwrap();
        }
        let again: Vec<usize> = (0..3).map(|value| FULL.insert(Arc::new(value)).unwrap()).collect();
        assert_eq!(FULL.insert(Arc::new(0)), None, "full again");
        let place = |handle: usize| FULL.index(handle).unwrap();
        assert_eq!(again.iter().map(|&h| place(h)).collect::<Vec<_>>(), [5, 900, 2]);
        assert!(again.iter().all(|handle| !first.contains(handle)));
        assert_eq!(FULL.get(first[5]), None, "the old number stays dead");
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), PLACES);
    }

    #[test]
    fn an_object_outlives_a_call_that_another_thread_ends() {
        let object = Arc::new(11);
        let handle = ARENA.insert(object.clone()).unwrap();
        ARENA.with(&RECENT, handle, |held| {
            std::thread::scope(|scope| {
                scope.spawn(|| ARENA.remove(&RECENT, handle).unwrap()).join().unwrap()
            });
            assert_eq!(**held, 11);
            assert_eq!(ARENA.with(&RECENT, handle, |_| ()), None);
        });
        assert_eq!(ARENA.get(handle), None);
    }

    #[test]
    fn calls_within_calls_find_their_own() {
        let outer = ARENA.insert(Arc::new(1)).unwrap();
        let sum = ARENA.with(&RECENT, outer, |one| {
            let inner = ARENA.with(&RECENT, outer, |again| **again).unwrap();
            **one + inner
        });
        assert_eq!(sum, Some(2));
        ARENA.remove(&RECENT, outer).unwrap();
    }

    #[test]
    fn one_of_many_removers_succeeds() {
        for value in 0..100 {
            let handle = ARENA.insert(Arc::new(value)).unwrap();
            let removed = std::thread::scope(|scope| {
                let tries: Vec<_> =
                    (0..3).map(|_| scope.spawn(|| ARENA.remove(&RECENT, handle).is_some())).collect();
                tries.into_iter().map(|t| usize::from(t.join().unwrap())).sum::<usize>()
            });
            assert_eq!(removed, 1);
        }
    }
}
