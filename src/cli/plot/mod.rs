//! `shoal plot`: pictures and the README's table, made from records and from nothing else.
//!
//! | file | what it does |
//! |---|---|
//! | `record` | reads the lines that `shoal peers --record` wrote |
//! | `chart` | time of one message against its size, a line for each contender, as SVG |
//! | [`table`] | the README's rows |
//! | [`hosts`] | the rows of the page on the network |
#![forbid(unsafe_code)]

mod chart;
pub mod hosts;
mod record;
pub mod table;

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Failure;

/// Draws a record: the time of one message against its size, for each contender.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The record, as `shoal peers --record` writes it
    pub record: PathBuf,
    /// Where the picture goes: .svg, or .png where rsvg-convert is installed
    #[arg(short, long, value_name = "FILE", required_unless_present = "table")]
    pub output: Option<PathBuf>,
    /// Print the README's table instead; of a record between hosts, that of docs/network.md
    #[arg(long, conflicts_with = "output")]
    pub table: bool,
    /// What is drawn: exchange (and packed, dashed), sendrecv, allreduce, ...
    #[arg(long, default_value = "exchange")]
    pub op: String,
    /// Messages to each peer
    #[arg(short, long, default_value_t = 64)]
    pub messages: usize,
    /// Ranks
    #[arg(long, default_value_t = 2)]
    pub ranks: usize,
    /// The state of the machine: near or far
    #[arg(long, default_value = "near")]
    pub state: String,
}

/// Draws or prints.
///
/// # Errors
/// The record cannot be read or holds nothing of what is asked for, or the picture cannot be written.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let name = options.record.display();
    let text = std::fs::read_to_string(&options.record)
        .map_err(|error| Failure(format!("cannot read {name}: {error}")))?;
    let lines = record::parse(&text).map_err(|error| Failure(format!("{name}: {error}")))?;
    let Some(output) = &options.output else {
        let is_between_hosts = lines.iter().any(|line| line.hosts > 1);
        let table = if is_between_hosts { hosts::of } else { table::of };
        super::print(&table(&text, &options.state)?)?;
        return Ok(true);
    };
    let chosen = record::Chosen {
        op: &options.op,
        messages: options.messages,
        ranks: options.ranks,
        state: &options.state,
    };
    let curves = record::curves(&lines, &chosen);
    if curves.is_empty() {
        return Err(Failure(format!(
            "{name} holds no {} with {} messages on {} ranks, {}",
            options.op, options.messages, options.ranks, options.state
        )));
    }
    let file = options.record.file_name().unwrap_or_default().to_string_lossy();
    let svg = chart::svg(&curves, &chosen, &record::origin(&lines, &file));
    let refused = |error: std::io::Error| Failure(format!("cannot write {}: {error}", output.display()));
    match output.extension().and_then(|end| end.to_str()) {
        Some("svg") => std::fs::write(output, svg).map_err(refused)?,
        Some("png") => {
            let beside = output.with_extension("svg");
            std::fs::write(&beside, svg).map_err(refused)?;
            let converted = Command::new("rsvg-convert").arg("--output").arg(output).arg(&beside).status();
            if !converted.is_ok_and(|status| status.success()) {
                return Err(Failure(format!(
                    "rsvg-convert did not make {} (Debian: librsvg2-bin); {} is there",
                    output.display(),
                    beside.display()
                )));
            }
        }
        _ => return Err(Failure("--output must end in .svg or .png".into())),
    }
    Ok(true)
}
