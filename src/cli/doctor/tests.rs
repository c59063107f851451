//! Each rule on facts alone: silent on a good machine, heard on a bad one.

use super::diagnose::{Level, diagnose};
use super::facts::{Facts, Interface, LibraryFact, Maker, Process, Program, Python};
use super::print;

fn library(maker: Maker, version: &str) -> LibraryFact {
    LibraryFact { path: "/somewhere/libnccl.so.2".into(), maker, version: version.into() }
}

fn good() -> Facts {
    let mut facts = Facts::default();
    facts.cores.online = "0-3".into();
    facts.cores.allowed = "0-3".into();
    (facts.cores.online_count, facts.cores.allowed_count) = (4, 4);
    facts.memory.total_bytes = 64 << 30;
    facts.attach.works = true;
    facts.pages.ordinary = "madvise".into();
    facts.pages.shared = "advise".into();
    facts.libraries.ucx.path = Some("/usr/lib/libucp.so.0".into());
    facts.network.interfaces = vec![Interface { name: "lo".into(), address: "127.0.0.1".into() }];
    facts
}

fn process(number: u32, allowed: &str, maker: Maker, version: &str) -> Process {
    Process { number, allowed: allowed.into(), libraries: vec![library(maker, version)] }
}

/// What the first finding is called, how bad it is, and what is to be done.
fn first(change: impl FnOnce(&mut Facts)) -> (&'static str, Level, String) {
    let mut facts = good();
    change(&mut facts);
    let findings = diagnose(&facts);
    let first = findings.first().expect("something is wrong");
    assert!(!first.what.is_empty() && !first.why.is_empty() && !first.remedy.is_empty());
    let text = print::text(&facts, &findings);
    assert!(text.contains(&first.remedy) && text.contains(first.id));
    (first.id, first.level, first.remedy.clone())
}

#[test]
fn on_a_good_machine_nothing_is_found() {
    assert_eq!(diagnose(&good()), []);
    assert!(print::text(&good(), &[]).contains("Nothing is wrong"));
    let mut facts = good();
    facts.processes = vec![process(1, "0", Maker::Shoal, "1"), process(2, "1", Maker::Shoal, "1")];
    facts.program = Some(Program { nccl: Some(library(Maker::Shoal, "1")), ..Program::default() });
    facts.memory.group_bytes = Some(64 << 30);
    facts.cores.quota = Some(4.0);
    assert_eq!(diagnose(&facts), []);
}

#[test]
fn every_rule_speaks() {
    let remedy_of_yama = first(|facts| {
        facts.attach.works = false;
        facts.attach.yama_scope = Some(1);
    });
    assert_eq!((remedy_of_yama.0, remedy_of_yama.1), ("cross-memory-attach", Level::Warning));
    assert!(remedy_of_yama.2.contains("ptrace_scope"));
    let remedy_of_filter = first(|facts| {
        facts.attach.works = false;
        facts.attach.is_filtered = true;
    });
    assert!(remedy_of_filter.2.contains("SYS_PTRACE"));
    let small = |facts: &mut Facts| facts.limits.locked_bytes = Some(65536);
    assert_eq!(first(small).1, Level::Note);
    let with_device = first(|facts| {
        small(facts);
        facts.network.rdma_devices = vec!["mlx5_0".into()];
    });
    assert_eq!((with_device.0, with_device.1), ("locked-memory", Level::Fault));
    let wrong = first(|facts| {
        facts.network.setting = "wlan".into();
        facts.network.problem = Some("no interface".into());
    });
    assert!(wrong.0 == "interface" && wrong.2.contains("name one of lo"));
    assert_eq!(first(|facts| facts.memory.group_bytes = Some(1 << 30)).0, "group-memory");
    assert_eq!(first(|facts| facts.cores.quota = Some(1.5)).0, "group-cores");
    assert_eq!(first(|facts| facts.libraries.ucx.path = None).0, "ucx");
    assert_eq!(first(|facts| facts.libraries.net_plugin_setting = "aws-ofi".into()).0, "net-plugin");
    assert_eq!(first(|facts| facts.libraries.net_plugin.path = Some("/x".into())).0, "net-plugin");
    assert_eq!(first(|facts| facts.pages.shared = "never".into()).0, "huge-pages");
    assert_eq!(first(|facts| facts.limits.files = Some(256)).0, "open-files");
    assert_eq!(first(|facts| facts.shared.problem = Some("no".into())).0, "shared-memory");
    assert_eq!(first(|facts| facts.complaints.push("X=y".into())).0, "settings");
}

#[test]
fn libraries_of_processes_and_programs_are_compared() {
    let mixed = first(|facts| {
        facts.processes =
            vec![process(7, "0-3", Maker::Shoal, "0.1.0"), process(8, "0-3", Maker::Shoal, "0.2.0")];
    });
    assert_eq!((mixed.0, mixed.1), ("mixed-libraries", Level::Fault));
    let own = |change: fn(&mut Facts)| assert_eq!(first(change).0, "own-library");
    own(|facts| facts.processes = vec![process(7, "0-3", Maker::Nccl, "2.28.9")]);
    own(|facts| {
        facts.program = Some(Program { nccl: Some(library(Maker::Nccl, "2")), ..Program::default() })
    });
    own(|facts| {
        facts.python = Some(Python { has_torch: true, nccl: library(Maker::Nccl, "2"), ..Python::default() })
    });
    let mut preloaded = good();
    preloaded.python = Some(Python::default());
    preloaded.preload = vec![library(Maker::Shoal, "0.1.0")];
    assert_eq!(diagnose(&preloaded), []);
}

#[test]
fn one_core_for_all_is_found_and_one_for_each_is_not() {
    let ranks = |first_core: &str, second_core: &str| {
        vec![process(1, first_core, Maker::Shoal, "1"), process(2, second_core, Maker::Shoal, "1")]
    };
    assert_eq!(first(|facts| facts.processes = ranks("2", "2")).0, "one-core");
    assert_eq!(
        first(|facts| (facts.cores.allowed, facts.cores.allowed_count) = ("1".into(), 1)).0,
        "one-core"
    );
    let mut apart = good();
    apart.processes = ranks("2", "3");
    assert_eq!(diagnose(&apart), []);
}

#[test]
fn the_worst_comes_first() {
    let mut facts = good();
    facts.libraries.ucx.path = None;
    facts.network.problem = Some("none".into());
    let levels: Vec<Level> = diagnose(&facts).iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [Level::Fault, Level::Note]);
}
