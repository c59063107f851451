//! Small programs under every interleaving: what finishes with coalescing off finishes with it on, with the same
//! bytes, over lines with hardly any room.
//!
//! A program is a handful of operations on three ranks, put into groups at will on each of them. The engines are the
//! library's own, on lines that hold as many bytes as one or two of the largest packets (`model`); who calls, who
//! polls and what is delivered next is chosen in every possible way. A state is what the engines and the lines
//! say of themselves; from one that was seen before nothing new is tried.
//!
//! # What need not be explored
//! An engine is a set of lanes. Each reads from one line or writes to one, in the order of its plan, and waits for
//! bytes or for room of that line, or for steps of lanes of the same rank; none asks whether something is *not*
//! there. So what a lane can do it can still do later, whatever others do meanwhile, and steps of different lanes
//! may change places: programs are Kahn networks over bounded lines, and one order of steps decides for all whether
//! a program finishes and with which bytes. (How messages are put into frames may depend on the order, where
//! batches wait in a queue; which messages pass a line does not.) It would be enough to run each program once, if
//! the code were what it is meant to be. Explored is whether it is: all orders of calls and whole polls; and, since
//! a poll looks at its lanes one after the other while others go on, all orders in which packets and room come to
//! be seen, for the smallest programs. All ends of a program have to agree.
//!
//! `SHOAL_TEST_CAMPAIGN=full` explores many more programs, `SHOAL_TEST_SEED=17` one again.

#[path = "common/corpus.rs"]
#[allow(dead_code, unreachable_pub)] // each test uses a part
mod corpus;
#[path = "common/dice.rs"]
#[allow(dead_code, unreachable_pub)]
mod dice;
#[path = "interleavings/model.rs"]
#[allow(unreachable_pub)]
mod model;
#[path = "interleavings/program.rs"]
#[allow(unreachable_pub)]
mod program;

use std::collections::HashSet;
use std::ffi::CStr;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use shoal::coalesce::Limits;
use shoal::device::host::Host;
use shoal::engine::{Engine, Facts, Poll};
use shoal::op::Op;
use shoal::schedule::Hosts;

use dice::{Dice, mix};
use model::{EAGER_BYTES, HEAD_BYTES, Lines, Model, Mutant, Nature};
use program::{Call, LONG_BYTES, Memory, Program, RANKS, SMALL_BYTES};

const RANK_COUNT: usize = RANKS as usize;
/// A line with room for one of the largest packets.
const ROOM: usize = HEAD_BYTES + EAGER_BYTES;

/// How a program is run.
#[derive(Clone, Copy, Debug)]
struct Way {
    coalesces: bool,
    line_bytes: usize,
    /// Whether ranks call on without waiting for the group before, as on a stream.
    streams: bool,
    /// Whether what is sent, and room that is given back, is seen only when it is delivered.
    delays: bool,
    mutant: Mutant,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// With this in the targets.
    Finished(Vec<u64>),
    Stuck,
}

/// All ranks of a program, somewhere on their way.
struct World<'a> {
    program: &'a Program,
    memory: &'a Memory,
    way: Way,
    lines: Lines,
    engines: Vec<Engine<Model, Host>>,
    ranks: [Progress; RANK_COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    group: usize,
    /// Operations of the groups that were called.
    place: usize,
    /// The number at which the last group is done.
    number: u64,
}

