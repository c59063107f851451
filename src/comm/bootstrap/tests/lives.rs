//! Random lives on paper: processes meet, use, split, shrink, grow, revoke, abort and destroy communicators on a
//! simulated network, and are lost or give up at any moment of a birth or of a call. The plan follows from the seed.
//!
//! The births are those of [`super::world`], the calls run on the engine over `transport::sim`; between them nothing is
//! done but what `comm` does: who met gets an engine, and what failed is not used again but shrunk or ended. The same
//! with real processes is `tests/c/lifecycle/random.c`.

use std::time::Duration;

use super::terms::{BOUND, terms};
use super::world::World;
use super::{Random, campaign, sample_card};
use crate::coalesce::Limits;
use crate::device::host::Host;
use crate::engine::{Engine, Facts, Poll};
use crate::error::Error;
use crate::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};
use crate::schedule::{Algorithm, Hosts};
use crate::transport::Peer;
use crate::transport::sim::{Network, SimTransport, Weather};
use crate::tune;

const STEPS: usize = 10;
/// Polls of everybody after which a call counts as one that never ends.
const ROUNDS_MAX: usize = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sound,
    /// A rank is lost or gave up.
    Broken,
    Revoked,
    Over,
}

/// A communicator.
struct Line {
    /// The processes, by rank.
    members: Vec<usize>,
    network: Network,
    engines: Vec<Engine<SimTransport, Host>>,
    state: State,
}

/// What goes wrong, after so many events or rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Death(u64),
    Abort(u64),
    /// The rank never comes.
    Absence,
}

/// What happened in all lives.
#[derive(Debug, Default)]
struct Counts {
    births: usize,
    failed_births: usize,
    calls: usize,
    failed_calls: usize,
    deaths: usize,
    children: usize,
}

struct Life<'a> {
    random: Random,
    alive: Vec<bool>,
    lines: Vec<Line>,
    counts: &'a mut Counts,
}

#[test]
fn random_lives_end_well() {
    let mut counts = Counts::default();
    let count = campaign(1000, 20_000) as u64;
    for seed in 0..count {
        // Printed if it fails.
        println!("life {seed}");
        let mut random = Random(seed);
        let processes = 2 + random.below(7);
        let mut life = Life { random, alive: vec![true; processes], lines: Vec::new(), counts: &mut counts };
        life.make();
        for _ in 0..STEPS {
            life.step();
        }
        life.end();
    }
    println!("{counts:?}");
    let Counts { births, failed_births, calls, failed_calls, deaths, children } = counts;
    for happened in [births, failed_births, calls, failed_calls, deaths, children] {
        assert!(happened > count as usize / 10, "{happened}");
    }
}

