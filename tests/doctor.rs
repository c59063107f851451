//! `shoal doctor` from outside: ten faults are planted, really where that can be done, and each must be found and
//! answered with what to do. On the machine as it is nothing is a fault.

#[path = "common/party.rs"]
mod party;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use party::{build, library, workshop};
use serde_json::Value;

/// What the environment of the tests says is not the patient's.
const VARIABLES: [&str; 9] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "NCCL_NET_PLUGIN",
    "NCCL_SOCKET_IFNAME",
    "SHOAL_SOCKET_IFNAME",
    "NCCL_DEBUG",
    "SHOAL_CMA",
];

/// A command line that ends in the doctor's, behind `before`.
fn doctor(before: &str, options: &[&str]) -> Command {
    let mut words = before.split_whitespace().chain([env!("CARGO_BIN_EXE_shoal"), "doctor"]);
    let mut command = Command::new(words.next().expect("at least the program"));
    command.args(words).stdin(Stdio::null());
    if !options.contains(&"--format") {
        command.args(["--format", "json"]);
    }
    command.args(options);
    // Other jobs on this machine are not the patient's either: a process without a libnccl.
    if !options.contains(&"--pid") {
        command.args(["--pid", &std::process::id().to_string()]);
    }
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

struct Report {
    value: Value,
    code: Option<i32>,
}

fn examine(mut command: Command) -> Report {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
    Report { value, code: output.status.code() }
}

impl Report {
    fn find(&self, id: &str) -> Option<&Value> {
        self.value["findings"].as_array().expect("a list").iter().find(|finding| finding["id"] == id)
    }

    /// The finding is there, at this level, says this, and its remedy that.
    fn has(&self, id: &str, level: &str, what: &str, remedy: &str) {
        let finding = self.find(id).unwrap_or_else(|| panic!("no {id} in {:#}", self.value["findings"]));
        assert_eq!(finding["level"], level, "{finding:#}");
        assert!(finding["what"].as_str().is_some_and(|text| text.contains(what)), "{what}: {finding:#}");
        assert!(
            finding["remedy"].as_str().is_some_and(|text| text.contains(remedy)),
            "{remedy}: {finding:#}"
        );
        assert!(finding["why"].as_str().is_some_and(|text| text.len() > 20), "{finding:#}");
        assert_eq!(self.code, Some(i32::from(level == "fault")), "{finding:#}");
    }
}

/// A folder of files that stand for the system's.
fn plant(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = workshop().join(name);
    let _ = fs::remove_dir_all(&folder);
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("the folder is ours");
        fs::write(path, text).expect("the folder is ours");
    }
    folder
}

fn at(root: &Path) -> Vec<&str> {
    vec!["--root", root.to_str().expect("a name")]
}

#[test]
fn this_machine_has_no_fault_and_every_fact_is_there() {
    let report = examine(doctor("", &[]));
    assert_eq!(report.code, Some(0), "{:#}", report.value["findings"]);
    let facts = &report.value["facts"];
    assert!(facts["cores"]["allowed_count"].as_u64() > Some(0));
    assert!(facts["memory"]["total_bytes"].as_u64() > Some(1 << 20));
    assert!(facts["network"]["interfaces"].as_array().is_some_and(|list| !list.is_empty()));
    assert!(facts["network"]["offered"].as_array().is_some_and(|list| !list.is_empty()));
    assert!(facts["namespaces"].as_array().is_some_and(|list| list.len() >= 5));
    assert!(facts["libraries"]["cuda"]["looked"].as_array().is_some_and(|list| !list.is_empty()));
    let settings = facts["settings"].as_array().expect("a list");
    assert!(settings.iter().any(|row| row["name"] == "SHOAL_RING_BYTES" && row["from"] == "default"));
    let mut text = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let output = text.args(["doctor", "--pid", "1"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    for name in
        ["cores", "memory", "limits", "attach", "huge pages", "ranks meet at", "UCX", "CUDA driver", "MPICH"]
    {
        assert!(said.lines().any(|line| line.starts_with(name)), "{name}: {said}");
    }
}

#[test]
fn a_full_disk_is_a_failure_and_no_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it is always there");
    let others = [
        "explain --op allreduce -b 8",
        "model --preset 125M --dp 2",
        "simulate --op allreduce --ranks 4",
        "simulate --fit benches/records/2026-11-21-simulate.jsonl",
    ];
    let others = others.map(|words| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(words.split(' ')).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    });
    let doctors = ["text", "json"].map(|format| doctor("", &["--format", format]));
    for mut command in doctors.into_iter().chain(others) {
        let output = command.stdout(full.try_clone().expect("a descriptor")).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "shoal: No space left on device (os error 28)\n", "{command:?}");
    }
}

