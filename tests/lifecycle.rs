//! C programs that use the library as its users do: ranks as processes and threads that start, fork, disagree,
//! run out of what they need, are stopped, are killed, abort, exit. Each case runs alone, bounded in time; after
//! it no process and no file is left.
//!
//! The programs and their cases are in `tests/c/lifecycle`. The library is the one that Cargo made beside this
//! test, or the one that `SHOAL_TEST_LIBRARY` names.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The longest run of one case. The programs' own alarms come earlier.
const LIMIT: Duration = Duration::from_secs(75);
/// Under valgrind, which runs one thread at a time.
const LIMIT_WITH_VALGRIND: Duration = Duration::from_secs(300);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("SHOAL_TEST_LIBRARY") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().expect("it lies in a folder");
    let places = [folder.join("libshoal.so"), folder.join("../libshoal.so")];
    places.into_iter().find(|place| place.exists()).expect("Cargo builds the library before the tests")
}

/// A folder with the library, under the name by which programs ask for it, and a place for the programs.
fn workshop() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // By process, since test runners start a process for each test.
        let name = format!("lifecycle-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the target folder is ours");
        symlink(fs::canonicalize(library()).expect("it exists"), folder.join("libnccl.so.2"))
            .expect("a new link");
        folder
    })
}

/// Compiles a program of `tests/c/lifecycle`, once.
fn build(program: &str) -> PathBuf {
    let made = workshop().join(program);
    if made.exists() {
        return made;
    }
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=c99", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(root().join("include"))
        .arg(root().join("tests/c/lifecycle").join(program).with_extension("c"));
    if program != "opened" {
        compiler.arg(workshop().join("libnccl.so.2"));
    }
    compiler.args(["-ldl", "-o"]).arg(&made);
    let output = compiler.output().expect("a C compiler");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    made
}

/// The files of ours where shared memory could be left behind.
fn shared_files() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["shoal", "nccl"].iter().any(|word| name.contains(word))
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// Ends whoever is left of a case, also if the test fails.
struct Party(Child);

impl Party {
    fn group(&self) -> libc::pid_t {
        -libc::pid_t::try_from(self.0.id()).expect("a process number")
    }

