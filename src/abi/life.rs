//! Life and end of communicators.

use std::ffi::c_int;

use crate::abi::convert::{answer, bad};
use crate::abi::types::{CommHandle, ResultNumber};
use crate::abi::wall;
use crate::comm::{Comm, handle};
use crate::error::{Code, Result};

/// One of the three calls that accept NULL.
fn end(call: &'static str, comm: CommHandle, body: impl FnOnce(usize) -> Result<Code>) -> ResultNumber {
    wall::answering(call, || if comm.is_null() { Ok(Code::Success) } else { body(comm.addr()) })
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommFinalize(comm: CommHandle) -> ResultNumber {
    end("ncclCommFinalize", comm, |comm| handle::get("ncclCommFinalize", comm)?.finalize())
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommDestroy(comm: CommHandle) -> ResultNumber {
    end("ncclCommDestroy", comm, |number| {
        let comm = handle::get("ncclCommDestroy", number)?;
        comm.settle()?;
        // Another thread may have aborted it meanwhile, and has then given everything back.
        if handle::remove("ncclCommDestroy", number).is_ok() {
            comm.close();
        }
        Ok(Code::Success)
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommAbort(comm: CommHandle) -> ResultNumber {
    end("ncclCommAbort", comm, |comm| {
        handle::remove("ncclCommAbort", comm)?.abort()?;
        Ok(Code::Success)
    })
}

/// NCCL_REVOKE_DEFAULT, the one flag there is.
const REVOKE_DEFAULT: c_int = 0;

#[unsafe(no_mangle)]
extern "C" fn pncclCommRevoke(comm: CommHandle, flags: c_int) -> ResultNumber {
    const CALL: &str = "ncclCommRevoke";
    wall::plain(CALL, || {
        if flags != REVOKE_DEFAULT {
            return bad(CALL, "revokeFlags", format_args!("is {flags}"), "pass NCCL_REVOKE_DEFAULT (0)");
        }
        handle::get(CALL, comm.addr())?.revoke(CALL)
    })
}

/// # Safety
/// `code` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommGetAsyncError(comm: CommHandle, code: *mut ResultNumber) -> ResultNumber {
    const CALL: &str = "ncclCommGetAsyncError";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            comm.check_own(CALL)?;
            // SAFETY: passed on from this function's contract.
            unsafe { answer(CALL, "asyncError", code, comm.async_error() as ResultNumber) }
        })
    })
}

/// # Safety
/// `count` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommCount(comm: CommHandle, count: *mut c_int) -> ResultNumber {
    // SAFETY: passed on from this function's contract.
    unsafe { ask("ncclCommCount", comm, "count", count, |comm| comm.ranks().cast_signed()) }
}

/// # Safety
/// `device` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommCuDevice(comm: CommHandle, device: *mut c_int) -> ResultNumber {
    // SAFETY: passed on from this function's contract.
    unsafe { ask("ncclCommCuDevice", comm, "device", device, Comm::device) }
}

/// # Safety
/// `rank` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommUserRank(comm: CommHandle, rank: *mut c_int) -> ResultNumber {
    // SAFETY: passed on from this function's contract.
    unsafe { ask("ncclCommUserRank", comm, "rank", rank, |comm| comm.rank().cast_signed()) }
}

/// A call that asks a communicator for a number.
///
/// # Safety
/// `place` is NULL or writable.
unsafe fn ask(
    call: &'static str,
    comm: CommHandle,
    argument: &'static str,
    place: *mut c_int,
    question: impl FnOnce(&Comm) -> c_int,
) -> ResultNumber {
    wall::plain(call, || {
        handle::with(call, comm.addr(), |comm| {
            comm.check_born(call)?;
            // SAFETY: the same contract.
            unsafe { answer(call, argument, place, question(comm)) }
        })
    })
}