#[test]
fn settings_are_shown_with_where_they_come_from() {
    let file = "# of all jobs\nNCCL_BUFFSIZE=65536\nSHOAL_SECRET=hush\nSHOAL_DEBG=INFO\nNCCL_DEBUG=INFO\n";
    let home = plant("home", &[(".nccl.conf", file)]);
    let patient = |options: &[&str]| {
        let mut command = doctor("", options);
        command.env("HOME", &home).env("NCCL_DEBUG", "WARN").env("SHOAL_SPIN", "often");
        command.env("NCCL_IB_HCA", "mlx5_0").env("NCCL_P2P_DISABLE", "1").env_remove("NCCL_CONF_FILE");
        command
    };
    let report = examine(patient(&[]));
    let settings = report.value["facts"]["settings"].as_array().expect("a list");
    assert_eq!(settings.len(), shoal::config::SETTINGS.len());
    let row = |name: &str| {
        let row = settings.iter().find(|row| row["name"] == name).expect("a row");
        ["value", "said_as", "from"].map(|key| row[key].as_str().expect("a text"))
    };
    let file = home.join(".nccl.conf").display().to_string();
    assert_eq!(row("SHOAL_RING_BYTES"), ["65536", "NCCL_BUFFSIZE", &format!("{file}:2")]);
    assert_eq!(row("SHOAL_DEBUG"), ["WARN", "NCCL_DEBUG", "environment"]);
    assert_eq!(row("SHOAL_CMA"), ["0", "NCCL_P2P_DISABLE", "environment"]);
    assert_eq!(row("SHOAL_SECRET"), ["(secret)", "SHOAL_SECRET", &format!("{file}:3")]);
    assert_eq!(row("SHOAL_SPIN"), ["auto", "SHOAL_SPIN", "default"], "what was said is not understood");
    assert!(!report.value.to_string().contains("hush"));
    report.has("settings", "warning", "SHOAL_SPIN=often", "README");
    report.has("settings", "warning", &format!("SHOAL_DEBG ({file}:4) is no setting"), "README");
    let text = patient(&["--format", "text"]).output().expect("it starts").stdout;
    let text = String::from_utf8_lossy(&text);
    for words in [
        format!("SHOAL_RING_BYTES=65536 (NCCL_BUFFSIZE, {file}:2)"),
        "SHOAL_STALL_SECONDS=10 (default)".into(),
        format!("{file}: 4 settings were read"),
        "NCCL_IB_HCA=mlx5_0 is ignored: ".into(),
        "NCCL_P2P_DISABLE=1 counts as SHOAL_CMA=0, SHOAL_MAPPED=0".into(),
        "did you mean SHOAL_DEBUG?".into(),
    ] {
        assert!(text.contains(&words), "{words} is not in\n{text}");
    }
}

#[test]
fn without_cross_memory_attach() {
    let deny =
        format!("{} {} {} --", build("places/deny").display(), libc::EPERM, libc::SYS_process_vm_readv);
    let report = examine(doctor(&deny, &[]));
    report.has("cross-memory-attach", "warning", "Operation not permitted", "SYS_PTRACE");
    assert_eq!(examine(doctor(&deny, &["--strict"])).code, Some(1));
    let root = plant("yama", &[("proc/sys/kernel/yama/ptrace_scope", "1\n")]);
    examine(doctor(&deny, &at(&root))).has(
        "cross-memory-attach",
        "warning",
        "",
        "kernel.yama.ptrace_scope to 0",
    );
}

#[test]
fn with_little_locked_memory() {
    let few = "prlimit --memlock=65536 setpriv --bounding-set -ipc_lock";
    let report = examine(doctor(few, &[]));
    let has_devices =
        report.value["facts"]["network"]["rdma_devices"].as_array().is_some_and(|list| !list.is_empty());
    if !has_devices {
        report.has("locked-memory", "note", "64 KiB", "ulimit -l unlimited");
    }
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max locked memory         65536                65536                bytes\n";
    let files = [("proc/self/limits", limits), ("sys/class/infiniband/mlx5_0", "")];
    examine(doctor("", &at(&plant("locked", &files)))).has("locked-memory", "fault", "64 KiB", "memlock");
}

#[test]
fn with_an_interface_that_is_none() {
    let mut command = doctor("", &[]);
    command.env("NCCL_SOCKET_IFNAME", "nosuch0");
    examine(command).has("interface", "fault", "nosuch0", "lo");
}

