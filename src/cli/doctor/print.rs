//! Findings and facts, for people and for programs.
#![forbid(unsafe_code)]

use std::fmt::Write;

use serde::Serialize;

use super::diagnose::{Finding, Level, bytes};
use super::facts::{Facts, Found, LibraryFact, SettingFact};

#[derive(Serialize)]
struct Report<'a> {
    findings: &'a [Finding],
    facts: &'a Facts,
}

/// One object.
pub(super) fn json(facts: &Facts, findings: &[Finding]) -> String {
    serde_json::to_string_pretty(&Report { findings, facts }).unwrap_or_default() + "\n"
}

/// What is there, then what to do, the worst last, where the eye is.
pub(super) fn text(facts: &Facts, findings: &[Finding]) -> String {
    let mut text = String::new();
    for (name, value) in lines(facts) {
        let _ = writeln!(text, "{name:<16}{value}");
    }
    if findings.is_empty() {
        text.push_str("\nNothing is wrong.\n");
    }
    for finding in findings.iter().rev() {
        let word = match finding.level {
            Level::Note => "note",
            Level::Warning => "WARNING",
            Level::Fault => "FAULT",
        };
        let Finding { id, what, why, remedy, .. } = finding;
        let _ = writeln!(text, "\n{word} {id}: {what}\n  why: {why}\n  do:  {remedy}");
    }
    text
}

fn lines(facts: &Facts) -> Vec<(&'static str, String)> {
    let cores = &facts.cores;
    let quota = cores.quota.map_or(String::new(), |quota| format!(", the group may keep {quota:.1} busy"));
    let memory = &facts.memory;
    let group = memory.group_bytes.map_or(String::new(), |limit| format!(", the group {}", bytes(limit)));
    let mut lines = vec![
        ("shoal", facts.version.clone()),
        ("cores", format!("{} of {}{quota}", cores.allowed, cores.online)),
        ("memory", format!("{}, free {}{group}", bytes(memory.total_bytes), bytes(memory.available_bytes))),
        ("limits", limits(facts)),
        ("attach", if facts.attach.works { "works".into() } else { facts.attach.reason.clone() }),
        ("shared memory", shared(facts)),
        (
            "huge pages",
            format!(
                "{}, shared {}, {} reserved",
                facts.pages.ordinary, facts.pages.shared, facts.pages.reserved_count
            ),
        ),
    ];
    let namespaces: Vec<String> = facts
        .namespaces
        .iter()
        .map(|namespace| match namespace.is_of_first {
            Some(false) => format!("{} (not of process 1)", namespace.kind),
            _ => namespace.kind.clone(),
        })
        .collect();
    lines.push(("namespaces", namespaces.join(", ")));
    let network = &facts.network;
    for interface in &network.interfaces {
        lines.push(("interface", format!("{} {}", interface.name, interface.address)));
    }
    lines.push(("ranks meet at", network.problem.clone().unwrap_or_else(|| network.offered.join(", "))));
    let libraries = &facts.libraries;
    for (name, found) in [
        ("UCX", &libraries.ucx),
        ("CUDA driver", &libraries.cuda),
        ("stock NCCL", &libraries.nccl),
        ("Open MPI", &libraries.open_mpi),
        ("MPICH", &libraries.mpich),
        ("NCCL net plugin", &libraries.net_plugin),
    ] {
        lines.push((name, place(found)));
    }
    lines.extend(rest(facts));
    lines
}

fn rest(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(launcher) = &facts.launcher {
        lines.push(("started by", launcher.clone()));
    }
    for library in &facts.preload {
        lines.push(("preloaded", library_line(library)));
    }
    if let Some(python) = &facts.python {
        lines.push(("Python", library_line(&python.nccl)));
    }
    if let Some(program) = &facts.program {
        let nccl = program.nccl.as_ref().map_or("no libnccl when it starts".into(), library_line);
        lines.push(("program", format!("{}: {}", program.path, program.problem.as_ref().unwrap_or(&nccl))));
    }
    for process in &facts.processes {
        let libraries: Vec<String> = process.libraries.iter().map(library_line).collect();
        lines.push((
            "process",
            format!("{} on cores {}: {}", process.number, process.allowed, libraries.join(", ")),
        ));
    }
    for SettingFact { name, value, said_as, from } in &facts.settings {
        let also = if name == said_as { String::new() } else { format!("{said_as}, ") };
        lines.push(("setting", format!("{name}={value} ({also}{from})")));
    }
    lines.extend(facts.notes.iter().map(|note| ("settings", note.clone())));
    lines
}

fn limits(facts: &Facts) -> String {
    let limit = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let size = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), bytes);
    let limits = &facts.limits;
    format!(
        "locked memory {}, files {}, threads {}, address space {}",
        size(limits.locked_bytes),
        limit(limits.files),
        limit(limits.threads),
        size(limits.space_bytes)
    )
}

fn shared(facts: &Facts) -> String {
    let shared = &facts.shared;
    let folder = match (shared.folder_bytes, shared.folder_free_bytes) {
        (Some(size), Some(free)) => format!("/dev/shm {} (free {}), not needed", bytes(size), bytes(free)),
        _ => "no /dev/shm, not needed".into(),
    };
    match &shared.problem {
        None => format!("works; {folder}"),
        Some(problem) => format!("{problem}; {folder}"),
    }
}

fn library_line(library: &LibraryFact) -> String {
    format!("{} ({:?} {})", library.path, library.maker, library.version)
}

fn place(found: &Found) -> String {
    found.path.clone().unwrap_or_else(|| "not found".into())
}
