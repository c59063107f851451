//! `shoal simulate`: calls of thousands of ranks on paper, mixes, regions of victory, and a machine's numbers from
//! what was measured.
//!
//! | file | what it does |
//! |---|---|
//! | [`options`] | the options |
//! | `calls` | one operation, by algorithm or by framing |
//! | `maps` | regions of victory |
//! | `mixes` | lists of calls |
//! | `fitting` | a machine from a record |
//! | `picture` | pictures as SVG, by hand |
#![forbid(unsafe_code)]

mod calls;
mod fitting;
mod maps;
mod mixes;
pub mod options;
mod picture;

use std::path::Path;
use std::process::Command;

use crate::cli::Failure;
use crate::coalesce::Limits;
use crate::schedule::{Algorithm, Call};
use crate::simulate::{Folding, Machine, file};
use crate::tune::table::Choices;
use crate::tune::{self, Facts};
use options::{Fold, Options};

/// Does what is asked for.
///
/// # Errors
/// A file cannot be read or written, or says what it should not.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let machine = match &options.topology {
        None => Machine::default(),
        Some(path) => file::read(&read(path)?)
            .map_err(|error| Failure(format!("topology {}: {error}", path.display())))?,
    };
    if options.print_topology {
        super::print(&file::write(&machine))?;
        return Ok(true);
    }
    if let Some(record) = &options.fit {
        return fitting::run(options, record);
    }
    if let Some(name) = &options.mix {
        return mixes::run(options, &machine, name);
    }
    if options.regions { maps::run(options, &machine) } else { calls::run(options, &machine) }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure(format!("cannot read {}: {error}", path.display())))
}

fn folding(options: &Options) -> Folding {
    match options.fold {
        Fold::Auto => Folding::WherePossible,
        Fold::Never => Folding::Never,
        Fold::Always => Folding::Always,
    }
}

fn limits(options: &Options) -> Limits {
    Limits { message_bytes: options.coalesce_bytes, frame_bytes: options.frame_bytes }
}

/// What the table chooses on such a machine.
fn choice(machine: &Machine, call: &Call) -> Algorithm {
    let ranks_per_host = match machine.ranks_per_host {
        0 => call.ranks,
        each => each.min(call.ranks),
    };
    let cores = if machine.cores_per_host == 0 { ranks_per_host } else { machine.cores_per_host };
    let facts = Facts {
        ranks: call.ranks,
        ranks_per_host,
        cores,
        hosts: machine.hosts(call.ranks),
        is_deterministic: false,
        choices: Choices::default(),
    };
    tune::choose(call, &facts.with_table(None), "").algorithm
}

/// The machine in a line.
fn words(machine: &Machine) -> String {
    let count = |count: u32, all: &str| if count == 0 { all.to_owned() } else { count.to_string() };
    format!(
        "{} ranks a host, {} cores, {} rails, {} hosts an island, oversubscription {}",
        count(machine.ranks_per_host, "all"),
        count(machine.cores_per_host, "own"),
        machine.rails,
        count(machine.hosts_per_island, "all"),
        machine.oversubscription
    )
}

/// Writes a picture as its name ends.
fn draw(svg: &str, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure(format!("cannot write {}: {error}", path.display()));
    match path.extension().and_then(|end| end.to_str()) {
        Some("svg") => std::fs::write(path, svg).map_err(failed),
        Some("png") => {
            let vector = path.with_extension("svg");
            std::fs::write(&vector, svg).map_err(failed)?;
            let done = Command::new("rsvg-convert").arg(&vector).arg("-o").arg(path).status();
            match done {
                Ok(status) if status.success() => Ok(()),
                _ => Err(Failure(format!(
                    "{} is written, but rsvg-convert (package librsvg2-bin) did not make {} of it",
                    vector.display(),
                    path.display()
                ))),
            }
        }
        _ => Err(Failure(format!("{} is no picture: expected a name with .svg or .png", path.display()))),
    }
}
