//! Thousands of ranks on paper: the schedules that the engine runs, over links and cores as discrete events.
//!
//! ```
//! use shoal::op::{DataType, Kind, Reduction};
//! use shoal::schedule::{Algorithm, Call};
//! use shoal::simulate::{Folding, Machine, collective};
//! let call = Call {
//!     kind: Kind::AllReduce, data_type: DataType::Float32, reduction: Reduction::Sum,
//!     root: 0, count: 1 << 12, ranks: 4096, in_place: false,
//! };
//! let machine = Machine { ranks_per_host: 1, hosts_per_island: 0, ..Machine::default() };
//! let time = |algorithm| collective(&machine, &call, algorithm, &Folding::WherePossible).unwrap().time_ns;
//! assert!(time(Algorithm::Tree) < time(Algorithm::Ring));
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | [`machine`] | links by where ranks are, cores, how both are laid out |
//! | [`mod@file`] | the machine as a text file |
//! | `program` | a plan without where its data lies |
//! | `event`, `run` | the discrete events |
//! | [`fold`] | equal ranks, simulated once |
//! | [`fit`](mod@fit) | a machine's numbers from measured times |
//! | [`mix`] | lists of calls, as training jobs make them |
//! | [`regions`] | which algorithm is fastest, by ranks and bytes |
//!
//! What it does not know: congestion within an island, routes, other jobs, the cost of looking after many lanes that
//! do not move, and that a core which waits may slow down its neighbour.
#![forbid(unsafe_code)]

pub mod file;
pub mod fit;
pub mod fold;
pub mod machine;
pub mod mix;
pub mod regions;

mod event;
mod program;
mod run;

pub use fold::Fold;
pub use machine::{Class, Core, Link, Machine};

use std::fmt;

use program::{Partner, Program, Work};
use run::{Ended, Scene};

use crate::coalesce::{self, Limits, Message};
use crate::op::Kind;
use crate::schedule::{self, Algorithm, Call};

/// No run has more steps: what they take fits into 4 GiB.
pub const MOST_STEPS: u64 = 40_000_000;

/// Whether equal ranks are simulated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Folding {
    /// Where machine and schedule are alike for all of them.
    #[default]
    WherePossible,
    /// Never: every rank by itself.
    Never,
    /// Always, or the reason why not.
    Always,
}

/// What a simulated call took.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the common begin until the last rank is done; of several calls in a row, the mean of the later half.
    pub time_ns: f64,
    /// Messages between ranks.
    pub messages: u64,
    /// Packets: fewer than messages where these share frames.
    pub packets: u64,
    /// Bytes of all packets.
    pub bytes: u64,
    /// The most bytes that a rank held beside the caller's buffers: scratch, and packets that it had not read.
    pub peak_bytes: u64,
    /// How many ranks were run by themselves; the others are like them.
    pub simulated: u32,
    /// When each of these was done, in picoseconds.
    pub ends: Vec<u64>,
    /// Why equal ranks were not folded.
    pub unfolded: Option<String>,
}

/// Why a call was not simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The algorithm has no form for the operation, or the call names ranks or bytes that cannot exist.
    NoForm,
    /// Folding was asked for and cannot be.
    NotAlike(String),
    /// More steps than [`MOST_STEPS`], and why so many.
    TooLarge(String),
    /// The messages of a batch do not fit together.
    Mismatch(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoForm => formatter.write_str("no form for this operation"),
            Refusal::NotAlike(why) => write!(formatter, "cannot be folded: {why}"),
            Refusal::TooLarge(why) => write!(formatter, "more than {MOST_STEPS} steps, {why}"),
            Refusal::Mismatch(why) => write!(formatter, "the messages do not fit together: {why}"),
        }
    }
}

/// One collective call of all ranks at once.
///
/// # Errors
/// See [`Refusal`].
pub fn collective(
    machine: &Machine,
    call: &Call,
    algorithm: Algorithm,
    folding: &Folding,
) -> Result<Outcome, Refusal> {
    in_a_row(machine, call, algorithm, folding, 1)
}

