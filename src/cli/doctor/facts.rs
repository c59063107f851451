//! What the doctor knows. Plain data: `gather` fills it, `diagnose` judges it.
#![forbid(unsafe_code)]

use serde::Serialize;

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// The version of this program.
    pub version: String,
    /// Processors.
    pub cores: Cores,
    /// Memory of the machine and of the control group.
    pub memory: Memory,
    /// What this process may take.
    pub limits: Limits,
    /// Whether processes may read one another.
    pub attach: Attach,
    /// Shared memory.
    pub shared: Shared,
    /// Huge pages.
    pub pages: Pages,
    /// The namespaces of this process, and whether they are those of process 1.
    pub namespaces: Vec<Namespace>,
    /// Interfaces, and what ranks would be offered.
    pub network: Network,
    /// Libraries that are found at run time.
    pub libraries: Libraries,
    /// The settings in force.
    pub settings: Vec<SettingFact>,
    /// Settings and values that could not be understood.
    pub complaints: Vec<String>,
    /// Files that were read, and what becomes of NCCL's variables that are no settings.
    pub notes: Vec<String>,
    /// What LD_PRELOAD names.
    pub preload: Vec<LibraryFact>,
    /// Who started this process, if it is a rank of a job.
    pub launcher: Option<String>,
    /// A Python environment with a libnccl of its own.
    pub python: Option<Python>,
    /// The program that was named.
    pub program: Option<Program>,
    /// Processes that have a libnccl loaded.
    pub processes: Vec<Process>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cores {
    /// Of the machine, as the system lists them.
    pub online: String,
    /// That this process may run on.
    pub allowed: String,
    /// How many those are.
    pub online_count: usize,
    /// How many those are.
    pub allowed_count: usize,
    /// How many the control group may keep busy.
    pub quota: Option<f64>,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Of the machine.
    pub total_bytes: u64,
    /// What could be had now.
    pub available_bytes: u64,
    /// What the control group may use.
    pub group_bytes: Option<u64>,
}

/// Limits of the process; `None`: unlimited, or unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// Memory that stays in place.
    pub locked_bytes: Option<u64>,
    /// Open files.
    pub files: Option<u64>,
    /// Processes and threads of the user.
    pub threads: Option<u64>,
    /// Address space.
    pub space_bytes: Option<u64>,
    /// Whether the process may lock memory beyond the limit.
    pub may_lock_all: bool,
}

/// Reading other processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Attach {
    /// Two processes beside each other, as ranks are, could.
    pub works: bool,
    /// Why not.
    pub reason: String,
    /// Yama's rule, where it is there.
    pub yama_scope: Option<u32>,
    /// Whether system calls of this process are filtered.
    pub is_filtered: bool,
}

/// Shared memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shared {
    /// The size of /dev/shm, if it is there.
    pub folder_bytes: Option<u64>,
    /// What is free there.
    pub folder_free_bytes: Option<u64>,
    /// Why files in memory, which the library uses, cannot be made.
    pub problem: Option<String>,
}

/// Huge pages: the chosen word of the system's choices.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pages {
    /// For ordinary memory.
    pub ordinary: String,
    /// For shared memory, which is what `ncclMemAlloc` gives.
    pub shared: String,
    /// Pages set aside by hand.
    pub reserved_count: u64,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Namespace {
    /// `net`, `pid`, ...
    pub kind: String,
    /// Its number.
    pub number: u64,
    /// Whether it is that of process 1 here; `None` if that cannot be seen.
    pub is_of_first: Option<bool>,
}

/// The network, as far as ranks meet over it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Network {
    /// Interfaces that are up.
    pub interfaces: Vec<Interface>,
    /// What SHOAL_SOCKET_IFNAME (or NCCL_SOCKET_IFNAME) says.
    pub setting: String,
    /// Where a rank that makes an id can be reached, in the order of attempts.
    pub offered: Vec<String>,
    /// Why no id could be made.
    pub problem: Option<String>,
    /// Devices that want memory to be locked.
    pub rdma_devices: Vec<String>,
}

/// An interface with one of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The address.
    pub address: String,
}

/// Whether something was found, and where it was looked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    /// Where it is.
    pub path: Option<String>,
    /// Where it could have been.
    pub looked: Vec<String>,
}

/// What is found at run time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Libraries {
    /// UCX, for the way between machines.
    pub ucx: Found,
    /// The driver of NVIDIA's devices.
    pub cuda: Found,
    /// NVIDIA's NCCL.
    pub nccl: Found,
    /// Open MPI.
    pub open_mpi: Found,
    /// MPICH and its relatives.
    pub mpich: Found,
    /// What NCCL_NET_PLUGIN says.
    pub net_plugin_setting: String,
    /// A network plugin of NCCL.
    pub net_plugin: Found,
}

/// A setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SettingFact {
    /// Our name of it.
    pub name: String,
    /// What holds.
    pub value: String,
    /// The name under which it was said.
    pub said_as: String,
    /// Who said it: `environment`, a file with its line, or `default`.
    pub from: String,
}

/// Whose library a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// This library.
    Shoal,
    /// NVIDIA's.
    Nccl,
    /// Somebody else's, or unreadable.
    #[default]
    Unknown,
}

/// A file that is, or could be, a libnccl.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LibraryFact {
    /// Where it is.
    pub path: String,
    /// Whose it is.
    pub maker: Maker,
    /// Its version, as it says.
    pub version: String,
}

/// A Python environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Python {
    /// Where its packages are.
    pub packages: String,
    /// Whether torch is there.
    pub has_torch: bool,
    /// The libnccl that its packages bring.
    pub nccl: LibraryFact,
}

/// The program that was named.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Program {
    /// Where it is.
    pub path: String,
    /// The libnccl that it would get now; `None`: it asks for none when it starts.
    pub nccl: Option<LibraryFact>,
    /// Why that could not be found out.
    pub problem: Option<String>,
}

/// A process with a libnccl.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Process {
    /// Its number.
    pub number: u32,
    /// The processors that it may run on.
    pub allowed: String,
    /// What it has loaded.
    pub libraries: Vec<LibraryFact>,
}
