//! Where a job departs from its model: calls of one size against each other. Pure, but for the reading.
//!
//! A job runs many steps, so what is compared is how often the calls of each size came for one of the model's: calls
//! that agree with it all came equally often, and that number is the steps.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;

use super::Format;
use crate::cli::{Failure, report};
use crate::model::Calls;
use crate::op::Kind;
use crate::trace::file::{Head, Operation, Reader};

/// What is compared: the operation as the model names it, its ranks, and its bytes as the model counts them.
type Class = (&'static str, u32, u64);

/// Calls of a class.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    operation: &'static str,
    ranks: u32,
    bytes: u64,
    modelled: u64,
    traced: u64,
    /// How often the trace has what the model has once.
    times: Option<f64>,
    says: &'static str,
}

/// Reads the traces and prints the comparison; `Ok(false)` if they differ.
///
/// # Errors
/// A trace cannot be read.
pub(super) fn run(calls: &[Calls], paths: &[PathBuf], format: Format) -> Result<bool, Failure> {
    let mut traced = BTreeMap::new();
    for path in report::find(paths)? {
        let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
        let file = File::open(&path).map_err(|error| named(error.to_string()))?;
        add(&mut traced, Reader::new(file).map_err(named)?);
    }
    let rows = compare(calls, &counts(traced));
    if format == Format::Table {
        put_line!(
            "# {:>14} {:>6} {:>15} {:>10} {:>10} {:>8}",
            "operation",
            "ranks",
            "bytes",
            "modelled",
            "traced",
            "times"
        );
    }
    for row in &rows {
        let times = row.times.map_or("-".into(), |times| format!("{times:.2}"));
        match format {
            Format::Table => put_line!(
                "{:>16} {:>6} {:>15} {:>10} {:>10} {times:>8}  {}",
                row.operation,
                row.ranks,
                row.bytes,
                row.modelled,
                row.traced,
                row.says
            ),
            Format::Json => {
                put_line!("{}", serde_json::to_string(row).map_err(|error| Failure(error.to_string()))?)
            }
        }
    }
    Ok(rows.iter().all(|row| row.says == AGREES))
}

const AGREES: &str = "as modelled";
const DEPARTS: &str = "departs: more or fewer than the others";
const NOT_TRACED: &str = "departs: modelled, and never called";
const NOT_MODELLED: &str = "departs: called, and not modelled";

/// Calls of each class, by communicator and rank.
type Traced = BTreeMap<Class, BTreeMap<(u128, u32), u64>>;

fn add<R: std::io::Read>(traced: &mut Traced, mut reader: Reader<R>) {
    let mut batches: Vec<u64> = Vec::new();
    while let Some(batch) = reader.next() {
        let place = batch.definition as usize;
        batches.resize(batches.len().max(place + 1), 0);
        batches[place] += 1;
    }
    let head = reader.head();
    for (definition, count) in reader.definitions().iter().zip(&batches) {
        for class in definition.operations.iter().filter_map(|operation| class_of(head, operation)) {
            *traced.entry(class).or_default().entry((head.communicator, head.rank)).or_default() += count;
        }
    }
}

/// The class in the model's terms; `None` of a receive, whose send counts.
fn class_of(head: &Head, operation: &Operation) -> Option<Class> {
    let (bytes, ranks) = (operation.bytes(), u64::from(head.ranks));
    let (name, bytes) = match operation.kind {
        Kind::AllReduce => ("allreduce", bytes),
        Kind::AllGather => ("allgather", bytes.saturating_mul(ranks)),
        Kind::ReduceScatter => ("reducescatter", bytes.saturating_mul(ranks)),
        Kind::AlltoAll => ("alltoall", bytes.saturating_mul(ranks)),
        Kind::Send => ("send", bytes),
        Kind::Recv => return None,
        Kind::Reduce => ("reduce", bytes),
        Kind::Broadcast => ("broadcast", bytes),
        Kind::Gather => ("gather", bytes.saturating_mul(ranks)),
        Kind::Scatter => ("scatter", bytes.saturating_mul(ranks)),
    };
    Some((name, head.ranks, bytes))
}

