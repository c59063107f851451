//! Proves a set of plans, one per rank, right for every timing.
//!
//! ```text
//! shape:    lanes are in order, ranges lie in buffers of the rank, only targets and scratch are written
//! pairing:  the k-th message from p to q has the size that the k-th receive of q from p expects
//! run:      execute with lines that hold nothing: a packet moves when its sender and its receiver both stand
//!           at it. Every step must get done
//! memory:   whatever two steps of a rank touch the same bytes, one of them writing, must be ordered by
//!           lanes and waits alone; what is read must have been written
//! meaning:  every byte carries the term that made it; every result must be the term that was asked for
//! ```
//! 1. Lanes and lines are a Kahn network, so one order of execution stands for all: what finishes with lines
//!    that hold nothing finishes with any that hold more.
//! 2. Since all conflicting steps are ordered, every execution gives every read the same bytes; so the terms
//!    of one execution are the terms of all.
//! 3. A frame is a packet of several messages, and one step may receive several, whatever packets bring them:
//!    messages move one by one, and each side stands at its step until the last of the step's has moved.
//! 4. Terms cover ranges, not elements: the cost follows the number of cuts, not of bytes.
#![forbid(unsafe_code)]

mod memory;
mod messages;
mod shape;
mod terms;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use super::{Action, Call, Plan, SOURCE, Step, TARGET};
use crate::op::Kind;
use memory::{Memory, Part};
pub use messages::{Post, check_messages};
use shape::{Layout, Way};
use terms::{TermId, Terms};

/// What is wrong with a set of plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Whose plan shows it.
    pub rank: u32,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}: {}", self.rank, self.what)
    }
}

impl std::error::Error for Flaw {}

/// Proves that `plans`, by rank, do what `calls`, by rank, ask for, without deadlock, under every timing.
/// The calls differ in `in_place` only, and where nothing is combined in types of equal bytes.
///
/// # Errors
/// The first flaw found.
pub fn check(calls: &[Call], plans: &[Plan]) -> Result<(), Flaw> {
    let flaw = |rank: usize, what: String| Flaw { rank: rank as u32, what };
    for (rank, call) in calls.iter().enumerate() {
        if !are_alike(call, &calls[0]) || call.ranks as usize != calls.len() || plans.len() != calls.len() {
            return Err(flaw(rank, "its call is not the call of rank 0".into()));
        }
        if !call.is_sound(rank as u32) {
            return Err(flaw(rank, "the call cannot exist".into()));
        }
    }
    let mut terms = Terms::new(calls.len());
    let mut ranks = Vec::with_capacity(calls.len());
    for (number, (call, plan)) in (0..).zip(calls.iter().zip(plans)) {
        let layout = Layout::of(call, number, plan.scratch_bytes);
        let mut memory = Memory::default();
        let (start, bytes) = layout.extent(SOURCE);
        memory.fill(start, bytes, terms.own(number), 0);
        ranks.push(Rank::new(plan, layout, memory, number, call.ranks)?);
    }
    let mut run = Run { ranks, terms };
    run.pair()?;
    run.finish()?;
    run.verify(calls)
}

fn are_alike(call: &Call, other: &Call) -> bool {
    let is_same_data = if call.kind.reduces() {
        (call.data_type, call.count, call.reduction) == (other.data_type, other.count, other.reduction)
    } else {
        call.bytes() == other.bytes()
    };
    is_same_data && (call.kind, call.root, call.ranks) == (other.kind, other.root, other.ranks)
}

/// The steps that are known to be done when a step starts: how many of each lane, by lane.
type Clock = Rc<[(u32, u32)]>;

struct Run<'a> {
    ranks: Vec<Rank<'a>>,
    terms: Terms,
}

struct Rank<'a> {
    plan: &'a Plan,
    layout: Layout,
    ways: Vec<Way>,
    lanes: HashMap<Way, usize>,
    /// How many steps of each lane are done.
    done: Vec<u32>,
    /// How many messages of each lane's next step have moved.
    moved: Vec<u32>,
    /// Lanes that look again when a lane has moved on.
    wakes: Vec<Vec<u32>>,
    memory: Memory,
    /// By step.
    clocks: Vec<Option<Clock>>,
}

