//! Every example is built as its first lines say, run in bounded time, and says what it should.

#[path = "common/built.rs"]
mod built;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use built::library;

/// The longest build or run of an example, far above what it needs.
const LIMIT: Duration = Duration::from_secs(100);

/// The number of the example, and the lines it prints, in any order.
const EXPECTED: &[(&str, &[&str])] = &[
    ("01_hello.c", &["rank 0 of 2: the sum is 10 12 14 16", "rank 1 of 2: the sum is 10 12 14 16"]),
    (
        "02_processes.c",
        &["rank 0: 16 messages from rank 1, all right", "rank 1: 16 messages from rank 0, all right"],
    ),
    (
        "03_python.py",
        &[
            "rank 0 of 3: [0, 0, 1, 1, 2, 4]",
            "rank 1 of 3: [0, 0, 1, 1, 2, 4]",
            "rank 2 of 3: [0, 0, 1, 1, 2, 4]",
        ],
    ),
    (
        "04_rust.rs",
        &[
            "rank 0 of 2: the mean is [50.0, 51.0, 52.0, 53.0]",
            "rank 1 of 2: the mean is [50.0, 51.0, 52.0, 53.0]",
        ],
    ),
    ("05_streams.c", &["rank 0: 12 to 12 after three steps", "rank 1: 12 to 12 after three steps"]),
];

#[test]
fn every_example_is_expected_here() {
    let listed: Vec<_> = EXPECTED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut found: Vec<_> = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    found.sort();
    assert_eq!(found, listed);
}

#[test]
fn hello() {
    run_c("01_hello.c");
}

#[test]
fn processes() {
    run_c("02_processes.c");
}

#[test]
fn python() {
    let mut command = Command::new("python3");
    command.arg(root().join("examples/03_python.py")).arg(library());
    check("03_python.py", &mut command);
}

#[test]
fn rust() {
    let profile = Path::new(env!("CARGO_BIN_EXE_shoal")).parent().unwrap();
    // Cargo builds examples with the tests. Building here would replace the library under the other tests.
    check("04_rust.rs", &mut Command::new(profile.join("examples/04_rust")));
}

#[test]
fn streams() {
    run_c("05_streams.c");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles an example against the library, under the name by which programs ask for it, and runs it.
fn run_c(name: &str) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.trim_end_matches(".c"));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(library(), directory.join("libnccl.so.2")).unwrap();
    let program = directory.join("program");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root().join("include"))
        .arg(root().join("examples").join(name))
        .arg("-L")
        .arg(&directory)
        .arg(format!("-Wl,-rpath,{}", directory.display()))
        .args(["-l:libnccl.so.2", "-o"])
        .arg(&program);
    let built = bounded(&mut compiler);
    assert!(built.status.success(), "{name} does not compile:\n{}", String::from_utf8_lossy(&built.stderr));
    check(name, &mut Command::new(program));
}

/// Runs the example and compares what it printed with what is expected.
fn check(name: &str, command: &mut Command) {
    let output = bounded(command);
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} ended with {}:\n{said}{complained}", output.status);
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    let (_, expected) = EXPECTED.iter().find(|(listed, _)| *listed == name).expect("every example is listed");
    assert_eq!(lines, *expected, "{complained}");
}

/// Runs a command to its end or to the limit; whatever it started ends with it.
fn bounded(command: &mut Command) -> Output {
    use std::os::unix::process::CommandExt;
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().unwrap_or_else(|cause| panic!("{command:?} does not start: {cause}"));
    let start = Instant::now();
    while !has_ended(child.id()) && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = has_ended(child.id());
    let group = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: no memory is passed. The group is the child's own, and the child has not been waited for, so the
    // number is still its.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let output = child.wait_with_output().unwrap();
    assert!(ended, "{command:?} did not end:\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether the child ended; it can be waited for all the same.
fn has_ended(child: u32) -> bool {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is ours and writable during the call.
    let result = unsafe { libc::waitid(libc::P_PID, child, &raw mut info, options) };
    assert_eq!(result, 0, "waitid: {}", std::io::Error::last_os_error());
    info.si_signo == libc::SIGCHLD
}
