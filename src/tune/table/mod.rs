//! The table of choices, as data.
//!
//! A [`Table`] is one file: rows that say which algorithm is used where, each with what was measured there, and the
//! runs that measured. [`read`](mod@read) and [`write`](mod@write) know its form, a part of TOML. A communicator
//! looks through [`Choices`]: the rows of several tables that fit its site, in order.
//!
//! ```toml
//! [[run]]                         # who measured
//! name = "two"
//! machine = "a processor, 2 cores"
//! date = "2026-11-21"
//! command = "shoal tune --ranks 2"
//! library = "0.1.0"
//!
//! [[row]]
//! run = "two"                     # absent: nobody measured, somebody reasoned
//! operation = "allreduce"
//! ranks = [2, 4]                  # from, to; a single number; [64, "any"]; absent: any
//! hosts = 1
//! ranks_per_host = [2, 4]
//! cores = "own"                   # or "shared": more ranks than cores on a host
//! types = "narrow"                # f16, bf16, fp8, in reductions; or "native": all others
//! device = "host"
//! bytes = [0, 65536]              # of the vector; of all blocks together where each rank has its own
//! algorithm = "exchange"
//! piece_bytes = 262144            # large messages are cut into pieces of at most so many bytes
//! points = [                      # microseconds: the median, the lower and the upper quartile
//!   { bytes = 4096, exchange = [0.51, 0.50, 0.52], tree = [0.73, 0.72, 0.75], ring_65536 = [0.9, 0.9, 1.0] },
//! ]
//!
//! [[stock]]                       # what a stock NCCL with our plugin is told
//! operation = "allreduce"
//! bytes = [0, 65536]
//! ranks = 16
//! hosts = 2
//! algorithm = "tree"
//! protocol = "ll"
//! channels = 4
//! pipelined = 1                   # operations in one group
//! registered = false
//! ```
//!
//! # Keys that rows do not have
//! A row for stock NCCL names channels and registered memory, for that is what stock NCCL asks its tuner. A row for this
//! library does not, since nothing here would honour it:
//!
//! - **path**: there is one between any two ranks, shared memory inside a host and UCX between hosts, so `hosts` and
//!   `ranks_per_host` say which paths a call takes.
//! - **registered**: whether memory is registered decides how the bytes of one packet move, between its sender and its
//!   receiver alone. It is known to these two, not to all ranks, and a schedule may depend only on what all know.
//! - **channels**: one thread moves the bytes of a rank, whichever lane they are in; several channels would only be
//!   shorter pieces, which a row can ask for (`piece_bytes`). `docs/choice.md` has what pieces of other sizes gain.
//! - **coalescing threshold**: collectives are one packet a message; who shares a frame among point-to-point messages
//!   is the sender's choice alone (`SHOAL_COALESCE_BYTES`), which no other rank needs to know.
#![forbid(unsafe_code)]

pub mod built_in;
mod choices;
pub mod diff;
pub mod lint;
pub mod read;
pub mod sheet;
mod toml;
pub mod write;

use std::fmt;

pub use choices::{Choices, Found, Site};

use crate::op::{DataType, Kind};
use crate::schedule::{Algorithm, PIECE_BYTES};
use crate::topology::DeviceKind;

/// The fewest bytes of a piece that a row may ask for.
pub const PIECE_BYTES_MIN: u64 = 4096;
/// The most bytes of a piece that a row may ask for.
pub const PIECE_BYTES_MAX: u64 = 1 << 30;

/// Numbers from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The smallest.
    pub from: u64,
    /// The largest.
    pub to: u64,
}

impl Span {
    /// Every number.
    pub const ANY: Span = Span { from: 0, to: u64::MAX };

    /// One number.
    #[must_use]
    pub const fn one(number: u64) -> Span {
        Span { from: number, to: number }
    }

    /// Whether `number` is one of them.
    #[must_use]
    pub const fn holds(&self, number: u64) -> bool {
        self.from <= number && number <= self.to
    }

