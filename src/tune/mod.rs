//! Which algorithm, by size.
//!
//! The table is data ([`table`]): for each operation a few rows, and the first row that holds for a call is taken.
//! Every rank finds the same row, for a row looks only at what all ranks know, and rank 0's table goes to all.
//!
//! | file | what it does |
//! |---|---|
//! | [`table`] | the table: read, written, looked through, checked, compared |
//! | [`predict`] | what a candidate takes at a size: measured, between what was measured, or by the model |
//! | [`estimate`] | the model |
//! | [`candidates`], [`race`], [`fit`] | what is worth measuring, until when, and the rows that come of it |
//! | [`selection`], [`wanted`](mod@wanted) | what a call or a setting wants instead |
#![forbid(unsafe_code)]

pub mod candidates;
pub mod estimate;
pub mod fit;
pub mod predict;
pub mod race;
pub mod selection;
pub mod table;
pub mod wanted;

use crate::op::Kind;
use crate::schedule::{Algorithm, Call, Hosts};
use crate::topology::DeviceKind;
use table::{Choice, Choices, Cores, Site, Table, TypeClass, built_in};

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
    /// What the tables say of such ranks.
    pub choices: Choices,
}

impl Facts {
    /// The same facts with the choices of `table`, and where it says nothing those of the built-in tables.
    #[must_use]
    pub fn with_table(self, table: Option<&Table>) -> Facts {
        Facts { choices: Choices::of(&layers(table), &self.site()), ..self }
    }

    /// What rows look at.
    #[must_use]
    pub fn site(&self) -> Site {
        Site {
            ranks: self.ranks,
            hosts: u32::try_from(self.hosts.groups(self.ranks).len()).unwrap_or(u32::MAX),
            ranks_per_host: self.ranks_per_host,
            cores: if self.ranks_per_host > self.cores { Cores::Shared } else { Cores::Own },
            device: DeviceKind::Host,
        }
    }
}

/// The tables that count: the given one, then those that come with the library.
#[must_use]
pub fn layers(table: Option<&Table>) -> Vec<&Table> {
    table.into_iter().chain(built_in::rows()).collect()
}

/// The same tables with what was measured.
#[must_use]
pub fn measured_layers(table: Option<&Table>) -> Vec<&Table> {
    table.into_iter().chain(built_in::tables()).collect()
}

/// The size that rows look at: of the vector for AllReduce, Reduce and Broadcast, of all blocks together for all
/// others.
#[must_use]
pub fn size_bytes(call: &Call) -> u64 {
    let blocks = match call.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => u64::from(call.ranks),
    };
    (call.count as u64).saturating_mul(call.data_type.size_bytes() as u64).saturating_mul(blocks)
}

/// The choice for `call`: what the table says, or what `wanted` (see [`wanted`](mod@wanted)) leaves.
#[must_use]
pub fn choose(call: &Call, facts: &Facts, wanted: &str) -> Choice {
    let usual = usual(call, facts);
    let wished = wanted::choose(wanted, call.kind, usual.algorithm);
    match wished.filter(|algorithm| allows(call, facts, *algorithm)) {
        Some(algorithm) if algorithm != usual.algorithm => Choice::usual(algorithm),
        _ => usual,
    }
}

/// The algorithm for `call` among those that are `allowed`: the table's, else the first. `None` if none is.
#[must_use]
pub fn choose_among(call: &Call, facts: &Facts, allowed: &[Algorithm]) -> Option<Algorithm> {
    let usual = usual(call, facts).algorithm;
    if allowed.contains(&usual) {
        return Some(usual);
    }
    allowed.iter().copied().find(|algorithm| allows(call, facts, *algorithm))
}

