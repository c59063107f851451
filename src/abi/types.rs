//! What passes the interface, as C lays it out. Numbers stay C integers until they are checked: an unknown
//! value must never become a Rust enum.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ncclResult_t`
pub(super) type ResultNumber = c_int;
/// `ncclComm_t`, never followed.
pub(super) type CommHandle = *mut c_void;
/// `cudaStream_t` and `shoalStream_t`, never followed.
pub(super) type StreamHandle = *mut c_void;

/// `NCCL_CONFIG_UNDEF_INT`
pub(super) const UNDEFINED: c_int = c_int::MIN;
/// `NCCL_API_MAGIC`
pub(super) const MAGIC: c_uint = 0xcafe_beef;

/// `ncclUniqueId`, passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueIdArgument {
    pub(super) internal: [u8; 128],
}

/// `ncclTeam_t`, returned by value.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Team {
    rank_count: c_int,
    rank: c_int,
    stride: c_int,
}

/// `ncclConfig_t` of 2.32.3. Callers may have a shorter or a longer one, and say so in `size`.
#[repr(C)]
pub(super) struct Config {
    pub(super) size: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) blocking: c_int,
    pub(super) cga_cluster_size: c_int,
    pub(super) min_ctas: c_int,
    pub(super) max_ctas: c_int,
    pub(super) net_name: *const c_char,
    pub(super) split_share: c_int,
    pub(super) traffic_class: c_int,
    pub(super) comm_name: *const c_char,
    pub(super) collnet_enable: c_int,
    pub(super) cta_policy: c_int,
    pub(super) shrink_share: c_int,
    pub(super) nvls_ctas: c_int,
    pub(super) channels_per_net_peer: c_int,
    pub(super) nvlink_centric_sched: c_int,
    pub(super) graph_usage_mode: c_int,
    pub(super) rma_context_count: c_int,
    pub(super) max_p2p_peers: c_int,
    pub(super) graph_stream_ordering: c_int,
    pub(super) launch_order_implicit: c_int,
    pub(super) rma_signal_count: c_int,
    pub(super) rma_eager_init: c_int,
    pub(super) host_cft_mode: c_int,
    pub(super) nvls_host_mode: c_int,
}

macro_rules! lies_at {
    ($($field:ident $offset:literal),* $(,)?) => {
        $(const _: () = assert!(std::mem::offset_of!(Config, $field) == $offset);)*
    };
}

const _: () = assert!(size_of::<UniqueIdArgument>() == 128 && align_of::<UniqueIdArgument>() == 1);
const _: () = assert!(size_of::<Team>() == 12);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Config>() == 120 && align_of::<Config>() == 8);
#[cfg(target_pointer_width = "64")]
lies_at! {
    size 0, magic 8, version 12, blocking 16, cga_cluster_size 20, min_ctas 24, max_ctas 28, net_name 32,
    split_share 40, traffic_class 44, comm_name 48, collnet_enable 56, cta_policy 60, shrink_share 64,
    nvls_ctas 68, channels_per_net_peer 72, nvlink_centric_sched 76, graph_usage_mode 80,
    rma_context_count 84, max_p2p_peers 88, graph_stream_ordering 92, launch_order_implicit 96,
    rma_signal_count 100, rma_eager_init 104, host_cft_mode 108, nvls_host_mode 112,
}
