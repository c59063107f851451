//! The measuring loop: one loop, generic over the contender, the same buffers for all.
//!
//! 1. Fill, call once, compare on all ranks: a wrong library has no time.
//! 2. Warm up, and double the number of calls until a batch is long enough to be timed.
//! 3. Batches, each behind a barrier of the harness; inside a batch the calls run back to back. A batch's
//!    time is the slowest rank's; the result is the median over batches.
//! 4. Calls timed one by one for the 99th percentile, apart from the batches so as not to slow them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Instant;

use super::check::Check;
use super::contender::{Call, Contender, Request};
use super::operation::{Operation, bandwidths};
use super::pattern;
use super::plan::{Case, Plan};
use super::row::Row;
use super::statistics::{median, percentile};
use crate::cli::Failure;
use crate::cli::board::Seat;
use crate::cli::floor::{self, Floor};
use crate::cli::machine::{self, Memory};

const ITERATIONS_MAX: usize = 1_000_000;
const SAMPLES_MAX: usize = 10_000;
/// Into how many a batch is split where a difference of two is wanted.
const ADDED_SPLIT: usize = 8;
/// Calls between two looks at the library's counters.
const COUNTED_CALLS: usize = 16;

/// The buffers of a run, large enough for every case.
struct Buffers {
    source: Memory,
    target: Memory,
    /// Where messages are packed by hand.
    packing: (Memory, Memory),
}

/// One rank's measurement of one contender.
struct Session<'run, C> {
    seat: &'run Seat,
    contender: &'run mut C,
    plan: &'run Plan,
    buffers: Buffers,
    floor: Option<Floor>,
    /// Notes are said once, not at every size.
    said: Vec<String>,
}

/// What the timing of one call gave.
struct Timing {
    time_us: f64,
    p99_us: f64,
    iterations: usize,
    /// Of a stage boundary: what the small messages add, and how far the rest lies from itself.
    added_us: Option<[f64; 2]>,
}

/// What a run tells while it goes on.
pub(crate) enum Report {
    /// A result.
    Row(Box<Row>),
    /// A sentence about the run.
    Note(String),
}

/// Measures every case of the plan; rank 0 reports.
///
/// # Errors
/// The contender's own words, or that another rank failed.
pub(crate) fn run<C: Contender>(
    seat: &Seat,
    contender: &mut C,
    plan: &Plan,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let requests = plan.cases.iter().map(|case| case.request(plan, seat));
    let sizes = requests.map(|request| (request.operation, request.buffer_bytes()));
    let (mut read, mut written, mut packed) = (0, 0, 0);
    for (operation, (reads, writes)) in sizes {
        read = read.max(reads);
        written = written.max(reads).max(writes);
        packed = if operation == Operation::Packed { packed.max(reads) } else { packed };
    }
    let allocate = |bytes| {
        if plan.library_memory { contender.allocate(bytes) } else { Ok(Memory::heap(bytes)) }
    };
    let packing = (allocate(packed)?, allocate(packed)?);
    let buffers = Buffers { source: allocate(read)?, target: allocate(written)?, packing };
    let floor = if plan.floor { Some(Floor::new(seat, written)?) } else { None };
    let mut session = Session { seat, contender, plan, buffers, floor, said: Vec::new() };
    session.introduce(report)?;
    for case in &plan.cases {
        session.case(case, report)?;
    }
    Ok(())
}

