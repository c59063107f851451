//! The rules, as data: what each forbids, why, and examples that it must catch and must let pass.

use crate::scan::{File, functions, is_word, lies_in, line_of, mentions, names, without_items, words};

/// Something that breaks a rule: where, and what.
pub(crate) type Finding = (usize, String);

/// A rule, with the examples that prove it works.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    pub(crate) check: fn(&File) -> Vec<Finding>,
    /// Files, as path and text, that break it.
    pub(crate) caught: &'static [(&'static str, &'static str)],
    /// Files that look alike and do not.
    pub(crate) passed: &'static [(&'static str, &'static str)],
}

/// Files may have this many lines.
pub(crate) const FILE_LINES: usize = 600;
/// Functions may have this many lines.
pub(crate) const FUNCTION_LINES: usize = 70;

/// What is longer, up to which length, and why it is better so. Entries go, and numbers shrink; a new entry
/// wants a reason that a reader would agree with.
pub(crate) struct Longer {
    pub(crate) path: &'static str,
    /// Empty: the file itself.
    pub(crate) function: &'static str,
    pub(crate) lines: usize,
    #[allow(dead_code, reason = "for the reader")]
    pub(crate) reason: &'static str,
}

pub(crate) const LONGER: &[Longer] = &[];

/// Where `unsafe` may stand, and what for.
pub(crate) const UNSAFE_ROOMS: &[(&str, &str)] = &[
    ("src/abi/", "pointers of C callers"),
    ("src/stock/", "functions of another library"),
    ("src/system/", "maps, futexes, system calls"),
    ("src/device/", "the caller's memory"),
    ("src/transport/mod.rs", "declares what the caller of a transport promises"),
    ("src/transport/lines.rs", "hands the promises of the trait on"),
    ("src/transport/shm/", "memory that other processes write"),
    ("src/transport/ucx/", "functions of another library"),
    ("src/transport/sim/", "implements the promises of the trait"),
    ("src/engine/act/", "hands the caller's promise about its buffers to device and transport"),
    ("src/cli/library.rs", "functions of the library it measures"),
    ("src/cli/bench/mpi.rs", "functions of MPI"),
    ("src/cli/bench/ucx.rs", "functions of UCX"),
    ("src/cli/bench/gloo.rs", "functions of Gloo"),
    ("src/cli/machine.rs", "buffers of a measurement, maps that its ranks share, affinity"),
];

/// Decides and never touches: files whose module, or one above it, says `#![forbid(unsafe_code)]`.
pub(crate) const PURE: &[&str] = &[
    "src/op.rs",
    "src/error.rs",
    "src/config.rs",
    "src/config/",
    "src/group.rs",
    "src/schedule/",
    "src/coalesce/",
    "src/tune/",
    "src/topology/",
    "src/comm/bootstrap/agreement.rs",
    "src/comm/bootstrap/audience.rs",
    "src/comm/bootstrap/branch.rs",
    "src/comm/bootstrap/branch/",
    "src/comm/bootstrap/epitaph.rs",
    "src/comm/bootstrap/guests.rs",
    "src/comm/bootstrap/id.rs",
    "src/comm/bootstrap/interfaces.rs",
    "src/comm/bootstrap/kin.rs",
    "src/comm/bootstrap/line.rs",
    "src/comm/bootstrap/lobby.rs",
    "src/comm/bootstrap/member.rs",
    "src/comm/bootstrap/message.rs",
    "src/comm/bootstrap/place.rs",
    "src/comm/bootstrap/porch.rs",
    "src/comm/bootstrap/proof.rs",
    "src/comm/bootstrap/pulse.rs",
    "src/comm/bootstrap/root.rs",
    "src/comm/bootstrap/secret.rs",
    "src/comm/bootstrap/seek.rs",
    "src/comm/bootstrap/server.rs",
    "src/comm/bootstrap/session.rs",
    "src/comm/bootstrap/tree.rs",
    "src/comm/bootstrap/wire.rs",
    "src/model/",
    "src/replay/",
    "src/simulate/",
];