/// So many calls, each rank beginning one when it is done with the one before.
///
/// # Errors
/// See [`Refusal`].
pub fn in_a_row(
    machine: &Machine,
    call: &Call,
    algorithm: Algorithm,
    folding: &Folding,
    calls: u32,
) -> Result<Outcome, Refusal> {
    let hosts = machine.hosts(call.ranks);
    let make = |rank: u32| schedule::plan(algorithm, call, rank, &hosts).map(|plan| Program::new(&plan));
    if !algorithm.serves(call.kind) || !call.is_sound(0) {
        return Err(Refusal::NoForm);
    }
    let job = Job { machine, ranks: call.ranks, calls, slow: slowness(machine, footprint(call)) };
    job.run(&make, folding)
}

/// A group in which every rank sends each other rank so many messages of so many bytes.
///
/// # Errors
/// See [`Refusal`].
pub fn exchange(
    machine: &Machine,
    ranks: u32,
    (messages, bytes): (u32, usize),
    limits: Limits,
    calls: u32,
) -> Result<Outcome, Refusal> {
    let batch = |rank: u32| {
        let both = [true, false].into_iter();
        let peers = both.flat_map(move |is_send| (0..ranks).map(move |peer| (is_send, peer)));
        let others = peers.filter(move |(_, peer)| *peer != rank);
        others.flat_map(move |it| std::iter::repeat_n(it, messages as usize)).collect::<Vec<_>>()
    };
    let list = |rank: u32| {
        let numbered = batch(rank).into_iter().zip(0_u32..);
        numbered.map(|((is_send, peer), buffer)| Message { is_send, peer, bytes, buffer }).collect()
    };
    batches(machine, ranks, &list, limits, calls)
}

/// A group of point-to-point messages, `list` giving those of a rank.
///
/// # Errors
/// See [`Refusal`].
pub fn batches(
    machine: &Machine,
    ranks: u32,
    list: &dyn Fn(u32) -> Vec<Message>,
    limits: Limits,
    calls: u32,
) -> Result<Outcome, Refusal> {
    if let Err(why) = coalesce::plan(&list(0), 0, limits) {
        return Err(Refusal::Mismatch(why));
    }
    let make = |rank: u32| Some(Program::new(&coalesce::plan(&list(rank), rank, limits).ok()?));
    let footprint = list(0).iter().map(|message| message.bytes as u64).sum();
    let job = Job { machine, ranks, calls, slow: slowness(machine, footprint) };
    job.run(&make, &Folding::WherePossible)
}

/// A time that the call cannot be below: what the core of one of some ranks does at least. In nanoseconds; `None`
/// where there is no plan.
#[must_use]
pub fn least_ns(machine: &Machine, call: &Call, algorithm: Algorithm) -> Option<f64> {
    let hosts = machine.hosts(call.ranks);
    let slow = slowness(machine, footprint(call));
    let last = call.ranks - 1;
    let ranks = [0, 1, call.root, call.ranks / 2, last];
    let mut least = 0_u64;
    for rank in ranks.into_iter().filter(|rank| *rank <= last) {
        let program = Program::new(&schedule::plan(algorithm, call, rank, &hosts)?);
        least = least.max(busy(machine, &program, rank, slow));
    }
    Some(least as f64 / 1000.0)
}

/// What the core of `rank` is busy with, all in all.
fn busy(machine: &Machine, program: &Program, rank: u32, slow: f64) -> u64 {
    let moving = |bytes, rate: f64| machine::at_rate(bytes, rate / slow);
    let mut sum = machine::picoseconds(machine.core.call_ns);
    for lane in &program.lanes {
        let class = match lane.partner {
            Partner::To(peer) | Partner::From(peer) => machine.class(rank, peer),
            Partner::Nobody => Class::Local,
        };
        let link = machine.link(class);
        for step in &program.steps[lane.first as usize..][..lane.count as usize] {
            sum += match step.work {
                Work::Send { .. } => {
                    machine::picoseconds(link.send_ns) + moving(step.bytes, link.send_bytes_per_ns)
                }
                Work::ReceiveReduce => {
                    machine::picoseconds(link.receive_ns)
                        + moving(step.bytes, machine.core.reduce_bytes_per_ns)
                }
                Work::Receive | Work::ReceiveMessages { .. } => {
                    machine::picoseconds(link.receive_ns) + moving(step.bytes, link.receive_bytes_per_ns)
                }
                Work::Copy => moving(step.bytes, machine.core.copy_bytes_per_ns),
                Work::Reduce => moving(step.bytes, machine.core.reduce_bytes_per_ns),
            };
        }
    }
    sum
}