impl<'a> Rank<'a> {
    fn new(
        plan: &'a Plan,
        layout: Layout,
        memory: Memory,
        number: u32,
        ranks: u32,
    ) -> Result<Rank<'a>, Flaw> {
        let ways = shape::ways(ranks, plan, &layout).map_err(|what| Flaw { rank: number, what })?;
        Ok(Rank {
            plan,
            layout,
            lanes: ways.iter().copied().zip(0..).collect(),
            done: vec![0; ways.len()],
            moved: vec![0; ways.len()],
            wakes: vec![Vec::new(); ways.len()],
            ways,
            memory,
            clocks: vec![None; plan.steps.len()],
        })
    }

    fn lane_to(&self, way: Way) -> Option<usize> {
        self.lanes.get(&way).copied()
    }

    /// The steps of a lane.
    fn steps(&self, lane: usize) -> &[Step] {
        let lane = self.plan.lanes[lane];
        &self.plan.steps[lane.first as usize..(lane.first + lane.count) as usize]
    }

    /// The next step of `lane`, if it may start; else the lane that it waits for, if there is one.
    fn next(&self, lane: usize) -> Result<Step, Option<u32>> {
        let step = *self.steps(lane).get(self.done[lane] as usize).ok_or(None)?;
        for wait in shape::waits(self.plan, &step) {
            if self.done[wait.lane as usize] <= wait.index {
                return Err(Some(wait.lane));
            }
        }
        Ok(step)
    }

    /// Computes what is known to be done when the next step of `lane` starts, and names that step.
    fn start(&mut self, lane: usize) -> usize {
        let index = self.plan.lanes[lane].first as usize + self.done[lane] as usize;
        let step = self.plan.steps[index];
        let before = (self.done[lane] > 0).then(|| self.clocks[index - 1].clone()).flatten();
        let waits = shape::waits(self.plan, &step);
        if waits.is_empty() {
            self.clocks[index] = before;
            return index;
        }
        let mut known: HashMap<u32, u32> = before.iter().flat_map(|clock| clock.iter().copied()).collect();
        for wait in waits {
            let other = self.plan.lanes[wait.lane as usize].first as usize + wait.index as usize;
            let inherited = self.clocks[other].iter().flat_map(|clock| clock.iter().copied());
            for (lane, count) in inherited.chain([(wait.lane, wait.index + 1)]) {
                let entry = known.entry(lane).or_insert(0);
                *entry = count.max(*entry);
            }
        }
        let mut clock: Vec<_> = known.into_iter().collect();
        clock.sort_unstable();
        self.clocks[index] = Some(clock.into());
        index
    }

    /// Whether step `earlier` is always done when step `later` starts.
    fn is_ordered(plan: &Plan, clocks: &[Option<Clock>], earlier: usize, later: usize) -> bool {
        let place = |step: usize| {
            let lane = plan.lanes.partition_point(|lane| (lane.first + lane.count) as usize <= step);
            (lane as u32, step as u32 - plan.lanes[lane].first)
        };
        let ((lane, index), (later_lane, later_index)) = (place(earlier), place(later));
        if lane == later_lane {
            return index <= later_index;
        }
        let Some(clock) = &clocks[later] else { return false };
        clock.binary_search_by_key(&lane, |entry| entry.0).is_ok_and(|found| clock[found].1 > index)
    }

    /// The next message of the lane's step, which counts as moved; behind the last one, none have.
    fn next_message(&mut self, lane: usize, step: usize) -> Option<super::Range> {
        let messages = shape::messages(self.plan, &self.plan.steps[step]);
        let moved = self.moved[lane] as usize;
        self.moved[lane] = if moved + 1 < messages.len() { moved as u32 + 1 } else { 0 };
        messages.get(moved).copied()
    }

    fn read(&mut self, step: usize, range: super::Range) -> Result<Vec<Part>, String> {
        let Rank { plan, clocks, memory, layout, .. } = self;
        memory.read(layout.at(range), range.bytes, step, |a, b| Self::is_ordered(plan, clocks, a, b))
    }

    fn write(&mut self, step: usize, range: super::Range, parts: Vec<Part>) -> Result<(), String> {
        let Rank { plan, clocks, memory, layout, .. } = self;
        memory.write(layout.at(range), parts, step, |a, b| Self::is_ordered(plan, clocks, a, b))
    }
}

