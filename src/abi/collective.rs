//! The calls that move data: one path for all of them, made for each by its compiler.

use std::ffi::{c_int, c_void};

use crate::abi::convert::{bad, data_type, rank_of, stream_of};
use crate::abi::types::{CommHandle, ResultNumber, StreamHandle};
use crate::abi::wall;
use crate::comm::{Comm, handle};
use crate::error::{Code, Result};
use crate::group;
use crate::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};

/// A call as it came.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) source: *const c_void,
    pub(super) target: *mut c_void,
    pub(super) count: usize,
    pub(super) data_type: c_int,
    /// Of kinds that reduce.
    pub(super) operator: c_int,
    /// Of kinds that have a root or a peer.
    pub(super) peer: c_int,
    pub(super) comm: CommHandle,
    pub(super) stream: StreamHandle,
}

pub(super) const NO_OPERATOR: c_int = 0;
pub(super) const NO_PEER: c_int = 0;

/// Boundary, convert, call. The kind is a constant, so that each function keeps its own checks only.
#[inline(always)]
fn enqueue<const KIND: usize>(call: Call) -> ResultNumber {
    let (handle, kind) = (call.comm.addr(), const { Kind::ALL[KIND] });
    // No wall: nothing on this way can panic.
    if call.stream.is_null() && group::join(handle, |rank, ranks| plain(kind, &call, rank, ranks)) {
        return Code::Success as ResultNumber;
    }
    let Call { name, source, target, count, data_type, operator, peer, comm, stream } = call;
    alone::<KIND>(name, source, target, count, data_type, operator, peer, comm, stream)
}

/// A call by itself. Its arguments come one by one, so that what is before it does not have to store them.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "they stay in registers")]
fn alone<const KIND: usize>(
    name: &'static str,
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    let kind = const { Kind::ALL[KIND] };
    if !stream.is_null() {
        return long_way::<KIND>(&call);
    }
    let pass = || group::pass(comm.addr(), |rank, ranks| plain(kind, &call, rank, ranks));
    wall::unless(pass, || long_way::<KIND>(&call))
}

/// Any call, with every check and word.
#[inline(never)]
fn long_way<const KIND: usize>(call: &Call) -> ResultNumber {
    let handle = call.comm.addr();
    wall::grouped(call.name, || {
        handle::with(call.name, handle, |comm| {
            let op = convert(const { Kind::ALL[KIND] }, call, comm)?;
            group::submit(call.name, comm, handle, &op, stream_of(call.name, call.stream)?)
        })
    })
}

/// What [`convert`] makes of a call with nothing unusual about it.
#[inline(always)]
fn plain(kind: Kind, call: &Call, rank: u32, ranks: u32) -> Option<Op> {
    let data_type = *DataType::ALL.get(call.data_type as usize)?;
    let reduction = match kind.reduces() {
        true => *Reduction::BUILT_IN.get(call.operator as usize)?,
        false => Reduction::Sum,
    };
    // A negative number is a large one here.
    let peer = if kind.is_point_to_point() || kind.has_root() { call.peer as u32 } else { 0 };
    let is_given = match kind {
        Kind::Send => !call.source.is_null(),
        Kind::Recv => !call.target.is_null(),
        _ => !call.source.is_null() && !call.target.is_null(),
    };
    if peer >= ranks || call.count > SURELY_SOUND || !is_given {
        return None;
    }
    let (source, target) = (Address(call.source.addr()), Address(call.target.addr()));
    let shape = Shape { count: call.count, peer, kind, data_type, reduction, manner: Manner::PLAIN };
    Some(Op { shape: shape.at(source, target, rank), source, target, scalar: Scalar::None })
}

#[inline(always)]
pub(super) fn convert(kind: Kind, call: &Call, comm: &Comm) -> Result<Op> {
    let data_type = data_type(call.name, call.data_type)?;
    let (reduction, scalar) = match kind.reduces() {
        true => operator(call, comm, data_type)?,
        false => (Reduction::Sum, Scalar::None),
    };
    let peer = match kind {
        Kind::Send | Kind::Recv => rank_of(call.name, "peer", call.peer, comm.ranks())?,
        _ if kind.has_root() => rank_of(call.name, "root", call.peer, comm.ranks())?,
        _ => 0,
    };
    fits(kind, call, data_type, comm.ranks())?;
    memory_is_given(kind, call, comm.rank() == peer)?;
    let (source, target) = (Address(call.source.addr()), Address(call.target.addr()));
    let shape = Shape { count: call.count, peer, kind, data_type, reduction, manner: Manner::PLAIN };
    Ok(Op { shape: shape.at(source, target, comm.rank()), source, target, scalar })
}

