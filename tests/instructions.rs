//! How many instructions the hot paths take, counted by callgrind and held by `benches/records/instructions.jsonl`.
//!
//! Counts do not depend on who else uses the machine, so they can be a gate where times cannot. `make instructions`
//! writes the record anew, for whoever lowers a count or has a reason to raise one.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// What `tests/c/count.c` can count, and what each is.
const CASES: [(&str, &str); 7] = [
    ("send", "a lone 8-byte send, until it is on its way"),
    ("receive", "a lone 8-byte receive of what is there"),
    ("send-64", "a group of 64 8-byte sends"),
    ("receive-64", "a group of 64 8-byte receives of what is there"),
    ("allreduce", "one rank's 8-byte allreduce, the other rank's part being there"),
    ("allreduce-64", "one rank's group of 64 8-byte allreduces, the other rank's part being there"),
    ("empty", "an allreduce of nothing: through the C interface and back"),
];
/// Calls that are counted of each case, each for itself; the middle one counts, since in some of them a thread of
/// the library may have come too late.
const TURNS: usize = 41;
/// A count may grow by so much before it fails: what another layout of the same code makes.
const GROWTH: f64 = 0.03;
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn record_path() -> PathBuf {
    root().join("benches/records/instructions.jsonl")
}

fn output(command: &mut Command) -> String {
    let made = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{command:?}: {said}{complained}");
    format!("{said}{complained}")
}

/// The program, linked with the library as `cargo build --release` makes it.
fn program() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    std::fs::create_dir_all(&folder).unwrap();
    output(Command::new(env!("CARGO")).current_dir(root()).args([
        "build",
        "--package",
        "shoal",
        "--lib",
        "--release",
        "--locked",
        "--quiet",
    ]));
    // `make release` puts another file above; this one stays Cargo's.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let (library, link) = (target.join("release/deps/libshoal.so"), folder.join("libnccl.so.2"));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(library, &link).unwrap();
    let program = folder.join("count");
    output(
        Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-o"])
            .args([&program, &root().join("tests/c/count.c"), &link])
            .arg("-I")
            .arg(root().join("include"))
            .arg(format!("-Wl,-rpath,{}", folder.display())),
    );
    program
}

/// Instructions of the middle one of the calls.
fn count(program: &Path, case: &str) -> f64 {
    let folder = program.with_file_name(format!("counts-{case}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let function = format!("counted_{}", case.replace('-', "_"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--quiet"]);
    command.arg(format!("--toggle-collect={function}")).arg(format!("--dump-after={function}"));
    command.arg(format!("--callgrind-out-file={}", folder.join("out").display()));
    command.arg(program).arg(case).arg(TURNS.to_string());
    // What the machine or a launcher around the test would change.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    output(&mut command);
    let mut counts = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let dump = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
        counts.extend(total.filter(|total| *total > 0));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(counts.len(), TURNS, "{case}: callgrind wrote a count for each call");
    counts.sort_unstable();
    counts[TURNS / 2] as f64
}

fn version(program: &str) -> String {
    output(Command::new(program).arg("--version"))
        .split_whitespace()
        .nth(usize::from(program != "valgrind"))
        .unwrap_or("")
        .to_owned()
}

fn recorded(record: &str, case: &str) -> (f64, String) {
    let lines = record.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.into_iter().find(|line| line["case"] == case);
    let line =
        line.unwrap_or_else(|| panic!("{} has no case {case}; make instructions", record_path().display()));
    let number = line["instructions"].as_f64().expect("a number");
    (number, format!("rust {}, {}", line["rust"], line["valgrind"]))
}

#[test]
fn the_hot_paths_take_no_more_instructions_than_recorded() {
    let program = program();
    let (rust, valgrind) = (version("rustc"), version("valgrind"));
    if std::env::var_os("SHOAL_TEST_RECORD_INSTRUCTIONS").is_some() {
        let lines = CASES.map(|(case, what)| {
            let counted = count(&program, case);
            println!("{case:<12} {counted:>8}  {what}");
            let line = json!({
                "case": case, "what": what, "instructions": counted, "rust": rust, "valgrind": valgrind,
            });
            format!("{line}\n")
        });
        return std::fs::write(record_path(), lines.concat()).unwrap();
    }
    let record = std::fs::read_to_string(record_path()).expect("the record is part of the repository");
    let mut grown = Vec::new();
    for (case, what) in CASES {
        let (before, with) = recorded(&record, case);
        let now = count(&program, case);
        println!("{case:<12} {before:>8} recorded, {now:>8.0} now  {what}");
        if now > before * (1.0 + GROWTH) {
            grown.push(format!(
                "{what} ({case}) takes {now:.0} instructions, {before:.0} are recorded ({with}; now rust {rust}, {valgrind})"
            ));
        }
    }
    assert!(
        grown.is_empty(),
        "{}\nlower them again, or, if there is a reason, record them with `make instructions` and say it in \
         the commit",
        grown.join("\n")
    );
}
