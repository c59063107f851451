//! From facts to findings: what is wrong, why that matters, what to do. Pure.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::facts::{Facts, LibraryFact, Maker};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// Jobs run, and slower than they could, or not as somebody meant.
    Warning,
    /// Jobs fail, or run without this library.
    Fault,
}

/// Something that a person should know, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name for scripts.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

fn finding(
    id: &'static str,
    level: Level,
    what: impl Into<String>,
    why: impl Into<String>,
    remedy: impl Into<String>,
) -> Option<Finding> {
    Some(Finding { id, level, what: what.into(), why: why.into(), remedy: remedy.into() })
}

type Rule = fn(&Facts) -> Option<Finding>;

/// Every rule looks for one thing.
const RULES: &[Rule] = &[
    attach,
    files_in_memory,
    locked_memory,
    interface,
    few_files,
    group_memory,
    group_cores,
    mixed_libraries,
    ucx,
    net_plugin,
    own_library,
    one_core,
    huge_pages,
    settings,
];

/// All findings, the worst first.
#[must_use]
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().filter_map(|rule| rule(facts)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

/// Bytes, for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = count as f64;
    while rest >= 1024.0 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(rest.fract() != 0.0 && rest < 100.0);
    format!("{rest:.digits$} {}", UNITS[unit])
}

fn attach(facts: &Facts) -> Option<Finding> {
    let attach = &facts.attach;
    if attach.works {
        return None;
    }
    let remedy = match attach.yama_scope {
        Some(scope) if scope > 0 => {
            format!("set kernel.yama.ptrace_scope to 0 (sysctl -w kernel.yama.ptrace_scope=0); it is {scope}")
        }
        _ if attach.is_filtered => {
            "allow process_vm_readv in the filter of system calls: start the container with \
             --cap-add SYS_PTRACE, or with a seccomp profile that has it"
                .into()
        }
        _ => "run all ranks as the same user, in the same user namespace, with the same capabilities".into(),
    };
    finding(
        "cross-memory-attach",
        Level::Warning,
        format!("a process cannot read the memory of another one here: {}", attach.reason),
        "large messages, and memory of ncclMemAlloc, are copied twice, through shared memory, instead of once",
        remedy,
    )
}

fn files_in_memory(facts: &Facts) -> Option<Finding> {
    let problem = facts.shared.problem.as_ref()?;
    finding(
        "shared-memory",
        Level::Fault,
        format!("no files in memory can be made: {problem}"),
        "the ranks of a machine share such files (memfd_create); without them no communicator comes to life",
        "allow memfd_create in the filter of system calls, and raise the limit on open files (ulimit -n)",
    )
}

fn locked_memory(facts: &Facts) -> Option<Finding> {
    /// What network devices are commonly given as a ring and its buffers, for a few ranks.
    const ENOUGH_BYTES: u64 = 1 << 30;
    let limit = facts.limits.locked_bytes.filter(|limit| *limit < ENOUGH_BYTES)?;
    if facts.limits.may_lock_all {
        return None;
    }
    let devices = &facts.network.rdma_devices;
    let (level, why) = if devices.is_empty() {
        (
            Level::Note,
            "nothing here needs it: there is no device that reads and writes memory by itself".to_owned(),
        )
    } else {
        let names = devices.join(", ");
        (Level::Fault, format!("{names} can only send from locked memory, so that opening it fails"))
    };
    finding(
        "locked-memory",
        level,
        format!("only {} may be locked", bytes(limit)),
        why,
        "raise the limit: ulimit -l unlimited, LimitMEMLOCK=infinity for a service, --ulimit memlock=-1 for a container",
    )
}

fn interface(facts: &Facts) -> Option<Finding> {
    let network = &facts.network;
    let problem = network.problem.as_ref()?;
    let mut names: Vec<&str> = network.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    finding(
        "interface",
        Level::Fault,
        problem.clone(),
        "the ranks of a job meet over these interfaces; without one ncclGetUniqueId fails",
        if network.setting.is_empty() {
            "bring an interface up; for ranks of one machine the loopback suffices (ip link set lo up)"
                .to_owned()
        } else {
            format!("unset NCCL_SOCKET_IFNAME and SHOAL_SOCKET_IFNAME, or name one of {}", names.join(", "))
        },
    )
}

