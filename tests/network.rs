//! Between hosts: network namespaces that a bridge joins, made and removed by each test, and hosts in name only on the
//! loopback. Ranks work, are killed, are stopped, are cut off, come and go. Each case runs alone, bounded in time.
//!
//! Needs UCX; root or user namespaces; and the programs of the packages util-linux and iproute2.

#[path = "common/corpus.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is used here")]
mod corpus;
#[path = "common/party.rs"]
mod party;
#[path = "common/script.rs"]
mod script;

use std::process::Command;

use party::{LIMIT, build, run, take_turn};
use script::{are_good, says};

/// `hosts N` makes hosts that a bridge joins, `on HOST` runs something there, `cut HOST` takes its link down.
const WORDS: &str = r#"
hosts() {
  ip link set lo up
  ip link add joined type bridge && ip link set joined up || exit 1
  for host in $(seq $1); do
    unshare --net sleep 70 & helper=$!
    helpers="$helpers $helper"
    while [ "$(readlink /proc/$helper/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add port$host type veth peer name e0 netns $helper || exit 1
    ip link set port$host master joined && ip link set port$host up || exit 1
    nsenter -t $helper -n sh -c "ip addr add 10.78.0.$host/24 dev e0 && ip link set e0 up && ip link set lo up" || exit 1
    eval "helper$host=$helper"
  done
}
on() {
  host=$1; shift
  eval "helper=\$helper$host"
  # UCX looks for interfaces in /sys, which shows those of the network in which it was mounted.
  exec nsenter -t $helper -n unshare --mount sh -c 'mount -t sysfs none /sys && exec "$@"' on \
    env SHOAL_HOSTID=host-$host "$@"
}
cut() { ip link set port$1 down; }
"#;

/// Runs a script in a network of its own; what the ranks said.
fn place(name: &str, script: &str) -> String {
    place_by(name, script::apart(&["--net"]), script)
}

fn place_by(name: &str, command: Command, script: &str) -> String {
    // UCX would find out that all hosts are one machine.
    script::place(name, command, WORDS, script, &[("UCX_TLS", "tcp")])
}

/// Ranks on hosts: the numbers of the hosts by rank.
fn ranks_on(hosts: &[u32], what: &str) -> String {
    let most = hosts.iter().max().expect("some");
    let mut script = format!("hosts {most}\n");
    for (rank, host) in hosts.iter().enumerate() {
        script += &format!("go on {host} \"$RANK\" {rank} {} \"$F\" {what}\n", hosts.len());
    }
    script
}

fn works_on(hosts: &[u32], what: &str) -> String {
    let said = place(&format!("{what} on {hosts:?}"), &(ranks_on(hosts, what) + "all"));
    are_good(&said, hosts.len());
    said
}

#[test]
fn hosts_with_one_rank_and_with_several_work() {
    let said = works_on(&[1, 2], "work");
    says(&said, "UCX may use e0: they lead out of this machine");
    if let Ok(named) = std::env::var("SHOAL_UCX") {
        says(&said, &format!("of {named} connects the hosts"));
    }
    works_on(&[1, 1, 2, 2], "work");
    works_on(&[1, 2, 3, 4], "work");
}

#[test]
fn hosts_that_somebody_without_rights_made_work() {
    let script = ranks_on(&[1, 1, 2], "work") + "all";
    are_good(&place_by("without root", script::apart_as_nobody(&["--net"]), &script), 3);
}

#[test]
fn uneven_hosts_and_ranks_dealt_in_turns_work() {
    works_on(&[1, 2, 2, 2], "work");
    works_on(&[1, 2, 3, 1, 2], "work");
}

/// Of a parent, whose connections they share; and one by one, each with connections of its own.
#[test]
fn communicators_come_and_go_between_hosts() {
    let rounds = corpus::seed_count(100, 1000);
    for what in ["cycles", "reborn"] {
        let script = format!("export CYCLES={rounds}\n{}all", ranks_on(&[1, 1, 2], what));
        are_good(&place(what, &script), 3);
    }
}

#[test]
fn a_flood_in_one_communicator_stops_no_other() {
    works_on(&[1, 2], "flooded");
}

#[test]
fn a_killed_rank_on_another_host_is_named_within_two_seconds_though_a_child_of_it_lives() {
    for what in ["dies", "dies-unawaited"] {
        let said = place(what, &format!("may=137\n{}all", ranks_on(&[1, 2, 3], what)));
        are_good(&said, 2);
    }
}

#[test]
fn a_stopped_rank_on_another_host_is_not_called_dead() {
    works_on(&[1, 2, 3], "stops");
}

#[test]
fn a_host_that_is_cut_off_in_the_middle_of_a_collective_is_named_within_two_seconds() {
    let script = "while [ ! -e $F/when ]; do sleep 0.01; done; sleep 0.02; cut 3; all";
    let said = place("cut", &(ranks_on(&[1, 2, 3], "cut") + script));
    are_good(&said, 3);
}

/// Runs cases of programs whose ranks are dealt to hosts in name only.
fn dealt(list: &[(&str, &str)], hosts: u32) {
    let _turn = take_turn();
    for (program, case) in list {
        let mut command = Command::new(build(program));
        command.arg(case).env("CREW_HOSTS", hosts.to_string()).env("UCX_TLS", "tcp");
        run(&format!("{program} {case} on {hosts} hosts"), command, LIMIT);
    }
}

#[test]
fn survivors_of_a_killed_rank_on_another_host_get_an_error_soon() {
    dealt(&[("death", "small"), ("death", "recv"), ("death", "stream"), ("death", "large")], 2);
    dealt(&[("death", "small"), ("death", "large"), ("death", "stopped")], 3);
}

#[test]
fn abort_returns_at_once_and_leaves_memory_alone_between_hosts() {
    dealt(&[("abort", "blocked"), ("abort", "left"), ("abort", "taken")], 2);
}

#[test]
fn children_are_born_between_hosts_also_of_survivors() {
    dealt(&[("children", "split"), ("children", "shrink"), ("children", "revoked"), ("children", "grow")], 2);
    dealt(&[("lives", "silent"), ("lives", "revoked")], 3);
}

#[test]
fn what_lies_between_hosts_is_counted_as_it_was_allocated() {
    dealt(&[("rest", "far"), ("rest", "restless")], 2);
}

#[test]
fn disagreements_are_named_between_hosts() {
    dealt(&[("mismatch", "pairs")], 2);
}

#[test]
fn programs_end_without_taking_what_they_sent_with_them() {
    dealt(&[("exits", "forgetful"), ("exits", "leaving"), ("exits", "finishing")], 2);
}

#[test]
fn many_ranks_on_many_hosts_come_together() {
    dealt(&[("limits", "16-ranks"), ("limits", "64-ranks")], 8);
}

#[test]
fn the_command_measures_on_hosts_that_the_script_makes() {
    let _turn = take_turn();
    let mut command = Command::new("timeout");
    command.args([
        "60",
        "scripts/hosts.sh",
        "make",
        "2",
        env!("CARGO_BIN_EXE_shoal"),
        "bench",
        "--hosts",
        "2",
    ]);
    command.args(["--on", "scripts/hosts.sh on {}", "--op", "sendrecv,alltoall", "--sizes", "8,100K"]);
    command.args(["-n", "3", "--batches", "2", "--format", "json", "--library"]).arg(party::library());
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("it starts");
    let (rows, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{rows}{words}");
    assert_eq!(rows.matches("\"wrong\":0").count(), 4, "{rows}{words}");
}

#[test]
fn without_ucx_the_error_says_what_to_install_and_where_it_looked() {
    let said = place(
        "no UCX",
        "ip link set lo up; export SHOAL_UCX=/nowhere/libucp.so.0
         SHOAL_HOSTID=0 $RANK 0 2 $F work & first=$!
         SHOAL_HOSTID=1 $RANK 1 2 $F work & second=$!
         wait $first && exit 1; wait $second && exit 1; exit 0",
    );
    for words in ["libucx0", "/nowhere/libucp.so.0: ", "SHOAL_UCX"] {
        says(&said, words);
    }
    // Ranks of one machine need none.
    let script = "ip link set lo up; export SHOAL_UCX=/nowhere/libucp.so.0; helpers=; sleep 70 & helpers=$!
        for r in 0 1; do go \"$RANK\" $r 2 \"$F\" work; done; all";
    are_good(&place("one machine without UCX", script), 2);
}

/// UCX ends the program where it finds no file or no room for its thread.
#[test]
fn few_files_or_little_space_is_an_error_and_no_end_between_hosts() {
    for limit in ["-n 18", "-n 22", "-n 24", "-n 26", "-n 30", "-n 50", "-n 100", "-v 70000", "-v 170000"] {
        let rank = format!("sh -c 'ulimit {limit}; exec \"$@\"' limited $RANK");
        let script = format!(
            "export SHOAL_INIT_TIMEOUT=4
             SHOAL_HOSTID=0 {rank} 0 2 $F work & first=$!
             SHOAL_HOSTID=1 {rank} 1 2 $F work & second=$!
             wait $first; one=$?; wait $second; other=$?
             [ $one -le 1 ] && [ $other -le 1 ] || exit 1"
        );
        let said = place_by(&format!("ulimit {limit}"), Command::new("env"), &script);
        let is_good = said.matches(" is good").count() == 2;
        assert!(is_good || said.contains("(ulimit -"), "nothing says what to raise");
        assert!(is_good || limit != "-n 100", "that is enough");
    }
}

#[test]
fn the_scripts_of_this_file_can_fail() {
    script::can_fail();
}
