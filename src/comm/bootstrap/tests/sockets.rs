//! The drivers over real sockets on this machine: threads, a forked child, strangers, missing ranks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Random, hello};
use crate::comm::UniqueId;
use crate::comm::bootstrap::id::{Invitation, Speaker, version_text};
use crate::comm::bootstrap::message::Message;
use crate::comm::bootstrap::proof::{Handshake, Side};
use crate::comm::bootstrap::{Join, Session, porch, unique_id, warning};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::topology::{Card, DeviceKind, Topology};

fn config(bound: Duration) -> Config {
    Config { init_timeout: bound, ..Config::default() }
}

fn patient() -> Config {
    config(Duration::from_secs(30))
}

fn join(config: &Config, id: &UniqueId, rank: u32, ranks: u32) -> Result<Session> {
    let payload = rank.to_le_bytes();
    Session::join(config, &Join { id, rank, ranks, payload: &payload, ..Join::default() }, Arc::default())
}

/// Each of `who` does `body` on a thread of its own.
fn threads<T: Send>(who: &[u32], body: impl Fn(u32) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let started: Vec<_> = who.iter().map(|rank| scope.spawn(move || body(*rank))).collect();
        started.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn root_address(id: &UniqueId) -> (Invitation, SocketAddr) {
    let invitation = Invitation::parse("test", id).unwrap();
    let address = invitation.addresses[0];
    (invitation, address)
}

fn meet(config: &Config, id: &UniqueId, ranks: u32) {
    let all: Vec<u32> = (0..ranks).collect();
    let keys = threads(&all, |rank| {
        let mut session = join(config, id, rank, ranks).unwrap();
        assert_eq!((session.rank, session.ranks()), (rank, ranks));
        assert!(session.cards.iter().zip(0_u32..).all(|(card, rank)| card.payload == rank.to_le_bytes()));
        let topology = Topology::from_cards(rank, &session.cards);
        assert_eq!(topology.local_ranks(), all);
        for step in 0..3 {
            let parts = session.all_gather(format!("{rank}.{step}").as_bytes()).unwrap();
            assert!(
                parts.iter().enumerate().all(|(rank, part)| *part == format!("{rank}.{step}").as_bytes())
            );
            session.barrier().unwrap();
        }
        *session.key()
    });
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn ranks_meet_on_threads() {
    for ranks in [1, 2, 7, 64] {
        let config = patient();
        let id = unique_id(&config).unwrap();
        let communicator = Invitation::parse("test", &id).unwrap().communicator;
        assert!(porch::is_serving(communicator));
        let began = Instant::now();
        meet(&config, &id, ranks);
        println!("{ranks} ranks: {:?}", began.elapsed());
        wait_until("the root ends", || !porch::is_serving(communicator));
        assert_eq!(warning(&id), None);
    }
}

#[test]
fn ranks_meet_by_several_ids() {
    let config = patient();
    for (ranks, id_count) in [(1, 2), (5, 2), (24, 4), (2, 3)] {
        let ids: Vec<UniqueId> = (0..id_count).map(|_| unique_id(&config).unwrap()).collect();
        let all: Vec<u32> = (0..ranks).collect();
        threads(&all, |rank| {
            let payload = rank.to_le_bytes();
            let request = Join { rank, ranks, payload: &payload, ..Join::default() };
            let mut session = Session::join_by_several(&config, &ids, &request, Arc::default()).unwrap();
            assert!(session.cards.iter().zip(0_u32..).all(|(card, rank)| card.payload == rank.to_le_bytes()));
            let parts = session.all_gather(&payload).unwrap();
            assert!(parts.iter().zip(0_u32..).all(|(part, rank)| *part == rank.to_le_bytes()));
        });
        for id in &ids {
            let communicator = Invitation::parse("test", id).unwrap().communicator;
            wait_until("the roots end", || !porch::is_serving(communicator));
        }
    }
    let id = unique_id(&config).unwrap();
    let request = Join { rank: 0, ranks: 2, ..Join::default() };
    for ids in [&[][..], &[id, id]] {
        let refused = Session::join_by_several(&config, ids, &request, Arc::default()).map(drop);
        assert!(matches!(refused, Err(Error::Argument { .. })));
    }
}

#[test]
fn large_payloads_pass() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    threads(&[0, 1, 2], |rank| {
        let payload = vec![rank as u8; 64 << 10];
        let request = Join { id: &id, rank, ranks: 3, payload: &payload, ..Join::default() };
        let mut session = Session::join(&config, &request, Arc::default()).unwrap();
        let parts = session.all_gather(&payload).unwrap();
        assert!(parts.iter().zip(0..).all(|(part, rank)| part.len() == 64 << 10 && part[9] == rank));
        assert!(parts.iter().zip(&session.cards).all(|(part, card)| *part == card.payload));
    });
}

#[test]
fn who_is_missing_is_named_to_all_within_the_bound() {
    let config = config(Duration::from_secs(1));
    let id = unique_id(&config).unwrap();
    let began = Instant::now();
    for result in threads(&[0, 1, 2, 4], |rank| join(&config, &id, rank, 8).map(drop)) {
        let Err(Error::Timeout(text)) = result else { panic!("{result:?}") };
        assert!(text.starts_with("ranks 3, 5-7 of 8 did not come within 1 s"), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    // Who comes late hears the same, at once.
    let late = join(&config, &id, 3, 8).map(drop);
    assert!(matches!(late, Err(Error::Timeout(text)) if text.starts_with("ranks 3, 5-7")));
}

#[test]
fn a_failure_of_one_reaches_all() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    let results = threads(&[0, 1, 2, 3], |rank| {
        let mut session = join(&config, &id, rank, 4).unwrap();
        session.barrier().unwrap();
        if rank == 2 {
            session.fail("no room for the segment");
        }
        session.all_gather(b"segment")
    });
    for (rank, result) in results.into_iter().enumerate() {
        let Err(Error::Remote(text)) = result else { panic!("{result:?}") };
        assert!(text.starts_with("rank 2") && text.ends_with("no room for the segment"), "{rank}: {text}");
    }
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    let results = threads(&[0, 1, 2], |rank| {
        let mut session = join(&config, &id, rank, 3).unwrap();
        if rank == 1 { Ok(()) } else { session.barrier() }
    });
    for rank in [0, 2] {
        let Err(Error::Remote(text)) = &results[rank] else { panic!("{results:?}") };
        assert!(text.starts_with("rank 1 ") && text.contains("left"), "{text}");
    }
}

#[test]
fn an_abort_ends_the_wait_and_tells_the_others() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    let abort = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    thread::scope(|scope| {
        let other = scope.spawn(|| join(&config, &id, 1, 3).map(drop));
        let aborted = scope.spawn(|| {
            let request = Join { id: &id, rank: 0, ranks: 3, ..Join::default() };
            Session::join(&config, &request, abort.clone()).map(drop)
        });
        thread::sleep(Duration::from_millis(300));
        abort.store(true, Ordering::Relaxed);
        assert!(matches!(aborted.join().unwrap(), Err(Error::Aborted(_))));
        let Err(Error::Remote(text)) = other.join().unwrap() else { panic!() };
        assert!(text.starts_with("rank 0 ") && text.contains("aborted"), "{text}");
    });
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn different_devices_are_refused_by_name() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    for result in threads(&[0, 1], |rank| {
        let device = if rank == 0 { DeviceKind::Host } else { DeviceKind::Cuda };
        let request = Join { id: &id, rank, ranks: 2, device, ..Join::default() };
        Session::join(&config, &request, Arc::default()).map(drop)
    }) {
        let Err(Error::Mismatch(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("host") && text.contains("cuda"), "{text}");
    }
}

/// Opens connections that never become members, and keeps them.
fn disturb(address: SocketAddr, secret_is_wrong: &Invitation) -> Vec<TcpStream> {
    let mut random = Random(3);
    let open = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let communicator = secret_is_wrong.communicator;
    let hello = hello(communicator, [1; 32]).encode();
    let mut streams =
        vec![open(b""), open(&hello[..9]), open(&random.bytes::<500>()), open(b"GET / HTTP/1.1\r\n\r\n")];
    let mut liar = open(&hello);
    let mut challenge = [0; 4 + 1 + 64];
    liar.read_exact(&mut challenge).unwrap();
    liar.write_all(&Message::Proof { proof: random.bytes() }.encode()).unwrap();
    let mut answer = Vec::new();
    liar.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("the proof is wrong"));
    streams.push(liar);
    streams
}

#[test]
fn strangers_disturb_nobody() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    let (invitation, address) = root_address(&id);
    let strangers = disturb(address, &invitation);
    meet(&config, &id, 5);
    wait_until("the root ends", || !porch::is_serving(invitation.communicator));
    drop(strangers);
}

