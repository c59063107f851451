//! The functions of the library with the kinds of their arguments, and what each kind takes and refuses: data.
//!
//! A new function is a row of [`FUNCTIONS`]; a new kind of argument is a row of `good` and of `bad`.

use std::ffi::c_int;

use crate::World;

pub(crate) const INVALID_ARGUMENT: c_int = 4;
pub(crate) const INVALID_USAGE: c_int = 5;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// A live communicator.
    Comm,
    /// One of which NULL is accepted.
    CommOrNull,
    /// A place for an answer, by the name of the argument.
    Place(&'static str),
    /// Memory of the caller, which may not be NULL where something is counted.
    Memory(&'static str),
    /// A number of elements.
    Count,
    Type,
    Operator,
    /// An operator that was made.
    Made,
    Root,
    Peer,
    Stream,
    /// A stream whose NULL has nothing left to do.
    StreamHandle,
    /// How many ranks, and which of them.
    Ranks,
    Rank,
    /// A unique id, by value.
    Id,
    Config,
    Devices,
    /// How many devices.
    DeviceCount,
    Scalar,
    Residence,
    /// Bytes of memory to free.
    Freed,
    Key,
    Handle,
    /// The room in a buffer.
    Room,
    /// The room in a list of counters.
    CounterRoom,
    /// How many ids, and where they lie.
    IdCount,
    Ids,
    Color,
    /// Ranks that are left out; alone nobody can be.
    Excluded,
    ShrinkFlags,
    RevokeFlags,
    /// How many ranks there will be, and what a rank passes that is there already.
    GrownRanks,
    KeptRank,
    SuspendFlags,
    /// Which number about memory.
    Statistic,
    Properties,
    Encryption,
    /// The text of a table; NULL is none.
    TableText,
    /// A buffer to register, and its bytes.
    Buffer,
    Size,
    /// A handle to end, of which NULL is accepted: of a buffer, of a window.
    Registered,
    Closed,
    /// A window, by the name of the argument.
    Window(&'static str),
    WindowFlags,
    Offset,
    Signal,
    Context,
    SignalFlags,
    /// How many signals are waited for, and which.
    WaitCount,
    Waits,
    Wishes,
    /// Anything goes; here it is 0, or 1.
    Any,
    AnyOne,
}

/// A function: its name, whether a bad call spoils an open group, its arguments.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) address: Address,
    pub(crate) spoils_group: bool,
    pub(crate) arguments: &'static [Arg],
}

/// All arguments as the registers and stack slots that C puts them into.
pub(crate) type Words = unsafe extern "C" fn(
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
) -> c_int;

pub(crate) type Any = unsafe extern "C" fn();
type WithId = unsafe extern "C" fn(usize, usize, Id, usize, usize) -> c_int;

#[derive(Clone, Copy)]
pub(crate) enum Address {
    /// Whose arguments are all numbers and pointers.
    Plain(Any),
    /// With a unique id by value behind two others.
    WithId(Any),
}

impl Address {
    pub(crate) fn call(self, words: [usize; 12], id: Id) -> c_int {
        match self {
            // SAFETY: C on 64-bit machines puts whole numbers and pointers of any count into the same places,
            // whatever their types, and callees pass over what they do not take. What the words point to is alive.
            Address::Plain(function) => unsafe {
                let function = std::mem::transmute::<Any, Words>(function);
                let [a, b, c, d, e, f, g, h, i, j, k, l] = words;
                function(a, b, c, d, e, f, g, h, i, j, k, l)
            },
            // SAFETY: likewise; an id is passed as C passes a structure of its size.
            Address::WithId(function) => unsafe {
                let function = std::mem::transmute::<Any, WithId>(function);
                function(words[0], words[1], id, words[3], words[4])
            },
        }
    }
}

/// `ncclUniqueId`
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Id(pub(crate) [u8; 128]);

macro_rules! functions {
    ($($how:ident $spoils:literal $twin:ident: $name:literal [$($argument:expr),*];)*) => {
        unsafe extern "C" {
            $(fn $twin();)*
        }
        pub(crate) const FUNCTIONS: &[Function] = &[$(Function {
            name: $name,
            address: Address::$how($twin),
            spoils_group: $spoils,
            arguments: {
                #[allow(unused_imports, reason = "some functions have no arguments")]
                use Arg::*;
                &[$($argument),*]
            },
        }),*];
    };
}

// How it is called, whether a bad call spoils an open group, the strong name, the name in messages, arguments.
functions! {
    Plain false pncclGetVersion: "ncclGetVersion" [Place("version")];
    Plain false pncclGetUniqueId: "ncclGetUniqueId" [Place("uniqueId")];
    WithId true pncclCommInitRank: "ncclCommInitRank" [Place("comm"), Ranks, Id, Rank];
    WithId true pncclCommInitRankConfig: "ncclCommInitRankConfig" [Place("comm"), Ranks, Id, Rank, Config];
    Plain true pncclCommInitRankScalable: "ncclCommInitRankScalable"
        [Place("comm"), Ranks, Rank, IdCount, Ids, Config];
    Plain true pncclCommSplit: "ncclCommSplit" [Comm, Color, Any, Place("newcomm"), Config];
    Plain true pncclCommShrink: "ncclCommShrink" [Comm, Excluded, AnyOne, Place("newcomm"), Any, ShrinkFlags];
    Plain true pncclCommGrow: "ncclCommGrow" [CommOrNull, GrownRanks, Any, KeptRank, Place("newcomm"), Config];
    Plain false pncclCommGetUniqueId: "ncclCommGetUniqueId" [Comm, Place("uniqueId")];
    Plain false pncclCommRevoke: "ncclCommRevoke" [Comm, RevokeFlags];
    Plain true pncclCommInitAll: "ncclCommInitAll" [Place("comm"), DeviceCount, Devices];
    Plain false pncclCommFinalize: "ncclCommFinalize" [CommOrNull];
    Plain false pncclCommDestroy: "ncclCommDestroy" [CommOrNull];
    Plain false pncclCommAbort: "ncclCommAbort" [CommOrNull];
    Plain false pncclCommGetAsyncError: "ncclCommGetAsyncError" [Comm, Place("asyncError")];
    Plain false pncclCommCount: "ncclCommCount" [Comm, Place("count")];
    Plain false pncclCommCuDevice: "ncclCommCuDevice" [Comm, Place("device")];
    Plain false pncclCommUserRank: "ncclCommUserRank" [Comm, Place("rank")];
    Plain false pncclMemAlloc: "ncclMemAlloc" [Place("ptr"), Any];
    Plain false pncclMemFree: "ncclMemFree" [Freed];
    Plain false pncclRedOpCreatePreMulSum: "ncclRedOpCreatePreMulSum" [Place("op"), Scalar, Type, Residence, Comm];
    Plain false pncclRedOpDestroy: "ncclRedOpDestroy" [Made, Comm];
    Plain true pncclAllReduce: "ncclAllReduce"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Comm, Stream];
    Plain true pncclReduce: "ncclReduce"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Root, Comm, Stream];
    Plain true pncclBcast: "ncclBcast" [Memory("buff"), Count, Type, Root, Comm, Stream];
    Plain true pncclBroadcast: "ncclBroadcast"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream];
    Plain true pncclReduceScatter: "ncclReduceScatter"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Comm, Stream];
    Plain true pncclAllGather: "ncclAllGather" [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Comm, Stream];
    Plain true pncclAlltoAll: "ncclAlltoAll" [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Comm, Stream];
    Plain true pncclGather: "ncclGather"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream];
    Plain true pncclScatter: "ncclScatter"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream];
    Plain true pncclSend: "ncclSend" [Memory("sendbuff"), Count, Type, Peer, Comm, Stream];
    Plain true pncclRecv: "ncclRecv" [Memory("recvbuff"), Count, Type, Peer, Comm, Stream];
    Plain false pncclParamBind: "ncclParamBind" [Place("out"), Key];
    Plain false pncclParamGetI8: "ncclParamGetI8" [Handle, Place("out")];
    Plain false pncclParamGetI16: "ncclParamGetI16" [Handle, Place("out")];
    Plain false pncclParamGetI32: "ncclParamGetI32" [Handle, Place("out")];
    Plain false pncclParamGetI64: "ncclParamGetI64" [Handle, Place("out")];
    Plain false pncclParamGetU8: "ncclParamGetU8" [Handle, Place("out")];
    Plain false pncclParamGetU16: "ncclParamGetU16" [Handle, Place("out")];
    Plain false pncclParamGetU32: "ncclParamGetU32" [Handle, Place("out")];
    Plain false pncclParamGetU64: "ncclParamGetU64" [Handle, Place("out")];
    Plain false pncclParamGetStr: "ncclParamGetStr" [Handle, Place("out")];
    Plain false pncclParamGet: "ncclParamGet" [Handle, Place("out"), Room, Place("len")];
    Plain false pncclParamGetParameter: "ncclParamGetParameter" [Key, Place("value"), Place("valueLen")];
    Plain false pncclParamGetAllParameterKeys: "ncclParamGetAllParameterKeys"
        [Place("table"), Place("tableLen")];
    Plain false pncclCommSuspend: "ncclCommSuspend" [Comm, SuspendFlags];
    Plain false pncclCommResume: "ncclCommResume" [Comm];
    Plain false pncclCommMemStats: "ncclCommMemStats" [Comm, Statistic, Place("value")];
    Plain false pncclCommQueryProperties: "ncclCommQueryProperties" [Comm, Properties];
    Plain false pncclSetEncryption: "ncclSetEncryption" [Encryption];
    Plain false pncclCommRegister: "ncclCommRegister" [Comm, Buffer, Size, Place("handle")];
    Plain false pncclCommDeregister: "ncclCommDeregister" [Comm, Registered];
    Plain true pncclCommWindowRegister: "ncclCommWindowRegister"
        [Comm, Buffer, Size, Place("win"), WindowFlags];
    Plain false pncclCommWindowDeregister: "ncclCommWindowDeregister" [Comm, Closed];
    Plain false pncclWinGetUserPtr: "ncclWinGetUserPtr" [Comm, Window("win"), Place("outUserPtr")];
    Plain true pncclPutSignal: "ncclPutSignal"
        [Memory("localbuff"), Count, Type, Peer, Window("peerWin"), Offset, Signal, Context, SignalFlags, Comm, Stream];
    Plain true pncclSignal: "ncclSignal" [Peer, Signal, Context, SignalFlags, Comm, Stream];
    Plain true pncclWaitSignal: "ncclWaitSignal" [WaitCount, Waits, Comm, Stream];
    Plain true pncclAllReduceConfig: "ncclAllReduceConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Comm, Stream, Wishes];
    Plain true pncclReduceConfig: "ncclReduceConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Root, Comm, Stream, Wishes];
    Plain true pncclBroadcastConfig: "ncclBroadcastConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream, Wishes];
    Plain true pncclReduceScatterConfig: "ncclReduceScatterConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Operator, Comm, Stream, Wishes];
    Plain true pncclAllGatherConfig: "ncclAllGatherConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Comm, Stream, Wishes];
    Plain true pncclAlltoAllConfig: "ncclAlltoAllConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Comm, Stream, Wishes];
    Plain true pncclGatherConfig: "ncclGatherConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream, Wishes];
    Plain true pncclScatterConfig: "ncclScatterConfig"
        [Memory("sendbuff"), Memory("recvbuff"), Count, Type, Root, Comm, Stream, Wishes];
    Plain false shoalCommCounters: "shoalCommCounters" [Comm, Place("out"), CounterRoom, Place("count")];
    Plain false shoalCommSetTable: "shoalCommSetTable" [Comm, TableText];
    Plain false shoalStreamCreate: "shoalStreamCreate" [Place("stream")];
    Plain false shoalStreamSynchronize: "shoalStreamSynchronize" [StreamHandle];
    Plain false shoalStreamQuery: "shoalStreamQuery" [StreamHandle];
    Plain false shoalStreamDestroy: "shoalStreamDestroy" [StreamHandle];
}