impl Life<'_> {
    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn living(&self) -> Vec<usize> {
        (0..self.alive.len()).filter(|process| self.alive[*process]).collect()
    }

    /// One of the lines in one of these states.
    fn choose(&mut self, states: &[State]) -> Option<usize> {
        let fits: Vec<usize> =
            (0..self.lines.len()).filter(|line| states.contains(&self.lines[*line].state)).collect();
        (!fits.is_empty()).then(|| fits[self.random.below(fits.len())])
    }

    fn step(&mut self) {
        match self.random.below(9) {
            0 | 1 => self.make(),
            2 | 3 => self.call(),
            4 => self.split(),
            5 => self.shrink(),
            6 => self.grow(),
            7 => self.leave(),
            _ => {
                let living = self.living();
                if living.len() > 1 && self.chance(60) {
                    let victim = living[self.random.below(living.len())];
                    self.kill(victim);
                }
            }
        }
    }

    /// The process is gone; whoever shared a communicator with it hears of it.
    fn kill(&mut self, victim: usize) {
        self.counts.deaths += 1;
        self.alive[victim] = false;
        let alive = &self.alive;
        for line in self.lines.iter_mut().filter(|line| line.state != State::Over) {
            let Some(rank) = line.members.iter().position(|member| *member == victim) else { continue };
            line.network.kill(rank as u32);
            if line.state != State::Sound {
                continue;
            }
            line.state = State::Broken;
            for other in (0..line.members.len()).filter(|other| alive[line.members[*other]]) {
                let heard = line.engines[other].look_for_death().map(|error| error.to_string());
                assert!(heard.as_ref().is_some_and(|text| text.contains("is gone")), "{heard:?}");
            }
        }
    }

    fn trouble(&mut self, moments: usize) -> Option<Trouble> {
        let moment = self.random.below(moments) as u64;
        match self.random.below(8) {
            0 => Some(Trouble::Death(moment)),
            1 => Some(Trouble::Abort(moment)),
            2 => Some(Trouble::Absence),
            _ => None,
        }
    }

    /// `members` meet in a world that `found` makes; with trouble for one of them. Whether all of them have met.
    fn meet(&mut self, members: &[usize], found: impl FnOnce(u64, &[u32]) -> World) -> bool {
        let ranks = members.len();
        if ranks == 1 {
            return true;
        }
        self.counts.births += 1;
        let (lost, trouble) = (self.random.below(ranks), self.trouble(80 * ranks));
        let is_present = |rank: &u32| trouble != Some(Trouble::Absence) || *rank as usize != lost;
        let present: Vec<u32> = (0..ranks as u32).filter(is_present).collect();
        let mut world = found(self.random.next(), &present);
        match trouble {
            None => {
                world.run();
                world.assert_all_met();
                assert!(world.settled < Duration::from_secs(10));
                return true;
            }
            Some(Trouble::Absence) => world.nodes[lost].result = Some(Ok(())),
            Some(Trouble::Death(moment) | Trouble::Abort(moment)) => {
                world.run_until(|world| world.event_count >= moment);
                if world.nodes[lost].result.is_some() {
                    // It was faster.
                } else if matches!(trouble, Some(Trouble::Death(_))) {
                    world.kill(lost);
                } else {
                    world.give_up(lost);
                }
            }
        }
        let when = world.now;
        world.run();
        assert!(world.settled <= when + BOUND + Duration::from_secs(10), "{trouble:?}: {:?}", world.settled);
        let mut have_all_met = trouble != Some(Trouble::Absence);
        for node in (0..ranks).filter(|node| *node != lost) {
            match world.nodes[node].result.as_ref() {
                Some(Ok(())) => {}
                Some(Err(Error::Remote(text) | Error::Timeout(text))) => {
                    have_all_met = false;
                    // Who stands under an absent rank names the one that it cannot reach; a leader that hears of it
                    // before it came to both its roots is itself missed at the other.
                    let may_differ = trouble == Some(Trouble::Absence)
                        || !world.others.is_empty() && text.contains("did not come");
                    let is_named = text.contains(&format!("rank {lost} ")) || may_differ;
                    assert!(is_named, "{trouble:?} of {lost} of {ranks}: {node} says {text}");
                }
                other => panic!("{trouble:?} of {lost} of {ranks}: {node} has {other:?}"),
            }
        }
        let has_given_up = matches!(trouble, Some(Trouble::Abort(_))) && world.nodes[lost].gathered.len() < 2;
        if matches!(trouble, Some(Trouble::Death(_))) {
            self.kill(members[lost]);
        }
        let is_born = have_all_met && !has_given_up && self.alive[members[lost]];
        self.counts.failed_births += usize::from(!is_born);
        is_born
    }

    /// Those who met become ranks.
    fn add(&mut self, members: Vec<usize>) {
        let eager_bytes = [64, 256, 4096][self.random.below(3)];
        let weather = Weather {
            delay_ns: [0, 10, 100_000][self.random.below(3)],
            eager_bytes,
            line_bytes: eager_bytes * (1 + self.random.below(3)),
            piece_bytes: [64, 4096][self.random.below(2)],
        };
        let ranks = members.len() as u32;
        let network = Network::new(ranks, weather, self.random.next());
        let algorithm = match self.random.below(3) {
            0 => String::new(),
            _ => Algorithm::ALL[self.random.below(Algorithm::ALL.len())].name().to_owned(),
        };
        let facts = |rank| Facts {
            rank,
            ranks,
            limits: Limits { message_bytes: 64, frame_bytes: 256 },
            tune: tune::Facts {
                ranks,
                ranks_per_host: ranks,
                cores: 4,
                hosts: Hosts::of(vec![0; ranks as usize]),
                is_deterministic: false,
                choices: tune::table::Choices::default(),
            }
            .with_table(None),
            algorithm: algorithm.clone(),
        };
        let engines = (0..ranks).map(|rank| Engine::new(network.join(rank), Host, facts(rank))).collect();
        self.lines.push(Line { members, network, engines, state: State::Sound });
    }

    fn some_of(&mut self, processes: Vec<usize>) -> Vec<usize> {
        let start = self.random.below(processes.len());
        let turned: Vec<usize> = processes[start..].iter().chain(&processes[..start]).copied().collect();
        let first = turned[0];
        turned.into_iter().filter(|process| *process == first || self.chance(70)).collect()
    }

    fn make(&mut self) {
        let living = self.living();
        if living.is_empty() {
            return;
        }
        let members = self.some_of(living);
        let ranks = members.len() as u32;
        let groups = if self.chance(25) { 1 + self.random.below(members.len()) as u32 } else { 1 };
        if self.meet(&members, |seed, present| by_ids(seed, ranks, groups, present)) {
            self.add(members);
        }
    }

    fn split(&mut self) {
        let Some(parent) = self.choose(&[State::Sound, State::Revoked]) else { return };
        let members = self.lines[parent].members.clone();
        let is_whole = members.iter().all(|member| self.alive[*member]);
        let ranks = members.len() as u32;
        // Who is dead does not come, and so there is no child.
        if !is_whole || !self.meet(&members, |seed, present| World::with_kin(seed, ranks, present, 1)) {
            return;
        }
        let colors: Vec<usize> = members.iter().map(|_| self.random.below(3)).collect();
        for color in 0..2 {
            let own = members.iter().zip(&colors).filter(|(_, its)| **its == color);
            self.child(own.map(|(member, _)| *member).collect());
        }
    }

    /// Members of a parent meet again.
    fn child(&mut self, mut members: Vec<usize>) {
        if members.is_empty() || !members.iter().all(|member| self.alive[*member]) {
            return;
        }
        if self.chance(50) {
            members.reverse();
        }
        let ranks = members.len() as u32;
        if self.meet(&members, |seed, present| World::with_kin(seed, ranks, present, 2)) {
            self.counts.children += 1;
            self.add(members);
        }
    }

    fn shrink(&mut self) {
        let Some(parent) = self.choose(&[State::Sound, State::Broken, State::Revoked]) else { return };
        let living: Vec<usize> =
            self.lines[parent].members.iter().copied().filter(|member| self.alive[*member]).collect();
        if self.lines[parent].state == State::Broken {
            self.end_line(parent, Peer::Revoked);
        }
        if !living.is_empty() {
            let left = self.some_of(living);
            self.child(left);
        }
    }

    fn grow(&mut self) {
        let Some(parent) = self.choose(&[State::Sound]) else { return };
        let mut members = self.lines[parent].members.clone();
        let ranks = members.len() as u32;
        if !self.meet(&members, |seed, present| World::with_kin(seed, ranks, present, 1)) {
            return;
        }
        let others: Vec<usize> =
            self.living().into_iter().filter(|process| !members.contains(process)).collect();
        if others.is_empty() || !members.iter().all(|member| self.alive[*member]) {
            return;
        }
        members.extend(self.some_of(others));
        let ranks = members.len() as u32;
        if self.meet(&members, |seed, present| by_ids(seed, ranks, 1, present)) {
            self.add(members);
        }
    }

    /// Revoked, aborted or destroyed by all.
    fn leave(&mut self) {
        let Some(line) = self.choose(&[State::Sound, State::Broken, State::Revoked]) else { return };
        let how = match self.lines[line].state {
            State::Sound => [Peer::Revoked, Peer::Aborted, Peer::Closed][self.random.below(3)],
            _ => Peer::Aborted,
        };
        self.end_line(line, how);
    }

    fn end_line(&mut self, line: usize, how: Peer) {
        let line = &mut self.lines[line];
        for (engine, member) in line.engines.iter_mut().zip(&line.members) {
            if self.alive[*member] {
                engine.end(how, Error::Aborted("the life goes on".into()));
                assert_eq!(engine.completed(), engine.submitted(), "nothing is left behind");
            }
        }
        line.state = if how == Peer::Revoked { State::Revoked } else { State::Over };
    }

    fn end(&mut self) {
        for line in 0..self.lines.len() {
            if self.lines[line].state != State::Over {
                self.end_line(line, Peer::Aborted);
            }
        }
    }

    /// All ranks call the same; one of them may be lost or abort in the middle.
    fn call(&mut self) {
        let Some(index) = self.choose(&[State::Sound]) else { return };
        self.counts.calls += 1;
        let ranks = self.lines[index].members.len();
        let (lost, trouble) = (self.random.below(ranks), self.trouble(20));
        let trouble = trouble.filter(|trouble| *trouble != Trouble::Absence);
        let (count, calls) = (self.random.below(1500), 1 + self.random.below(3));
        let mut seats: Vec<Seat> = (0..ranks).map(|rank| Seat::new(rank, ranks, count, calls)).collect();
        let line = &mut self.lines[index];
        for (seat, engine) in seats.iter_mut().zip(&mut line.engines) {
            seat.submit(engine, count);
        }
        run(line, &mut seats, trouble.map(|trouble| (lost, trouble)), &mut self.random);
        let mut has_failed = false;
        for (rank, seat) in seats.iter().enumerate() {
            match line.engines[rank].failure() {
                _ if rank == lost && trouble.is_some() => {}
                None => seat.check(ranks, count),
                Some(error) => {
                    has_failed = true;
                    let text = error.to_string();
                    assert!(
                        trouble.is_some() && text.contains(&format!("rank {lost} ")),
                        "{trouble:?}: {text}"
                    );
                    assert!(line.engines[rank].prepare(&seat.ops(count)).is_err(), "nothing starts on it");
                }
            }
        }
        self.counts.failed_calls += usize::from(has_failed);
        let member = line.members[lost];
        match trouble {
            Some(Trouble::Death(_)) => self.kill(member),
            Some(_) => line.state = State::Broken,
            None => {}
        }
        // What the survivors have of a call that was not finished is given up before its memory goes.
        if self.lines[index].state == State::Broken {
            self.end_line(index, Peer::Revoked);
        }
    }
}

