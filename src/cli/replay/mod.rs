//! `shoal replay`: what a job communicated, once more, through NCCL's C interface.
//!
//! | file | what it does |
//! |---|---|
//! | `import` | readers of recordings |
//! | `script`, `trim` | who plays what, on how many ranks; what has no partner |
//! | `lanes` | in which order a player plays |
//! | `layout` | where data lie, what they are, whether they are right |
//! | `classes`, `compare` | what is alike, and one side against the other |
//! | `play` | the ranks at work |
//! | `print` | what was found, for people and for programs |

mod classes;
mod compare;
mod import;
mod lanes;
pub(super) mod layout;
mod play;
mod print;
mod script;
mod trim;

use std::ffi::OsString;
use std::io::stdout;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::bench::launch::{self, Start};
use super::bench::{Report, export, library_path, options};
use super::board::{Board, RANKS_MAX, Seat};
use super::library::Library;
use super::{Failure, machine};
use compare::Rounds;
use script::Wishes;
pub(super) use script::{Group, Script};

/// Plays what a job communicated again, through NCCL's interface, on ranks that it starts on this machine: the same
/// calls of the same sizes in the same order, groups and peers. The first round is checked, byte by byte; the others are
/// timed.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Recordings: files, or folders of traces, as SHOAL_TRACE makes them
    #[arg(required = true)]
    pub traces: Vec<PathBuf>,
    /// The form of the recordings [default: by how the first one starts]
    #[arg(long, value_enum)]
    pub form: Option<import::Form>,
    /// Of more ranks, the first so many play [default: as many as were recorded]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: Option<u16>,
    /// Counts are multiplied by this; none becomes 0
    #[arg(long, default_value_t = 1.0, value_parser = factor, value_name = "FACTOR")]
    pub scale: f64,
    /// Let no batch begin sooner, after the first one, than it did
    #[arg(long)]
    pub gaps: bool,
    /// The library that plays [default: libshoal.so beside this program]
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Play in turn with this library, or with this setting in the environment, and print the gain of each class
    #[arg(long, value_name = "PATH|SETTING=VALUE", value_parser = against)]
    pub against: Option<Against>,
    /// How often each side has its turn [default: 6 with --against, else 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub turns: Option<u16>,
    /// Rounds of a turn that are timed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub rounds: u16,
    /// 1: check the results of a first round; 0: do not
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub check: u8,
    /// Only say what would be played
    #[arg(long)]
    pub plan: bool,
    /// Leave ranks wherever the system puts them, instead of one core each
    #[arg(long)]
    pub no_pin: bool,
    /// Seconds without progress until the replay is given up
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,

    /// Which rank this process is; given by the process that starts the ranks
    #[arg(long, hide = true, requires = "board")]
    pub child: Option<usize>,
    /// Where the ranks meet
    #[arg(long, hide = true)]
    pub board: Option<PathBuf>,
    /// The process without which this one has no purpose
    #[arg(long, hide = true)]
    pub parent: Option<u32>,
    /// Whether this is the other side
    #[arg(long, hide = true)]
    pub other_side: bool,
}

/// Whom to play against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// Another library.
    Library(PathBuf),
    /// The same with something in the environment.
    Setting(String, String),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One object.
    Json,
}

fn factor(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 1e6);
    number.ok_or_else(|| format!("{text:?} is no factor: expected a number above 0"))
}

fn against(text: &str) -> Result<Against, String> {
    match options::setting(text) {
        Ok((name, value)) if !name.contains('/') => Ok(Against::Setting(name, value)),
        _ => Ok(Against::Library(text.into())),
    }
}

/// Plays; `Ok(false)` if a result was wrong.
///
/// # Errors
/// What cannot be read or played, and why.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let (script, notes) = read(options)?;
    if let (Some(rank), Some(board)) = (options.child, &options.board) {
        return child(options, &script, rank, board);
    }
    if let Some(by) = super::bench::launched_by() {
        return Err(Failure(format!(
            "this process was started by {by}, but shoal replay starts its ranks itself; run it once"
        )));
    }
    if script.players > RANKS_MAX {
        let players = script.players;
        return Err(Failure(format!("{players} ranks, and at most {RANKS_MAX} can play; say --ranks")));
    }
    if options.plan {
        return print::plan(options.format, &script, &notes).map(|()| true);
    }
    fits(&script)?;
    let mut sides: Vec<Vec<Rounds>> = vec![Vec::new(); 1 + usize::from(options.against.is_some())];
    for side in 0..sides.len() {
        Library::load(&library_of(options, side == 1)?)?;
    }
    let mut wrong = None;
    let turns = options.turns.unwrap_or(if sides.len() > 1 { 6 } else { 1 });
    for turn in 0..usize::from(turns) {
        for position in 0..sides.len() {
            let side = (position + turn) % sides.len();
            let mut rounds = Rounds::new();
            start(options, &script, side == 1, &mut |report| {
                if let Report::Row(row) = report {
                    // Every row of a run says the same.
                    wrong = wrong.max(row.wrong);
                    compare::add(&mut rounds, &row);
                }
            })?;
            sides[side].push(rounds);
        }
    }
    print::result(options, &script, &notes, &compare::lines(&sides), wrong)?;
    Ok(wrong.unwrap_or(0) == 0)
}

fn read(options: &Options) -> Result<(Script, Vec<String>), Failure> {
    let import = import::read(&options.traces, options.form)?;
    let wishes = Wishes { players: options.ranks.map(usize::from), scale: options.scale };
    let script = Script::new(import.streams, &wishes).map_err(Failure)?;
    let notes = import.notes.into_iter().chain(script.notes.iter().cloned()).collect();
    Ok((script, notes))
}

