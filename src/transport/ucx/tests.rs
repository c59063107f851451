//! The suite of all transports, over several networks in one process.

use std::sync::Arc;

use ucx_sys::{Library, USUAL_NAMES};

use super::net::Net;
use super::worker::SEGMENTS;
use super::{EAGER_BYTES, PIECE_BYTES, Place, Pulse, UcxTransport, Vital, WINDOW_BYTES_MIN, piece_bytes};
use crate::system::random;
use crate::transport::conformance_tests::{ordinary, run, run_threads, scripts};
use crate::transport::{Head, Peer, Transport};

/// Everybody lives.
struct Calm;

impl Pulse for Calm {
    fn ask(&mut self, _peer: u32) -> Vital {
        Vital::Alive
    }
}

fn net(transports: &str) -> Arc<Net> {
    static LIBRARY: std::sync::OnceLock<Library> = std::sync::OnceLock::new();
    let library = LIBRARY.get_or_init(|| Library::load(USUAL_NAMES).expect("UCX is installed for the tests"));
    let transports = ("TLS", transports);
    let [one, two] = SEGMENTS;
    // Shared memory stands for a network that reads memory by itself.
    let net = match transports.1 {
        NEAR => Net::start(library, &[transports], true),
        _ => Net::start(library, &[transports, one, two], false),
    };
    net.expect("a network")
}

/// `ranks` ranks, each with a network of its own.
fn ends(transports: &str, ranks: u32, window_bytes: usize) -> Vec<UcxTransport> {
    let nets: Vec<Arc<Net>> = (0..ranks).map(|_| net(transports)).collect();
    let key = random::wide();
    let end = |rank: u32| {
        let cards = (0..).zip(&nets).map(|(peer, net)| (peer != rank).then(|| net.card())).collect();
        let place = Place { key, rank, cards, window_bytes, bell: Box::new(|| {}), pulse: Box::new(Calm) };
        UcxTransport::new(Arc::clone(&nets[rank as usize]), place).expect("a place")
    };
    (0..ranks).map(end).collect()
}

const TCP: &str = "self,tcp";
const NEAR: &str = "self,sm";

#[test]
fn conforms_in_one_thread_over_tcp() {
    for mut script in scripts(EAGER_BYTES) {
        script.to_self = false;
        run(ends(TCP, 2, WINDOW_BYTES_MIN), &script, ordinary);
    }
}

#[test]
fn conforms_in_threads_over_tcp() {
    for mut script in scripts(EAGER_BYTES) {
        script.to_self = false;
        run_threads(ends(TCP, 3, 4 << 20), &script, ordinary);
    }
}

#[test]
fn conforms_in_threads_over_shared_memory() {
    for mut script in scripts(EAGER_BYTES) {
        script.to_self = false;
        run_threads(ends(NEAR, 3, WINDOW_BYTES_MIN), &script, ordinary);
    }
}

/// Polls both until `is_done`.
fn until(ends: &mut [UcxTransport], mut is_done: impl FnMut(&mut [UcxTransport]) -> bool) {
    let _watchdog = crate::transport::conformance_tests::Watchdog::start();
    while !is_done(ends) {
        for end in ends.iter_mut() {
            let net = Arc::clone(&end.net);
            net.lock().progress();
        }
    }
}

fn send(end: &mut UcxTransport, peer: u32, byte: u8, bytes: usize) -> bool {
    let Some(room) = end.reserve(peer, bytes) else { return false };
    // SAFETY: `bytes` bytes were reserved.
    unsafe { room.write_bytes(byte, bytes) };
    end.publish(peer, Head { what: byte.into(), which: 0 });
    true
}

#[test]
fn pieces_of_a_packet_are_alike_and_cut_no_element() {
    for longest in [EAGER_BYTES, PIECE_BYTES] {
        for packet in [0, 1, 8, EAGER_BYTES + 8, 65536, 100_008, 4 << 20, (4 << 20) + 8, 123_456_789] {
            let each = piece_bytes(packet, longest);
            assert!(each <= longest.min(packet) && (packet <= each || each.is_multiple_of(64)), "{packet}");
            assert!(packet.div_ceil(each.max(1)) <= packet.div_ceil(longest), "{packet}: more than it takes");
        }
    }
}

#[test]
fn a_flooded_line_is_bounded_and_others_work() {
    let mut ends = ends(TCP, 3, WINDOW_BYTES_MIN);
    let mut sent = 0;
    while send(&mut ends[0], 1, 1, EAGER_BYTES) {
        sent += EAGER_BYTES;
        assert!(sent <= WINDOW_BYTES_MIN, "more than the window");
    }
    assert!(send(&mut ends[0], 2, 2, 100) && send(&mut ends[2], 0, 3, 100) && send(&mut ends[1], 0, 4, 100));
    until(&mut ends, |ends| {
        ends[2].front(0).unwrap().is_some()
            && ends[0].front(2).unwrap().is_some()
            && ends[0].front(1).unwrap().is_some()
    });
    assert!(!send(&mut ends[0], 1, 1, EAGER_BYTES));
    until(&mut ends, |ends| ends[1].front(0).unwrap().is_some());
    ends[1].finish(0);
    for _ in 0..4 {
        until(&mut ends, |ends| ends[1].front(0).unwrap().is_some());
        ends[1].finish(0);
    }
    until(&mut ends, |ends| send(&mut ends[0], 1, 1, EAGER_BYTES));
}

