//! Shared memory against the conformance suite, on every path; hostile hands; processes and their deaths.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ring::RingMemory;
use super::*;
use crate::system::{attach, memory};
use crate::transport::conformance_tests::{self as conformance, Player, Script, Source, ordinary};

const ALL: Settings = Settings { direct: true, mapped: true, attach: true, bulk_bytes: 0 };
const RING_ONLY: Settings = Settings { direct: false, mapped: false, attach: false, bulk_bytes: usize::MAX };
const REFUSED: Settings = Settings { bulk_bytes: 0, ..RING_ONLY };
const ATTACHED: Settings = Settings { attach: true, ..REFUSED };
const MAPPED: Settings = Settings { mapped: true, ..REFUSED };

/// Ends that share one object, as threads of a process do.
fn together(ranks: u32, ring_bytes: usize, settings: Settings) -> Vec<ShmTransport> {
    let segment = Segment::create(ranks, ring_bytes).expect("memory");
    (0..ranks).map(|rank| ShmTransport::new(Arc::clone(&segment), rank, settings).expect("free")).collect()
}

/// Ends that map the segment each for itself, as processes do.
fn apart(ranks: u32, ring_bytes: usize, settings: Settings) -> Vec<ShmTransport> {
    let segment = Segment::create(ranks, ring_bytes).expect("memory");
    (0..ranks).map(|rank| ShmTransport::new(segment.mapped_again(), rank, settings).expect("free")).collect()
}

/// Memory that peers can map.
struct Allocated(Address);

impl Source for Allocated {
    fn start(&mut self) -> *mut u8 {
        self.0.0 as *mut u8
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        memory::free(self.0).expect("ours");
    }
}

fn allocated(bytes: usize) -> Box<dyn Source> {
    Box::new(Allocated(memory::allocate(bytes).expect("memory")))
}

fn all_scripts(ring_bytes: usize) -> Vec<Script> {
    conformance::scripts(ring_bytes / 8)
}

#[test]
fn conforms_within_a_process() {
    for script in all_scripts(16384) {
        let ends = conformance::run(together(3, 16384, ALL), &script, ordinary);
        let direct: u64 = ends.iter().map(|end| end.bulk_counts(0).direct).sum();
        let bulk = script.counts.iter().any(|count| count * script.element_bytes > 2048);
        assert_eq!(direct > 0, bulk);
        conformance::run_threads(together(3, 16384, ALL), &script, ordinary);
    }
}

#[test]
fn conforms_through_the_ring_alone() {
    for ring_bytes in [8192, 65536] {
        for script in all_scripts(ring_bytes) {
            for settings in [RING_ONLY, REFUSED] {
                conformance::run(apart(2, ring_bytes, settings), &script, ordinary);
                conformance::run_threads(apart(2, ring_bytes, settings), &script, ordinary);
            }
        }
    }
}

#[test]
fn conforms_attached() {
    for script in all_scripts(8192) {
        let mut ends = conformance::run(apart(2, 8192, ATTACHED), &script, ordinary);
        if ends[0].probe(1).is_ok() {
            let counts = ends[0].bulk_counts(1);
            // What is viewed comes through the ring, on demand.
            assert_eq!((counts.direct, counts.mapped), (0, 0));
            assert!(counts.streamed <= counts.attached);
        }
        conformance::run_threads(apart(2, 8192, ATTACHED), &script, ordinary);
    }
}

#[test]
fn conforms_mapped() {
    for script in all_scripts(8192) {
        let ends = conformance::run(apart(2, 8192, MAPPED), &script, allocated);
        let counts = ends[0].bulk_counts(1);
        assert_eq!((counts.streamed, counts.direct, counts.attached), (0, 0, 0));
        conformance::run_threads(apart(2, 8192, MAPPED), &script, allocated);
        // Not to be had by the receiver: streamed after all.
        let mut mixed = apart(2, 8192, MAPPED);
        mixed[0].here.settings = REFUSED;
        conformance::run(mixed, &script, allocated);
    }
}

#[test]
fn sides_may_have_different_settings() {
    let each = [ALL, RING_ONLY, REFUSED, ATTACHED, MAPPED];
    for script in all_scripts(8192).iter().skip(3) {
        let mut ends = together(5, 8192, ALL);
        for (end, settings) in ends.iter_mut().zip(each) {
            end.here.settings = settings;
        }
        conformance::run_threads(ends, script, allocated);
    }
}

