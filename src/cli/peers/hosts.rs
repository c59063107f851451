//! How contenders are started on several hosts: the namespaces that `scripts/hosts.sh make` joined, around this
//! command. Everybody goes through the same script; whoever has a core for each rank has it on its host.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Options;
use super::contenders::Starter;
use super::suite::Block;
use crate::cli::Failure;

/// Transports of UCX that serve several hosts best: between the ranks of one, and between hosts.
pub(super) const UCX_TRANSPORTS: &str = "UCX_TLS=self,posix,sysv,cma,tcp";
/// The network that the script makes: host 1 is 10.78.0.1, and so on.
const NETWORK: &str = "10.78.0";
/// This command's own place there.
const OWN: &str = "10.78.0.254";
/// The interface of a host.
const INTERFACE: &str = "e0";

/// Whether what is to be measured fits the hosts that there are.
pub(super) fn check(options: &Options) -> Result<(), Failure> {
    let blocks = options.blocks();
    let hosts = usize::from(options.hosts);
    if options.suite.needs_hosts() != (hosts > 1) {
        return Err(Failure("--suite hosts and --hosts 2 belong together".into()));
    }
    if blocks.is_empty() {
        return Err(Failure("--blocks leaves nothing of the suite".into()));
    }
    if hosts == 1 {
        return Ok(());
    }
    if !options.hosts_by.exists() {
        return Err(Failure(format!("there is no {}; --hosts-by names it", options.hosts_by.display())));
    }
    match blocks.iter().find(|block| !block.ranks.is_multiple_of(hosts)) {
        Some(block) => Err(Failure(format!("{} ranks cannot be dealt to {hosts} hosts", block.ranks))),
        None => Ok(()),
    }
}

fn script(options: &Options) -> PathBuf {
    std::path::absolute(&options.hosts_by).unwrap_or_else(|_| options.hosts_by.clone())
}

/// What a launcher is told of the hosts.
pub(super) fn launcher_words(starter: Starter, ranks: usize, options: &Options) -> Vec<String> {
    let hosts = usize::from(options.hosts);
    if hosts == 1 {
        return Vec::new();
    }
    let each = ranks / hosts;
    let list: Vec<String> = (1..=hosts).map(|host| format!("{NETWORK}.{host}:{each}")).collect();
    let (list, script) = (list.join(","), script(options).display().to_string());
    let network = format!("{NETWORK}.0/24");
    let words: Vec<&str> = match starter {
        Starter::OpenMpi | Starter::OpenMpiUcx => vec![
            "--host",
            &list,
            "--mca",
            "plm_rsh_agent",
            &script,
            "--mca",
            "plm_rsh_no_tree_spawn",
            "1",
            "--mca",
            "oob_tcp_if_include",
            &network,
            "--mca",
            "btl_tcp_if_include",
            &network,
        ],
        Starter::Mpich => {
            vec!["-hosts", &list, "-launcher", "ssh", "-launcher-exec", &script, "-localhost", OWN]
        }
        Starter::Shoal | Starter::Ucx | Starter::Gloo | Starter::Perftest => Vec::new(),
    };
    words.into_iter().map(str::to_owned).collect()
}

/// What `shoal bench` is told of the hosts where it starts the ranks itself.
pub(super) fn bench_words(starter: Starter, options: &Options) -> Vec<String> {
    let starts = matches!(starter, Starter::Shoal | Starter::Ucx | Starter::Gloo);
    if options.hosts == 1 || !starts {
        return Vec::new();
    }
    let on = format!("{} on {{}}", script(options).display());
    ["--hosts", &options.hosts.to_string(), "--on", &on].map(str::to_owned).to_vec()
}

/// What contenders find in their environment, so that each is at its best.
pub(super) fn environment(
    starter: Starter,
    ranks: usize,
    options: &Options,
    cores: usize,
) -> Vec<(&'static str, &'static str)> {
    let crowded = ranks > cores;
    // A launcher takes each host for a machine with all these cores.
    let pin = ("HOSTS_PIN", "1");
    let transports = UCX_TRANSPORTS.split_once('=').unwrap_or_default();
    match starter {
        // Ranks that share a core yield; the library sees those of its own host only.
        Starter::Shoal if crowded && ranks / usize::from(options.hosts) <= cores => vec![("SHOAL_SPIN", "0")],
        Starter::Shoal => Vec::new(),
        Starter::Gloo => vec![("GLOO_SOCKET_IFNAME", INTERFACE)],
        Starter::Ucx => vec![transports],
        Starter::Perftest => vec![transports, pin],
        Starter::Mpich if crowded => vec![transports],
        Starter::Mpich => vec![transports, pin],
        Starter::OpenMpi | Starter::OpenMpiUcx if crowded => Vec::new(),
        Starter::OpenMpi | Starter::OpenMpiUcx => vec![pin],
    }
}

/// Where ranks meet that two launchers' daemons start: one place a run.
pub(super) fn meeting_place() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("/dev/shm/shoal-bench-hosts-{}-{number}", std::process::id())
}

/// Whether UCX's own measuring program is here.
pub(super) fn has_perftest() -> bool {
    Command::new("ucx_perftest").arg("-h").stdin(Stdio::null()).output().is_ok()
}

/// The script that runs it and says what it found as `shoal bench` does.
pub(super) fn perftest(block: &Block, options: &Options) -> Vec<String> {
    let script = script(options);
    let beside = script.parent().unwrap_or(Path::new(".")).join("perftest.sh");
    let mut words = vec![beside.display().to_string(), script.display().to_string()];
    words.extend(block.sizes.split(',').map(str::to_owned));
    words
}
