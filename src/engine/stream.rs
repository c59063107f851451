//! Streams of the host device: work runs in order behind the call.
//!
//! A stream hands out tickets. A launch (what one outermost group, or one lone call, handed over) takes one
//! ticket of each stream it names, starts when every one of them is up, and calls up the next when the last
//! of its batches is done: several streams are joined before, and all blocked after, as the interface says.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::driver;
use crate::error::{Error, Result};
use crate::system::arena::{Arena, PLACES, Recent};

/// The stream of a call: `None` is the NULL stream, whose work is done when the call returns.
pub type StreamRef = Option<Arc<Stream>>;

/// Work in order.
#[derive(Debug, Default)]
pub struct Stream {
    /// The next ticket to hand out.
    next: AtomicU64,
    /// The ticket that is up. Written with release by the launch that ends, read with acquire by the one that
    /// starts: what the former wrote to memory the latter sees.
    up: AtomicU64,
    /// Tickets that ended and were not up yet.
    ended: Mutex<BTreeSet<u64>>,
    error: Mutex<Option<Error>>,
}

/// Tickets of several streams are taken together, so that two launches never wait for each other.
static TAKING: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Batches of several communicators that start and end as one, as streams see it.
#[derive(Debug)]
pub struct Launch {
    batches_left: AtomicU32,
    tickets: Vec<(Arc<Stream>, u64)>,
}

impl Launch {
    /// Takes a ticket of each stream (named once each) for `batches` batches, at least one.
    #[must_use]
    pub fn new(streams: Vec<Arc<Stream>>, batches: u32) -> Launch {
        let _taking = lock(&TAKING);
        let take = |stream: Arc<Stream>| {
            let ticket = stream.next.fetch_add(1, Ordering::Relaxed);
            (stream, ticket)
        };
        Launch { batches_left: AtomicU32::new(batches), tickets: streams.into_iter().map(take).collect() }
    }

    /// A number for its first stream, the same as long as that lives; not 0.
    #[must_use]
    pub fn stream(&self) -> u16 {
        // Streams lie at least so many bytes apart.
        let number = |stream: &Arc<Stream>| (Arc::as_ptr(stream).addr() / size_of::<Stream>()) as u16;
        self.tickets.first().map_or(0, |(stream, _)| number(stream).max(1))
    }

    /// Whether all that was to come before is done.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.tickets.iter().all(|(stream, ticket)| stream.up.load(Ordering::Acquire) == *ticket)
    }

    /// Whether it is one batch on one stream, right behind `before`, which is so too: nothing comes between them.
    pub(super) fn follows(&self, before: &Launch) -> bool {
        let is_single = |launch: &Launch| launch.batches_left.load(Ordering::Relaxed) == 1;
        match (&self.tickets[..], &before.tickets[..]) {
            ([(stream, ticket)], [(other, earlier)]) => {
                Arc::ptr_eq(stream, other) && *ticket == earlier + 1 && is_single(self) && is_single(before)
            }
            _ => false,
        }
    }

    /// Ends one of its batches.
    pub(super) fn finish_one(&self, error: Option<&Error>) {
        if let Some(error) = error {
            for (stream, _) in &self.tickets {
                lock(&stream.error).get_or_insert_with(|| error.clone());
            }
        }
        if self.batches_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            for (stream, ticket) in &self.tickets {
                stream.pass(*ticket);
            }
        }
    }
}

impl Drop for Launch {
    /// A batch that could not be queued (its communicator failed a moment before) never ends by itself; what
    /// stands behind it on the streams must not wait for it.
    fn drop(&mut self) {
        if *self.batches_left.get_mut() > 0 {
            for (stream, ticket) in &self.tickets {
                stream.pass(*ticket);
            }
        }
    }
}

impl Stream {
    /// Ends a ticket. Those of failed launches may end before they were up; they are skipped in turn.
    fn pass(&self, ticket: u64) {
        let mut ended = lock(&self.ended);
        ended.insert(ticket);
        let mut up = self.up.load(Ordering::Relaxed);
        while ended.remove(&up) {
            up += 1;
        }
        self.up.store(up, Ordering::Release);
    }

    fn is_idle(&self) -> bool {
        self.up.load(Ordering::Acquire) >= self.next.load(Ordering::Acquire)
    }

    fn take_error(&self) -> Result<()> {
        lock(&self.error).take().map_or(Ok(()), Err)
    }
}

static STREAMS: Arena<Stream> = Arena::new();

thread_local! {
    static RECENT: Recent<Stream> = const { Recent::new() };
}

/// A new stream, as the number that C programs hold.
///
/// # Errors
/// There are too many.
pub fn create() -> Result<usize> {
    STREAMS.insert(Arc::new(Stream::default())).ok_or_else(|| {
        Error::usage(
            "shoalStreamCreate",
            format_args!("{PLACES} streams live in this process already"),
            "destroy some with shoalStreamDestroy",
        )
    })
}

/// The stream behind a handle; NULL is `None`.
///
/// # Errors
/// The handle is none of ours (it is not touched to find out).
#[inline]
pub fn resolve(call: &'static str, handle: usize) -> Result<StreamRef> {
    if handle == 0 {
        return Ok(None);
    }
    STREAMS.with(&RECENT, handle, Arc::clone).map(Some).ok_or_else(|| unknown(call, handle))
}

#[cold]
fn unknown(call: &'static str, handle: usize) -> Error {
    Error::argument(
        call,
        "stream",
        format_args!("{handle:#x} is no stream of this library"),
        "on host memory pass NULL or a stream of shoalStreamCreate that was not destroyed",
    )
}

/// Waits until all work of the stream is done.
///
/// # Errors
/// What went wrong with it.
pub fn synchronize(handle: usize) -> Result<()> {
    let Some(stream) = resolve("shoalStreamSynchronize", handle)? else { return Ok(()) };
    driver::wait_until(|| stream.is_idle());
    stream.take_error()
}

/// Whether all work of the stream is done.
///
/// # Errors
/// What went wrong with it.
pub fn query(handle: usize) -> Result<bool> {
    let Some(stream) = resolve("shoalStreamQuery", handle)? else { return Ok(true) };
    if !stream.is_idle() {
        return Ok(false);
    }
    stream.take_error().map(|()| true)
}

/// Waits for its work, then forgets it.
///
/// # Errors
/// What went wrong with its work.
pub fn destroy(handle: usize) -> Result<()> {
    let Some(stream) = resolve("shoalStreamDestroy", handle)? else { return Ok(()) };
    driver::wait_until(|| stream.is_idle());
    STREAMS.remove(&RECENT, handle).ok_or_else(|| unknown("shoalStreamDestroy", handle))?;
    stream.take_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_take_turns() {
        let stream = Arc::new(Stream::default());
        let [first, second] = [(); 2].map(|()| Launch::new(vec![Arc::clone(&stream)], 1));
        assert!(first.is_ready() && !second.is_ready());
        first.finish_one(None);
        assert!(second.is_ready() && !stream.is_idle());
        second.finish_one(None);
        assert!(stream.is_idle());
    }

    #[test]
    fn a_launch_that_is_given_up_holds_nobody_up() {
        let stream = Arc::new(Stream::default());
        let [first, second, third] = [(); 3].map(|()| Launch::new(vec![Arc::clone(&stream)], 2));
        drop(second);
        first.finish_one(None);
        drop(first);
        assert!(third.is_ready());
        drop(third);
        assert!(stream.is_idle());
    }
}
