//! `shoal explain`: which algorithm a call gets, which row says so, and what all candidates take.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::bench::{options, size};
use super::{Failure, machine};
use crate::comm::table;
use crate::config::Config;
use crate::op::{DataType, Kind};
use crate::schedule::{Algorithm, Call, Hosts};
use crate::tune::predict::{Basis, Predicted, call_of, model_us, predict, samples};
use crate::tune::table::{Choice, Choices, Cores, Found, Row, Table, TypeClass, operation_name};
use crate::tune::{self, Facts};

/// Says which algorithm a call gets, which row of which table says so, and what the other candidates would take.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The operation, like allreduce
    #[arg(long, value_parser = operation, value_name = "OP")]
    pub op: Kind,
    /// The size: of the vector, of all blocks together where each rank has its own
    #[arg(short, long, value_parser = size::parse, value_name = "SIZE")]
    pub bytes: usize,
    /// How many ranks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub ranks: u32,
    /// On how many hosts, in blocks
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub hosts: u32,
    /// Whether every rank has a core [default: as on this machine]
    #[arg(long, value_enum)]
    pub cores: Option<CoresArgument>,
    /// The element type
    #[arg(short = 'd', long = "datatype", default_value = "float", value_parser = data_type, value_name = "TYPE")]
    pub data_type: DataType,
    /// The table [default: as a job would find it: SHOAL_TABLE, the user's cache]
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object.
    Json,
}

/// Whether every rank has a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CoresArgument {
    /// At least one each.
    Own,
    /// Ranks take turns.
    Shared,
}

/// The collective of that name, in any letters, with or without dashes.
pub(crate) fn operation(text: &str) -> Result<Kind, String> {
    let plain = text.trim().to_ascii_lowercase().replace(['-', '_'], "");
    let collectives = || Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point());
    collectives().find(|kind| operation_name(*kind) == plain).ok_or_else(|| {
        let names: Vec<String> = collectives().map(operation_name).collect();
        format!("no operation {text:?}; there are {}", names.join(", "))
    })
}

/// One element type.
pub(crate) fn data_type(text: &str) -> Result<DataType, String> {
    match options::data_types(text)?.0.as_slice() {
        [one] => Ok(*one),
        _ => Err("name one type".into()),
    }
}

/// One of the algorithms that the call could have.
struct Candidate {
    choice: Choice,
    predicted: Predicted,
}

/// Everything there is to say.
struct Explanation {
    call: Call,
    facts: Facts,
    chosen: Choice,
    /// What the tables say, whatever the settings wish.
    found: Option<Found>,
    /// By the time that is predicted.
    candidates: Vec<Candidate>,
    why: String,
}

/// Explains one call.
///
/// # Errors
/// The table cannot be read, or the numbers contradict each other.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let config = Config::get();
    let facts = facts(options, config)?;
    let table = match &options.table {
        Some(path) => Some(table::load(path).map_err(Failure)?),
        None => table::find(&facts.site(), config).map_err(|error| Failure(error.to_string()))?,
    };
    let tables = tune::measured_layers(table.as_ref());
    let explanation = explain(options, facts.with_table(table.as_ref()), &tables, config);
    let shown = match options.format {
        Format::Text => text(&explanation, &tables),
        Format::Json => format!("{}\n", value(&explanation, &tables)),
    };
    super::print(&shown).map(|()| true)
}

/// The ranks in blocks on their hosts.
pub(crate) fn hosts(ranks: u32, hosts: u32) -> Result<(Hosts, u32), Failure> {
    if hosts > ranks {
        return Err(Failure(format!("{ranks} ranks cannot be on {hosts} hosts; give at most {ranks} hosts")));
    }
    let ranks_per_host = ranks.div_ceil(hosts);
    let host_of =
        |rank: u32| u32::try_from(u64::from(rank) * u64::from(hosts) / u64::from(ranks)).unwrap_or(0);
    Ok((Hosts::of((0..ranks).map(host_of).collect()), ranks_per_host))
}

