//! One operation at some sizes: by algorithm, or with and without frames.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::options::{Format, Options};
use super::{choice, draw, folding, limits, picture, words};
use crate::cli::Failure;
use crate::cli::bench::size;
use crate::coalesce::Limits;
use crate::simulate::{Machine, Outcome, Refusal, collective, exchange, mix, regions};

/// One line of the result.
#[derive(Serialize)]
struct Line {
    op: String,
    ranks: u32,
    bytes: usize,
    algorithm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    simulated_ranks: Option<u32>,
    /// What the table would take.
    chosen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfolded: Option<String>,
}

impl Line {
    fn new(
        options: &Options,
        op: &str,
        (bytes, algorithm, chosen): (usize, &str, bool),
        outcome: Result<Outcome, Refusal>,
    ) -> Line {
        let (outcome, refused) = match outcome {
            Ok(outcome) => (Some(outcome), None),
            Err(refusal) => (None, Some(refusal.to_string())),
        };
        let of = |number: fn(&Outcome) -> u64| outcome.as_ref().map(number);
        Line {
            op: op.to_owned(),
            ranks: options.ranks,
            bytes,
            algorithm: algorithm.to_owned(),
            time_us: outcome.as_ref().map(|outcome| outcome.time_ns / 1000.0),
            messages: of(|outcome| outcome.messages),
            packets: of(|outcome| outcome.packets),
            sent_bytes: of(|outcome| outcome.bytes),
            peak_bytes: of(|outcome| outcome.peak_bytes),
            simulated_ranks: outcome.as_ref().map(|outcome| outcome.simulated),
            chosen,
            refused,
            unfolded: outcome.and_then(|outcome| outcome.unfolded),
        }
    }

    fn row(&self) -> String {
        let mark = if self.chosen { "*" } else { " " };
        let name = format!("{:>9} {mark}{:<13}", size::display(self.bytes), self.algorithm);
        let (Some(time), Some(messages)) = (self.time_us, self.messages) else {
            return format!("{name} {}", self.refused.as_deref().unwrap_or_default());
        };
        let number = |number: Option<u64>| number.unwrap_or_default();
        format!(
            "{name} {time:>14.3} {messages:>14} {:>14} {:>17} {:>13} {:>9}",
            number(self.packets),
            number(self.sent_bytes),
            number(self.peak_bytes),
            self.simulated_ranks.unwrap_or_default()
        )
    }
}

pub(super) fn run(options: &Options, machine: &Machine) -> Result<bool, Failure> {
    let op = options.op.as_deref().unwrap_or_default();
    if options.format == Format::Table {
        put_line!("# {op}, {} ranks; {}", options.ranks, words(machine));
        put_line!(
            "# {:>7}  {:<13} {:>14} {:>14} {:>14} {:>17} {:>13} {:>9}",
            "bytes",
            "algorithm",
            "time_us",
            "messages",
            "packets",
            "sent_bytes",
            "peak_bytes",
            "simulated"
        );
    }
    let mut all = Vec::new();
    for &bytes in &options.bytes {
        let mut lines = if op == "exchange" {
            framings(options, machine, bytes)
        } else {
            algorithms(options, machine, op, bytes)?
        };
        lines.sort_by(|one, other| {
            let time = |line: &Line| line.time_us.unwrap_or(f64::INFINITY);
            time(one).total_cmp(&time(other))
        });
        for line in lines {
            match options.format {
                Format::Table => put_line!("{}", line.row()),
                Format::Json => put_line!("{}", json(&line)?),
            }
            all.push(line);
        }
    }
    if options.format == Format::Table {
        if all.iter().any(|line| line.chosen) {
            put_line!("# * what the table takes");
        }
        let why = all.iter().find_map(|line| Some((&line.algorithm, line.unfolded.as_ref()?)));
        if let Some((algorithm, why)) = why {
            put_line!("# {algorithm} was run event by event: {why}");
        }
    }
    if let Some(output) = &options.output {
        draw(&drawn(options, op, &all, machine)?, output)?;
    }
    Ok(all.iter().any(|line| line.time_us.is_some()))
}

pub(super) fn json(line: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(line).map_err(|error| Failure(format!("cannot be written as JSON: {error}")))
}

fn algorithms(options: &Options, machine: &Machine, op: &str, bytes: usize) -> Result<Vec<Line>, Failure> {
    let kind = mix::kind(op).map_err(Failure)?;
    let Some(call) = regions::call(kind, options.ranks, bytes as u64) else {
        return Err(Failure(format!(
            "{op} of {bytes} bytes leaves less than an element of 4 bytes for each of {} ranks",
            options.ranks
        )));
    };
    let chosen = choice(machine, &call);
    let serving = options.algorithms().into_iter().filter(|algorithm| algorithm.serves(kind));
    let lines: Vec<Line> = serving
        .map(|algorithm| {
            let outcome = collective(machine, &call, algorithm, &folding(options));
            Line::new(options, op, (bytes, algorithm.name(), algorithm == chosen), outcome)
        })
        .collect();
    if lines.is_empty() {
        return Err(Failure(format!("no algorithm of these has a form for {op}")));
    }
    Ok(lines)
}

/// How many groups in a row are simulated for one.
const GROUPS: u32 = 8;

fn framings(options: &Options, machine: &Machine, bytes: usize) -> Vec<Line> {
    let together = limits(options);
    let apart = Limits { message_bytes: 0, ..together };
    let both = [("together", together), ("apart", apart)];
    both.map(|(name, limits)| {
        let outcome = exchange(machine, options.ranks, (options.messages, bytes), limits, GROUPS);
        Line::new(options, "exchange", (bytes, name, name == "together"), outcome)
    })
    .into()
}

fn drawn(options: &Options, op: &str, lines: &[Line], machine: &Machine) -> Result<String, Failure> {
    let mut curves: Vec<picture::Curve> = Vec::new();
    for line in lines {
        let Some(time_us) = line.time_us else { continue };
        let place = curves.iter().position(|curve| curve.name == line.algorithm);
        let place = place.unwrap_or_else(|| {
            curves.push(picture::Curve { name: line.algorithm.clone(), points: Vec::new() });
            curves.len() - 1
        });
        curves[place].points.push((line.bytes as f64, time_us));
    }
    if curves.is_empty() {
        return Err(Failure("nothing could be simulated, so there is nothing to draw".into()));
    }
    let title = format!("{op}, {} ranks, simulated", options.ranks);
    Ok(picture::curves(&title, &words(machine), &curves))
}
