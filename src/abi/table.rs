//! A communicator's table of choices.

use std::ffi::{CStr, c_char};

use crate::abi::types::{CommHandle, ResultNumber};
use crate::abi::wall;
use crate::comm::handle;

/// # Safety
/// `text` is NULL or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn shoalCommSetTable(comm: CommHandle, text: *const c_char) -> ResultNumber {
    const CALL: &str = "shoalCommSetTable";
    wall::plain(CALL, || {
        let comm = handle::get(CALL, comm.addr())?;
        if text.is_null() {
            return comm.set_table(CALL, None);
        }
        // SAFETY: by this function's contract it is a string.
        comm.set_table(CALL, Some(&unsafe { CStr::from_ptr(text) }.to_string_lossy()))
    })
}
