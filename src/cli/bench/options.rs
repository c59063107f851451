//! The options of `shoal bench`, as people write them.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::operation::Operation;
use super::size;
use crate::op::{DataType, Reduction};

/// Measures a library the way nccl-tests does: starts ranks on this machine, checks the results, prints times
/// and bandwidths. Under mpirun, srun or torchrun it joins the ranks that these started.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many ranks to start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: u16,
    /// On how many hosts the ranks are, in blocks; between them they talk over the network of this machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub hosts: u16,
    /// What starts a process on a host, {} being its number: 'scripts/hosts.sh on {}'. Without it hosts are names only
    #[arg(long, default_value = "", value_name = "WORDS")]
    pub on: String,
    /// Ranks are threads of one process instead of processes
    #[arg(long)]
    pub threads: bool,
    /// Leave ranks wherever the system puts them, instead of one core each
    #[arg(long)]
    pub no_pin: bool,
    /// Seconds without progress until the run is given up
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
    /// The library to measure [default: libshoal.so beside this program]
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Whom to measure; mpi is there when built with --features mpi, and runs under mpirun; ucx and gloo are loaded
    #[arg(long, value_enum, default_value_t = Whom::Nccl)]
    pub contender: Whom,

    /// The wrapper of Gloo
    #[arg(long, value_name = "PATH", default_value = super::gloo::WRAPPER)]
    pub gloo: PathBuf,

    /// Operations, comma separated, or all (those of nccl-tests)
    #[arg(long, alias = "ops", default_value = "allreduce", value_parser = operations, value_name = "OP,...")]
    pub op: OperationList,
    /// The smallest size
    #[arg(short, long, default_value = "8", value_parser = size::parse, value_name = "SIZE")]
    pub begin: usize,
    /// The largest size
    #[arg(short, long, default_value = "16M", value_parser = size::parse, value_name = "SIZE")]
    pub end: usize,
    /// From one size to the next by this factor
    #[arg(short, long, default_value_t = 4.0, conflicts_with = "increment")]
    pub factor: f64,
    /// From one size to the next by so many bytes
    #[arg(short, long, value_parser = size::parse, value_name = "SIZE")]
    pub increment: Option<usize>,
    /// These sizes, comma separated, in place of begin, end and step
    #[arg(long, value_delimiter = ',', value_parser = size::parse, value_name = "SIZE,...")]
    pub sizes: Vec<usize>,
    /// Calls a batch; 0: as many as fit into --seconds
    #[arg(short = 'n', long, default_value_t = 0)]
    pub iters: usize,
    /// Calls before the first that is timed
    #[arg(short, long, default_value_t = 5)]
    pub warmup: usize,
    /// Batches, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batches: u16,
    /// Seconds to measure each size
    #[arg(long, default_value_t = 0.2)]
    pub seconds: f64,
    /// 1: compare every result with a naive computation; 0: do not
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub check: u8,
    /// The reduction: sum, prod, max, min, avg or all
    #[arg(short = 'o', long, default_value = "sum", value_parser = reductions, value_name = "REDOP")]
    pub redop: ReductionList,
    /// The element type: float, half, int8, ... or all
    #[arg(short = 'd', long = "datatype", default_value = "float", value_parser = data_types, value_name = "TYPE")]
    pub data_type: DataTypeList,
    /// The root of what has one
    #[arg(short, long, default_value_t = 0)]
    pub root: usize,
    /// Messages to each peer, of exchange and packed; experts of each rank, of moe; calls of gathers
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub messages: u32,
    /// Ranks that share a layer, of neox: metadata are 8(7+t) bytes
    #[arg(long, value_delimiter = ',', default_value = "2,4,8", value_name = "T,...")]
    pub tensor: Vec<u16>,
    /// The mask of neox [default: as large as the data]
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub mask: Option<usize>,
    /// 0: out of place, 1: in place, both
    #[arg(long, value_enum, default_value_t = InPlace::Both)]
    pub in_place: InPlace,
    /// Buffers from the heap, or from the library's ncclMemAlloc
    #[arg(long, value_enum, default_value_t = MemoryKind::Heap)]
    pub memory: MemoryKind,
    /// Write the send buffer anew before every call, as a program does that computes; the writing is timed
    #[arg(long)]
    pub rewrite: bool,
    /// What the inputs depend on
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Measure what the machine allows between the two ranks, and print the ratio
    #[arg(long)]
    pub floor: bool,
    /// Run everything twice in turn, several times, and print how far the same thing differs from itself
    #[arg(long)]
    pub aa: bool,
    /// Run everything in turn as it is, once more as it is, and with this in the environment, and print the ratio
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting, conflicts_with_all = ["aa", "threads"])]
    pub against: Option<(String, String)>,
    /// How often each side of --aa and --against has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub turns: u16,
    /// Print what the library counted: frames, messages, bytes, and why frames left
    #[arg(short, long)]
    pub verbose: bool,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,

    /// Which rank this process is; given by the process that starts the ranks
    #[arg(long, hide = true, requires = "board")]
    pub child: Option<usize>,
    /// How the id of a communicator comes from rank 0 to the others: through memory that they share, or through MPI
    /// (when built with --features mpi, under its mpirun)
    #[arg(long, value_enum, default_value_t = Bootstrap::Memory)]
    pub bootstrap: Bootstrap,

    /// Where the ranks meet
    #[arg(long, hide = true)]
    pub board: Option<PathBuf>,
    /// The process without which this one has no purpose
    #[arg(long, hide = true)]
    pub parent: Option<u32>,
}