#[test]
fn with_a_group_that_bounds_memory_or_cores() {
    let files = [
        ("proc/self/cgroup", "0::/job\n"),
        ("proc/meminfo", "MemTotal:       65536000 kB\nMemAvailable:   6553600 kB\n"),
        ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("sys/fs/cgroup/job/memory.max", "1073741824\n"),
        ("sys/fs/cgroup/job/cpu.max", "150000 100000\n"),
    ];
    let report = examine(doctor("", &at(&plant("group", &files))));
    report.has("group-memory", "warning", "1 GiB", "--memory");
    report.has("group-cores", "warning", "1.5 of 8 cores", "--cpus");
}

/// A real group, where one can be made.
#[test]
fn with_a_real_group() {
    for (top, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
    {
        let group = Path::new(top).join(format!("shoal-doctor-{}", std::process::id()));
        if fs::create_dir(&group).is_err() {
            continue;
        }
        let is_bound = fs::write(group.join(file), "268435456").is_ok();
        let inside = "sh -c 'echo 0 >\"$GROUP\" && exec \"$@\"' inside";
        let report = is_bound.then(|| {
            // The quotes need a shell of their own.
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec {inside} \"$@\"")).arg("sh");
            command.arg(env!("CARGO_BIN_EXE_shoal")).args(["doctor", "--format", "json", "--pid", "1"]);
            examine_with_group(command, &group)
        });
        let gone = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&group).is_err() && Instant::now() < gone {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(report) = report {
            assert!(report.find("group-memory").is_some(), "{:#}", report.value);
            return;
        }
    }
    println!("no group can be made here; the other test plants one as files");
}

fn examine_with_group(mut command: Command, group: &Path) -> Report {
    command.env("GROUP", group.join("cgroup.procs"));
    examine(command)
}

