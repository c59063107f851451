//! What programs link against and this library does not do yet. Each answers at once and says so.
//!
//! None of these looks at an argument, so none names them: C's caller puts the arguments away itself.

use std::ffi::c_int;

use crate::abi::types::{ResultNumber, Team};
use crate::abi::wall;
use crate::error::Error;

#[cold]
pub(super) fn error(call: &'static str) -> Error {
    Error::usage(
        call,
        format_args!("{call} is not built yet in this library"),
        "do without it, or load NVIDIA's libnccl.so.2 for this program",
    )
}

/// Functions that answer ncclInvalidUsage, behind the wall of their kind.
macro_rules! unbuilt {
    ($wall:path: $($twin:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $twin() -> ResultNumber {
            // The name without the p of the twin.
            let call = stringify!($twin).split_at(1).1;
            $wall(call, || Err(error(call)))
        }
    )*};
}

// What may stand in a group, and spoils it.
unbuilt! { wall::grouped:
    pncclCommWindowRegister
    pncclAllReduceConfig pncclReduceConfig pncclBroadcastConfig pncclReduceScatterConfig
    pncclAllGatherConfig pncclAlltoAllConfig pncclGatherConfig pncclScatterConfig
    pncclPutSignal pncclSignal pncclWaitSignal
}

unbuilt! { wall::plain:
    pncclCommSuspend pncclCommResume pncclCommMemStats
    pncclSetEncryption
    pncclCommRegister pncclCommDeregister pncclCommWindowDeregister pncclWinGetUserPtr
    pncclParamBind pncclParamGet pncclParamGetStr pncclParamGetParameter pncclParamGetAllParameterKeys
    pncclParamGetI8 pncclParamGetI16 pncclParamGetI32 pncclParamGetI64
    pncclParamGetU8 pncclParamGetU16 pncclParamGetU32 pncclParamGetU64
    pncclCommQueryProperties pncclDevCommCreate pncclDevCommDestroy
    pncclGetLsaMultimemDevicePointer pncclGetMultimemDevicePointer pncclGetLsaDevicePointer
    pncclGetPeerDevicePointer
    pncclGetMultimemDeviceLeInfo pncclGetCftDeviceLeInfo pncclGetPeerDeviceLeInfo
    pncclLsaBarrierCreateRequirement pncclGinBarrierCreateRequirement pncclLLA2ACreateRequirement
    pncclGinOutboxCreateRequirement pncclGinInboxA2ACreateRequirement
}

/// Functions that have no result number and answer nothing.
macro_rules! empty {
    ($($twin:ident -> $answer:ty)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $twin() -> $answer {
            <$answer>::default()
        }
    )*};
}

empty! {
    pncclParamDumpAll -> ()
    pncclTeamWorld -> Team
    pncclTeamLsa -> Team
    pncclTeamRail -> Team
    pncclTeamCft -> Team
    pncclTeamCftMultimem -> Team
    pncclTeamRankToWorld -> c_int
    pncclTeamRankToLsa -> c_int
    pncclLLA2ACalcSlots -> c_int
}