#[inline(always)]
fn operator(call: &Call, comm: &Comm, data_type: DataType) -> Result<(Reduction, Scalar)> {
    let builtin = match call.operator {
        0 => Reduction::Sum,
        1 => Reduction::Prod,
        2 => Reduction::Max,
        3 => Reduction::Min,
        4 => Reduction::Avg,
        5.. => return comm.operator(call.name, call.operator, data_type),
        _ => {
            return bad(
                call.name,
                "op",
                format_args!("is {}", call.operator),
                "pass ncclSum (0) to ncclAvg (4), or what ncclRedOpCreatePreMulSum made",
            );
        }
    };
    Ok((builtin, Scalar::None))
}

/// Below this no count is too large for the most ranks there can be.
const SURELY_SOUND: usize = isize::MAX as usize / 8 / u32::MAX as usize;

/// No buffer of the call may be larger than memory can be: `ranks` counts of 8 bytes at most.
#[inline(always)]
fn fits(kind: Kind, call: &Call, data_type: DataType, ranks: u32) -> Result<()> {
    if call.count > SURELY_SOUND {
        fits_at_length(kind, call.name, call.count, data_type, ranks)
    } else {
        Ok(())
    }
}

#[cold]
#[inline(never)]
fn fits_at_length(
    kind: Kind,
    name: &'static str,
    count: usize,
    data_type: DataType,
    ranks: u32,
) -> Result<()> {
    let slices = match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast | Kind::Send | Kind::Recv => 1,
        Kind::AllGather | Kind::ReduceScatter | Kind::AlltoAll | Kind::Gather | Kind::Scatter => ranks,
    };
    let bytes = count as u128 * data_type.size_bytes() as u128 * u128::from(slices);
    if bytes <= isize::MAX as u128 {
        return Ok(());
    }
    bad(
        name,
        "count",
        format_args!("is {count}, which makes a buffer of {bytes} bytes"),
        "pass the count in elements, not negative, and no larger than memory is",
    )
}

/// NULL only where nothing is read, or written.
#[inline(always)]
fn memory_is_given(kind: Kind, call: &Call, is_root: bool) -> Result<()> {
    let (is_read, is_written) = match kind {
        Kind::Send => (true, false),
        Kind::Recv => (false, true),
        Kind::Broadcast | Kind::Scatter => (is_root, true),
        Kind::Reduce | Kind::Gather => (true, is_root),
        Kind::AllReduce | Kind::AllGather | Kind::ReduceScatter | Kind::AlltoAll => (true, true),
    };
    if call.count > 0 && (is_read && call.source.is_null() || is_written && call.target.is_null()) {
        return no_memory(call.name, call.count, is_read && call.source.is_null());
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn no_memory(name: &'static str, count: usize, is_source: bool) -> Result<()> {
    let argument = match (name, is_source) {
        ("ncclBcast", _) => "buff",
        (_, true) => "sendbuff",
        (_, false) => "recvbuff",
    };
    let problem = format_args!("is NULL, with a count of {count}");
    bad(name, argument, problem, "pass memory, or a count of 0")
}

/// # Safety
/// As for every call of this file: what the operation reads is readable and what it writes is writable, by
/// nobody else, until it is done. Everything else is checked.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAllReduce(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, peer) = ("ncclAllReduce", NO_PEER);
    enqueue::<{ Kind::AllReduce as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclReduce(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let name = "ncclReduce";
    enqueue::<{ Kind::Reduce as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclReduceScatter(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, peer) = ("ncclReduceScatter", NO_PEER);
    enqueue::<{ Kind::ReduceScatter as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// The broadcast in place.
///
/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclBcast(
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator, source) = ("ncclBcast", NO_OPERATOR, target.cast_const());
    enqueue::<{ Kind::Broadcast as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclBroadcast(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator) = ("ncclBroadcast", NO_OPERATOR);
    enqueue::<{ Kind::Broadcast as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAllGather(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator, peer) = ("ncclAllGather", NO_OPERATOR, NO_PEER);
    enqueue::<{ Kind::AllGather as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAlltoAll(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator, peer) = ("ncclAlltoAll", NO_OPERATOR, NO_PEER);
    enqueue::<{ Kind::AlltoAll as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclGather(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator) = ("ncclGather", NO_OPERATOR);
    enqueue::<{ Kind::Gather as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclScatter(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator) = ("ncclScatter", NO_OPERATOR);
    enqueue::<{ Kind::Scatter as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclSend(
    source: *const c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator, target) = ("ncclSend", NO_OPERATOR, std::ptr::null_mut());
    enqueue::<{ Kind::Send as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}

/// # Safety
/// See [`pncclAllReduce`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclRecv(
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    let (name, operator, source) = ("ncclRecv", NO_OPERATOR, std::ptr::null());
    enqueue::<{ Kind::Recv as usize }>(Call {
        name,
        source,
        target,
        count,
        data_type,
        operator,
        peer,
        comm,
        stream,
    })
}
