//! The `shoal` command: parse, call the library, print.
//!
//! | file | what it does |
//! |---|---|
//! | [`mod@bench`] | `shoal bench`: starts ranks, measures, checks, prints |
//! | [`peers`] | `shoal peers`: the same measurement of this library, MPI and UCX, side by side |
//! | [`plot`] | `shoal plot`: pictures and the README's table, from records |
//! | [`tune`] | `shoal tune`: measures candidates, writes a table, says what it gains |
//! | [`explain`] | `shoal explain`: which algorithm a call gets, and why |
//! | [`table`] | `shoal table`: checks tables, compares them, exchanges choices with stock NCCL's tuner |
//! | [`doctor`] | `shoal doctor`: what this machine offers, what is wrong, what to do |
//! | [`model`] | `shoal model`: what a training job should communicate |
//! | [`report`] | `shoal report`: what a job communicated, by its traces |
//! | [`replay`] | `shoal replay`: what a job communicated, once more |
//! | [`mod@self::run`] | `shoal run`: starts a job with the library preloaded |
//! | [`simulate`] | `shoal simulate`: thousands of ranks on paper |
//! | [`canary`] | how far the cores are apart right now |
//! | `floor` | what the machine allows |
//! | `board` | where the ranks of a run meet, without a call into what is measured |
//! | `library` | NCCL's C interface, loaded at run time |
//! | `machine` | cores, shared memory, clocks |

/// What `println!` prints. A full disk or a reader that has gone away is a failure of the command, and no panic.
macro_rules! put_line {
    ($($words:tt)*) => { $crate::cli::print(&format!("{}\n", format_args!($($words)*)))? };
}

pub mod bench;
mod board;
pub mod canary;
pub mod doctor;
pub mod explain;
mod floor;
mod library;
mod machine;
pub mod model;
pub mod peers;
pub mod plot;
pub mod replay;
pub mod report;
pub mod run;
pub mod simulate;
pub mod table;
pub mod tune;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Collective communication on this machine: measure it, compare it.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a library, like nccl-tests.
    Bench(Box<bench::options::Options>),
    /// Measure this library, MPI and UCX side by side.
    Peers(peers::Options),
    /// Draw a record of `peers`.
    Plot(plot::Options),
    /// Measure which algorithm is the fastest where, and write a table.
    Tune(Box<tune::Options>),
    /// Say which algorithm a call gets, and why.
    Explain(explain::Options),
    /// Check and compare tables of choices.
    Table(table::Options),
    /// Say what this machine offers, what is wrong with it, and what to do.
    Doctor(doctor::Options),
    /// Start a job with the library preloaded in place of NCCL.
    Run(run::Options),
    /// Run the schedules of thousands of ranks on paper.
    Simulate(Box<simulate::options::Options>),
    /// Say what a job communicated, by its traces.
    Report(report::Options),
    /// Play what a job communicated again, and compare libraries by it.
    Replay(Box<replay::Options>),
    /// Say what a training job should communicate.
    Model(Box<model::Options>),
}

/// Why the command could not do it, as a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// Prints to standard output, from which the reader may have gone away.
///
/// # Errors
/// Nobody reads it, or it goes into a file and the disk is full.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

/// Does what the arguments say; the code is 1 when it failed or a result was wrong.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let outcome = match &arguments.command {
        Command::Bench(options) => bench::run(options),
        Command::Peers(options) => peers::run(options),
        Command::Plot(options) => plot::run(options),
        Command::Tune(options) => tune::run(options),
        Command::Explain(options) => explain::run(options),
        Command::Table(options) => table::run(options),
        Command::Doctor(options) => doctor::run(options),
        Command::Run(options) => run::run(options),
        Command::Simulate(options) => simulate::run(options),
        Command::Report(options) => report::run(options),
        Command::Replay(options) => replay::run(options),
        Command::Model(options) => model::run(options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("shoal: {failure}");
            ExitCode::FAILURE
        }
    }
}
