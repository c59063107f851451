//! What the traces of a job come to: pure sums, and what follows from them. `shoal report` prints it.
//!
//! Batches are summed by their definition, so ten million of them cost little; only then is a definition looked into.
//! A batch has one time, and several operations may share it: it is dealt to them by weight, a message of so many
//! bytes (`WEIGHT_BYTES`) counting twice as much as an empty one. What a batch waited is the time in which nothing
//! moved; the rest is moving.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Read;

use super::alternation::{Alternation, Measured};
use super::file::{Definition, Head, Operation, Reader};
use crate::op::Kind;

/// So many bytes weigh as much as the call itself.
const WEIGHT_BYTES: f64 = 16384.0;
/// Messages up to this size are small where the trace does not say how many bytes share a frame.
const SMALL_BYTES: u64 = 1024;
/// Lone messages that follow each other so soon could have been called in one group.
const NEAR_NS: f64 = 20_000.0;
/// Where classes of sizes end; the last has no end.
pub const CLASS_ENDS: [u64; 6] = [64, 1 << 10, 16 << 10, 256 << 10, 4 << 20, u64::MAX];
/// Powers of two of sizes, and of times in nanoseconds.
const BUCKETS: usize = 64;

/// Calls, and what they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Operations.
    pub calls: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Their time, waiting included.
    pub time_ns: f64,
    /// For how long nothing moved.
    pub waited_ns: f64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.calls += other.calls;
        self.bytes += other.bytes;
        self.time_ns += other.time_ns;
        self.waited_ns += other.waited_ns;
    }
}

/// A rank of a communicator.
#[derive(Clone, Debug, Default)]
pub struct Rank {
    /// What its trace says of itself.
    pub head: Head,
    /// All that it did.
    pub sum: Sum,
    /// Batches.
    pub batches: u64,
    /// What it did in collectives.
    pub collectives: Sum,
    /// Nanoseconds since 1970 of its first beginning and last end.
    pub span_ns: (f64, f64),
    /// Why its trace was not read to the end.
    pub damage: Option<String>,
}

/// What packing did to the small messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    /// Messages up to so many bytes are small.
    pub small_bytes: u64,
    /// Small point-to-point operations.
    pub small: Sum,
    /// All point-to-point operations.
    pub all: Sum,
    /// Messages sent.
    pub messages: f64,
    /// Packets in which they left.
    pub packets: f64,
    /// Small messages that were called alone, right behind another to the same rank.
    pub near: f64,
    /// What a small message takes that is called alone: a quarter of them took less, half, three quarters.
    pub alone_ns: Option<[f64; 3]>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each trace.
    pub ranks: Vec<Rank>,
    /// All of it.
    pub total: Sum,
    /// By operation.
    pub by_operation: BTreeMap<&'static str, Sum>,
    /// By operation and algorithm (its number; 0: none).
    pub by_algorithm: BTreeMap<(&'static str, u8), Sum>,
    /// By the place of the class of sizes.
    pub by_class: BTreeMap<usize, Sum>,
    /// By communicator.
    pub by_communicator: BTreeMap<u128, Sum>,
    /// Point-to-point, by rank and peer.
    pub by_peer: BTreeMap<(u32, u32), Sum>,
    /// Calls by the power of two of their bytes, by operation.
    pub sizes: BTreeMap<&'static str, [f64; BUCKETS]>,
    /// Small messages.
    pub packing: Packing,
    /// What packing gained, where it was switched off and on in turn.
    pub measured: Vec<Measured>,
    /// Durations of lone small messages, by powers of the square root of two.
    alone: Vec<f64>,
}

/// Sums of a definition.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    count: f64,
    ticks: f64,
    waited_ticks: f64,
}

