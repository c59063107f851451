//! `shoal run` from outside: what the job gets, what is said, and what a framework's Python would answer.

#[path = "common/built.rs"]
mod built;

use std::process::{Command, Output};

fn shoal_run(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.arg("run").arg("--library").arg(built::library()).args(words);
    for name in ["LD_PRELOAD", "SHOAL_NCCL", "VLLM_NCCL_SO_PATH"] {
        command.env_remove(name);
    }
    command.output().expect("the command starts")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_job_gets_the_library_and_its_own_exit_code() {
    let library = std::fs::canonicalize(built::library()).unwrap();
    let output = shoal_run(&["--", "sh", "-c", "echo \"$LD_PRELOAD\"; exit 7"]);
    assert_eq!(said(&output.stdout).trim(), library.display().to_string());
    assert_eq!(output.status.code(), Some(7));
    let sentence = said(&output.stderr);
    assert!(sentence.starts_with("shoal run: starts sh with Shoal "), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
}

#[test]
fn a_program_that_opens_nccl_by_name_gets_it() {
    let program = "import ctypes; n = ctypes.CDLL('libnccl.so.2'); n.shoalStreamCreate; print('ours')";
    let output = shoal_run(&["--quiet", "--", "python3", "-c", program]);
    assert_eq!(said(&output.stdout).trim(), "ours", "{}", said(&output.stderr));
    assert_eq!(said(&output.stderr), "");
}

#[test]
fn what_is_wrong_is_said() {
    for (words, expected) in [
        (&["--"][..], "no command"),
        (&["--observe", "--", "true"], "not built yet"),
        (&["--", "/no/such/program"], "/no/such/program"),
    ] {
        let output = shoal_run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said(&output.stderr).contains(expected), "{}", said(&output.stderr));
    }
}

#[test]
fn the_check_names_every_framework() {
    let output = shoal_run(&["--check"]);
    let text = said(&output.stdout);
    for framework in ["torch: ", "cupy: ", "jax: ", "vllm: "] {
        assert!(text.lines().any(|line| line.starts_with(framework)), "{text}{}", said(&output.stderr));
    }
}
