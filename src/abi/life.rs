//! Birth, life and end of communicators.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;

use crate::abi::config;
use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::{CommHandle, Config, ResultNumber, UniqueIdArgument};
use crate::abi::wall;
use crate::comm::{self, Comm, Options, UniqueId, handle};
use crate::error::Result;
use crate::group;

/// Where a birth writes its handle, possibly at the end of a group and from another thread.
#[derive(Clone, Copy)]
struct Cradle(*mut CommHandle);

// SAFETY: the interface leaves the variable to the call until it, or the outermost ncclGroupEnd, has returned;
// each cradle is used by one birth, and ncclGroupEnd returns after all births.
unsafe impl Send for Cradle {}

impl Cradle {
    /// A failed birth leaves NULL there, so that is where it starts.
    ///
    /// # Safety
    /// `comm` is NULL, or writable until the call or the outermost ncclGroupEnd has returned.
    unsafe fn new(call: &'static str, comm: *mut CommHandle) -> Result<Cradle> {
        // SAFETY: the same contract.
        unsafe { answer(call, "comm", comm, null_mut()) }?;
        Ok(Cradle(comm))
    }

    fn write(self, handle: usize) {
        // SAFETY: a cradle comes from `new`, which wrote here and whose contract still holds: births run
        // before the call, or the outermost ncclGroupEnd, returns.
        unsafe { self.0.write_unaligned(std::ptr::without_provenance_mut(handle)) };
    }

    fn read(self) -> usize {
        // SAFETY: as for `write`; `new` has put a value there.
        unsafe { self.0.read_unaligned() }.addr()
    }

    /// Meets the others now or at the end of the open group.
    fn birth(self, call: &'static str, ranks: u32, id: UniqueId, rank: u32, options: Options) -> Result<()> {
        group::birth(Box::new(move |cancel| {
            let options = Options { cancel, ..options };
            let comm = Comm::init_rank(ranks, &id, rank, options).map_err(|error| error.of_call(call))?;
            let handle = handle::insert(call, Arc::clone(&comm)).inspect_err(|_| {
                // A handle is refused before anything else can be.
                let _ = comm.abort();
            })?;
            let cradle = self;
            cradle.write(handle);
            Ok(())
        }))
    }
}

/// `nranks` and `rank` of a birth.
fn seat(call: &'static str, ranks: c_int, rank: c_int) -> Result<(u32, u32)> {
    if ranks < 1 {
        return bad(call, "nranks", format_args!("is {ranks}"), "pass how many ranks there are, 1 or more");
    }
    if !(0..ranks).contains(&rank) {
        let problem = format_args!("is {rank}, with nranks {ranks}");
        return bad(call, "rank", problem, "number the ranks from 0 to nranks - 1");
    }
    Ok((ranks.unsigned_abs(), rank.unsigned_abs()))
}

/// # Safety
/// `id` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclGetUniqueId(id: *mut UniqueIdArgument) -> ResultNumber {
    wall::plain("ncclGetUniqueId", || {
        not_null("ncclGetUniqueId", "uniqueId", id)?;
        let internal = comm::unique_id()?;
        // SAFETY: passed on from this function's contract.
        unsafe { answer("ncclGetUniqueId", "uniqueId", id, UniqueIdArgument { internal }) }
    })
}

/// # Safety
/// `comm` is NULL, or writable until this call or the outermost ncclGroupEnd has returned.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommInitRank(
    comm: *mut CommHandle,
    ranks: c_int,
    id: UniqueIdArgument,
    rank: c_int,
) -> ResultNumber {
    const CALL: &str = "ncclCommInitRank";
    wall::grouped(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::new(CALL, comm) }?;
        let (ranks, rank) = seat(CALL, ranks, rank)?;
        cradle.birth(CALL, ranks, id.internal, rank, Options::default())
    })
}