/// Functions without a row above. They take any argument, have cases of their own in `main.rs`, or refuse all.
pub(crate) const WITHOUT_ROW: &[&str] = &[
    // Any argument will do.
    "ncclGetErrorString",
    "ncclGetLastError",
    "ncclResetDebugInit",
    "ncclResetDebugInitInternal",
    "ncclParamDumpAll",
    // Cases of their own: groups.
    "ncclGroupStart",
    "ncclGroupEnd",
    "ncclGroupSimulateEnd",
    // Need a GPU, whatever is passed.
    "ncclDevCommCreate",
    "ncclDevCommDestroy",
    "ncclGetLsaMultimemDevicePointer",
    "ncclGetMultimemDevicePointer",
    "ncclGetLsaDevicePointer",
    "ncclGetPeerDevicePointer",
    "ncclGetMultimemDeviceLeInfo",
    "ncclGetCftDeviceLeInfo",
    "ncclGetPeerDeviceLeInfo",
    "ncclLsaBarrierCreateRequirement",
    "ncclGinBarrierCreateRequirement",
    "ncclLLA2ACreateRequirement",
    "ncclGinOutboxCreateRequirement",
    "ncclGinInboxA2ACreateRequirement",
    // Have no result number.
    "ncclTeamWorld",
    "ncclTeamLsa",
    "ncclTeamRail",
    "ncclTeamCft",
    "ncclTeamCftMultimem",
    "ncclTeamRankToWorld",
    "ncclTeamRankToLsa",
    "ncclLLA2ACalcSlots",
];

