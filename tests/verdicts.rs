//! The verdict on a hang, as users meet it: jobs of C programs in which one rank is missing, asked from inside by the
//! library and from outside by `shoal doctor --job`.

#[path = "common/party.rs"]
mod party;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use party::{LIMIT, build, run, take_turn, workshop};
use serde_json::Value;

/// Jobs that are worked out from seeds: `SHOAL_TEST_SEED` runs one, `SHOAL_TEST_CAMPAIGN=full` all.
#[test]
fn planted_hangs_are_explained() {
    const FULL: u64 = 56;
    const USUAL: u64 = 14;
    const AT_ONCE: u64 = 7;
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_full = std::env::var("SHOAL_TEST_CAMPAIGN").is_ok_and(|text| text == "full");
    let (first, count) = match number("SHOAL_TEST_SEED") {
        Some(seed) => (seed, 1),
        None => (0, if is_full { FULL } else { USUAL }),
    };
    let _turn = take_turn();
    for seed in (first..first + count).step_by(AT_ONCE as usize) {
        let jobs = AT_ONCE.min(first + count - seed);
        let mut command = Command::new(build("hangs"));
        command.args([seed.to_string(), jobs.to_string()]);
        run(&format!("hangs {seed} {jobs}"), command, LIMIT);
    }
}

/// A job that is ended with the test, with all that it started.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let group = -libc::pid_t::try_from(self.0.id()).expect("a process number");
        // SAFETY: no memory is passed; the group is that of this child, which is not waited for yet.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

fn doctor(job: u32, format: &str) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(["doctor", "--job", &job.to_string(), "--format", format]).env("SHOAL_STALL_SECONDS", "1");
    let output = command.output().expect("it was just built");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

#[test]
fn the_doctor_shows_who_waits_for_whom() {
    use std::os::unix::process::CommandExt;
    let _turn = take_turn();
    let mut command = Command::new(build("hangs"));
    command.arg("stopped").env("LD_LIBRARY_PATH", workshop()).env_remove("LD_PRELOAD").process_group(0);
    let job = Job(command.stdin(Stdio::null()).spawn().expect("it was just built"));
    let deadline = Instant::now() + Duration::from_secs(30);
    let (picture, code) = loop {
        let (said, code) = doctor(job.0.id(), "json");
        let picture: Value = serde_json::from_str(&said).unwrap_or_default();
        let world = &picture["communicators"][0];
        if world["waited_s"].as_u64() >= Some(1) {
            break (world.clone(), code);
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let verdict = picture["verdict"].as_str().unwrap_or_default();
    assert!(
        verdict.contains("in AllReduce of 77 elements of int32, operator sum, collective number 1"),
        "{verdict}"
    );
    assert!(verdict.contains("arrived: ranks 0, 2; missing: rank 1 (process "), "{verdict}");
    assert!(
        verdict.contains("is stopped, by a signal or a debugger; its last was AllReduce of 5 elements"),
        "{verdict}"
    );
    assert_eq!((picture["ranks"].as_array().map(Vec::len), code), (Some(3), Some(1)));
    let (text, _) = doctor(job.0.id(), "text");
    assert!(text.contains("3 ranks\n  rank 0 (process ") && text.contains("\n  => rank "), "{text}");
}

#[test]
fn the_doctor_says_what_it_cannot_see() {
    let output = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(["doctor", "--job", &std::process::id().to_string()])
        .output()
        .expect("it was just built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("none of its processes has a communicator now"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
