//! The options of `shoal simulate`, as people write them.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use crate::cli::bench::size;
use crate::schedule::Algorithm;
use crate::simulate::mix;

/// Runs the schedules of thousands of ranks on paper: discrete events over the links and cores of a described
/// machine.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["op", "mix", "fit", "print_topology"])))]
pub struct Options {
    /// The operation: allreduce, ..., or exchange: messages from everyone to everyone in one group
    #[arg(long, value_parser = operation, value_name = "OP")]
    pub op: Option<String>,
    /// How many ranks; of --regions the most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub ranks: u32,
    /// How many bytes: of the vector for allreduce, reduce and broadcast, of all blocks together for other
    /// collectives, of each message of an exchange; several with commas
    #[arg(short, long, value_delimiter = ',', default_value = "1M", value_parser = size::parse, value_name = "SIZE,...")]
    pub bytes: Vec<usize>,
    /// The machine, as a file; the form is that of --print-topology, and what it does not name stays so
    #[arg(short, long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Algorithms with commas, or all
    #[arg(short, long, value_delimiter = ',', default_value = "all", value_parser = algorithm, value_name = "NAME,...")]
    pub algorithm: Vec<Named>,
    /// Whether ranks that are alike are simulated once
    #[arg(long, value_enum, default_value_t = Fold::Auto)]
    pub fold: Fold,
    /// Messages to each peer, of exchange
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub messages: u32,
    /// Messages up to this size share frames, of exchange and of mixes
    #[arg(long, default_value = "1K", value_parser = size::parse, value_name = "SIZE")]
    pub coalesce_bytes: usize,
    /// The longest frame
    #[arg(long, default_value = "16K", value_parser = size::parse, value_name = "SIZE")]
    pub frame_bytes: usize,

    /// Which algorithm is fastest, by ranks (2 to --ranks) and bytes (64 B to 64 MiB)
    #[arg(long, requires = "op")]
    pub regions: bool,
    /// What a list of calls takes: a name of those that come along (list: shows them), or a file
    #[arg(long, value_name = "NAME|FILE")]
    pub mix: Option<String>,
    /// Find the numbers of one host from times that scripts/simulate_measure.sh measured; half of the samples
    /// are kept for the comparison that is printed, and --output gets the machine
    #[arg(long, value_name = "RECORD")]
    pub fit: Option<PathBuf>,
    /// Print the machine
    #[arg(long)]
    pub print_topology: bool,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// A picture of --op (time against bytes) or of --regions: .svg, or .png where rsvg-convert is installed; of
    /// --fit the machine
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One object a line.
    Json,
}

/// Whether ranks that are alike are simulated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fold {
    /// Where they are.
    Auto,
    /// Not even there.
    Never,
    /// Or say why they are not alike.
    Always,
}

/// One algorithm, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// All.
    All,
    /// This one.
    One(Algorithm),
}

fn operation(text: &str) -> Result<String, String> {
    let name = text.to_lowercase();
    if name != "exchange" {
        mix::kind(&name).map_err(|error| format!("{error}, exchange"))?;
    }
    Ok(name)
}

fn algorithm(text: &str) -> Result<Named, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Named::All);
    }
    Algorithm::named(text).map(Named::One).ok_or_else(|| {
        let known: Vec<_> = Algorithm::ALL.into_iter().map(Algorithm::name).collect();
        format!("{text:?} is no algorithm: expected all or of {}", known.join(", "))
    })
}

impl Options {
    /// The algorithms that are asked for.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let all = Algorithm::ALL.into_iter();
        all.filter(|one| {
            self.algorithm.iter().any(|named| matches!(named, Named::All) || *named == Named::One(*one))
        })
        .collect()
    }
}
