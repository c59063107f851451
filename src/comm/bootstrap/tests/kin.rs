//! Ranks that meet again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::processes::Child;
use crate::comm::bootstrap::{Join, Kin, Session, porch, unique_id};
use crate::config::Config;
use crate::error::{Error, Result};

fn config(bound: Duration) -> Config {
    Config { init_timeout: bound, ..Config::default() }
}

fn patient() -> Config {
    config(Duration::from_secs(30))
}

/// Each of `who` does `body` on a thread of its own.
fn threads<T: Send>(who: &[u32], body: impl Fn(u32) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let started: Vec<_> = who.iter().map(|rank| scope.spawn(move || body(*rank))).collect();
        started.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

/// The kin of `ranks` that met on threads of this process.
fn family(ranks: u32) -> Vec<Kin> {
    let (config, all) = (patient(), (0..ranks).collect::<Vec<u32>>());
    let id = unique_id(&config).unwrap();
    threads(&all, |rank| {
        let request = Join { id: &id, rank, ranks, ..Join::default() };
        Session::join(&config, &request, Arc::default()).unwrap().kin()
    })
}

fn derive(config: &Config, kin: &Kin, members: &[u32], purpose: &[u8]) -> Result<Session> {
    Session::derive(config, kin, members, purpose, Arc::default())
}

fn assert_works(session: &mut Session) {
    let own = format!("{} of {}", session.rank, session.ranks());
    let parts = session.all_gather(own.as_bytes()).unwrap();
    let expected = (0..session.ranks()).map(|rank| format!("{rank} of {}", session.ranks()).into_bytes());
    assert!(parts.into_iter().eq(expected));
}

#[test]
fn any_members_meet_again_and_their_children_too() {
    let family = family(7);
    let config = patient();
    for members in [vec![0, 1, 2, 3, 4, 5, 6], vec![1, 3, 6], vec![5, 2, 6], vec![4]] {
        let keys = threads(&members, |rank| {
            let mut session = derive(&config, &family[rank as usize], &members, b"first").unwrap();
            assert_eq!(members[session.rank as usize], rank);
            assert_works(&mut session);
            let kin = session.kin();
            if session.ranks() > 1 {
                let last = session.ranks() - 1;
                if session.rank == 0 || session.rank == last {
                    assert_works(&mut derive(&config, &kin, &[0, last], b"grandchild").unwrap());
                }
            }
            *session.key()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && *key != [0; 32]));
    }
}

#[test]
fn several_meet_at_once_and_do_not_mix() {
    let family = family(6);
    let config = patient();
    let sets: [&[u32]; 4] = [&[0, 1, 2], &[0, 2, 4], &[0, 1, 2, 3, 4, 5], &[3, 5]];
    let calls: Vec<u32> = (0..24).collect();
    threads(&calls, |call| {
        let (rank, set) = (call % 6, sets[call as usize / 6]);
        if set.contains(&rank) {
            // Whoever comes first waits for whoever holds the meeting.
            thread::sleep(Duration::from_millis(u64::from(17 * call % 97)));
            assert_works(&mut derive(&config, &family[rank as usize], set, b"at once").unwrap());
        }
    });
}

#[test]
fn who_does_not_meet_again_is_named_by_the_parents_number() {
    let family = family(8);
    let config = config(Duration::from_secs(1));
    let members = [2, 3, 5, 7];
    for (callers, missing) in
        [([2, 5], "ranks 3, 7 of 8 of the parent"), ([3, 7], "rank 2 of 8 of the parent")]
    {
        let began = Instant::now();
        for result in threads(&callers, |rank| {
            derive(&config, &family[rank as usize], &members, missing.as_bytes()).map(drop)
        }) {
            let Err(Error::Timeout(text)) = result else { panic!("{result:?}") };
            assert!(text.starts_with(missing), "{text}");
        }
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn an_abort_ends_the_wait_for_who_holds_the_meeting() {
    let family = family(3);
    let abort = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    thread::scope(|scope| {
        let waits =
            scope.spawn(|| Session::derive(&patient(), &family[1], &[0, 1], b"", abort.clone()).map(drop));
        thread::sleep(Duration::from_millis(200));
        abort.store(true, Ordering::Relaxed);
        assert!(matches!(waits.join().unwrap(), Err(Error::Aborted(_))));
    });
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_listener_is_there_while_somebody_needs_it() {
    // In a process of its own, since other tests of this one may need theirs.
    let child = Child::fork(|| {
        let family = family(2);
        assert!(porch::is_open());
        threads(&[0, 1], |rank| {
            assert_works(&mut derive(&patient(), &family[rank as usize], &[0, 1], b"").unwrap());
        });
        drop(family);
        let began = Instant::now();
        while porch::is_open() && began.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(5));
        }
        !porch::is_open()
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn members_that_make_no_sense_and_inherited_kin_are_refused() {
    let family = family(3);
    for members in [&[][..], &[0, 0], &[0, 3], &[1, 2]] {
        assert!(
            matches!(derive(&patient(), &family[0], members, b""), Err(Error::Internal(_))),
            "{members:?}"
        );
    }
    let kin = family[0].clone();
    let child = Child::fork(move || matches!(derive(&patient(), &kin, &[0], b""), Err(Error::Usage { .. })));
    assert_eq!(child.wait(), 0);
    threads(&[0, 1], |rank| {
        assert_works(&mut derive(&patient(), &family[rank as usize], &[0, 1], b"").unwrap())
    });
}

#[test]
fn the_dead_are_not_needed_and_a_dead_member_is_named() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    let join = move |rank| {
        let request = Join { id: &id, rank, ranks: 4, ..Join::default() };
        Session::join(&patient(), &request, Arc::default()).unwrap().kin()
    };
    let lives = move |rank: u32| {
        Child::fork(move || {
            let kin = join(rank);
            assert_works(&mut derive(&patient(), &kin, &[1, 3], b"survivors").unwrap());
            let named = derive(&patient(), &kin, &[0, 1, 3], b"with the dead").map(drop);
            matches!(named, Err(Error::Remote(text)) if text.starts_with("rank 0 of 4 of the parent"))
        })
    };
    let dies = |rank: u32| Child::fork(move || !join(rank).cards().is_empty());
    // Rank 0 would hold the meeting.
    let dead = [dies(0), dies(2)];
    let alive = [lives(1), lives(3)];
    assert!(dead.into_iter().chain(alive).all(|child| child.wait() == 0));
}
