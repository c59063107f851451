//! Which algorithm, by size.
//!
//! The table is data: for each operation a few rows, from small to large, and the first row that fits a call
//! is taken. Every rank finds the same row, for a row looks only at what all ranks know.
#![forbid(unsafe_code)]

pub mod estimate;
pub mod selection;
pub mod wanted;

use crate::op::Kind;
use crate::schedule::{Algorithm, Call, Hosts};

/// What all ranks know of the machines they run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many ranks.
    pub ranks: u32,
    /// How many of them share a host, at most.
    pub ranks_per_host: u32,
    /// How many cores such a host has, at least.
    pub cores: u32,
    /// Which ranks share a host.
    pub hosts: Hosts,
    /// Whether reductions must have the same bits whatever the algorithm and wherever ranks are.
    pub is_deterministic: bool,
}

impl Facts {
    /// Whether ranks must share cores, so that every packet may cost a switch between them.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.ranks_per_host > self.cores
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// For which operation.
    pub kind: Kind,
    /// For at most this many ranks.
    pub most_ranks: u32,
    /// For at most this many bytes: of the vector for AllReduce, Reduce and Broadcast, of all blocks
    /// together for all others.
    pub most_bytes: usize,
    /// What is used.
    pub algorithm: Algorithm,
}

const ANY: usize = usize::MAX;
const MANY: u32 = u32::MAX;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn row(kind: Kind, most_ranks: u32, most_bytes: usize, algorithm: Algorithm) -> Row {
    Row { kind, most_ranks, most_bytes, algorithm }
}

/// The choices when nobody measured. First guess, to be measured: reasoned from hops and copies alone. One
/// hop while packets are cheap against hops; then the fewest bytes per rank; chains and rings where each
/// rank should talk to few.
pub const DEFAULT_TABLE: &[Row] = &[
    row(Kind::AllReduce, 2, 64 * KIB, Algorithm::Exchange),
    row(Kind::AllReduce, 4, 16 * KIB, Algorithm::Exchange),
    row(Kind::AllReduce, 8, 4 * KIB, Algorithm::Exchange),
    row(Kind::AllReduce, 16, KIB, Algorithm::Exchange),
    row(Kind::AllReduce, 16, ANY, Algorithm::Pairwise),
    row(Kind::AllReduce, MANY, 64 * KIB, Algorithm::Tree),
    row(Kind::AllReduce, 64, 4 * MIB, Algorithm::Pairwise),
    row(Kind::AllReduce, MANY, 4 * MIB, Algorithm::Tree),
    row(Kind::AllReduce, MANY, ANY, Algorithm::Ring),
    row(Kind::Reduce, 4, 64 * KIB, Algorithm::Exchange),
    row(Kind::Reduce, 8, 4 * KIB, Algorithm::Exchange),
    row(Kind::Reduce, MANY, 256 * KIB, Algorithm::Tree),
    row(Kind::Reduce, 64, ANY, Algorithm::Ring),
    row(Kind::Reduce, MANY, 16 * MIB, Algorithm::Tree),
    row(Kind::Reduce, MANY, ANY, Algorithm::Ring),
    row(Kind::Broadcast, 4, ANY, Algorithm::Exchange),
    row(Kind::Broadcast, 8, 16 * KIB, Algorithm::Exchange),
    row(Kind::Broadcast, MANY, 256 * KIB, Algorithm::Tree),
    row(Kind::Broadcast, 64, ANY, Algorithm::Ring),
    row(Kind::Broadcast, MANY, 16 * MIB, Algorithm::Tree),
    row(Kind::Broadcast, MANY, ANY, Algorithm::Ring),
    row(Kind::AllGather, 8, 256 * KIB, Algorithm::Exchange),
    row(Kind::AllGather, 16, ANY, Algorithm::Pairwise),
    row(Kind::AllGather, MANY, 64 * KIB, Algorithm::Tree),
    row(Kind::AllGather, 64, 16 * MIB, Algorithm::Pairwise),
    row(Kind::AllGather, MANY, MIB, Algorithm::Tree),
    row(Kind::AllGather, MANY, ANY, Algorithm::Ring),
    row(Kind::ReduceScatter, 8, 256 * KIB, Algorithm::Exchange),
    row(Kind::ReduceScatter, MANY, 16 * MIB, Algorithm::Pairwise),
    row(Kind::ReduceScatter, 16, ANY, Algorithm::Pairwise),
    row(Kind::ReduceScatter, MANY, ANY, Algorithm::Ring),
    row(Kind::AlltoAll, 16, 256 * KIB, Algorithm::Exchange),
    row(Kind::AlltoAll, MANY, ANY, Algorithm::Pairwise),
    row(Kind::Gather, 16, ANY, Algorithm::Exchange),
    row(Kind::Gather, MANY, MIB, Algorithm::Tree),
    row(Kind::Gather, MANY, ANY, Algorithm::Exchange),
    row(Kind::Scatter, 16, ANY, Algorithm::Exchange),
    row(Kind::Scatter, MANY, MIB, Algorithm::Tree),
    row(Kind::Scatter, MANY, ANY, Algorithm::Exchange),
];

/// The algorithm for `call`: what the table says, or what `wanted` (see [`wanted`](mod@wanted)) leaves.
#[must_use]
pub fn choose(call: &Call, facts: &Facts, wanted: &str) -> Algorithm {
    let usual = usual(call, facts);
    let wished = wanted::choose(wanted, call.kind, usual);
    wished.filter(|algorithm| allows(call, facts, *algorithm)).unwrap_or(usual)
}