/// All that traces of ours hold, and what is not in it.
///
/// # Errors
/// One cannot be read, or they do not belong together.
pub(super) fn import_own(traces: &[PathBuf]) -> Result<(Script, Vec<String>), Failure> {
    let import = import::read(traces, Some(import::Form::Shoal))?;
    let script = Script::new(import.streams, &Wishes { players: None, scale: 1.0 }).map_err(Failure)?;
    let notes = import.notes.into_iter().chain(script.notes.iter().cloned()).collect();
    Ok((script, notes))
}

fn library_of(options: &Options, is_other: bool) -> Result<PathBuf, Failure> {
    match &options.against {
        Some(Against::Library(path)) if is_other => Ok(path.clone()),
        _ => library_path(options.library.as_deref()),
    }
}

/// Refuses what would take more memory than there is.
fn fits(script: &Script) -> Result<(), Failure> {
    let largest = |player: usize| -> u64 {
        let of_lane = |lane: lanes::Lane| {
            let mut groups: Vec<usize> = lane.turns.iter().map(|(group, _)| *group).collect();
            groups.dedup();
            let of_group = |group: &usize| {
                let members = &script.groups[*group].members;
                let place = members.iter().position(|member| member.player == player).unwrap_or(0);
                let sizes = members[place].definitions.iter();
                sizes
                    .map(|operations| layout::place(operations, place, members.len()).1 as u64)
                    .max()
                    .unwrap_or(0)
            };
            groups.iter().map(of_group).max().unwrap_or(0)
        };
        lanes::lanes(script, player).into_iter().map(of_lane).fold(0, u64::saturating_add)
    };
    let needed = (0..script.players).map(largest).fold(0, u64::saturating_add);
    let available = machine::available_bytes().unwrap_or(u64::MAX);
    if needed > available / 10 * 9 {
        return Err(Failure(format!(
            "the buffers of {} ranks take {:.1} GiB, and {:.1} GiB are free; play fewer with --ranks, or less with --scale",
            script.players,
            needed as f64 / f64::from(1 << 30),
            available as f64 / f64::from(1 << 30)
        )));
    }
    Ok(())
}

/// Starts the ranks of one side's turn.
fn start(
    options: &Options,
    script: &Script,
    is_other: bool,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let board = Board::create()?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut environment = Vec::new();
    if is_other {
        arguments.push("--other-side".into());
        if let Some(Against::Setting(name, value)) = &options.against {
            environment.push((name.clone(), value.clone()));
        }
    }
    let patience = Duration::from_secs(options.timeout);
    let start = |_| Start { environment: environment.clone(), ..Start::default() };
    launch::processes(&board, script.players, &arguments, &start, patience, report)
}

/// One rank that `start` started.
fn child(options: &Options, script: &Script, rank: usize, board: &Path) -> Result<bool, Failure> {
    if options.parent.is_some_and(|parent| !machine::die_with_parent(parent)) {
        return Err(Failure("the process that started this rank is gone".into()));
    }
    let ranks = script.players;
    if rank >= ranks {
        return Err(Failure(format!("rank {rank} of {ranks} ranks")));
    }
    let board = Board::open(board)?;
    let cores = machine::allowed_cores();
    if !options.no_pin && ranks <= cores.len() && lanes::lanes(script, rank).len() == 1 {
        let core = cores[rank];
        machine::pin(core)
            .map_err(|error| Failure(format!("cannot pin rank {rank} to core {core}: {error}")))?;
    }
    let crowded = ranks > machine::available_cores();
    let patience = Duration::from_secs(options.timeout);
    let seat = Seat::take(board.clone(), rank, ranks, patience, crowded);
    let mut exporter = export::exporter(options::Format::Json, stdout());
    let mut report = |one: Report| {
        let _ = exporter.report(&one);
    };
    let manner = play::Manner {
        rounds: usize::from(options.rounds),
        checks: options.check == 1,
        keeps_gaps: options.gaps,
    };
    let played = library_of(options, options.other_side)
        .and_then(|path| Library::load(&path))
        .and_then(|library| play::play(script, &seat, manner, &library, &mut report));
    if let Err(failure) = played {
        board.fail(rank);
        // Ranks that stop because of another's failure have nothing to add.
        if board.failed() == Some(rank) {
            eprintln!("shoal: rank {rank}: {failure}");
        }
        return Ok(false);
    }
    Ok(true)
}

#[cfg(test)]
pub(super) mod tests {
    pub(in crate::cli) use super::script::tests::{operation, stream};
    use super::script::{Script, Stream};

    /// A script of whole streams.
    pub(in crate::cli) fn script(streams: Vec<Stream>) -> Script {
        Script::new(streams, &super::script::tests::ALL).expect("streams that belong together")
    }

    #[test]
    fn sides_are_told_apart() {
        use super::{Against, against, factor};
        assert_eq!(against("SHOAL_COALESCE=0"), Ok(Against::Setting("SHOAL_COALESCE".into(), "0".into())));
        assert_eq!(against("/a=b/libshoal.so"), Ok(Against::Library("/a=b/libshoal.so".into())));
        assert_eq!(against("libshoal.so"), Ok(Against::Library("libshoal.so".into())));
        assert!(factor("0").is_err() && factor("x").is_err() && factor("0.5") == Ok(0.5));
    }
}
