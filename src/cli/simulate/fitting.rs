//! A machine's numbers from a record, and how near they come to what they were not fitted to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::options::Options;
use super::{choice, read};
use crate::cli::Failure;
use crate::cli::bench::size;
use crate::op::{DataType, Kind, Reduction};
use crate::schedule::{Algorithm, Call};
use crate::simulate::fit::{Sample, fit, simulated_ns};
use crate::simulate::{Machine, file, mix};

/// What is read of a line of `shoal bench --format json`.
#[derive(Deserialize)]
struct Line {
    op: String,
    ranks: u32,
    bytes: usize,
    count: usize,
    in_place: bool,
    time_us: f64,
    /// Added by the script that measured.
    cores: Option<u32>,
    algorithm: Option<String>,
}

struct Measured {
    bytes: usize,
    sample: Sample,
}

fn samples(text: &str) -> Result<(u32, Vec<Measured>), Failure> {
    let mut measured = Vec::new();
    let mut cores = 0;
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let wrong = |words: String| Failure(format!("line {number}: {words}"));
        let line: Line = serde_json::from_str(line)
            .map_err(|error| wrong(format!("{error}; expected a line of shoal bench --format json")))?;
        let Ok(kind) = mix::kind(&line.op) else { continue };
        cores = line.cores.unwrap_or(cores);
        let call = Call {
            kind,
            data_type: DataType::Float32,
            reduction: Reduction::Sum,
            root: 0,
            count: line.count,
            ranks: line.ranks,
            in_place: line.in_place,
        };
        let usable = call.is_sound(0) && line.count > 0 && line.time_us > 0.0;
        if !usable {
            return Err(wrong(format!(
                "{} of {} elements in {} us is no call",
                line.op, line.count, line.time_us
            )));
        }
        let algorithm = match &line.algorithm {
            Some(name) => {
                let found = Algorithm::named(name);
                let algorithm = found.ok_or_else(|| wrong(format!("{name:?} is no algorithm")))?;
                // Records outlive forms: one that won nowhere was deleted since.
                if !algorithm.serves(kind) {
                    continue;
                }
                algorithm
            }
            None => choice(&host(cores), &call),
        };
        let sample = Sample { call, algorithm, time_ns: line.time_us * 1000.0 };
        measured.push(Measured { bytes: line.bytes, sample });
    }
    Ok((cores, measured))
}

/// About half of the samples, spread over operations, ranks and sizes as if by chance.
const fn is_fitted(number: u32) -> bool {
    (number.wrapping_mul(0x9e37_79b1) >> 20) & 1 == 0
}

/// One host, before anything is known of it.
fn host(cores: u32) -> Machine {
    let mut machine = Machine { ranks_per_host: 0, cores_per_host: cores, ..Machine::default() };
    machine.core.cache_bytes = 1_048_576.0;
    machine.core.beyond_cache = 1.5;
    machine.core.patience_ns = 20_000.0;
    machine.core.wake_ns = 30_000.0;
    machine
}

pub(super) fn run(options: &Options, record: &Path) -> Result<bool, Failure> {
    let (cores, measured) = samples(&read(record)?)
        .map_err(|Failure(error)| Failure(format!("{}: {error}", record.display())))?;
    if measured.len() < 16 {
        return Err(Failure(format!(
            "{} holds {} samples of collectives, expected 16 at least",
            record.display(),
            measured.len()
        )));
    }
    let (fitted, kept): (Vec<_>, Vec<_>) = (0..).zip(&measured).partition(|(number, _)| is_fitted(*number));
    let fitted: Vec<Sample> = fitted.into_iter().map(|(_, measured)| measured.sample).collect();
    let start = if options.topology.is_some() {
        let path = options.topology.as_deref().unwrap_or(record);
        file::read(&read(path)?).map_err(|error| Failure(format!("{}: {error}", path.display())))?
    } else {
        host(cores)
    };
    let machine = fit(&start, &fitted);
    put_line!("# fitted to {} samples, compared with the {} others\n", fitted.len(), kept.len());
    report(&machine, kept.into_iter().map(|(_, measured)| measured))?;
    let text = format!("# Fitted to {} by shoal simulate --fit.\n{}", name(record), file::write(&machine));
    match &options.output {
        None => put_line!("\n{}", text.trim_end()),
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))?,
    }
    Ok(true)
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// How far apart two times are: 0.25 where the larger is a quarter more than the smaller.
fn apart(one: f64, other: f64) -> f64 {
    one.max(other) / one.min(other) - 1.0
}

fn report<'all>(machine: &Machine, measured: impl Iterator<Item = &'all Measured>) -> Result<(), Failure> {
    let mut errors: BTreeMap<(String, u32), Vec<f64>> = BTreeMap::new();
    let mut all = Vec::new();
    put_line!("| operation | algorithm | ranks | bytes | measured us | simulated us | ratio |");
    put_line!("|---|---|---|---|---|---|---|");
    for Measured { bytes, sample } in measured {
        let Some(simulated) = simulated_ns(machine, sample) else { continue };
        let Call { kind, ranks, .. } = sample.call;
        put_line!(
            "| {} | {} | {ranks} | {} | {:.2} | {:.2} | {:.2} |",
            Kind::name(kind),
            sample.algorithm.name(),
            size::display(*bytes),
            sample.time_ns / 1000.0,
            simulated / 1000.0,
            simulated / sample.time_ns
        );
        let error = apart(simulated, sample.time_ns);
        errors.entry((kind.name().to_owned(), ranks)).or_default().push(error);
        all.push(error);
    }
    put_line!("\n| operation | ranks | samples | median error | three of four below |");
    put_line!("|---|---|---|---|---|");
    let row = |name: &str, ranks: &str, errors: &mut Vec<f64>| -> Result<(), Failure> {
        errors.sort_by(f64::total_cmp);
        let at = |share: f64| 100.0 * errors[((errors.len() - 1) as f64 * share) as usize];
        put_line!("| {name} | {ranks} | {} | {:.0}% | {:.0}% |", errors.len(), at(0.5), at(0.75));
        Ok(())
    };
    for ((kind, ranks), errors) in &mut errors {
        row(kind, &ranks.to_string(), errors)?;
    }
    let mut by_ranks: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for ((_, ranks), errors) in &errors {
        by_ranks.entry(*ranks).or_default().extend(errors);
    }
    for (ranks, errors) in &mut by_ranks {
        row("all", &ranks.to_string(), errors)?;
    }
    row("all", "all", &mut all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_samples_and_wrong_ones_are_named() {
        let line = "{\"algorithm\":\"ring\",\"cores\":2,\"op\":\"allreduce\",\"ranks\":2,\"bytes\":64,\
                    \"count\":16,\"in_place\":false,\"time_us\":0.25}";
        let (cores, measured) = samples(&format!("{line}\n\n{line}")).ok().unwrap();
        assert_eq!((cores, measured.len(), measured[1].sample.algorithm), (2, 2, Algorithm::Ring));
        assert!((measured[0].sample.time_ns - 250.0).abs() < 1e-9);
        for (text, words) in [
            ("nothing".to_owned(), "line 1: "),
            (line.replace("ring", "bush"), "\"bush\" is no algorithm"),
            (line.replace("16", "0"), "is no call"),
        ] {
            let Failure(error) = samples(&text).err().unwrap();
            assert!(error.contains(words), "{error}");
        }
        // A form that was deleted since the record was made.
        let (_, measured) = samples(&line.replace("ring", "pat")).ok().unwrap();
        assert!(measured.is_empty());
    }
}
