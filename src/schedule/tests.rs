//! All algorithms, by the thousand: proved by the checker, and run on bytes by the naive executor.

mod counts;
mod mutants;
mod sweep;

use super::check::check;
use super::naive::{Arithmetic, Random, World};
use super::{Algorithm, Call, Hosts, Plan, plan_in_pieces};
use crate::op::{DataType, Kind, Reduction};

/// Which ranks work in place.
#[derive(Clone, Copy, Debug)]
enum InPlace {
    None,
    All,
    Some,
}

/// One set of plans, by all that decides it.
#[derive(Clone, Copy, Debug)]
struct Case {
    algorithm: Algorithm,
    call: Call,
    in_place: InPlace,
    piece_bytes: usize,
    shape: Shape,
}

/// How ranks lie on hosts.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// All on one.
    One,
    /// So many on each, the rest on the last.
    Blocks(u32),
    /// Dealt to so many hosts in turns.
    Dealt(u32),
    /// One rank on the first, two on the second, and so on.
    Growing,
    /// At random.
    Wild(u64),
}

const SHAPES: [Shape; 8] = [
    Shape::One,
    Shape::Blocks(1),
    Shape::Blocks(2),
    Shape::Blocks(4),
    Shape::Blocks(8),
    Shape::Dealt(3),
    Shape::Growing,
    Shape::Wild(1),
];

impl Shape {
    fn hosts(self, ranks: u32) -> Hosts {
        let of = |host: &dyn Fn(u32) -> u32| Hosts::of((0..ranks).map(host).collect());
        match self {
            Shape::One => Hosts::one(),
            Shape::Blocks(size) => of(&|rank| (rank / size).min((ranks / size).max(1) - 1)),
            Shape::Dealt(count) => of(&|rank| rank % count),
            Shape::Growing => of(&|rank| (8 * rank + 1).isqrt().div_ceil(2)),
            Shape::Wild(seed) => {
                let mut random = Random(seed + u64::from(ranks));
                Hosts::of((0..ranks).map(|_| random.below(1 + ranks as usize / 3) as u32).collect())
            }
        }
    }
}

impl Case {
    fn build(&self) -> (Vec<Call>, Vec<Plan>) {
        let in_place = |rank: u32| match self.in_place {
            InPlace::None => false,
            InPlace::All => true,
            InPlace::Some => rank % 3 != 1,
        };
        let calls: Vec<_> = (0..self.call.ranks)
            .map(|rank| {
                let call = Call { in_place: in_place(rank), ..self.call };
                // Where nothing is combined, types may differ at equal bytes.
                let is_other = rank % 2 == 1 && !call.kind.reduces();
                if is_other { Call { data_type: DataType::Uint8, count: call.bytes(), ..call } } else { call }
            })
            .collect();
        let hosts = self.shape.hosts(self.call.ranks);
        let plan = |(rank, call)| plan_in_pieces(self.algorithm, call, rank, &hosts, self.piece_bytes);
        let plans = (0..).zip(&calls).map(|pair| plan(pair).expect("it has a form")).collect();
        (calls, plans)
    }

    fn prove(&self) {
        let (calls, plans) = self.build();
        if let Err(flaw) = check(&calls, &plans) {
            panic!("{self:?}: {flaw}");
        }
    }

    fn run(&self, seed: u64) {
        let (calls, plans) = self.build();
        let result = execute(&calls, &plans, seed);
        if let Err(problem) = result {
            panic!("{self:?} with seed {seed}: {problem}");
        }
    }
}

/// Runs with lines that hold nothing, one packet, or many, by the seed.
fn execute(calls: &[Call], plans: &[Plan], seed: u64) -> Result<(), String> {
    let line_packets = [0, 1, 1000][(seed % 3) as usize];
    World::new(calls, plans, seed, line_packets, Arithmetic::Wrapping).run()
}

const REDUCTIONS: [(Reduction, DataType); 8] = [
    (Reduction::Sum, DataType::Float32),
    (Reduction::Avg, DataType::Bfloat16),
    (Reduction::Avg, DataType::Int32),
    (Reduction::PreMulSum, DataType::Float64),
    (Reduction::PreMulSum, DataType::Uint8),
    (Reduction::Max, DataType::Int8),
    (Reduction::Min, DataType::Uint64),
    (Reduction::Prod, DataType::Float16),
];

/// Whether `SHOAL_TEST_CAMPAIGN=full` asks for everything and not the usual share.
fn is_full_campaign() -> bool {
    std::env::var("SHOAL_TEST_CAMPAIGN").is_ok_and(|text| text == "full")
}

/// Some case of `ranks` ranks.
fn some_case(random: &mut Random, ranks: u32, counts: &[usize], pieces: &[usize]) -> Case {
    loop {
        let algorithm = random.pick(&Algorithm::ALL);
        let kind = random.pick(&Kind::ALL);
        if !algorithm.serves(kind) {
            continue;
        }
        let (reduction, data_type) = random.pick(&REDUCTIONS);
        let call = Call {
            kind,
            data_type,
            reduction: if kind.reduces() { reduction } else { Reduction::Sum },
            root: if kind.has_root() { random.below(ranks as usize) as u32 } else { 0 },
            count: random.pick(counts),
            ranks,
            in_place: false,
        };
        let in_place = random.pick(&[InPlace::None, InPlace::All, InPlace::Some]);
        let shape = random.pick(&SHAPES);
        return Case { algorithm, call, in_place, piece_bytes: random.pick(pieces), shape };
    }
}

