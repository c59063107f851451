//! What a call costs before and after the wire: the C entry, a plan found again and a plan made, a birth.
//!
//! One rank has nobody to wait for, so its calls show the way from the C edge through group, cache and engine
//! and back, and nothing else. `cargo bench --bench path`; figures that were kept are in `benches/records/`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use shoal::comm::{Comm, Options, unique_id};
use shoal::group;
use shoal::op::{Address, DataType, Kind, Op, Reduction, Scalar, Shape};
use shoal::schedule::{self, Algorithm, Call};

/// Calls of one rank: a name, the operation, its elements.
const CALLS: &[(&str, Kind, usize)] =
    &[("allreduce of 2 floats", Kind::AllReduce, 2), ("allgather of 2 floats", Kind::AllGather, 2)];

/// Plans made anew: a name, the algorithm, the operation, its elements, the ranks.
const PLANS: &[(&str, Algorithm, Kind, usize, u32)] = &[
    ("allreduce, exchange, 2 ranks", Algorithm::Exchange, Kind::AllReduce, 2, 2),
    ("allreduce, pairwise, 8 ranks, 1 MiB", Algorithm::Pairwise, Kind::AllReduce, 1 << 18, 8),
    ("alltoall, pairwise, 256 ranks", Algorithm::Pairwise, Kind::AlltoAll, 64, 256),
];

fn alone() -> Arc<Comm> {
    let id = unique_id().expect("an id");
    Comm::init_rank(1, &id, 0, Options::default()).expect("one rank meets nobody")
}

fn op(kind: Kind, count: usize, source: &mut [f32], target: &mut [f32]) -> Op {
    Op {
        shape: Shape {
            count,
            peer: 0,
            kind,
            data_type: DataType::Float32,
            reduction: Reduction::Sum,
            in_place: false,
        },
        source: Address(source.as_mut_ptr().expose_provenance()),
        target: Address(target.as_mut_ptr().expose_provenance()),
        scalar: Scalar::None,
    }
}

fn calls(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("call");
    let comm = alone();
    let (mut source, mut target) = (vec![1.0; 64], vec![0.0; 64]);
    for (name, kind, count) in CALLS {
        let op = op(*kind, *count, &mut source, &mut target);
        bench.bench_function(*name, |bencher| {
            bencher.iter(|| group::submit("bench", &comm, 0, black_box(&op), None).expect("it runs"));
        });
    }
    let send = op(Kind::Send, 2, &mut source, &mut target);
    let receive = op(Kind::Recv, 2, &mut source, &mut target);
    bench.bench_function("group of 64 messages to oneself", |bencher| {
        bencher.iter(|| {
            group::start();
            for _ in 0..64 {
                group::submit("bench", &comm, 0, &send, None).expect("it is taken");
                group::submit("bench", &comm, 0, &receive, None).expect("it is taken");
            }
            group::end().expect("it runs");
        });
    });
    bench.finish();
    comm.destroy().expect("it ends");
}

fn plans(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("plan");
    for (name, algorithm, kind, count, ranks) in PLANS {
        let call = Call {
            kind: *kind,
            data_type: DataType::Float32,
            reduction: Reduction::Sum,
            root: 0,
            count: *count,
            ranks: *ranks,
            in_place: false,
        };
        bench.bench_function(*name, |bencher| {
            bencher.iter(|| schedule::plan(*algorithm, black_box(&call), 0).expect("it has a form"));
        });
    }
    bench.finish();
}

fn births(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("birth");
    bench.sample_size(10).measurement_time(Duration::from_secs(2));
    for ranks in [1u32, 2, 8] {
        bench.bench_function(format!("{ranks} ranks as threads"), |bencher| {
            bencher.iter(|| {
                let id = unique_id().expect("an id");
                std::thread::scope(|scope| {
                    for rank in 0..ranks {
                        let id = &id;
                        scope.spawn(move || {
                            let comm = Comm::init_rank(ranks, id, rank, Options::default());
                            comm.expect("they meet").destroy().expect("they part");
                        });
                    }
                });
            });
        });
    }
    bench.finish();
}

criterion_group!(benches, calls, plans, births);
criterion_main!(benches);
