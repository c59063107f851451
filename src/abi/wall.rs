//! Where C comes in: no panic passes, and an error becomes a number and the last error.
//!
//! The good case is a handful of instructions; everything with words lies out of line.
#![forbid(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::types::ResultNumber;
use crate::error::{self, Code, Error, Result};
use crate::group;

/// Runs `body`; a call that may stand in a group. If it fails there, the group starts nothing.
#[inline(always)]
pub(super) fn grouped(call: &'static str, body: impl FnOnce() -> Result<()>) -> ResultNumber {
    guarded(call, fail_in_group, || body().map(|()| Code::Success))
}

/// What `body` answers; if that is nothing, `otherwise`, which has its own wall.
#[inline(always)]
pub(super) fn unless(
    body: impl FnOnce() -> Option<std::result::Result<(), Box<Error>>>,
    otherwise: impl FnOnce() -> ResultNumber,
) -> ResultNumber {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Some(Ok(()))) => Code::Success as ResultNumber,
        Ok(None) => otherwise(),
        Ok(Some(Err(error))) => fail(*error),
        Err(payload) => fail(broken("a call", payload)),
    }
}

/// Runs `body`; a call that may stand in a group, with more than one good answer.
#[inline(always)]
pub(super) fn grouped_answering(call: &'static str, body: impl FnOnce() -> Result<Code>) -> ResultNumber {
    guarded(call, fail_in_group, body)
}

/// Runs `body`; a call that leaves groups alone.
#[inline(always)]
pub(super) fn plain(call: &'static str, body: impl FnOnce() -> Result<()>) -> ResultNumber {
    guarded(call, fail, || body().map(|()| Code::Success))
}

/// Runs `body`; a call with more than one good answer.
#[inline(always)]
pub(super) fn answering(call: &'static str, body: impl FnOnce() -> Result<Code>) -> ResultNumber {
    guarded(call, fail, body)
}

/// An error is dealt with inside, so that a number is all that passes the wall.
#[inline(always)]
fn guarded(
    call: &'static str,
    fail: impl Fn(Error) -> ResultNumber,
    body: impl FnOnce() -> Result<Code>,
) -> ResultNumber {
    let answer = || match body() {
        Ok(code) => code as ResultNumber,
        Err(error) => fail(error),
    };
    // State that a panic could leave half changed lies behind locks and cells that know it.
    match catch_unwind(AssertUnwindSafe(answer)) {
        Ok(number) => number,
        Err(payload) => fail(broken(call, payload)),
    }
}

/// Runs `body`; a call that has no result number and answers `otherwise` if it cannot answer.
#[inline(always)]
pub(super) fn value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

#[cold]
#[inline(never)]
fn fail_in_group(error: Error) -> ResultNumber {
    // A thread that is ending has no group left to look for.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if group::is_open() {
            group::poison(&error);
        }
    }));
    fail(error)
}

#[cold]
#[inline(never)]
fn fail(error: Error) -> ResultNumber {
    // A thread that is ending has no last error left to set.
    let _ = catch_unwind(AssertUnwindSafe(|| error::set_last(&error)));
    error.code() as ResultNumber
}

#[cold]
#[inline(never)]
fn broken(call: &'static str, payload: Box<dyn Any + Send>) -> Error {
    let words = payload
        .downcast_ref::<&str>()
        .map(|words| (*words).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    // The drop of a payload may panic as well; leaking it may not.
    std::mem::forget(payload);
    Error::Internal(format!("{call}: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        error::with_last(|text| text.to_string_lossy().into_owned())
    }

    #[test]
    fn errors_become_numbers_and_words() {
        let error = || Err(Error::argument("ncclX", "y", "is bad", "do better"));
        assert_eq!(plain("ncclX", error), 4);
        assert_eq!(last(), "ncclX: y is bad; do better");
        assert_eq!(plain("ncclX", || Ok(())), 0);
        assert_eq!(last(), "ncclX: y is bad; do better", "success leaves it");
    }

    #[test]
    fn panics_become_internal_errors() {
        assert_eq!(plain("ncclX", || panic!("no {}", "way")), 3);
        assert!(last().contains("ncclX: no way"));
        assert_eq!(grouped("ncclX", || panic!("fixed")), 3);
        assert!(last().contains("ncclX: fixed"));
        assert_eq!(answering("ncclX", || std::panic::panic_any(7)), 3);
        assert!(last().contains("without words"));
        assert_eq!(value(5, || panic!("gone")), 5);
    }
}
