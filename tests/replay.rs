//! What a job communicated, once more, as users meet it: `shoal replay` of traces, of modelled steps and of lists.

#[path = "common/built.rs"]
mod built;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use shoal::model::PRESETS;

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder is ours");
    folder
}

fn shoal(arguments: &[&str], settings: &[(&str, &str)]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let output = command.args(arguments).envs(settings.iter().copied()).output().expect("it was just built");
    let [said, complaint] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (said, complaint, output.status.code())
}

fn replay(path: &Path, more: &[&str]) -> Value {
    let library = built::library().to_string_lossy().into_owned();
    let mut arguments = vec!["replay", "--format", "json", "--library", &library, "--timeout", "30"];
    arguments.push(path.to_str().expect("words"));
    arguments.extend(more);
    let (said, complaint, code) = shoal(&arguments, &[]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    serde_json::from_str(&said).expect("one object")
}

fn volume(found: &Value, operation: &str) -> [u64; 2] {
    let of = &found["volumes"][operation];
    [&of["calls"], &of["bytes"]].map(|number| number.as_u64().unwrap_or(0))
}

/// Calls and bytes of a traced measurement, by the report on it.
fn reported(folder: &Path, operation: &str) -> [u64; 2] {
    let (said, complaint, _) = shoal(&["report", "--format", "json", folder.to_str().expect("words")], &[]);
    let found: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {complaint}"));
    let of = &found["operations"][operation];
    [&of["calls"], &of["bytes"]].map(|number| number.as_f64().unwrap_or(0.0) as u64)
}

#[test]
fn a_recorded_job_is_played_again_byte_by_byte() {
    let folder = folder("neox");
    let path = folder.to_str().expect("words");
    let library = built::library().to_string_lossy().into_owned();
    let measured = [
        "bench",
        "--library",
        &library,
        "--ranks",
        "2",
        "--op",
        "neox,allreduce,reduce",
        "--sizes",
        "16K",
        "-n",
        "20",
        "-w",
        "2",
        "--batches",
        "1",
        "--tensor",
        "2",
        "--in-place",
        "0",
        "--seconds",
        "0.02",
    ];
    let (said, complaint, code) = shoal(&measured, &[("SHOAL_TRACE", path)]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    let found = replay(&folder, &["--rounds", "2"]);
    assert_eq!((found["wrong"].as_u64(), found["ranks"].as_u64()), (Some(0), Some(2)), "{found:#}");
    for operation in ["AllReduce", "Reduce", "Send", "Recv"] {
        let expected = reported(&folder, operation);
        assert!(expected[0] > 4, "{operation}: {expected:?}");
        assert_eq!(volume(&found, operation), expected, "{operation}");
    }
    let classes: Vec<&str> = found["classes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|class| class["what"].as_str())
        .collect();
    assert!(classes.contains(&"group of messages") && classes.contains(&"AllReduce"), "{classes:?}");
    // What is played is itself recorded, and the record says the same.
    let again = folder.join("again");
    let arguments = ["replay", "--library", &library, "--check", "0", "--rounds", "1", path];
    let (said, complaint, code) = shoal(&arguments, &[("SHOAL_TRACE", again.to_str().expect("words"))]);
    assert!(code == Some(0) && said.contains("results were not checked"), "{said}{complaint}");
    for operation in ["AllReduce", "Send", "Recv"] {
        assert_eq!(reported(&again, operation), reported(&folder, operation), "{operation}");
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

/// Bytes that the model names, by operation, of what all ranks of a group of each kind call.
fn modelled(arguments: &[&str], operation: &str) -> u64 {
    let (said, complaint, code) = shoal(&[arguments, &["--format", "json"]].concat(), &[]);
    assert_eq!(code, Some(0), "{complaint}");
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object a line"));
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap_or(0);
    let of_it = lines.filter(|line| line["operation"] == operation);
    let bytes = of_it.map(|line| match operation {
        // Of the whole buffer, of which each rank's call names its share; shares are whole.
        "allgather" | "reducescatter" => {
            number(&line, "calls") * number(&line, "bytes").next_multiple_of(number(&line, "ranks"))
        }
        "send" => number(&line, "total_bytes"),
        _ => number(&line, "total_bytes") * number(&line, "ranks"),
    });
    bytes.sum()
}

#[test]
fn replayed_volumes_equal_the_models_for_every_preset() {
    let layouts: [&[&str]; 2] = [
        &["--dp", "2", "--tp", "2", "--pp", "2", "--micro-batches", "3"],
        &["--dp", "4", "--tp", "2", "--sp", "--zero", "2"],
    ];
    for (preset, _) in PRESETS {
        for layout in layouts {
            let folder = folder(&format!("model-{preset}"));
            let model = [&["model", "--preset", preset], layout].concat();
            let traced = [&model[..], &["--trace", folder.to_str().expect("words")]].concat();
            let (said, complaint, code) = shoal(&traced, &[]);
            assert_eq!(code, Some(0), "{said}{complaint}");
            let found = replay(&folder, &["--plan"]);
            for (name, operation) in [
                ("AllReduce", "allreduce"),
                ("AllGather", "allgather"),
                ("ReduceScatter", "reducescatter"),
                ("Send", "send"),
                ("Recv", "send"),
            ] {
                assert_eq!(
                    volume(&found, name)[1],
                    modelled(&model, operation),
                    "{preset} {layout:?} {name}"
                );
            }
            std::fs::remove_dir_all(&folder).expect("it is ours");
        }
    }
}

#[test]
fn a_modelled_step_is_played_scaled_down() {
    let folder = folder("scaled");
    let path = folder.to_str().expect("words");
    let model = ["model", "--preset", "19M", "--dp", "2", "--tp", "2", "--pp", "3", "--chunks", "2"];
    let traced = [&model[..], &["--micro-batches", "2", "--trace", path]].concat();
    let (said, complaint, code) = shoal(&traced, &[]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    let found = replay(&folder, &["--scale", "0.0001", "--rounds", "1"]);
    assert_eq!((found["wrong"].as_u64(), found["ranks"].as_u64()), (Some(0), Some(3)), "{found:#}");
    let whole = replay(&folder, &["--plan"]);
    for operation in ["AllReduce", "Send", "Recv"] {
        let [[calls, bytes], [all_calls, all_bytes]] = [volume(&found, operation), volume(&whole, operation)];
        assert!(
            calls == all_calls && bytes > 0 && bytes < all_bytes / 5000,
            "{operation}: {bytes} of {all_bytes}"
        );
    }
    // Two of the three stages.
    let found = replay(&folder, &["--scale", "0.0001", "--rounds", "1", "--ranks", "2"]);
    assert_eq!((found["wrong"].as_u64(), found["ranks"].as_u64()), (Some(0), Some(2)), "{found:#}");
    let notes = found["notes"].to_string();
    assert!(notes.contains("messages with ranks that do not play are left out"), "{notes}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn lists_of_calls_are_played_on_two_ranks() {
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/aicb");
    let mut count = 0;
    for entry in std::fs::read_dir(lists).expect("the lists are there").flatten() {
        if entry.path().extension().is_none_or(|ending| ending != "csv") {
            continue;
        }
        count += 1;
        let found = replay(&entry.path(), &["--scale", "0.00001", "--ranks", "2", "--rounds", "1"]);
        assert_eq!((found["wrong"].as_u64(), found["ranks"].as_u64()), (Some(0), Some(2)), "{found:#}");
        assert!(volume(&found, "AllReduce")[0] > 0, "{found:#}");
    }
    assert_eq!(count, 5);
}

#[test]
fn two_sides_take_turns_and_the_gain_has_an_interval() {
    let folder = folder("sides");
    let path = folder.to_str().expect("words");
    let library = built::library().to_string_lossy().into_owned();
    let measured = [
        "bench",
        "--library",
        &library,
        "--op",
        "exchange",
        "--sizes",
        "64",
        "-n",
        "30",
        "-w",
        "2",
        "--batches",
        "1",
    ];
    let (said, complaint, code) = shoal(&measured, &[("SHOAL_TRACE", path)]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    let found = replay(&folder, &["--against", "SHOAL_COALESCE=0", "--turns", "4", "--check", "0"]);
    let classes = found["classes"].as_array().expect("a list");
    let group = classes.iter().find(|class| class["what"] == "group of messages").expect("exchanges");
    let gain = |name: &str| group["gain"][name].as_f64().unwrap_or_else(|| panic!("{group:#}"));
    assert!(gain("low") <= gain("ratio") && gain("ratio") <= gain("high"), "{group:#}");
    // 64 messages each of 64 bytes: one by one they take longer, whatever the machine does meanwhile.
    assert!(gain("ratio") > 1.0 && (gain("sure") - 0.875).abs() < 1e-9, "{group:#}");
    let (said, complaint, code) = shoal(
        &["replay", "--library", &library, "--against", &library, "--turns", "1", "--rounds", "1", path],
        &[],
    );
    assert!(code == Some(0) && said.contains("gain (interval)"), "{said}{complaint}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn what_cannot_be_played_is_refused() {
    let folder = folder("refused");
    let file = folder.join("list.csv");
    let start = "comm_type,comm_group,comm_group_size,msg_size,stage,dst,src\n";
    for (text, more, words) in [
        ("what is this", &[][..], "its form is not known"),
        ("a,b", &["--form", "aicb"], "line 1: there is no column comm_type"),
        (
            &format!("{start}CommType.isend,CommGroup.pp_group,2,8,,1,0\n"),
            &[],
            "line 2: isend is told as one rank",
        ),
        (
            &format!("{start}CommType.all_reduce,CommGroup.all,2,70368744177664,,None,None\n"),
            &[],
            "with --ranks, or less with --scale",
        ),
    ] {
        std::fs::write(&file, text).expect("it is ours");
        let arguments = [&["replay", file.to_str().expect("words")], more].concat();
        let (said, complaint, code) = shoal(&arguments, &[]);
        assert!(code == Some(1) && said.is_empty() && complaint.contains(words), "{text:?}: {complaint}");
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
