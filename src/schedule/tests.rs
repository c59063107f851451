//! All algorithms, by the thousand: proved by the checker, run on bytes by the naive executor; and mutants of
//! their plans, to see that the checker sees what the bytes show.

use super::check::check;
use super::naive::{Arithmetic, Random, World};
use super::{Action, Algorithm, Call, Lane, Plan, Range, Step, Wait, plan_in_pieces};
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
}

impl Case {
    fn build(&self) -> (Vec<Call>, Vec<Plan>) {
        let in_place = |rank: u32| match self.in_place {
            InPlace::None => false,
            InPlace::All => true,
            InPlace::Some => rank % 3 != 1,
        };
        let calls: Vec<_> =
            (0..self.call.ranks).map(|rank| Call { in_place: in_place(rank), ..self.call }).collect();
        let plan = |(rank, call)| plan_in_pieces(self.algorithm, call, rank, self.piece_bytes);
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
        return Case { algorithm, call, in_place, piece_bytes: random.pick(pieces) };
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
                            visit(Case { algorithm, call, in_place, piece_bytes: 16 });
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
    for algorithm in Algorithm::ALL {
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
            let case = Case { algorithm, call, in_place: InPlace::Some, piece_bytes: 32 };
            let (calls, plans) = case.build();
            let mut world = World::new(&calls, &plans, u64::from(ranks), 1, Arithmetic::Singles);
            world.run().expect("it runs");
            let first = world.ranks[0].result();
            assert!(world.ranks.iter().all(|rank| rank.result() == first), "{case:?}");
        }
    }
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
        assert_eq!(super::plan(algorithm, &call, 0), None, "no such root");
        let sound = Call { root: 0, ..call };
        assert_eq!(super::plan(algorithm, &sound, 3), None, "no such rank");
        assert_eq!(
            super::plan(algorithm, &Call { count: usize::MAX / 4, ..sound }, 0),
            None,
            "no such memory"
        );
        for kind in Kind::ALL {
            let call = Call { kind, ..sound };
            assert_eq!(super::plan(algorithm, &call, 0).is_some(), algorithm.serves(kind));
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
        let plan = super::plan(algorithm, &call, 500).expect("it has a form");
        assert!(plan.steps.len() < 2100 && plan.waits.len() < 1100);
    }
    let call = Call { kind: Kind::AllReduce, ..call };
    for algorithm in Algorithm::ALL {
        let plan = super::plan(algorithm, &call, 500).expect("it has a form");
        assert!(plan.waits.len() < 2 * plan.steps.len(), "{}", plan.algorithm);
    }
}

#[test]
fn absurd_sizes_make_plans_of_bounded_length() {
    let mut random = Random(5);
    for _ in 0..40 {
        let case = some_case(&mut random, 4, &[1 << 55], &[1 << 18]);
        let plan = plan_in_pieces(case.algorithm, &case.call, 1, case.piece_bytes).expect("it has a form");
        assert!(plan.steps.len() < 200_000, "{case:?}");
    }
}

#[test]
fn small_data_needs_little_scratch() {
    let mut random = Random(6);
    for _ in 0..200 {
        let case = some_case(&mut random, 8, &[1], &[super::PIECE_BYTES]);
        for call in [case.call, Call { in_place: true, ..case.call }] {
            let plan = super::plan(case.algorithm, &call, 1).expect("it has a form");
            assert!(plan.scratch_bytes <= 64 * 20, "{case:?}: {}", plan.scratch_bytes);
        }
    }
}

/// A plan that is easy to change: lanes of actions with their waits.
type Loose = Vec<Vec<(Action, Vec<Wait>)>>;

fn loosen(plan: &Plan) -> Loose {
    let step = |step: &Step| {
        let waits = step.first_wait as usize..(step.first_wait + step.wait_count) as usize;
        (step.action, plan.waits[waits].to_vec())
    };
    let lane = |lane: &Lane| {
        plan.steps[lane.first as usize..(lane.first + lane.count) as usize].iter().map(step).collect()
    };
    plan.lanes.iter().map(lane).collect()
}

fn tighten(plan: &Plan, loose: &Loose) -> Plan {
    let mut tight = Plan { steps: vec![], lanes: vec![], waits: vec![], ..plan.clone() };
    for lane in loose {
        tight.lanes.push(Lane { first: tight.steps.len() as u32, count: lane.len() as u32 });
        for (action, waits) in lane {
            let first_wait = tight.waits.len() as u32;
            tight.waits.extend(waits);
            tight.steps.push(Step { action: *action, first_wait, wait_count: waits.len() as u32 });
        }
    }
    tight
}

