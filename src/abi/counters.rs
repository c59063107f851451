//! What a communicator has counted.

use std::ffi::{c_char, c_int};

use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::{CommHandle, ResultNumber};
use crate::abi::wall;
use crate::comm::handle;

/// `shoalCounter_t`
#[repr(C)]
pub(super) struct Counter {
    name: *const c_char,
    value: u64,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Counter>() == 16 && std::mem::offset_of!(Counter, value) == 8);

/// # Safety
/// `out` is NULL or has room for `room` counters; `count` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn shoalCommCounters(
    comm: CommHandle,
    out: *mut Counter,
    room: c_int,
    count: *mut c_int,
) -> ResultNumber {
    const CALL: &str = "shoalCommCounters";
    wall::plain(CALL, || {
        not_null(CALL, "count", count)?;
        let Ok(most) = usize::try_from(room) else {
            return bad(CALL, "room", format_args!("is {room}"), "pass how many counters out has room for");
        };
        if most > 0 {
            not_null(CALL, "out", out)?;
        }
        let counters = handle::get(CALL, comm.addr())?.counters(CALL)?;
        for (place, counter) in counters.iter().take(most).enumerate() {
            let one = Counter { name: counter.name.as_ptr(), value: counter.value };
            // SAFETY: `place` is below `room`, for which the caller promised room; nothing is asked of its
            // alignment.
            unsafe { out.add(place).write_unaligned(one) };
        }
        // SAFETY: passed on from this function's contract.
        unsafe { answer(CALL, "count", count, counters.len() as c_int) }
    })
}