/// A value that is refused: the value, the code, and what the last error names.
pub(crate) struct Bad {
    pub(crate) value: usize,
    pub(crate) code: c_int,
    pub(crate) names: &'static str,
}

const fn bad(value: usize, names: &'static str) -> Bad {
    Bad { value, code: INVALID_ARGUMENT, names }
}

/// A C int as it lies in a register.
const fn int(value: c_int) -> usize {
    value.cast_unsigned() as usize
}

/// A value that is taken, on a world of one rank.
pub(crate) fn good(argument: Arg, world: &World) -> usize {
    match argument {
        Arg::Comm | Arg::CommOrNull => world.comm,
        Arg::Place(_) => world.place.as_ptr().addr(),
        Arg::Memory(_) => world.memory.as_ptr().addr(),
        Arg::Count | Arg::Ranks | Arg::DeviceCount => 1,
        Arg::Type => int(7),
        Arg::Made => int(world.operator),
        Arg::Key => c"SHOAL_SPIN".as_ptr().addr(),
        Arg::Handle => world.handle,
        Arg::Room => int(64),
        Arg::CounterRoom => int(8),
        Arg::Scalar => world.memory.as_ptr().addr(),
        Arg::Residence => int(1),
        Arg::Any => 0,
        Arg::IdCount | Arg::AnyOne => 1,
        Arg::Ids => world.ids.as_ptr().addr(),
        Arg::Excluded => world.memory.as_ptr().addr(),
        Arg::GrownRanks => 2,
        Arg::KeptRank => int(-1),
        Arg::Color | Arg::ShrinkFlags | Arg::RevokeFlags => 0,
        Arg::Operator | Arg::Root | Arg::Peer | Arg::Rank | Arg::Id => 0,
        Arg::Stream | Arg::StreamHandle | Arg::Config | Arg::Devices | Arg::Freed => 0,
        Arg::SuspendFlags | Arg::Statistic | Arg::WaitCount => 1,
        Arg::Properties | Arg::Encryption | Arg::Buffer => world.memory.as_ptr().addr(),
        Arg::TableText => 0,
        Arg::Size => 8,
        Arg::Window(_) => world.window,
        Arg::Waits => world.waits.as_ptr().addr(),
        Arg::Registered | Arg::Closed | Arg::WindowFlags | Arg::Offset | Arg::Wishes => 0,
        Arg::Signal | Arg::Context | Arg::SignalFlags => 0,
    }
}

