//! What a table gains, and how far from the best it is.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::json;

use super::journal::{Journal, today};
use super::points::MeasuredPoint;
use super::profile::Profile;
use super::{Options, RESULT, Setup, assemble, machine_name};
use crate::cli::Failure;
use crate::cli::bench::size;
use crate::op::{DataType, Kind};
use crate::schedule::Algorithm;
use crate::tune;
use crate::tune::candidates::stands_for;
use crate::tune::predict::{call_of, model_us, predict};
use crate::tune::race::Race;
use crate::tune::table::{Choice, Choices, Point, Sample, Site, Table, TypeClass, operation_name};

/// A regret beyond this is told by name.
const FAR: f64 = 1.25;

/// Ratios of one decade of bytes.
#[derive(Default)]
struct Decade {
    logs: [f64; 2],
    count: usize,
}

/// What is chosen for a call of that size, by the name under which it was measured.
fn chosen(choices: &Choices, setup: &Setup, operation: Kind, point: &Point) -> Option<Sample> {
    let found = choices.find(operation, point.bytes, TypeClass::Native)?;
    let measured: Vec<Choice> = point.samples.iter().map(|sample| sample.choice).collect();
    let call = call_of(operation, point.bytes, DataType::Float32, setup.site.ranks);
    let choice = stands_for(found.choice, &measured, &call, &setup.hosts);
    point.samples.iter().find(|sample| sample.choice == choice).copied()
}

/// The one algorithm that is the best over all points of an operation.
fn best_single(points: &[Point]) -> Option<Choice> {
    let all: Vec<Choice> = points.first()?.samples.iter().map(|sample| sample.choice).collect();
    let cost = |choice: &Choice| -> f64 {
        let time =
            |point: &Point| point.samples.iter().find(|sample| sample.choice == *choice).map(|s| s.median_us);
        points.iter().map(|point| time(point).map_or(f64::INFINITY, f64::ln)).sum()
    };
    all.into_iter().min_by(|one, other| cost(one).total_cmp(&cost(other)))
}

/// How much faster the tuned choices are than the built-in ones and than the best single algorithm, by decade.
pub(super) fn gains(setup: &Setup, journal: &Journal, table: &Table) -> String {
    let built_in = Choices::of(&tune::layers(None), &setup.site);
    let tuned = Choices::of(&tune::layers(Some(table)), &setup.site);
    let mut decades: Vec<(u32, Decade)> = Vec::new();
    for operation in setup.points.operations() {
        let points = assemble::points(setup, journal, operation);
        let single = best_single(&points);
        for point in &points {
            let Some(ours) = chosen(&tuned, setup, operation, point) else { continue };
            let Some(usual) = chosen(&built_in, setup, operation, point) else { continue };
            let single = point.samples.iter().find(|sample| Some(sample.choice) == single).unwrap_or(&usual);
            let decade = decade_of(&mut decades, point.bytes);
            decade.logs[0] += (usual.median_us / ours.median_us).ln();
            decade.logs[1] += (single.median_us / ours.median_us).ln();
            decade.count += 1;
        }
    }
    let mut text = String::from(
        "geometric mean of the times of others over those of this table, above 1 it is faster\n",
    );
    let _ = writeln!(text, "{:<22} {:>9} {:>12} {:>7}", "bytes", "built-in", "best single", "points");
    for (decade, Decade { logs, count }) in &decades {
        let [usual, single] = logs.map(|sum| (sum / *count as f64).exp());
        let _ = writeln!(text, "{:<22} {usual:>9.3} {single:>12.3} {count:>7}", decade_name(*decade));
    }
    text
}

fn decade_of(decades: &mut Vec<(u32, Decade)>, bytes: u64) -> &mut Decade {
    let number = bytes.max(1).ilog10();
    let place = decades.iter().position(|(known, _)| *known >= number).unwrap_or(decades.len());
    if decades.get(place).is_none_or(|(known, _)| *known != number) {
        decades.insert(place, (number, Decade::default()));
    }
    &mut decades[place].1
}

fn decade_name(decade: u32) -> String {
    format!("{} to {}", 10_u64.pow(decade), 10_u64.pow(decade + 1) - 1)
}

/// What the table gains on a job's mix: by what was measured at its sizes, and by prediction at all of them.
pub(super) fn profile_gain(setup: &Setup, journal: &Journal, table: &Table, profile: &Profile) -> String {
    let [usual, tuned] = [None, Some(table)].map(|table| Choices::of(&tune::layers(table), &setup.site));
    let (mut predicted, mut measured) = ([0.0; 2], [0.0; 2]);
    let (mut calls, mut measured_calls) = (0, 0);
    for one in &profile.calls {
        let points = assemble::points(setup, journal, one.operation);
        let known: Vec<Choice> =
            points.iter().flat_map(|point| &point.samples).map(|sample| sample.choice).collect();
        if points.is_empty() {
            continue;
        }
        let sides = [&usual, &tuned].map(|side| {
            let found = side.find(one.operation, one.bytes, TypeClass::Native);
            let choice = found.map_or(Choice::usual(Algorithm::Exchange), |found| found.choice);
            let call = call_of(one.operation, one.bytes, DataType::Float32, setup.site.ranks);
            stands_for(choice, &known, &call, &setup.hosts)
        });
        calls += one.calls;
        for (sum, choice) in predicted.iter_mut().zip(sides) {
            *sum += one.calls as f64 * predicted_us(setup, one.operation, one.bytes, &points, choice);
        }
        let here = points.iter().find(|point| point.bytes == one.bytes);
        let time = |choice| here?.samples.iter().find(|s| s.choice == choice).map(|sample| sample.median_us);
        if let (Some(one_us), Some(other_us)) = (time(sides[0]), time(sides[1])) {
            measured_calls += one.calls;
            measured[0] += one.calls as f64 * one_us;
            measured[1] += one.calls as f64 * other_us;
        }
    }
    let ratio = |[usual, tuned]: [f64; 2]| if tuned > 0.0 { usual / tuned } else { 1.0 };
    format!(
        "on this job's mix, built-in over tuned: predicted {:.3} ({calls} calls, {:.0} us tuned), \
         measured {:.3} ({measured_calls} calls, {:.0} us tuned)\n",
        ratio(predicted),
        predicted[1],
        ratio(measured),
        measured[1],
    )
}