impl<C: Contender> Session<'_, C> {
    /// Says what is measured, and the floors that do not depend on a size.
    fn introduce(&mut self, report: &mut dyn FnMut(Report)) -> Result<(), Failure> {
        report(Report::Note(format!("library {}", self.contender.describe())));
        if let Some(floor) = &mut self.floor {
            let line_us = floor::line_ns(self.seat)? / 2e3;
            let calls = 10_000;
            let start = Instant::now();
            (0..calls).for_each(|_| self.contender.touch());
            let call_ns = start.elapsed().as_nanos() as f64 / f64::from(calls);
            let largest = self.buffers.target.bytes();
            report(Report::Note(format!(
                "floor: empty call {call_ns:.0} ns, line one way {line_us:.3} us, copy of {} {:.2} us",
                super::size::display(largest),
                floor.copy_us(largest),
            )));
        }
        Ok(())
    }

    fn case(&mut self, case: &Case, report: &mut dyn FnMut(Report)) -> Result<(), Failure> {
        let request = case.request(self.plan, self.seat);
        for in_place in [false, true] {
            let wanted = if in_place { self.plan.in_place } else { self.plan.out_of_place };
            if !wanted || in_place && !case.operation.has_in_place() {
                continue;
            }
            if let Err(reason) = self.contender.supports(&request, in_place) {
                let place = if in_place { ", in place" } else { "" };
                let (operation, data_type) = (case.operation.name(), case.data_type.name());
                let text = format!("{operation} of {data_type}{place} left out: {reason}");
                if !self.said.contains(&text) {
                    report(Report::Note(text.clone()));
                    self.said.push(text);
                }
                continue;
            }
            let row = self.row(request, in_place)?;
            let counted = self.plan.verbose.then(|| describe_counters(&row));
            report(Report::Row(Box::new(row)));
            counted.into_iter().for_each(|text| report(Report::Note(text)));
        }
        Ok(())
    }

    fn row(&mut self, request: Request, in_place: bool) -> Result<Row, Failure> {
        let Request { operation, data_type, ranks, messages, .. } = request;
        let size_bytes = operation.size_bytes(request.count, data_type.size_bytes(), ranks);
        let wrong = if self.plan.check { Some(self.check(request, in_place)?) } else { None };
        self.seat.tick();
        let before = self.line_ns()?;
        let timing = self.time(request, in_place)?;
        let after = self.line_ns()?;
        self.seat.tick();
        let counters = if self.plan.verbose { self.count(request, in_place)? } else { BTreeMap::new() };
        let floor = match &mut self.floor {
            // What a pattern needs at least is more than one way of moving bytes.
            _ if operation.is_pattern() => None,
            Some(floor) => Some(floor.of(self.seat, operation, size_bytes, messages)?),
            None => None,
        };
        let (algbw_gbps, busbw_gbps) = if operation.is_pattern() {
            let gbps = pattern::received_bytes(&request) as f64 / timing.time_us.max(1e-3) / 1e3;
            (gbps, gbps)
        } else {
            bandwidths(operation, size_bytes, ranks, messages, timing.time_us)
        };
        Ok(Row {
            library: self.contender.describe(),
            op: request.label(),
            data_type: data_type.name().to_owned(),
            redop: if operation.reduces() { request.reduction.name() } else { "none" }.to_owned(),
            root: if operation.has_root() { request.root as i64 } else { -1 },
            ranks,
            bytes: size_bytes,
            count: request.count,
            messages: match operation {
                Operation::Exchange | Operation::Packed => messages,
                _ if operation.is_pattern() => pattern::message_count(&request),
                _ => 1,
            },
            in_place,
            time_us: rounded(timing.time_us),
            time_us_p99: rounded(timing.p99_us),
            algbw_gbps: rounded(algbw_gbps),
            busbw_gbps: rounded(busbw_gbps),
            wrong,
            iterations: timing.iterations,
            line_ns: before.zip(after).map(|(before, after)| [rounded(before), rounded(after)]),
            added_us: timing.added_us.map(|[added, _]| rounded(added)),
            added_band_us: timing.added_us.map(|[_, band]| rounded(band)),
            counters,
            floor_us: floor.map(|(floor_us, _)| rounded(floor_us)),
            floor_by: floor.map(|(_, by)| by.to_owned()),
            ..Row::default()
        })
    }

    /// The distance of the cores, where two ranks have one each.
    fn line_ns(&self) -> Result<Option<f64>, Failure> {
        if self.plan.alone_on_cores && self.seat.ranks() == 2 {
            return floor::line_ns(self.seat).map(Some);
        }
        Ok(None)
    }

    fn check(&mut self, request: Request, in_place: bool) -> Result<u64, Failure> {
        let check = Check::new(request, self.plan.seed);
        let (source, target) = (self.buffers.source.as_mut_slice(), self.buffers.target.as_mut_slice());
        if in_place {
            check.fill_in_place(source, target)
        } else {
            check.fill(source, target)
        }
        // Nobody writes into a buffer that is still being filled.
        self.seat.barrier()?;
        Step::new(request, in_place, &self.buffers, false).run(self.contender)?;
        self.seat.barrier()?;
        let offset = if in_place { check.result_offset_in_place() } else { 0 };
        self.seat.sum(check.wrong(&self.buffers.target.as_slice()[offset..]))
    }

    fn time(&mut self, request: Request, in_place: bool) -> Result<Timing, Failure> {
        let step = Step::new(request, in_place, &self.buffers, self.plan.rewrite);
        let (seat, contender, plan) = (self.seat, &mut *self.contender, self.plan);
        let per_step = request.operation.steps(request.ranks) as f64;
        for _ in 0..plan.warmup {
            step.run(contender)?;
        }
        let budget_us = plan.seconds * 1e6;
        let mut iterations = plan.iterations.max(1);
        if plan.iterations == 0 {
            let mut batch_us = batch(seat, contender, &step, iterations)?;
            // All ranks see the same times, so all stop at the same number.
            while batch_us < budget_us / 20.0 && iterations < ITERATIONS_MAX {
                iterations *= 2;
                batch_us = batch(seat, contender, &step, iterations)?;
            }
            let share_us = budget_us / plan.batches as f64;
            let fitting = iterations as f64 * share_us / batch_us.max(1e-3);
            iterations = (fitting as usize).clamp(1, ITERATIONS_MAX);
        }
        let mut means = Vec::with_capacity(plan.batches);
        for _ in 0..plan.batches {
            means.push(batch(seat, contender, &step, iterations)? / iterations as f64 / per_step);
            seat.tick();
        }
        let time_us = median(&means).unwrap_or(0.0);
        let affordable = budget_us / 5.0 / (time_us * per_step).max(1e-3);
        let samples = (affordable as usize).clamp(1, SAMPLES_MAX);
        let p99_us = single_calls(seat, contender, &step, samples)? / per_step;
        let added_us = match request.operation {
            Operation::Neox | Operation::NeoxLone => {
                let bulk = Request { operation: Operation::NeoxBulk, ..request };
                let bulk = Step::new(bulk, false, &self.buffers, plan.rewrite);
                added_us(seat, contender, plan, [&step, &bulk], iterations)?
            }
            _ => None,
        };
        Ok(Timing { time_us, p99_us, iterations, added_us })
    }

    /// What the library counts for one call of this rank.
    fn count(&mut self, request: Request, in_place: bool) -> Result<BTreeMap<String, f64>, Failure> {
        let step = Step::new(request, in_place, &self.buffers, false);
        self.seat.barrier()?;
        let before = self.contender.counters()?;
        for _ in 0..COUNTED_CALLS {
            step.run(self.contender)?;
        }
        let after = self.contender.counters()?;
        self.seat.barrier()?;
        let grown = |(name, value): (String, u64)| {
            let old = before.iter().find(|(known, _)| *known == name).map_or(0, |(_, old)| *old);
            (name, rounded(value.saturating_sub(old) as f64 / COUNTED_CALLS as f64))
        };
        Ok(after.into_iter().map(grown).collect())
    }
}