/// The shapes that make a difference.
fn shapes_of(algorithm: Algorithm) -> &'static [Shape] {
    match algorithm {
        Algorithm::Leaders | Algorithm::Slices => &SHAPES,
        _ => &SHAPES[..1],
    }
}

/// Every case of few ranks.
fn each_small_case(ranks: u32, mut visit: impl FnMut(Case)) {
    for algorithm in Algorithm::ALL {
        for kind in Kind::ALL.into_iter().filter(|&kind| algorithm.serves(kind)) {
            let roots = if kind.has_root() { ranks } else { 1 };
            let reductions = if kind.reduces() { &REDUCTIONS[..] } else { &REDUCTIONS[..1] };
            for root in 0..roots {
                for &(reduction, data_type) in reductions {
                    for count in [0, 1, 3, 50] {
                        for in_place in [InPlace::None, InPlace::All, InPlace::Some] {
                            let call =
                                Call { kind, data_type, reduction, root, count, ranks, in_place: false };
                            for &shape in shapes_of(algorithm) {
                                visit(Case { algorithm, call, in_place, piece_bytes: 16, shape });
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_small_case_is_proved() {
    for ranks in 1..=5 {
        each_small_case(ranks, |case| case.prove());
    }
}

#[test]
fn every_tiny_case_runs_on_bytes() {
    let mut seed = 0;
    for ranks in 1..=3 {
        each_small_case(ranks, |case| {
            seed += 1;
            case.run(seed);
        });
    }
}

#[test]
fn thousands_of_cases_are_proved() {
    let mut random = Random(1);
    for _ in 0..1500 {
        let ranks = 1 + random.below(17) as u32;
        let counts = [1, 2, 7, 16, 17, 33, 127, 1000, 1 << 20, 3_000_001];
        some_case(&mut random, ranks, &counts, &[8, 64, 1 << 20]).prove_if_small();
    }
}

impl Case {
    /// Leaves out cases whose plans would be long to prove.
    fn prove_if_small(&self) {
        let pieces = self.call.bytes() / self.piece_bytes;
        if pieces * (self.call.ranks as usize) < 1000 {
            self.prove();
        }
    }
}

#[test]
fn hundreds_of_cases_run_on_bytes() {
    let mut random = Random(2);
    for seed in 0..400 {
        let ranks = 2 + random.below(9) as u32;
        some_case(&mut random, ranks, &[1, 2, 5, 9, 31, 64, 65], &[8, 16, 64]).run(seed);
    }
}

#[test]
fn many_ranks_are_proved() {
    let mut random = Random(3);
    for ranks in [31, 32, 33, 48, 63, 64, 65, 130] {
        for _ in 0..if ranks > 65 { 4 } else { 8 } {
            some_case(&mut random, ranks, &[1, 70, 1000], &[64, 1 << 20]).prove_if_small();
        }
    }
}

#[test]
fn results_of_an_all_reduce_have_the_same_bits() {
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.serves(Kind::AllReduce)) {
        for ranks in 2..=9 {
            let call = Call {
                kind: Kind::AllReduce,
                data_type: DataType::Float32,
                reduction: Reduction::Sum,
                root: 0,
                // So many that an order that differs shows in some.
                count: 37,
                ranks,
                in_place: false,
            };
            let shape = Shape::Growing;
            let case = Case { algorithm, call, in_place: InPlace::Some, piece_bytes: 32, shape };
            let (calls, plans) = case.build();
            let mut world = World::new(&calls, &plans, u64::from(ranks), 1, Arithmetic::Singles);
            world.run().expect("it runs");
            let first = world.ranks[0].result();
            assert!(world.ranks.iter().all(|rank| rank.result() == first), "{case:?}");
        }
    }
}

/// The bits of a sum of singles, in the order of the plans: every rank's result.
fn bits(algorithm: Algorithm, kind: Kind, root: u32, ranks: u32, piece_bytes: usize) -> Vec<Vec<u8>> {
    // Of a ReduceScatter, a block each of the same vectors.
    let count = if kind == Kind::ReduceScatter { 5 } else { 5 * ranks as usize };
    let (data_type, reduction) = (DataType::Float32, Reduction::Sum);
    let call = Call { kind, data_type, reduction, root, count, ranks, in_place: false };
    let case = Case { algorithm, call, in_place: InPlace::None, piece_bytes, shape: Shape::Wild(3) };
    let (calls, plans) = case.build();
    let mut world = World::new(&calls, &plans, 1, 1, Arithmetic::Singles);
    // The same numbers for every algorithm, whatever its scratch; of many sizes, so that the order shows.
    for (rank, buffers) in (0..).zip(&mut world.ranks) {
        let mut random = Random(rank);
        buffers
            .fill_source(|| ((random.next() % 2000) as f32 - 1000.0) * 1.1_f32.powi(random.below(90) as i32));
    }
    world.run().expect("it runs");
    world.ranks.iter().map(super::naive::Buffers::result).collect()
}

#[test]
fn ordered_algorithms_have_the_same_bits() {
    let mut others = 0;
    for ranks in 2..=17 {
        let result = bits(Algorithm::Doubling, Kind::AllReduce, 0, ranks, 1 << 20).swap_remove(0);
        for piece_bytes in [16, 64, 1 << 20] {
            for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.is_ordered()) {
                let all = bits(algorithm, Kind::AllReduce, 0, ranks, piece_bytes);
                assert!(all.iter().all(|one| *one == result), "{algorithm:?} of {ranks}");
                for root in [0, ranks / 2, ranks - 1] {
                    let all = bits(algorithm, Kind::Reduce, root, ranks, piece_bytes);
                    assert_eq!(all[root as usize], result, "{algorithm:?} of {ranks} with root {root}");
                }
                if algorithm.serves(Kind::ReduceScatter) {
                    assert_eq!(bits(algorithm, Kind::ReduceScatter, 0, ranks, piece_bytes).concat(), result);
                }
            }
        }
        others += usize::from(bits(Algorithm::Ring, Kind::AllReduce, 0, ranks, 64)[0] != result);
    }
    assert!(others > 10, "orders do not show in these numbers");
}

#[test]
fn what_cannot_be_has_no_plan() {
    let call = Call {
        kind: Kind::Broadcast,
        data_type: DataType::Int64,
        reduction: Reduction::Sum,
        root: 3,
        count: 8,
        ranks: 3,
        in_place: false,
    };
    for algorithm in Algorithm::ALL {
        assert_eq!(super::plan(algorithm, &call, 0, &Hosts::one()), None, "no such root");
        let sound = Call { root: 0, ..call };
        assert_eq!(super::plan(algorithm, &sound, 3, &Hosts::one()), None, "no such rank");
        assert_eq!(
            super::plan(algorithm, &Call { count: usize::MAX / 4, ..sound }, 0, &Hosts::one()),
            None,
            "no such memory"
        );
        for kind in Kind::ALL {
            let call = Call { kind, ..sound };
            assert_eq!(super::plan(algorithm, &call, 0, &Hosts::one()).is_some(), algorithm.serves(kind));
        }
    }
}

#[test]
fn plans_of_a_thousand_ranks_are_small() {
    let call = Call {
        kind: Kind::AlltoAll,
        data_type: DataType::Float32,
        reduction: Reduction::Sum,
        root: 0,
        count: 1000,
        ranks: 1000,
        in_place: false,
    };
    for algorithm in [Algorithm::Exchange, Algorithm::Pairwise] {
        let plan = super::plan(algorithm, &call, 500, &Hosts::one()).expect("it has a form");
        assert!(plan.steps.len() < 2100 && plan.waits.len() < 1100);
    }
    let call = Call { kind: Kind::AllReduce, ..call };
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.serves(Kind::AllReduce)) {
        let plan = super::plan(algorithm, &call, 500, &Hosts::one()).expect("it has a form");
        assert!(plan.waits.len() < 2 * plan.steps.len(), "{}", plan.algorithm);
    }
}

#[test]
fn absurd_sizes_make_plans_of_bounded_length() {
    let mut random = Random(5);
    for _ in 0..40 {
        let case = some_case(&mut random, 4, &[1 << 55], &[1 << 18]);
        let plan = plan_in_pieces(case.algorithm, &case.call, 1, &case.shape.hosts(4), case.piece_bytes)
            .expect("it has a form");
        assert!(plan.steps.len() < 200_000, "{case:?}");
    }
}

#[test]
fn small_data_needs_little_scratch() {
    let mut random = Random(6);
    for _ in 0..200 {
        let case = some_case(&mut random, 8, &[1], &[super::PIECE_BYTES]);
        for call in [case.call, Call { in_place: true, ..case.call }] {
            let plan = super::plan(case.algorithm, &call, 1, &case.shape.hosts(8)).expect("it has a form");
            assert!(plan.scratch_bytes <= 64 * 20, "{case:?}: {}", plan.scratch_bytes);
        }
    }
}

/// For a long look: `cargo test --lib many_more -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn many_more_cases_are_proved_and_run() {
    let mut random = Random(7);
    for seed in 0..20_000 {
        let ranks = 1 + random.below(40) as u32;
        let counts = [1, 2, 3, 7, 16, 17, 33, 127, 130, 1000, 4097, 1 << 20];
        some_case(&mut random, ranks, &counts, &[8, 24, 64, 4096, 1 << 20]).prove_if_small();
        let ranks = 1 + random.below(9) as u32;
        some_case(&mut random, ranks, &[1, 2, 5, 9, 31, 64, 65, 200], &[8, 16, 64]).run(seed);
    }
}
