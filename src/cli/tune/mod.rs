//! `shoal tune`: measures candidates, writes the table, and says what it gains.
//!
//! | file | what it does |
//! |---|---|
//! | `points` | what is measured: operations and sizes, with weights |
//! | `site` | which hosts the ranks count as on |
//! | `profile` | the operations and sizes of a recorded job |
//! | `measure` | one rank: races, turn by turn, until they are sure or the time is over |
//! | `journal` | what was measured so far, in a file: a run that ended goes on from there |
//! | `assemble` | from the journal to the table |
//! | `report` | what the table gains, and how far from the best it is |

mod assemble;
mod journal;
mod measure;
mod points;
mod profile;
mod report;
mod site;

use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use self::journal::{Header, Journal};
use self::points::PointList;
use super::bench::{self, Report, launch, launcher, size};
use super::board::{Board, RANKS_MAX, Seat};
use super::explain;
use super::library::{Communicator, Library, UniqueId};
use super::{Failure, canary, machine};
use crate::comm::table;
use crate::config::Config;
use crate::op::{DataType, Kind};
use crate::schedule::Hosts;
use crate::topology::probe;
use crate::tune::table::{PIECE_RULE, Site, Table, piece_of};

/// Measures which algorithm is the fastest where, on this machine, and writes the table. Under mpirun, srun or
/// torchrun it joins the ranks that these started. A run that ended before it was sure goes on where it ended.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many ranks to start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub ranks: u16,
    /// On how many hosts the ranks count that this command starts, in blocks: between them they talk over the network,
    /// on this machine over its loopback. Ranks that a launcher starts say their host by SHOAL_HOSTID
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub hosts: u16,
    /// How long to measure, like 60s or 5m
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub budget: Duration,
    /// Where to write [default: the user's cache, where jobs look]; rows of other ranks in it stay
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Operations, comma separated [default: all, or those of the profile]
    #[arg(long, value_delimiter = ',', value_parser = explain::operation, value_name = "OP,...")]
    pub op: Vec<Kind>,
    /// Sizes, comma separated [default: from 8 bytes to 16 MiB, or those of the profile]
    #[arg(long, value_delimiter = ',', value_parser = size::parse, value_name = "SIZE,...")]
    pub sizes: Vec<usize>,
    /// Also measure large messages in pieces of at most so many bytes each, comma separated, like 64K,1M
    #[arg(long, value_delimiter = ',', value_parser = piece_bytes, value_name = "SIZE,...")]
    pub pieces: Vec<u32>,
    /// The element type; rows of a narrow one are for such types
    #[arg(short = 'd', long = "datatype", default_value = "float", value_parser = explain::data_type, value_name = "TYPE")]
    pub data_type: DataType,
    /// A recorded job: AICB's CSV, or NCCL Inspector's JSON; its sizes are measured, the frequent ones longest
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Write no table: measure how far the choices of --table are from the best, at sizes of which it knows nothing
    #[arg(long)]
    pub regret: bool,
    /// The table of --regret [default: as a job would find it: SHOAL_TABLE, the user's cache, built-in]
    #[arg(long, value_name = "FILE", requires = "regret")]
    pub table: Option<PathBuf>,
    /// Add what --regret measured to this file, one JSON object a line
    #[arg(long, value_name = "FILE", requires = "regret")]
    pub record: Option<PathBuf>,
    /// Forget what an earlier run measured
    #[arg(long)]
    pub fresh: bool,
    /// The library to measure [default: libshoal.so beside this program]
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Leave ranks wherever the system puts them, instead of one core each
    #[arg(long)]
    pub no_pin: bool,
    /// Seconds without progress until the run is given up
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,

    /// Which rank this process is; given by the process that starts the ranks
    #[arg(long, hide = true, requires = "board")]
    pub child: Option<usize>,
    /// Where the ranks meet
    #[arg(long, hide = true)]
    pub board: Option<PathBuf>,
    /// The process without which this one has no purpose
    #[arg(long, hide = true)]
    pub parent: Option<u32>,
}

