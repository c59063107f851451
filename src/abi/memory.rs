//! Memory that peers can map.

use std::ffi::c_void;
use std::ptr::{null_mut, without_provenance_mut};

use crate::abi::convert::answer;
use crate::abi::types::ResultNumber;
use crate::abi::wall;
use crate::error::Result;
use crate::op::Address;
use crate::system::memory;

/// No bytes are NULL, which ncclMemFree takes.
///
/// # Safety
/// `place` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclMemAlloc(place: *mut *mut c_void, bytes: usize) -> ResultNumber {
    // SAFETY: passed on from this function's contract, here and below.
    let write = |address| unsafe { answer::<*mut c_void>("ncclMemAlloc", "ptr", place, address) };
    wall::plain("ncclMemAlloc", || -> Result<()> {
        write(null_mut())?;
        if bytes == 0 {
            return Ok(());
        }
        write(without_provenance_mut(memory::allocate(bytes)?.0))
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclMemFree(memory: *mut c_void) -> ResultNumber {
    wall::plain(
        "ncclMemFree",
        || {
            if memory.is_null() { Ok(()) } else { memory::free(Address(memory.addr())) }
        },
    )
}