#[test]
fn conforms_with_any_number_of_ranks() {
    let script = Script { counts: vec![5, 3000, 40, 20_000, 1], element_bytes: 1, seed: 9, to_self: true };
    for ranks in [1, 2, 4, 5, 9] {
        conformance::run_threads(apart(ranks, 8192, ALL), &script, ordinary);
        conformance::run_threads(apart(ranks, 8192, ATTACHED), &script, ordinary);
    }
}

#[test]
fn a_full_line_takes_no_more_and_recovers() {
    let mut ends = together(2, 8192, RING_ONLY);
    for bytes in [0, 40, 41, 1024] {
        let mut sent = 0;
        while let Some(place) = ends[0].reserve(1, bytes) {
            // SAFETY: `bytes` were reserved.
            unsafe { place.write_bytes(bytes as u8, bytes) };
            ends[0].publish(1, Head { what: bytes as u64, which: sent });
            sent += 1;
        }
        // A shrunken credit is less than a quarter.
        assert!(sent * 4 > if bytes > 40 { 2 * 8192 / 1024 } else { 2 * 16 }, "{sent} of {bytes}");
        assert!(ends[0].reserve(1, 2000).is_none());
        for which in 0..sent {
            let front = ends[1].front(0).expect("in order").expect("there");
            assert_eq!(front.head, Head { what: bytes as u64, which });
            assert!(ends[1].view(0, bytes.max(1)).expect("there").iter().all(|byte| *byte == bytes as u8));
            ends[1].consume(0, bytes);
            ends[1].finish(0);
        }
        assert_eq!(ends[1].front(0), Ok(None));
    }
}

