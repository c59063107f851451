//! What becomes of NCCL's own variables: names from its public documentation and source, 2.28 to 2.32.
//!
//! A variable that means here what it means there is an alias of a setting. A few are mapped: one value of
//! theirs is one value of a setting. All others are ignored, for a reason that is logged once.
#![forbid(unsafe_code)]

/// A value of a variable of NCCL that says what a value of a setting says.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
    /// The setting.
    pub setting: &'static str,
    /// The setting's value.
    pub becomes: &'static str,
}

const fn mapped(
    name: &'static str,
    value: &'static str,
    setting: &'static str,
    becomes: &'static str,
) -> Mapped {
    Mapped { name, value, setting, becomes }
}

/// Looked at after a setting's own name and its aliases.
pub const MAPPED: &[Mapped] = &[
    mapped("NCCL_P2P_DISABLE", "1", "SHOAL_CMA", "0"),
    mapped("NCCL_P2P_DISABLE", "1", "SHOAL_MAPPED", "0"),
    mapped("NCCL_P2P_LEVEL", "LOC", "SHOAL_CMA", "0"),
    mapped("NCCL_P2P_LEVEL", "LOC", "SHOAL_MAPPED", "0"),
];

/// Read where the files are looked for, or by the log itself.
pub const HONOURED: &[&str] = &["NCCL_CONF_FILE"];

/// Variables that change nothing, by the reason; a star stands for any ending.
#[derive(Clone, Copy, Debug)]
pub struct Ignored {
    /// Why, after "is ignored: ".
    pub reason: &'static str,
    /// Which.
    pub names: &'static [&'static str],
}