fn facts(options: &Options, config: &Config) -> Result<Facts, Failure> {
    let (hosts, ranks_per_host) = hosts(options.ranks, options.hosts)?;
    let here = u32::try_from(machine::available_cores()).unwrap_or(u32::MAX);
    let cores = match options.cores {
        None => here,
        Some(CoresArgument::Own) => ranks_per_host,
        Some(CoresArgument::Shared) => ranks_per_host - 1,
    };
    let is_deterministic = config.deterministic;
    Ok(Facts {
        ranks: options.ranks,
        ranks_per_host,
        cores,
        hosts,
        is_deterministic,
        choices: Choices::default(),
    })
}

fn explain(options: &Options, facts: Facts, tables: &[&Table], config: &Config) -> Explanation {
    let call = call_of(options.op, options.bytes as u64, options.data_type, options.ranks);
    let (bytes, types) = (tune::size_bytes(&call), TypeClass::of(options.data_type));
    let found = facts.choices.find(options.op, bytes, types);
    let chosen = tune::choose(&call, &facts, &config.algorithm);
    let mut choices: Vec<Choice> = Algorithm::ALL
        .into_iter()
        .filter(|algorithm| tune::allows(&call, &facts, *algorithm))
        .map(Choice::usual)
        .collect();
    if !choices.contains(&chosen) {
        choices.push(chosen);
    }
    let site = facts.site();
    let candidate = |choice: Choice| {
        let known = samples(tables, &site, options.op, types, choice);
        let model = |bytes: u64| {
            let call = call_of(options.op, bytes, options.data_type, options.ranks);
            model_us(choice, &call, &facts.hosts)
        };
        model(bytes)?;
        Some(Candidate { choice, predicted: predict(&known, bytes, |bytes| model(bytes).unwrap_or(0.0)) })
    };
    let mut candidates: Vec<Candidate> = choices.into_iter().filter_map(candidate).collect();
    candidates.sort_by(|one, other| one.predicted.us.total_cmp(&other.predicted.us));
    let why = why(&call, &facts, tables, found, chosen, config);
    Explanation { call, facts, chosen, found, candidates, why }
}

/// Why it is the chosen one, in one sentence.
fn why(
    call: &Call,
    facts: &Facts,
    tables: &[&Table],
    found: Option<Found>,
    chosen: Choice,
    config: &Config,
) -> String {
    if facts.is_deterministic && call.kind.reduces() {
        return "SHOAL_DETERMINISTIC=1 allows only algorithms that all give the same bits, and chooses by size".into();
    }
    let Some(found) = found else {
        return "no row of any table holds here, so the one hop that every operation has".into();
    };
    if found.choice != chosen {
        return format!("SHOAL_ALGORITHM={} wants it; the table says {}", config.algorithm, found.choice);
    }
    let row = &tables[found.table].rows[found.row];
    if row.run.is_empty() {
        return "nobody measured here: reasoned from hops and copies; shoal tune measures".into();
    }
    let bytes = tune::size_bytes(call);
    let sizes: Vec<u64> = measured_sizes(tables[found.table], row, facts);
    let below = sizes.iter().copied().filter(|size| *size <= bytes).max();
    let above = sizes.iter().copied().filter(|size| *size >= bytes).min();
    match (below, above) {
        (Some(at), _) if at == bytes => format!("measured at {at} bytes"),
        (Some(below), Some(above)) => {
            format!("measured at {below} and {above} bytes; between them the model interpolates")
        }
        (Some(nearest), None) | (None, Some(nearest)) => {
            format!("outside of what was measured: the nearest size is {nearest} bytes")
        }
        (None, None) => format!("run {:?} measured it, without points in the table", row.run),
    }
}

/// All sizes at which the run of the row measured the operation for such ranks.
fn measured_sizes(table: &Table, row: &Row, facts: &Facts) -> Vec<u64> {
    let site = facts.site();
    let alike = |other: &&Row| other.key.operation == row.key.operation && other.key.fits(&site);
    table.rows.iter().filter(alike).flat_map(|row| &row.points).map(|point| point.bytes).collect()
}