/// The bytes of source and target of a rank.
fn footprint(call: &Call) -> u64 {
    let (one, all) = (call.bytes() as u64, call.bytes() as u64 * u64::from(call.ranks));
    match call.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 2 * one,
        Kind::AlltoAll => 2 * all,
        _ => one + all,
    }
}

fn slowness(machine: &Machine, footprint: u64) -> f64 {
    let is_beyond = machine.core.cache_bytes > 0.0 && footprint as f64 > machine.core.cache_bytes;
    if is_beyond { machine.core.beyond_cache } else { 1.0 }
}

/// Programs to be run.
struct Job<'a> {
    machine: &'a Machine,
    ranks: u32,
    calls: u32,
    slow: f64,
}

impl Job<'_> {
    fn run(&self, make: &dyn Fn(u32) -> Option<Program>, folding: &Folding) -> Result<Outcome, Refusal> {
        let (fold, unfolded) = match self.fold(make, folding) {
            Ok(fold) => (fold, None),
            Err(why) if *folding == Folding::Always => return Err(Refusal::NotAlike(why)),
            Err(why) => (Fold::none(self.ranks), Some(why)),
        };
        let mut programs = Vec::with_capacity(fold.period() as usize);
        let mut steps = 0;
        for rank in 0..fold.period() {
            let program = make(rank).ok_or(Refusal::NoForm)?;
            steps += program.steps.len() as u64 * u64::from(self.calls);
            if steps > MOST_STEPS {
                let folded = || format!("though {} ranks stand for all", fold.period());
                let why = unfolded.map_or_else(folded, |why| format!("for it cannot be folded: {why}"));
                return Err(Refusal::TooLarge(why));
            }
            programs.push(program);
        }
        let scene =
            Scene { machine: self.machine, programs: &programs, fold, rounds: self.calls, slow: self.slow };
        let ended = run::run(&scene);
        if ended.stuck > 0 {
            return Err(Refusal::Mismatch(format!("{} steps never ran", ended.stuck)));
        }
        Ok(self.outcome(&programs, fold, ended, unfolded))
    }

    fn fold(&self, make: &dyn Fn(u32) -> Option<Program>, folding: &Folding) -> Result<Fold, String> {
        if *folding == Folding::Never {
            return Err("it was not asked for".into());
        }
        let period = self.machine.period(self.ranks);
        let period = period.ok_or("hosts or islands are not all alike, or share cores unevenly")?;
        Fold::find(self.ranks, period, make)
    }

    fn outcome(&self, programs: &[Program], fold: Fold, ended: Ended, unfolded: Option<String>) -> Outcome {
        let times = u64::from(self.ranks / fold.period().max(1)).max(1);
        let sends = || programs.iter().flat_map(Program::sends);
        let shared = |work: &Work| match work {
            Work::Send { shared } => u64::from((*shared).max(1)),
            _ => 0,
        };
        let ends = &ended.round_ends;
        let (last, half) = (ends.len() - 1, ends.len() / 2);
        let time = if half == 0 {
            ends[last] as f64
        } else {
            (ends[last] - ends[half - 1]) as f64 / (last + 1 - half) as f64
        };
        Outcome {
            time_ns: time / 1000.0,
            messages: times * sends().map(|step| shared(&step.work)).sum::<u64>(),
            packets: times * sends().count() as u64,
            bytes: times * sends().map(|step| step.bytes).sum::<u64>(),
            peak_bytes: ended.peak_bytes,
            simulated: fold.period(),
            ends: ended.ends,
            unfolded,
        }
    }
}