const fn ignored(reason: &'static str, names: &'static [&'static str]) -> Ignored {
    Ignored { reason, names }
}

/// Every variable of NCCL that changes nothing.
pub const IGNORED: &[Ignored] = &[
    ignored(
        "there are no GPU kernels whose launch or memory it could change",
        &[
            "NCCL_NTHREADS",
            "NCCL_LL128_NTHREADS",
            "NCCL_MIN_*",
            "NCCL_MAX_*",
            "NCCL_CGA_CLUSTER_SIZE",
            "NCCL_CTA_POLICY",
            "NCCL_NCHANNELS_PER_NET_PEER",
            "NCCL_UNPACK_DOUBLE_NCHANNELS",
            "NCCL_LAUNCH_*",
            "NCCL_MEM_SYNC_DOMAIN",
            "NCCL_SET_STACK_SIZE",
            "NCCL_SET_CPU_STACK_SIZE",
            "NCCL_L1_SHARED_MEMORY_CARVEOUT",
            "NCCL_WORK_*",
            "NCCL_CUMEM_*",
            "NCCL_DISABLE_MEM_MANAGER",
            "NCCL_ELASTIC_BUFFER_REGISTER",
            "NCCL_MULTI_SEGMENT_REGISTER",
            "NCCL_SINGLE_PROC_MEM_REG_ENABLE",
            "NCCL_LEGACY_CUDA_REGISTER",
            "NCCL_LOCAL_REGISTER",
            "NCCL_SHADOW_MEMPOOL_MAX_SIZE",
            "NCCL_GRAPH_*",
            "NCCL_GROUP_CUDA_STREAM",
            "NCCL_DEV_API_JIT",
            "NCCL_LSA_TEAM_SIZE",
            "NCCL_SYM_*",
            "NCCL_WIN_*",
            "NCCL_NUM_RMA_*",
            "NCCL_CE_*",
            "NCCL_CFT_*",
            "NCCL_HIER_CE_*",
            "NCCL_ENQUEUE_*",
            "NCCL_RMA_*",
            "NCCL_GIN_*",
            "NCCL_GDAKI_*",
            "NCCL_NVTX_DISABLE",
        ],
    ),
    ignored(
        "it is about links between GPUs",
        &[
            "NCCL_P2P_DISABLE",
            "NCCL_P2P_LEVEL",
            "NCCL_P2P_DIRECT_DISABLE",
            "NCCL_P2P_READ_ENABLE",
            "NCCL_P2P_USE_CUDA_MEMCPY",
            "NCCL_P2P_NVL_CHUNKSIZE",
            "NCCL_P2P_PCI_CHUNKSIZE",
            "NCCL_IGNORE_DISABLED_P2P",
            "NCCL_NVB_*",
            "NCCL_NVLS*",
            "NCCL_NVLINK_*",
            "NCCL_MNNVL_*",
            "NCCL_MLOPART_*",
            "NCCL_TOPO_*",
            "NCCL_PXN_*",
            "NCCL_P2P_PXN_LEVEL",
            "NCCL_LL128_C2C",
        ],
    ),
    ignored(
        "UCX carries what goes between machines, and has variables of its own",
        &[
            "NCCL_NET",
            "NCCL_NET_*",
            "NCCL_NETDEVS_POLICY",
            "NCCL_IB_*",
            "NCCL_IBVERBS_LIB",
            "NCCL_GDR*",
            "NCCL_DMABUF_ENABLE",
            "NCCL_CROSS_NIC",
            "NCCL_COLLNET_*",
            "NCCL_IGNORE_COLLNET_MISMATCH",
            "NCCL_IGNORE_NET_MISMATCH",
            "NCCL_SHARP_*",
            "NCCL_NSOCKS_PERTHREAD",
            "NCCL_SOCKET_NTHREADS",
            "NCCL_SOCKET_INLINE",
            "NCCL_SOCKET_MIN_TASKSIZE",
            "NCCL_SOCKET_RCVBUF",
            "NCCL_SOCKET_SNDBUF",
            "NCCL_ALLOC_P2P_NET_LL_BUFFERS",
            "NCCL_P2P_NET_CHUNKSIZE",
            "NCCL_P2P_PER_CHANNEL_*",
            "NCCL_PROXY_*",
            "NCCL_PROGRESS_APPENDOP_FREQ",
        ],
    ),
    ignored(
        "the meeting of the ranks has its own bounds (SHOAL_INIT_TIMEOUT) and its own order",
        &[
            "NCCL_SOCKET_MAGIC",
            "NCCL_SOCKET_POLL_TIMEOUT_MSEC",
            "NCCL_SOCKET_RETRY_CNT",
            "NCCL_SOCKET_RETRY_SLEEP_MSEC",
            "NCCL_OOB_NET_*",
            "NCCL_UID_STAGGER_*",
            "NCCL_CONNECT_ROUND_MAX_PEERS",
            "NCCL_REPORT_CONNECT_PROGRESS",
            "NCCL_RUNTIME_CONNECT",
            "NCCL_ENABLE_VERSION_CHECK",
            "NCCL_IPC_USE_ABSTRACT_SOCKET",
        ],
    ),
    ignored(
        "it loads or steers plugins of stock NCCL",
        &["NCCL_TUNER_*", "NCCL_PROFILER_PLUGIN", "NCCL_ENV_PLUGIN"],
    ),
    ignored(
        "it chooses among protocols and sizes of stock NCCL; SHOAL_ALGORITHM and SHOAL_BULK_BYTES are ours",
        &[
            "NCCL_PROTO",
            "NCCL_LL_*",
            "NCCL_LL128_BUFFSIZE",
            "NCCL_P2P_LL_THRESHOLD",
            "NCCL_P2P_EPOCH_ENABLE",
            "NCCL_P2P_MAX_PEERS",
            "NCCL_P2P_SCHEDULE_GROUP_SIZE",
            "NCCL_CHUNK_SIZE",
            "NCCL_PAT_*",
            "NCCL_ALLGATHERV_ENABLE",
            "NCCL_THREAD_THRESHOLDS",
            "NCCL_TREE_THRESHOLD",
            "NCCL_SINGLE_RING_THRESHOLD",
            "NCCL_COMM_SHRINK_SHARE_RESOURCES",
            "NCCL_COMM_SPLIT_SHARE_RESOURCES",
        ],
    ),
    ignored(
        "ranks of one machine have no other way than shared memory",
        &["NCCL_SHM_DISABLE", "NCCL_SHM_LOCALITY"],
    ),
    ignored(
        "what it asks for is always so",
        &[
            "NCCL_CHECKS_DISABLE",
            "NCCL_CHECK_MODE",
            "NCCL_CHECK_POINTERS",
            "NCCL_MULTI_RANK_GPU_ENABLE",
            "NCCL_SET_THREAD_NAME",
            "NCCL_PARAM_DUMP_ALL",
            "NCCL_NO_CACHE",
            "NCCL_WARN_ENABLE_DEBUG_INFO",
        ],
    ),
    ignored("no thread is bound to a core", &["NCCL_IGNORE_CPU_AFFINITY"]),
    ignored(
        "waits are watched by the ranks themselves (SHOAL_STALL_SECONDS)",
        &["NCCL_RAS_*", "NCCL_RUN_*", "NCCL_DIAGNOSTICS_*", "NCCL_PROGRESS_COUNTER*"],
    ),
    ignored(
        "the framework reads it, not the library",
        &[
            "NCCL_BLOCKING_WAIT",
            "NCCL_ASYNC_ERROR_HANDLING",
            "NCCL_DESYNC_DEBUG",
            "NCCL_ENABLE_TIMING",
            "NCCL_AVOID_RECORD_STREAMS",
            "NCCL_USE_*",
            "NCCL_ROOT*",
            "NCCL_HOME",
            "NCCL_DIR",
            "NCCL_LIB*",
            "NCCL_INCLUDE*",
            "NCCL_VERSION*",
            "NCCL_SO_PATH",
        ],
    ),
];

/// Why a variable of NCCL changes nothing; `None` for a name that NCCL has not.
pub fn reason(name: &str) -> Option<&'static str> {
    IGNORED.iter().find(|row| row.names.iter().any(|pattern| fits(pattern, name))).map(|row| row.reason)
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::super::SETTINGS;
    use super::*;

    fn is_alias(name: &str) -> bool {
        SETTINGS.iter().any(|row| row.aliases.contains(&name))
    }

    #[test]
    fn every_variable_of_nccl_has_a_fate() {
        let known = include_str!("../../tests/corpus/nccl-variables.txt");
        let known: Vec<_> = known.lines().filter(|line| line.starts_with("NCCL_")).collect();
        assert!(known.len() > 250, "{}", known.len());
        let has_fate = |name: &str| {
            is_alias(name)
                || HONOURED.contains(&name)
                || MAPPED.iter().any(|row| row.name == name)
                || reason(name).is_some()
        };
        let without: Vec<_> = known.iter().filter(|name| !has_fate(name)).collect();
        assert!(without.is_empty(), "say in src/config what becomes of {without:?}");
    }

    #[test]
    fn the_table_has_no_row_twice_and_no_setting() {
        let mut names: Vec<_> = IGNORED.iter().flat_map(|row| row.names).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for row in MAPPED {
            assert!(SETTINGS.iter().any(|setting| setting.name == row.setting), "{row:?}");
        }
    }

    #[test]
    fn what_is_honoured_is_not_called_ignored() {
        let ignored = |name: &&str| IGNORED.iter().any(|row| row.names.contains(name));
        let both: Vec<_> = SETTINGS.iter().flat_map(|row| row.aliases).filter(|name| ignored(name)).collect();
        assert!(both.is_empty(), "take these out of IGNORED and of the README's table: {both:?}");
    }

    #[test]
    fn stars_stand_for_endings() {
        assert!(reason("NCCL_IB_HCA").is_some_and(|reason| reason.contains("UCX")));
        assert!(reason("NCCL_NET").is_some() && reason("NCCL_NETWORK").is_none());
        assert_eq!(reason("NCCL_IDEA"), None);
    }
}
