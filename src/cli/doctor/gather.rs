//! Asks the system. Thin: files are read below a root that tests may replace; what they say is judged elsewhere.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::facts::{
    Attach, Cores, Facts, Interface, Limits, Memory, Namespace, Network, Pages, SettingFact, Shared,
};
use super::{libraries, probe};
use crate::cli::bench::launched_by;
use crate::cli::machine;
use crate::comm::bootstrap;
use crate::config::{self, Config, SETTINGS, Setting, Value};
use crate::system::{memfd, socket};

/// Where files are looked for.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(folder: Option<&Path>) -> Root {
        Root(folder.unwrap_or(Path::new("/")).to_owned())
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The text of a file; empty if there is none.
    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// The names in a folder.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A variable of the environment; empty if it is not set.
pub(super) fn variable(name: &str) -> String {
    config::told_by_launcher(name).unwrap_or_default()
}

/// Everything.
pub(super) fn gather(root: &Root, program: Option<&Path>, processes: &[u32]) -> Facts {
    let config = Config::get();
    let status = root.read("/proc/self/status");
    let folders = libraries::folders(root);
    let mut marks = libraries::Marks::default();
    Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        cores: cores(root, &status),
        memory: memory(root),
        limits: limits(&root.read("/proc/self/limits"), &status),
        attach: attach(root, &status),
        shared: shared(),
        pages: pages(root),
        namespaces: namespaces(root),
        network: network(root, config),
        libraries: libraries::find(root, &folders, &mut marks),
        settings: SETTINGS.iter().zip(&config.values).map(setting).collect(),
        complaints: config.complaints.clone(),
        notes: config.notes.clone(),
        preload: libraries::preload(&mut marks),
        launcher: launched_by(),
        python: libraries::python(root, &mut marks),
        program: program.map(|program| libraries::program(program, &mut marks)),
        processes: libraries::processes(root, processes, &mut marks),
    }
}

/// What stands behind `name:` in a file of lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// How many numbers a list like `0-3,8` has.
fn count(list: &str) -> usize {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.split(',').filter_map(part).sum()
}

fn cores(root: &Root, status: &str) -> Cores {
    let online = root.read("/sys/devices/system/cpu/online").trim().to_owned();
    let allowed = field(status, "Cpus_allowed_list").unwrap_or_default().to_owned();
    let quota = group_files(root, "cpu", &["cpu.max", "cpu.cfs_quota_us"])
        .into_iter()
        .filter_map(|(path, text)| quota(&text, &root.read(&path.replace("quota", "period"))))
        .reduce(f64::min);
    Cores { online_count: count(&online), allowed_count: count(&allowed), online, allowed, quota }
}

/// Cores of `QUOTA PERIOD` (version 2), or of a file each (version 1).
fn quota(text: &str, period: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next().unwrap_or(period.trim()).parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

fn memory(root: &Root) -> Memory {
    let text = root.read("/proc/meminfo");
    let bytes = |name: &str| -> u64 {
        let words = field(&text, name).unwrap_or_default();
        words.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    };
    let group_bytes = group_files(root, "memory", &["memory.max", "memory.limit_in_bytes"])
        .into_iter()
        .filter_map(|(_, text)| text.trim().parse().ok())
        // Version 1 has a number for no limit.
        .filter(|limit: &u64| *limit < 1 << 60)
        .min();
    Memory { total_bytes: bytes("MemTotal"), available_bytes: bytes("MemAvailable"), group_bytes }
}

/// The files of the control groups around this process, from the innermost outwards, of both versions.
fn group_files(root: &Root, controller: &str, names: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in root.read("/proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let top = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            list if list.split(',').any(|one| one == controller) => format!("/sys/fs/cgroup/{list}"),
            _ => continue,
        };
        // Inside a container the path may be that of outside, where only the top is to be seen.
        let ancestors = Path::new(path).ancestors();
        for folder in ancestors.map(|folder| folder.to_string_lossy().trim_end_matches('/').to_owned()) {
            for name in names {
                let file = format!("{top}{folder}/{name}");
                let text = root.read(&file);
                if !text.is_empty() {
                    found.push((file, text));
                }
            }
        }
    }
    found
}

fn limits(text: &str, status: &str) -> Limits {
    let soft = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    /// The bit of CAP_IPC_LOCK.
    const LOCK: u64 = 1 << 14;
    let capabilities =
        field(status, "CapEff").and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or(0);
    Limits {
        locked_bytes: soft("Max locked memory"),
        files: soft("Max open files"),
        threads: soft("Max processes"),
        space_bytes: soft("Max address space"),
        may_lock_all: capabilities & LOCK != 0,
    }
}