impl Report {
    /// Adds a trace.
    pub fn add<R: Read>(&mut self, mut reader: Reader<R>) {
        let head = reader.head().clone();
        let mut tallies: Vec<Tally> = Vec::new();
        let (mut first, mut last) = (u64::MAX, 0);
        let (mut batches, mut near) = (0, 0.0);
        let near_ticks = (NEAR_NS / head.tick_ns) as u64;
        // Of the batch before: to whom a lone small message went, and when it ended.
        let mut before: Option<(u32, u64)> = None;
        let small_bytes = small_bytes(&head);
        let mut alternation = Alternation::default();
        while let Some(batch) = reader.next() {
            let place = batch.definition as usize;
            if place >= tallies.len() {
                tallies.resize(place + 1, Tally::default());
            }
            alternation.note(reader.definitions(), &batch);
            let tally = &mut tallies[place];
            tally.count += 1.0;
            tally.ticks += batch.duration_ticks as f64;
            tally.waited_ticks += batch.waited_ticks as f64;
            let end = batch.start_ticks.saturating_add(batch.duration_ticks);
            (first, last) = (first.min(batch.start_ticks), last.max(end));
            batches += 1;
            let alone = reader.definitions().get(place).and_then(|definition| alone(definition, small_bytes));
            if let Some(peer) = alone {
                let gap = |end: u64| batch.start_ticks.saturating_sub(end) <= near_ticks;
                near += f64::from(before.is_some_and(|(to, end)| to == peer && gap(end)));
                self.time_alone(batch.duration_ticks as f64 * head.tick_ns);
            }
            before = alone.map(|peer| (peer, end));
        }
        self.packing.near += near;
        self.measured.extend(alternation.finish(head.tick_ns));
        self.packing.small_bytes = small_bytes.max(self.packing.small_bytes);
        let at = |ticks: u64| head.wall_ns as f64 + (ticks as f64 - head.ticks as f64) * head.tick_ns;
        let span_ns = if batches == 0 { (0.0, 0.0) } else { (at(first), at(last)) };
        let damage = reader.damage().map(str::to_owned);
        let mut rank = Rank { head, batches, span_ns, damage, ..Rank::default() };
        for (definition, tally) in reader.definitions().iter().zip(&tallies) {
            self.explain(definition, *tally, &mut rank);
        }
        self.total.add(rank.sum);
        self.by_communicator.entry(rank.head.communicator).or_default().add(rank.sum);
        self.ranks.push(rank);
    }

    fn time_alone(&mut self, ns: f64) {
        self.alone.resize(2 * BUCKETS, 0.0);
        let place = (ns.max(1.0).log2() * 2.0) as usize;
        self.alone[place.min(2 * BUCKETS - 1)] += 1.0;
    }

    /// Deals the batches of a definition to its operations.
    fn explain(&mut self, definition: &Definition, tally: Tally, rank: &mut Rank) {
        let tick_ns = rank.head.tick_ns;
        let whole =
            Sum { time_ns: tally.ticks * tick_ns, waited_ns: tally.waited_ticks * tick_ns, ..Sum::default() };
        if definition.is_one_sided {
            self.by_operation.entry("one-sided").or_default().add(Sum { calls: tally.count, ..whole });
            rank.sum.add(Sum { calls: tally.count, ..whole });
            return;
        }
        let weight = |operation: &Operation| 1.0 + operation.bytes() as f64 / WEIGHT_BYTES;
        let weights: f64 = definition.operations.iter().map(weight).sum();
        for operation in &definition.operations {
            let part = weight(operation) / weights;
            let bytes = operation.bytes();
            let sum = Sum {
                calls: tally.count,
                bytes: tally.count * bytes as f64,
                time_ns: whole.time_ns * part,
                waited_ns: whole.waited_ns * part,
            };
            let name = operation.kind.name();
            rank.sum.add(sum);
            self.by_operation.entry(name).or_default().add(sum);
            self.by_class.entry(class_of(bytes)).or_default().add(sum);
            self.sizes.entry(name).or_insert([0.0; BUCKETS])[bucket_of(bytes)] += tally.count;
            if operation.kind.is_point_to_point() {
                self.by_peer.entry((rank.head.rank, operation.peer)).or_default().add(sum);
                self.packing.all.add(sum);
                if bytes <= small_bytes(&rank.head) {
                    self.packing.small.add(sum);
                }
                if operation.kind == Kind::Send && operation.peer != rank.head.rank {
                    self.packing.messages += tally.count;
                }
            } else {
                self.by_algorithm.entry((name, operation.algorithm)).or_default().add(sum);
                rank.collectives.add(sum);
            }
        }
        self.packing.packets += tally.count * f64::from(definition.frames);
    }

