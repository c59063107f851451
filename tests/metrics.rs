//! Live counters in Prometheus's form, as users meet them: `SHOAL_METRICS` on a measurement.

#[path = "common/built.rs"]
mod built;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The names and values of a file, where its form is right.
fn read(text: &str) -> Vec<(String, u64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line}"));
        let (_, value) = rest.split_once("} ").unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{error}: {line}")))
    };
    lines.map(read).collect()
}

#[test]
fn counters_are_written_while_a_job_runs_and_the_dashboard_knows_their_names() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("metrics-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args([
        "bench",
        "--op",
        "exchange",
        "--sizes",
        "64",
        "--seconds",
        "3",
        "--check",
        "0",
        "--library",
    ]);
    command.arg(built::library()).env("SHOAL_METRICS", &folder).env("SHOAL_METRICS_SECONDS", "1");
    let mut job = command.stdout(Stdio::null()).spawn().expect("it was just built");
    let started = Instant::now();
    let files = || {
        let entries = std::fs::read_dir(&folder).expect("it is ours").flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "prom")).collect::<Vec<_>>()
    };
    // Both ranks have told of messages.
    let found = loop {
        let texts = files().into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let all: Vec<Vec<(String, u64)>> = texts.map(|text| read(&text)).collect();
        let has_sent = |one: &Vec<(String, u64)>| {
            one.iter().any(|(name, value)| name == "shoal_messages_total" && *value > 0)
        };
        if all.len() == 2 && all.iter().all(has_sent) {
            break all.concat();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{all:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(job.wait().expect("it ran").success());
    assert!(files().is_empty(), "who ends takes the file along");
    let names: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains("shoal_frames_total") && names.contains("shoal_written_seconds"), "{names:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana.json");
    let text = std::fs::read_to_string(path).expect("the dashboard is there");
    let board: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(board["panels"].as_array().map(Vec::len), Some(8));
    for name in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
        assert!(!name.starts_with("shoal_") || names.contains(name), "the dashboard asks for {name}");
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
