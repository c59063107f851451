//! Takes turns until there are enough figures of every contender in one state of the machine.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::process::Stdio;

use super::Options;
use super::contenders::Contender;
use super::suite::Block;
use crate::cli::Failure;
use crate::cli::bench::row::Row;
use crate::cli::bench::{Report, parse_report};
use crate::cli::canary::{self, State};

/// What is compared with what: the same call everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) ranks: usize,
    /// Where the case stands in the suite, so that tables keep its order.
    pub(super) place: usize,
    pub(super) op: String,
    pub(super) data_type: String,
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// One contender's figure of one case in one turn.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) case: Case,
    pub(super) contender: &'static str,
    pub(super) is_control: bool,
    pub(super) library: String,
    pub(super) state: State,
    pub(super) time_us: f64,
    pub(super) time_us_p99: f64,
    pub(super) floor_us: Option<f64>,
    pub(super) added_us: Option<f64>,
    pub(super) wrong: u64,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Figures of each contender of each case in one state.
    pub(super) enough: usize,
    /// Turns at most.
    pub(super) turns: usize,
}

/// What runs a contender; a test has its own.
pub(super) trait Executor {
    /// The rows of a block.
    fn run(&mut self, contender: &Contender, block: &Block) -> Result<Vec<Row>, Failure>;
    /// The state of the machine, now.
    fn canary(&mut self) -> Option<f64>;
    /// Tells a person how far it is.
    fn progress(&mut self, text: &str);
}

/// Lets everybody measure every block, turn by turn.
///
/// # Errors
/// Nobody could measure anything.
pub(super) fn run(
    contenders: &[Contender],
    blocks: &[Block],
    limits: Limits,
    executor: &mut dyn Executor,
) -> Result<Vec<Figure>, Failure> {
    let mut figures: Vec<Figure> = Vec::new();
    // Who cannot run a block is told once and left out from then on.
    let mut out: Vec<(usize, usize)> = Vec::new();
    let mut first_failure = None;
    for turn in 0..limits.turns {
        for (place, block) in blocks.iter().enumerate() {
            if turn >= limits.enough && is_enough(&figures, place, limits.enough) {
                continue;
            }
            // Everybody starts first in some turn.
            for position in 0..contenders.len() {
                let number = (position + turn) % contenders.len();
                let contender = &contenders[number];
                if out.contains(&(place, number)) || !contender.takes(block) {
                    continue;
                }
                executor.progress(&format!("turn {} {} {}", turn + 1, block.ops, contender.name));
                let before = executor.canary();
                match executor.run(contender, block) {
                    Ok(rows) => {
                        let around = before.zip(executor.canary()).map(|(before, after)| [before, after]);
                        figures.extend(rows.iter().map(|row| figure(row, contender, place, around)));
                    }
                    Err(failure) => {
                        let (name, ops) = (contender.name, block.ops);
                        executor.progress(&format!(
                            "{name} is left out of {ops} on {} ranks: {failure}\n",
                            block.ranks
                        ));
                        first_failure.get_or_insert(failure);
                        out.push((place, number));
                    }
                }
            }
        }
        if (0..blocks.len()).all(|place| is_enough(&figures, place, limits.enough)) {
            break;
        }
    }
    match first_failure {
        Some(failure) if figures.is_empty() => Err(failure),
        _ => Ok(figures),
    }
}

fn figure(row: &Row, contender: &Contender, place: usize, around: Option<[f64; 2]>) -> Figure {
    let case = Case {
        ranks: row.ranks,
        place,
        op: row.op.clone(),
        data_type: row.data_type.clone(),
        messages: row.messages,
        bytes: row.bytes,
    };
    Figure {
        case,
        contender: contender.name,
        is_control: contender.is_control,
        library: row.library.clone(),
        // What the ranks saw right before and after is closer than what the parent saw around the run.
        state: row.line_ns.or(around).map_or(State::Between, State::of_both),
        time_us: row.time_us,
        time_us_p99: row.time_us_p99,
        added_us: row.added_us,
        floor_us: row.floor_us,
        wrong: row.wrong.unwrap_or(0),
    }
}

/// How many figures a contender has; the flag tells the two runs of this library apart.
type Counts<'figures> = HashMap<(&'figures str, bool), usize>;