/// A birth by `groups` ids, of those that are `present`.
fn by_ids(seed: u64, ranks: u32, groups: u32, present: &[u32]) -> World {
    let mut world = World::with_ids(seed, 0, groups, 2);
    for rank in 0..ranks {
        let node = world.add(terms(), sample_card(rank, ranks), 2);
        world.nodes[node].is_dead = !present.contains(&rank);
    }
    world
}

/// One rank's memory of a call.
struct Seat {
    source: Vec<i32>,
    targets: Vec<Vec<i32>>,
    until: u64,
    is_done: bool,
}

impl Seat {
    fn new(rank: usize, ranks: usize, count: usize, calls: usize) -> Seat {
        let source = (0..count).map(|at| (rank * 1000 + at) as i32).collect();
        let targets = (0..calls).map(|_| vec![-1; count * ranks]).collect();
        Seat { source, targets, until: 0, is_done: false }
    }

    /// An AllReduce, an AllGather and so on, in turns.
    fn ops(&self, count: usize) -> Vec<Op> {
        let address = |memory: &Vec<i32>| Address(memory.as_ptr().expose_provenance());
        let op = |(at, target): (usize, &Vec<i32>)| Op {
            shape: Shape {
                count,
                peer: 0,
                kind: kind_of(at),
                data_type: DataType::Int32,
                reduction: Reduction::Sum,
                manner: Manner::PLAIN,
            },
            source: address(&self.source),
            target: address(target),
            scalar: Scalar::None,
        };
        self.targets.iter().enumerate().map(op).collect()
    }

