//! `shoal report`: what a job communicated, by the traces of its ranks (`SHOAL_TRACE=folder`).
//!
//! | file | what it does |
//! |---|---|
//! | `sections` | from sums to tables of words |
//! | `advice` | what to change, in order of gain, each with the command that tries it |
//! | `chrome` | every batch, in the form that Perfetto and Chrome show |
//! | `export` | the forms of others: PARAM, NCCL's Inspector, PyTorch's flight record |
//! | `text`, `html` | tables for people, as text or Markdown, or as a page with pictures |

mod advice;
mod chrome;
mod export;
mod html;
mod sections;
mod text;

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use crate::trace::file::{ENDING, Reader};
use crate::trace::report::Report;
use sections::Section;

/// Says what a job communicated: calls, bytes and time by operation, size, communicator and peer; waiting apart from
/// moving; what packing small messages saved; and what to try next.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Traces, or folders of them, as SHOAL_TRACE makes them
    #[arg(required = true)]
    pub traces: Vec<PathBuf>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Into this file instead of standard output; a folder for forms that have a file for each rank
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, in a terminal.
    Text,
    /// For people, in a document.
    Markdown,
    /// One object.
    Json,
    /// One page with pictures, which needs nothing else.
    Html,
    /// Every batch, for Perfetto and chrome://tracing.
    Chrome,
    /// PARAM's traces of communication, a file for each rank.
    Param,
    /// Records of NCCL's Inspector.
    Inspector,
    /// The messages of all ranks, for LogGOPSim and its relatives.
    Goal,
    /// The flight record that PyTorch's analyzers read, a file for each rank.
    Flight,
    /// The same as JSON.
    FlightJson,
}

/// Reads, sums, prints; `Ok(false)` if a trace is damaged or had no room for all.
///
/// # Errors
/// There is no trace, or one cannot be read.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let form = match options.format {
        Format::Param => Some(export::Form::Param),
        Format::Inspector => Some(export::Form::Inspector),
        Format::Goal => Some(export::Form::Goal),
        Format::Flight => Some(export::Form::Flight),
        Format::FlightJson => Some(export::Form::FlightJson),
        _ => None,
    };
    if let Some(form) = form {
        return export::write(form, &options.traces, options.output.as_deref());
    }
    let paths = find(&options.traces)?;
    if options.format == Format::Chrome {
        return match &options.output {
            None => chrome::write(&paths, &mut std::io::stdout().lock()),
            Some(path) => chrome::write(&paths, &mut File::create(path)?),
        };
    }
    let mut report = Report::default();
    for path in paths {
        let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
        let file = File::open(&path).map_err(|error| named(error.to_string()))?;
        report.add(Reader::new(file).map_err(named)?);
    }
    report.finish();
    let text = match options.format {
        Format::Text => text::plain(&sections::all(&report)),
        Format::Markdown => text::markdown(&sections::all(&report)),
        Format::Html => html::page(&report, &sections::all(&report)),
        _ => object(&report)?,
    };
    match &options.output {
        None => super::print(&text)?,
        Some(path) => {
            std::fs::write(path, text).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(report.ranks.iter().all(|rank| rank.damage.is_none() && rank.head.dropped == 0))
}

/// The traces in the order of their names.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let is_trace = |path: &Path| path.extension().is_some_and(|ending| ending == ENDING);
        let entries =
            std::fs::read_dir(path).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        let before = found.len();
        found.extend(entries.flatten().map(|entry| entry.path()).filter(|path| is_trace(path)));
        if found.len() == before {
            let path = path.display();
            return Err(Failure(format!("{path} holds no trace; run the job with SHOAL_TRACE={path}")));
        }
    }
    found.sort();
    Ok(found)
}

/// Everything as one object: the tables, and the numbers that programs ask for.
fn object(report: &Report) -> Result<String, Failure> {
    let sum = |sum: &crate::trace::report::Sum| json!({ "calls": sum.calls, "bytes": sum.bytes, "time_ns": sum.time_ns, "waited_ns": sum.waited_ns });
    let named = |section: &Section| json!({ "title": section.title, "columns": section.columns, "rows": section.rows });
    let ranks = report.ranks.iter().map(|rank| {
        let head = &rank.head;
        json!({
            "communicator": format!("{:032x}", head.communicator), "rank": head.rank, "ranks": head.ranks,
            "host": head.host, "process": head.process, "batches": rank.batches, "dropped": head.dropped,
            "damage": rank.damage, "sum": sum(&rank.sum),
        })
    });
    let packing = &report.packing;
    let operations = report.by_operation.iter().map(|(name, of)| ((*name).to_owned(), sum(of)));
    let value = json!({
        "span_ns": report.span_ns(),
        "total": sum(&report.total),
        "traces": ranks.collect::<Vec<_>>(),
        "operations": operations.collect::<serde_json::Map<_, _>>(),
        "small_point_to_point": {
            "up_to_bytes": packing.small_bytes,
            "sum": sum(&packing.small),
            "share_of_calls": share(packing.small.calls, report.total.calls),
            "share_of_time": share(packing.small.time_ns, report.total.time_ns),
            "messages_sent": packing.messages, "packets": packing.packets, "packed": report.packed(),
            "alone_ns": packing.alone_ns, "could_be_grouped": packing.near,
        },
        "measured_in_turn": report.measured.iter().map(|one| json!({
            "messages": one.messages, "bytes": one.bytes, "packets": one.packets, "batches": one.batches,
            "packed_ns": one.packed_ns, "apart_ns": one.apart_ns, "gain": one.gain.ratio,
            "low": one.gain.low, "high": one.gain.high, "sure": one.gain.sure,
        })).collect::<Vec<_>>(),
        "advice": advice::all(report).iter().map(|advice| json!({
            "what": advice.what, "why": advice.why, "gain_ns": advice.gain_ns, "try": advice.command,
        })).collect::<Vec<_>>(),
        "sections": sections::all(report).iter().map(named).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&value).map_err(|error| Failure(error.to_string()))? + "\n")
}

/// A part of a whole, which may be nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