impl<'a> World<'a> {
    /// The world after these steps.
    fn after(path: &[usize], program: &'a Program, memory: &'a Memory, way: Way) -> World<'a> {
        memory.reset();
        let Way { line_bytes, delays, mutant, .. } = way;
        let lines = Lines::new(Nature { line_bytes, delays, mutant });
        let engine = |rank| Engine::new(lines.join(rank), Host, facts(rank, way.coalesces));
        let engines = (0..RANKS).map(engine).collect();
        let mut world = World { program, memory, way, lines, engines, ranks: Default::default() };
        path.iter().for_each(|action| assert!(world.step(*action), "it was possible before"));
        world
    }

    /// How many actions there are: for each rank a call and a poll, then deliveries.
    fn actions(&self) -> usize {
        2 * RANK_COUNT + if self.way.delays { Lines::DELIVERIES } else { 0 }
    }

    /// Does an action; `false` if there is nothing to do.
    fn step(&mut self, action: usize) -> bool {
        match action {
            rank if rank < RANK_COUNT => self.call(rank),
            poll if poll < 2 * RANK_COUNT => {
                let engine = &mut self.engines[poll - RANK_COUNT];
                let has_moved = engine.poll() == Poll::Moved;
                assert!(
                    engine.failure().is_none(),
                    "{:?} {:?}: {:?}",
                    self.program,
                    self.way,
                    engine.failure()
                );
                has_moved
            }
            delivery => self.lines.deliver(delivery - 2 * RANK_COUNT),
        }
    }

    fn call(&mut self, rank: usize) -> bool {
        let (engine, at) = (&mut self.engines[rank], &mut self.ranks[rank]);
        let Some(group) = self.program.groups(rank).get(at.group) else { return false };
        if engine.completed() < at.number && !self.way.streams {
            return false;
        }
        let ops: Vec<Op> =
            (at.place..).zip(group).map(|(place, call)| self.memory.op(rank, place, *call)).collect();
        let plan = engine.prepare(&ops).unwrap_or_else(|error| panic!("{:?}: {error}", self.program));
        let number = engine.submit(&ops, plan, None);
        *at = Progress { group: at.group + 1, place: at.place + ops.len(), number };
        true
    }

    fn is_finished(&self) -> bool {
        (0..RANK_COUNT).all(|rank| {
            let at = self.ranks[rank];
            at.group == self.program.groups(rank).len() && self.engines[rank].completed() >= at.number
        })
    }

    fn end(&self) -> End {
        if !self.is_finished() {
            return End::Stuck;
        }
        assert!(self.lines.are_empty(), "{:?} {:?} left packets", self.program, self.way);
        End::Finished(self.memory.targets())
    }

    /// Whether batches of any rank left together.
    fn has_joined(&self) -> bool {
        self.counts(c"frames_held")
    }

    /// Whether collectives of any rank ran at once.
    fn has_fused(&self) -> bool {
        self.counts(c"collectives_fused")
    }

    fn counts(&self, name: &CStr) -> bool {
        let counters = self.engines.iter().flat_map(|engine| engine.counters());
        counters.into_iter().any(|counter| counter.name == name && counter.value > 0)
    }

    /// What everything says of itself, as a number.
    fn state(&self) -> u64 {
        let mut hashing = Hashing(DefaultHasher::new());
        let World { lines, engines, ranks, .. } = self;
        write!(hashing, "{ranks:?} {lines:?} {engines:?} {:?}", self.memory.targets())
            .expect("it only hashes");
        hashing.0.finish()
    }
}

struct Hashing(DefaultHasher);