/// # Safety
/// As for [`pncclCommInitRank`]; `config` is NULL or as its own size says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommInitRankConfig(
    comm: *mut CommHandle,
    ranks: c_int,
    id: UniqueIdArgument,
    rank: c_int,
    config: *const Config,
) -> ResultNumber {
    const CALL: &str = "ncclCommInitRankConfig";
    wall::grouped(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::new(CALL, comm) }?;
        let (ranks, rank) = seat(CALL, ranks, rank)?;
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?;
        cradle.birth(CALL, ranks, id.internal, rank, options)
    })
}

/// All ranks in this process, born together; the devices' numbers are not looked at beyond their sign, since
/// any number of ranks may share a device.
///
/// # Safety
/// `comms` is NULL, or writable for `count` handles until this call or the outermost ncclGroupEnd has
/// returned; `devices` is NULL, or readable for `count` numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommInitAll(
    comms: *mut CommHandle,
    count: c_int,
    devices: *const c_int,
) -> ResultNumber {
    const CALL: &str = "ncclCommInitAll";
    wall::grouped(CALL, || {
        not_null(CALL, "comm", comms)?;
        if count < 0 {
            return bad(CALL, "ndev", format_args!("is {count}"), "pass how many ranks to make");
        }
        // SAFETY: `index` is below `count`, so by this function's contract a handle lies there.
        let place = |index: c_int| unsafe { Cradle::new(CALL, comms.offset(index as isize)) };
        let cradles = (0..count).map(place).collect::<Result<Vec<_>>>()?;
        for index in 0..count as usize {
            // SAFETY: likewise; nothing is asked of the alignment.
            let device = if devices.is_null() { 0 } else { unsafe { devices.add(index).read_unaligned() } };
            if device < 0 {
                let problem = format_args!("names the device {device}");
                return bad(CALL, "devlist", problem, "number devices from 0, or pass NULL");
            }
        }
        if cradles.is_empty() { Ok(()) } else { init_all(CALL, &cradles) }
    })
}

fn init_all(call: &'static str, cradles: &[Cradle]) -> Result<()> {
    let id = comm::unique_id()?;
    let is_last_word = !group::is_open();
    group::start();
    let mut outcome = Ok(());
    for (rank, cradle) in (0..).zip(cradles) {
        outcome = outcome.and(cradle.birth(call, cradles.len() as u32, id, rank, Options::default()));
    }
    if let Err(error) = &outcome {
        group::poison(error);
    }
    outcome = outcome.and(group::end());
    if is_last_word && outcome.is_err() {
        // Those that were born are of no use without the others.
        for cradle in cradles.iter().filter(|cradle| cradle.read() != 0) {
            handle::remove(call, cradle.read())?.abort()?;
            cradle.write(0);
        }
    }
    outcome
}

/// One of the three calls that accept NULL.
fn end(call: &'static str, comm: CommHandle, body: impl FnOnce(usize) -> Result<()>) -> ResultNumber {
    wall::plain(call, || if comm.is_null() { Ok(()) } else { body(comm.addr()) })
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommFinalize(comm: CommHandle) -> ResultNumber {
    end("ncclCommFinalize", comm, |comm| handle::get("ncclCommFinalize", comm)?.finalize())
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommDestroy(comm: CommHandle) -> ResultNumber {
    end("ncclCommDestroy", comm, |comm| handle::remove("ncclCommDestroy", comm)?.destroy())
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommAbort(comm: CommHandle) -> ResultNumber {
    end("ncclCommAbort", comm, |comm| handle::remove("ncclCommAbort", comm)?.abort())
}

/// # Safety
/// `code` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommGetAsyncError(comm: CommHandle, code: *mut ResultNumber) -> ResultNumber {
    // SAFETY: passed on from this function's contract.
    unsafe {
        ask("ncclCommGetAsyncError", comm, "asyncError", code, |comm| comm.async_error() as ResultNumber)
    }
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
            comm.check_own(call)?;
            // SAFETY: the same contract.
            unsafe { answer(call, argument, place, question(comm)) }
        })
    })
}
