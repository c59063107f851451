//! Sleeping until something comes.
//!
//! Each rank has a doorbell in the segment. Who publishes a packet, returns credit or answers an offer looks,
//! with a plain load of a line that hardly ever changes, whether the peer sleeps, and rings if it does. That
//! look is a load behind a store, which a processor may do first; so a rank that goes to sleep
//!
//! 1. notes the bell's count, and says that it sleeps ([`Doorbell::arm`]);
//! 2. makes every processor that runs one of us execute a fence ([`crate::system::barrier`]): whoever
//!    published before the fence is seen by the next look, whoever publishes later sees the sleeper;
//! 3. looks again whether anything has come;
//! 4. sleeps while the count is what it was.
//!
//! Where a process cannot take part in the fence, sleeps are short instead. Every sleep is bounded anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};
use std::time::Duration;

use super::layout::{Control, state};
use super::segment::Segment;
use crate::system::{barrier, futex};

/// The longest sleep where a wake can get lost.
const UNSURE_SLEEP: Duration = Duration::from_micros(200);

/// Rings at `control`'s rank if it sleeps. Called after each store that a sleeper may be waiting for.
#[inline]
pub(super) fn wake(control: &Control) {
    // The processor is held to this order by the sleeper's barrier; the compiler must be held to it here.
    compiler_fence(Ordering::SeqCst);
    if control.sleeping.load(Ordering::Relaxed) != 0 {
        ring(control);
    }
}

#[cold]
fn ring(control: &Control) {
    if control.sleeping.swap(0, Ordering::AcqRel) != 0 {
        control.doorbell.fetch_add(1, Ordering::Release);
        futex::wake(&control.doorbell, i32::MAX);
    }
}

/// A rank's bell, for its own threads: the one that sleeps and those that have work for it.
#[derive(Clone, Debug)]
pub struct Doorbell {
    segment: Arc<Segment>,
    rank: u32,
}

impl Doorbell {
    pub(super) const fn new(segment: Arc<Segment>, rank: u32) -> Doorbell {
        Doorbell { segment, rank }
    }

    fn control(&self) -> &Control {
        self.segment.control(self.rank)
    }

    /// Says that the rank is about to sleep. Returns the count to sleep on.
    #[must_use]
    pub fn arm(&self) -> u32 {
        let count = self.control().doorbell.load(Ordering::Acquire);
        self.control().sleeping.store(1, Ordering::SeqCst);
        count
    }

    /// Says that it does not sleep (any more).
    pub fn disarm(&self) {
        self.control().sleeping.store(0, Ordering::Relaxed);
    }

    /// Wakes whoever sleeps on this bell, or keeps who is about to from it: for other threads of the rank,
    /// after they have left work for it.
    pub fn ring(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.control().sleeping.load(Ordering::Relaxed) != 0 {
            ring(self.control());
        }
    }

    /// Tells all peers that this rank aborts; from any thread. The rank's transport stays usable, for its
    /// owner to notice and drop.
    pub fn abort(&self) {
        self.leave(state::ABORTED);
    }

    /// Tells all peers that this rank leaves, with everything it published: for the end of the process.
    pub fn depart(&self) {
        self.leave(state::CLOSED);
    }

    fn leave(&self, how: u32) {
        let state = &self.control().state;
        // Release: whatever the rank does to its memory from here on is not for peers to read; they look at
        // the state after each copy and discard what they copied.
        let left = state.compare_exchange(state::ALIVE, how, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if left {
            std::sync::atomic::fence(Ordering::SeqCst);
            wake_all(&self.segment);
        }
    }

    /// Whether every rank of the segment takes part in barriers, as far as they say.
    fn is_sure(&self) -> bool {
        (0..self.segment.ranks()).all(|rank| {
            let control = self.segment.control(rank);
            control.barriers.load(Ordering::Relaxed) == 1
                || control.state.load(Ordering::Relaxed) != state::ALIVE
        })
    }
}

/// Wakes every rank that sleeps.
pub(super) fn wake_all(segment: &Segment) {
    for rank in 0..segment.ranks() {
        wake(segment.control(rank));
    }
}

/// Sleeps until one of `bells` rings, at most for `limit`; not at all if `is_ready` says, asked once all bells
/// are armed, that something has come. May return early. `is_ready` has to look at everything that is waited
/// for: at the fronts, credit and bulk packets of every transport, and at the work that other threads leave.
pub fn sleep_unless(bells: &[&Doorbell], limit: Duration, is_ready: impl FnOnce() -> bool) {
    static NEVER: AtomicU32 = AtomicU32::new(0);
    let mut words = [(&NEVER, 0); futex::WORDS_LIMIT];
    for (index, bell) in bells.iter().enumerate() {
        let count = bell.arm();
        if let Some(word) = words.get_mut(index) {
            *word = (&bell.control().doorbell, count);
        }
    }
    let sure =
        barrier::everywhere() && bells.len() <= futex::WORDS_LIMIT && bells.iter().all(|bell| bell.is_sure());
    if !is_ready() {
        let limit = if sure { limit } else { limit.min(UNSURE_SLEEP) };
        futex::wait_any(&words[..bells.len().min(futex::WORDS_LIMIT)], limit);
    }
    for bell in bells {
        bell.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_ring_ends_the_sleep() {
        let segment = Segment::create(2, 8192).expect("memory");
        let bell = Doorbell::new(Arc::clone(&segment), 0);
        let other = Doorbell::new(segment, 1);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                sleep_unless(&[&other, &bell], Duration::from_secs(20), || false);
            });
            while !sleeper.is_finished() {
                bell.ring();
                std::thread::yield_now();
            }
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn who_has_something_to_do_does_not_sleep() {
        let segment = Segment::create(1, 8192).expect("memory");
        let bell = Doorbell::new(segment, 0);
        let start = Instant::now();
        sleep_unless(&[&bell], Duration::from_secs(20), || true);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
