//! `shoal table`: checks tables, compares them, and brings choices for stock NCCL in and out.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, print};
use crate::comm::table::load;
use crate::topology::probe;
use crate::tune::table::diff::diff;
use crate::tune::table::lint::{Here, lint};
use crate::tune::table::{Table, built_in, sheet, write::write};

/// Checks tables of choices, compares them, and exchanges choices with stock NCCL's example tuner.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to do with them.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with tables.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Look for overlaps, gaps, rows that are never used, choices that were measured to be slower, and runs of other
    /// machines or versions; the exit code is 1 if rows contradict each other
    Lint {
        /// The tables; built-in stands for those that come with the library
        #[arg(required = true)]
        tables: Vec<PathBuf>,
    },
    /// Say where two tables choose differently; the exit code is 1 if they do
    Diff {
        /// One table, or built-in
        one: PathBuf,
        /// The other, or built-in
        other: PathBuf,
    },
    /// Print a table, for example that which comes with the library
    Show {
        /// The table, or built-in
        #[arg(default_value = "built-in")]
        table: PathBuf,
    },
    /// Make a table of the CSV of stock NCCL's example tuner plugin, for libshoal-nccl.so
    Import {
        /// The CSV
        sheet: PathBuf,
        /// Where to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make such a CSV of a table's choices for stock NCCL
    Export {
        /// The table
        table: PathBuf,
        /// Where to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Does it; `Ok(false)` if something was found.
///
/// # Errors
/// A file cannot be read or written, or what is wrong in it, by line.
pub fn run(options: &Options) -> Result<bool, Failure> {
    match &options.action {
        Action::Lint { tables } => lint_all(tables),
        Action::Diff { one, other } => {
            let found = diff(&merged(one)?, &merged(other)?);
            let lines: String = found.iter().map(|difference| format!("{difference}\n")).collect();
            print(&format!("{lines}{} differences\n", found.len()))?;
            Ok(found.is_empty())
        }
        Action::Show { table } => {
            let show = |table: &Table| format!("# {}\n{}\n", table.name, write(table));
            print(&tables(table)?.iter().map(show).collect::<String>())?;
            Ok(true)
        }
        Action::Import { sheet: path, output } => {
            let text = std::fs::read_to_string(path)
                .map_err(|cause| Failure(format!("{}: {cause}", path.display())))?;
            let stock = sheet::import(&path.display().to_string(), &text).map_err(Failure)?;
            put(output.as_deref(), &write(&Table { stock, ..Table::default() }))
        }
        Action::Export { table, output } => {
            let table = load(table).map_err(Failure)?;
            let (text, left_out) = sheet::export(&table.stock);
            if table.stock.is_empty() {
                return Err(Failure(format!("{} has no [[stock]] rows", table.name)));
            }
            if left_out > 0 {
                eprintln!("shoal: {left_out} rows are for ranges of ranks or hosts, which a CSV cannot say");
            }
            put(output.as_deref(), &text)
        }
    }
}

fn put(path: Option<&Path>, text: &str) -> Result<bool, Failure> {
    match path {
        None => print(text)?,
        Some(path) => std::fs::write(path, text)
            .map_err(|cause| Failure(format!("cannot write {}: {cause}", path.display())))?,
    }
    Ok(true)
}

/// The table of a file, or those that are built in.
fn tables(path: &Path) -> Result<Vec<Table>, Failure> {
    if path == Path::new(crate::comm::table::BUILT_IN) {
        return Ok(built_in::tables().into_iter().cloned().collect());
    }
    Ok(vec![load(path).map_err(Failure)?])
}

/// All rows in their order, as one table.
fn merged(path: &Path) -> Result<Table, Failure> {
    let rows = tables(path)?.into_iter().flat_map(|table| table.rows).collect();
    Ok(Table { rows, ..Table::default() })
}

fn lint_all(paths: &[PathBuf]) -> Result<bool, Failure> {
    let machine = probe::machine();
    let here = Here { machine: &machine, library: crate::version() };
    let mut faults = 0;
    let mut lines = Vec::new();
    for path in paths {
        for table in tables(path)? {
            let findings = lint(&table, Some(here));
            for finding in &findings {
                let level = if finding.is_fault() { "fault" } else { "note" };
                lines.push(format!("{}: {level}: {finding}", table.name));
            }
            let count = findings.iter().filter(|finding| finding.is_fault()).count();
            lines.push(format!(
                "{}: {} rows, {} for stock NCCL, {count} faults, {} notes",
                table.name,
                table.rows.len(),
                table.stock.len(),
                findings.len() - count,
            ));
            faults += count;
        }
    }
    print(&(lines.join("\n") + "\n"))?;
    Ok(faults == 0)
}
