//! The `shoal bench` command from outside, over a library that knows one rank (`fixtures/fake_nccl.c`):
//! options, formats, exit codes, and ranks that fail, die or hang.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The fake library, built once a process. Tests may run as processes side by side, so it is built aside and
/// then put in its place whole.
fn fake_library() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (library, aside) =
            (folder.join("libfake.so"), folder.join(format!("libfake.{}.so", std::process::id())));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fake_nccl.c");
        let mut compiler = Command::new("cc");
        let built = compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&aside).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "cc builds the fake library; is it installed?");
        std::fs::rename(&aside, &library).expect("it moves within a folder");
        library
    })
}

fn bench(options: &str, variable: Option<&str>) -> Output {
    let library = fake_library();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.arg("bench").arg("--library").arg(library).args(options.split_whitespace());
    // A launcher around the tests is not ours.
    for name in ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID", "RANK"] {
        command.env_remove(name);
    }
    if let Some(variable) = variable {
        command.env(variable, "1");
    }
    command.output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const QUICK: &str = "--ranks 1 --sizes 8,64K -n 3 -w 1 --batches 2";

#[test]
fn every_operation_is_measured_and_right() {
    for how in ["", "--threads", "--no-pin", "--memory library --rewrite"] {
        let options = format!("{QUICK} {how} --format json --op all,exchange,packed,barrier -m 4");
        let output = bench(&options, None);
        let (rows, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{how}: {errors}");
        for operation in ["allreduce", "reducescatter", "alltoall", "gather", "sendrecv", "packed", "barrier"]
        {
            assert!(rows.contains(&format!("\"op\":\"{operation}\"")), "{how} {operation}: {rows}");
        }
        assert!(!rows.contains("\"op\":\"scatter\"") && rows.contains("scatter of float left out"));
        for row in rows.lines().filter(|row| row.contains("\"op\"")) {
            assert!(row.contains("\"wrong\":0"), "{row}");
        }
    }
}

#[test]
fn every_type_and_reduction_is_measured_and_right() {
    let output = bench(&format!("{QUICK} -d all -o all --format csv"), None);
    let rows = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(rows.lines().count(), 1 + 12 * 5 * 2 * 2);
}

#[test]
fn the_table_has_the_columns_of_nccl_tests() {
    let output = bench(QUICK, None);
    let table = text(&output.stdout);
    for word in
        ["size", "count", "type", "redop", "root", "algbw", "busbw", "#wrong", "out of place", "canary"]
    {
        assert!(table.contains(word), "{table}");
    }
    assert!(table.contains("Wrong elements: 0 OK"));
}

#[test]
fn wrong_results_are_counted_and_fail_the_run() {
    let output = bench(QUICK, Some("FAKE_WRONG"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAILED"));
    let output = bench(&format!("{QUICK} -c 0"), Some("FAKE_WRONG"));
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("not checked"));
}

#[test]
fn a_rank_that_dies_is_named() {
    let output = bench(QUICK, Some("FAKE_DIE"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("rank 0 was killed by signal 9"));
}

#[test]
fn a_rank_that_hangs_does_not_hang_the_run() {
    for how in ["", "--threads"] {
        let output = bench(&format!("{QUICK} --timeout 1 {how}"), Some("FAKE_HANG"));
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("nothing moved for 1 s"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_librarys_own_words_are_passed_on_once() {
    for how in ["", "--threads"] {
        let output = bench(&format!("--ranks 2 --no-pin --sizes 8 {how}"), None);
        assert_eq!(output.status.code(), Some(1));
        let errors = text(&output.stderr);
        assert!(
            errors.contains("ncclCommInitRank: invalid argument (4): the fake knows one rank only"),
            "{errors}"
        );
        assert_eq!(errors.matches("the fake knows").count(), 1, "{errors}");
    }
}

#[test]
fn a_difference_from_itself_is_shown() {
    let output = bench(&format!("{QUICK} --aa"), None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).matches("# a/a allreduce").count(), 4);
}

/// Two ranks over the library that Cargo built beside the command.
fn bench_two(options: &str) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(["bench", "--ranks", "2", "--no-pin", "-n", "3", "-w", "1", "--batches", "2"]);
    for name in ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID", "RANK"] {
        command.env_remove(name);
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().expect("it lies in a folder");
    let places = [folder.join("libshoal.so"), folder.join("../libshoal.so")];
    let library =
        places.iter().find(|place| place.exists()).expect("Cargo builds the library before the tests");
    let options = options.split_whitespace();
    let output = command.arg("--library").arg(library).args(options).output().expect("the command starts");
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_frameworks_send_is_measured_and_right() {
    let (fine, rows, errors) = bench_two(
        "--op neox,neoxlone,neoxbulk,moe,zero3 --sizes 256,4K --tensor 2,8 --mask 100 -m 4 --format json -v",
    );
    assert!(fine, "{errors}");
    let rows: Vec<serde_json::Value> = rows
        .lines()
        .filter(|line| line.contains("\"op\""))
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    assert_eq!(rows.len(), 3 * 2 * 2 + 2 * 2);
    for row in &rows {
        assert_eq!(row["wrong"], 0, "{row}");
        let op = row["op"].as_str().unwrap();
        let has_added = op.starts_with("neox-") || op.starts_with("neoxlone-");
        assert_eq!(row.get("added_us").is_some(), has_added, "{row}");
    }
    let ops: Vec<_> = rows.iter().map(|row| row["op"].as_str().unwrap()).collect();
    assert!(ops.contains(&"neox-t2-mask100") && ops.contains(&"neoxlone-t8-mask100"), "{ops:?}");
}

#[test]
fn what_the_library_counted_is_shown() {
    let (fine, rows, errors) = bench_two("--op exchange -m 16 --sizes 64 --format json -v");
    assert!(fine, "{errors}");
    let row = rows.lines().find(|line| line.contains("\"op\"")).expect("a row");
    let row: serde_json::Value = serde_json::from_str(row).expect("an object");
    let counters = &row["counters"];
    for (name, value) in
        [("messages", 16.0), ("received_messages", 16.0), ("frames", 1.0), ("frames_sealed", 1.0)]
    {
        assert_eq!(counters[name], value, "{name} of {counters}");
    }
}

#[test]
fn ucx_is_measured_and_right() {
    let (fine, rows, errors) = bench_two(
        "--contender ucx --op sendrecv,exchange,packed,rate,alltoall,neox,neoxlone,moe,allreduce --sizes 8,64K \
         --tensor 2 -m 4 --format json",
    );
    assert!(fine, "{errors}");
    let measured = rows.lines().filter(|line| line.contains("\"op\""));
    assert_eq!(measured.clone().count(), 8 * 2, "{rows}");
    assert!(measured.clone().all(|row| row.contains("\"wrong\":0") && row.contains("\"library\":\"UCX 1.")));
    assert!(rows.contains("UCX has no allreduce"), "{rows}");
}

#[test]
fn gloo_is_measured_and_right() {
    let wrapper =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("libgloo.{}.so", std::process::id()));
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"]).arg(&wrapper);
    compiler.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gloo/wrapper.cc")).arg("-lgloo");
    let built = compiler.status();
    assert!(built.is_ok_and(|status| status.success()), "g++ builds the wrapper; is libgloo-dev installed?");
    let (fine, rows, errors) = bench_two(&format!(
        "--contender gloo --gloo {} --op sendrecv,exchange,packed,rate,alltoall,allgather,allreduce,broadcast,\
         barrier,neox,moe,zero3,reduce --in-place 0 --sizes 64,4K --tensor 2 -m 4 --format json",
        wrapper.display()
    ));
    let _ = std::fs::remove_file(wrapper);
    assert!(fine, "{errors}");
    let measured = rows.lines().filter(|line| line.contains("\"op\""));
    assert_eq!(measured.clone().count(), 11 * 2 + 1, "{rows}");
    assert!(measured.clone().all(|row| row.contains("\"wrong\":0")), "{rows}");
    assert!(rows.contains("Gloo is not measured on reduce"), "{rows}");
}

#[test]
fn a_setting_is_compared_in_one_run() {
    let (fine, said, errors) =
        bench_two("--op exchange,moe -m 4 --sizes 64 --turns 2 --against SHOAL_COALESCE=0");
    assert!(fine, "{errors}");
    assert_eq!(said.matches(", with SHOAL_COALESCE=0 ").count(), 2, "{said}");
    assert!(said.contains("Wrong elements: 0 OK"), "{said}");
}

#[test]
fn what_cannot_be_done_is_said() {
    for (options, words) in [
        ("--ranks 1 --floor", "--floor is measured between two ranks"),
        ("--ranks 2 -r 2", "--root 2 of 2 ranks"),
        ("--op frobnicate", "frobnicate"),
        ("-b 8Q", "is not a size"),
        ("--contender mpi", "mpirun"),
        ("--ranks 1 --op neox", "neox needs two ranks"),
        ("--against NOTHING", "NAME=VALUE"),
        ("--library /nowhere/libnccl.so", "cannot be used multiple times"),
    ] {
        let output = bench(options, None);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(words), "{options}: {}", text(&output.stderr));
    }
}

#[test]
fn the_command_explains_itself() {
    let run =
        |words: &[&str]| Command::new(env!("CARGO_BIN_EXE_shoal")).args(words).output().expect("it starts");
    assert!(text(&run(&["--version"]).stdout).starts_with("shoal "));
    let help = text(&run(&["--help"]).stdout);
    assert!(help.contains("bench") && help.contains("peers"), "{help}");
    assert!(text(&run(&["bench", "--help"]).stdout).contains("nccl-tests"));
    let missing = run(&["bench", "--library", "/nowhere/libnccl.so"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("cannot load /nowhere/libnccl.so"));
}
