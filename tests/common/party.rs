//! Runs C programs and scripts that use the library as its users do: each alone, bounded in time; after it no
//! process and no file is left. For tests to include by path.
//!
//! The library is the one that Cargo made beside the test, or the one that `SHOAL_TEST_LIBRARY` names.
#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "built.rs"]
mod built;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use built::library;

/// The longest run of one case. The programs' own alarms come earlier.
pub(crate) const LIMIT: Duration = Duration::from_secs(75);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with the library, under the name by which programs ask for it, and a place for the programs.
pub(crate) fn workshop() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // By process, since test runners start a process for each test.
        let name = format!("party-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the target folder is ours");
        symlink(fs::canonicalize(library()).expect("it exists"), folder.join("libnccl.so.2"))
            .expect("a new link");
        folder
    })
}

/// Compiles a program of `tests/c`, once; one without a folder is of `lifecycle`.
pub(crate) fn build(program: &str) -> PathBuf {
    let source = if program.contains('/') { program.to_owned() } else { format!("lifecycle/{program}") };
    let made = workshop().join(source.replace('/', "-"));
    if made.exists() {
        return made;
    }
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=c99", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(root().join("include"))
        .arg(root().join("tests/c").join(source).with_extension("c"));
    if !program.ends_with("opened") {
        compiler.arg(workshop().join("libnccl.so.2"));
    }
    compiler.args(["-ldl", "-o"]).arg(&made);
    let output = compiler.output().expect("a C compiler");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    made
}

/// The files of the library where they could be left behind. Other programs that run meanwhile have theirs, which
/// go soon, and those of `shoal bench` are not the library's.
fn shared_files() -> Vec<PathBuf> {
    let entries = ["/dev/shm", "/tmp", "/var/tmp"].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rest = name.strip_prefix("shoal-").unwrap_or_default();
        (rest.len() == 32 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
            || (path.starts_with("/dev/shm") && name.contains("nccl"))
    };
    entries.flatten().flatten().map(|entry| entry.path()).filter(is_ours).collect()
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
pub(crate) fn run(name: &str, mut command: Command, limit: Duration) {
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
    let new_files = || shared_files().into_iter().filter(|path| !before.contains(path)).collect::<Vec<_>>();
    while !new_files().is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let left = new_files();
    assert!(left.is_empty(), "{left:?} left of {words}");
    println!("{words}");
}

/// One case at a time: each has more ranks than there are processors anyway, and some measure how soon a peer is
/// missed.
pub(crate) fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