/// The values that are refused.
pub(crate) fn refused(argument: Arg, world: &World) -> Vec<Bad> {
    let handles =
        |name| vec![bad(world.ended_stream, name), bad(16, name), bad(usize::MAX, name), bad(1, name)];
    match argument {
        Arg::Comm => {
            let mut list = refused(Arg::CommOrNull, world);
            list.push(bad(0, "comm is NULL"));
            list
        }
        Arg::CommOrNull => vec![
            bad(world.ended, "was destroyed or aborted"),
            bad(world.memory.as_ptr().addr(), "is no communicator of this library"),
            bad(16, "is no communicator of this library"),
            bad(usize::MAX, "is no communicator of this library"),
            bad(world.comm + 1, "comm"),
        ],
        Arg::Place(name) | Arg::Memory(name) => vec![bad(0, name)],
        Arg::Count => vec![bad(usize::MAX, "count"), bad(isize::MAX as usize, "count")],
        Arg::Type => [-1, 12, 13, c_int::MIN, c_int::MAX].map(|value| bad(int(value), "datatype is ")).into(),
        Arg::Operator => {
            [-1, world.operator + 1, 77, c_int::MIN, c_int::MAX].map(|value| bad(int(value), "op")).into()
        }
        Arg::Made => [-1, 0, 4, 77, c_int::MAX].map(|value| bad(int(value), "op")).into(),
        Arg::Root => [-1, 1, c_int::MIN, c_int::MAX].map(|value| bad(int(value), "root is ")).into(),
        Arg::Peer => [-1, 1, c_int::MIN, c_int::MAX].map(|value| bad(int(value), "peer is ")).into(),
        Arg::Stream | Arg::StreamHandle => handles("stream"),
        Arg::Ranks => [0, -1, c_int::MIN].map(|value| bad(int(value), "nranks is ")).into(),
        Arg::Rank => [-1, 1, c_int::MIN, c_int::MAX].map(|value| bad(int(value), "rank is ")).into(),
        // The value is the number of an id of the world.
        Arg::Id => (1..world.ids.len()).map(|index| bad(index, "unique id")).collect(),
        Arg::Config => world.configs.iter().map(|config| bad(config.as_ptr().addr(), "config")).collect(),
        Arg::Devices => vec![bad(world.devices.as_ptr().addr(), "devlist")],
        Arg::DeviceCount => [-1, c_int::MIN].map(|value| bad(int(value), "ndev")).into(),
        Arg::Scalar => vec![bad(0, "scalar")],
        Arg::Residence => [-1, 2, c_int::MAX].map(|value| bad(int(value), "residence")).into(),
        Arg::Freed => vec![bad(world.memory.as_ptr().addr(), "ptr"), bad(16, "ptr")],
        Arg::Key => vec![
            bad(0, "key"),
            bad(c"".as_ptr().addr(), "key"),
            bad(c"NCCL_IB_HCA".as_ptr().addr(), "NCCL_IB_HCA is ignored here"),
            bad(c"SHOAL_NOTHING".as_ptr().addr(), "\"SHOAL_NOTHING\" is no setting"),
        ],
        Arg::Handle => {
            vec![bad(0, "h"), bad(16, "h"), bad(usize::MAX, "h"), bad(world.memory.as_ptr().addr(), "h")]
        }
        Arg::CounterRoom => [-1, c_int::MIN].map(|value| bad(int(value), "room")).into(),
        Arg::Room => [-1, 0, 3].map(|value| bad(int(value), "maxLen")).into(),
        Arg::IdCount => [0, -1, 2, c_int::MAX].map(|value| bad(int(value), "nId is ")).into(),
        Arg::Ids => vec![bad(0, "commIds")],
        Arg::Color => [-2, c_int::MIN].map(|value| bad(int(value), "color is ")).into(),
        Arg::Excluded => {
            vec![bad(0, "excludeRanksList"), bad(world.memory.as_ptr().addr(), "excludeRanksList")]
        }
        Arg::ShrinkFlags => [-1, 2, c_int::MAX].map(|value| bad(int(value), "shrinkFlags is ")).into(),
        Arg::RevokeFlags => [-1, 1, c_int::MAX].map(|value| bad(int(value), "revokeFlags is ")).into(),
        Arg::GrownRanks => [-1, c_int::MIN, 0, 1].map(|value| bad(int(value), "nRanks is ")).into(),
        Arg::KeptRank => [-2, 0, 1, c_int::MAX].map(|value| bad(int(value), "rank is ")).into(),
        other => refused_here(other, world),
    }
}

