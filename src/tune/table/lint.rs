//! What is wrong or doubtful in a table.
#![forbid(unsafe_code)]

use std::fmt;

use super::{Key, Row, Span, Table, operation_name};

/// How much slower than the best a row's choice may be at its own points before that is said.
const SLOWER: f64 = 1.05;

/// Something that a reader of the table should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line of the row or run.
    pub line: u32,
    /// What it is.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is explained by its sentence
pub enum Problem {
    Unreachable { earlier_line: u32 },
    Overlap { earlier_line: u32, bytes: Span },
    Gap { operation: String, bytes: Span },
    Slower { bytes: u64, best: String, percent: u32 },
    StaleMachine { run: String, machine: String },
    StaleLibrary { run: String, library: String },
    UnusedRun { run: String },
}

impl Finding {
    /// Whether the table says something else than it seems to; the rest is worth a look.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(self.problem, Problem::Unreachable { .. } | Problem::Overlap { .. } | Problem::Gap { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: ", self.line)?;
        match &self.problem {
            Problem::Unreachable { earlier_line } => {
                write!(formatter, "this row is never used: the rows from line {earlier_line} on come first")
            }
            Problem::Overlap { earlier_line, bytes } => {
                write!(
                    formatter,
                    "overlaps the row of line {earlier_line}, which wins, for {bytes} bytes; \
                     make the two disjoint"
                )
            }
            Problem::Gap { operation, bytes } => {
                write!(
                    formatter,
                    "no row for {operation} of {bytes} bytes here; the next table or the built-in one \
                     chooses"
                )
            }
            Problem::Slower { bytes, best, percent } => {
                write!(
                    formatter,
                    "at {bytes} bytes {best} was measured to be {percent}% faster than the choice"
                )
            }
            Problem::StaleMachine { run, machine } => {
                write!(formatter, "run {run:?} measured on another machine: {machine}; tune here")
            }
            Problem::StaleLibrary { run, library } => {
                write!(formatter, "run {run:?} measured version {library} of the library; tune again")
            }
            Problem::UnusedRun { run } => write!(formatter, "no row names run {run:?}"),
        }
    }
}

/// The machine and the library that a table is used with.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// This machine, as runs name machines.
    pub machine: &'a str,
    /// This library's version.
    pub library: &'a str,
}

