//! Reductions of the host device by type, operator, instruction set and size, and its copies.
//!
//! `cargo bench --bench reduce -- f32` runs those whose names hold `f32`. The figures are bytes of one operand.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shoal::device::Device;
use shoal::device::host::{Host, Width};
use shoal::op::{Address, Combine, DataType};

/// One message, a chunk in the nearest cache, one beyond it, one beyond all caches.
const SIZES_BYTES: [usize; 4] = [64, 16 << 10, 1 << 20, 64 << 20];

/// What is reduced how. Of each kind of loop the cheapest and the dearest.
const CASES: [(DataType, Combine); 14] = [
    (DataType::Float32, Combine::Sum),
    (DataType::Float32, Combine::Max),
    (DataType::Float64, Combine::Sum),
    (DataType::Int8, Combine::Sum),
    (DataType::Uint8, Combine::Prod),
    (DataType::Int32, Combine::Sum),
    (DataType::Int64, Combine::Prod),
    (DataType::Uint64, Combine::Max),
    (DataType::Float16, Combine::Sum),
    (DataType::Float16, Combine::Max),
    (DataType::Bfloat16, Combine::Sum),
    (DataType::Bfloat16, Combine::Max),
    (DataType::Float8E4M3, Combine::Sum),
    (DataType::Float8E5M2, Combine::Max),
];

/// Two ranges of the largest size, filled with small numbers of no meaning.
struct Ranges([Vec<u8>; 2]);

impl Ranges {
    fn new() -> Ranges {
        let largest = SIZES_BYTES[SIZES_BYTES.len() - 1];
        // Bytes below 0x3c: in every float type these are numbers, and no sum of two overflows.
        Ranges([7, 11].map(|step| (0..largest).map(|at| (at * step % 0x3b) as u8).collect()))
    }

    fn addresses(&mut self) -> [Address; 2] {
        self.0.each_mut().map(|range| Address(range.as_mut_ptr().expose_provenance()))
    }
}

fn reductions(criterion: &mut Criterion) {
    let mut ranges = Ranges::new();
    let [operand, target] = ranges.addresses();
    for (data_type, combine) in CASES {
        let mut group = criterion.benchmark_group(format!("{} {combine:?}", data_type.name()));
        for bytes in SIZES_BYTES {
            group.throughput(Throughput::Bytes(bytes as u64));
            for width in Width::available() {
                group.bench_function(BenchmarkId::new(width.name(), bytes), |bencher| {
                    let count = bytes / data_type.size_bytes();
                    bencher.iter(|| {
                        // SAFETY: both ranges are as large as the largest size; the target is an operand.
                        unsafe {
                            width.reduce(combine, data_type, operand, target, target, black_box(count));
                        }
                    });
                });
            }
        }
    }
}

/// What a call costs when there is next to nothing to do.
fn calls(criterion: &mut Criterion) {
    let mut ranges = Ranges::new();
    let [operand, target] = ranges.addresses();
    let mut group = criterion.benchmark_group("call");
    for data_type in [DataType::Float32, DataType::Float16] {
        for count in [1, 2, 15] {
            group.bench_function(BenchmarkId::new(data_type.name(), count), |bencher| {
                bencher.iter(|| {
                    // SAFETY: all ranges hold as many elements.
                    unsafe {
                        let (combine, data_type) = black_box((Combine::Max, data_type));
                        // The target is apart, so that no call waits for the result of the one before.
                        let into = target.add(4096);
                        Host.reduce(combine, data_type, operand, target, into, black_box(count));
                    }
                });
            });
        }
    }
}

fn copies(criterion: &mut Criterion) {
    let mut ranges = Ranges::new();
    let [from, into] = ranges.addresses();
    let mut group = criterion.benchmark_group("copy");
    for bytes in [1, 8, 40].into_iter().chain(SIZES_BYTES) {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("plain", bytes), |bencher| {
            // SAFETY: two vectors as large as the largest size.
            bencher.iter(|| unsafe { Host.copy(from, into, black_box(bytes)) });
        });
        group.bench_function(BenchmarkId::new("streaming", bytes), |bencher| {
            // SAFETY: two vectors as large as the largest size.
            bencher.iter(|| unsafe { Host.copy_streaming(from, into, black_box(bytes)) });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(20))
        .measurement_time(Duration::from_millis(100))
        .without_plots();
    targets = calls, copies, reductions
}
criterion_main!(benches);
