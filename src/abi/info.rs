//! About the library.

use std::ffi::{c_char, c_int};

use crate::abi::convert::answer;
use crate::abi::types::{CommHandle, ResultNumber};
use crate::abi::wall;
use crate::error::{code_text, with_last};
use crate::stock;
use crate::trace::log;

/// # Safety
/// `version` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclGetVersion(version: *mut c_int) -> ResultNumber {
    // SAFETY: passed on from this function's contract.
    wall::plain("ncclGetVersion", || unsafe {
        answer("ncclGetVersion", "version", version, stock::reported_version())
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclGetErrorString(result: ResultNumber) -> *const c_char {
    code_text(result).as_ptr()
}

/// The argument is ignored: the last error belongs to the thread, else to the process.
#[unsafe(no_mangle)]
extern "C" fn pncclGetLastError(_comm: CommHandle) -> *const c_char {
    wall::value(c"".as_ptr(), || with_last(|text| text.as_ptr()))
}

/// The log's settings are read anew at its next line.
#[unsafe(no_mangle)]
extern "C" fn pncclResetDebugInit() {
    wall::value((), log::reset);
}

/// The one function without a twin.
#[unsafe(no_mangle)]
extern "C" fn ncclResetDebugInitInternal() {
    wall::value((), log::reset);
}