    /// Whether every number of `other` is one of them.
    #[must_use]
    pub const fn covers(&self, other: &Span) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    /// What both hold.
    #[must_use]
    pub fn both(&self, other: &Span) -> Option<Span> {
        let span = Span { from: self.from.max(other.from), to: self.to.min(other.to) };
        (span.from <= span.to).then_some(span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Span::ANY => formatter.write_str("any"),
            Span { from, to } if from == to => write!(formatter, "{from}"),
            Span { from, to: u64::MAX } => write!(formatter, "{from} and more"),
            Span { from, to } => write!(formatter, "{from} to {to}"),
        }
    }
}

/// How an element is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeClass {
    /// As it is.
    Native,
    /// By way of a wider type.
    Narrow,
}

impl TypeClass {
    /// Of an element type.
    #[must_use]
    pub const fn of(data_type: DataType) -> TypeClass {
        if data_type.is_float() && data_type.size_bytes() < 4 { TypeClass::Narrow } else { TypeClass::Native }
    }

    /// As files have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TypeClass::Native => "native",
            TypeClass::Narrow => "narrow",
        }
    }
}

/// Whether every rank has a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cores {
    /// At least one each.
    Own,
    /// Ranks take turns.
    Shared,
}

impl Cores {
    /// As files have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cores::Own => "own",
            Cores::Shared => "shared",
        }
    }
}

/// What a row decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// The most bytes of a piece of a large message, if it is not the usual number.
    pub piece_bytes: Option<u32>,
}

impl Choice {
    /// The algorithm with pieces of the usual size.
    #[must_use]
    pub const fn usual(algorithm: Algorithm) -> Choice {
        Choice { algorithm, piece_bytes: None }
    }

    /// The most bytes of a piece.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        self.piece_bytes.map_or(PIECE_BYTES, |bytes| bytes as usize)
    }

    /// The name of this choice: `ring`, `ring_65536`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn named(name: &str) -> Result<Choice, String> {
        let (algorithm, piece) =
            name.split_once('_').map_or((name, None), |(algorithm, piece)| (algorithm, Some(piece)));
        let found = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm);
        let algorithm =
            found.ok_or_else(|| format!("{algorithm:?} is no algorithm; there are {}", names()))?;
        let Some(piece) = piece else { return Ok(Choice::usual(algorithm)) };
        let bytes = piece.parse().ok().and_then(piece_of);
        let bytes = bytes.ok_or_else(|| format!("{piece:?} is no size of a piece; expected {PIECE_RULE}"))?;
        Ok(Choice { algorithm, piece_bytes: Some(bytes) })
    }
}

/// What a size of a piece must be.
/// What a size of a piece may be, for people.
pub const PIECE_RULE: &str = "a power of two from 4096 to 1073741824";

/// A size of a piece, if it may be one.
#[must_use]
pub fn piece_of(bytes: u64) -> Option<u32> {
    let fits = bytes.is_power_of_two() && (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&bytes);
    fits.then(|| u32::try_from(bytes).ok()).flatten()
}

/// The names of all algorithms, for people.
fn names() -> String {
    Algorithm::ALL.map(Algorithm::name).join(", ")
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.algorithm.name())?;
        self.piece_bytes.map_or(Ok(()), |bytes| write!(formatter, "_{bytes}"))
    }
}

/// Where a row holds: what all ranks know of a call and of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of which operation.
    pub operation: Kind,
    /// Of how many ranks.
    pub ranks: Span,
    /// On how many hosts.
    pub hosts: Span,
    /// How many of them on the fullest host.
    pub ranks_per_host: Span,
    /// With which cores.
    pub cores: Option<Cores>,
    /// Of which element types; only of what reduces.
    pub types: Option<TypeClass>,
    /// On which devices.
    pub device: Option<DeviceKind>,
    /// Of how many bytes.
    pub bytes: Span,
}

impl Key {
    /// Everywhere, for one operation.
    #[must_use]
    pub const fn any(operation: Kind) -> Key {
        Key {
            operation,
            ranks: Span::ANY,
            hosts: Span::ANY,
            ranks_per_host: Span::ANY,
            cores: None,
            types: None,
            device: None,
            bytes: Span::ANY,
        }
    }

