//! Random programs on simulated networks, against a plain oracle.
//!
//! Everything follows from a seed: `SHOAL_TEST_SEED=17 cargo test --test simulation` runs that one again.
//! `SHOAL_TEST_CAMPAIGN=full` runs many more; `SHOAL_TEST_SEEDS=500` so many.

#[allow(dead_code, unreachable_pub)] // each test uses a part
mod common;

use common::corpus;
use common::dice::{Dice, mix};
use common::generate::Limits;
use common::oracle::Oracle;
use common::program::{Action, Program};
use common::world::{self, Change, Report, Setup, Trouble, What};
use shoal::error::Error;

/// Small programs, for tests that run each one many times.
const SMALL: Limits = Limits {
    ranks: [2, 5],
    batch_count: 3,
    collective_count: 3,
    message_count: 12,
    buffer_bytes: 2 << 10,
    huge_per_mille: 0,
    stream_count: 2,
    may_cut: true,
};

/// The usual limits, now and then for more ranks.
fn limits_of(seed: u64) -> Limits {
    match seed % 100 {
        7 => Limits { ranks: [10, 64], batch_count: 2, buffer_bytes: 4 << 10, ..Limits::SIMULATED },
        _ => Limits::SIMULATED,
    }
}

/// What went wrong with how many seeds; panics with the first problems if any did.
#[derive(Default)]
struct Tally {
    seeds: usize,
    hangs: usize,
    wrong: usize,
    first: Vec<String>,
}

impl Tally {
    fn add(&mut self, result: Result<(), String>) {
        self.seeds += 1;
        let Err(problem) = result else { return };
        if problem.contains("hang: ") || problem.contains("no end") {
            self.hangs += 1;
        } else {
            self.wrong += 1;
        }
        if self.first.len() < 3 {
            self.first.push(problem);
        }
    }

    fn close(self, test: &str) {
        println!("{test}: seeds run {}, hangs {}, wrong {}", self.seeds, self.hangs, self.wrong);
        assert!(
            self.first.is_empty(),
            "add these seeds to tests/corpus/seeds.txt:\n{}",
            self.first.join("\n\n")
        );
    }
}

fn run_both_ways(seed: u64) -> Result<(), String> {
    let program = Program::random(seed, limits_of(seed));
    let oracle = Oracle::new(&program);
    let setup = Setup::random(seed);
    let on = world::run(&program, &oracle, &setup)?;
    let off = world::run(&program, &oracle, &setup.without_coalescing())?;
    if on.digest != off.digest {
        return Err(format!("seed {seed}: with coalescing the bytes are others than without"));
    }
    Ok(())
}