/// Of a collective the calls of one rank, the busiest; of messages those of all ranks of the busiest communicator.
fn counts(traced: Traced) -> BTreeMap<Class, u64> {
    let count = |class: &Class, places: BTreeMap<(u128, u32), u64>| {
        if class.0 != "send" {
            return places.values().copied().max().unwrap_or(0);
        }
        let mut by_communicator: BTreeMap<u128, u64> = BTreeMap::new();
        for ((communicator, _), count) in places {
            *by_communicator.entry(communicator).or_default() += count;
        }
        by_communicator.values().copied().max().unwrap_or(0)
    };
    traced.into_iter().map(|(class, places)| (class, count(&class, places))).collect()
}

fn compare(calls: &[Calls], traced: &BTreeMap<Class, u64>) -> Vec<Row> {
    let mut modelled: BTreeMap<Class, u64> = BTreeMap::new();
    for calls in calls {
        // Whole slices for every rank.
        let ranks = u64::from(calls.ranks);
        let is_sliced = matches!(calls.operation, "allgather" | "reducescatter" | "alltoall");
        let bytes = if is_sliced { calls.bytes.next_multiple_of(ranks) } else { calls.bytes };
        *modelled.entry((calls.operation, calls.ranks, bytes)).or_default() += calls.calls;
    }
    let times = |class: &Class| Some(*traced.get(class)? as f64 / *modelled.get(class)? as f64);
    let mut ratios: Vec<f64> = modelled.keys().filter_map(times).collect();
    ratios.sort_by(f64::total_cmp);
    // What most agree on; in doubt the middle.
    let often = |ratio: f64| ratios.iter().filter(|other| **other == ratio).count();
    let middle = ratios.get(ratios.len() / 2).copied();
    let steps = ratios.iter().copied().max_by_key(|ratio| (often(*ratio), Some(*ratio) == middle));
    let mut classes: Vec<Class> = modelled.keys().chain(traced.keys()).copied().collect();
    classes.sort_unstable();
    classes.dedup();
    let row = |class: Class| {
        let says = match times(&class) {
            Some(ratio) if Some(ratio) == steps => AGREES,
            Some(_) => DEPARTS,
            None if modelled.contains_key(&class) => NOT_TRACED,
            None => NOT_MODELLED,
        };
        let count = |of: &BTreeMap<Class, u64>| of.get(&class).copied().unwrap_or(0);
        let (operation, ranks, bytes) = class;
        let (modelled, traced) = (count(&modelled), count(traced));
        Row { operation, ranks, bytes, modelled, traced, times: times(&class), says }
    };
    classes.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(operation: &'static str, calls: u64, bytes: u64) -> Calls {
        Calls { group: "data", operation, calls, bytes, ranks: 4, purpose: "a test" }
    }

    #[test]
    fn what_departs_is_named() {
        let model = [
            calls("allreduce", 3, 100),
            calls("allgather", 2, 398),
            calls("allreduce", 1, 7),
            calls("send", 6, 50),
        ];
        let traced = BTreeMap::from([
            (("allreduce", 4, 100), 30),
            (("allgather", 4, 400), 20),
            (("send", 4, 50), 55),
            (("broadcast", 4, 8), 1),
        ]);
        let says: Vec<_> =
            compare(&model, &traced).into_iter().map(|row| (row.operation, row.bytes, row.says)).collect();
        assert_eq!(
            says,
            [
                ("allgather", 400, AGREES),
                ("allreduce", 7, NOT_TRACED),
                ("allreduce", 100, AGREES),
                ("broadcast", 8, NOT_MODELLED),
                ("send", 50, DEPARTS),
            ]
        );
        assert!(compare(&[], &BTreeMap::new()).is_empty());
    }
}