/// The choice for `call` if it is to be `algorithm`: with the pieces of the table where the table chose it too.
#[must_use]
pub fn choice_of(call: &Call, facts: &Facts, algorithm: Algorithm) -> Choice {
    let usual = usual(call, facts);
    if usual.algorithm == algorithm { usual } else { Choice::usual(algorithm) }
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
fn usual(call: &Call, facts: &Facts) -> Choice {
    if must_be_ordered(call, facts) { Choice::usual(ordered(call)) } else { look_up(call, facts) }
}

/// Up to this many bytes, the fewest hops; above, the fewest bytes. First guess, to be measured.
const MOST_DOUBLING_BYTES: usize = 16 << 10;

/// The choice among algorithms that all give the same bits.
fn ordered(call: &Call) -> Algorithm {
    let is_small = call.bytes() <= MOST_DOUBLING_BYTES;
    let doubles = is_small && Algorithm::Doubling.serves(call.kind);
    if doubles { Algorithm::Doubling } else { Algorithm::Rabenseifner }
}

/// The first row that holds, else one hop, which every operation has.
fn look_up(call: &Call, facts: &Facts) -> Choice {
    let found = facts.choices.find(call.kind, size_bytes(call), TypeClass::of(call.data_type));
    found.map_or(Choice::usual(Algorithm::Exchange), |found| found.choice)
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
        (call, facts(ranks, 1024))
    }

    /// Facts in which the measured table has no say, so that measuring anew changes no test.
    fn facts(ranks: u32, cores: u32) -> Facts {
        let facts = Facts {
            ranks,
            ranks_per_host: ranks,
            cores,
            hosts: Hosts::one(),
            is_deterministic: false,
            choices: Choices::default(),
        };
        Facts { choices: Choices::of(&built_in::rows()[1..], &facts.site()), ..facts }
    }

    #[test]
    fn every_collective_of_every_size_has_a_plan() {
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()) {
            for ranks in [1, 2, 3, 8, 9, 17, 64, 65, 1000] {
                for count in [0, 1, 100, 10_000, 1_000_000] {
                    let (call, facts) = call(kind, count, ranks);
                    let algorithm = choose(&call, &facts, "").algorithm;
                    assert!(facts.choices.find(kind, size_bytes(&call), TypeClass::Native).is_some());
                    assert!(crate::schedule::plan(algorithm, &call, ranks / 2, &facts.hosts).is_some());
                }
            }
        }
    }

    #[test]
    fn few_ranks_exchange_what_is_small() {
        let (small, facts) = call(Kind::AllReduce, 2, 8);
        assert_eq!(choose(&small, &facts, "").algorithm, Algorithm::Exchange);
        let (large, facts) = call(Kind::AllReduce, 1 << 20, 8);
        assert_eq!(choose(&large, &facts, "").algorithm, Algorithm::Pairwise);
    }

    #[test]
    fn a_name_wins_where_it_has_a_form() {
        let (call_a, facts) = call(Kind::AllReduce, 2, 8);
        assert_eq!(choose(&call_a, &facts, " Ring").algorithm, Algorithm::Ring);
        assert_eq!(choose(&call_a, &facts, "nonsense").algorithm, Algorithm::Exchange);
        let (call_b, facts) = call(Kind::AlltoAll, 2, 8);
        assert_eq!(choose(&call_b, &facts, "ring").algorithm, Algorithm::Exchange);
    }

    #[test]
    fn deterministic_reductions_are_ordered_whatever_is_wanted() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.reduces()) {
            for count in [1, 1 << 10, 1 << 20] {
                let (call, facts) = call(kind, count, 8);
                let facts = Facts { is_deterministic: true, ..facts };
                for wanted in ["", "ring", "doubling", "leaders"] {
                    let algorithm = choose(&call, &facts, wanted).algorithm;
                    assert!(algorithm.is_ordered() && algorithm.serves(kind));
                }
            }
        }
        let (call, facts) = call(Kind::AllGather, 1, 8);
        assert_eq!(
            choose(&call, &Facts { is_deterministic: true, ..facts }, "ring").algorithm,
            Algorithm::Ring
        );
    }

    #[test]
    fn where_ranks_share_cores_fewer_hops_win() {
        let (call, facts) = call(Kind::AllReduce, 2048, 8);
        assert_eq!(choose(&call, &facts, "").algorithm, Algorithm::Pairwise);
        assert_eq!(choose(&call, &self::facts(8, 2), "").algorithm, Algorithm::Exchange);
    }

    #[test]
    fn a_table_comes_before_those_that_are_built_in() {
        let text = "[[row]]\noperation = \"allreduce\"\nranks = 8\nbytes = [0, 100]\nalgorithm = \"ring\"\n\
                    piece_bytes = 8192\n";
        let table = table::read::read("t", text).unwrap();
        let (call_a, facts) = call(Kind::AllReduce, 25, 8);
        let facts = facts.with_table(Some(&table));
        assert_eq!(choose(&call_a, &facts, ""), Choice::named("ring_8192").unwrap());
        assert_eq!(choose(&call_a, &facts, "ring"), Choice::named("ring_8192").unwrap());
        assert_eq!(choose(&call_a, &facts, "tree"), Choice::named("tree").unwrap());
        assert_eq!(choice_of(&call_a, &facts, Algorithm::Tree), Choice::named("tree").unwrap());
        let (call_b, _) = call(Kind::AllReduce, 26, 8);
        assert_ne!(choose(&call_b, &facts, "").algorithm, Algorithm::Ring);
    }
}