#[test]
fn a_member_with_another_version_fails_all_with_both_shown() {
    for speaker in [Speaker { library: 70_000, ..Speaker::own() }, Speaker { protocol: 99, library: 70_000 }]
    {
        let config = patient();
        let id = unique_id(&config).unwrap();
        let (invitation, address) = root_address(&id);
        thread::scope(|scope| {
            let ours = scope.spawn(|| join(&config, &id, 0, 2).map(drop));
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let communicator = invitation.communicator;
            let hello = Message::Hello { speaker, communicator, early: false, nonce: [1; 32] };
            stream.write_all(&hello.encode()).unwrap();
            let mut challenge = [0; 4 + 1 + 64];
            stream.read_exact(&mut challenge).unwrap();
            let root_nonce = challenge[5..37].try_into().unwrap();
            let handshake = Handshake { communicator, member_nonce: [1; 32], root_nonce };
            let proof = handshake.proof(&invitation.secret, Side::Member);
            stream.write_all(&Message::Proof { proof }.encode()).unwrap();
            if !speaker.is_foreign() {
                let card = Card { library_version: speaker.library, ..super::sample_card(1, 2) };
                let card = Message::Card { bound_ms: 9000, groups: 1, group: 0, card };
                stream.write_all(&card.encode()).unwrap();
            }
            let Err(Error::Mismatch(text)) = ours.join().unwrap() else { panic!() };
            let own = version_text(Speaker::own().library);
            assert!(text.contains("version 7.0.0") && text.contains(&format!("version {own}")), "{text}");
        });
    }
}