/// Those of memory, windows, signals and wishes.
fn refused_here(argument: Arg, world: &World) -> Vec<Bad> {
    match argument {
        Arg::SuspendFlags => [-1, 2, c_int::MAX].map(|value| bad(int(value), "flags is ")).into(),
        Arg::Statistic => [-1, 4, c_int::MAX].map(|value| bad(int(value), "stat is ")).into(),
        Arg::Properties => {
            let blank = world.memory.as_ptr().addr();
            vec![bad(0, "props is NULL"), Bad { value: blank, code: INVALID_USAGE, names: "props" }]
        }
        Arg::TableText => {
            vec![bad(c"[[column]]".as_ptr().addr(), "table is wrong: table:1: [[column]] is unknown")]
        }
        Arg::Encryption => vec![bad(0, "config is NULL"), bad(world.memory.as_ptr().addr(), "config")],
        Arg::Buffer => vec![bad(0, "buff is NULL")],
        Arg::Size => vec![bad(0, "size is "), bad(usize::MAX, "size is ")],
        Arg::Registered => windows(world, "handle"),
        Arg::Closed => windows(world, "win").into_iter().filter(|bad| bad.value != world.window).collect(),
        Arg::Window(name) => {
            let mut list = windows(world, name);
            list.retain(|bad| bad.value != world.window);
            list.push(bad(0, name));
            list
        }
        Arg::WindowFlags => [-1, 16, c_int::MIN].map(|value| bad(int(value), "winFlags is ")).into(),
        Arg::Offset => vec![bad(usize::MAX, "peerWinOffset is "), bad(253, "peerWinOffset is ")],
        Arg::Signal => [-1, 64, c_int::MIN].map(|value| bad(int(value), "sigIdx is ")).into(),
        Arg::Context => [-1, 16, c_int::MAX].map(|value| bad(int(value), "ctx is ")).into(),
        Arg::SignalFlags => vec![bad(1, "flags is ")],
        Arg::WaitCount => [0, -1, c_int::MIN].map(|value| bad(int(value), "nDesc is ")).into(),
        Arg::Waits => vec![bad(0, "signalDescs"), bad(world.memory.as_ptr().addr(), "signalDescs")],
        Arg::Wishes => world.wishes.iter().map(|wish| bad(wish.as_ptr().addr(), "config")).collect(),
        _ => Vec::new(),
    }
}

/// What is no registered buffer: a live window, one that was closed, and what was never a handle.
fn windows(world: &World, name: &'static str) -> Vec<Bad> {
    let values =
        [world.window, world.ended_window, 16, usize::MAX, world.memory.as_ptr().addr(), world.window + 1];
    values.map(|value| bad(value, name)).into()
}
