//! Where people run it: ranks in different namespaces, with little of this and that, without rights; ranks that
//! are killed, stopped, replaced; storms of signals. Each case is a script that starts real ranks
//! (`tests/c/places/rank.c`), alone, bounded in time. It works, or says what to change.
//!
//! Needs root or user namespaces, and the programs of the packages util-linux and iproute2.

#[path = "common/party.rs"]
mod party;
#[path = "common/script.rs"]
mod script;

use script::{are_good, says};

/// `network` makes a second network that is connected to this one, `there` runs something in it; `cover` and `hidden`
/// take folders away.
const WORDS: &str = r#"
network() {
  ip link set lo up
  unshare --net sleep 60 & helper=$!
  helpers="$helpers $helper"
  while [ "$(readlink /proc/$helper/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
  ip link add v0 type veth peer name v1 netns $helper || exit 1
  ip addr add 10.77.0.1/24 dev v0 && ip link set v0 up || exit 1
  nsenter -t $helper -n sh -c 'ip addr add 10.77.0.2/24 dev v1 && ip link set v1 up && ip link set lo up' || exit 1
}
there() { exec nsenter -t $helper -n "$@"; }
cover() {
  mount --bind "$KEEP" /mnt && mount -t tmpfs none $1 || exit 1
  case "$KEEP" in $1/*) mkdir -p "$KEEP" && mount --bind /mnt "$KEEP" || exit 1;; esac
  mount -o remount,$2 $1 || exit 1
}
hidden() {
  exec unshare --mount sh -c 'mount --bind "$KEEP" /mnt || exit 1
    for at in /tmp /var/tmp /dev/shm; do
      mount -t tmpfs none $at || exit 1
      case "$KEEP" in $at/*) mkdir -p "$KEEP" && mount --bind /mnt "$KEEP" || exit 1;; esac
    done
    exec "$@"' hidden "$@"
}
"#;

/// Runs a script in a network and a view of the file system of its own; what the ranks said.
fn place(name: &str, script: &str) -> String {
    place_with(name, script, &[])
}

fn place_with(name: &str, script: &str, settings: &[(&str, &str)]) -> String {
    script::place(name, script::apart(&["--net", "--mount"]), WORDS, script, settings)
}

const LOOP: &str = "ip link set lo up;";

#[test]
fn other_process_namespaces_work_and_the_log_says_what_is_slower() {
    for how in ["--mount-proc", ""] {
        let ranks = format!(
            "{LOOP} for r in 0 1 2; do go unshare --pid --fork {how} --kill-child \"$RANK\" $r 3 \"$F\" work; done; all"
        );
        let said = place("process namespaces", &ranks);
        are_good(&said, 3);
        says(&said, "cannot read memory of rank");
        says(&said, "it is in another process namespace");
    }
}

#[test]
fn other_user_and_mount_namespaces_work() {
    let said = place(
        "user and mount namespaces",
        &format!(
            "{LOOP} for r in 0 1; do go unshare --user --map-root-user --mount \"$RANK\" $r 2 \"$F\" work; done; all"
        ),
    );
    are_good(&said, 2);
}

#[test]
fn other_networks_meet_through_a_folder() {
    let said = place("networks", "network; go $RANK 0 2 $F work; go there $RANK 1 2 $F work; all");
    are_good(&said, 2);
    says(&said, "through a socket in a folder, since its network namespace is another one");
}

#[test]
fn other_networks_without_a_common_folder_meet_through_the_process() {
    let said = place(
        "networks and folders",
        "network; unset TMPDIR; go hidden $RANK 0 2 $F work; go there $RANK 1 2 $F work; all",
    );
    are_good(&said, 2);
    says(&said, "through its process, since its network namespace is another one");
    // The maker of the memory in a namespace below, where it has another number.
    let said = place(
        "networks, folders, and processes below",
        "network; unset TMPDIR; go hidden unshare --pid --fork --kill-child $RANK 0 2 $F work; go there $RANK 1 2 $F work; all",
    );
    are_good(&said, 2);
    says(&said, "through its process");
}

/// As two containers: everything is another, but for one folder.
#[test]
fn containers_meet_in_the_folder_that_they_share() {
    let apart = "network; mkdir $F/shared
        export TMPDIR=$F/shared
        go hidden unshare --pid --fork --mount-proc --kill-child $RANK 0 2 $F work
        go hidden nsenter -t $helper -n unshare --pid --fork --mount-proc --kill-child $RANK 1 2 $F work
        all";
    let said = place("containers", apart);
    are_good(&said, 2);
    says(&said, "through a socket in a folder");
}

#[test]
fn containers_that_share_nothing_are_told_what_to_share() {
    let apart = "network; may=1
        unset TMPDIR
        go hidden unshare --pid --fork --mount-proc --kill-child $RANK 0 2 $F work
        go hidden nsenter -t $helper -n unshare --pid --fork --mount-proc --kill-child $RANK 1 2 $F work
        all";
    let said = place("containers that share nothing", apart);
    are_good(&said, 0);
    says(
        &said,
        "let the ranks of this machine share the network namespace, the process namespace, or a folder",
    );
    // The one whose memory it was knows as well.
    assert!(said.matches("joining shared memory").count() >= 1, "rank 0 was not told");
}

#[test]
fn small_folders_and_small_limits_do_not_matter() {
    let ranks = "for r in 0 1 2; do go \"$RANK\" $r 3 \"$F\" work; done; all";
    for (name, before) in [
        ("64 MB of /dev/shm", "mount -t tmpfs -o size=64m none /dev/shm"),
        ("no /dev/shm to write to", "mount -t tmpfs -o ro none /dev/shm"),
        ("a read-only /tmp", "cover /tmp ro"),
        ("a full /tmp", "cover /tmp size=4k; head -c 9000 /dev/zero >/tmp/full 2>/dev/null"),
        ("no locked memory", "ulimit -l 0"),
        ("no /proc", "mount -t tmpfs -o ro none /proc"),
        ("few files", "ulimit -n 40"),
        ("little space", "ulimit -v 400000"),
        ("small stacks", "ulimit -s 256"),
    ] {
        let said = place(name, &format!("{LOOP} {before}; {ranks}"));
        are_good(&said, 3);
    }
}

/// Runs what follows without some system calls.
fn denied(error: libc::c_int, calls: &[libc::c_long]) -> String {
    let numbers: Vec<String> = calls.iter().map(ToString::to_string).collect();
    format!("\"$DENY\" {error} {} --", numbers.join(" "))
}

#[test]
fn without_the_right_to_read_others_it_is_slower_and_says_so() {
    let deny = denied(libc::EPERM, &[libc::SYS_process_vm_readv, libc::SYS_ptrace]);
    let ranks = format!("{LOOP} for r in 0 1; do go {deny} \"$RANK\" $r 2 \"$F\" work; done; all");
    for bulk in [None, Some(("SHOAL_BULK_BYTES", "0"))] {
        let said = place_with("no process_vm_readv", &ranks, bulk.as_slice());
        are_good(&said, 2);
        says(&said, "cannot read memory of rank");
        says(&said, "Operation not permitted");
    }
    let said = place_with("no process_vm_readv, though asked for", &ranks, &[("SHOAL_CMA", "1")]);
    are_good(&said, 2);
    says(&said, "although SHOAL_CMA=1; allow process_vm_readv, or unset it");
}

#[test]
fn without_new_system_calls_it_works() {
    let new = [libc::SYS_membarrier, libc::SYS_futex_waitv, libc::SYS_statx, libc::SYS_clone3];
    let deny = denied(libc::ENOSYS, &new);
    let said = place(
        "old calls",
        &format!("{LOOP} for r in 0 1; do go {deny} \"$RANK\" $r 2 \"$F\" work; done; all"),
    );
    are_good(&said, 2);
}

#[test]
fn without_files_in_memory_it_says_so() {
    let deny = denied(libc::EPERM, &[libc::SYS_memfd_create]);
    let ranks =
        format!("{LOOP} may=1; go {deny} \"$RANK\" 0 2 \"$F\" work; go \"$RANK\" 1 2 \"$F\" work; all");
    let said = place("no memfd_create", &ranks);
    are_good(&said, 0);
    says(&said, "creating a file of shared memory failed: Operation not permitted");
    says(&said, "allow memfd_create, which a filter of system calls (a container's, say) forbids here");
    assert!(said.matches("last error: ").count() == 2, "both ranks are told");
}

#[test]
fn another_user_with_few_threads_is_told() {
    let rank = "setpriv --reuid 65534 --clear-groups prlimit --nproc=1 \"$RANK\" 0 1 \"$F\" work";
    let said = place("few threads", &format!("{LOOP} may=1; go {rank}; all"));
    says(&said, "raise the limits of threads");
}

/// `within` runs something in a control group with little memory, where one can be made; else with little address
/// space. `leave` takes the group away.
const GROUP: &str = r#"
for top in /sys/fs/cgroup/memory /sys/fs/cgroup; do
  group=$top/shoal-places-$$
  mkdir $group 2>/dev/null || continue
  echo 64M >$group/memory.limit_in_bytes 2>/dev/null || echo 64M >$group/memory.max 2>/dev/null && break
  rmdir $group
done
if [ -d "$group" ]; then
  export group
  within() { exec sh -c 'echo 0 >$group/cgroup.procs && exec "$@"' within "$@"; }
else
  echo 'no group can be made here: a limit on address space instead'
  within() { ulimit -v 400000; exec "$@"; }
fi
leave() {
  for try in 1 2 3 4 5 6 7 8 9; do
    [ -d "$group" ] && ! rmdir $group 2>/dev/null || break
    sleep 0.1
  done
}
trap leave EXIT
"#;

#[test]
fn a_group_with_little_memory_suffices() {
    let ranks = "for r in 0 1 2; do go within \"$RANK\" $r 3 \"$F\" work; done; all";
    are_good(&place("a small group", &format!("{LOOP} {GROUP} {ranks}")), 3);
}

#[test]
fn a_rank_that_its_group_ends_is_named() {
    let ranks = "go $RANK 0 3 $F eats; go $RANK 1 3 $F eats; go within $RANK 2 3 $F eats; all";
    are_good(&place("a group too small", &format!("{LOOP} {GROUP} may=137; {ranks}")), 2);
}

#[test]
fn ranks_of_different_users_work() {
    let ranks = "go $RANK 0 2 $F work; go setpriv --reuid 65534 --clear-groups $RANK 1 2 $F work; all";
    let said = place("different users", &format!("{LOOP} {ranks}"));
    are_good(&said, 2);
    says(&said, "cannot read memory of rank 0");
}

#[test]
fn a_killed_rank_is_named_within_two_seconds_though_a_child_of_it_lives() {
    let said = place(
        "killed",
        &format!("{LOOP} may=137; for r in 0 1 2; do go \"$RANK\" $r 3 \"$F\" dies; done; all"),
    );
    are_good(&said, 2);
}

#[test]
fn a_killed_rank_is_named_to_who_only_asks() {
    let ranks = "for r in 0 1 2; do go \"$RANK\" $r 3 \"$F\" dies-unawaited; done; all";
    are_good(&place("killed, unawaited", &format!("{LOOP} may=137; {ranks}")), 2);
}

#[test]
fn a_killed_rank_is_named_across_process_namespaces() {
    // The rank is not the first process of its namespace, so that its child lives on.
    let below = "unshare --pid --fork --kill-child sh -c '\"$@\"; status=$?; sleep 3; exit $status' below";
    let said = place(
        "killed below",
        &format!("{LOOP} may=137; for r in 0 1 2; do go {below} \"$RANK\" $r 3 \"$F\" dies; done; all"),
    );
    are_good(&said, 2);
}

#[test]
fn a_program_that_becomes_another_is_gone() {
    let said =
        place("executes", &format!("{LOOP} for r in 0 1 2; do go \"$RANK\" $r 3 \"$F\" executes; done; all"));
    are_good(&said, 2);
}

#[test]
fn a_stopped_rank_is_not_called_dead() {
    for how in ["", "unshare --pid --fork --kill-child"] {
        let said = place(
            "stops",
            &format!("{LOOP} for r in 0 1 2; do go {how} \"$RANK\" $r 3 \"$F\" stops; done; all"),
        );
        are_good(&said, 3);
    }
}

#[test]
fn storms_of_signals_change_nothing() {
    let said =
        place("storm", &format!("{LOOP} for r in 0 1 2 3 4; do go \"$RANK\" $r 5 \"$F\" storm; done; all"));
    are_good(&said, 5);
    let far = "network; go $RANK 0 2 $F storm; go there $RANK 1 2 $F storm; all";
    are_good(&place("storm between networks", far), 2);
}

#[test]
fn the_scripts_of_this_file_can_fail() {
    script::can_fail();
}