/// Which modules of the library a module may mention; a path with a slash is a part with a list of its own.
/// The lists have no circle, so each module can be understood after those it mentions.
pub(crate) const EDGES: &[(&str, &[&str])] = &[
    ("op", &[]),
    ("error", &[]),
    ("config", &[]),
    ("topology", &["op", "error", "system"]),
    ("schedule", &["op"]),
    ("coalesce", &["op", "error", "schedule"]),
    ("tune", &["op", "error", "topology", "schedule"]),
    ("simulate", &["op", "schedule", "coalesce"]),
    ("model", &[]),
    ("trace", &["op", "error", "config", "system"]),
    ("system", &["op", "error"]),
    ("stock", &["op", "error", "config", "trace", "system"]),
    ("device", &["op", "error", "system"]),
    ("transport", &["op", "error", "config", "topology", "trace", "system"]),
    ("comm/bootstrap", &["op", "error", "config", "topology", "trace", "system"]),
    (
        "engine",
        &[
            "op",
            "error",
            "config",
            "topology",
            "trace",
            "system",
            "schedule",
            "coalesce",
            "tune",
            "device",
            "transport",
        ],
    ),
    (
        "comm",
        &[
            "op",
            "error",
            "config",
            "topology",
            "trace",
            "system",
            "stock",
            "schedule",
            "coalesce",
            "tune",
            "device",
            "transport",
            "engine",
            "comm/bootstrap",
        ],
    ),
    (
        "group",
        &[
            "op", "error", "config", "topology", "trace", "system", "schedule", "coalesce", "tune", "engine",
            "comm",
        ],
    ),
    ("abi", &["op", "error", "config", "trace", "system", "stock", "device", "engine", "comm", "group"]),
    (
        "cli",
        &[
            "op",
            "error",
            "config",
            "topology",
            "trace",
            "system",
            "schedule",
            "coalesce",
            "tune",
            "device",
            "transport",
            "engine",
            "comm",
            "comm/bootstrap",
            "group",
            "abi",
            "simulate",
            "model",
            "stock",
        ],
    ),
];

/// A name of which only one place should know: how it starts, whether a capital follows, and where it may stand.
struct Owned {
    start: &'static str,
    then_capital: bool,
    places: &'static [&'static str],
}

const OWNED: &[Owned] = &[
    Owned { start: "nccl", then_capital: true, places: &["src/abi/", "src/stock/", "src/cli/library.rs"] },
    Owned { start: "pnccl", then_capital: true, places: &["src/abi/", "src/stock/", "src/cli/library.rs"] },
    Owned { start: "cu", then_capital: true, places: &["src/device/", "src/stock/"] },
    Owned {
        start: "cuda",
        then_capital: true,
        places: &["src/device/", "src/stock/", "src/abi/", "src/cli/library.rs"],
    },
    Owned { start: "cudarc", then_capital: false, places: &["src/device/"] },
    Owned { start: "ucp_", then_capital: false, places: &["src/transport/ucx/"] },
    Owned { start: "ucs_", then_capital: false, places: &["src/transport/ucx/"] },
    Owned { start: "uct_", then_capital: false, places: &["src/transport/ucx/"] },
];

/// Code that may stand in some places only: the text, whether a name ends where it ends, where, and why.
struct Confined {
    text: &'static str,
    whole: bool,
    places: &'static [&'static str],
    why: &'static str,
}

const COMMAND: &[&str] = &["src/cli/", "src/bin/"];
const PRINTERS: &[&str] = &["src/cli/", "src/bin/", "src/trace/", "src/abi/"];
const SETTINGS: &[&str] = &["src/config.rs"];

