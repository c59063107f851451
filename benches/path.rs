//! What a call costs before and after the wire: the C entry, a plan found again and a plan made, a birth.
//!
//! One rank has nobody to wait for, so its calls show the way from the C edge through group, cache and engine
//! and back, and nothing else. `cargo bench --bench path`; `make bench-criterion` keeps the figures in `benches/records/`.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use shoal::comm::{Comm, Options, unique_id};
use shoal::group;
use shoal::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};
use shoal::schedule::{self, Algorithm, Call, Hosts};
use shoal::tune::predict::call_of;
use shoal::tune::table::Choices;
use shoal::tune::{self, Facts};

/// Calls of one rank: a name, the operation, its elements.
const CALLS: &[(&str, Kind, usize)] = &[
    ("allreduce of nothing", Kind::AllReduce, 0),
    ("allreduce of 2 floats", Kind::AllReduce, 2),
    ("allgather of 2 floats", Kind::AllGather, 2),
];

/// What makes shapes differ.
const TYPES: &[DataType] = &[
    DataType::Int8,
    DataType::Int32,
    DataType::Int64,
    DataType::Float16,
    DataType::Float32,
    DataType::Float64,
];
const REDUCTIONS: [Reduction; 4] = [Reduction::Sum, Reduction::Prod, Reduction::Max, Reduction::Min];

/// Elements of an allreduce through the C interface: a name and how many.
const ENTRIES: &[(&str, usize)] = &[("allreduce of nothing", 0), ("allreduce of 2 floats", 2)];

unsafe extern "C" {
    fn pncclGetVersion(version: *mut c_int) -> c_int;
    fn pncclCommInitAll(comms: *mut *mut c_void, ranks: c_int, devices: *const c_int) -> c_int;
    fn pncclCommDestroy(comm: *mut c_void) -> c_int;
    fn pncclAllReduce(
        source: *const c_void,
        target: *mut c_void,
        count: usize,
        data_type: c_int,
        operator: c_int,
        comm: *mut c_void,
        stream: *mut c_void,
    ) -> c_int;
}

/// Plans made anew: a name, the algorithm, the operation, its elements, the ranks.
const PLANS: &[(&str, Algorithm, Kind, usize, u32)] = &[
    ("allreduce, exchange, 2 ranks", Algorithm::Exchange, Kind::AllReduce, 2, 2),
    ("allreduce, pairwise, 8 ranks, 1 MiB", Algorithm::Pairwise, Kind::AllReduce, 1 << 18, 8),
    ("alltoall, pairwise, 256 ranks", Algorithm::Pairwise, Kind::AlltoAll, 64, 256),
    ("alltoall, pairwise, 1024 ranks", Algorithm::Pairwise, Kind::AlltoAll, 64, 1024),
    ("alltoall, bruck, 1024 ranks", Algorithm::Bruck, Kind::AlltoAll, 2, 1024),
    ("allgather, pat, 1024 ranks", Algorithm::Pat, Kind::AllGather, 2, 1024),
    ("allreduce, ring, 1024 ranks, 16 MiB", Algorithm::Ring, Kind::AllReduce, 1 << 22, 1024),
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
            manner: Manner::PLAIN,
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
    // What differs from the first line: plans that are found by their shape, not as the one of the call before.
    let nothing = op(Kind::AllReduce, 0, &mut source, &mut target);
    let shapes: Vec<Op> = TYPES
        .iter()
        .flat_map(|data_type| {
            REDUCTIONS.map(|reduction| Shape { data_type: *data_type, reduction, ..nothing.shape })
        })
        .map(|shape| Op { shape, ..nothing })
        .collect();
    let mut turn = shapes.iter().cycle();
    bench.bench_function("allreduces of nothing, 24 shapes in turn", |bencher| {
        bencher.iter(|| {
            let next = turn.next().expect("there are 24");
            group::submit("bench", &comm, 0, black_box(next), None).expect("it runs");
        });
    });
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

/// The same from C: what the border adds.
fn entries(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("abi");
    let mut version = 0;
    bench.bench_function("a call that does nothing", |bencher| {
        // SAFETY: the library writes one int.
        bencher.iter(|| unsafe { pncclGetVersion(black_box(&raw mut version)) });
    });
    let mut comm = null_mut();
    // SAFETY: the library writes one handle; no list of devices is wanted.
    assert_eq!(unsafe { pncclCommInitAll(&raw mut comm, 1, std::ptr::null()) }, 0);
    let (source, mut target) = ([1.0_f32; 2], [0.0_f32; 2]);
    for (name, count) in ENTRIES {
        bench.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let (from, to) = (source.as_ptr().cast(), target.as_mut_ptr().cast());
                let float = DataType::Float32 as c_int;
                // SAFETY: both arrays hold as many floats, and the NULL stream means that the call is done.
                let code = unsafe { pncclAllReduce(from, to, black_box(*count), float, 0, comm, null_mut()) };
                assert_eq!(code, 0);
            });
        });
    }
    bench.finish();
    // SAFETY: the handle came from init and is given back once.
    assert_eq!(unsafe { pncclCommDestroy(comm) }, 0);
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
            bencher.iter(|| {
                schedule::plan(*algorithm, black_box(&call), 0, &Hosts::one()).expect("it has a form")
            });
        });
    }
    bench.finish();
}

/// The first plan of every form, for 1,024 ranks on hosts of 8 and 16 MiB in all: the longest plans that are usual.
fn first_plans(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("first plan of 1024 ranks");
    bench
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(150));
    let hosts = Hosts::of((0..1024).map(|rank| rank / 8).collect());
    for algorithm in Algorithm::ALL {
        for kind in Kind::ALL.into_iter().filter(|kind| algorithm.serves(*kind)) {
            let call = call_of(kind, 16 << 20, DataType::Float32, 1024);
            bench.bench_function(format!("{}, {}", kind.name(), algorithm.name()), |bencher| {
                bencher
                    .iter(|| schedule::plan(algorithm, black_box(&call), 0, &hosts).expect("it has a form"));
            });
        }
    }
    bench.finish();
}

/// Of what a new shape of a call costs the part that decides.
fn choices(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("choice");
    for ranks in [2u32, 8, 1024] {
        let facts = Facts {
            ranks,
            ranks_per_host: ranks,
            cores: 2,
            hosts: Hosts::one(),
            is_deterministic: false,
            choices: Choices::default(),
        };
        let facts = facts.with_table(None);
        let call = call_of(Kind::AllReduce, 1 << 20, DataType::Float32, ranks);
        bench.bench_function(format!("{ranks} ranks"), |bencher| {
            bencher.iter(|| tune::choose(black_box(&call), &facts, ""));
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

criterion_group!(benches, calls, entries, plans, first_plans, choices, births);
criterion_main!(benches);