#[test]
fn what_lies_on_a_line_is_counted() {
    let mut ends = ends(NEAR, 2, WINDOW_BYTES_MIN);
    const EACH: u64 = EAGER_BYTES as u64;
    let empty = ends.iter_mut().map(|end| end.taken()).collect::<Vec<_>>();
    assert!(empty[1].lasting_bytes < 1000 && empty[1].spare_bytes == 0);
    let bounds = 4 * EACH..5 * EACH;
    {
        // Nobody fetches what is announced, so it waits at the sender.
        let net = Arc::clone(&ends[1].net);
        let _still = net.lock();
        (0..4).for_each(|_| assert!(send(&mut ends[0], 1, 1, EAGER_BYTES)));
        assert!(bounds.contains(&ends[0].taken().lasting_bytes));
    }
    // It comes, and waits at the receiver; what carried it waits for the next message.
    until(&mut ends, |ends| ends[1].taken().lasting_bytes >= 4 * EACH && !ends[0].net.lock().is_sending());
    assert!(bounds.contains(&ends[1].taken().lasting_bytes));
    assert!(ends[0].taken().lasting_bytes < EACH && bounds.contains(&ends[0].taken().spare_bytes));
    for left in (0..4).rev() {
        assert!(ends[1].front(0).unwrap().is_some());
        // What was begun counts as well.
        assert!(ends[1].taken().lasting_bytes >= (left + 1) * EACH);
        ends[1].finish(0);
        assert!(ends[1].taken().lasting_bytes < (left + 1) * EACH && ends[1].taken().spare_bytes >= EACH);
    }
    ends[1].rest();
    assert_eq!(ends[1].taken().spare_bytes, 0);
}

#[test]
fn endpoints_are_opened_for_those_that_are_talked_to() {
    let mut ends = ends(TCP, 4, WINDOW_BYTES_MIN);
    assert!(send(&mut ends[0], 2, 1, 8));
    until(&mut ends, |ends| ends[2].front(0).unwrap().is_some());
    let counts: Vec<usize> = ends.iter().map(|end| end.net.endpoint_count()).collect();
    assert_eq!((counts[0], counts[1], counts[3]), (1, 0, 0), "{counts:?}");
}

#[test]
fn who_leaves_and_who_fails_is_told_to_those_that_wait() {
    let mut ends = ends(TCP, 3, WINDOW_BYTES_MIN);
    assert!(send(&mut ends[1], 0, 5, 8));
    // Rank 0 waits for both; asking makes it known to rank 2, from which nothing came.
    for peer in [1, 2] {
        until(&mut ends, |ends| peer == 1 || ends[0].front(peer).unwrap().is_none());
        assert_eq!(ends[0].peer(peer), Peer::Alive);
    }
    until(&mut ends, |ends| ends[2].net.lock().member(0).used_line(0).is_some());
    ends[2].raise("it broke");
    until(&mut ends, |ends| ends[0].raised().is_some());
    assert_eq!(ends[0].raised(), Some((2, "it broke".into())));
    ends[2].leave(Peer::Aborted);
    until(&mut ends, |ends| ends[0].peer(2) == Peer::Aborted);
    // What was sent before it left can be read.
    std::thread::scope(|scope| {
        let (first, second) = ends.split_at_mut(1);
        scope.spawn(|| second[0].leave(Peer::Closed));
        while first[0].peer(1) != Peer::Closed {
            first[0].net.lock().progress();
        }
    });
    assert_eq!(ends[0].front(1).unwrap().map(|front| front.head.what), Some(5));
    // Who comes late is told as well.
    ends[2].net.lock().progress();
    assert!(send(&mut ends[0], 2, 1, 8));
}

#[test]
fn a_peer_whose_network_ends_is_dead_in_the_words_of_ucx() {
    let mut ends = ends(TCP, 2, WINDOW_BYTES_MIN);
    assert!(send(&mut ends[0], 1, 1, 8) && send(&mut ends[1], 0, 1, 8));
    until(&mut ends, |ends| ends[0].front(1).unwrap().is_some() && ends[1].front(0).unwrap().is_some());
    ends[0].finish(1);
    let mut gone = ends.pop().unwrap();
    // As if it was killed: nothing is said.
    gone.has_left = true;
    drop(gone);
    until(&mut ends, |ends| ends[0].peer(1) == Peer::Dead);
    let text = ends[0].front(1).unwrap_err().to_string();
    assert!(text.contains("UCX says: ") && text.contains("rank 1"), "{text}");
}