    /// Whether a process of the group still runs. One that ended and that nobody waits for, as in a container
    /// whose first process does not care, does not count.
    fn has_members(&self) -> bool {
        let group = (-self.group()).to_string();
        let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
        let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        lines.into_iter().any(|line| {
            // Behind the name, which may hold anything: state, parent, group.
            let mut words = line.rsplit(") ").next().unwrap_or_default().split(' ');
            let (state, process_group) = (words.next(), words.nth(1));
            process_group == Some(group.as_str()) && state != Some("Z")
        })
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        // SAFETY: no memory is passed. The group was made by and for this case: while a member is left its
        // number is not used again, and if none is left there is nobody to meet, unless numbers wrapped around
        // within the microseconds since the last was seen.
        unsafe { libc::kill(self.group(), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// Runs a case; what it printed goes to the test's output.
fn run(name: &str, mut command: Command, limit: Duration) {
    let (log, temporary) = (workshop().join("log"), workshop().join("temporary"));
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir(&temporary).expect("the folder is ours");
    let before = shared_files();
    let file = fs::File::create(&log).expect("the folder is ours");
    command
        .env("LD_LIBRARY_PATH", workshop())
        .env("TMPDIR", &temporary)
        .env_remove("LD_PRELOAD")
        .current_dir(&temporary)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a descriptor"))
        .stderr(file);
    let start = Instant::now();
    let mut party = Party(command.spawn().expect("it was just built"));
    let status = loop {
        if let Some(status) = party.0.try_wait().expect("a child") {
            break Some(status);
        }
        if start.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let said = fs::read_to_string(&log).unwrap_or_default();
    let words = format!("{name}, {:.2} s\n{said}", start.elapsed().as_secs_f64());
    let status = status.unwrap_or_else(|| panic!("it hangs: {words}"));
    assert!(status.success(), "{status}: {words}");
    // Who was killed by a signal may need a moment to be gone.
    let patience = Instant::now() + Duration::from_secs(5);
    while party.has_members() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!party.has_members(), "a process is left of {words}");
    assert_eq!(fs::read_dir(&temporary).expect("it is ours").count(), 0, "a file is left of {words}");
    let left: Vec<PathBuf> = shared_files().into_iter().filter(|path| !before.contains(path)).collect();
    assert!(left.is_empty(), "{left:?} left of {words}");
    println!("{words}");
}

/// One case at a time: each has more ranks than there are processors anyway, and some measure how soon a peer is
/// missed.
fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs cases of programs, one after the other.
fn cases(list: &[(&str, &str)]) {
    cases_with(list, &[]);
}

fn cases_with(list: &[(&str, &str)], settings: &[(&str, &str)]) {
    let _turn = take_turn();
    for (program, case) in list {
        let mut command = Command::new(build(program));
        command.arg(case).envs(settings.iter().copied());
        run(&format!("{program} {case} {settings:?}"), command, LIMIT);
    }
}

#[test]
fn forked_and_executed_processes_get_every_collective_right() {
    cases(&[("starts", "forked"), ("starts", "executed")]);
}

#[test]
fn threads_and_a_thread_with_several_ranks_get_every_collective_right() {
    cases(&[("starts", "threads"), ("starts", "one-thread"), ("starts", "two"), ("starts", "streams")]);
}

#[test]
fn every_path_of_large_messages_gets_every_collective_right() {
    let all = [("starts", "forked"), ("starts", "threads")];
    cases_with(&all, &[("SHOAL_CMA", "0")]);
    cases_with(&all, &[("SHOAL_BULK_BYTES", "0"), ("SHOAL_RING_BYTES", "8192")]);
    cases_with(&all, &[("SHOAL_COALESCE", "0")]);
}

#[test]
fn who_opens_the_library_may_close_it() {
    let library = workshop().join("libnccl.so.2");
    cases(&[("opened", library.to_str().expect("a name"))]);
}

#[test]
fn survivors_of_a_killed_rank_get_an_error_soon() {
    cases(&[("death", "small"), ("death", "recv"), ("death", "stream"), ("death", "large")]);
}

#[test]
fn survivors_of_a_killed_rank_get_an_error_soon_on_every_path() {
    cases_with(&[("death", "large")], &[("SHOAL_CMA", "0")]);
    cases_with(&[("death", "small"), ("death", "large")], &[("SHOAL_ALGORITHM", "ring")]);
    cases_with(&[("death", "small"), ("death", "large")], &[("SHOAL_ALGORITHM", "tree")]);
}

#[test]
fn a_stopped_rank_is_waited_for() {
    cases(&[("death", "stopped")]);
}

#[test]
fn abort_ends_a_call_of_another_thread() {
    cases(&[("abort", "blocked")]);
}

#[test]
fn after_abort_and_destroy_nobody_touches_the_buffers() {
    cases(&[("abort", "left"), ("abort", "taken")]);
    cases_with(&[("abort", "taken")], &[("SHOAL_CMA", "0")]);
}

#[test]
fn what_a_communicator_took_is_given_back() {
    cases(&[("abort", "returned")]);
}

#[test]
fn one_sided_calls_put_the_right_bytes_by_every_path() {
    let all = [("onesided", "ball"), ("onesided", "random"), ("onesided", "random-threads")];
    cases(&all);
    cases_with(&all[..2], &[("SHOAL_MAPPED", "0")]);
    cases_with(&[("onesided", "unreachable")], &[("SHOAL_CMA", "0")]);
}

#[test]
fn who_waits_for_a_signal_learns_of_death_and_abort() {
    cases(&[("onesided", "death"), ("onesided", "abort")]);
}

#[test]
fn nobody_writes_a_window_that_was_closed() {
    let all = [("onesided", "closed"), ("onesided", "closed-threads")];
    cases(&all);
    cases_with(&all[..1], &[("SHOAL_MAPPED", "0")]);
}

#[test]
fn a_suspended_communicator_takes_little_memory_and_goes_on() {
    cases(&[("rest", "measured"), ("rest", "restless")]);
}

#[test]
fn forked_children_change_nothing_for_their_parents() {
    cases(&[("forked", "children"), ("forked", "meeting")]);
}

#[test]
fn births_and_ends_go_on_behind_the_caller() {
    cases(&[("lives", "non-blocking"), ("lives", "mixed")]);
    cases_with(&[("lives", "setting")], &[("NCCL_COMM_BLOCKING", "0")]);
}

#[test]
fn abort_ends_a_birth_from_any_thread() {
    cases(&[("lives", "unborn")]);
}

#[test]
fn what_torch_does_with_threads_and_children() {
    cases(&[("lives", "two-threads"), ("lives", "third-thread"), ("lives", "loader")]);
}

#[test]
fn torchs_calls_in_its_order() {
    cases(&[("torch", "blocking"), ("torch", "non-blocking"), ("torch", "aborted")]);
}

#[test]
fn valgrind_finds_nothing_wrong_with_torchs_calls() {
    under_valgrind(&[("torch", "blocking"), ("torch", "non-blocking"), ("torch", "aborted")]);
}

/// Lives of which every process works out the plan from a seed: `SHOAL_TEST_SEED` runs one, `SHOAL_TEST_CAMPAIGN=full`
/// a thousand.
#[test]
fn random_lives_end_well_and_leave_nothing_behind() {
    const FULL: u64 = 1000;
    const USUAL: u64 = 100;
    const AT_ONCE: u64 = 50;
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_full = std::env::var("SHOAL_TEST_CAMPAIGN").is_ok_and(|text| text == "full");
    let (first, count) = match number("SHOAL_TEST_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SHOAL_TEST_SEEDS").unwrap_or(if is_full { FULL } else { USUAL })),
    };
    let _turn = take_turn();
    for seed in (first..first + count).step_by(AT_ONCE as usize) {
        let lives = AT_ONCE.min(first + count - seed);
        let mut command = Command::new(build("random"));
        command.args([seed.to_string(), lives.to_string()]);
        run(&format!("random {seed} {lives}"), command, LIMIT);
    }
}

#[test]
fn a_death_is_told_to_who_asks_and_an_exit_is_none() {
    cases(&[("lives", "silent")]);
}

#[test]
fn communicators_split_and_shrink_whatever_happened_to_them() {
    cases(&[("children", "split"), ("children", "shrink"), ("children", "revoked")]);
}

#[test]
fn communicators_grow_and_are_born_by_several_ids() {
    cases(&[("children", "grow"), ("children", "scalable")]);
}

#[test]
fn abort_ends_the_birth_of_a_child() {
    cases(&[("children", "cancelled")]);
}

#[test]
fn revoking_stops_what_runs_and_lets_nothing_start() {
    cases(&[("lives", "revoked")]);
}

#[test]
fn ranks_that_disagree_are_told_both_calls() {
    cases(&[("mismatch", "pairs")]);
}

#[test]
fn of_a_group_with_a_wrong_call_nothing_starts() {
    cases(&[("mismatch", "groups"), ("mismatch", "half")]);
}

#[test]
fn the_last_error_is_the_threads_else_the_newest() {
    cases(&[("mismatch", "last-error")]);
}

#[test]
fn little_of_files_or_space_is_an_error() {
    // Where only the rank at which all meet lacks files, the others wait for it this long.
    cases_with(&[("limits", "files"), ("limits", "space")], &[("SHOAL_INIT_TIMEOUT", "2")]);
}

#[test]
fn a_machine_may_be_full_of_ranks() {
    cases(&[("limits", "16-ranks"), ("limits", "64-ranks")]);
}

#[test]
fn programs_may_just_end() {
    cases(&[("exits", "forgetful"), ("exits", "leaving"), ("exits", "finishing"), ("exits", "threads")]);
}

/// What makes sense under valgrind: no case that kills, limits or times, and none that makes an id before it
/// forks, since what a thread owned that does not exist in the child counts as lost there.
const FOR_VALGRIND: &[(&str, &str)] = &[
    ("starts", "executed"),
    ("starts", "streams"),
    ("starts", "one-thread"),
    ("mismatch", "pairs"),
    ("abort", "left"),
    ("abort", "returned"),
    ("exits", "threads"),
    ("onesided", "ball"),
    ("onesided", "random-threads"),
    ("children", "grow"),
    ("children", "scalable"),
    ("children", "split"),
    ("lives", "non-blocking"),
    ("lives", "unborn"),
];

fn under_valgrind(list: &[(&str, &str)]) {
    let _turn = take_turn();
    for (program, case) in list {
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--error-exitcode=99", "--trace-children=yes", "--fair-sched=yes", "--vgdb=no"])
            .args(["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"])
            .arg(build(program))
            .arg(case);
        run(&format!("{program} {case} under valgrind"), command, LIMIT_WITH_VALGRIND);
    }
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

#[test]
fn valgrind_finds_nothing_wrong_with_streams_and_groups() {
    // `make test` brings it; who runs Cargo alone may be without.
    if has_valgrind() {
        under_valgrind(&[("starts", "one-thread"), ("abort", "left")]);
    }
}

#[test]
#[ignore = "takes minutes under valgrind"]
fn valgrind_finds_nothing_wrong() {
    under_valgrind(FOR_VALGRIND);
}

/// Every program and case again and again, since what goes wrong here depends on the moment.
#[test]
#[ignore = "takes minutes"]
fn again_and_again() {
    for _ in 0..20 {
        cases(&[("abort", "taken"), ("abort", "blocked"), ("death", "small"), ("death", "large")]);
        cases(&[
            ("exits", "finishing"),
            ("forked", "children"),
            ("exits", "leaving"),
            ("starts", "streams"),
            ("starts", "two"),
        ]);
        cases_with(&[("abort", "taken"), ("death", "large")], &[("SHOAL_CMA", "0")]);
    }
}