const CONFINED: &[Confined] = &[
    confined("env::var", false, SETTINGS, "only config.rs reads the environment"),
    confined("env::set_var", true, &[], "nobody changes the environment of a process that others share"),
    confined("env::remove_var", true, &[], "nobody changes the environment of a process that others share"),
    confined("env::{", false, SETTINGS, "say env::args or env::current_exe where it is used"),
    confined("env::*", false, SETTINGS, "say env::args or env::current_exe where it is used"),
    confined("env::args", false, COMMAND, "a library has no arguments"),
    confined("getenv", true, &[], "only config.rs reads the environment"),
    confined("setenv", true, &[], "nobody changes the environment of a process that others share"),
    confined("process::exit", true, COMMAND, "a library never ends the process"),
    confined("process::abort", true, COMMAND, "a library never ends the process"),
    confined("_exit", true, &["src/cli/", "src/system/"], "a library never ends the process"),
    confined("sigaction", true, COMMAND, "signals belong to the program"),
    confined("clap", true, COMMAND, "the library links nothing of the command's"),
    confined("serde", true, COMMAND, "the library links nothing of the command's"),
    confined("serde_json", true, COMMAND, "the library links nothing of the command's"),
    confined("println!", false, PRINTERS, "a library is silent; the log is trace's"),
    confined("eprintln!", false, PRINTERS, "a library is silent; the log is trace's"),
    confined("print!", false, PRINTERS, "a library is silent; the log is trace's"),
    confined("eprint!", false, PRINTERS, "a library is silent; the log is trace's"),
    confined("dbg!", false, &[], "left over"),
    confined("todo!", false, &[], "what is not built answers with an error"),
    confined("unimplemented!", false, &[], "what is not built answers with an error"),
];

const fn confined(
    text: &'static str,
    whole: bool,
    places: &'static [&'static str],
    why: &'static str,
) -> Confined {
    Confined { text, whole, places, why }
}

pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "short files",
        why: "a file is read in one sitting",
        check: long_file,
        caught: &[("src/op.rs", LONG), ("tests/any.rs", LONG), ("examples/any.c", LONG)],
        passed: &[("README.md", LONG), ("src/op.rs", "fn a() {}\n")],
    },
    Rule {
        name: "short functions",
        why: "a function is seen at once",
        check: long_functions,
        caught: &[("src/op.rs", LONG_FUNCTION)],
        passed: &[("src/op.rs", "fn a() {}\nfn b() {\n}\n"), ("src/op.rs", LONG)],
    },
    Rule {
        name: "confined code",
        why: "each thing has one place",
        check: confined_code,
        caught: &[
            ("src/group.rs", "fn a() { std::env::var(\"A\"); }"),
            ("src/cli/mod.rs", "use std::env::{var, args};"),
            ("src/group.rs", "use std::env;\nfn a() { env::var_os(\"A\"); }"),
            ("src/comm/mod.rs", "fn a() { std::process::exit(1) }"),
            ("src/tune/mod.rs", "use serde::Serialize;"),
            ("src/engine/run.rs", "fn a() { eprintln!(\"slow\"); }"),
            ("src/cli/bench.rs", "fn a() { todo!() }"),
        ],
        passed: &[
            ("src/config.rs", "fn a() { std::env::var(\"A\"); }"),
            ("src/cli/mod.rs", "use clap::Parser;\nfn a() { std::env::args(); println!(\"b\"); }"),
            ("src/group.rs", "// std::env::var\nfn a() { b(\"env::var\") }"),
            ("src/group.rs", "#[cfg(test)]\nmod tests { fn a() { std::env::var(\"A\"); } }"),
        ],
    },
    Rule {
        name: "unsafe rooms",
        why: "who reads for memory safety reads these files and no others",
        check: unsafe_rooms,
        caught: &[("src/comm/mod.rs", "fn a() { unsafe { b() } }")],
        passed: &[
            ("src/abi/mod.rs", "fn a() { unsafe { b() } }"),
            ("src/comm/mod.rs", "#![forbid(unsafe_code)] // unsafe"),
        ],
    },
    Rule {
        name: "owned names",
        why: "a foreign interface is known in one place, and can change there",
        check: owned_names,
        caught: &[
            ("src/comm/mod.rs", "fn a(comm: ncclComm_t) {}"),
            ("src/engine/run.rs", "fn a() { cuMemAlloc_v2() }"),
            ("src/transport/shm/ring.rs", "fn a() { ucp_init() }"),
        ],
        passed: &[
            ("src/abi/mod.rs", "fn a(comm: ncclComm_t) {}"),
            ("src/comm/mod.rs", "fn a() { b(\"ncclSend\"); cut(); current() }"),
        ],
    },
    Rule {
        name: "module edges",
        why: "what decides does not know what moves, and what moves does not know what is decided",
        check: module_edges,
        caught: &[
            ("src/transport/shm/ring.rs", "use crate::schedule::Plan;"),
            ("src/schedule/ring.rs", "use crate::{op::Op, transport::Head};"),
            ("src/group.rs", "use super::abi;"),
            ("src/comm/bootstrap/root.rs", "use crate::engine::Engine;"),
            ("src/newcomer.rs", "use crate::op::Op;"),
        ],
        passed: &[
            (
                "src/schedule/ring.rs",
                "use crate::op::Op;\nuse super::Plan;\n/// [`crate::engine`]\nfn a() {}",
            ),
            ("src/schedule/ring.rs", "#[cfg(test)]\nmod tests { use crate::device::host; }"),
            ("src/comm/handle.rs", "use crate::comm::bootstrap::root;"),
            ("src/lib.rs", "pub mod abi;"),
        ],
    },
    Rule {
        name: "full names",
        why: "source and target are said in full",
        check: full_names,
        caught: &[
            ("src/op.rs", "fn a(src: usize) {}"),
            ("tests/a.rs", "let dst = 1;"),
            ("examples/a.c", "int dst;"),
        ],
        passed: &[("src/op.rs", "// src\nfn a(source: usize) { b(\"src\") }"), ("scripts/a.sh", "ls src/")],
    },
    Rule {
        name: "nothing left to do",
        why: "what is missing stands in the README's table, where users see it",
        check: left_to_do,
        caught: &[
            ("src/op.rs", concat!("// TO", "DO: more")),
            ("scripts/a.py", concat!("# FIX", "ME")),
            ("README.md", concat!("XX", "X")),
        ],
        passed: &[("src/op.rs", "// to do: a list"), ("scripts/a.sh", "mktemp a.XXXXXX")],
    },
    Rule {
        name: "no panics at the border",
        why: "a caller's mistake is answered with a result number",
        check: border_panics,
        caught: &[
            ("src/abi/mod.rs", "fn a() { b.unwrap() }"),
            ("src/abi/init.rs", "fn a() { panic!(\"b\") }"),
        ],
        passed: &[
            ("src/abi/mod.rs", "fn a() { b.unwrap_or(1) }"),
            ("src/abi/types.rs", "const _: () = {\n    assert!(size_of::<A>() == 8);\n};"),
            ("src/abi/mod.rs", "#[cfg(test)]\nmod tests { fn a() { b.unwrap(); } }"),
            ("src/comm/mod.rs", "fn a() { b.expect(\"c\") }"),
        ],
    },
    Rule {
        name: "no machine but yours",
        why: "the repository works wherever it is cloned",
        check: machine_paths,
        caught: &[
            ("README.md", concat!("see /wo", "rk/shared")),
            ("scripts/a.sh", concat!("ls /ro", "ot/.cargo")),
            ("Makefile", concat!("pip install -i https://py", "pi.org/simple")),
            ("Cargo.lock", "source = \"registry+https://mirror.example/index\""),
        ],
        passed: &[
            ("README.md", "network/worker, the/work/of others"),
            ("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""),
        ],
    },
];

