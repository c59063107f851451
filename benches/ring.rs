//! What a packet costs: to and fro between two threads, and many one way, by size and by path.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shoal::op::Address;
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

fn send(end: &mut ShmTransport, peer: u32, source: &[u8]) {
    if source.len() <= end.eager_bytes(peer) {
        let place = loop {
            match end.reserve(peer, source.len()) {
                Some(place) => break place,
                None => std::thread::yield_now(),
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
    while end.poll_bulk(peer).expect("in order") != Bulk::Done {
        std::hint::spin_loop();
    }
}

/// False if `stop` came first.
fn receive(end: &mut ShmTransport, peer: u32, target: &mut [u8], stop: &AtomicBool) -> bool {
    while end.front(peer).expect("in order").is_none() {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::hint::spin_loop();
    }
    let mut at = 0;
    while at < target.len() {
        let place = Address(target.as_mut_ptr() as usize + at);
        // SAFETY: the rest of the target is writable.
        at += unsafe { end.read_into(peer, place, target.len() - at) }.expect("in order");
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