/// Takes a step out; waits for it become waits for the one before it.
fn drop_step(loose: &mut Loose, lane: usize, index: usize) {
    loose[lane].remove(index);
    let is_gone = loose[lane].is_empty();
    for (_, waits) in loose.iter_mut().flatten() {
        waits.retain(|wait| wait.lane as usize != lane || wait.index as usize != index || index > 0);
        for wait in waits {
            if wait.lane as usize == lane && wait.index as usize >= index {
                wait.index -= 1;
            }
            if is_gone && wait.lane as usize > lane {
                wait.lane -= 1;
            }
        }
    }
    if is_gone {
        loose.remove(lane);
    }
}

fn change_range(random: &mut Random, range: &mut Range, element: usize) {
    match random.below(5) {
        0 => range.offset += element,
        1 => range.offset = range.offset.saturating_sub(element),
        2 => range.bytes += element,
        3 => range.bytes = range.bytes.saturating_sub(element),
        _ => range.buffer = (range.buffer + 1 + random.below(2) as u32) % 3,
    }
}

fn change_action(random: &mut Random, action: &mut Action, call: &Call) {
    let element = call.data_type.size_bytes();
    let other_peer = (random.below(call.ranks as usize)) as u32;
    let is_peer = random.below(4) == 0;
    match action {
        Action::Send { peer, .. } | Action::Recv { peer, .. } | Action::RecvReduce { peer, .. }
            if is_peer =>
        {
            *peer = other_peer;
        }
        Action::Send { from: range, .. } | Action::Recv { into: range, .. } | Action::Divide { range } => {
            change_range(random, range, element);
        }
        Action::RecvReduce { with: from, into, .. }
        | Action::Copy { from, into }
        | Action::Scale { from, into } => {
            let range = if random.below(2) == 0 { from } else { into };
            change_range(random, range, element);
        }
        Action::Reduce { left, right, into } => {
            let range = [left, right, into].into_iter().nth(random.below(3)).expect("there are three");
            change_range(random, range, element);
        }
        Action::SendFrame { .. } | Action::RecvMessages { .. } => {}
    }
}

/// The plan with one thing changed.
fn mutate(random: &mut Random, plan: &Plan, call: &Call) -> Plan {
    let mut loose = loosen(plan);
    if loose.is_empty() {
        return plan.clone();
    }
    let lane = random.below(loose.len());
    let index = random.below(loose[lane].len());
    let any_lane = random.below(loose.len());
    let any_wait = Wait { lane: any_lane as u32, index: random.below(loose[any_lane].len()) as u32 };
    match random.below(8) {
        0 => drop_step(&mut loose, lane, index),
        1 => {
            let other = random.below(loose[lane].len());
            loose[lane].swap(index, other);
        }
        2 => {
            let twice = loose[lane][index].clone();
            loose[lane].insert(index, twice);
        }
        3 => loose[lane][index].1.push(any_wait),
        4 | 5 => change_action(random, &mut loose[lane][index].0, call),
        _ => {
            let waiting: Vec<&mut Vec<Wait>> = loose
                .iter_mut()
                .flatten()
                .map(|step| &mut step.1)
                .filter(|waits| !waits.is_empty())
                .collect();
            let count = waiting.len();
            if let Some(waits) = waiting.into_iter().nth(random.below(count)) {
                let which = random.below(waits.len());
                if random.below(3) == 0 && waits[which].index > 0 {
                    waits[which].index -= 1;
                } else {
                    waits.remove(which);
                }
            }
        }
    }
    tighten(plan, &loose)
}

/// Whether the bytes of some unkind run are wrong, or it gets stuck.
fn shows_on_bytes(calls: &[Call], plans: &[Plan]) -> bool {
    (0..6).any(|seed| execute(calls, plans, seed).is_err())
}

/// Of `count` mutants, those that show on bytes must be refused. Returns how many showed, and how many were
/// refused.
fn hunt(seed: u64, count: usize) -> (usize, usize) {
    let mut random = Random(seed);
    let (mut shown, mut refused) = (0, 0);
    for number in 0..count {
        let ranks = 2 + random.below(5) as u32;
        let case = some_case(&mut random, ranks, &[1, 5, 12, 40], &[16, 32]);
        let (calls, mut plans) = case.build();
        let rank = random.below(plans.len());
        plans[rank] = mutate(&mut random, &plans[rank], &case.call);
        let verdict = check(&calls, &plans);
        refused += usize::from(verdict.is_err());
        if shows_on_bytes(&calls, &plans) {
            shown += 1;
            assert!(verdict.is_err(), "mutant {number} of rank {rank} was not seen: {case:?}");
        }
    }
    (shown, refused)
}

#[test]
fn mutants_that_show_are_refused() {
    let (shown, refused) = hunt(4, 1500);
    println!("{shown} showed, {refused} were refused");
    assert!(shown > 500 && refused >= shown, "{shown} showed, {refused} were refused");
}

/// For a long look: `cargo test --lib mutants -- --ignored`.
#[test]
#[ignore = "takes a minute"]
fn many_more_mutants_that_show_are_refused() {
    for seed in 100..150 {
        hunt(seed, 1000);
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