fn few_files(facts: &Facts) -> Option<Finding> {
    const ENOUGH: u64 = 1024;
    let files = facts.limits.files.filter(|files| *files < ENOUGH)?;
    finding(
        "open-files",
        Level::Warning,
        format!("this process may open {files} files"),
        "every communicator and every peer that it meets takes a few",
        "raise the limit: ulimit -n 65536",
    )
}

fn group_memory(facts: &Facts) -> Option<Finding> {
    let memory = &facts.memory;
    let limit = memory.group_bytes.filter(|limit| *limit < memory.total_bytes / 10 * 9)?;
    finding(
        "group-memory",
        Level::Warning,
        format!("the control group may use {} of the machine's {}", bytes(limit), bytes(memory.total_bytes)),
        "shared memory of all ranks counts too, and whoever goes beyond is killed by the kernel (exit code 137) \
         without a word",
        "give the container or the job more (--memory, or --mem of Slurm), or start fewer ranks; SHOAL_RING_BYTES bounds \
         what each pair of ranks takes",
    )
}

fn group_cores(facts: &Facts) -> Option<Finding> {
    let quota = facts.cores.quota.filter(|quota| *quota < facts.cores.allowed_count as f64)?;
    finding(
        "group-cores",
        Level::Warning,
        format!("the control group may keep {quota:.1} of {} cores busy", facts.cores.allowed_count),
        "ranks beyond that are stopped for the rest of each period (often 100 ms), and all others wait for them",
        "give the container or the job as many cores as ranks (--cpus, or --cpus-per-task of Slurm)",
    )
}

/// A library in a few words.
fn describe(library: &LibraryFact) -> String {
    let maker = match library.maker {
        Maker::Shoal => "Shoal",
        Maker::Nccl => "NVIDIA's NCCL",
        Maker::Unknown => "unknown",
    };
    let version = if library.version.is_empty() { "" } else { " " };
    format!("{} ({maker}{version}{})", library.path, library.version)
}

fn mixed_libraries(facts: &Facts) -> Option<Finding> {
    let mut kinds: Vec<((Maker, &str), &LibraryFact, Vec<u32>)> = Vec::new();
    for process in &facts.processes {
        // The first one that is loaded is the one whose functions are called.
        let Some(library) = process.libraries.first() else { continue };
        let kind = (library.maker, library.version.as_str());
        match kinds.iter_mut().find(|(known, _, _)| *known == kind) {
            Some((_, _, numbers)) => numbers.push(process.number),
            None => kinds.push((kind, library, vec![process.number])),
        }
    }
    if kinds.len() < 2 {
        return None;
    }
    let parts: Vec<String> = kinds
        .iter()
        .map(|(_, library, numbers)| {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            format!("{} in process {}", describe(library), numbers.join(", "))
        })
        .collect();
    finding(
        "mixed-libraries",
        Level::Fault,
        format!("processes have different libraries loaded: {}", parts.join("; ")),
        "ranks of one communicator need the same version: others are refused when they meet",
        "preload the same file everywhere: LD_PRELOAD=PREFIX/lib/libnccl.so.2 in the environment that the launcher \
         passes on (mpirun -x LD_PRELOAD, srun --export=ALL)",
    )
}

fn ucx(facts: &Facts) -> Option<Finding> {
    let ucx = &facts.libraries.ucx;
    if ucx.path.is_some() {
        return None;
    }
    finding(
        "ucx",
        Level::Note,
        format!("there is no UCX (libucp.so.0); looked in {}", ucx.looked.join(", ")),
        "ranks on different machines talk over it; ranks of one machine need none",
        "install it (Debian: libucx0; PyPI: libucx-cu12 or libucx-cu13), or put its folder into LD_LIBRARY_PATH",
    )
}