/// Ends a process that stands for a rank.
struct Rank(Child);

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process with a library preloaded, once it has it.
fn rank(before: &str, library: &Path) -> Rank {
    let mut words = before.split_whitespace().chain(["sleep", "60"]);
    let mut command = Command::new(words.next().expect("a program"));
    let child =
        command.args(words).env("LD_PRELOAD", library).stdin(Stdio::null()).spawn().expect("it starts");
    let rank = Rank(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    let name = library.to_str().expect("a name");
    let is_ready = || {
        let about =
            |file: &str| fs::read_to_string(format!("/proc/{}/{file}", rank.0.id())).unwrap_or_default();
        about("comm").trim() == "sleep" && about("maps").contains(name)
    };
    while !is_ready() {
        assert!(Instant::now() < deadline, "{name} is not loaded");
        std::thread::sleep(Duration::from_millis(5));
    }
    rank
}

fn both(one: &Rank, other: &Rank) -> String {
    format!("{},{}", one.0.id(), other.0.id())
}

#[test]
fn with_ranks_of_different_versions() {
    let (one, other) = (workshop().join("libnccl.so.2"), workshop().join("older/libnccl.so.2"));
    let mut bytes = fs::read(library()).expect("the library");
    let mark = format!("{}{}", shoal::MARK_START, shoal::version());
    let place = bytes.windows(mark.len()).position(|part| part == mark.as_bytes()).expect("the mark");
    bytes[place + shoal::MARK_START.len()] = b'9';
    fs::create_dir_all(other.parent().expect("a folder")).expect("ours");
    fs::write(&other, bytes).expect("ours");
    let one = fs::canonicalize(one).expect("it is there");
    let (first, second, third) = (rank("", &one), rank("", &other), rank("", &one));
    let report = examine(doctor("", &["--pid", &both(&first, &second)]));
    report.has("mixed-libraries", "fault", "older/libnccl.so.2 (Shoal 9", "LD_PRELOAD");
    let report = examine(doctor("", &["--pid", &both(&first, &third)]));
    assert!(report.find("mixed-libraries").is_none() && report.code == Some(0));
}

#[test]
fn without_ucx() {
    let root = plant("bare", &[("etc/ld.so.conf", "/opt/lib\n")]);
    let report = examine(doctor("", &at(&root)));
    report.has("ucx", "note", "/opt/lib", "libucx0");
    let root = plant("with-ucx", &[("etc/ld.so.conf.d/ucx.conf", "/opt/ucx\n"), ("opt/ucx/libucp.so.0", "")]);
    let report = examine(doctor("", &at(&root)));
    assert!(report.find("ucx").is_none());
    assert_eq!(report.value["facts"]["libraries"]["ucx"]["path"], "/opt/ucx/libucp.so.0");
}

#[test]
fn with_a_network_plugin() {
    let mut command = doctor("", &[]);
    command.env("NCCL_NET_PLUGIN", "aws-ofi");
    examine(command).has("net-plugin", "warning", "NCCL_NET_PLUGIN=aws-ofi", "SHOAL_NCCL");
    let folder = plant("plugin", &[("libnccl-net.so", "")]);
    let mut command = doctor("", &[]);
    command.env("LD_LIBRARY_PATH", &folder);
    examine(command).has("net-plugin", "warning", "plugin/libnccl-net.so", "SHOAL_NCCL");
    let mut command = doctor("", &[]);
    command.env("LD_LIBRARY_PATH", &folder).env("NCCL_NET_PLUGIN", "none");
    assert!(examine(command).find("net-plugin").is_none());
}

fn compile(source: &str, to: &Path, options: &[&str]) {
    let file = to.with_extension("source.c");
    fs::create_dir_all(to.parent().expect("a folder")).expect("ours");
    fs::write(&file, source).expect("ours");
    let status = Command::new("cc").arg(&file).arg("-o").arg(to).args(options).status();
    assert!(status.is_ok_and(|status| status.success()), "a C compiler");
}

#[test]
fn with_a_libnccl_that_an_rpath_leads_to() {
    let home = workshop().join("venv");
    let packages = home.join("lib/python3.11/site-packages");
    let own = packages.join("nvidia/nccl/lib/libnccl.so.2");
    let stock = "const char mark[] = \"NCCL version 2.28.9+cuda13.0\";\nint ncclGetVersion(int* v) { *v = 22809; return 0; }\n";
    compile(stock, &own, &["-shared", "-fPIC", "-Wl,-soname,libnccl.so.2"]);
    fs::create_dir_all(packages.join("torch/lib")).expect("ours");
    let mut command = doctor("", &[]);
    command.env("VIRTUAL_ENV", &home);
    examine(command).has("own-library", "fault", "torch in", "LD_PRELOAD=");
    let mut command = doctor("", &[]);
    command.env("VIRTUAL_ENV", &home).env("LD_PRELOAD", library());
    assert!(examine(command).find("own-library").is_none());
    // A program that was linked as torch is.
    let program = home.join("bin/train");
    let rpath = format!("-Wl,--disable-new-dtags,-rpath,{}", own.parent().expect("a folder").display());
    let main = "int ncclGetVersion(int*);\nint main(void) { int v; return ncclGetVersion(&v); }\n";
    compile(main, &program, &[own.to_str().expect("a name"), &rpath]);
    let program = program.to_str().expect("a name");
    let mut command = doctor("", &[program]);
    command.env("LD_LIBRARY_PATH", workshop());
    examine(command).has("own-library", "fault", "2.28.9", "LD_PRELOAD=");
    let mut command = doctor("", &[program]);
    command.env("LD_PRELOAD", workshop().join("libnccl.so.2"));
    assert!(examine(command).find("own-library").is_none());
    // And a process that runs so.
    let running = rank("", &own);
    let report = examine(doctor("", &["--pid", &running.0.id().to_string()]));
    report.has("own-library", "fault", "NVIDIA's NCCL 2.28.9", "LD_PRELOAD=");
}

#[test]
fn with_all_ranks_on_one_core() {
    let library = fs::canonicalize(workshop().join("libnccl.so.2")).expect("it is there");
    let (first, second) = (rank("taskset -c 0", &library), rank("taskset -c 0", &library));
    let report = examine(doctor("", &["--pid", &both(&first, &second)]));
    let cores = report.value["facts"]["cores"]["online_count"].as_u64();
    if cores > Some(1) {
        report.has("one-core", "warning", "all 2 ranks may run on core 0 only", "--bind-to core");
        examine(doctor("taskset -c 0", &[])).has("one-core", "warning", "may run on core 0", "taskset");
    }
    let files = [("sys/devices/system/cpu/online", "0-7\n"), ("proc/self/status", "Cpus_allowed_list:\t3\n")];
    examine(doctor("", &at(&plant("pinned", &files)))).has("one-core", "warning", "core 3 of 0-7", "taskset");
}

#[test]
fn with_huge_pages_off() {
    let choice = |word: &str| format!("always madvise [{word}]\n").replace("madvise [madvise]", "[madvise]");
    let off = choice("never");
    let files = [
        ("sys/kernel/mm/transparent_hugepage/enabled", off.as_str()),
        (
            "sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always within_size advise [never] deny force\n",
        ),
    ];
    examine(doctor("", &at(&plant("pages", &files)))).has(
        "huge-pages",
        "note",
        "never",
        "transparent_hugepage/enabled",
    );
}
