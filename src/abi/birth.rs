//! Births of communicators.

use std::ffi::c_int;
use std::ptr::null_mut;

use crate::abi::config;
use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::{CommHandle, Config, ResultNumber, UniqueIdArgument};
use crate::abi::wall;
use crate::comm::births::Birth;
use crate::comm::{self, Options, handle};
use crate::error::{Code, Result};
use crate::group;

/// Where a birth writes its handle. That is there from the beginning, so that another thread can abort the birth;
/// only of a caller who waited in vain it is taken away again.
#[derive(Clone, Copy)]
pub(super) struct Cradle(*mut CommHandle);

impl Cradle {
    /// A failed birth leaves NULL there, so that is where it starts.
    ///
    /// # Safety
    /// `comm` is NULL, or writable until the call or the outermost ncclGroupEnd has returned.
    unsafe fn new(call: &'static str, comm: *mut CommHandle) -> Result<Cradle> {
        // SAFETY: the same contract.
        unsafe { Cradle::named(call, "comm", comm) }
    }

    /// The same, of another name.
    ///
    /// # Safety
    /// As for [`Cradle::new`].
    pub(super) unsafe fn named(
        call: &'static str,
        argument: &'static str,
        comm: *mut CommHandle,
    ) -> Result<Cradle> {
        // SAFETY: the same contract.
        unsafe { answer(call, argument, comm, null_mut()) }?;
        Ok(Cradle(comm))
    }

    fn write(self, handle: usize) {
        // SAFETY: a cradle comes from `named`, which wrote here and whose contract still holds: what is written later
        // than in the call itself is undone by the call or the outermost ncclGroupEnd, on the caller's thread.
        unsafe { self.0.write_unaligned(std::ptr::without_provenance_mut(handle)) };
    }

    /// Meets the others now, at the end of the open group, or behind the caller.
    pub(super) fn deliver(self, mut birth: Birth) -> Result<Code> {
        let call = birth.call();
        if let Some(child) = birth.child().cloned() {
            let handle = handle::insert(call, child)?;
            self.write(handle);
            let cradle = self;
            birth.undo_by(move || {
                // Another thread that aborted it has removed it already.
                let _ = handle::remove(call, handle);
                cradle.write(0);
            });
        }
        group::birth(birth)
    }
}

/// `nranks` and `rank` of a birth.
pub(super) fn seat(call: &'static str, ranks: c_int, rank: c_int) -> Result<(u32, u32)> {
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
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::new(CALL, comm) }?;
        let (ranks, rank) = seat(CALL, ranks, rank)?;
        cradle.deliver(comm::init_rank(CALL, ranks, vec![id.internal], rank, Options::default()))
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
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::new(CALL, comm) }?;
        let (ranks, rank) = seat(CALL, ranks, rank)?;
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?.unwrap_or_default();
        cradle.deliver(comm::init_rank(CALL, ranks, vec![id.internal], rank, options))
    })
}

/// # Safety
/// As for [`pncclCommInitRankConfig`]; `ids` is NULL, or readable for `id_count` ids.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommInitRankScalable(
    comm: *mut CommHandle,
    ranks: c_int,
    rank: c_int,
    id_count: c_int,
    ids: *const UniqueIdArgument,
    config: *const Config,
) -> ResultNumber {
    const CALL: &str = "ncclCommInitRankScalable";
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::new(CALL, comm) }?;
        let (ranks, rank) = seat(CALL, ranks, rank)?;
        if !(1..=ranks.cast_signed()).contains(&id_count) {
            let problem = format_args!("is {id_count}, with nranks {ranks}");
            return bad(CALL, "nId", problem, "pass 1 to nranks ids");
        }
        if ids.is_null() {
            return bad(CALL, "commIds", "is NULL", "pass the ids that ncclGetUniqueId made");
        }
        // SAFETY: `index` is below `id_count`, so by this function's contract an id lies there.
        let id = |index: usize| unsafe { ids.add(index).read_unaligned() }.internal;
        let ids = (0..id_count.unsigned_abs() as usize).map(id).collect();
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?.unwrap_or_default();
        cradle.deliver(comm::init_rank(CALL, ranks, ids, rank, options))
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
    wall::grouped_answering(CALL, || {
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
        if cradles.is_empty() { Ok(Code::Success) } else { init_all(CALL, &cradles) }
    })
}

fn init_all(call: &'static str, cradles: &[Cradle]) -> Result<Code> {
    let id = comm::unique_id()?;
    let ranks = cradles.len() as u32;
    group::start();
    for (rank, cradle) in (0..).zip(cradles) {
        let birth = comm::init_rank(call, ranks, vec![id], rank, Options::default());
        if let Err(error) = cradle.deliver(birth) {
            group::poison(&error);
        }
    }
    group::end()
}
