//! The weak `ncclX` beside each strong `pncclX`. Stable Rust has no weak functions, so each is one jump, in
//! the assembler's words.
//!
//! That they leave the library is the linker's doing: `link/shoal.map`.

use std::arch::global_asm;

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    () => {
        "jmp"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    () => {
        "b"
    };
}

macro_rules! weak {
    ($($name:ident)*) => {$(
        global_asm!(
            concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
            ".balign 16",
            concat!(".weak ", stringify!($name)),
            concat!(".type ", stringify!($name), ",@function"),
            concat!(stringify!($name), ":"),
            ".cfi_startproc",
            concat!(jump!(), " p", stringify!($name)),
            ".cfi_endproc",
            concat!(".size ", stringify!($name), ",.-", stringify!($name)),
            ".popsection",
        );
    )*};
}

weak! {
    ncclAllGather ncclAllGatherConfig ncclAllReduce ncclAllReduceConfig ncclAlltoAll ncclAlltoAllConfig
    ncclBcast ncclBroadcast ncclBroadcastConfig ncclCommAbort ncclCommCount ncclCommCuDevice
    ncclCommDeregister ncclCommDestroy ncclCommFinalize ncclCommGetAsyncError ncclCommGetUniqueId
    ncclCommGrow ncclCommInitAll ncclCommInitRank ncclCommInitRankConfig ncclCommInitRankScalable
    ncclCommMemStats ncclCommQueryProperties ncclCommRegister ncclCommResume ncclCommRevoke ncclCommShrink
    ncclCommSplit ncclCommSuspend ncclCommUserRank ncclCommWindowDeregister ncclCommWindowRegister
    ncclDevCommCreate ncclDevCommDestroy ncclGather ncclGatherConfig ncclGetCftDeviceLeInfo
    ncclGetErrorString ncclGetLastError ncclGetLsaDevicePointer ncclGetLsaMultimemDevicePointer
    ncclGetMultimemDeviceLeInfo ncclGetMultimemDevicePointer ncclGetPeerDeviceLeInfo
    ncclGetPeerDevicePointer ncclGetUniqueId ncclGetVersion ncclGinBarrierCreateRequirement
    ncclGinInboxA2ACreateRequirement ncclGinOutboxCreateRequirement ncclGroupEnd ncclGroupSimulateEnd
    ncclGroupStart ncclLLA2ACalcSlots ncclLLA2ACreateRequirement ncclLsaBarrierCreateRequirement
    ncclMemAlloc ncclMemFree ncclParamBind ncclParamDumpAll ncclParamGet ncclParamGetAllParameterKeys
    ncclParamGetI16 ncclParamGetI32 ncclParamGetI64 ncclParamGetI8 ncclParamGetParameter ncclParamGetStr
    ncclParamGetU16 ncclParamGetU32 ncclParamGetU64 ncclParamGetU8 ncclPutSignal ncclRecv
    ncclRedOpCreatePreMulSum ncclRedOpDestroy ncclReduce ncclReduceConfig ncclReduceScatter
    ncclReduceScatterConfig ncclResetDebugInit ncclScatter ncclScatterConfig ncclSend ncclSetEncryption
    ncclSignal ncclTeamCft ncclTeamCftMultimem ncclTeamLsa ncclTeamRail ncclTeamRankToLsa
    ncclTeamRankToWorld ncclTeamWorld ncclWaitSignal ncclWinGetUserPtr
}