/// The row and where it stands.
fn describe_row<'a>(tables: &[&'a Table], found: Found) -> (String, u32, &'a Row) {
    let table = tables[found.table];
    let row = &table.rows[found.row];
    (table.name.clone(), row.line, row)
}

fn basis_text(basis: Basis) -> String {
    match basis {
        Basis::Measured(sample) => {
            format!("measured, half of all between {:.3} and {:.3}", sample.low_us, sample.high_us)
        }
        Basis::Between(low, high) => format!("between {low} and {high} bytes measured"),
        Basis::Outside(nearest) => format!("outside of what was measured, from {nearest} bytes"),
        Basis::Model => "never measured: the model alone".into(),
    }
}

fn text(explanation: &Explanation, tables: &[&Table]) -> String {
    let Explanation { call, facts, chosen, found, candidates, why } = explanation;
    let site = facts.site();
    let mut out = format!(
        "{} of {} bytes ({}), {} ranks on {} {}, cores {}\n\nchosen: {chosen}\nwhy: {why}\n",
        operation_name(call.kind),
        tune::size_bytes(call),
        call.data_type.name(),
        site.ranks,
        site.hosts,
        if site.hosts == 1 { "host" } else { "hosts" },
        site.cores.name(),
    );
    if let Some(found) = found {
        let (name, line, row) = describe_row(tables, *found);
        let _ = writeln!(out, "row: {name}, line {line}: ranks {}, bytes {}", row.key.ranks, row.key.bytes);
        if let Some(run) = tables[found.table].run(&row.run) {
            let _ = writeln!(
                out,
                "measured by: {} on {} ({}, version {}{})",
                run.command,
                run.date,
                run.machine,
                run.library,
                if run.state.is_empty() { String::new() } else { format!(", cores {}", run.state) },
            );
        }
    }
    let _ = writeln!(out, "\n  {:<18} {:>12}  how it is known", "candidate", "time");
    for Candidate { choice, predicted } in candidates {
        let mark = if choice == chosen { '*' } else { ' ' };
        let name = choice.to_string();
        let _ = writeln!(out, "{mark} {name:<18} {:>9.3} us  {}", predicted.us, basis_text(predicted.basis));
    }
    if site.cores == Cores::Shared && candidates.iter().any(|one| one.predicted.basis == Basis::Model) {
        let _ = writeln!(out, "\nThe model knows nothing of ranks that take turns on cores.");
    }
    out
}

fn value(explanation: &Explanation, tables: &[&Table]) -> serde_json::Value {
    let Explanation { call, facts, chosen, found, candidates, why } = explanation;
    let site = facts.site();
    let row = found.map(|found| {
        let (name, line, row) = describe_row(tables, found);
        let run = tables[found.table].run(&row.run);
        json!({
            "table": name,
            "line": line,
            "algorithm": row.choice.to_string(),
            "machine": run.map(|run| &run.machine),
            "date": run.map(|run| &run.date),
            "command": run.map(|run| &run.command),
        })
    });
    let candidate = |Candidate { choice, predicted }: &Candidate| {
        let (basis, measured) = match predicted.basis {
            Basis::Measured(sample) => ("measured", Some([sample.median_us, sample.low_us, sample.high_us])),
            Basis::Between(..) => ("between", None),
            Basis::Outside(_) => ("outside", None),
            Basis::Model => ("model", None),
        };
        json!({
            "algorithm": choice.to_string(),
            "is_chosen": choice == chosen,
            "predicted_us": predicted.us,
            "basis": basis,
            "measured_us": measured,
        })
    };
    json!({
        "op": operation_name(call.kind),
        "bytes": tune::size_bytes(call),
        "type": call.data_type.name(),
        "ranks": site.ranks,
        "hosts": site.hosts,
        "cores": site.cores.name(),
        "chosen": chosen.to_string(),
        "why": why,
        "row": row,
        "candidates": candidates.iter().map(candidate).collect::<Vec<_>>(),
    })
}