/// Whom to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Whom {
    /// A library with NCCL's interface.
    Nccl,
    /// The MPI that this program was built with.
    Mpi,
    /// UCX's own interface, found at run time.
    Ucx,
    /// Gloo, by the wrapper that `make bench-gloo` builds.
    Gloo,
}

/// How the id of a communicator gets around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bootstrap {
    /// Through memory that the ranks share.
    Memory,
    /// Broadcast by MPI.
    Mpi,
}

/// Which of the two forms of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InPlace {
    /// Out of place, then in place.
    Both,
    /// Out of place.
    #[value(name = "0")]
    Out,
    /// In place.
    #[value(name = "1")]
    In,
}

/// Where buffers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MemoryKind {
    /// Ordinary memory.
    Heap,
    /// Memory of the library, which its peers may map.
    Library,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns as nccl-tests prints them.
    Table,
    /// One object a line.
    Json,
    /// Comma separated, with a header.
    Csv,
}

/// Several operations behind one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationList(pub Vec<Operation>);

/// Several reductions behind one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReductionList(pub Vec<Reduction>);

/// Several element types behind one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataTypeList(pub Vec<DataType>);

pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.trim().is_empty());
    let (name, value) = parts.ok_or("say NAME=VALUE, for example SHOAL_COALESCE=0")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

fn operations(text: &str) -> Result<OperationList, String> {
    let named = |name: &str| Operation::value_variants().iter().copied().find(|o| o.name() == plain(name));
    list(text, &Operation::ALL, named, "operation", Operation::name, Operation::value_variants())
        .map(OperationList)
}

fn reductions(text: &str) -> Result<ReductionList, String> {
    const KNOWN: [Reduction; 5] =
        [Reduction::Sum, Reduction::Prod, Reduction::Max, Reduction::Min, Reduction::Avg];
    let named = |name: &str| KNOWN.into_iter().find(|reduction| reduction.name() == plain(name));
    list(text, &KNOWN, named, "reduction", Reduction::name, &KNOWN).map(ReductionList)
}

pub(crate) fn data_types(text: &str) -> Result<DataTypeList, String> {
    let named = |name: &str| {
        let name = plain(name);
        let name = match name.as_str() {
            "float32" | "f32" => "float",
            "float64" | "f64" => "double",
            "float16" | "f16" => "half",
            "bf16" => "bfloat16",
            "fp8e4m3" | "float8e4m3" => "f8e4m3",
            "fp8e5m2" | "float8e5m2" => "f8e5m2",
            other => other,
        };
        DataType::ALL.into_iter().find(|data_type| data_type.name() == name)
    };
    list(text, &DataType::ALL, named, "type", DataType::name, &DataType::ALL).map(DataTypeList)
}

/// Names are taken with or without dashes and underscores, in either case.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '_'], "")
}

fn list<T: Copy + PartialEq>(
    text: &str,
    all: &[T],
    named: impl Fn(&str) -> Option<T>,
    what: &str,
    name: impl Fn(T) -> &'static str,
    known: &[T],
) -> Result<Vec<T>, String> {
    let mut found: Vec<T> = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let several = match named(word) {
            Some(one) => vec![one],
            None if plain(word) == "all" => all.to_vec(),
            None => {
                let names: Vec<_> = known.iter().map(|one| name(*one)).collect();
                return Err(format!("no {what} {word:?}; there are {} and all", names.join(", ")));
            }
        };
        for one in several {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    if found.is_empty() { Err(format!("no {what} is named")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(
            operations("all-reduce,SendRecv,allreduce").unwrap().0,
            [Operation::AllReduce, Operation::SendRecv]
        );
        assert_eq!(operations("all").unwrap().0, Operation::ALL);
        assert_eq!(operations("rate,exchange,packed,barrier").unwrap().0.len(), 4);
        assert!(operations("allreduce,frobnicate").unwrap_err().contains("frobnicate"));
        assert!(operations("").is_err());
        assert_eq!(reductions("max,avg").unwrap().0, [Reduction::Max, Reduction::Avg]);
        assert!(reductions("mulsum").is_err());
        assert_eq!(data_types("bf16,f32,float").unwrap().0, [DataType::Bfloat16, DataType::Float32]);
        assert_eq!(data_types("all").unwrap().0, DataType::ALL);
    }
}
