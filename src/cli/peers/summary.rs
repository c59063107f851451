//! Medians, ratios and bands of the figures, each state of the machine for itself.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::contenders::{MAPPED, OURS};
use super::rounds::{Case, Figure};
use crate::cli::bench::statistics::{band, median};
use crate::cli::canary::State;

/// One contender's figures of one case in one state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) contender: &'static str,
    pub(super) library: String,
    pub(super) median_us: f64,
    pub(super) p99_us: f64,
    pub(super) times_us: Vec<f64>,
    /// Of a stage boundary: what its small messages add.
    pub(super) added_us: Option<f64>,
}

/// One case in one state, all contenders side by side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    pub(super) case: Case,
    pub(super) state: State,
    pub(super) ours: Option<Entry>,
    /// This library on memory that its peers map.
    pub(super) mapped: Option<Entry>,
    /// Fastest first.
    pub(super) peers: Vec<Entry>,
    /// How far this library differs from itself.
    pub(super) band: Option<f64>,
    pub(super) floor_us: Option<f64>,
}

impl Comparison {
    /// How many times faster than the best peer; above 1 is faster.
    pub(super) fn ratio(&self) -> Option<f64> {
        let (ours, best) = (self.ours.as_ref()?, self.peers.first()?);
        (ours.median_us > 0.0).then(|| best.median_us / ours.median_us)
    }

    /// How many times faster than the best peer on mapped memory.
    pub(super) fn mapped_ratio(&self) -> Option<f64> {
        let (mapped, best) = (self.mapped.as_ref()?, self.peers.first()?);
        (mapped.median_us > 0.0).then(|| best.median_us / mapped.median_us)
    }

    /// How many times the floor it takes.
    pub(super) fn floor_ratio(&self) -> Option<f64> {
        let (ours, floor) = (self.ours.as_ref()?, self.floor_us?);
        (floor > 0.0).then(|| ours.median_us / floor)
    }

    /// In words: faster, slower, or within the band.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.ratio(), self.band) {
            (Some(ratio), Some(band)) if ratio > 1.0 + band => "faster",
            (Some(ratio), Some(band)) if ratio * (1.0 + band) < 1.0 => "SLOWER",
            (Some(_), Some(_)) => "same",
            _ => "",
        }
    }

    /// The fewest figures behind any contender.
    pub(super) fn runs(&self) -> usize {
        self.ours.iter().chain(&self.peers).map(|entry| entry.times_us.len()).min().unwrap_or(0)
    }
}

/// Every case in every state in which it was seen; what was seen in between is dropped.
pub(super) fn compare(figures: &[Figure]) -> Vec<Comparison> {
    let mut groups: BTreeMap<(usize, &Case), Vec<&Figure>> = BTreeMap::new();
    for figure in figures {
        let state = match figure.state {
            State::Near => 0,
            State::Far => 1,
            State::Between => continue,
        };
        groups.entry((state, &figure.case)).or_default().push(figure);
    }
    groups.into_values().map(|group| comparison(&group)).collect()
}

fn comparison(group: &[&Figure]) -> Comparison {
    let mut peers: Vec<Entry> = Vec::new();
    for figure in group.iter().filter(|figure| ![OURS, MAPPED].contains(&figure.contender)) {
        if !peers.iter().any(|entry| entry.contender == figure.contender) {
            peers.extend(entry(group, figure.contender, false));
        }
    }
    peers.sort_by(|one, other| one.median_us.total_cmp(&other.median_us));
    let ours = entry(group, OURS, false);
    let control = entry(group, OURS, true);
    let floors: Vec<f64> = group.iter().filter_map(|figure| figure.floor_us).collect();
    Comparison {
        case: group[0].case.clone(),
        state: group[0].state,
        band: ours.as_ref().zip(control).map(|(one, other)| band(one.median_us, other.median_us)),
        ours,
        mapped: entry(group, MAPPED, false),
        peers,
        floor_us: median(&floors),
    }
}

fn entry(group: &[&Figure], contender: &'static str, is_control: bool) -> Option<Entry> {
    let own = group.iter().filter(|f| f.contender == contender && f.is_control == is_control);
    let own: Vec<&&Figure> = own.collect();
    let times_us: Vec<f64> = own.iter().map(|figure| figure.time_us).collect();
    let added: Vec<f64> = own.iter().filter_map(|figure| figure.added_us).collect();
    let p99s: Vec<f64> = own.iter().map(|figure| figure.time_us_p99).collect();
    Some(Entry {
        contender,
        library: own.first()?.library.clone(),
        median_us: median(&times_us)?,
        p99_us: median(&p99s)?,
        times_us,
        added_us: median(&added),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Limits, tests::pretend};
    use super::*;

    #[test]
    fn states_are_not_mixed() {
        let figures = pretend(3, Limits { enough: 5, turns: 50 });
        let comparisons = compare(&figures);
        assert_eq!(comparisons.len(), 4);
        for comparison in &comparisons {
            let scale = if comparison.state == State::Far { 4.0 } else { 1.0 };
            let ours = comparison.ours.as_ref().unwrap();
            assert!((ours.median_us / scale - 1.0).abs() < 0.1, "{comparison:?}");
            let names: Vec<_> = comparison.peers.iter().map(|peer| peer.contender).collect();
            assert_eq!(names, ["openmpi", "mpich"]);
            assert!((comparison.ratio().unwrap() - 2.0).abs() < 0.1);
            assert_eq!(comparison.verdict(), "faster");
        }
    }

    #[test]
    fn a_difference_inside_the_band_is_none() {
        let comparisons = compare(&pretend(0, Limits { enough: 5, turns: 5 }));
        let mut comparison = comparisons[0].clone();
        assert_eq!(comparison.runs(), 5);
        comparison.band = Some(1.5);
        assert_eq!(comparison.verdict(), "same");
        comparison.band = Some(0.01);
        comparison.peers[0].median_us = 0.5;
        assert_eq!(comparison.verdict(), "SLOWER");
        comparison.floor_us = Some(0.5);
        assert!((comparison.floor_ratio().unwrap() - 2.0).abs() < 0.1);
    }

    #[test]
    fn what_lies_between_is_dropped() {
        let mut figures = pretend(0, Limits { enough: 5, turns: 5 });
        figures.iter_mut().for_each(|figure| figure.state = State::Between);
        assert!(compare(&figures).is_empty());
    }
}
