//! Communicators as the numbers that C programs hold. A handle that was never ours, or is no longer, is
//! recognized without touching what it points to.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::comm::{Comm, metrics};
use crate::error::{Error, Result};
use crate::system::arena::{Arena, PLACES, Recent};
use crate::system::exit;
use crate::transport::ucx;

static COMMUNICATORS: Arena<Comm> = Arena::new();

thread_local! {
    static RECENT: Recent<Comm> = const { Recent::new() };
}

/// A handle for `comm`, never 0.
///
/// # Errors
/// Too many live already.
pub fn insert(call: &'static str, comm: Arc<Comm>) -> Result<usize> {
    exit::call_at_exit(depart_all);
    COMMUNICATORS.insert(comm).ok_or_else(|| {
        Error::usage(
            call,
            format_args!("{PLACES} communicators live in this process already"),
            "destroy some with ncclCommDestroy",
        )
    })
}

/// A program that ends without destroying its communicators leaves them, and did not die.
extern "C" fn depart_all() {
    // A panic has nowhere to go from here.
    let _ = std::panic::catch_unwind(|| {
        COMMUNICATORS.each(|comm| comm.depart());
        metrics::end();
        ucx::end_of_process();
    });
}

/// Gives `body` the communicator behind a handle. For calls that must be fast: no lock, no atomic write.
///
/// # Errors
/// There is none, or what `body` reports.
#[inline]
pub fn with<R>(call: &'static str, handle: usize, body: impl FnOnce(&Arc<Comm>) -> Result<R>) -> Result<R> {
    match COMMUNICATORS.with(&RECENT, handle, body) {
        Some(result) => result,
        None => Err(unknown(call, handle)),
    }
}

/// Whether the handle names a communicator.
#[inline]
pub fn is_live(handle: usize) -> bool {
    COMMUNICATORS.is_live(handle)
}

/// The communicator behind a handle.
///
/// # Errors
/// There is none.
pub fn get(call: &'static str, handle: usize) -> Result<Arc<Comm>> {
    COMMUNICATORS.get(handle).ok_or_else(|| unknown(call, handle))
}

/// Ends a handle and returns what it named. Of several who try, one succeeds.
///
/// # Errors
/// It named nothing.
pub fn remove(call: &'static str, handle: usize) -> Result<Arc<Comm>> {
    COMMUNICATORS.remove(&RECENT, handle).ok_or_else(|| unknown(call, handle))
}

#[cold]
#[inline(never)]
fn unknown(call: &'static str, handle: usize) -> Error {
    let (problem, remedy) = if handle == 0 {
        ("is NULL".to_owned(), "pass a communicator that ncclCommInitRank or a sibling of it has filled")
    } else if COMMUNICATORS.is_ours(handle) {
        (
            format!("{handle:#x} was destroyed or aborted before this call"),
            "make no call on a communicator after ncclCommDestroy or ncclCommAbort",
        )
    } else {
        (
            format!("{handle:#x} is no communicator of this library"),
            "if another libnccl made it, two are loaded: preload one of them for the whole program",
        )
    };
    Error::argument(call, "comm", problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_communicator_is_told_apart() {
        let text = |handle| get("ncclCommCount", handle).unwrap_err().to_string();
        assert!(text(0).starts_with("ncclCommCount: comm is NULL; pass"));
        assert!(text(0x1234).contains("0x1234 is no communicator of this library"));
        let inside = (&raw const COMMUNICATORS).addr() + size_of::<Arena<Comm>>() / 2;
        assert!(text(inside).contains("was destroyed or aborted"));
    }
}