const LONG: &str = include_str!("long.txt");
const LONG_FUNCTION: &str = include_str!("long_function.txt");

fn long_file(file: &File) -> Vec<Finding> {
    let counts = [".rs", ".c", ".h", ".cu", ".py", ".sh"].iter().any(|end| file.path.ends_with(end));
    let lines = file.text.lines().count();
    let limit = limit(&file.path, "", FILE_LINES);
    if counts && lines > limit {
        vec![(1, format!("{lines} lines, {limit} are allowed"))]
    } else {
        Vec::new()
    }
}

fn long_functions(file: &File) -> Vec<Finding> {
    let mut found = functions(&file.code);
    found.retain(|function| function.lines > limit(&file.path, &function.name, FUNCTION_LINES));
    found.into_iter().map(|f| (f.line, format!("fn {} has {} lines", f.name, f.lines))).collect()
}

fn limit(path: &str, function: &str, usual: usize) -> usize {
    LONGER.iter().find(|row| row.path == path && row.function == function).map_or(usual, |row| row.lines)
}

fn confined_code(file: &File) -> Vec<Finding> {
    if !file.is_source() {
        return Vec::new();
    }
    let code = &file.shipped;
    let mut found = Vec::new();
    for row in CONFINED.iter().filter(|row| !file.is_in(row.places)) {
        for (at, _) in code.match_indices(row.text) {
            let begins = at == 0 || !is_word(code.as_bytes()[at - 1]);
            let ends = code.as_bytes().get(at + row.text.len()).is_none_or(|&next| !is_word(next));
            if begins && (ends || !row.whole) {
                found.push((line_of(code, at), format!("{}: {}", row.text, row.why)));
            }
        }
    }
    found
}