impl Run<'_> {
    /// What is sent meets what is received, in number and in sizes.
    fn pair(&self) -> Result<(), Flaw> {
        for (number, rank) in self.ranks.iter().enumerate() {
            for (lane, way) in rank.ways.iter().enumerate() {
                let (peer, back) = match *way {
                    Way::To(peer) => (peer, Way::From(number as u32)),
                    Way::From(peer) => (peer, Way::To(number as u32)),
                    Way::Local => continue,
                };
                let other = &self.ranks[peer as usize];
                let theirs = other.lane_to(back).map_or(&[][..], |lane| other.steps(lane));
                let sizes = |plan: &Plan, steps: &[Step]| -> Vec<_> {
                    let messages = steps.iter().flat_map(|step| shape::messages(plan, step));
                    messages.map(|range| range.bytes).collect()
                };
                let (mine, theirs) = (sizes(rank.plan, rank.steps(lane)), sizes(other.plan, theirs));
                if mine != theirs {
                    let what = format!("packets {way:?} have sizes {mine:?}, the peer has {theirs:?}");
                    return Err(Flaw { rank: number as u32, what });
                }
            }
        }
        Ok(())
    }

    /// Executes all there is.
    fn finish(&mut self) -> Result<(), Flaw> {
        let lanes = |(number, rank): (usize, &Rank<'_>)| {
            (0..rank.ways.len()).map(move |lane| (number, lane)).collect::<Vec<_>>()
        };
        let mut queue: VecDeque<_> = self.ranks.iter().enumerate().flat_map(lanes).collect();
        while let Some((number, lane)) = queue.pop_front() {
            let rank = &mut self.ranks[number];
            let step = match rank.next(lane) {
                Ok(step) => step,
                Err(blocker) => {
                    if let Some(blocker) = blocker {
                        rank.wakes[blocker as usize].push(lane as u32);
                    }
                    continue;
                }
            };
            for (number, lane) in self.try_step(number, lane, step)? {
                self.ranks[number].done[lane] += 1;
                queue.push_back((number, lane));
                queue.extend(self.ranks[number].wakes[lane].drain(..).map(|lane| (number, lane as usize)));
            }
        }
        for (number, rank) in self.ranks.iter().enumerate() {
            for (lane, way) in rank.ways.iter().enumerate() {
                let (done, count) = (rank.done[lane], rank.plan.lanes[lane].count);
                if done < count {
                    let what = format!("lane {lane} ({way:?}) is stuck at step {done} of {count}");
                    return Err(Flaw { rank: number as u32, what });
                }
            }
        }
        Ok(())
    }

    /// Executes a step that may start, with its other half if it is a packet; names the lanes that moved, as
    /// (rank, lane).
    fn try_step(&mut self, number: usize, lane: usize, step: Step) -> Result<Vec<(usize, usize)>, Flaw> {
        let (peer, back) = match self.ranks[number].ways[lane] {
            Way::Local => {
                self.run_local(number, lane).map_err(|what| Flaw { rank: number as u32, what })?;
                return Ok(vec![(number, lane)]);
            }
            Way::To(peer) => (peer as usize, Way::From(number as u32)),
            Way::From(peer) => (peer as usize, Way::To(number as u32)),
        };
        let Some(other) = self.ranks[peer].lane_to(back) else { return Ok(vec![]) };
        if self.ranks[peer].next(other).is_err() {
            return Ok(vec![]);
        }
        let is_send = matches!(step.action, Action::Send { .. } | Action::SendFrame { .. });
        let (sender, receiver) =
            if is_send { ((number, lane), (peer, other)) } else { ((peer, other), (number, lane)) };
        let flaw = |number: usize| move |what| Flaw { rank: number as u32, what };
        loop {
            let parts = self.run_send(sender).map_err(flaw(sender.0))?;
            self.run_recv(receiver, parts).map_err(flaw(receiver.0))?;
            let is_done = |side: &(usize, usize)| self.ranks[side.0].moved[side.1] == 0;
            let done: Vec<_> = [sender, receiver].into_iter().filter(is_done).collect();
            if !done.is_empty() {
                return Ok(done);
            }
        }
    }

    /// The next message of the packet at which the lane stands.
    fn run_send(&mut self, (number, lane): (usize, usize)) -> Result<Vec<Part>, String> {
        let rank = &mut self.ranks[number];
        let step = rank.start(lane);
        let from = rank.next_message(lane, step).ok_or("a lane mixes directions")?;
        rank.read(step, from)
    }

    /// Brings the next message of the lane to where it belongs.
    fn run_recv(&mut self, (number, lane): (usize, usize), incoming: Vec<Part>) -> Result<(), String> {
        let rank = &mut self.ranks[number];
        let step = rank.start(lane);
        let into = rank.next_message(lane, step).ok_or("a lane mixes directions")?;
        let Action::RecvReduce { with, incoming_first, .. } = rank.plan.steps[step].action else {
            return rank.write(step, into, incoming);
        };
        let with = rank.read(step, with)?;
        let (left, right) = if incoming_first { (incoming, with) } else { (with, incoming) };
        let sum = self.terms.combine(&left, &right)?;
        rank.write(step, into, sum)
    }

    fn run_local(&mut self, number: usize, lane: usize) -> Result<(), String> {
        let rank = &mut self.ranks[number];
        let step = rank.start(lane);
        match rank.plan.steps[step].action {
            Action::Copy { from, into } => {
                let parts = rank.read(step, from)?;
                rank.write(step, into, parts)
            }
            Action::Reduce { left, right, into } => {
                let (left, right) = (rank.read(step, left)?, rank.read(step, right)?);
                let sum = self.terms.combine(&left, &right)?;
                rank.write(step, into, sum)
            }
            Action::Scale { from, into } => {
                let parts = rank.read(step, from)?;
                let parts = self.terms.map(parts, Terms::scale)?;
                rank.write(step, into, parts)
            }
            Action::Divide { range } => {
                let parts = rank.read(step, range)?;
                let parts = self.terms.map(parts, Terms::divide)?;
                rank.write(step, range, parts)
            }
            _ => Err("a local lane has packets".into()),
        }
    }

    /// Every result is what was asked for, and an AllReduce the same everywhere, to the last bit.
    fn verify(&mut self, calls: &[Call]) -> Result<(), Flaw> {
        let mut first: Option<Vec<Part>> = None;
        for (number, call) in calls.iter().enumerate() {
            let result = self.verify_rank(call, number);
            let parts = result.map_err(|what| Flaw { rank: number as u32, what })?;
            if call.kind == Kind::AllReduce && *first.get_or_insert_with(|| parts.clone()) != parts {
                let what = "its result was made otherwise than that of rank 0: bits may differ".into();
                return Err(Flaw { rank: number as u32, what });
            }
        }
        Ok(())
    }

    fn verify_rank(&mut self, call: &Call, number: usize) -> Result<Vec<Part>, String> {
        let rank = &mut self.ranks[number];
        let mut all = Vec::new();
        for wanted in shape::wanted(call, number as u32) {
            let start = rank.layout.extent(TARGET).0 + wanted.offset;
            let parts = rank.memory.read(start, wanted.bytes, usize::MAX, |_, _| true);
            let parts = parts.map_err(|_| "a part of its result was never written".to_owned())?;
            let mut origin = wanted.origin;
            for part in &parts {
                if part.origin != origin {
                    return Err(format!("target byte {} comes from a wrong place", wanted.offset));
                }
                origin += part.bytes;
                self.terms.verify(call, part.term, wanted.from)?;
            }
            all.extend(parts);
        }
        Ok(all)
    }
}