/// The maker of the id is gone, and could be asked nothing.
#[test]
fn an_id_of_another_version_is_told_with_both_shown() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let id = unique_id(&patient()).unwrap();
    let mut invitation = root_address(&id).0;
    (invitation.maker, invitation.addresses) = (Speaker { protocol: 99, library: 70_000 }, vec![free]);
    let text = join(&patient(), &invitation.encode(), 1, 2).map(drop).unwrap_err().to_string();
    let own = Speaker::own().to_string();
    assert!(
        text.contains("made by version 7.0.0 of the library (protocol 99)") && text.contains(&own),
        "{text}"
    );
}

#[test]
fn bad_calls_are_refused_with_what_to_do() {
    let config = patient();
    let id = unique_id(&config).unwrap();
    for (rank, ranks) in [(0, 0), (2, 2), (0, u32::MAX)] {
        assert!(matches!(join(&config, &id, rank, ranks), Err(Error::Argument { .. })));
    }
    assert!(matches!(join(&config, &[7; 128], 0, 2), Err(Error::Argument { .. })));
    // Its address may be busy; what matters is that the id is served once.
    meet(&config, &id, 2);
    let began = Instant::now();
    let again = join(&config, &id, 0, 2).map(drop);
    assert!(
        matches!(again, Err(Error::Remote(text)) if text.contains("serves once") || text.contains("nobody listens"))
    );
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn interfaces_can_be_named() {
    let config = Config { socket_ifname: "=lo".into(), ..patient() };
    let id = unique_id(&config).unwrap();
    let (invitation, address) = root_address(&id);
    assert!(address.ip().is_loopback() && invitation.addresses.iter().all(|a| a.ip().is_loopback()));
    meet(&config, &id, 3);
    let wrong = Config { socket_ifname: "nosuch".into(), ..patient() };
    let text = unique_id(&wrong).unwrap_err().to_string();
    assert!(text.contains("nosuch") && text.contains("lo"), "{text}");
}

#[test]
fn births_at_one_address_at_once_do_not_mix() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = Config { comm_id: format!("127.0.0.1:{free}"), secret: "fish".into(), ..patient() };
    let id = unique_id(&config).unwrap();
    let calls: Vec<u32> = (0..12).collect();
    let mut keys = threads(&calls, |call| {
        // Any order; rank 0 of the births last.
        let rank = 3 - call / 3;
        let mut session = join(&config, &id, rank, 4).unwrap();
        let parts = session.all_gather(&rank.to_le_bytes()).unwrap();
        assert!(parts.iter().zip(0_u32..).all(|(part, rank)| *part == rank.to_le_bytes()));
        *session.key()
    });
    keys.sort_unstable();
    assert!(keys.chunks(4).all(|birth| birth.iter().all(|key| *key == birth[0])));
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[test]
fn strangers_are_counted_in_what_is_said_about_the_missing() {
    let config = config(Duration::from_secs(2));
    let id = unique_id(&config).unwrap();
    let (invitation, address) = root_address(&id);
    let waits = thread::spawn(move || join(&config, &id, 0, 2).map(drop));
    thread::sleep(Duration::from_millis(200));
    let strangers = disturb(address, &invitation);
    let Err(Error::Timeout(text)) = waits.join().unwrap() else { panic!() };
    assert!(text.starts_with("rank 1 of 2") && text.contains("connections were turned away"), "{text}");
    drop(strangers);
}

#[test]
fn ids_of_stock_and_families_that_are_none_are_refused() {
    // The first bytes of stock's id are a random number, then a socket address.
    let mut stock = [0; 128];
    stock[..8].copy_from_slice(&Random(8).bytes::<8>());
    stock[8] = 2;
    let text = join(&patient(), &stock, 0, 2).map(drop).unwrap_err().to_string();
    assert!(text.contains("another NCCL"), "{text}");
    let odd = Config { socket_family: "AF_UNIX".into(), ..patient() };
    assert!(unique_id(&odd).unwrap_err().to_string().contains("AF_INET6"));
}

#[test]
fn an_address_by_hand_serves_one_communicator_after_another() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = Config { comm_id: format!("127.0.0.1:{free}"), secret: "fish".into(), ..patient() };
    let id = unique_id(&config).unwrap();
    assert_eq!(id, unique_id(&config).unwrap());
    assert_eq!(warning(&id), None);
    for _ in 0..5 {
        meet(&config, &id, 4);
    }
    let open = Config { secret: String::new(), ..config.clone() };
    assert!(warning(&unique_id(&open).unwrap()).unwrap().contains("SHOAL_SECRET"));
    // Another secret does not get in, and fails with the reason.
    let short = Config { init_timeout: Duration::from_secs(1), secret: "fowl".into(), ..config.clone() };
    let short_id = unique_id(&short).unwrap();
    let results = threads(&[0, 1], |rank| {
        let (config, id) = if rank == 0 {
            (Config { init_timeout: Duration::from_secs(1), ..config.clone() }, id)
        } else {
            (short.clone(), short_id)
        };
        join(&config, &id, rank, 2).map(drop)
    });
    assert!(
        matches!(&results[0], Err(Error::Timeout(text)) if text.starts_with("rank 1 of 2 did not come")),
        "{results:?}"
    );
    assert!(matches!(&results[1], Err(Error::Timeout(text)) if text.contains("SHOAL_SECRET")), "{results:?}");
    for bad in ["here", "10.0.0.1", "nosuch.invalid:9"] {
        let config = Config { comm_id: bad.into(), ..patient() };
        assert!(matches!(unique_id(&config), Err(Error::Argument { .. })), "{bad}");
    }
}