#[test]
fn a_sender_that_stood_still_does_not_write_what_was_given_up() {
    const BYTES: usize = 1 << 20;
    let _watchdog = conformance::Watchdog::start();
    let mut ends = apart(2, 8192, ATTACHED);
    if ends[0].probe(1).is_err() {
        // Nobody helps where the kernel forbids it.
        return;
    }
    let (source, mut target) = (vec![1_u8; BYTES], vec![0_u8; BYTES]);
    let from = Address(source.as_ptr().expose_provenance());
    let into = Address(target.as_mut_ptr().expose_provenance());
    // SAFETY: the source lives until the transport is dropped.
    assert!(unsafe { ends[0].begin_bulk(1, Head::default(), from, BYTES) });
    ends[1].front(0).expect("in order").expect("there");
    // SAFETY: the target has as many bytes, and lives until the receiver is dropped and longer.
    let read = unsafe { ends[1].read_into(0, into, BYTES) }.expect("in order");
    let (ring, cut) = (ends[0].here.segment.ring(0, 1).expect("mapped"), help::Cut::new(BYTES));
    let claimed = help::claim(&ring, 1, cut.count, help::Side::Back).expect("honest claims");
    let (chunk, permit) = (cut.chunk(claimed.expect("one is left")), ring.help(help::Help::Permit));
    // Now it is stopped, and the receiver aborts.
    let start = Instant::now();
    drop(ends.pop());
    assert!(start.elapsed() < Duration::from_secs(10));
    let pid = i32::try_from(std::process::id()).expect("small");
    let late = into.add(chunk.start).0 as u64;
    // SAFETY: the chunk lies within the source.
    let written = unsafe { attach::write(pid, permit, source.as_ptr().add(chunk.start), late, chunk.len()) };
    assert!(written.is_err());
    assert!(read < BYTES && target[read..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_leaving_sender_fails_what_it_offered() {
    let _watchdog = conformance::Watchdog::start();
    for settings in [ALL, ATTACHED, MAPPED, RING_ONLY] {
        let mut ends = apart(2, 8192, settings);
        let source = memory::allocate(100_000).expect("memory");
        // SAFETY: the source lives until the transport is dropped.
        assert!(unsafe { ends[0].begin_bulk(1, Head::default(), source, 100_000) });
        let _ = ends[0].poll_bulk(1).expect("in order");
        ends[1].front(0).expect("in order").expect("there");
        let mut taken = ends[1].view(0, 8).map(<[u8]>::len).expect("in order");
        ends[1].consume(0, taken);
        ends[0].doorbell().abort();
        ends.remove(0);
        memory::free(source).expect("ours");
        let start = Instant::now();
        let mut rest = Ok(1);
        while matches!(rest, Ok(bytes) if bytes > 0) {
            rest = ends[0].view(0, 1 << 20).map(<[u8]>::len);
            if let Ok(bytes) = rest {
                ends[0].consume(0, bytes);
                taken += bytes;
            }
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(ends[0].peer(0), Peer::Aborted);
        // What was in the ring or had been fetched before still comes.
        assert!(rest.is_err() || taken < 100_000 || settings == ATTACHED, "{rest:?}");
    }
}

#[test]
fn places_are_taken_once_and_states_are_told() {
    let segment = Segment::create(3, 8192).expect("memory");
    let mut zero = ShmTransport::new(Arc::clone(&segment), 0, ALL).expect("free");
    assert!(ShmTransport::new(Arc::clone(&segment), 0, ALL).is_err());
    assert!(ShmTransport::new(Arc::clone(&segment), 3, ALL).is_err());
    assert_eq!(zero.peer(1), Peer::Alive);
    let one = ShmTransport::new(Arc::clone(&segment), 1, ALL).expect("free");
    assert_eq!(zero.peer(1), Peer::Alive);
    drop(one);
    assert_eq!(zero.peer(1), Peer::Closed);
    let two = ShmTransport::new(segment, 2, ALL).expect("free");
    two.doorbell().abort();
    assert_eq!(zero.peer(2), Peer::Aborted);
    drop(two);
    assert_eq!(zero.peer(2), Peer::Aborted);
}

#[test]
fn what_a_peer_freed_is_unmapped() {
    let mut ends = apart(2, 8192, MAPPED);
    let source = memory::allocate(5000).expect("memory");
    // SAFETY: the source lives until the packet was read.
    assert!(unsafe { ends[0].begin_bulk(1, Head::default(), source, 5000) });
    ends[1].front(0).expect("in order").expect("there");
    assert_eq!(ends[1].view(0, 5000).map(<[u8]>::len), Ok(5000));
    memory::free(source).expect("ours");
    ends[1].forget_freed();
    // The view's mapping stays while it is read.
    assert!(ends[1].view(0, 5000).expect("still there").iter().all(|byte| *byte == 0));
    assert_eq!(ends[1].edges[0].incoming.seen_count(), 1);
    ends[1].consume(0, 5000);
    ends[1].finish(0);
    ends[1].forget_freed();
    assert_eq!(ends[1].edges[0].incoming.seen_count(), 0);
}

#[test]
fn bulk_packets_may_be_short_or_empty() {
    for settings in [ALL, RING_ONLY, REFUSED, ATTACHED, MAPPED] {
        let mut ends = together(2, 8192, settings);
        for bytes in [0_usize, 1, 41, 1024, 0, 3] {
            let source = vec![7_u8; bytes];
            let head = Head { what: bytes as u64, which: 3 };
            // SAFETY: the source lives until the transport is done with it, which is waited for below.
            assert!(unsafe { ends[0].begin_bulk(1, head, Address(source.as_ptr() as usize), bytes) });
            assert!(ends[0].reserve(1, 8).is_none() || bytes == 0 || settings.bulk_bytes > 0);
            let (mut read, mut done) = (0, false);
            for _ in 0..20 {
                done |= ends[0].poll_bulk(1) == Ok(Bulk::Done);
                let front = ends[1].front(0).expect("in order").expect("there");
                assert_eq!(front, Front { head, bytes });
                let view = ends[1].view(0, 1000).expect("in order");
                assert!(view.iter().all(|byte| *byte == 7));
                let seen = view.len();
                ends[1].consume(0, seen);
                read += seen;
            }
            assert_eq!((read, done), (bytes, true), "{settings:?}");
            ends[1].finish(0);
            assert_eq!(ends[1].front(0), Ok(None));
        }
    }
}

#[test]
fn a_child_that_drops_what_it_inherited_changes_nothing() {
    let mut ends = apart(2, 8192, ALL);
    // SAFETY: the child only drops and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        ends.clear();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let mut status = 1;
    // SAFETY: `child` is our child and `status` a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!((ends[0].peer(1), ends[1].peer(0)), (Peer::Alive, Peer::Alive));
}

#[test]
fn only_used_rings_are_mapped() {
    let mut ends = together(8, 131_072, ALL);
    let before = ends[0].mapped_bytes();
    assert!(ends[0].reserve(1, 8).is_some());
    let one = ends[0].mapped_bytes() - before;
    assert_eq!(one, ends[0].segment().shape().data_bytes as usize + 4096 + 256 * 64);
    assert_eq!(ends[1].front(0), Ok(None));
    assert_eq!(ends[1].mapped_bytes() - before, one);
}

/// Two ranks that hand a packet to and fro and sleep in between, so that each wake counts.
#[test]
fn sleepers_are_woken() {
    let ends = apart(2, 8192, ALL);
    let _watchdog = conformance::Watchdog::start();
    let lost = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (rank, mut end) in (0..).zip(ends) {
            let lost = &lost;
            scope.spawn(move || {
                let (peer, bell) = (1 - rank, end.doorbell());
                for turn in 0..600_u64 {
                    if turn % 2 == u64::from(rank) {
                        end.reserve(peer, 0).expect("room");
                        end.publish(peer, Head { what: turn, which: 0 });
                        continue;
                    }
                    while end.front(peer).expect("in order").is_none() {
                        let (start, limit) = (Instant::now(), Duration::from_secs(5));
                        sleep_unless(&[&bell], limit, || end.front(peer) != Ok(None));
                        if start.elapsed() >= limit {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    end.finish(peer);
                }
            });
        }
    });
    assert_eq!(lost.into_inner(), 0);
}

/// Whatever is written into the segment: nothing is touched that is not ours, and nothing hangs.
#[test]
fn hostile_hands_do_no_harm() {
    let _watchdog = conformance::Watchdog::start();
    let scripts = all_scripts(8192);
    for seed in 0..200_u64 {
        let settings = [ALL, RING_ONLY, REFUSED, ATTACHED, MAPPED][seed as usize % 5];
        let segment = Segment::create(2, 8192).expect("memory");
        let bytes = crate::system::memfd::sealed_bytes(segment.file()).expect("sealed") as usize;
        let all = crate::system::map::Mapping::shared(segment.file(), 0, bytes, true).expect("mapped");
        let script = &scripts[seed as usize % scripts.len()];
        let mut players: Vec<_> = (0..2)
            .map(|rank| {
                let end = ShmTransport::new(Arc::clone(&segment), rank, settings).expect("free");
                let mut player = Player::new(end, rank, 2, script, ordinary);
                player.compares = false;
                player
            })
            .collect();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..400 {
            for player in &mut players {
                let _ = player.poll();
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly in the control areas, or in a ring's credit and slots; seldom in data.
            let near = [4096, 8192, 8192 + 12288, 8192 + 2 * 12288, 8192 + 3 * 12288];
            let place = (state >> 20) as usize;
            let word = match state >> 60 {
                0 => place % (all.bytes() / 8 - 512) + 512,
                1 => near[0] / 8 + place % 64,
                _ => near[1 + place % 4] / 8 + place / 4 % 144,
            };
            // What attracts trouble: small changes, large numbers, anything.
            let value = match state % 4 {
                0 => state >> 56,
                1 => u64::MAX - (state >> 60),
                2 => 1 << (state >> 58),
                _ => state,
            };
            // SAFETY: the word lies in the mapping, aligned; others access it as an atomic too.
            let place = unsafe { &*all.start().add(word * 8).cast::<AtomicU64>() };
            let value = if state >> 40 & 1 == 0 { value } else { place.load(Ordering::Relaxed) ^ value };
            place.store(value, Ordering::Relaxed);
        }
    }
}

/// Not a test by itself: what a rank in a process of its own does, told over standard input.
#[test]
#[ignore = "started by other tests, as a process of its own"]
fn a_rank_elsewhere() {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let [task, rank, invitation] = words[..] else { return };
    let rank: u32 = rank.parse().expect("a rank");
    let bytes: Vec<u8> = (0..Invitation::BYTES)
        .map(|at| u8::from_str_radix(&invitation[2 * at..2 * at + 2], 16).expect("two digits"))
        .collect();
    let invitation = Invitation::from_bytes(&bytes.try_into().expect("as long as it is"));
    let deadline = Instant::now() + Duration::from_secs(20);
    let (segment, _) = Segment::join(&invitation, deadline).expect("joined");
    let ranks = segment.ranks();
    let end = ShmTransport::new(segment, rank, ALL).expect("free");
    match task {
        "play" => {
            let make = if rank.is_multiple_of(2) { ordinary } else { allocated };
            let mut player = Player::new(end, rank, ranks, &elsewhere_script(), make);
            conformance::play(&mut player);
            println!("\nplayed");
            // Stays until the others have read what it sent.
            std::io::stdin().lock().read_line(&mut line).expect("the end");
        }
        _ => {
            // SAFETY: the child does nothing but wait and end.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: neither touches memory.
                unsafe {
                    libc::sleep(30);
                    libc::_exit(0);
                }
            }
            println!("\nforked {child}");
            std::thread::sleep(Duration::from_secs(30));
        }
    }
}

fn elsewhere_script() -> Script {
    Script { counts: vec![1, 60_000, 8, 3000, 0, 200_001, 16384], element_bytes: 4, seed: 5, to_self: false }
}

fn elsewhere(task: &str, rank: u32, invitation: Invitation) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "transport::shm::tests::a_rank_elsewhere", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let hex: String = invitation.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(child.stdin.as_mut().expect("piped"), "{task} {rank} {hex}").expect("told");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    (child, output)
}

/// The line that starts with `word`.
fn line_with(output: &mut impl BufRead, word: &str) -> String {
    let mut lines = output.lines().map(|line| line.expect("text"));
    lines.find(|line| line.starts_with(word)).expect("said before it ended")
}

#[test]
fn conforms_between_processes() {
    let _watchdog = conformance::Watchdog::start();
    let segment = Segment::create(4, 131_072).expect("memory");
    let host = Host::open(&segment, false).expect("a host");
    let mut others: Vec<_> = (2..4).map(|rank| elsewhere("play", rank, host.invitation())).collect();
    let ends: Vec<_> =
        (0..2).map(|rank| ShmTransport::new(Arc::clone(&segment), rank, ALL).expect("free")).collect();
    let script = elsewhere_script();
    let ends: Vec<ShmTransport> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(ends)
            .map(|(rank, end)| {
                let script = &script;
                scope.spawn(move || {
                    let mut player = Player::new(end, rank, 4, script, ordinary);
                    conformance::play(&mut player);
                    player.transport
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("played")).collect()
    });
    for (child, output) in &mut others {
        line_with(output, "played");
        drop(child.stdin.take());
        assert!(child.wait().expect("ended").success());
    }
    for mut end in ends {
        assert_eq!(end.peer(2), Peer::Closed);
        // What rank 3 sends is memory that can be mapped; that of rank 2 is not.
        let (two, three) = (end.bulk_counts(2), end.bulk_counts(3));
        assert!(three.mapped > 0 || three.streamed + three.attached > 0);
        assert!(end.probe(2).is_err() || two.attached > 0);
    }
}

#[test]
fn a_killed_peer_is_dead_though_its_child_lives() {
    let _watchdog = conformance::Watchdog::start();
    let segment = Segment::create(2, 8192).expect("memory");
    let host = Host::open(&segment, false).expect("a host");
    let mut end = ShmTransport::new(segment, 0, ALL).expect("free");
    let (mut child, mut output) = elsewhere("fork", 1, host.invitation());
    let line = line_with(&mut output, "forked");
    assert_eq!(end.peer(1), Peer::Alive);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let start = Instant::now();
    while end.peer(1) == Peer::Alive {
        assert!(start.elapsed() < Duration::from_secs(2), "not seen");
        std::thread::yield_now();
    }
    assert_eq!(end.peer(1), Peer::Dead);
    let orphan: i32 = line.trim_start_matches("forked ").parse().expect("a number");
    // SAFETY: a signal to the process that the child said it had started. Its being there shows the case.
    assert_eq!(unsafe { libc::kill(orphan, libc::SIGKILL) }, 0);
}

#[test]
fn nothing_has_a_name() {
    let _ends = together(2, 8192, ALL);
    let named = std::fs::read_dir("/dev/shm").map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("shoal")).count()
    });
    assert_eq!(named, 0);
}