/// `60s`, `5m`, `90`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write for example 60s or 5m");
    let (number, unit) = match text.trim() {
        text if text.ends_with('m') => (text.trim_end_matches('m'), 60.0),
        text => (text.trim_end_matches('s'), 1.0),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| wrong())? * unit;
    let fits = (0.001..=1e6).contains(&seconds);
    if fits { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// A size that a row may name as that of pieces.
fn piece_bytes(text: &str) -> Result<u32, String> {
    let bytes = size::parse(text)? as u64;
    piece_of(bytes).ok_or_else(|| format!("{text:?} is no size of a piece; expected {PIECE_RULE}"))
}

/// What a run is about; the same on every rank.
struct Setup {
    site: Site,
    hosts: Hosts,
    points: PointList,
    journal: PathBuf,
    output: PathBuf,
    /// Whose regret is measured.
    judged: Option<Table>,
}

impl Setup {
    fn new(options: &Options, ranks: usize, hosts: Hosts) -> Result<Setup, Failure> {
        let site = site::of(ranks, &hosts);
        let points = PointList::new(options, ranks)?;
        let judged = if options.regret { Some(judged(options, &site)?) } else { None };
        let output = match &options.output {
            Some(path) => path.clone(),
            None => table::cache_path(&site)
                .ok_or_else(|| Failure("neither XDG_CACHE_HOME nor HOME is set; say --output FILE".into()))?,
        };
        let journal = PathBuf::from(format!("{}.journal", output.display()));
        Ok(Setup { site, hosts, points, journal, output, judged })
    }
}

/// The table whose regret is measured; empty where only those that are built in count.
fn judged(options: &Options, site: &Site) -> Result<Table, Failure> {
    let found = match &options.table {
        Some(path) if path == Path::new(table::BUILT_IN) => None,
        Some(path) => Some(table::load(path).map_err(Failure)?),
        None => table::find(site, Config::get()).map_err(|error| Failure(error.to_string()))?,
    };
    Ok(found.unwrap_or_default())
}

/// Measures; `Ok(false)` never.
///
/// # Errors
/// What could not be measured or written, and why.
pub fn run(options: &Options) -> Result<bool, Failure> {
    if let (Some(rank), Some(board)) = (options.child, &options.board) {
        return child(options, rank, board);
    }
    match launcher::detect(crate::config::told_by_launcher) {
        Some(launched) => join(options, &launched),
        None => start(options),
    }
}

/// Starts the ranks, shows how far they are, and makes the table of what they measured.
fn start(options: &Options) -> Result<bool, Failure> {
    let ranks = usize::from(options.ranks);
    let setup = Setup::new(options, ranks, site::started_hosts(options)?)?;
    Library::load(&bench::library_path(options.library.as_deref())?)?;
    begin(options, &setup)?;
    let began = canary::measure();
    let board = Board::create()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut progress = Progress::new();
    let patience = Duration::from_secs(options.timeout);
    let start = |rank| launch::Start { environment: site::told_host(options, rank), ..Default::default() };
    let outcome = launch::processes(&board, ranks, &arguments, &start, patience, &mut |report| {
        if let Report::Note(text) = report {
            progress.say(&text);
        }
    });
    progress.finish();
    outcome?;
    conclude(options, &setup, began)
}

/// One rank that `start` started.
fn child(options: &Options, rank: usize, board: &Path) -> Result<bool, Failure> {
    if options.parent.is_some_and(|parent| !machine::die_with_parent(parent)) {
        return Err(Failure("the process that started this rank is gone".into()));
    }
    let ranks = usize::from(options.ranks);
    if rank >= ranks {
        return Err(Failure(format!("rank {rank} of {ranks} ranks")));
    }
    let board = Board::open(board)?;
    let setup = Setup::new(options, ranks, site::started_hosts(options)?)?;
    let pins = !options.no_pin && ranks <= machine::allowed_cores().len();
    let outcome = rank_main(options, &setup, &board, rank, pins, &mut |text| {
        // The process that started this one reads its lines.
        println!("{}", serde_json::json!({ "note": text }));
    });
    if let Err(failure) = outcome {
        board.fail(rank);
        if board.failed() == Some(rank) {
            eprintln!("shoal: rank {rank}: {failure}");
        }
        return Ok(false);
    }
    Ok(true)
}

/// One rank that a launcher started; rank 0 writes.
fn join(options: &Options, launched: &launcher::Launched) -> Result<bool, Failure> {
    let launcher::Launched { rank, ranks, .. } = *launched;
    if ranks > RANKS_MAX {
        return Err(Failure(format!("{ranks} ranks, and at most {RANKS_MAX} can meet")));
    }
    let patience = Duration::from_secs(options.timeout);
    let path = options.board.clone().unwrap_or_else(|| launcher::meeting_path(launched));
    // While the others sleep until they meet.
    let began = if rank == 0 { canary::measure() } else { None };
    let board = Board::meet(&path, rank, ranks, patience.min(Duration::from_secs(30)))?;
    launch::watch_alone(Arc::clone(&board), patience);
    let mut progress = Progress::new();
    let outcome = joined(options, &board, (rank, ranks), &mut |text| progress.say(text));
    if outcome.is_err() {
        board.fail(rank);
    }
    progress.finish();
    let setup = outcome?;
    if rank == 0 { conclude(options, &setup, began) } else { Ok(true) }
}

/// What a rank of a launcher does at the board.
fn joined(
    options: &Options,
    board: &Arc<Board>,
    (rank, ranks): (usize, usize),
    say: &mut dyn FnMut(&str),
) -> Result<Setup, Failure> {
    let seat = Seat::take(Arc::clone(board), rank, ranks, Duration::from_secs(options.timeout), true);
    let setup = Setup::new(options, ranks, site::launched_hosts(options, &seat)?)?;
    if rank == 0 {
        begin(options, &setup)?;
    }
    // The others read what rank 0 began.
    seat.barrier()?;
    rank_main(options, &setup, board, rank, false, say)?;
    Ok(setup)
}

/// Before the ranks measure: a journal to which they add.
fn begin(options: &Options, setup: &Setup) -> Result<(), Failure> {
    if options.regret {
        return Ok(());
    }
    if let Some(folder) = setup.output.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|cause| Failure(format!("cannot make {}: {cause}", folder.display())))?;
    }
    let header = Header::here(options, &setup.site);
    let kept = Journal::begin(&setup.journal, &header, options.fresh)?;
    if kept > 0 {
        eprintln!("going on after {kept} points of an earlier run ({})", setup.journal.display());
    }
    Ok(())
}

