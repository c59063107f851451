//! The streams of `shoal.h`. NULL is the stream that never has work left.

use std::ptr::{null_mut, without_provenance_mut};

use crate::abi::convert::answer;
use crate::abi::types::{ResultNumber, StreamHandle};
use crate::abi::wall;
use crate::engine::stream;
use crate::error::Code;

/// # Safety
/// `place` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn shoalStreamCreate(place: *mut StreamHandle) -> ResultNumber {
    const CALL: &str = "shoalStreamCreate";
    // SAFETY: passed on from this function's contract, here and below.
    let write = |handle| unsafe { answer::<StreamHandle>(CALL, "stream", place, handle) };
    wall::plain(CALL, || {
        write(null_mut())?;
        write(without_provenance_mut(stream::create()?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn shoalStreamSynchronize(stream: StreamHandle) -> ResultNumber {
    wall::plain("shoalStreamSynchronize", || {
        if stream.is_null() { Ok(()) } else { stream::synchronize(stream.addr()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn shoalStreamQuery(stream: StreamHandle) -> ResultNumber {
    wall::answering("shoalStreamQuery", || {
        let is_done = stream.is_null() || stream::query(stream.addr())?;
        Ok(if is_done { Code::Success } else { Code::InProgress })
    })
}

#[unsafe(no_mangle)]
extern "C" fn shoalStreamDestroy(stream: StreamHandle) -> ResultNumber {
    wall::plain(
        "shoalStreamDestroy",
        || {
            if stream.is_null() { Ok(()) } else { stream::destroy(stream.addr()) }
        },
    )
}