    /// Works out what follows from all traces together.
    pub fn finish(&mut self) {
        let whole_ns = |one: &Measured| one.batches as f64 * (one.packed_ns + one.apart_ns);
        self.measured.sort_by(|one, other| whole_ns(other).total_cmp(&whole_ns(one)));
        self.ranks.sort_by_key(|rank| (rank.head.communicator, rank.head.rank));
        let count: f64 = self.alone.iter().sum();
        if count > 0.0 {
            let quantile = |share: f64| {
                let mut left = share * count;
                let place = self.alone.iter().position(|bucket| {
                    left -= bucket;
                    left <= 0.0
                });
                2_f64.powf((place.unwrap_or(0) as f64 + 0.5) / 2.0)
            };
            self.packing.alone_ns = Some([quantile(0.25), quantile(0.5), quantile(0.75)]);
        }
    }

    /// From the first beginning to the last end, over all ranks.
    #[must_use]
    pub fn span_ns(&self) -> f64 {
        let spans = || self.ranks.iter().filter(|rank| rank.batches > 0).map(|rank| rank.span_ns);
        let first = spans().map(|span| span.0).fold(f64::INFINITY, f64::min);
        let last = spans().map(|span| span.1).fold(0.0, f64::max);
        (last - first).max(0.0)
    }

    /// Messages that left in the packet of another one.
    #[must_use]
    pub fn packed(&self) -> f64 {
        (self.packing.messages - self.packing.packets).max(0.0)
    }

    /// Of each communicator with several traces the rank for which the others wait: who waits least itself, and how
    /// much longer the others wait, on average.
    #[must_use]
    pub fn late(&self) -> Vec<(u128, u32, f64)> {
        let mut found = Vec::new();
        for communicator in self.by_communicator.keys() {
            let ranks = || self.ranks.iter().filter(|rank| rank.head.communicator == *communicator);
            let waited = |rank: &Rank| rank.collectives.waited_ns;
            let count = ranks().count();
            let Some(least) = ranks().min_by(|left, right| waited(left).total_cmp(&waited(right))) else {
                continue;
            };
            if count > 1 && least.collectives.calls > 0.0 {
                let others: f64 = ranks().map(waited).sum::<f64>() - waited(least);
                let longer = others / (count - 1) as f64 - waited(least);
                found.push((*communicator, least.head.rank, longer));
            }
        }
        found
    }
}

fn small_bytes(head: &Head) -> u64 {
    if head.coalesce_bytes == 0 { SMALL_BYTES } else { head.coalesce_bytes }
}

/// To whom it goes, if it is a small message to another rank, called alone.
fn alone(definition: &Definition, small_bytes: u64) -> Option<u32> {
    match definition.operations[..] {
        [operation] if operation.kind == Kind::Send && operation.bytes() <= small_bytes => {
            Some(operation.peer)
        }
        _ => None,
    }
}

/// The class of sizes.
#[must_use]
pub fn class_of(bytes: u64) -> usize {
    CLASS_ENDS.iter().position(|end| bytes <= *end).unwrap_or(CLASS_ENDS.len() - 1)
}

