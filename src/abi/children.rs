//! Births of communicators from others.

use std::ffi::c_int;
use std::sync::Arc;

use crate::abi::birth::{Cradle, seat};
use crate::abi::config;
use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::{CommHandle, Config, ResultNumber, UniqueIdArgument};
use crate::abi::wall;
use crate::comm::{self, Comm, UniqueId, children, handle};
use crate::error::Result;

/// NCCL_SPLIT_NOCOLOR
const NO_COLOR: c_int = -1;
/// NCCL_SHRINK_DEFAULT
const SHRINK_DEFAULT: c_int = 0;
/// NCCL_SHRINK_ABORT
const SHRINK_ABORT: c_int = 1;
/// The rank that those pass who keep theirs.
const KEPT_RANK: c_int = -1;

/// # Safety
/// `new` is NULL, or writable until this call or the outermost ncclGroupEnd has returned; `config` is NULL or as its
/// own size says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommSplit(
    comm: CommHandle,
    color: c_int,
    key: c_int,
    new: *mut CommHandle,
    config: *const Config,
) -> ResultNumber {
    const CALL: &str = "ncclCommSplit";
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::named(CALL, "newcomm", new) }?;
        let parent = handle::get(CALL, comm.addr())?;
        let color = match color {
            NO_COLOR => None,
            0.. => Some(color.unsigned_abs()),
            _ => {
                return bad(
                    CALL,
                    "color",
                    format_args!("is {color}"),
                    "pass 0 or more, or NCCL_SPLIT_NOCOLOR (-1) to be in none of the new communicators",
                );
            }
        };
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?;
        cradle.deliver(children::split(&parent, color, key, options)?)
    })
}

/// # Safety
/// As for [`pncclCommSplit`]; `excluded` is NULL, or readable for `count` numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommShrink(
    comm: CommHandle,
    excluded: *const c_int,
    count: c_int,
    new: *mut CommHandle,
    config: *const Config,
    flags: c_int,
) -> ResultNumber {
    const CALL: &str = "ncclCommShrink";
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::named(CALL, "newcomm", new) }?;
        let parent = handle::get(CALL, comm.addr())?;
        if flags != SHRINK_DEFAULT && flags != SHRINK_ABORT {
            let remedy = "pass NCCL_SHRINK_DEFAULT (0) or NCCL_SHRINK_ABORT (1)";
            return bad(CALL, "shrinkFlags", format_args!("is {flags}"), remedy);
        }
        parent.check_born(CALL)?;
        if count < 1 || excluded.is_null() {
            let problem =
                format_args!("is {} of {count} ranks", if excluded.is_null() { "NULL" } else { "a list" });
            return bad(CALL, "excludeRanksList", problem, "name the ranks that take no part, one or more");
        }
        // SAFETY: `index` is below `count`, so by this function's contract a number lies there.
        let number = |index: usize| unsafe { excluded.add(index).read_unaligned() };
        let ranks = (0..count.unsigned_abs() as usize).map(|index| excludable(CALL, &parent, number(index)));
        let ranks = ranks.collect::<Result<Vec<u32>>>()?;
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?;
        cradle.deliver(children::shrink(&parent, &ranks, options, flags == SHRINK_ABORT)?)
    })
}

fn excludable(call: &'static str, parent: &Comm, number: c_int) -> Result<u32> {
    const REMEDY: &str = "name ranks of the communicator; those who are excluded do not call";
    match u32::try_from(number).ok().filter(|rank| *rank < parent.ranks()) {
        Some(rank) if rank == parent.rank() => {
            bad(call, "excludeRanksList", format_args!("names rank {rank}, which calls"), REMEDY)
        }
        Some(rank) => Ok(rank),
        None => {
            let problem =
                format_args!("names rank {number}, and the communicator has {} ranks", parent.ranks());
            bad(call, "excludeRanksList", problem, REMEDY)
        }
    }
}

/// # Safety
/// `id` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommGetUniqueId(comm: CommHandle, id: *mut UniqueIdArgument) -> ResultNumber {
    const CALL: &str = "ncclCommGetUniqueId";
    wall::plain(CALL, || {
        not_null(CALL, "uniqueId", id)?;
        let internal = children::grow_id(&*handle::get(CALL, comm.addr())?)?;
        // SAFETY: passed on from this function's contract.
        unsafe { answer(CALL, "uniqueId", id, UniqueIdArgument { internal }) }
    })
}

/// # Safety
/// As for [`pncclCommSplit`]; `id` is NULL or readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommGrow(
    comm: CommHandle,
    ranks: c_int,
    id: *const UniqueIdArgument,
    rank: c_int,
    new: *mut CommHandle,
    config: *const Config,
) -> ResultNumber {
    const CALL: &str = "ncclCommGrow";
    wall::grouped_answering(CALL, || {
        // SAFETY: passed on from this function's contract.
        let cradle = unsafe { Cradle::named(CALL, "newcomm", new) }?;
        // SAFETY: if it is not NULL, by this function's contract an id lies there.
        let id = (!id.is_null()).then(|| unsafe { id.read_unaligned() }.internal);
        // SAFETY: passed on from this function's contract.
        let options = unsafe { config::options(CALL, config) }?;
        if comm.is_null() {
            let (ranks, rank) = seat(CALL, ranks, rank)?;
            let ids = vec![known(CALL, id)?];
            return cradle.deliver(comm::init_rank(CALL, ranks, ids, rank, options.unwrap_or_default()));
        }
        let parent: Arc<Comm> = handle::get(CALL, comm.addr())?;
        if rank != KEPT_RANK {
            let remedy = "pass -1 with a communicator, whose ranks keep their numbers; new ranks pass none";
            return bad(CALL, "rank", format_args!("is {rank}"), remedy);
        }
        let Ok(ranks) = u32::try_from(ranks) else {
            return bad(CALL, "nRanks", format_args!("is {ranks}"), "pass how many ranks there will be");
        };
        cradle.deliver(children::grow(&parent, ranks, id, options)?)
    })
}

fn known(call: &'static str, id: Option<UniqueId>) -> Result<UniqueId> {
    match id {
        Some(id) => Ok(id),
        None => bad(
            call,
            "uniqueId",
            "is NULL",
            "a new rank passes what ncclCommGetUniqueId gave one of the others",
        ),
    }
}
