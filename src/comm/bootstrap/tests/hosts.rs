//! Hosts with many addresses: network namespaces that a script joins by a cable, with ranks on both.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::comm::bootstrap::{Join, Session, unique_id};
use crate::config::Config;

const BOUND: Duration = Duration::from_secs(40);

/// Runs four ranks on two hosts that look so.
fn ranks_meet(look: &str, interfaces: &str, family: &str) {
    let module = module_path!().split_once("::").unwrap().1;
    let arguments = format!("--ignored --nocapture --exact {module}::rank_on_a_host");
    let place = std::env::temp_dir().join(format!("shoal-hosts-{}-{look}{family}", std::process::id()));
    let began = Instant::now();
    let mut child = Command::new("unshare")
        .args(["-Urn", "--", "sh", "-c", include_str!("hosts.sh"), "hosts"])
        .arg(std::env::current_exe().unwrap())
        .args([&arguments, look, place.to_str().unwrap(), interfaces, family])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("unshare is there (Debian package util-linux)");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    let _ = std::fs::remove_file(&place);
    let hint = "this test needs `ip` (Debian package iproute2) and leave to make network namespaces";
    assert!(status.success(), "{status}; {hint}\n{said}");
    for rank in 0..4 {
        assert!(said.contains(&format!("rank {rank} met all")), "{said}");
    }
    println!("{look} {interfaces} {family}: {:?}", began.elapsed());
}

#[test]
fn hosts_with_one_cable() {
    ranks_meet("plain", "-", "-");
    ranks_meet("plain", "=a0,b0", "AF_INET");
}

#[test]
fn hosts_with_bridges_and_links_that_lead_nowhere() {
    ranks_meet("crowded", "-", "-");
    ranks_meet("crowded", "^docker,a-", "-");
    // Prefixes that fit what is down, dark and loose as well.
    ranks_meet("crowded", "a,b", "-");
}

#[test]
fn hosts_with_addresses_of_their_link_only() {
    ranks_meet("link-local", "-", "-");
    ranks_meet("link-local", "-", "AF_INET6");
}

/// Not a test by itself: the rank of the line on standard input.
#[test]
#[ignore = "run by the tests above"]
fn rank_on_a_host() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let [rank, ranks, interfaces, family, place] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return;
    };
    let (rank, ranks): (u32, u32) = (rank.parse().unwrap(), ranks.parse().unwrap());
    let given = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
    let config = Config {
        init_timeout: BOUND,
        socket_ifname: given(interfaces),
        socket_family: given(family),
        ..Config::default()
    };
    if rank == 0 {
        let id = unique_id(&config).unwrap();
        let unfinished = format!("{place}.new");
        std::fs::write(&unfinished, id).unwrap();
        std::fs::rename(&unfinished, place).unwrap();
    }
    let deadline = Instant::now() + BOUND;
    let id = loop {
        if let Ok(bytes) = std::fs::read(place) {
            break bytes.try_into().unwrap();
        }
        assert!(Instant::now() < deadline, "no id");
        std::thread::sleep(Duration::from_millis(10));
    };
    let request = Join { id: &id, rank, ranks, ..Join::default() };
    let mut session = Session::join(&config, &request, Arc::default()).unwrap();
    let parts = session.all_gather(&rank.to_le_bytes()).unwrap();
    assert!(parts.iter().zip(0_u32..).all(|(part, rank)| *part == rank.to_le_bytes()));
    let members: Vec<u32> = (1..ranks).collect();
    let kin = session.kin();
    drop(session);
    if rank > 0 {
        Session::derive(&config, &kin, &members, b"", Arc::default()).unwrap().barrier().unwrap();
    }
    println!("rank {rank} met all");
}
