//! Ranks in forked and in executed children.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::comm::UniqueId;
use crate::comm::bootstrap::{Join, Session, unique_id};
use crate::config::Config;
use crate::error::{Error, Result};

const BOUND: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config { init_timeout: BOUND, ..Config::default() }
}

fn join(id: &UniqueId, rank: u32, ranks: u32) -> Result<Session> {
    Session::join(&config(), &Join { id, rank, ranks, ..Join::default() }, Arc::default())
}

/// A forked child that does `body` and ends with whether it held.
pub(super) struct Child(libc::pid_t);

impl Child {
    pub(super) fn fork(body: impl FnOnce() -> bool) -> Child {
        // SAFETY: the child uses the allocator, which is consistent after a fork, and no lock that another
        // thread of the parent could hold for ever; it ends by _exit without running the parent's handlers.
        match unsafe { libc::fork() } {
            0 => {
                let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(false);
                // SAFETY: ends the child, and nothing else.
                unsafe { libc::_exit(i32::from(!held)) }
            }
            child => {
                assert!(child > 0, "fork");
                Child(child)
            }
        }
    }

    fn kill(&self) {
        // SAFETY: the process is our child and was not waited for, so the number is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// How it ended; a child that does not end is killed.
    pub(super) fn wait(self) -> i32 {
        let deadline = Instant::now() + 2 * BOUND;
        let mut status = 0;
        loop {
            // SAFETY: our child; `status` lives during the call.
            if unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } != 0 {
                return status;
            }
            if Instant::now() > deadline {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn step(session: &mut Session) -> bool {
    let expected: Vec<Vec<u8>> = (0..session.ranks()).map(|rank| rank.to_le_bytes().to_vec()).collect();
    session.all_gather(&session.rank.to_le_bytes()).is_ok_and(|parts| parts == expected)
}

#[test]
fn forked_children_are_ranks() {
    let id = unique_id(&config()).unwrap();
    let children: Vec<Child> = (1..4)
        .map(|rank| Child::fork(move || join(&id, rank, 4).is_ok_and(|mut session| step(&mut session))))
        .collect();
    let mut session = join(&id, 0, 4).unwrap();
    assert!(step(&mut session));
    assert!(session.cards[1..].iter().all(|card| card.process != session.cards[0].process));
    assert!(children.into_iter().all(|child| child.wait() == 0));
}

#[test]
fn a_forked_child_makes_ids_of_its_own_and_leaves_its_parents_alone() {
    let id = unique_id(&config()).unwrap();
    let child = Child::fork(|| {
        let own = unique_id(&config()).unwrap();
        let alone = unique_id(&config()).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| join(&own, 1, 2).is_ok_and(|mut session| step(&mut session)));
            join(&own, 0, 2).is_ok_and(|mut session| step(&mut session)) && other.join().unwrap()
        }) && join(&alone, 0, 1).is_ok()
    });
    assert_eq!(child.wait(), 0);
    let other = std::thread::spawn(move || join(&id, 1, 2).is_ok_and(|mut session| step(&mut session)));
    let mut session = join(&id, 0, 2).unwrap();
    // A child that inherits a session cannot use it, and its end changes nothing.
    let mut lent = Some(session);
    let child = Child::fork(|| {
        let mut inherited = lent.take().unwrap();
        matches!(inherited.barrier(), Err(Error::Usage { .. }))
    });
    assert_eq!(child.wait(), 0);
    session = lent.unwrap();
    assert!(step(&mut session));
    assert!(other.join().unwrap());
}

#[test]
fn a_killed_rank_is_named() {
    let id = unique_id(&config()).unwrap();
    let began = Instant::now();
    let child = Child::fork(move || {
        let session = join(&id, 1, 2);
        std::thread::sleep(4 * BOUND);
        session.is_ok()
    });
    let mut session = join(&id, 0, 2).unwrap();
    child.kill();
    let Err(Error::Remote(text)) = session.barrier() else { panic!() };
    assert!(text.starts_with("rank 1 (process ") && text.contains("went away"), "{text}");
    assert!(began.elapsed() < BOUND);
    assert_ne!(child.wait(), 0);
}

/// Not a test by itself: rank 1 of the id on standard input, for the test below.
#[test]
#[ignore = "run by executed_children_are_ranks"]
fn executed_child() {
    let mut id = [0; 128];
    if std::io::stdin().read_exact(&mut id).is_ok() {
        assert!(step(&mut join(&id, 1, 2).unwrap()));
    }
}

#[test]
fn executed_children_are_ranks() {
    let id = unique_id(&config()).unwrap();
    let name = format!("{}::executed_child", module_path!().split_once("::").unwrap().1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--include-ignored"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&id).unwrap();
    let met = join(&id, 0, 2).map(|mut session| step(&mut session));
    assert!(child.wait().unwrap().success());
    assert_eq!(met, Ok(true));
}

#[test]
fn many_processes_meet_soon() {
    const RANKS: u32 = 64;
    let id = unique_id(&config()).unwrap();
    let began = Instant::now();
    let children: Vec<Child> = (1..RANKS)
        .map(|rank| {
            Child::fork(move || {
                join(&id, rank, RANKS)
                    .is_ok_and(|mut session| step(&mut session) && session.barrier().is_ok())
            })
        })
        .collect();
    let mut session = join(&id, 0, RANKS).unwrap();
    assert!(step(&mut session));
    println!("{RANKS} processes: {:?}", began.elapsed());
    session.barrier().unwrap();
    drop(session);
    assert!(children.into_iter().all(|child| child.wait() == 0));
}
