//! What passes the interface, as C lays it out. Numbers stay C integers until they are checked: an unknown
//! value must never become a Rust enum.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ncclResult_t`
pub(super) type ResultNumber = c_int;
/// `ncclComm_t`, never followed.
pub(super) type CommHandle = *mut c_void;
/// `cudaStream_t` and `shoalStream_t`, never followed.
pub(super) type StreamHandle = *mut c_void;

/// `ncclWindow_t`, never followed.
pub(super) type WindowHandle = *mut c_void;

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
    pub(super) rank_count: c_int,
    pub(super) rank: c_int,
    pub(super) stride: c_int,
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

/// `ncclConfigExt_t`: one option of one vendor. The value is a union of an int, a string and a pointer.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct ConfigOption {
    pub(super) next: *const ConfigOption,
    pub(super) vendor: c_int,
    pub(super) number: c_int,
    pub(super) value: *const c_void,
}

/// `ncclCollConfig_t` of 2.32.3.
#[repr(C)]
pub(super) struct CollectiveConfig {
    pub(super) size: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) extensions: *const ConfigOption,
    pub(super) min_ctas: c_int,
    pub(super) max_ctas: c_int,
    pub(super) nvls_ctas: c_int,
    pub(super) cga_cluster_size: c_int,
    pub(super) algorithm_selection: *const c_char,
    pub(super) force_algorithm_selection: c_int,
    pub(super) cta_policy: c_int,
    pub(super) user_profiler_tag: u64,
    pub(super) launch_completion_event: *const c_void,
}

/// `ncclWaitSignalDesc_t`
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct WaitDescription {
    pub(super) count: c_int,
    pub(super) peer: c_int,
    pub(super) number: c_int,
    pub(super) context: c_int,
}

/// `ncclEncryptionConfig_t`
#[repr(C)]
pub(super) struct EncryptionConfig {
    pub(super) size: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) mode: c_int,
    pub(super) key: *const c_char,
}

/// `ncclSimInfo_t`
#[repr(C)]
pub(super) struct Simulation {
    pub(super) size: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) estimated_us: f32,
}

/// `ncclCommProperties_t` of 2.32.3, with C's padding written out: all of it is copied.
#[repr(C)]
pub(super) struct CommProperties {
    pub(super) size: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) rank: c_int,
    pub(super) rank_count: c_int,
    pub(super) cuda_device: c_int,
    pub(super) nvml_device: c_int,
    pub(super) device_api_support: u8,
    pub(super) multimem_support: u8,
    pub(super) padding: [u8; 2],
    pub(super) gin_type: c_int,
    pub(super) lsa_team_count: c_int,
    pub(super) host_rma_support: u8,
    pub(super) padding_rma: [u8; 3],
    pub(super) railed_gin_type: c_int,
    pub(super) padding_gin: [u8; 4],
    pub(super) comm_hash: u64,
    pub(super) gin_min_stride: c_int,
    pub(super) gin_connection_type: c_int,
    pub(super) gin_support: [u8; 64],
    pub(super) device_comm_bytes: usize,
    pub(super) cft_support: u8,
    pub(super) cft_multicast_support: u8,
    pub(super) cft_counted_support: u8,
    pub(super) padding_end: [u8; 5],
}

macro_rules! lies_at {
    ($($field:ident $offset:literal),* $(,)?) => { lies_at! { Config: $($field $offset),* } };
    ($structure:ident: $($field:ident $offset:literal),* $(,)?) => {
        $(const _: () = assert!(std::mem::offset_of!($structure, $field) == $offset);)*
    };
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ConfigOption>() == 24 && size_of::<CollectiveConfig>() == 72);
#[cfg(target_pointer_width = "64")]
lies_at! { ConfigOption: next 0, vendor 8, number 12, value 16 }
#[cfg(target_pointer_width = "64")]
lies_at! { CollectiveConfig:
    size 0, magic 8, version 12, extensions 16, min_ctas 24, max_ctas 28, nvls_ctas 32, cga_cluster_size 36,
    algorithm_selection 40, force_algorithm_selection 48, cta_policy 52, user_profiler_tag 56,
    launch_completion_event 64,
}

const _: () = assert!(size_of::<UniqueIdArgument>() == 128 && align_of::<UniqueIdArgument>() == 1);
const _: () = assert!(size_of::<Team>() == 12 && size_of::<WaitDescription>() == 16);
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
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<EncryptionConfig>() == 32 && size_of::<Simulation>() == 24);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<CommProperties>() == 152);
#[cfg(target_pointer_width = "64")]
lies_at! { EncryptionConfig: size 0, magic 8, version 12, mode 16, key 24 }
#[cfg(target_pointer_width = "64")]
lies_at! { Simulation: size 0, magic 8, version 12, estimated_us 16 }
#[cfg(target_pointer_width = "64")]
lies_at! { CommProperties:
    rank 16, rank_count 20, cuda_device 24, nvml_device 28, device_api_support 32, multimem_support 33,
    gin_type 36, lsa_team_count 40, host_rma_support 44, railed_gin_type 48, comm_hash 56, gin_min_stride 64,
    gin_connection_type 68, gin_support 72, device_comm_bytes 136, cft_support 144, cft_multicast_support 145,
    cft_counted_support 146,
}