/// Whether every contender that has figures of a case has enough of them in one state that all share.
fn is_enough(figures: &[Figure], place: usize, enough: usize) -> bool {
    let mut counts: HashMap<(&Case, State), Counts<'_>> = HashMap::new();
    let mut present: HashMap<&Case, Vec<(&str, bool)>> = HashMap::new();
    for figure in figures.iter().filter(|figure| figure.case.place == place) {
        let who = (figure.contender, figure.is_control);
        let present = present.entry(&figure.case).or_default();
        if !present.contains(&who) {
            present.push(who);
        }
        if figure.state != State::Between {
            *counts.entry((&figure.case, figure.state)).or_default().entry(who).or_default() += 1;
        }
    }
    present.iter().all(|(case, contenders)| {
        [State::Near, State::Far].into_iter().any(|state| {
            let counts = counts.get(&(*case, state));
            contenders.iter().all(|who| counts.and_then(|c| c.get(who)).is_some_and(|count| *count >= enough))
        })
    })
}

/// Runs contenders as processes.
pub(super) struct Processes<'options> {
    options: &'options Options,
    shows: bool,
}

impl<'options> Processes<'options> {
    pub(super) fn new(options: &'options Options) -> Self {
        Processes { options, shows: stderr().is_terminal() }
    }
}

impl Executor for Processes<'_> {
    fn run(&mut self, contender: &Contender, block: &Block) -> Result<Vec<Row>, Failure> {
        let mut command = contender.command(block, self.options);
        let output = command.stdin(Stdio::null()).output().map_err(|error| {
            Failure(format!("{} cannot be started: {error}", command.get_program().to_string_lossy()))
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let reports = text.lines().filter_map(parse_report);
        let rows: Vec<Row> = reports
            .filter_map(|report| match report {
                Report::Row(row) => Some(*row),
                Report::Note(_) => None,
            })
            .collect();
        // A wrong result is a figure too: it is counted and shown at the end.
        if output.status.success() || rows.iter().any(|row| row.wrong.unwrap_or(0) > 0) {
            return Ok(rows);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
        Err(Failure(if last.is_empty() { output.status.to_string() } else { last.join(" | ") }))
    }

    fn canary(&mut self) -> Option<f64> {
        canary::measure()
    }

    fn progress(&mut self, text: &str) {
        match text.strip_suffix('\n') {
            Some(lasting) => eprintln!("\r# {lasting}"),
            None if self.shows => eprint!("\r{text:<100}"),
            None => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::contenders;
    use super::super::suite::Suite;
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// A machine that changes its state, and contenders with known times.
    struct Pretend {
        turns: usize,
        far_every: usize,
    }

    impl Executor for Pretend {
        fn run(&mut self, contender: &Contender, _: &Block) -> Result<Vec<Row>, Failure> {
            self.turns += 1;
            let far = self.far_every > 0 && self.turns.is_multiple_of(self.far_every);
            let base = match contender.name {
                "shoal" => 1.0,
                "openmpi" => 2.0,
                "mpich" => 3.0,
                _ => return Err(Failure("no such thing".into())),
            };
            let row = |bytes: usize| Row {
                op: "allreduce".into(),
                ranks: 2,
                bytes,
                messages: 1,
                time_us: base * if far { 4.0 } else { 1.0 } + self.turns as f64 / 1e3,
                line_ns: Some(if far { [310.0, 320.0] } else { [70.0, 72.0] }),
                ..Row::default()
            };
            Ok(vec![row(8), row(64)])
        }

        fn canary(&mut self) -> Option<f64> {
            None
        }

        fn progress(&mut self, _: &str) {}
    }

    /// Figures of a pretended run.
    pub(crate) fn pretend(far_every: usize, limits: Limits) -> Vec<Figure> {
        // Any file that exists will do as a program that is never started.
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(Path::new(here).exists());
        let options = Line::try_parse_from(["peers", "--openmpi", here, "--mpich", here]).unwrap().options;
        let contenders = contenders::all(&options).unwrap();
        run(&contenders, &Suite::Quick.blocks(), limits, &mut Pretend { turns: 0, far_every }).unwrap()
    }

    #[test]
    fn a_quiet_machine_needs_no_more_turns_than_asked() {
        let figures = pretend(0, Limits { enough: 5, turns: 20 });
        assert_eq!(figures.len(), 4 * 5 * 2);
        assert!(figures.iter().all(|figure| figure.contender != "openmpi-ucx"));
    }

    #[test]
    fn a_restless_machine_gets_more_turns_but_not_without_end() {
        let more = pretend(3, Limits { enough: 5, turns: 50 });
        assert!(more.len() > 4 * 5 * 2);
        assert!(is_enough(&more, 0, 5));
        assert_eq!(pretend(2, Limits { enough: 50, turns: 7 }).len(), 4 * 7 * 2);
        assert!(pretend(0, Limits { enough: 1, turns: 1 }).iter().all(|figure| figure.contender != "ucx"));
    }
}
