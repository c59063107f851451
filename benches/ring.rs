//! What a packet costs: to and fro between two threads, and many one way, by size and by path.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shoal::op::Address;
use shoal::system::wait::{Pause, Waiter};
use shoal::transport::shm::{Segment, Settings, ShmTransport};
use shoal::transport::{Bulk, Head, Transport};

const RING: Settings = Settings { direct: false, mapped: false, attach: false, bulk_bytes: usize::MAX };
const ATTACHED: Settings = Settings { attach: true, bulk_bytes: 0, ..RING };
const DIRECT: Settings = Settings { direct: true, ..RING };

fn pair(settings: Settings) -> (ShmTransport, ShmTransport) {
    let segment = Segment::create(2, 131_072).expect("memory");
    let end = |rank| ShmTransport::new(Arc::clone(&segment), rank, settings).expect("free");
    (end(0), end(1))
}

/// Waits a moment, and lets others run where cores are scarce.
fn pause(waiter: &mut Waiter) {
    if waiter.pause() != Pause::Again {
        waiter.reset();
    }
}

fn waiter() -> Waiter {
    Waiter::new(2000)
}

fn send(end: &mut ShmTransport, peer: u32, source: &[u8]) {
    if source.len() <= end.eager_bytes(peer) {
        let mut waiter = waiter();
        let place = loop {
            match end.reserve(peer, source.len()) {
                Some(place) => break place,
                None => pause(&mut waiter),
            }
        };
        // SAFETY: as many bytes were reserved.
        unsafe { place.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        return end.publish(peer, Head::default());
    }
    // SAFETY: the source outlives the loop below, which ends when the transport is done with it.
    unsafe {
        while !end.begin_bulk(peer, Head::default(), Address(source.as_ptr() as usize), source.len()) {}
    }
    let mut waiter = waiter();
    loop {
        match end.poll_bulk(peer).expect("in order") {
            Bulk::Done => return,
            Bulk::Moving => waiter.reset(),
            Bulk::Waiting => pause(&mut waiter),
        }
    }
}

/// False if `stop` came first.
fn receive(end: &mut ShmTransport, peer: u32, target: &mut [u8], stop: &AtomicBool) -> bool {
    let mut waiter = waiter();
    while end.front(peer).expect("in order").is_none() {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        pause(&mut waiter);
    }
    let mut at = 0;
    while at < target.len() {
        let place = Address(target.as_mut_ptr() as usize + at);
        // SAFETY: the rest of the target is writable.
        match unsafe { end.read_into(peer, place, target.len() - at) }.expect("in order") {
            0 => pause(&mut waiter),
            got => at += got,
        }
    }
    end.finish(peer);
    true
}

/// The time of `turns` packets to the other thread, each answered by one of `answer_bytes`, every `every`.
fn time(settings: Settings, bytes: usize, every: u64, turns: u64) -> Duration {
    let (mut here, mut there) = pair(settings);
    let stop = AtomicBool::new(false);
    let answer_bytes = if every == 1 { bytes } else { 0 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut target, answer) = (vec![1_u8; bytes], vec![1_u8; answer_bytes]);
            for turn in 1.. {
                if !receive(&mut there, 0, &mut target, &stop) {
                    return;
                }
                if turn % every == 0 {
                    send(&mut there, 0, &answer);
                }
            }
        });
        let (source, mut target) = (vec![2_u8; bytes], vec![2_u8; answer_bytes]);
        let start = Instant::now();
        for turn in 1..=turns * every {
            send(&mut here, 1, black_box(&source));
            if turn % every == 0 {
                receive(&mut here, 1, &mut target, &stop);
            }
        }
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        elapsed
    })
}

/// The time of `turns` times 64 packets that one thread sends and then takes: what our instructions cost.
fn time_alone(bytes: usize, turns: u64) -> Duration {
    let (mut here, mut there) = pair(RING);
    let (source, mut target, stop) = (vec![2_u8; bytes], vec![2_u8; bytes], AtomicBool::new(false));
    let start = Instant::now();
    for _ in 0..turns {
        for _ in 0..8 {
            for _ in 0..8 {
                send(&mut here, 1, black_box(&source));
            }
            for _ in 0..8 {
                receive(&mut there, 0, &mut target, &stop);
            }
        }
    }
    start.elapsed()
}

fn ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one way of two");
    let paths = [("ring", RING), ("attached", ATTACHED), ("direct", DIRECT)];
    for (name, settings) in paths {
        for bytes in [8, 64, 1024, 4096, 16384, 32768, 65536, 1 << 20, 4 << 20] {
            if bytes > 16384 || name == "ring" {
                group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                    bencher.iter_custom(|turns| time(settings, bytes, 1, turns) / 2);
                });
            }
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("alone");
    for bytes in [0, 8, 40, 64, 512, 4096] {
        group.bench_function(BenchmarkId::new("ring", bytes), |bencher| {
            bencher.iter_custom(|turns| time_alone(bytes, turns) / 64);
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("each of 64");
    for bytes in [8, 64, 512, 4096] {
        group.bench_function(BenchmarkId::new("ring", bytes), |bencher| {
            bencher.iter_custom(|turns| time(RING, bytes, 64, turns) / 64);
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    targets = ring
}
criterion_main!(benches);