/// After the ranks: the table, and what it gains.
fn conclude(options: &Options, setup: &Setup, began: Option<f64>) -> Result<bool, Failure> {
    if options.regret {
        return Ok(true);
    }
    let state = match (began, canary::measure()) {
        (Some(before), Some(after)) => canary::State::of_both([before, after]).name(),
        _ => "",
    };
    let journal = Journal::read(&setup.journal)?;
    let table = assemble::table(options, setup, &journal, state)?;
    let text = assemble::text(&table);
    std::fs::write(&setup.output, text)
        .map_err(|cause| Failure(format!("cannot write {}: {cause}", setup.output.display())))?;
    print!("{}", report::gains(setup, &journal, &table));
    if let Some(profile) = &setup.points.profile {
        print!("{}", report::profile_gain(setup, &journal, &table, profile));
    }
    let open = setup.points.all.iter().filter(|point| !journal.is_sure(point)).count();
    println!("{}: {} rows", setup.output.display(), table.rows.len());
    if open == 0 {
        let _ = std::fs::remove_file(&setup.journal);
    } else {
        println!(
            "{open} of {} points are not sure yet; the same command goes on with them",
            setup.points.all.len()
        );
    }
    Ok(true)
}

/// What every rank does.
fn rank_main(
    options: &Options,
    setup: &Setup,
    board: &Arc<Board>,
    rank: usize,
    pins: bool,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let ranks = setup.site.ranks as usize;
    if pins {
        let core = machine::allowed_cores().get(rank).copied().unwrap_or(rank);
        machine::pin(core)
            .map_err(|error| Failure(format!("cannot pin rank {rank} to core {core}: {error}")))?;
    }
    let crowded = ranks > machine::available_cores();
    let patience = Duration::from_secs(options.timeout);
    let seat = Seat::take(Arc::clone(board), rank, ranks, patience, crowded);
    let library = Library::load(&bench::library_path(options.library.as_deref())?)?;
    let id = seat.share_id(|| library.unique_id().map(|id| id.0))?;
    let communicator = Communicator::join(library, UniqueId(id), rank, ranks)?;
    let moves = options.child.is_some() && !options.no_pin;
    let mut session = measure::Session::new(&seat, communicator, options, setup, moves)?;
    if setup.judged.is_some() {
        let found = session.regrets(say)?;
        if rank == 0 {
            report::regrets(options, &setup.site, &found)?.iter().for_each(|line| say(line));
        }
    } else {
        session.races(&setup.journal, say)?;
    }
    seat.barrier()?;
    session.finish()
}

/// How far the run is: one line that changes on a terminal, else a line now and then.
struct Progress {
    is_terminal: bool,
    said: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        Progress { is_terminal: stderr().is_terminal(), said: None }
    }

    fn say(&mut self, text: &str) {
        const EVERY: Duration = Duration::from_secs(5);
        // What stands in a line of its own is a result.
        if let Some(result) = text.strip_prefix(RESULT) {
            println!("{result}");
        } else if self.is_terminal {
            eprint!("\r{text:<100}");
            self.said = Some(Instant::now());
        } else if self.said.is_none_or(|said| said.elapsed() >= EVERY) {
            eprintln!("{text}");
            self.said = Some(Instant::now());
        }
    }

    fn finish(&self) {
        if self.is_terminal && self.said.is_some() {
            eprintln!();
        }
    }
}

/// In front of lines that are results and no progress.
const RESULT: &str = "= ";

/// This machine, as tables name it.
fn machine_name() -> String {
    probe::machine()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("60s", 60), ("5m", 300), ("90", 90), (" 2 m", 120)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1h", "0", "1e9"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