/// The power of two that is not smaller.
fn bucket_of(bytes: u64) -> usize {
    if bytes == 0 { 0 } else { (64 - (bytes - 1).leading_zeros() as usize).min(BUCKETS - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Manner, Reduction, Shape};
    use crate::trace::tracer::{Done, Title, Tracer};

    fn shape(kind: Kind, peer: u32, count: usize) -> (Shape, u8) {
        let reduction = Reduction::Sum;
        (Shape { count, peer, kind, data_type: DataType::Uint8, reduction, manner: Manner::PLAIN }, 0)
    }

    fn report(fill: impl Fn(u32, &mut Tracer)) -> Report {
        let name = std::thread::current().name().unwrap_or("test").replace(':', "-");
        let folder = std::env::temp_dir().join(format!("shoal-report-{name}-{}", std::process::id()));
        for rank in 0..2 {
            let title = Title { communicator: 9, rank, ranks: 2, host: "blue".into(), coalesce_bytes: 1024 };
            fill(rank, &mut Tracer::create(&folder, &title, u64::MAX).unwrap());
        }
        let mut report = Report::default();
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            report.add(Reader::new(std::fs::File::open(entry.path()).unwrap()).unwrap());
        }
        report.finish();
        std::fs::remove_dir_all(&folder).unwrap();
        report
    }

    #[test]
    fn a_stage_boundary_shows_its_small_messages_and_what_packing_saved() {
        let report = report(|rank, tracer| {
            let peer = 1 - rank;
            let messages = [72, 65_536, 4000, 72, 65_536];
            let group: Vec<_> = messages.iter().map(|bytes| shape(Kind::Send, peer, *bytes)).collect();
            let group = tracer.define(&group, 3, false);
            for sequence in 1..=100 {
                let start_ticks = 1000 * sequence;
                let done = Done {
                    sequence,
                    start_ticks,
                    end_ticks: start_ticks + 500,
                    waited_ticks: 100,
                    ..Done::default()
                };
                tracer.write(group, &done);
            }
        });
        assert_eq!(
            (report.total.calls, report.packing.small.calls, report.packing.all.calls),
            (1000.0, 400.0, 1000.0)
        );
        assert_eq!(
            (report.packing.messages, report.packing.packets, report.packed()),
            (1000.0, 600.0, 400.0)
        );
        assert_eq!(report.by_class[&1].calls, 400.0);
        assert!((report.total.waited_ns / report.total.time_ns - 0.2).abs() < 1e-9);
        let share = report.packing.small.time_ns / report.total.time_ns;
        assert!((0.1..0.2).contains(&share), "{share}");
        assert_eq!(report.sizes["Send"][7], 400.0, "72 bytes are at most 128");
        assert!(report.packing.alone_ns.is_none() && report.packing.near == 0.0);
    }

    #[test]
    fn lone_messages_that_could_have_travelled_together_are_counted() {
        let report = report(|rank, tracer| {
            let small = tracer.define(&[shape(Kind::Send, 1 - rank, 8)], 1, false);
            let large = tracer.define(&[shape(Kind::Send, 1 - rank, 1 << 20)], 1, false);
            for sequence in 1..=90 {
                let id = if sequence % 3 == 0 { large } else { small };
                let start_ticks = 5000 * sequence;
                tracer.write(
                    id,
                    &Done { sequence, start_ticks, end_ticks: start_ticks + 2000, ..Done::default() },
                );
            }
        });
        assert_eq!((report.packing.near, report.packing.small.calls), (60.0, 120.0));
        let [quarter, half, most] = report.packing.alone_ns.expect("some were alone");
        assert!(quarter <= half && half <= most && (100.0..20_000.0).contains(&half), "{half}");
    }

    #[test]
    fn who_is_late_waits_least() {
        let report = report(|rank, tracer| {
            let sum = tracer.define(&[shape(Kind::AllReduce, 0, 4096)], 0, false);
            for sequence in 1..=10 {
                let waited_ticks = if rank == 1 { 10 } else { 90_000 };
                tracer.write(sum, &Done { sequence, end_ticks: 100_000, waited_ticks, ..Done::default() });
            }
        });
        let [(9, 1, longer_ns)] = report.late()[..] else { panic!("{:?}", report.late()) };
        assert!(longer_ns > 0.8 * report.ranks[0].sum.time_ns, "{longer_ns}");
    }
}