fn net_plugin(facts: &Facts) -> Option<Finding> {
    let libraries = &facts.libraries;
    let setting = &libraries.net_plugin_setting;
    if setting == "none" || (setting.is_empty() && libraries.net_plugin.path.is_none()) {
        return None;
    }
    let what = match (&libraries.net_plugin.path, setting.as_str()) {
        (Some(path), "") => format!("NCCL would load a network plugin: {path}"),
        (Some(path), name) => format!("NCCL_NET_PLUGIN={name} asks for a network plugin: {path}"),
        (None, name) => format!("NCCL_NET_PLUGIN={name} asks for a network plugin, which was not found"),
    };
    finding(
        "net-plugin",
        Level::Warning,
        what,
        "it is made for this cluster's network (EFA, GPUDirect-TCPX, SHARP, ...), and Shoal in NCCL's place does not load \
         it",
        "between machines keep stock NCCL for what the plugin carries (SHOAL_NCCL=/path/to/libnccl.so.2), or see that UCX \
         knows this network (ucx_info -d); NCCL_NET_PLUGIN=none says that you know",
    )
}

fn own_library(facts: &Facts) -> Option<Finding> {
    let is_preloaded = facts.preload.iter().any(|library| library.maker == Maker::Shoal);
    let mut what = Vec::new();
    if let Some(python) = facts.python.as_ref().filter(|_| !is_preloaded) {
        let whose = if python.has_torch { "torch" } else { "Python" };
        what.push(format!("{whose} in {} brings {}", python.packages, describe(&python.nccl)));
    }
    let program = facts.program.as_ref();
    if let Some((program, nccl)) = program.and_then(|program| Some((program, program.nccl.as_ref()?)))
        && nccl.maker != Maker::Shoal
    {
        what.push(format!("{} gets {}", program.path, describe(nccl)));
    }
    for process in &facts.processes {
        if let Some(first) = process.libraries.first().filter(|first| first.maker != Maker::Shoal) {
            what.push(format!("process {} runs with {}", process.number, describe(first)));
        }
    }
    if what.is_empty() {
        return None;
    }
    finding(
        "own-library",
        Level::Fault,
        what.join("; "),
        "an rpath inside torch and other programs leads to their own libnccl before LD_LIBRARY_PATH is looked at, so Shoal \
         is not used",
        "preload it: LD_PRELOAD=PREFIX/lib/libnccl.so.2 torchrun train.py (and pass LD_PRELOAD on to all ranks)",
    )
}

fn one_core(facts: &Facts) -> Option<Finding> {
    let cores = &facts.cores;
    if cores.online_count < 2 {
        return None;
    }
    let ranks: Vec<_> = facts.processes.iter().filter(|process| !process.allowed.is_empty()).collect();
    let is_single = |list: &str| list.parse::<u32>().is_ok();
    let what = match ranks.as_slice() {
        [first, .., _]
            if is_single(&first.allowed) && ranks.iter().all(|rank| rank.allowed == first.allowed) =>
        {
            format!("all {} ranks may run on core {} only", ranks.len(), first.allowed)
        }
        _ if cores.allowed_count == 1 => format!(
            "this process, and every rank that is started from it, may run on core {} of {} only",
            cores.allowed, cores.online
        ),
        _ => return None,
    };
    finding(
        "one-core",
        Level::Warning,
        what,
        "ranks take turns on it: every message waits until the other rank is let run, which costs a hundred times its time",
        "take the mask away (taskset, numactl, --cpu-bind=none of srun) or bind each rank to a core of its own (mpirun \
         --bind-to core, --map-by core)",
    )
}

fn huge_pages(facts: &Facts) -> Option<Finding> {
    let pages = &facts.pages;
    let is_off = |choice: &str| matches!(choice, "never" | "deny");
    if !is_off(&pages.ordinary) && !is_off(&pages.shared) {
        return None;
    }
    let whose = match (is_off(&pages.ordinary), is_off(&pages.shared)) {
        (true, true) => "ordinary and shared memory",
        (true, false) => "ordinary memory",
        _ => "shared memory, which ncclMemAlloc gives",
    };
    finding(
        "huge-pages",
        Level::Note,
        format!("huge pages are off for {whose} (never)"),
        "large messages walk through pages of 4 KiB instead of 2 MiB, and the processor misses more of them",
        "as root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled; echo advise \
         >/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    )
}

fn settings(facts: &Facts) -> Option<Finding> {
    if facts.complaints.is_empty() {
        return None;
    }
    finding(
        "settings",
        Level::Warning,
        facts.complaints.join("; "),
        "a setting that is not understood has no effect",
        "correct it; the README lists every setting with its values",
    )
}
