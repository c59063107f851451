//! The collectives with wishes for the one call. NULL wishes nothing, and makes the call the plain one.

use std::ffi::{c_int, c_void};

use crate::abi::collective::{Call, NO_OPERATOR, NO_PEER, convert};
use crate::abi::collective_config::wishes;
use crate::abi::convert::stream_of;
use crate::abi::types::{CollectiveConfig, CommHandle, ResultNumber, StreamHandle};
use crate::abi::wall;
use crate::comm::handle;
use crate::group;
use crate::op::Kind;

/// Boundary, convert, call.
///
/// # Safety
/// `config` as [`wishes`] demands it.
unsafe fn enqueue(kind: Kind, call: &Call, config: *const CollectiveConfig) -> ResultNumber {
    wall::grouped(call.name, || {
        // SAFETY: the same contract. Before the communicator is looked at, as the interface has it.
        let wishes = unsafe { wishes(call.name, config) }?;
        handle::with(call.name, call.comm.addr(), |comm| {
            let mut op = convert(kind, call, comm)?;
            op.shape = op.shape.wishing(comm.wish(call.name, &op, &wishes.selection, wishes.forced)?);
            if wishes.alone {
                op.shape = op.shape.alone();
            }
            let stream = stream_of(call.name, call.stream)?;
            group::submit(call.name, comm, call.comm.addr(), &op, stream)
        })
    })
}

/// # Safety
/// What the operation reads is readable and what it writes is writable, by nobody else, until it is done.
/// `config` is NULL, or as its own size says, and its strings and its list of options end.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAllReduceConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, peer) = ("ncclAllReduceConfig", NO_PEER);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::AllReduce, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclReduceConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let name = "ncclReduceConfig";
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::Reduce, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclBroadcastConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, operator) = ("ncclBroadcastConfig", NO_OPERATOR);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::Broadcast, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclReduceScatterConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    operator: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, peer) = ("ncclReduceScatterConfig", NO_PEER);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::ReduceScatter, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAllGatherConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, operator, peer) = ("ncclAllGatherConfig", NO_OPERATOR, NO_PEER);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::AllGather, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclAlltoAllConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, operator, peer) = ("ncclAlltoAllConfig", NO_OPERATOR, NO_PEER);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::AlltoAll, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclGatherConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, operator) = ("ncclGatherConfig", NO_OPERATOR);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::Gather, &call, config) }
}

/// # Safety
/// See [`pncclAllReduceConfig`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclScatterConfig(
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
    config: *const CollectiveConfig,
) -> ResultNumber {
    let (name, operator) = ("ncclScatterConfig", NO_OPERATOR);
    let call = Call { name, source, target, count, data_type, operator, peer, comm, stream };
    // SAFETY: passed on from this function's contract.
    unsafe { enqueue(Kind::Scatter, &call, config) }
}
