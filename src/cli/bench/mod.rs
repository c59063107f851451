//! `shoal bench`: nccl-tests for every library with NCCL's interface, and the same loop over MPI.
//!
//! | file | what it does |
//! |---|---|
//! | [`options`], `plan` | the options, and the list of cases that they mean |
//! | [`size`], [`operation`] | sizes; buffers and bandwidths of the operations |
//! | `pattern` | what frameworks send in one step |
//! | `values`, `check` | seeded inputs, and what the results must be |
//! | `against` | the same in turn with itself and with another setting |
//! | `contender`, `measure` | whom to measure, and the one loop |
//! | `mpi`, `ucx`, `gloo` | MPI, UCX and Gloo as contenders |
//! | `launcher`, `launch`, `hosts` | ranks that others started, and ranks that we start; on which hosts |
//! | `row`, `export`, [`statistics`] | results, and how they are printed |

mod against;
pub(crate) mod check;
pub(crate) mod contender;
pub(crate) mod export;
pub(crate) mod gloo;
mod hosts;
pub(crate) mod launch;
pub(crate) mod launcher;
mod measure;
#[cfg(feature = "mpi")]
mod mpi;
pub mod operation;
pub mod options;
pub(crate) mod pattern;
mod plan;
pub(crate) mod row;
pub mod size;
pub mod statistics;
mod ucx;
mod values;

use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use export::json::parse as parse_report;
pub(crate) use measure::Report;

use self::contender::Contender;
use self::export::Exporter;
use self::launcher::Launched;
use self::options::{Bootstrap, Format, Options, Whom};
use self::plan::Plan;
use super::board::{Board, RANKS_MAX, Seat};
use super::library::{Communicator, Library, UniqueId};
use super::{Failure, canary, machine};

#[cfg(not(feature = "mpi"))]
const WITHOUT_MPI: &str = "built without MPI; build with: cargo build --release --features mpi";

/// Measures; `Ok(false)` if a result was wrong.
///
/// # Errors
/// What could not be measured, and why.
pub fn run(options: &Options) -> Result<bool, Failure> {
    if let (Some(rank), Some(board)) = (options.child, &options.board) {
        return child(options, rank, board);
    }
    match launcher::detect(crate::config::told_by_launcher) {
        Some(launched) => join(options, &launched),
        None => start(options),
    }
}

/// Who started this process, if it is a rank of a job.
pub(crate) fn launched_by() -> Option<String> {
    let Launched { rank, ranks, by, .. } = launcher::detect(crate::config::told_by_launcher)?;
    Some(format!("{by}, as rank {rank} of {ranks}"))
}

/// Starts the ranks and prints what rank 0 reports.
fn start(options: &Options) -> Result<bool, Failure> {
    if options.contender == Whom::Mpi {
        return Err(Failure("MPI starts its own ranks: mpirun -n 2 shoal bench --contender mpi".into()));
    }
    let ranks = usize::from(options.ranks);
    hosts::check(options)?;
    let plan = Plan::new(options, ranks, alone_on_cores(options, ranks))?;
    // Loaded here too, so that a missing library is one message and not one from every rank.
    if options.contender == Whom::Nccl {
        Library::load(&library_path(options.library.as_deref())?)?;
    }
    let progress = stderr().is_terminal() && !stdout().is_terminal();
    let mut printer = Printer::new(options.format, progress, &plan);
    printer.note(&canary::describe(canary::measure()))?;
    let outcome = if options.aa || options.against.is_some() {
        start_in_turn(options, ranks, &mut printer)
    } else {
        start_once(options, ranks, &[], &mut |report| printer.report(&report))
    };
    printer.note(&canary::describe(canary::measure()))?;
    printer.finish()?;
    outcome.map(|()| printer.wrong == 0)
}

