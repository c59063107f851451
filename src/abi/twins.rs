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

/// The functions differ in their names and in which of operator and peer they have, in this order.
macro_rules! twins {
    ($($function:ident $name:literal $kind:ident [$($own:ident)*];)*) => {$(
        /// # Safety
        /// What the operation reads is readable and what it writes is writable, by nobody else, until it is done.
        /// `config` is NULL, or as its own size says, and its strings and its list of options end.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function(
            source: *const c_void,
            target: *mut c_void,
            count: usize,
            data_type: c_int,
            $($own: c_int,)*
            comm: CommHandle,
            stream: StreamHandle,
            config: *const CollectiveConfig,
        ) -> ResultNumber {
            let neither = Call {
                name: $name,
                source,
                target,
                count,
                data_type,
                operator: NO_OPERATOR,
                peer: NO_PEER,
                comm,
                stream,
            };
            let call = Call { $($own,)* ..neither };
            // SAFETY: passed on from this function's contract.
            unsafe { enqueue(Kind::$kind, &call, config) }
        }
    )*};
}

twins! {
    pncclAllReduceConfig "ncclAllReduceConfig" AllReduce [operator];
    pncclReduceConfig "ncclReduceConfig" Reduce [operator peer];
    pncclBroadcastConfig "ncclBroadcastConfig" Broadcast [peer];
    pncclReduceScatterConfig "ncclReduceScatterConfig" ReduceScatter [operator];
    pncclAllGatherConfig "ncclAllGatherConfig" AllGather [];
    pncclAlltoAllConfig "ncclAlltoAllConfig" AlltoAll [];
    pncclGatherConfig "ncclGatherConfig" Gather [peer];
    pncclScatterConfig "ncclScatterConfig" Scatter [peer];
}