    fn submit(&mut self, engine: &mut Engine<SimTransport, Host>, count: usize) {
        for op in self.ops(count) {
            let plan = engine.prepare(&[op]).expect("a sound communicator takes calls");
            self.until = engine.submit(&[op], plan, None);
        }
    }

    fn check(&self, ranks: usize, count: usize) {
        let sum = |at: usize| (ranks * (ranks - 1) / 2 * 1000 + ranks * at) as i32;
        for (call, target) in self.targets.iter().enumerate() {
            let is_right = |place: usize| match kind_of(call) {
                Kind::AllReduce => place >= count || target[place] == sum(place),
                _ => target[place] == (place / count * 1000 + place % count) as i32,
            };
            assert!(
                (0..count * ranks).all(is_right),
                "call {call} of {ranks} ranks with {count}: {target:?}"
            );
        }
    }
}

fn kind_of(call: usize) -> Kind {
    [Kind::AllReduce, Kind::AllGather][call % 2]
}

/// Polls everybody in any order until all are done or know that they cannot be.
fn run(line: &mut Line, seats: &mut [Seat], trouble: Option<(usize, Trouble)>, random: &mut Random) {
    let mut gone = vec![false; seats.len()];
    let mut stuck = 0;
    for round in 0..ROUNDS_MAX {
        match trouble {
            Some((lost, Trouble::Death(moment))) if moment == round as u64 => {
                line.network.kill(lost as u32);
                gone[lost] = true;
            }
            Some((lost, Trouble::Abort(moment))) if moment == round as u64 => {
                line.engines[lost].end(Peer::Aborted, Error::Aborted(format!("rank {lost} gave up")));
                gone[lost] = true;
            }
            _ => {}
        }
        let mut has_moved = false;
        let start = random.below(seats.len());
        for turn in 0..seats.len() {
            let at = (start + turn) % seats.len();
            if gone[at] || seats[at].is_done {
                continue;
            }
            for _ in 0..1 + random.below(3) {
                has_moved |= line.engines[at].poll() == Poll::Moved;
            }
            seats[at].is_done = line.engines[at].completed() >= seats[at].until;
        }
        let is_due = trouble.is_none_or(|(_, trouble)| match trouble {
            Trouble::Death(at) | Trouble::Abort(at) => round as u64 >= at,
            Trouble::Absence => true,
        });
        if is_due && (0..seats.len()).all(|at| gone[at] || seats[at].is_done) {
            return;
        }
        has_moved |= line.network.advance();
        stuck = if has_moved || !is_due { 0 } else { stuck + 1 };
        if stuck > 2 {
            for at in (0..seats.len()).filter(|at| !gone[*at]) {
                line.engines[at].check_peers();
            }
        }
        assert!(stuck < 10, "nobody can move, and nobody knows why");
    }
    panic!("it never ends");
}
