//! `shoal peers`: this library, the machine's MPI libraries and UCX's own interface, measured side by
//! side by one loop.
//!
//! The contenders take turns, run by run, so that a slow minute of the machine hits all alike. This library
//! runs twice a turn: how far it differs from itself is the band inside which a difference means nothing.
//! Every figure carries the state of the machine in which it was taken (see [`super::canary`]), and figures
//! of different states are never compared.
//!
//! | file | what it does |
//! |---|---|
//! | `suite` | which operations, sizes and ranks |
//! | `contenders`, `hosts` | how each contender is started, also on several hosts |
//! | `rounds` | takes turns until there are enough figures |
//! | `summary` | medians, ratios, bands |
//! | `print`, `record` | the table; the lines for the repository |
#![forbid(unsafe_code)]

mod contenders;
mod hosts;
mod print;
mod record;
mod rounds;
mod suite;
mod summary;

pub(crate) use record::date;

use std::io::stdout;
use std::path::PathBuf;

use clap::Args;

use self::suite::Suite;
use super::{Failure, canary};

/// Measures this library, Open MPI, MPICH and UCX side by side on this machine.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What is measured
    #[arg(long, value_enum, default_value_t = Suite::Full)]
    pub suite: Suite,
    /// Only these blocks of the suite, counted from 0, comma separated
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,...")]
    pub blocks: Vec<usize>,
    /// On how many hosts the ranks are, in blocks; within `scripts/hosts.sh make`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub hosts: u16,
    /// The script that starts processes on hosts
    #[arg(long, value_name = "PATH", default_value = "scripts/hosts.sh")]
    pub hosts_by: PathBuf,
    /// Runs of each contender in the same state of the machine, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Turns after which what is there must do
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds_max: u16,
    /// Seconds for each figure
    #[arg(long, default_value_t = 0.1)]
    pub seconds: f64,
    /// The library to measure [default: libshoal.so beside this program]
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// This program, built against Open MPI
    #[arg(long, value_name = "PATH", default_value = "target-openmpi/release/shoal")]
    pub openmpi: PathBuf,
    /// This program, built against MPICH
    #[arg(long, value_name = "PATH", default_value = "target-mpich/release/shoal")]
    pub mpich: PathBuf,
    /// Leave this library out, and compare the peers with each other
    #[arg(long)]
    pub only_peers: bool,
    /// Send buffers are written anew before every call
    #[arg(long)]
    pub rewrite: bool,
    /// A file to which the figures are added, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// What is recorded as the version that was measured
    #[arg(long, default_value = "unknown", value_name = "TEXT")]
    pub commit: String,
}

impl Options {
    /// What is measured.
    fn blocks(&self) -> Vec<suite::Block> {
        let all = self.suite.blocks();
        let is_meant = |place: &usize| self.blocks.is_empty() || self.blocks.contains(place);
        (0..).zip(all).filter(|(place, _)| is_meant(place)).map(|(_, block)| block).collect()
    }
}

/// Measures, prints and records; `Ok(false)` if a result was wrong.
///
/// # Errors
/// No contender could be started, or the record could not be written.
pub fn run(options: &Options) -> Result<bool, Failure> {
    hosts::check(options)?;
    let contenders = contenders::all(options)?;
    let blocks = options.blocks();
    let mut executor = rounds::Processes::new(options);
    let before = canary::measure();
    put_line!("# {}", canary::describe(before));
    let limits = rounds::Limits { enough: options.rounds.into(), turns: options.rounds_max.into() };
    let figures = rounds::run(&contenders, &blocks, limits, &mut executor)?;
    let after = canary::measure();
    let comparisons = summary::compare(&figures);
    print::table(&mut stdout(), &comparisons, limits.enough)?;
    put_line!("# {}", canary::describe(after));
    if let Some(path) = &options.record {
        let origin = record::Origin::here(options, [before, after]);
        record::append(path, &origin, &comparisons)?;
        put_line!("# added to {}", path.display());
    }
    let wrong: u64 = figures.iter().map(|figure| figure.wrong).sum();
    if wrong > 0 {
        put_line!("# Wrong elements: {wrong} FAILED");
    }
    Ok(wrong == 0)
}
