//! Which algorithm is fastest, by ranks and bytes.
//!
//! Few of the candidates of a call have to be simulated: whose cores have more to do than the fastest took so far
//! cannot win. Candidates run in the order of these bounds.
#![forbid(unsafe_code)]

use super::{Folding, Machine, Outcome, Refusal, collective, least_ns};
use crate::op::{DataType, Kind, Reduction};
use crate::schedule::{Algorithm, Call};

/// What is known of one candidate.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The candidate.
    pub algorithm: Algorithm,
    /// It cannot take less.
    pub least_ns: f64,
    /// What it takes; nothing where the bound said enough.
    pub outcome: Option<Result<Outcome, Refusal>>,
}

impl Entry {
    /// Its time: simulated, else the bound.
    #[must_use]
    pub fn time_ns(&self) -> f64 {
        match &self.outcome {
            Some(Ok(outcome)) => outcome.time_ns,
            _ => self.least_ns,
        }
    }

    /// Whether it was simulated.
    #[must_use]
    pub const fn is_simulated(&self) -> bool {
        matches!(self.outcome, Some(Ok(_)))
    }
}

/// The candidates of a call, those simulated first, the fastest first. But for `wanted`, nobody is simulated whose
/// bound is more than `margin` times the time of the fastest so far; infinity: everybody is.
#[must_use]
pub fn race(
    machine: &Machine,
    call: &Call,
    wanted: Option<Algorithm>,
    folding: &Folding,
    margin: f64,
) -> Vec<Entry> {
    let bound = |&algorithm: &Algorithm| {
        Some(Entry { algorithm, least_ns: least_ns(machine, call, algorithm)?, outcome: None })
    };
    let serving = Algorithm::ALL.iter().filter(|algorithm| algorithm.serves(call.kind));
    let mut entries: Vec<Entry> = serving.filter_map(bound).collect();
    entries.sort_by(|one, other| one.least_ns.total_cmp(&other.least_ns));
    let mut fastest_ns = f64::INFINITY;
    for entry in &mut entries {
        if entry.least_ns > margin * fastest_ns && wanted != Some(entry.algorithm) {
            continue;
        }
        let outcome = collective(machine, call, entry.algorithm, folding);
        if let Ok(outcome) = &outcome {
            fastest_ns = fastest_ns.min(outcome.time_ns);
        }
        entry.outcome = Some(outcome);
    }
    entries.sort_by(|one, other| {
        let key = |entry: &Entry| !entry.is_simulated();
        key(one).cmp(&key(other)).then(one.time_ns().total_cmp(&other.time_ns()))
    });
    entries
}

/// A call of `bytes`: of the vector for AllReduce, Reduce and Broadcast, of all blocks together for all others. Of
/// floats, summed; the root is 0. `None` where a block would be empty or uneven.
#[must_use]
pub fn call(kind: Kind, ranks: u32, bytes: u64) -> Option<Call> {
    let blocks = match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => u64::from(ranks),
    };
    let count = usize::try_from(bytes / blocks / 4).ok().filter(|count| *count > 0)?;
    Some(Call {
        kind,
        data_type: DataType::Float32,
        reduction: Reduction::Sum,
        root: 0,
        count,
        ranks,
        in_place: false,
    })
}

/// The winner of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// How many ranks.
    pub ranks: u32,
    /// How many bytes; see [`call`].
    pub bytes: u64,
    /// Who is fastest.
    pub winner: Algorithm,
    /// How fast, in nanoseconds.
    pub time_ns: f64,
    /// Who comes next, and how many times slower it is at least.
    pub second: Option<(Algorithm, f64)>,
}

/// The winner among those that may be fastest; the first of [`Algorithm::ALL`] of those that are equally fast. `None`
/// where nothing was simulated.
#[must_use]
pub fn cell(machine: &Machine, kind: Kind, ranks: u32, bytes: u64) -> Option<Cell> {
    let call = call(kind, ranks, bytes)?;
    let entries = race(machine, &call, None, &Folding::WherePossible, 1.0);
    let first = entries.first().filter(|entry| entry.is_simulated())?;
    let place = |algorithm| Algorithm::ALL.iter().position(|other| *other == algorithm);
    let alike = entries.iter().filter(|entry| entry.is_simulated() && entry.time_ns() <= first.time_ns());
    let winner = alike.min_by_key(|entry| place(entry.algorithm)).unwrap_or(first);
    let others = entries.iter().filter(|entry| entry.algorithm != winner.algorithm);
    let second = others.min_by(|one, other| one.time_ns().total_cmp(&other.time_ns()));
    Some(Cell {
        ranks,
        bytes,
        winner: winner.algorithm,
        time_ns: winner.time_ns(),
        second: second.map(|entry| (entry.algorithm, entry.time_ns() / winner.time_ns().max(0.001))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_do_not_change_who_wins() {
        let machine = Machine { ranks_per_host: 4, hosts_per_island: 2, ..Machine::default() };
        for kind in [Kind::AllReduce, Kind::AllGather, Kind::Broadcast, Kind::AlltoAll] {
            for (ranks, bytes) in [(4, 4096), (12, 1 << 20), (16, 256)] {
                let call = call(kind, ranks, bytes).unwrap();
                let all = race(&machine, &call, None, &Folding::Never, f64::INFINITY);
                let few = race(&machine, &call, None, &Folding::WherePossible, 1.0);
                assert!(all.iter().all(Entry::is_simulated));
                assert_eq!(
                    all[0].outcome.as_ref().map(|it| it.as_ref().unwrap().time_ns),
                    few[0].outcome.as_ref().map(|it| it.as_ref().unwrap().time_ns)
                );
                assert!(all.iter().all(|entry| entry.least_ns <= entry.time_ns()), "{all:?}");
            }
        }
    }

    #[test]
    fn small_calls_take_few_hops_and_large_ones_few_bytes() {
        let machine = Machine { ranks_per_host: 1, hosts_per_island: 0, ..Machine::default() };
        let small = cell(&machine, Kind::AllReduce, 64, 64).unwrap();
        let large = cell(&machine, Kind::AllReduce, 64, 64 << 20).unwrap();
        assert_ne!(small.winner, large.winner);
        assert!(large.second.unwrap().1 >= 1.0 && large.time_ns > small.time_ns);
        assert_eq!(cell(&machine, Kind::AllGather, 64, 64), None);
    }
}