fn unsafe_rooms(file: &File) -> Vec<Finding> {
    let rooms: Vec<_> = UNSAFE_ROOMS.iter().map(|(place, _)| *place).collect();
    if !file.is_source() || file.is_in(&rooms) {
        return Vec::new();
    }
    words(&file.shipped, "unsafe").map(|(_, line)| (line, "unsafe outside its rooms".to_owned())).collect()
}

fn owned_names(file: &File) -> Vec<Finding> {
    if !file.is_source() {
        return Vec::new();
    }
    let owned = |name: &str| {
        OWNED.iter().filter(|row| !file.is_in(row.places)).any(|row| {
            name.strip_prefix(row.start).is_some_and(|rest| {
                !row.then_capital || rest.starts_with(|first: char| first.is_ascii_uppercase())
            })
        })
    };
    names(&file.shipped).filter(|(name, _)| owned(name)).map(|(name, line)| (line, name.to_owned())).collect()
}

/// The row of [`EDGES`] that a file stands under: the longest that fits.
fn room(path: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let inner = path.strip_prefix("src/")?;
    EDGES
        .iter()
        .filter(|(room, _)| inner == format!("{room}.rs") || lies_in(inner, &format!("{room}/")))
        .max_by_key(|(room, _)| room.len())
}

fn module_edges(file: &File) -> Vec<Finding> {
    if !file.is_source() || file.path == "src/lib.rs" || file.path.starts_with("src/bin/") {
        return Vec::new();
    }
    let Some((room, allowed)) = room(&file.path) else {
        return vec![(1, "a module without a row in the table of edges".to_owned())];
    };
    let own = room.split('/').next().unwrap_or(room);
    let known = |name: &str| EDGES.iter().any(|(room, _)| *room == name);
    mentions(file)
        .into_iter()
        .filter(|(name, _)| known(name) && name != own && !allowed.contains(&name.as_str()))
        .map(|(name, line)| (line, format!("{room} mentions {name}")))
        .collect()
}

fn full_names(file: &File) -> Vec<Finding> {
    let code = if file.path.ends_with(".rs") {
        &file.code
    } else if file.path.ends_with(".c") {
        &file.text
    } else {
        return Vec::new();
    };
    let short = |name: &str| matches!(name, "src" | "dst");
    names(code).filter(|(name, _)| short(name)).map(|(name, line)| (line, name.to_owned())).collect()
}

fn left_to_do(file: &File) -> Vec<Finding> {
    const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let marked = |name: &str| MARKS.contains(&name);
    names(&file.text).filter(|(name, _)| marked(name)).map(|(name, line)| (line, name.to_owned())).collect()
}

fn border_panics(file: &File) -> Vec<Finding> {
    const CALLS: [&str; 5] = [".unwrap()", ".expect(", "panic!", "unreachable!", "assert!"];
    if !file.is_in(&["src/abi/"]) {
        return Vec::new();
    }
    // What the compiler asserts cannot panic later.
    let code = without_items(&file.shipped, &["const _: () ="]);
    let calls = CALLS.iter().flat_map(|call| code.match_indices(call));
    calls.map(|(at, call)| (line_of(&code, at), call.to_owned())).collect()
}

fn machine_paths(file: &File) -> Vec<Finding> {
    const PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    const HOSTS: [&str; 5] = [
        concat!("py", "pi.org"),
        concat!("python", "hosted.org"),
        concat!("art", "ifactory"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
    ];
    let begins = |line: &str, at: usize| {
        at == 0 || !(is_word(line.as_bytes()[at - 1]) || b".-$})".contains(&line.as_bytes()[at - 1]))
    };
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let path = PATHS.iter().any(|path| line.match_indices(path).any(|(at, _)| begins(line, at)));
        let host = HOSTS.iter().any(|host| line.contains(host));
        let source = file.path == "Cargo.lock"
            && line.starts_with("source = ")
            && line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        if path || host || source {
            found.push((number + 1, line.trim().to_owned()));
        }
    }
    found
}
