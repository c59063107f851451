//! What the rounds of a replay come to, and one side against the other. Pure.
//!
//! Sides take turns, so that a slow minute hits both. What is compared is the median of a side's rounds within a turn;
//! of the ratios of all turns the median counts, and its interval is between two of them: so many turns from either end
//! that it misses the true median in at most one of twenty cases, as far as there are turns enough.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::classes::Class;
use crate::cli::bench::row::Row;
use crate::cli::bench::statistics::median;
use crate::trace::alternation::Gain;

/// What a time is of: a class by its name and end, or all.
pub(super) type Key = (String, u64);

/// The key of the whole.
pub(super) const WHOLE: &str = "all";

/// Times of each class, in microseconds, one for each round.
pub(super) type Rounds = BTreeMap<Key, Vec<f64>>;

/// Adds what rank 0 reported of a class in one round.
pub(super) fn add(rounds: &mut Rounds, row: &Row) {
    rounds.entry((row.op.clone(), row.bytes as u64)).or_default().push(row.time_us);
}

/// A line of the result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) key: Key,
    /// Of a round, by each side.
    pub(super) times_us: Vec<f64>,
    pub(super) gain: Option<Gain>,
}

/// The lines of all classes; `sides` hold the rounds of each turn.
pub(super) fn lines(sides: &[Vec<Rounds>]) -> Vec<Line> {
    let Some(first) = sides.first().and_then(|turns| turns.first()) else { return Vec::new() };
    let of = |turn: &Rounds, key: &Key| turn.get(key).and_then(|times| median(times));
    let line = |key: &Key| {
        let times_us = sides.iter().map(|turns| {
            median(&turns.iter().filter_map(|turn| of(turn, key)).collect::<Vec<_>>()).unwrap_or(0.0)
        });
        let gain = match sides {
            [one, other] => {
                let pairs = one.iter().zip(other).filter_map(|(one, other)| of(one, key).zip(of(other, key)));
                Gain::of(
                    &pairs.filter(|(one, _)| *one > 0.0).map(|(one, other)| other / one).collect::<Vec<_>>(),
                )
            }
            _ => None,
        };
        Line { key: key.clone(), times_us: times_us.collect(), gain }
    };
    let mut lines: Vec<Line> = first.keys().map(line).collect();
    lines.sort_by_key(|line| line.key.0 == WHOLE);
    lines
}

/// What a class is called where people read it.
pub(super) fn named((what, end_bytes): &Key) -> (String, String) {
    (what.clone(), if what == WHOLE { String::new() } else { Class::sizes(*end_bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(times: &[f64]) -> Rounds {
        Rounds::from([((WHOLE.to_owned(), 0), times.to_vec())])
    }

    #[test]
    fn gains_are_of_turns() {
        // The machine is four times slower in some turns, and never in one of them alone.
        let turn = |turn: usize, factor: f64| {
            let pace = if turn.is_multiple_of(2) { 1.0 } else { 4.0 };
            rounds(&[factor * pace, factor * pace * 1.01, factor * pace * 9.0])
        };
        let side = |factor: f64| (0..6).map(|number| turn(number, factor)).collect::<Vec<_>>();
        let line = lines(&[side(1.0), side(1.5)]).remove(0);
        let gain = line.gain.unwrap();
        assert!((gain.ratio - 1.5).abs() < 1e-9 && gain.low <= 1.5 && gain.high >= 1.5, "{gain:?}");
        assert!((gain.sure - 0.96875).abs() < 1e-9, "{gain:?}");
        assert_eq!(line.times_us.len(), 2);
        assert_eq!(lines(&[side(1.0)])[0].gain, None);
        assert!(lines(&[]).is_empty());
    }
}