/// Everything that is wrong or doubtful, by line. Machines and versions are looked at if `here` is known.
#[must_use]
pub fn lint(table: &Table, here: Option<Here<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let earlier = &table.rows[..index];
        if let Some(by) = hidden_by(row, earlier) {
            findings.push(Finding { line: row.line, problem: Problem::Unreachable { earlier_line: by } });
        } else {
            findings.extend(overlaps(row, earlier));
        }
        findings.extend(slower(row));
    }
    findings.extend(gaps(&table.rows));
    for run in &table.runs {
        let mut say = |problem| findings.push(Finding { line: run_line(table, &run.name), problem });
        let name = run.name.clone();
        if !table.rows.iter().any(|row| row.run == run.name) {
            say(Problem::UnusedRun { run: name });
            continue;
        }
        let Some(here) = here else { continue };
        if run.machine != here.machine {
            say(Problem::StaleMachine { run: name.clone(), machine: run.machine.clone() });
        }
        if run.library != here.library {
            say(Problem::StaleLibrary { run: name, library: run.library.clone() });
        }
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// The first row of a run; runs have no lines of their own.
fn run_line(table: &Table, name: &str) -> u32 {
    table.rows.iter().find(|row| row.run == name).map_or(1, |row| row.line)
}

/// The first of the earlier rows that together leave nothing of this one.
fn hidden_by(row: &Row, earlier: &[Row]) -> Option<u32> {
    let covering = earlier.iter().filter(|other| other.key.covers_but_bytes(&row.key));
    let covering: Vec<&Row> =
        covering.filter(|other| other.key.bytes.both(&row.key.bytes).is_some()).collect();
    let spans = covering.iter().map(|other| other.key.bytes).collect();
    left(row.key.bytes, spans).is_empty().then(|| covering.first().map_or(0, |first| first.line))
}

/// What of `span` none of `taken` holds.
fn left(span: Span, mut taken: Vec<Span>) -> Vec<Span> {
    taken.sort_by_key(|span| span.from);
    let mut left = Vec::new();
    let mut next = span.from;
    for other in taken {
        if other.from > next {
            left.push(Span { from: next, to: (other.from - 1).min(span.to) });
        }
        if other.to >= span.to {
            return left.into_iter().filter(|gap| gap.from <= gap.to && gap.from <= span.to).collect();
        }
        next = next.max(other.to + 1);
    }
    left.push(Span { from: next, to: span.to });
    left
}

/// Earlier rows that decide otherwise for some of the same calls.
fn overlaps(row: &Row, earlier: &[Row]) -> Vec<Finding> {
    let meeting = earlier.iter().filter(|other| other.key.meets(&row.key) && other.choice != row.choice);
    let say = |other: &Row| {
        let bytes = other.key.bytes.both(&row.key.bytes)?;
        let problem = Problem::Overlap { earlier_line: other.line, bytes };
        Some(Finding { line: row.line, problem })
    };
    meeting.filter_map(say).collect()
}

/// Points at which another candidate was clearly faster than the row's choice.
fn slower(row: &Row) -> Vec<Finding> {
    let mut findings = Vec::new();
    for point in row.points.iter().filter(|point| row.key.bytes.holds(point.bytes)) {
        let chosen = point.samples.iter().find(|sample| sample.choice == row.choice);
        let best = point.samples.iter().min_by(|one, other| one.median_us.total_cmp(&other.median_us));
        let (Some(chosen), Some(best)) = (chosen, best) else { continue };
        let is_sure = chosen.low_us > best.high_us;
        if is_sure && chosen.median_us > SLOWER * best.median_us {
            let percent = (100.0 * (chosen.median_us / best.median_us - 1.0)).round() as u32;
            let problem = Problem::Slower { bytes: point.bytes, best: best.choice.to_string(), percent };
            findings.push(Finding { line: row.line, problem });
        }
    }
    findings
}

/// Sizes that rows with the same key leave between or beside them.
fn gaps(rows: &[Row]) -> Vec<Finding> {
    let mut seen: Vec<Key> = Vec::new();
    let mut findings = Vec::new();
    for row in rows {
        let place = Key { bytes: Span::ANY, ..row.key };
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let alike = rows.iter().filter(|other| other.key.covers_but_bytes(&place));
        for bytes in left(Span::ANY, alike.map(|other| other.key.bytes).collect()) {
            let operation = operation_name(place.operation);
            findings.push(Finding { line: row.line, problem: Problem::Gap { operation, bytes } });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::*;

    fn problems(text: &str) -> Vec<(u32, Problem)> {
        let table = read("t", text).unwrap();
        lint(&table, None).into_iter().map(|finding| (finding.line, finding.problem)).collect()
    }

    fn row(bytes: &str, algorithm: &str) -> String {
        format!("[[row]]\noperation = \"allreduce\"\nbytes = {bytes}\nalgorithm = \"{algorithm}\"\n")
    }

    #[test]
    fn rows_side_by_side_are_fine() {
        assert_eq!(problems(&(row("[0, 9]", "ring") + &row("[10, \"any\"]", "tree"))), []);
    }

    #[test]
    fn gaps_overlaps_and_hidden_rows_are_found() {
        let span = |from, to| Span { from, to };
        let found = problems(&(row("[0, 9]", "ring") + &row("[20, 30]", "tree")));
        let gap = |bytes| (1, Problem::Gap { operation: "allreduce".into(), bytes });
        assert_eq!(found, [gap(span(10, 19)), gap(span(31, u64::MAX))]);
        let found = problems(&(row("[0, 9]", "ring") + &row("[5, \"any\"]", "tree")));
        assert_eq!(found, [(5, Problem::Overlap { earlier_line: 1, bytes: span(5, 9) })]);
        let hiding = row("[0, 9]", "ring") + &row("[10, \"any\"]", "tree") + &row("[5, 20]", "exchange");
        assert_eq!(problems(&hiding), [(9, Problem::Unreachable { earlier_line: 1 })]);
    }

    #[test]
    fn a_choice_that_was_measured_to_be_slower_is_found() {
        let points = "points = [{ bytes = 4, ring = [2, 1.9, 2.1], tree = [1, 0.9, 1.1] }]\n";
        let found = problems(&(row("[0, \"any\"]", "ring") + points));
        assert_eq!(found, [(1, Problem::Slower { bytes: 4, best: "tree".into(), percent: 100 })]);
    }

    #[test]
    fn other_machines_and_versions_are_found() {
        let run = "[[run]]\nname = \"r\"\nmachine = \"m\"\ndate = \"d\"\ncommand = \"c\"\nlibrary = \"1\"\n";
        let text = format!("{run}[[row]]\nrun = \"r\"\noperation = \"allreduce\"\nalgorithm = \"ring\"\n");
        let table = read("t", &text).unwrap();
        assert_eq!(lint(&table, Some(Here { machine: "m", library: "1" })), []);
        assert_eq!(lint(&table, Some(Here { machine: "n", library: "2" })).len(), 2);
        assert!(lint(&read("t", run).unwrap(), None)[0].to_string().contains("no row names run"));
    }

    proptest::proptest! {
        /// Against asking number by number.
        #[test]
        fn what_is_left_is_what_nobody_takes(
            from in 0_u64..20, more in 0_u64..20,
            taken in proptest::collection::vec((0_u64..30, 0_u64..9), 0..6),
        ) {
            let span = Span { from, to: from + more };
            let taken: Vec<Span> = taken.iter().map(|(from, more)| Span { from: *from, to: from + more }).collect();
            let gaps = left(span, taken.clone());
            for number in 0..60 {
                let is_left = span.holds(number) && !taken.iter().any(|taken| taken.holds(number));
                proptest::prop_assert_eq!(gaps.iter().any(|gap| gap.holds(number)), is_left, "{}", number);
            }
        }
    }
}