/// The algorithm for `call` among those that are `allowed`: the table's, else the first. `None` if none is.
#[must_use]
pub fn choose_among(call: &Call, facts: &Facts, allowed: &[Algorithm]) -> Option<Algorithm> {
    let usual = usual(call, facts);
    if allowed.contains(&usual) {
        return Some(usual);
    }
    allowed.iter().copied().find(|algorithm| allows(call, facts, *algorithm))
}

/// Whether `algorithm` has a form for `call`, and one that gives the bits that are asked for.
#[must_use]
pub fn allows(call: &Call, facts: &Facts, algorithm: Algorithm) -> bool {
    algorithm.serves(call.kind) && (algorithm.is_ordered() || !must_be_ordered(call, facts))
}

const fn must_be_ordered(call: &Call, facts: &Facts) -> bool {
    facts.is_deterministic && call.kind.reduces()
}

/// The choice where nobody wishes.
fn usual(call: &Call, facts: &Facts) -> Algorithm {
    if must_be_ordered(call, facts) { ordered(call) } else { look_up(DEFAULT_TABLE, call, facts) }
}

/// Up to this many bytes, the fewest hops; above, the fewest bytes. First guess, to be measured.
const MOST_DOUBLING_BYTES: usize = 16 * KIB;

/// The choice among algorithms that all give the same bits.
fn ordered(call: &Call) -> Algorithm {
    let is_small = call.bytes() <= MOST_DOUBLING_BYTES;
    let doubles = is_small && Algorithm::Doubling.serves(call.kind);
    if doubles { Algorithm::Doubling } else { Algorithm::Rabenseifner }
}

/// The first row of `table` that fits, else one hop, which every operation has.
fn look_up(table: &[Row], call: &Call, facts: &Facts) -> Algorithm {
    let blocks = match call.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => call.ranks as usize,
    };
    let mut bytes = call.count.saturating_mul(call.data_type.size_bytes()).saturating_mul(blocks);
    // Where ranks take turns on cores, hops cost far more than bytes: look four times as small.
    if facts.is_crowded() && call.kind == Kind::AllReduce {
        bytes /= 4;
    }
    table
        .iter()
        .find(|row| row.kind == call.kind && facts.ranks <= row.most_ranks && bytes <= row.most_bytes)
        .map_or(Algorithm::Exchange, |row| row.algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Reduction};

    fn call(kind: Kind, count: usize, ranks: u32) -> (Call, Facts) {
        let call = Call {
            kind,
            data_type: DataType::Float32,
            reduction: Reduction::Sum,
            root: 0,
            count,
            ranks,
            in_place: false,
        };
        (
            call,
            Facts { ranks, ranks_per_host: ranks, cores: 1024, hosts: Hosts::one(), is_deterministic: false },
        )
    }

    #[test]
    fn rows_name_algorithms_that_have_a_form() {
        assert!(DEFAULT_TABLE.iter().all(|row| row.algorithm.serves(row.kind)));
    }

    #[test]
    fn every_row_can_be_reached() {
        for (index, row) in DEFAULT_TABLE.iter().enumerate() {
            let hides = |earlier: &&Row| {
                earlier.kind == row.kind
                    && earlier.most_ranks >= row.most_ranks
                    && earlier.most_bytes >= row.most_bytes
            };
            assert_eq!(DEFAULT_TABLE[..index].iter().find(hides), None, "{row:?} is never used");
        }
    }

    #[test]
    fn every_collective_of_every_size_has_a_plan() {
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()) {
            for ranks in [1, 2, 3, 8, 9, 17, 64, 65, 1000] {
                for count in [0, 1, 100, 10_000, 1_000_000] {
                    let (call, facts) = call(kind, count, ranks);
                    let algorithm = choose(&call, &facts, "");
                    assert!(crate::schedule::plan(algorithm, &call, ranks / 2, &facts.hosts).is_some());
                }
            }
        }
    }

    #[test]
    fn few_ranks_exchange_what_is_small() {
        let (small, facts) = call(Kind::AllReduce, 2, 8);
        assert_eq!(choose(&small, &facts, ""), Algorithm::Exchange);
        let (large, facts) = call(Kind::AllReduce, 1 << 20, 8);
        assert_eq!(choose(&large, &facts, ""), Algorithm::Pairwise);
    }

    #[test]
    fn a_name_wins_where_it_has_a_form() {
        let (call_a, facts) = call(Kind::AllReduce, 2, 8);
        assert_eq!(choose(&call_a, &facts, " Ring"), Algorithm::Ring);
        assert_eq!(choose(&call_a, &facts, "nonsense"), Algorithm::Exchange);
        let (call_b, facts) = call(Kind::AlltoAll, 2, 8);
        assert_eq!(choose(&call_b, &facts, "ring"), Algorithm::Exchange);
    }

    #[test]
    fn deterministic_reductions_are_ordered_whatever_is_wanted() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.reduces()) {
            for count in [1, 1 << 10, 1 << 20] {
                let (call, facts) = call(kind, count, 8);
                let facts = Facts { is_deterministic: true, ..facts };
                for wanted in ["", "ring", "doubling", "leaders"] {
                    let algorithm = choose(&call, &facts, wanted);
                    assert!(algorithm.is_ordered() && algorithm.serves(kind));
                }
            }
        }
        let (call, facts) = call(Kind::AllGather, 1, 8);
        assert_eq!(choose(&call, &Facts { is_deterministic: true, ..facts }, "ring"), Algorithm::Ring);
    }

    #[test]
    fn where_ranks_share_cores_fewer_hops_win() {
        let (call, facts) = call(Kind::AllReduce, 2048, 8);
        assert_eq!(choose(&call, &facts, ""), Algorithm::Pairwise);
        assert_eq!(choose(&call, &Facts { cores: 2, ..facts }, ""), Algorithm::Exchange);
    }
}
