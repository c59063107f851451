//! The table of a comparison.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use super::summary::{Comparison, Entry};
use crate::cli::bench::size;

/// Prints every comparison, a block for each state; `enough` marks the rows that stand on fewer runs.
pub(super) fn table(out: &mut dyn Write, comparisons: &[Comparison], enough: usize) -> io::Result<()> {
    let mut state = None;
    for comparison in comparisons {
        if state != Some(comparison.state) {
            state = Some(comparison.state);
            header(out, comparison)?;
        }
        row(out, comparison, enough)?;
    }
    if comparisons.is_empty() {
        writeln!(out, "# no figure was taken in a steady state of the machine; try again when it is quiet")?;
    }
    out.flush()
}

fn header(out: &mut dyn Write, comparison: &Comparison) -> io::Result<()> {
    writeln!(
        out,
        "#\n# cores {}; times in us; ratio: best peer / shoal, above 1 is faster",
        comparison.state
    )?;
    writeln!(
        out,
        "#{:<14}{:>5} {:>6}{:>6}{:>11}{:>8}{:>11}  {:<12}{:>7}  {:<7}{:>9}{:>7}{:>5}  others",
        "operation",
        "ranks",
        "size",
        "msgs",
        "shoal",
        "a/a",
        "best peer",
        "",
        "ratio",
        "",
        "floor",
        "x",
        "runs"
    )
}

fn row(out: &mut dyn Write, comparison: &Comparison, enough: usize) -> io::Result<()> {
    let case = &comparison.case;
    let dash = || "-".to_owned();
    let best = comparison.peers.first();
    let others = comparison.mapped.iter().chain(comparison.peers.iter().skip(1));
    let mut others: Vec<String> =
        others.map(|other| format!("{} {}", other.contender, time(Some(other)))).collect();
    let added = comparison.ours.iter().chain(&comparison.peers);
    others.extend(added.filter_map(|entry| {
        Some(format!("small messages add {:.3} ({})", entry.added_us?, entry.contender))
    }));
    let few = if comparison.runs() < enough { "*" } else { "" };
    let line = format!(
        " {:<14}{:>5} {:>6}{:>6}{:>11}{:>8}{:>11}  {:<12}{:>7}  {:<7}{:>9}{:>7}{:>5}  {}",
        case.op,
        case.ranks,
        size::display(case.bytes),
        case.messages,
        time(comparison.ours.as_ref()),
        comparison.band.map_or_else(dash, |band| format!("{:.1}%", 100.0 * band)),
        time(best),
        best.map_or("", |best| best.contender),
        comparison.ratio().map_or_else(dash, |ratio| format!("{ratio:.2}")),
        comparison.verdict(),
        comparison.floor_us.map_or_else(dash, |floor| format!("{floor:.3}")),
        comparison.floor_ratio().map_or_else(dash, |ratio| format!("{ratio:.1}")),
        format!("{}{few}", comparison.runs()),
        others.join(", "),
    );
    writeln!(out, "{}", line.trim_end())
}

fn time(entry: Option<&Entry>) -> String {
    entry.map_or("-".to_owned(), |entry| format!("{:.3}", entry.median_us))
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Limits, tests::pretend};
    use super::super::summary::compare;
    use super::*;

    fn printed(far_every: usize, turns: usize) -> String {
        let mut out = Vec::new();
        table(&mut out, &compare(&pretend(far_every, Limits { enough: 5, turns })), 5).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn states_have_a_block_each() {
        let text = printed(3, 50);
        assert!(text.contains("# cores near;") && text.contains("# cores far;"), "{text}");
        let near = text.lines().find(|line| line.starts_with(" allreduce")).unwrap();
        assert!(near.contains("openmpi") && near.contains("faster") && near.contains("mpich 3.0"), "{near}");
    }

    #[test]
    fn too_few_runs_are_marked() {
        assert!(printed(0, 3).contains("3*"));
        assert!(!printed(0, 5).contains('*'));
        let mut out = Vec::new();
        table(&mut out, &[], 5).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("no figure"));
    }
}
