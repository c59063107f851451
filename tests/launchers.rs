//! `shoal bench` and `shoal tune` as ranks that others start: by mpirun of Open MPI and of MPICH, and by the
//! environments that torchrun and Slurm give. They measure this library, and every result is checked.

#[path = "common/built.rs"]
mod built;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use built::library;

const PROGRAM: &str = env!("CARGO_BIN_EXE_shoal");
const RANKS: usize = 3;
const CASES: [&str; 11] =
    ["bench", "--sizes", "8,64K", "-n", "3", "-w", "1", "--batches", "2", "--format", "json"];

/// Without what a launcher around the tests said.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let starts = [
            "OMPI_",
            "PMI",
            "MPI",
            "SLURM_",
            "TORCHELASTIC",
            "HYD",
            "RANK",
            "WORLD_SIZE",
            "LOCAL_",
            "MASTER_",
        ];
        if starts.iter().any(|start| name.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Rank 0 printed each case once, out of place and in place, with no element wrong.
fn is_measured(output: &Output) {
    let (rows, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{rows}{errors}");
    let rows: Vec<&str> = rows.lines().filter(|row| row.contains("\"op\"")).collect();
    assert_eq!(rows.len(), 4, "{rows:?}{errors}");
    for row in rows {
        assert!(row.contains("\"wrong\":0") && row.contains(&format!("\"ranks\":{RANKS}")), "{row}");
    }
}

fn mpirun(launcher: &str, options: &[&str], program: &[&str]) -> Output {
    let mut command = clean("timeout");
    command.args(["--kill-after=5", "60", launcher]).args(options).args(["-n", &RANKS.to_string()]);
    command.args(program).args(CASES).arg("--library").arg(library());
    command.output().expect("scripts/bring.sh brings it")
}

const OPEN_MPI: [&str; 4] = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"];

#[test]
fn ranks_of_open_mpi_join() {
    is_measured(&mpirun("mpirun.openmpi", &OPEN_MPI, &[PROGRAM]));
}

#[test]
fn ranks_of_mpich_join() {
    is_measured(&mpirun("mpirun.mpich", &[], &[PROGRAM]));
}

/// The ranks' parents are different processes then.
#[test]
fn ranks_behind_a_script_join() {
    let script = ["sh", "-c", "\"$@\"; exit $?", "script", PROGRAM];
    is_measured(&mpirun("mpirun.openmpi", &OPEN_MPI, &script));
}

/// A table is written by rank 0. Ranks that say different hosts talk over the network, and have rows of their own.
#[test]
fn ranks_of_open_mpi_tune() {
    let name = format!("launched-{}.toml", std::process::id());
    let table = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let script = ["sh", "-c", "SHOAL_HOSTID=$((OMPI_COMM_WORLD_RANK / 2)) exec \"$@\"", "script", PROGRAM];
    for program in [&[PROGRAM][..], &script] {
        let mut command = clean("timeout");
        command
            .args(["--kill-after=5", "60", "mpirun.openmpi"])
            .args(OPEN_MPI)
            .args(["-n", "3"])
            .args(program);
        command.args(["tune", "--op", "allreduce", "--sizes", "64", "--budget", "3s", "--fresh", "--output"]);
        let output = command.arg(&table).arg("--library").arg(library()).output().expect("it starts");
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.matches("best single").count() == 1, "{said}{told}");
    }
    let written = std::fs::read_to_string(&table).expect("a table");
    for place in ["ranks = 3\nhosts = 1\n", "ranks = 3\nhosts = 2\nranks_per_host = 2\n"] {
        assert!(written.contains(place), "{written}");
    }
    let _ = std::fs::remove_file(&table);
}

/// Starts the ranks as a launcher would: each with what all are told, and with what it alone is told.
fn with_environment(all: &[(&str, &str)], own: &[&str]) -> Output {
    started(&CASES, all, own)
}

fn started(words: &[&str], all: &[(&str, &str)], own: &[&str]) -> Output {
    let mut children: Vec<Child> = (0..RANKS)
        .map(|rank| {
            let mut command = clean("timeout");
            command.args(["--kill-after=5", "60", PROGRAM]).args(words).arg("--library").arg(library());
            command.envs(all.iter().copied()).envs(own.iter().map(|name| (name, rank.to_string())));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
        })
        .collect();
    let first = children.remove(0);
    let output = first.wait_with_output().expect("it ends");
    for child in children {
        let other = child.wait_with_output().expect("it ends");
        assert!(
            other.status.success() && other.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&other.stderr)
        );
    }
    output
}

#[test]
fn ranks_of_torchrun_join() {
    let all = [
        ("WORLD_SIZE", "3"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RUN_ID", "a-test-of-shoal"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("LOCAL_WORLD_SIZE", "3"),
    ];
    is_measured(&with_environment(&all, &["RANK", "LOCAL_RANK"]));
    let name = format!("torchrun-{}.toml", std::process::id());
    let table = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).display().to_string();
    let words =
        ["tune", "--op", "allreduce", "--sizes", "64", "--budget", "3s", "--fresh", "--output", &table];
    let output = started(&words, &all, &["RANK", "LOCAL_RANK"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(&table).expect("a table").contains("ranks = 3\n"));
    let _ = std::fs::remove_file(&table);
    // Inside of a job of Slurm, which started torchrun once on this machine.
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0")];
    let both: Vec<_> = all.iter().chain(&slurm).copied().collect();
    is_measured(&with_environment(&both, &["RANK", "LOCAL_RANK"]));
}

#[test]
fn ranks_of_slurm_join() {
    let all = [
        ("SLURM_NTASKS", "3"),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_JOB_ID", "123"),
        ("SLURM_STEP_ID", "4"),
        ("SLURM_NODEID", "0"),
    ];
    is_measured(&with_environment(&all, &["SLURM_PROCID", "SLURM_LOCALID"]));
}

#[test]
fn without_mpi_inside_its_bootstrap_is_refused() {
    let output = with_environment_of_one(&["--bootstrap", "mpi"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("--features mpi"), "{errors}");
}

fn with_environment_of_one(options: &[&str]) -> Output {
    let mut command = clean(PROGRAM);
    command.args(CASES).args(["--ranks", "1"]).args(options).arg("--library").arg(library());
    command.output().expect("it starts")
}

/// Built against each MPI, the id comes through it.
#[test]
#[ignore = "builds the command twice more, which takes minutes"]
fn ids_come_through_mpi() {
    for (name, options) in [("openmpi", OPEN_MPI.as_slice()), ("mpich", &[])] {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--bin", "shoal", "--features", "mpi", "--target-dir"]).arg(&folder);
        let status =
            cargo.env("MPICC", format!("mpicc.{name}")).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(status.is_ok_and(|status| status.success()), "{name}: scripts/bring.sh brings what it needs");
        let program = folder.join("debug/shoal");
        let program = [program.to_str().expect("a name"), "bench", "--bootstrap", "mpi"];
        let mut command = clean("timeout");
        command.args(["--kill-after=5", "60", &format!("mpirun.{name}")]).args(options).args(["-n", "3"]);
        command.args(program).args(&CASES[1..]).arg("--library").arg(library());
        is_measured(&command.output().expect("it starts"));
    }
}
