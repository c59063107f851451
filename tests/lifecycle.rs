//! C programs that use the library as its users do: ranks as processes and threads that start, fork, disagree,
//! run out of what they need, are stopped, are killed, abort, exit. Each case runs alone, bounded in time; after
//! it no process and no file is left.
//!
//! The programs and their cases are in `tests/c/lifecycle`. The library is the one that Cargo made beside this
//! test, or the one that `SHOAL_TEST_LIBRARY` names.

#[path = "common/party.rs"]
mod party;

use std::process::Command;
use std::time::Duration;

use party::{LIMIT, build, run, take_turn, workshop};

/// Under valgrind, which runs one thread at a time.
const LIMIT_WITH_VALGRIND: Duration = Duration::from_secs(300);

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
#[ignore = "takes 9 GiB of memory"]
fn more_than_four_gigabytes_are_counted_right() {
    let all = [("huge", "messages"), ("huge", "broadcast"), ("huge", "allreduce")];
    cases(&all);
    cases_with(&all, &[("SHOAL_CMA", "0")]);
}

#[test]
fn who_opens_the_library_may_close_it() {
    let library = workshop().join("libnccl.so.2");
    cases(&[("opened", library.to_str().expect("a name"))]);
}

#[test]
fn copies_of_the_library_work_side_by_side() {
    let (own, copy) = (workshop().join("libnccl.so.2"), workshop().join("copy.so"));
    std::fs::copy(&own, &copy).expect("the folder is ours");
    let mut command = Command::new(build("opened"));
    command.arg(own).arg(&copy);
    let _turn = take_turn();
    run("two copies", command, LIMIT);
    std::fs::remove_file(copy).expect("it is ours");
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
fn a_rank_that_is_killed_while_it_is_born_is_missed_soon_though_its_child_lives() {
    cases(&[("unborn", "root"), ("unborn", "rank"), ("unborn", "split")]);
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
