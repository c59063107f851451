//! What is worth measuring for a call: every algorithm that differs from the others, less those that the model
//! sees far behind.
#![forbid(unsafe_code)]

use super::predict::model_us;
use super::size_bytes;
use super::table::Choice;
use crate::schedule::{self, Algorithm, Call, Hosts, Plan};

/// What the model sees this many times behind the best is not measured. The model knows neither caches nor
/// schedulers, so it is given much room; less where bytes count most, which it knows better.
const BEHIND: f64 = 8.0;
const BEHIND_LARGE: f64 = 3.0;
/// From this size on bytes count most.
const LARGE_BYTES: u64 = 256 << 10;

/// The candidates, in the order of the algorithms. Of several with the same plans on all ranks the first stands for
/// all: along two ranks most algorithms are one. `always` is among them, or what stands for it, if it has a form.
#[must_use]
pub fn candidates(call: &Call, hosts: &Hosts, always: &[Algorithm]) -> Vec<Choice> {
    let mut seen: Vec<Vec<Plan>> = Vec::new();
    let mut found: Vec<(Choice, f64, bool)> = Vec::new();
    for algorithm in Algorithm::ALL {
        let choice = Choice::usual(algorithm);
        let Some(plans) = plans(algorithm, call, hosts) else { continue };
        let must = always.contains(&algorithm);
        if let Some(known) = seen.iter().position(|known| *known == plans) {
            found[known].2 |= must;
            continue;
        }
        seen.push(plans);
        found.push((choice, model_us(choice, call, hosts).unwrap_or(f64::INFINITY), must));
    }
    let behind = if size_bytes(call) < LARGE_BYTES { BEHIND } else { BEHIND_LARGE };
    let best_us = found.iter().map(|(_, us, _)| *us).fold(f64::INFINITY, f64::min);
    let worth = found.into_iter().filter(|(_, us, must)| *must || *us <= behind * best_us);
    worth.map(|(choice, _, _)| choice).collect()
}

/// Which of `candidates` does what `choice` does, step by step; `choice` itself if none.
#[must_use]
pub fn stands_for(choice: Choice, candidates: &[Choice], call: &Call, hosts: &Hosts) -> Choice {
    if candidates.contains(&choice) || choice.piece_bytes.is_some() {
        return choice;
    }
    let own = plans(choice.algorithm, call, hosts);
    let same = |other: &&Choice| other.piece_bytes.is_none() && plans(other.algorithm, call, hosts) == own;
    candidates.iter().find(same).copied().unwrap_or(choice)
}

/// The same candidates with large messages in pieces of other sizes, where that makes other plans.
#[must_use]
pub fn in_pieces(candidates: &[Choice], sizes_bytes: &[u32], call: &Call, hosts: &Hosts) -> Vec<Choice> {
    let mut found = Vec::new();
    for choice in candidates {
        let mut seen = vec![plans_of(*choice, call, hosts)];
        for bytes in sizes_bytes {
            let other = Choice { piece_bytes: Some(*bytes), ..*choice };
            let plans = plans_of(other, call, hosts);
            if !seen.contains(&plans) {
                found.push(other);
                seen.push(plans);
            }
        }
    }
    found
}

/// The plans of all ranks, without their names.
fn plans(algorithm: Algorithm, call: &Call, hosts: &Hosts) -> Option<Vec<Plan>> {
    plans_of(Choice::usual(algorithm), call, hosts)
}

fn plans_of(choice: Choice, call: &Call, hosts: &Hosts) -> Option<Vec<Plan>> {
    let plan = |rank| {
        let plan = schedule::plan_in_pieces(choice.algorithm, call, rank, hosts, choice.piece_bytes())?;
        Some(Plan { algorithm: "", ..plan })
    };
    (0..call.ranks).map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::super::predict::call_of;
    use super::*;
    use crate::op::{DataType, Kind};

    fn names(operation: Kind, bytes: u64, ranks: u32) -> Vec<&'static str> {
        let call = call_of(operation, bytes, DataType::Float32, ranks);
        candidates(&call, &Hosts::one(), &[]).iter().map(|choice| choice.algorithm.name()).collect()
    }

    #[test]
    fn between_two_ranks_trees_are_one() {
        let found = names(Kind::Broadcast, 64, 2);
        assert!(
            found.contains(&"exchange") && !found.contains(&"tree4") && !found.contains(&"tree8"),
            "{found:?}"
        );
        assert!(names(Kind::AllReduce, 64, 8).len() > found.len());
    }

    #[test]
    fn what_is_far_behind_is_left_out_unless_it_is_asked_for() {
        assert!(!names(Kind::AllReduce, 64, 64).contains(&"ring"));
        let call = call_of(Kind::AllReduce, 64, DataType::Float32, 64);
        let with = candidates(&call, &Hosts::one(), &[Algorithm::Ring]);
        assert!(with.contains(&Choice::usual(Algorithm::Ring)));
    }

    #[test]
    fn other_pieces_are_candidates_where_they_make_other_plans() {
        let [small, large] = [64, 4 << 20].map(|bytes| call_of(Kind::AllReduce, bytes, DataType::Float32, 4));
        let ring = [Choice::usual(Algorithm::Ring)];
        assert_eq!(in_pieces(&ring, &[65_536, 1 << 20], &small, &Hosts::one()), []);
        let found = in_pieces(&ring, &[65_536, 262_144], &large, &Hosts::one());
        assert_eq!(found, [Choice::named("ring_65536").unwrap()]);
    }

    #[test]
    fn whoever_is_left_out_as_the_same_has_somebody_who_stands_for_it() {
        let call = call_of(Kind::Broadcast, 64, DataType::Float32, 2);
        let found = candidates(&call, &Hosts::one(), &[]);
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.serves(Kind::Broadcast)) {
            let standing = stands_for(Choice::usual(algorithm), &found, &call, &Hosts::one());
            assert!(found.contains(&standing), "{algorithm:?}");
        }
    }
}
