//! Scripts that start ranks one by one (`tests/c/places/rank.c`), in networks and other namespaces of their own, alone
//! and bounded in time. For tests to include by path, beside `party`.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::party::{LIMIT, build, run, take_turn, workshop};

/// What every script can say: `go` starts a rank, `all` waits for the ranks, ends who helped them, and the script.
const WORDS: &str = r#"
set -u
ranks= helpers= may=0
go() { "$@" & ranks="$ranks $!"; }
all() {
  bad=0
  for rank in $ranks; do
    wait $rank
    status=$?
    [ $status -eq 0 ] || [ $status -eq $may ] || { echo "a rank ended with $status"; bad=1; }
  done
  [ -z "$helpers" ] || kill $helpers
  exit $bad
}
"#;

fn is_root() -> bool {
    // SAFETY: the call has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// In namespaces of its own: `own` says which, as options of unshare.
pub(crate) fn apart(own: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(own).args((!is_root()).then_some("-Ur"));
    command
}

/// Likewise, as somebody without rights, who has them in a namespace of users.
pub(crate) fn apart_as_nobody(own: &[&str]) -> Command {
    if !is_root() {
        return apart(own);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Ur"]).args(own);
    command
}

/// Runs a script, with more words and settings; what the ranks said.
pub(crate) fn place(
    name: &str,
    mut command: Command,
    words: &str,
    script: &str,
    settings: &[(&str, &str)],
) -> String {
    let _turn = take_turn();
    let folder = workshop().join("case");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("the folder is ours");
    // Ranks may run as somebody else.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
    command.arg("sh").arg("-c").arg(format!("{WORDS}{words}\n{script}"));
    command.env("RANK", build("places/rank")).env("DENY", build("places/deny")).env("F", &folder);
    // What was built may lie in a folder that a script covers, and stays to be seen.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what was built");
    command.env("KEEP", kept).env("NCCL_DEBUG", "INFO").envs(settings.iter().copied());
    run(name, command, LIMIT);
    fs::read_to_string(workshop().join("log")).expect("it was just written")
}

/// What the log must say, in words of people.
pub(crate) fn says(said: &str, words: &str) {
    assert!(said.contains(words), "nothing says {words}");
}

/// So many ranks were right.
pub(crate) fn are_good(said: &str, ranks: usize) {
    assert_eq!(said.matches(" is good").count(), ranks, "not every rank was right");
}

/// A script that fails fails its test.
pub(crate) fn can_fail() {
    let wrong =
        std::panic::catch_unwind(|| place("wrong", apart(&["--net"]), "", "go sh -c 'exit 3'; all", &[]));
    assert!(wrong.is_err());
}