/// The counters of a row as a sentence.
fn describe_counters(row: &Row) -> String {
    if row.counters.is_empty() {
        return "counters: this library has none (no shoalCommCounters)".to_owned();
    }
    let counted = row.counters.iter().filter(|(_, value)| **value != 0.0);
    let all: Vec<String> = counted.map(|(name, value)| format!("{name} {value}")).collect();
    let list = if all.is_empty() { "none has grown".to_owned() } else { all.join(", ") };
    format!("counters of rank 0 a call: {list}")
}

/// Digits below a tenth of a nanosecond say nothing.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// What the whole step takes beyond the bulk of it, and the same of the bulk against itself: medians over turns
/// in which batches of all three follow one another, so that a slow moment of the machine hits all alike.
fn added_us<C: Contender>(
    seat: &Seat,
    contender: &mut C,
    plan: &Plan,
    [whole, bulk]: [&Step<'_>; 2],
    iterations: usize,
) -> Result<Option<[f64; 2]>, Failure> {
    // More and shorter batches than a row has: it is the difference that is wanted.
    let iterations = iterations.div_ceil(ADDED_SPLIT);
    let turns = ADDED_SPLIT * plan.batches;
    let (mut added, mut band) = (Vec::with_capacity(turns), Vec::with_capacity(turns));
    for turn in 0..turns {
        let mut times_us = [0.0; 3];
        for position in 0..3 {
            let number = (position + turn) % 3;
            let step = if number == 0 { whole } else { bulk };
            times_us[number] = batch(seat, contender, step, iterations)? / iterations as f64;
        }
        added.push(times_us[0] - f64::midpoint(times_us[1], times_us[2]));
        band.push((times_us[1] - times_us[2]).abs());
        seat.tick();
    }
    Ok(median(&added).zip(median(&band)).map(|(added, band)| [added, band]))
}

/// The slowest rank's time of so many calls, in microseconds.
fn batch<C: Contender>(
    seat: &Seat,
    contender: &mut C,
    step: &Step<'_>,
    iterations: usize,
) -> Result<f64, Failure> {
    seat.barrier()?;
    let start = Instant::now();
    for _ in 0..iterations {
        step.run(contender)?;
    }
    seat.largest(start.elapsed().as_nanos() as f64 / 1e3)
}

/// The slowest rank's 99th percentile over calls timed one by one.
fn single_calls<C: Contender>(
    seat: &Seat,
    contender: &mut C,
    step: &Step<'_>,
    samples: usize,
) -> Result<f64, Failure> {
    let ticks_per_us = machine::ticks_per_us();
    let mut times = Vec::with_capacity(samples);
    seat.barrier()?;
    for _ in 0..samples {
        let start = machine::ticks();
        step.run(contender)?;
        times.push(machine::ticks().wrapping_sub(start) as f64 / ticks_per_us);
    }
    seat.largest(percentile(&times, 99.0).unwrap_or(0.0))
}

/// What one turn of the loop does.
struct Step<'memory> {
    call: Call<'memory>,
    /// The large message in place of the small ones, and the buffers to pack from and unpack to.
    packed: Option<(Call<'memory>, &'memory Buffers)>,
    /// What is written anew before every call.
    rewritten: Option<(&'memory Memory, usize)>,
}

impl<'memory> Step<'memory> {
    fn new(request: Request, in_place: bool, buffers: &'memory Buffers, rewrite: bool) -> Self {
        let Buffers { source, target, packing } = buffers;
        let call = if in_place {
            Call::in_place(request, source, target)
        } else {
            Call::out_of_place(request, source, target)
        };
        let packed = (request.operation == Operation::Packed).then(|| {
            let whole = Request { count: request.count * request.messages, messages: 1, ..request };
            (Call::out_of_place(whole, &packing.0, &packing.1), buffers)
        });
        let input = if in_place && request.shares_buffer() { target } else { source };
        let rewritten = rewrite.then(|| (input, request.buffer_bytes().0));
        Step { call, packed, rewritten }
    }

    #[inline]
    fn run<C: Contender>(&self, contender: &mut C) -> Result<(), Failure> {
        if let Some((memory, bytes)) = self.rewritten {
            memory.rewrite(bytes);
        }
        match &self.packed {
            None => contender.run(&self.call),
            Some((whole, buffers)) => {
                self.each_message(|offset, bytes| {
                    buffers.packing.0.copy_from(&buffers.source, offset, bytes)
                });
                contender.run(whole)?;
                self.each_message(|offset, bytes| {
                    buffers.target.copy_from(&buffers.packing.1, offset, bytes)
                });
                Ok(())
            }
        }
    }

    fn each_message(&self, copy: impl Fn(usize, usize)) {
        let request = self.call.request();
        for peer in self.call.peers() {
            for message in 0..request.messages {
                copy(self.call.message_offset(peer, message), request.bytes());
            }
        }
    }
}