fn start_once(
    options: &Options,
    ranks: usize,
    environment: &[(String, String)],
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let board = Board::create()?;
    let patience = Duration::from_secs(options.timeout);
    if options.threads {
        let (options, shared) = (options.clone(), Arc::clone(&board));
        let body = move |rank, report: &mut dyn FnMut(Report)| {
            rank_main(&options, &shared, rank, ranks, alone_on_cores(&options, ranks), report)
        };
        return launch::threads(&board, ranks, patience, body, report);
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let started = |rank| {
        let mut start = hosts::start(options, rank);
        start.environment.extend_from_slice(environment);
        start
    };
    launch::processes(&board, ranks, &arguments, &started, patience, report)
}

/// The same measurement in turn, on each side of a comparison.
fn start_in_turn(options: &Options, ranks: usize, printer: &mut Printer) -> Result<(), Failure> {
    let mut sides = against::sides(options.against.as_ref());
    let mut notes: Vec<String> = Vec::new();
    for turn in 0..usize::from(options.turns) {
        // Everybody starts first in some turn.
        for position in 0..sides.len() {
            let number = (position + turn) % sides.len();
            let side = &mut sides[number];
            let mut rows = Vec::new();
            start_once(options, ranks, &side.environment, &mut |report| match report {
                Report::Row(row) => rows.push(*row),
                Report::Note(text) if turn == 0 && !notes.contains(&text) => notes.push(text),
                Report::Note(_) => {}
            })?;
            side.turns.push(rows);
        }
    }
    notes.iter().try_for_each(|text| printer.note(text))?;
    for (row, text) in against::compare(&sides) {
        printer.report(&Report::Row(Box::new(row)));
        printer.note(&text)?;
    }
    Ok(())
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
    let mut exporter = export::exporter(Format::Json, stdout());
    let mut report = |one: Report| {
        let _ = exporter.report(&one);
    };
    let alone = alone_on_cores(options, ranks);
    match rank_main(options, &board, rank, ranks, alone, &mut report) {
        Ok(()) => Ok(true),
        Err(failure) => {
            board.fail(rank);
            // Ranks that stop because of another's failure have nothing to add.
            if board.failed() == Some(rank) {
                eprintln!("shoal: rank {rank}: {failure}");
            }
            Ok(false)
        }
    }
}

/// One rank that a launcher started; rank 0 prints.
fn join(options: &Options, launched: &Launched) -> Result<bool, Failure> {
    let Launched { rank, ranks, .. } = *launched;
    if ranks > RANKS_MAX {
        return Err(Failure(format!("{ranks} ranks, and at most {RANKS_MAX} can meet")));
    }
    let patience = Duration::from_secs(options.timeout);
    let path = options.board.clone().unwrap_or_else(|| launcher::meeting_path(launched));
    let board = Board::meet(&path, rank, ranks, patience.min(Duration::from_secs(30)))?;
    launch::watch_alone(Arc::clone(&board), patience);
    // Whoever launched the ranks said where they run: what is pinned to one core is alone on it.
    let alone = ranks <= machine::available_cores() && machine::allowed_cores().len() == 1;
    let plan = Plan::new(options, ranks, alone)?;
    let mut printer = Printer::new(options.format, false, &plan);
    let outcome = rank_main(options, &board, rank, ranks, alone, &mut |report| printer.report(&report));
    if outcome.is_err() {
        board.fail(rank);
    }
    if rank == 0 {
        printer.finish()?;
    }
    outcome.map(|()| printer.wrong == 0)
}

/// What every rank does.
fn rank_main(
    options: &Options,
    board: &Arc<Board>,
    rank: usize,
    ranks: usize,
    alone: bool,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let started_by_us = options.child.is_some() || options.threads;
    if alone && started_by_us {
        let cores = machine::allowed_cores();
        let core = cores.get(rank).copied().unwrap_or(rank);
        machine::pin(core)
            .map_err(|error| Failure(format!("cannot pin rank {rank} to core {core}: {error}")))?;
    }
    let crowded = ranks > machine::available_cores();
    let patience = Duration::from_secs(options.timeout);
    let seat = Seat::take(Arc::clone(board), rank, ranks, patience, crowded);
    let plan = Plan::new(options, ranks, alone)?;
    match options.contender {
        Whom::Nccl => {
            let library = Library::load(&library_path(options.library.as_deref())?)?;
            let make_id = || library.unique_id().map(|id| id.0);
            if options.bootstrap == Bootstrap::Mpi {
                return through_mpi(make_id, rank, ranks, |id| {
                    let contender = Communicator::join(library.clone(), UniqueId(id), rank, ranks)?;
                    measure_with(&seat, contender, &plan, report)
                });
            }
            let id = seat.share_id(make_id)?;
            let contender = Communicator::join(library, UniqueId(id), rank, ranks)?;
            measure_with(&seat, contender, &plan, report)
        }
        Whom::Gloo => measure_with(&seat, gloo::Context::join(&seat, &options.gloo)?, &plan, report),
        Whom::Ucx => measure_with(&seat, ucx::Ends::join(&seat, crowded, patience)?, &plan, report),
        #[cfg(feature = "mpi")]
        Whom::Mpi => measure_with(&seat, mpi::World::join(rank, ranks)?, &plan, report),
        #[cfg(not(feature = "mpi"))]
        Whom::Mpi => Err(Failure(WITHOUT_MPI.into())),
    }
}

/// Gives `body` the id that rank 0 made and MPI brought.
#[cfg(feature = "mpi")]
fn through_mpi(
    make_id: impl FnOnce() -> Result<[u8; 128], Failure>,
    rank: usize,
    ranks: usize,
    body: impl FnOnce([u8; 128]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let world = mpi::World::join(rank, ranks)?;
    let id = world.share_id(if rank == 0 { make_id()? } else { [0; 128] })?;
    body(id)?;
    world.finish()
}

#[cfg(not(feature = "mpi"))]
fn through_mpi(
    _make_id: impl FnOnce() -> Result<[u8; 128], Failure>,
    _rank: usize,
    _ranks: usize,
    _body: impl FnOnce([u8; 128]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    Err(Failure(WITHOUT_MPI.into()))
}

fn measure_with<C: Contender>(
    seat: &Seat,
    mut contender: C,
    plan: &Plan,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let silent = &mut |_| {};
    let report = if seat.rank() == 0 { report } else { silent };
    measure::run(seat, &mut contender, plan, report)?;
    seat.barrier()?;
    contender.finish()
}

/// Whether each of the ranks that we start has a core of its own.
fn alone_on_cores(options: &Options, ranks: usize) -> bool {
    !options.no_pin && ranks <= machine::allowed_cores().len()
}

/// The library that is meant: the named one, or that beside this program.
pub(crate) fn library_path(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    // Installed, the library lies in lib beside bin.
    let places = [folder.join("libshoal.so"), folder.join("../lib/libnccl.so.2")];
    match places.iter().find(|place| place.exists()) {
        Some(found) => Ok(found.clone()),
        None => Err(Failure(format!(
            "there is no {}; build it with `cargo build --release`, or name a library with --library",
            places[0].display()
        ))),
    }
}

/// Prints results, counts the wrong ones, and shows on a terminal how far the run is.
struct Printer {
    exporter: Box<dyn Exporter>,
    notes_aside: bool,
    progress: bool,
    done: usize,
    cases: usize,
    wrong: u64,
}

impl Printer {
    fn new(format: Format, progress: bool, plan: &Plan) -> Printer {
        let exporter = export::exporter(format, stdout());
        let notes_aside = format == Format::Csv;
        Printer { exporter, notes_aside, progress, done: 0, cases: plan.cases.len(), wrong: 0 }
    }

    fn report(&mut self, report: &Report) {
        if let Report::Row(row) = report {
            self.wrong += row.wrong.unwrap_or(0);
            self.done += usize::from(!row.in_place);
            if self.progress {
                eprint!("\r{}/{} {} {}      ", self.done, self.cases, row.op, size::display(row.bytes));
            }
        }
        // A reader that went away is noticed when the run ends.
        let _ = match report {
            Report::Note(text) => self.note(text),
            Report::Row(_) => self.exporter.report(report).map_err(Failure::from),
        };
    }

    fn note(&mut self, text: &str) -> Result<(), Failure> {
        if self.notes_aside {
            eprintln!("# {text}");
            return Ok(());
        }
        Ok(self.exporter.note(text)?)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if self.progress {
            eprintln!();
        }
        Ok(self.exporter.finish()?)
    }
}