impl Write for Hashing {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn facts(rank: u32, coalesces: bool) -> Facts {
    Facts {
        rank,
        ranks: RANKS,
        limits: Limits { message_bytes: if coalesces { EAGER_BYTES } else { 0 }, frame_bytes: EAGER_BYTES },
        tune: shoal::tune::Facts {
            ranks: RANKS,
            ranks_per_host: RANKS,
            cores: 64,
            hosts: Hosts::of(vec![0; RANK_COUNT]),
            is_deterministic: false,
            choices: shoal::tune::table::Choices::default(),
        }
        .with_table(None),
        algorithm: String::new(),
    }
}

/// What an exploration came to.
struct Explored {
    /// The one end that all orders of actions come to.
    end: End,
    states: usize,
    /// Whether batches left together in any of them.
    has_joined: bool,
    /// Whether collectives ran at once in any of them.
    has_fused: bool,
}

/// Every order of actions.
fn explore(program: &Program, way: Way) -> Result<Explored, String> {
    let memory = &Memory::new(program);
    let mut open: Vec<Vec<usize>> = vec![Vec::new()];
    let mut seen = HashSet::from([World::after(&[], program, memory, way).state()]);
    let (mut known, mut has_joined, mut has_fused) = (None, false, false);
    while let Some(path) = open.pop() {
        let mut is_last = true;
        let mut world = World::after(&path, program, memory, way);
        for action in 0..world.actions() {
            if !world.step(action) {
                continue;
            }
            is_last = false;
            if seen.insert(world.state()) {
                open.push(path.iter().copied().chain([action]).collect());
            }
            world = World::after(&path, program, memory, way);
        }
        if is_last {
            let end = world.end();
            has_joined |= world.has_joined();
            has_fused |= world.has_fused();
            if known.get_or_insert_with(|| end.clone()) != &end {
                return Err(format!(
                    "{program:?} {way:?} ends in two ways: {known:?}, and {end:?} by {path:?}"
                ));
            }
        }
    }
    Ok(Explored { end: known.ok_or("no end")?, states: seen.len(), has_joined, has_fused })
}

/// What a test has explored.
#[derive(Debug, Default)]
struct Tally {
    programs: usize,
    states: usize,
    finished: usize,
    /// Finished with coalescing on only.
    gained: usize,
    /// In which batches left together.
    joined: usize,
    /// In which collectives ran at once.
    fused: usize,
}

impl Tally {
    /// Explores a program with coalescing off and on.
    fn add(&mut self, program: &Program, way: Way) -> Result<(), String> {
        let alone = explore(program, Way { coalesces: false, mutant: Mutant::None, ..way })?;
        let framed = explore(program, Way { coalesces: true, ..way })?;
        self.programs += 1;
        self.states += alone.states + framed.states;
        self.joined += usize::from(framed.has_joined);
        self.fused += usize::from(framed.has_fused);
        let (off, on) = (alone.end, framed.end);
        self.finished += usize::from(off != End::Stuck);
        self.gained += usize::from(off == End::Stuck && on != End::Stuck);
        if off != End::Stuck && off != on {
            return Err(format!("{program:?} {way:?}: off it ends as {off:?}, on as {on:?}"));
        }
        Ok(())
    }
}

fn way_of(dice: &mut Dice) -> Way {
    Way {
        coalesces: true,
        line_bytes: dice.pick(&[ROOM, ROOM, 2 * ROOM]),
        streams: dice.chance(40),
        delays: false,
        mutant: Mutant::None,
    }
}

#[test]
fn four_operations_a_rank_end_as_without_coalescing() {
    let mut tally = Tally::default();
    for seed in corpus::plan("interleavings", 100, 6_000) {
        let mut dice = Dice::new(mix(seed, 0x6f72646572));
        let program = Program::random(&mut dice, 4);
        let way = way_of(&mut dice);
        tally.add(&program, way).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    println!("four operations a rank: {tally:?}");
    assert!(tally.finished * 2 >= tally.programs, "most programs are to finish: {tally:?}");
    assert!(tally.joined > 0, "in some batches are to leave together: {tally:?}");
}

#[test]
fn two_operations_a_rank_end_as_without_coalescing() {
    // All there are in a full campaign, else some.
    let share = corpus::seed_count(97, 1).max(1) as usize;
    let mut tally = Tally::default();
    for (number, program) in Program::all_of_two().enumerate().filter(|(number, _)| number % share == 0) {
        for (line_bytes, streams) in [(ROOM, false), (ROOM, true), (2 * ROOM, false)] {
            let way = Way { coalesces: true, line_bytes, streams, delays: false, mutant: Mutant::None };
            tally.add(&program, way).unwrap_or_else(|problem| panic!("program {number}: {problem}"));
        }
    }
    println!("two operations a rank: {tally:?}");
}

/// In groups of each rank's own, so that some ranks run at once what others run one by one.
#[test]
fn collectives_of_a_group_end_as_one_by_one() {
    let mut tally = Tally::default();
    for seed in corpus::plan("interleavings-collectives", 8, 2_000) {
        let mut dice = Dice::new(mix(seed, 0x66757365));
        let program = Program::of_collectives(&mut dice, 4);
        let way = way_of(&mut dice);
        tally.add(&program, way).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    println!("collectives in groups: {tally:?}");
    assert!(tally.finished * 2 >= tally.programs, "most programs are to finish: {tally:?}");
    assert!(tally.fused * 2 >= tally.programs, "in most programs some are to run at once: {tally:?}");
}

#[test]
fn packets_and_room_may_come_late() {
    let mut tally = Tally::default();
    for seed in corpus::plan("interleavings-late", 6, 400) {
        let mut dice = Dice::new(mix(seed, 0x6c617465));
        let program = Program::random(&mut dice, 2);
        let way = Way { delays: true, ..way_of(&mut dice) };
        tally.add(&program, way).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    println!("late packets: {tally:?}");
}

/// A frame that is taken message by message must not keep its room until the last one is asked for: the first rank
/// goes on once one of its three messages is taken, and the second takes the next only when the first went on.
#[test]
fn a_frame_gives_its_room_back_when_its_first_message_is_taken() {
    let send = |to| Call::Send { to, bytes: SMALL_BYTES };
    let recv = |from| Call::Recv { from, bytes: SMALL_BYTES };
    let program = Program([
        vec![vec![send(1); 3], vec![send(2)]],
        vec![vec![recv(0)], vec![recv(2)], vec![recv(0)], vec![recv(0)]],
        vec![vec![recv(0)], vec![send(1)]],
    ]);
    let way = Way { coalesces: true, line_bytes: ROOM, streams: false, delays: true, mutant: Mutant::None };
    let mut tally = Tally::default();
    tally.add(&program, way).unwrap();
    assert_eq!(tally.finished, 1, "the program is one that finishes");
}

/// Three calls on a stream, of which a frame holds two and a line one and a half.
#[test]
fn calls_that_are_queued_leave_together() {
    let send = |to| vec![Call::Send { to, bytes: SMALL_BYTES }];
    let recv = |from| vec![Call::Recv { from, bytes: SMALL_BYTES }];
    let program = Program([
        vec![send(1), send(1), send(1), send(2)],
        vec![recv(0), recv(2), recv(0), recv(0)],
        vec![recv(0), send(1)],
    ]);
    let way = Way { coalesces: true, line_bytes: ROOM, streams: true, delays: false, mutant: Mutant::None };
    let mut tally = Tally::default();
    tally.add(&program, way).unwrap();
    assert_eq!((tally.finished, tally.joined), (1, 1), "{tally:?}");
}

#[test]
fn frames_that_wait_for_company_are_noticed() {
    let mut caught = 0;
    for seed in 0..40 {
        let mut dice = Dice::new(mix(seed, 0x77726f6e67));
        let program = Program::random(&mut dice, 4);
        let way = Way { mutant: Mutant::WaitsForCompany, ..way_of(&mut dice) };
        if let Err(problem) = Tally::default().add(&program, way) {
            // Which batches leave together depends on who is polled, so some orders may leave no frame behind.
            assert!(problem.contains("on as Stuck") || problem.contains("ends in two ways"), "{problem}");
            caught += 1;
        }
    }
    println!("{caught} of 40 programs do not finish where frames wait for company");
    assert!(caught > 20);
}

#[test]
fn programs_are_what_they_should_be() {
    let mut dice = Dice::new(7);
    let programs: Vec<Program> = (0..300).map(|_| Program::random(&mut dice, 4)).collect();
    let has = |what: fn(&Call) -> bool| {
        programs.iter().filter(|program| program.0.iter().flatten().flatten().any(what)).count()
    };
    assert!(has(|call| matches!(call, Call::Collective(..))) > 50);
    assert!(has(|call| matches!(call, Call::Recv { bytes: LONG_BYTES, .. })) > 50);
    let grouped = programs.iter().filter(|program| program.0.iter().flatten().any(|group| group.len() > 1));
    assert!(grouped.count() > 100);
    assert!(programs.iter().all(|program| program.operation_count() <= 12));
    assert!(programs.iter().filter(|program| program.operation_count() >= 8).count() > 50);
}
