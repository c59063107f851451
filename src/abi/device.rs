//! The host side of the device API: kernels of the program that load and store peers' memory. On host memory
//! there are no kernels, so what would set them up answers that it cannot, and what it would need. Teams are
//! plain arithmetic, and answered.

use std::ffi::c_int;

use crate::abi::types::{CommHandle, ResultNumber, Team};
use crate::abi::wall;
use crate::comm::{Comm, handle};
use crate::error::{self, Error};

#[cold]
fn needs_device(call: &'static str) -> Error {
    Error::usage(
        call,
        "it prepares kernels that reach peers' memory themselves, which needs memory on GPUs, and this \
         communicator is on host memory",
        "ask ncclCommQueryProperties for deviceApiSupport first, and use collectives, ncclSend and ncclRecv, or \
         ncclPutSignal where it is false",
    )
}

/// Functions that answer ncclInvalidUsage. None looks at an argument, so none names them: C's caller puts the
/// arguments away itself.
macro_rules! refuses {
    ($($twin:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $twin() -> ResultNumber {
            // The name without the p of the twin.
            let call = stringify!($twin).split_at(1).1;
            wall::plain(call, || Err(needs_device(call)))
        }
    )*};
}

refuses! {
    pncclDevCommCreate pncclDevCommDestroy
    pncclGetLsaMultimemDevicePointer pncclGetMultimemDevicePointer pncclGetLsaDevicePointer
    pncclGetPeerDevicePointer
    pncclGetMultimemDeviceLeInfo pncclGetCftDeviceLeInfo pncclGetPeerDeviceLeInfo
    pncclLsaBarrierCreateRequirement pncclGinBarrierCreateRequirement pncclLLA2ACreateRequirement
    pncclGinOutboxCreateRequirement pncclGinInboxA2ACreateRequirement
}

/// Nobody: the team of a communicator that does not exist.
const NOBODY: Team = Team { rank_count: 0, rank: 0, stride: 0 };

/// Asks a communicator; if there is none, the last error says so, and the answer is `otherwise`.
fn ask<T: Copy>(call: &'static str, comm: CommHandle, otherwise: T, question: impl FnOnce(&Comm) -> T) -> T {
    wall::value(otherwise, || {
        let answer = handle::with(call, comm.addr(), |comm| {
            comm.check_born(call)?;
            Ok(question(comm))
        });
        answer.unwrap_or_else(|error| {
            error::set_last(&error);
            otherwise
        })
    })
}

/// Everybody.
fn world(comm: &Comm) -> Team {
    Team { rank_count: comm.ranks().cast_signed(), rank: comm.rank().cast_signed(), stride: 1 }
}

/// Those whose kernels reach each other's memory: each rank by itself.
const ALONE: Team = Team { rank_count: 1, rank: 0, stride: 1 };

#[unsafe(no_mangle)]
extern "C" fn pncclTeamWorld(comm: CommHandle) -> Team {
    ask("ncclTeamWorld", comm, NOBODY, world)
}

#[unsafe(no_mangle)]
extern "C" fn pncclTeamLsa(comm: CommHandle) -> Team {
    ask("ncclTeamLsa", comm, NOBODY, |_| ALONE)
}

/// One of each of the teams of [`pncclTeamLsa`]: everybody.
#[unsafe(no_mangle)]
extern "C" fn pncclTeamRail(comm: CommHandle) -> Team {
    ask("ncclTeamRail", comm, NOBODY, world)
}

#[unsafe(no_mangle)]
extern "C" fn pncclTeamCft(comm: CommHandle, _mode: c_int) -> Team {
    ask("ncclTeamCft", comm, NOBODY, |_| ALONE)
}

#[unsafe(no_mangle)]
extern "C" fn pncclTeamCftMultimem(comm: CommHandle) -> Team {
    ask("ncclTeamCftMultimem", comm, NOBODY, |_| ALONE)
}

/// Where `rank` of `team` stands if this rank is `own` there.
fn place(own: c_int, team: Team, rank: c_int) -> c_int {
    rank.wrapping_sub(team.rank).wrapping_mul(team.stride).wrapping_add(own)
}

#[unsafe(no_mangle)]
extern "C" fn pncclTeamRankToWorld(comm: CommHandle, team: Team, rank: c_int) -> c_int {
    ask("ncclTeamRankToWorld", comm, -1, |comm| place(comm.rank().cast_signed(), team, rank))
}

#[unsafe(no_mangle)]
extern "C" fn pncclTeamRankToLsa(comm: CommHandle, team: Team, rank: c_int) -> c_int {
    ask("ncclTeamRankToLsa", comm, -1, |_| place(ALONE.rank, team, rank))
}

/// Elements, each in slots of eight bytes.
#[unsafe(no_mangle)]
extern "C" fn pncclLLA2ACalcSlots(most_elements: c_int, most_element_bytes: c_int) -> c_int {
    let slots = (i64::from(most_element_bytes).max(0) + 7) / 8 * i64::from(most_elements).max(0);
    c_int::try_from(slots).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_team_are_found_by_its_stride() {
        let team = Team { rank_count: 3, rank: 1, stride: 4 };
        assert_eq!([0, 1, 2].map(|rank| place(5, team, rank)), [1, 5, 9]);
        place(c_int::MAX, Team { rank_count: 1, rank: c_int::MIN, stride: c_int::MAX }, c_int::MAX);
    }

    #[test]
    fn slots_hold_eight_bytes() {
        assert_eq!(
            [(4, 100), (4, 8), (3, 16), (-1, 8), (2, 0)].map(|(n, b)| pncclLLA2ACalcSlots(n, b)),
            [52, 4, 6, 0, 0]
        );
        assert_eq!(pncclLLA2ACalcSlots(c_int::MAX, c_int::MAX), c_int::MAX);
    }
}