#[test]
fn random_programs_finish_with_the_right_bytes() {
    let mut tally = Tally::default();
    for seed in corpus::plan("simulation", 1200, 100_000) {
        tally.add(run_both_ways(seed));
    }
    tally.close("simulation");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..40 {
        let program = Program::random(seed, Limits::SIMULATED);
        let run = || world::run(&program, &Oracle::new(&program), &Setup::random(seed)).expect("it runs");
        let [first, second]: [Report; 2] = [run(), run()];
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn a_thousand_ranks_finish() {
    let limits = Limits {
        ranks: [1024, 1024],
        batch_count: 1,
        collective_count: 2,
        message_count: 300,
        buffer_bytes: 2 << 10,
        huge_per_mille: 0,
        stream_count: 0,
        may_cut: true,
    };
    let mut setup = Setup::random(0);
    setup.weather.delay_ns = 0;
    let is_wide = |action: &Action| match action {
        Action::Collective(collective) => collective.kind == shoal::op::Kind::AlltoAll,
        Action::Message(_) => false,
    };
    let mut programs = (0..).map(|seed| Program::random(seed, limits)).filter(|program| {
        program.actions.len() > 2 && !program.actions.iter().any(is_wide) && program.comm_count == 1
    });
    for _ in 0..2 {
        let program = programs.next().expect("there are infinitely many");
        world::run(&program, &Oracle::new(&program), &setup).expect("it runs");
    }
}

/// Runs a small program with `what` happening to a random rank at a random step.
fn run_with_trouble(seed: u64, what: impl Fn(u64) -> What) -> Result<(), String> {
    let program = Program::random(seed, SMALL);
    let oracle = Oracle::new(&program);
    let mut setup = Setup::random(seed);
    let calm = world::run(&program, &oracle, &setup)?;
    let mut dice = Dice::new(mix(seed, 0x74726f75626c65));
    let world = dice.below(program.ranks as usize);
    let step = dice.between(1, calm.steps[world] as usize) as u64;
    setup.trouble = Some(Trouble { world: world as u32, what: what(step) });
    world::run(&program, &oracle, &setup).map(|_| ())
}

#[test]
fn the_death_of_a_rank_ends_every_wait_for_it() {
    let mut tally = Tally::default();
    for seed in corpus::plan("death", 800, 40_000) {
        tally.add(run_with_trouble(seed, What::Death));
    }
    tally.close("death");
}

#[test]
fn an_abort_ends_every_wait_for_it() {
    let mut tally = Tally::default();
    for seed in corpus::plan("abort", 800, 40_000) {
        tally.add(run_with_trouble(seed, What::Abort));
    }
    tally.close("abort");
}

#[test]
fn an_abort_at_every_step_of_one_program_ends_it() {
    for seed in 0..6 {
        let program = Program::random(seed, SMALL);
        let oracle = Oracle::new(&program);
        let mut setup = Setup::random(seed);
        let calm = world::run(&program, &oracle, &setup).expect("it runs");
        for world in 0..program.ranks {
            for step in 1..=calm.steps[world as usize].min(150) {
                setup.trouble = Some(Trouble { world, what: What::Abort(step) });
                world::run(&program, &oracle, &setup).expect("it ends");
            }
        }
    }
}

/// One rank calls something else: whoever has not finished gets an error, and one of them sees both calls.
fn run_mismatch(seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(mix(seed, 0x6f74686572));
    let program = Program::random(seed, SMALL);
    let action = dice.below(program.actions.len().max(1));
    let Some(change) =
        program.actions.get(action).and_then(|_| world::change_of(&program, action, &mut dice))
    else {
        return Ok(());
    };
    let (world, _) = dice.pick(&world::members(&program, action));
    let mut setup = Setup::random(seed);
    setup.trouble = Some(Trouble { world, what: What::Other(action, change) });
    let oracle = Oracle::new(&program);
    let report = world::run(&program, &oracle, &setup)
        .map_err(|text| format!("{:?} of {:?}: {text}", setup.trouble, program.actions[action]))?;
    let shows_both = |error: &Error| match error {
        Error::Mismatch(_) => true,
        Error::Remote(text) => text.contains("disagree") || text.contains("left the communicator"),
        _ => false,
    };
    let is_shown = report.errors.iter().flatten().any(shows_both);
    if !is_shown {
        return Err(format!(
            "seed {seed}: nobody saw that rank {world} called something else in action {action} {:?}: {change:?}\n{:?}",
            program.actions[action], report.errors
        ));
    }
    Ok(())
}

#[test]
fn ranks_that_disagree_are_told() {
    let mut tally = Tally::default();
    let mut unseen = 0;
    for seed in corpus::plan("mismatch", 1500, 40_000) {
        let result = run_mismatch(seed);
        // Where all others are done with their part and call nothing more, nothing tells that they were done
        // with another one: a long wait for live peers, or packets that nobody asks for before the next call.
        let is_unseen = result
            .as_ref()
            .is_err_and(|problem| problem.contains("hang: ") || problem.contains("nobody saw"));
        unseen += u64::from(is_unseen);
        tally.add(if is_unseen { Ok(()) } else { result });
    }
    println!("mismatch: {unseen} not seen, since the others were done with something else");
    assert!(unseen * 50 <= tally.seeds as u64, "too many disagreements are not seen");
    tally.close("mismatch");
}

#[test]
fn a_change_is_a_change() {
    // The test above would say nothing if no change were ever chosen.
    let changes = (0..100).filter(|seed| {
        let program = Program::random(*seed, SMALL);
        let mut dice = Dice::new(*seed);
        (0..program.actions.len())
            .any(|action| matches!(world::change_of(&program, action, &mut dice), Some(Change::Count(_))))
    });
    assert!(changes.count() > 30);
}
