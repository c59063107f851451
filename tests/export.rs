//! Traces in the forms of others: what is written there and read back says the same.

#[path = "common/built.rs"]
mod built;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn shoal(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let output = command.args(arguments).envs(settings.iter().copied()).output().expect("it was just built");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Calls and bytes by operation, as a replay would play them.
fn volumes(path: &str) -> Value {
    let said = shoal(&["replay", "--plan", "--format", "json", path], &[]);
    serde_json::from_str::<Value>(&said).expect("one object")["volumes"].take()
}

/// What Python's own reader makes of a flight record.
fn unpickled(path: &Path) -> Value {
    let script = "import sys, pickle, json; print(json.dumps(pickle.load(open(sys.argv[1], 'rb'))))";
    let output =
        Command::new("python3").args(["-c", script]).arg(path).output().expect("the tests have python3");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn what_is_exported_is_read_back() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("export-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let at = |name: &str| folder.join(name).to_str().expect("words").to_owned();
    let (traces, library) = (at("traces"), built::library().to_string_lossy().into_owned());
    let measured = "--ranks 2 --op neox,reduce,allgather --sizes 16K -n 10 -w 1 --batches 1 --seconds 0.02 --tensor 2 --in-place 0";
    let bench: Vec<&str> = ["bench", "--library", &library].into_iter().chain(measured.split(' ')).collect();
    shoal(&bench, &[("SHOAL_TRACE", &traces)]);
    let expected = volumes(&traces);
    let calls = |name: &str| expected[name]["calls"].as_u64().expect("it was called");
    assert!(calls("Send") > 10 && calls("Reduce") > 4 && calls("AllGather") > 4, "{expected:#}");

    let param = at("param");
    shoal(&["report", "--format", "param", "--output", &param, &traces], &[]);
    let lists = [at("param/rank0.json"), at("param/rank1.json")];
    let arguments = ["replay", "--plan", "--format", "json", &lists[0], &lists[1]];
    let read: Value = serde_json::from_str(&shoal(&arguments, &[])).expect("one object");
    assert_eq!(read["volumes"], expected);
    let arguments = ["replay", "--library", &library, "--rounds", "1", &lists[0], &lists[1]];
    assert!(shoal(&arguments, &[]).contains("every result was right"));

    let records = at("records.jsonl");
    shoal(&["report", "--format", "inspector", "--output", &records, &traces], &[]);
    assert_eq!(volumes(&records), expected);

    let goal = shoal(&["report", "--format", "goal", &traces], &[]);
    let count = |word: &str| goal.lines().filter(|line| line.contains(word)).count() as u64;
    assert!(goal.starts_with("num_ranks 2\n") && count(": send ") == count(": recv "));
    assert!(count(": send ") >= calls("Send") + calls("Reduce") / 2, "{}", count(": send "));

    shoal(&["report", "--format", "flight", "--output", &at("flight"), &traces], &[]);
    shoal(&["report", "--format", "flight-json", "--output", &at("json"), &traces], &[]);
    let mut sent = 0;
    for rank in 0..2 {
        let record = unpickled(Path::new(&at(&format!("flight/nccl_trace_rank_{rank}"))));
        let text = std::fs::read_to_string(at(&format!("json/nccl_trace_rank_{rank}.json")))
            .expect("it was written");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("one object"), record);
        let entries = record["entries"].as_array().expect("a list");
        let named = |start: &str| {
            let of_it = entries
                .iter()
                .filter(|entry| entry["profiling_name"].as_str().is_some_and(|name| name.starts_with(start)));
            of_it.count() as u64
        };
        sent += named("nccl:send ");
        assert_eq!(2 * named("nccl:reduce"), calls("Reduce"));
        assert!(named("nccl:coalesced") > 0 && entries.iter().all(|entry| entry["state"] == "completed"));
    }
    assert_eq!(sent, calls("Send"));
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
