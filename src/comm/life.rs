//! Where a communicator stands, and what is under way for it behind its caller's back.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Where a communicator stands; the picture is at the head of [`crate::comm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Life {
    /// Its ranks meet, or its group has not ended yet.
    Unborn,
    /// Its ranks did not come together.
    Stillborn,
    /// It takes operations.
    Live,
    /// What ran on it was stopped for good; it is still a parent.
    Revoked,
    /// It takes nothing more, and what it took still runs.
    Finalizing,
    /// Nothing runs any more.
    Finalized,
    /// It gave everything back.
    Gone,
}

impl Life {
    const ALL: [Life; 7] = [
        Life::Unborn,
        Life::Stillborn,
        Life::Live,
        Life::Revoked,
        Life::Finalizing,
        Life::Finalized,
        Life::Gone,
    ];
}

/// A [`Life`] that threads share.
#[derive(Debug)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    pub(super) const fn new() -> Stage {
        Stage(AtomicU8::new(Life::Unborn as u8))
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.0.load(Ordering::Acquire) == Life::Live as u8
    }

    pub(super) fn get(&self) -> Life {
        Life::ALL[usize::from(self.0.load(Ordering::Acquire))]
    }

    /// From one to the next, if nobody was faster.
    pub(super) fn advance(&self, from: Life, to: Life) -> bool {
        self.0.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends it; what it was before.
    pub(super) fn end(&self) -> Life {
        Life::ALL[usize::from(self.0.swap(Life::Gone as u8, Ordering::AcqRel))]
    }
}

/// A birth or an end under way, known by the flag that cancels it.
#[derive(Debug)]
struct Job {
    cancel: Arc<AtomicBool>,
    /// No caller waits for it, so that whoever asks is told that it goes on.
    is_behind: bool,
}

#[derive(Debug, Default)]
struct Pending {
    jobs: Vec<Job>,
    /// Why the last one that nobody waited for failed.
    error: Option<Error>,
}

/// What is under way for one communicator.
#[derive(Debug, Default)]
pub(super) struct Work {
    pending: Mutex<Pending>,
    ended: Condvar,
}

/// What there is to say to who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Quiet,
    InProgress,
    Failed(Error),
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A job starts; how an earlier one failed is past.
    pub(super) fn begin(&self, cancel: &Arc<AtomicBool>, is_behind: bool) {
        let mut pending = self.lock();
        pending.error = None;
        pending.jobs.push(Job { cancel: Arc::clone(cancel), is_behind });
    }

    /// A job has ended. Its caller heard how, unless there was none.
    pub(super) fn end(&self, cancel: &Arc<AtomicBool>, error: Option<&Error>) {
        let mut pending = self.lock();
        if let Some(index) = pending.jobs.iter().position(|job| Arc::ptr_eq(&job.cancel, cancel)) {
            let job = pending.jobs.swap_remove(index);
            if job.is_behind {
                pending.error = pending.error.take().or_else(|| error.cloned());
            }
        }
        self.ended.notify_all();
    }

    /// Tells every job that nobody wants it any more.
    pub(super) fn cancel(&self) {
        for job in &self.lock().jobs {
            job.cancel.store(true, Ordering::Release);
        }
    }

    /// Returns when no job is left, or after `bound`.
    pub(super) fn wait(&self, bound: Duration) {
        let deadline = Instant::now() + bound;
        let mut pending = self.lock();
        while !pending.jobs.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            pending = match self.ended.wait_timeout(pending, left) {
                Ok((pending, _)) => pending,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    pub(super) fn status(&self) -> Status {
        let pending = self.lock();
        if pending.jobs.iter().any(|job| job.is_behind) {
            return Status::InProgress;
        }
        pending.error.clone().map_or(Status::Quiet, Status::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_end_a_life_one_finds_it() {
        let stage = Stage::new();
        assert!(!stage.is_live() && stage.get() == Life::Unborn);
        assert!(stage.advance(Life::Unborn, Life::Live) && stage.is_live());
        assert!(!stage.advance(Life::Unborn, Life::Stillborn));
        assert_eq!((stage.end(), stage.end()), (Life::Live, Life::Gone));
        for (number, life) in Life::ALL.into_iter().enumerate() {
            assert_eq!(life as usize, number);
        }
    }

    #[test]
    fn who_asks_hears_of_what_nobody_waits_for() {
        let work = Work::default();
        let [behind, awaited] = [(); 2].map(|()| Arc::<AtomicBool>::default());
        work.begin(&awaited, false);
        assert_eq!(work.status(), Status::Quiet);
        work.begin(&behind, true);
        assert_eq!(work.status(), Status::InProgress);
        work.cancel();
        assert!(behind.load(Ordering::Relaxed) && awaited.load(Ordering::Relaxed));
        let error = Error::Timeout("late".into());
        work.end(&awaited, Some(&Error::Timeout("heard".into())));
        work.end(&behind, Some(&error));
        assert_eq!(work.status(), Status::Failed(error));
        work.wait(Duration::from_secs(60));
        work.begin(&behind, true);
        work.end(&behind, None);
        assert_eq!(work.status(), Status::Quiet);
    }
}
