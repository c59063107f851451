//! How many lines of shared memory the hot paths write, counted by `tests/c/lines.c`. A written line is fetched anew by
//! the core that looks at it, so after instructions this is what a small message costs; and unlike time it can
//! be a gate.
//!
//! The library is the one that Cargo made beside this test, or the one that `SHOAL_TEST_LIBRARY` names.

#[path = "common/built.rs"]
mod built;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that are counted of each case.
const TURNS: u32 = 128;

/// What is counted, and the most lines a call may write, in turns: receivers return room now and then only.
const CASES: [(&str, u32, &str); 6] = [
    ("send", TURNS, "a lone 8-byte send: its packet's line"),
    ("receive", TURNS / 16, "a lone 8-byte receive"),
    // 64 lengths of 4 bytes and 64 messages of 8 are 12 lines, behind one that announces them.
    ("send-64", 13 * TURNS, "a group of 64 8-byte sends: one frame"),
    ("receive-64", TURNS / 16, "a group of 64 8-byte receives"),
    ("allreduce", 2 * TURNS, "an 8-byte allreduce of two ranks: a packet each"),
    // Two packets for each, and returned room.
    ("allreduce-64", 130 * TURNS, "a group of 64 8-byte allreduces of two ranks"),
];
/// Of these no call can do with less than a line, so fewer are a fault of the counting.
const SENDERS: [&str; 4] = ["send", "send-64", "allreduce", "allreduce-64"];

fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lines-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (link, program) = (folder.join("libnccl.so.2"), folder.join("lines"));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(std::fs::canonicalize(built::library()).unwrap(), &link).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O2", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root.join("include"));
    compiler.arg("-o").args([&program, &root.join("tests/c/lines.c"), &link]);
    compiler.arg(format!("-Wl,-rpath,{}", folder.display()));
    let made = compiler.output().expect("a C compiler");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    program
}

#[test]
fn a_call_writes_no_more_lines_than_it_must() {
    let program = program();
    for (case, most, what) in CASES {
        let mut command = Command::new(&program);
        // A record's line lies in shared memory too, but no peer looks at it unless somebody is missing.
        let command = command.args([case, &TURNS.to_string()]).env("SHOAL_RECORDS", "0");
        let counted = command.output().expect("it was built");
        let said = String::from_utf8_lossy(&counted.stdout);
        assert!(counted.status.success(), "{case}: {said}{}", String::from_utf8_lossy(&counted.stderr));
        let lines: u32 = said.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        println!("{case:<12} {:>6.2} lines a call  {what}", f64::from(lines) / f64::from(TURNS));
        assert!(lines <= most, "{what} ({case}) writes {lines} lines in {TURNS} calls, {most} are allowed");
        assert!(!SENDERS.contains(&case) || lines >= TURNS, "{case}: {lines} lines cannot be all");
    }
    std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
}
