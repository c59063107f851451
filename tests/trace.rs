//! The trace of a job and the report on it, as users meet them: `SHOAL_TRACE` on a measurement, then `shoal report`.

#[path = "common/built.rs"]
mod built;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use shoal::op::{DataType, Kind, Manner, Reduction, Shape};
use shoal::trace::tracer::{Done, Title, Tracer};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder is ours");
    folder
}

fn shoal(arguments: &[&str], settings: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let output = command.args(arguments).envs(settings.iter().copied()).output().expect("it was just built");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!said.is_empty() || output.status.code() == Some(1), "{arguments:?}: {complaint}");
    (format!("{said}{complaint}"), output.status.code())
}

fn report(folder: &Path) -> Value {
    let (said, code) = shoal(&["report", "--format", "json", folder.to_str().expect("words")], &[]);
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&said).expect("one object")
}

fn measure(folder: &Path, operation: &str, more: &[&str]) {
    let library = built::library().to_string_lossy().into_owned();
    let mut arguments = vec!["bench", "--library", &library, "--ranks", "2", "--op", operation];
    arguments.extend(["--sizes", "64K", "-n", "50", "-w", "200", "--batches", "1", "--tensor", "2"]);
    arguments.extend(more);
    let path = folder.to_str().expect("words");
    let (said, code) = shoal(&arguments, &[("SHOAL_TRACE", path)]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_papers_finding_shows_by_itself() {
    let folder = folder("neox");
    measure(&folder, "neox", &[]);
    let found = report(&folder);
    let small = &found["small_point_to_point"];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}"));
    // Of the five messages of a stage boundary two are small, and both leave in another's packet or bring one along.
    // The large ones are timed alone as well, a hundred times, and the warm-up makes whole boundaries thrice as many.
    let share = number(&small["share_of_calls"]);
    assert!((0.3..0.6).contains(&share), "{share}: {small:#}");
    assert!(number(&small["share_of_time"]) > 0.0 && number(&small["sum"]["bytes"]) > 0.0);
    assert!(number(&small["messages_sent"]) >= number(&small["packets"]), "{small:#}");
    assert_eq!(found["traces"].as_array().map(Vec::len), Some(2));
    for format in ["text", "markdown", "html"] {
        let path = folder.to_str().expect("words");
        let (said, code) = shoal(&["report", "--format", format, path], &[]);
        assert!(code == Some(0) && said.contains("point-to-point messages of at most 1 KiB"), "{said}");
        assert_eq!(said.contains("<svg"), format == "html");
    }
    // Ranks on one clock: they work at the same time.
    let (said, _) = shoal(&["report", "--format", "chrome", folder.to_str().expect("words")], &[]);
    let timeline: Value = serde_json::from_str(&said).expect("one object");
    let events = timeline["traceEvents"].as_array().expect("a list");
    let starts = |rank: u64| {
        let of = events.iter().filter(move |event| event["pid"] == rank && event["ph"] == "X");
        of.map(|event| number(&event["ts"])).fold(f64::INFINITY, f64::min)
    };
    assert!((starts(0) - starts(1)).abs() < 5e6, "{} and {}", starts(0), starts(1));
    assert!(events.iter().any(|event| event["name"].as_str().is_some_and(|name| name.ends_with("more"))));
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn every_lone_message_is_in_the_trace() {
    let folder = folder("lone");
    measure(&folder, "neoxlone", &[]);
    let lone = report(&folder);
    let alone = &lone["small_point_to_point"]["alone_ns"];
    assert!(
        alone.as_array().is_some_and(|quarters| quarters.len() == 3),
        "{:#}",
        lone["small_point_to_point"]
    );
    let calls = |kind: &str| lone["operations"][kind]["calls"].as_f64().unwrap_or(0.0);
    assert!(calls("Send") == calls("Recv") && calls("Send") >= 5.0 * 50.0, "{:#}", lone["operations"]);
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

/// A trace of so many operations.
fn write(folder: &Path, count: u64) {
    let title = Title { communicator: 7, rank: 0, ranks: 2, host: "here".into(), coalesce_bytes: 1024 };
    let mut tracer = Tracer::create(folder, &title, u64::MAX).expect("a new file");
    let shape = |kind, count| {
        let (data_type, reduction, manner) = (DataType::Float32, Reduction::Sum, Manner::PLAIN);
        (Shape { count, peer: 1, kind, data_type, reduction, manner }, 0)
    };
    let ids: Vec<_> = (1..=200)
        .map(|size| tracer.define(&[shape([Kind::Send, Kind::AllReduce][size % 2], size * 10)], 1, false))
        .collect();
    for sequence in 1..=count {
        let id = ids[(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % ids.len()];
        let start_ticks = sequence * 3000;
        tracer.write(id, &Done { sequence, start_ticks, end_ticks: start_ticks + 2000, ..Done::default() });
    }
}

#[test]
fn a_long_trace_is_read_in_little_memory() {
    let is_full = std::env::var("SHOAL_TEST_CAMPAIGN").is_ok_and(|text| text == "full");
    let count = if is_full { 10_000_000 } else { 500_000 };
    let folder = folder("long");
    write(&folder, count);
    let started = std::time::Instant::now();
    // The limit is the whole address space of the program, its own code and libraries among it.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 1048576; exec \"$0\" report --format json \"$1\""]);
    let output = command.arg(env!("CARGO_BIN_EXE_shoal")).arg(&folder).output().expect("a shell");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {complaint}"));
    println!("{count} operations: {:.2} s", started.elapsed().as_secs_f64());
    assert_eq!(found["total"]["calls"].as_f64(), Some(count as f64));
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn a_damaged_trace_is_reported_up_to_the_damage() {
    let folder = folder("damaged");
    write(&folder, 10_000);
    let path = std::fs::read_dir(&folder).expect("it is ours").flatten().next().expect("a trace").path();
    let mut bytes = std::fs::read(&path).expect("a trace");
    let at = bytes.len() / 2 / 32 * 32;
    bytes[at..at + 4].copy_from_slice(&12_345_u32.to_le_bytes());
    std::fs::write(&path, &bytes).expect("it is ours");
    let (said, code) = shoal(&["report", folder.to_str().expect("words")], &[]);
    assert!(code == Some(1) && said.contains("a batch without a definition, at byte"), "{said}");
    std::fs::write(&path, &bytes[..100]).expect("it is ours");
    let (said, code) = shoal(&["report", folder.to_str().expect("words")], &[]);
    assert!(code == Some(1) && said.contains("its head cannot be read"), "{said}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn a_modelled_step_is_what_its_model_says() {
    let folder = folder("model");
    let path = folder.to_str().expect("words");
    let model = [
        "model",
        "--preset",
        "1.3B",
        "--tp",
        "2",
        "--pp",
        "2",
        "--dp",
        "2",
        "--zero",
        "1",
        "--micro-batches",
        "4",
    ];
    let ask = |model: &[&str], more: &[&str]| shoal(&[model, more].concat(), &[]);
    let (said, code) = ask(&model, &["--trace", path]);
    assert!(code == Some(0) && said.starts_with("6 traces of one step"), "{said}");
    let (said, code) = ask(&model, &["--compare", path]);
    assert!(code == Some(0) && !said.contains("departs") && said.contains("as modelled"), "{said}");
    // One that was run with twice the micro-batches, and without sharing the optimizer's state.
    let other = ["model", "--preset", "1.3B", "--tp", "2", "--pp", "2", "--dp", "2", "--micro-batches", "8"];
    let (said, code) = ask(&other, &["--compare", path]);
    assert!(code == Some(1) && said.contains("departs: called, and not modelled"), "{said}");
    let (said, code) = shoal(&["report", path], &[]);
    assert!(code == Some(0) && said.contains("AllReduce"), "{said}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn what_packing_gains_is_measured_in_the_job_itself() {
    let folder = folder("turns");
    let path = folder.to_str().expect("words");
    let library = built::library().to_string_lossy().into_owned();
    let measured = "--op exchange,neoxlone --sizes 64 -m 32 -n 400 -w 5 --batches 1 --tensor 2 --in-place 0";
    let bench: Vec<&str> = ["bench", "--library", &library].into_iter().chain(measured.split(' ')).collect();
    let (said, code) = shoal(&bench, &[("SHOAL_TRACE", path), ("SHOAL_ALTERNATE", "20")]);
    assert_eq!(code, Some(0), "{said}");
    let found = report(&folder);
    let all = found["measured_in_turn"].as_array().expect("a list");
    let one = all.iter().find(|one| one["messages"] == 32).unwrap_or_else(|| panic!("{all:?}"));
    let number = |name: &str| one[name].as_f64().unwrap_or_else(|| panic!("{one:#}"));
    assert!(number("packets") < 32.0 && number("low") <= number("gain") && number("gain") <= number("high"));
    // 32 messages one by one take longer than one frame, whatever the machine does meanwhile.
    assert!(number("gain") > 1.0 && number("sure") > 0.9, "{one:#}");
    let (said, _) = shoal(&["report", path], &[]);
    assert!(said.contains("Packing, measured in turn") && said.contains("32 of 2 KiB together"), "{said}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