fn attach(root: &Root, status: &str) -> Attach {
    let tried = probe::try_siblings();
    Attach {
        works: tried.is_ok(),
        reason: tried.err().unwrap_or_default(),
        yama_scope: root.read("/proc/sys/kernel/yama/ptrace_scope").trim().parse().ok(),
        is_filtered: field(status, "Seccomp").is_some_and(|mode| mode != "0"),
    }
}

fn shared() -> Shared {
    let space = machine::space(Path::new("/dev/shm"));
    Shared {
        folder_bytes: space.map(|(size, _)| size),
        folder_free_bytes: space.map(|(_, free)| free),
        problem: memfd::create(c"shoal-doctor", 1 << 20).err().map(|error| error.to_string()),
    }
}

fn pages(root: &Root) -> Pages {
    let chosen = |name: &str| {
        let text = root.read(&format!("/sys/kernel/mm/transparent_hugepage/{name}"));
        let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
        word.unwrap_or("unknown").to_owned()
    };
    Pages {
        ordinary: chosen("enabled"),
        shared: chosen("shmem_enabled"),
        reserved_count: root.read("/proc/sys/vm/nr_hugepages").trim().parse().unwrap_or(0),
    }
}

fn namespaces(root: &Root) -> Vec<Namespace> {
    let number = |of: &str, kind: &str| -> Option<u64> {
        let link = fs::read_link(root.path(&format!("/proc/{of}/ns/{kind}"))).ok()?;
        link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    };
    let kinds = ["net", "pid", "mnt", "user", "ipc", "cgroup", "uts"];
    kinds
        .iter()
        .filter_map(|kind| {
            let own = number("self", kind)?;
            let is_of_first = number("1", kind).map(|first| first == own);
            Some(Namespace { kind: (*kind).into(), number: own, is_of_first })
        })
        .collect()
}

fn network(root: &Root, config: &Config) -> Network {
    let interfaces = socket::interfaces().unwrap_or_default();
    let offered = bootstrap::addresses_offered(config);
    Network {
        interfaces: interfaces
            .iter()
            .map(|one| Interface { name: one.name.clone(), address: one.address.to_string() })
            .collect(),
        setting: config.socket_ifname.clone(),
        problem: offered.as_ref().err().map(ToString::to_string),
        // The port is one that was free for the question; a rank gets another.
        offered: offered.unwrap_or_default().iter().map(|address| address.ip().to_string()).collect(),
        rdma_devices: root.list("/sys/class/infiniband"),
    }
}

fn setting((row, value): (&Setting, &Value)) -> SettingFact {
    SettingFact {
        name: row.name.into(),
        value: value.shown().into(),
        said_as: value.name.into(),
        from: value.said_by(),
    }
}

/// Processes of this user.
pub(super) fn own_processes(root: &Root) -> Vec<u32> {
    let Ok(own) = fs::metadata(root.path("/proc/self")) else { return Vec::new() };
    let numbers = root.list("/proc").into_iter().filter_map(|name| name.parse().ok());
    numbers
        .filter(|number: &u32| {
            fs::metadata(root.path(&format!("/proc/{number}")))
                .is_ok_and(|process| process.uid() == own.uid())
        })
        .collect()
}

/// The processors that a process may run on.
pub(super) fn allowed(root: &Root, number: u32) -> String {
    field(&root.read(&format!("/proc/{number}/status")), "Cpus_allowed_list").unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_quotas() {
        assert_eq!((count("0-3,8"), count("5"), count("")), (5, 1, 0));
        assert_eq!(quota("150000 100000\n", ""), Some(1.5));
        assert_eq!(quota("max 100000\n", ""), None);
        assert_eq!(quota("50000\n", "100000\n"), Some(0.5));
        assert_eq!(quota("-1\n", "100000\n"), None);
    }

    #[test]
    fn limits_are_the_soft_ones() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max address space         unlimited            unlimited            bytes     \n\
                    Max locked memory         65536                131072               bytes     \n\
                    Max open files            1024                 4096                 files     \n";
        let limits = limits(text, "CapEff:\t0000000000004000\n");
        assert_eq!((limits.locked_bytes, limits.files, limits.space_bytes), (Some(65536), Some(1024), None));
        assert!(limits.may_lock_all);
    }

    #[test]
    fn groups_are_looked_for_from_the_inside_out() {
        let folder = std::env::temp_dir().join(format!("shoal-groups-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("inside")).expect("ours");
            fs::write(path, text).expect("ours");
        };
        write("proc/self/cgroup", "3:memory:/a/b\n0::/c\n");
        write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "5000\n");
        write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9000\n");
        write("sys/fs/cgroup/c/cpu.max", "200000 100000\n");
        let root = Root::new(Some(&folder));
        assert_eq!(memory(&root).group_bytes, Some(5000));
        assert_eq!(cores(&root, "").quota, Some(2.0));
        fs::remove_dir_all(folder).expect("ours");
    }
}