    /// Whether it holds at `site`, for some size and type.
    #[must_use]
    pub fn fits(&self, site: &Site) -> bool {
        self.ranks.holds(site.ranks.into())
            && self.hosts.holds(site.hosts.into())
            && self.ranks_per_host.holds(site.ranks_per_host.into())
            && self.cores.is_none_or(|cores| cores == site.cores)
            && self.device.is_none_or(|device| device == site.device)
    }

    /// Whether it holds wherever `other` does, sizes aside.
    #[must_use]
    pub fn covers_but_bytes(&self, other: &Key) -> bool {
        self.operation == other.operation
            && self.ranks.covers(&other.ranks)
            && self.hosts.covers(&other.hosts)
            && self.ranks_per_host.covers(&other.ranks_per_host)
            && (self.cores.is_none() || self.cores == other.cores)
            && (self.types.is_none() || self.types == other.types)
            && (self.device.is_none() || self.device == other.device)
    }

    /// Whether there is a call for which both hold.
    #[must_use]
    pub fn meets(&self, other: &Key) -> bool {
        fn alike<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        self.operation == other.operation
            && self.ranks.both(&other.ranks).is_some()
            && self.hosts.both(&other.hosts).is_some()
            && self.ranks_per_host.both(&other.ranks_per_host).is_some()
            && alike(self.cores, other.cores)
            && alike(self.types, other.types)
            && alike(self.device, other.device)
            && self.bytes.both(&other.bytes).is_some()
    }
}

/// The operation as files have it.
#[must_use]
pub fn operation_name(kind: Kind) -> String {
    kind.name().to_ascii_lowercase()
}

/// How fast one candidate was at one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Which candidate.
    pub choice: Choice,
    /// The median of what the slowest rank took.
    pub median_us: f64,
    /// The lower quartile.
    pub low_us: f64,
    /// The upper quartile.
    pub high_us: f64,
}

/// What was measured at one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The size.
    pub bytes: u64,
    /// Every candidate that ran.
    pub samples: Vec<Sample>,
}

/// A row: where, what, and what was measured there.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The line of the file at which it starts; 0 if it comes from no file.
    pub line: u32,
    /// Who measured: the name of a run; empty where somebody reasoned.
    pub run: String,
    /// Where it holds.
    pub key: Key,
    /// What is used there.
    pub choice: Choice,
    /// What was measured there.
    pub points: Vec<Point>,
}

/// Who measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// By this name rows refer to it.
    pub name: String,
    /// On which machine, as [`crate::topology::probe`] names it.
    pub machine: String,
    /// When, as year-month-day.
    pub date: String,
    /// By which command.
    pub command: String,
    /// The library's version.
    pub library: String,
    /// How far apart the cores were: near, far, or between.
    pub state: String,
}

/// What stock NCCL is told by the plugin. The words are NCCL's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stock {
    /// The line of the file at which it starts.
    pub line: u32,
    /// Of which operation: one of the five that NCCL asks about.
    pub operation: Kind,
    /// Of how many bytes.
    pub bytes: Span,
    /// Of how many ranks.
    pub ranks: Span,
    /// On how many hosts.
    pub hosts: Span,
    /// Which algorithm, by NCCL's name.
    pub algorithm: String,
    /// Which protocol, by NCCL's name.
    pub protocol: String,
    /// On how many channels; `None`: as NCCL chooses.
    pub channels: Option<u32>,
    /// For groups of so many operations; `None`: any.
    pub pipelined: Option<u32>,
    /// For registered buffers or for others; `None`: any.
    pub registered: Option<bool>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What people call it: the path of the file.
    pub name: String,
    /// Who measured.
    pub runs: Vec<Run>,
    /// The rows; of several that hold the first counts.
    pub rows: Vec<Row>,
    /// What stock NCCL is told; of several that hold the first counts.
    pub stock: Vec<Stock>,
}

impl Table {
    /// The run of that name.
    #[must_use]
    pub fn run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.name == name)
    }

    /// What of it a communicator at `site` needs, without what was measured.
    #[must_use]
    pub fn for_site(&self, site: &Site) -> Table {
        let fitting = self.rows.iter().filter(|row| row.key.fits(site));
        let rows = fitting.map(|row| Row { run: String::new(), points: Vec::new(), ..row.clone() });
        Table { name: self.name.clone(), rows: rows.collect(), ..Table::default() }
    }
}