fn predicted_us(setup: &Setup, operation: Kind, bytes: u64, points: &[Point], choice: Choice) -> f64 {
    let of = |point: &Point| {
        let sample = point.samples.iter().find(|sample| sample.choice == choice)?;
        Some((point.bytes, *sample))
    };
    let samples: Vec<(u64, Sample)> = points.iter().filter_map(of).collect();
    let model = |bytes| {
        let call = call_of(operation, bytes, DataType::Float32, setup.site.ranks);
        model_us(choice, &call, &setup.hosts).unwrap_or(0.0)
    };
    predict(&samples, bytes, model).us
}

/// How far a table's choice is from the best of its run, at one point.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Regret {
    operation: Kind,
    bytes: u64,
    chosen: Choice,
    best: Choice,
    chosen_us: f64,
    /// The choice's time over the best's.
    ratio: f64,
    /// How far the choice is from itself, as a share.
    band: f64,
    turns: usize,
}

impl Regret {
    /// Of a race in which the choice ran at the first and at the last place.
    pub(super) fn of(point: &MeasuredPoint, race: &Race) -> Option<Regret> {
        let samples = race.samples();
        let (first, last) = (samples.first()?, samples.last()?);
        let best = samples.iter().min_by(|one, other| one.median_us.total_cmp(&other.median_us))?;
        // The choice's own time is the mean of its two; the lower of two would flatter it.
        let chosen_us = (first.median_us * last.median_us).sqrt();
        let is_best = best.choice == first.choice;
        Some(Regret {
            operation: point.operation,
            bytes: point.bytes,
            chosen: first.choice,
            best: best.choice,
            chosen_us,
            ratio: if is_best { 1.0 } else { chosen_us / best.median_us },
            band: (first.median_us / last.median_us).ln().abs().exp() - 1.0,
            turns: race.turns(),
        })
    }
}

/// The regrets as lines of results, and in the record if one is wanted.
///
/// # Errors
/// The record cannot be written.
pub(super) fn regrets(options: &Options, site: &Site, found: &[Regret]) -> Result<Vec<String>, Failure> {
    if let Some(path) = &options.record {
        let refused = |cause: std::io::Error| Failure(format!("cannot add to {}: {cause}", path.display()));
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(refused)?;
        let name = options.table.as_ref().map_or("found".to_owned(), |path| path.display().to_string());
        let line = |one: &Regret| {
            let line = json!({
                "date": today(), "machine": machine_name(), "library": crate::version(), "table": name,
                "op": operation_name(one.operation), "ranks": site.ranks, "hosts": site.hosts, "cores": site.cores.name(),
                "bytes": one.bytes, "type": options.data_type.name(), "chosen": one.chosen.to_string(),
                "best": one.best.to_string(), "chosen_us": one.chosen_us, "regret": one.ratio,
                "aa_band": one.band, "turns": one.turns,
            });
            format!("{line}\n")
        };
        file.write_all(found.iter().map(line).collect::<String>().as_bytes()).map_err(refused)?;
    }
    let mut decades: Vec<(u32, Decade)> = Vec::new();
    for one in found {
        let decade = decade_of(&mut decades, one.bytes);
        decade.logs[0] += one.ratio.ln();
        decade.logs[1] = decade.logs[1].max(one.ratio.ln());
        decade.count += 1;
    }
    let mut lines = vec![format!("{RESULT}{:<22} {:>7} {:>7} {:>7}", "bytes", "regret", "worst", "points")];
    for (decade, Decade { logs: [sum, worst], count }) in &decades {
        let (mean, worst) = ((sum / *count as f64).exp(), worst.exp());
        lines.push(format!("{RESULT}{:<22} {mean:>7.3} {worst:>7.3} {count:>7}", decade_name(*decade)));
    }
    for one in found.iter().filter(|one| one.ratio > FAR * (1.0 + one.band)) {
        lines.push(format!(
            "{RESULT}{} {}: {} takes {:.2} of {} (a/a {:.1}%, {} turns)",
            operation_name(one.operation),
            size::display(one.bytes as usize),
            one.chosen,
            one.ratio,
            one.best,
            100.0 * one.band,
            one.turns,
        ));
    }
    Ok(lines)
}
