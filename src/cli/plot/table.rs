//! The README's table of figures, made from a record: `shoal plot RECORD --table`. A test compares the README with
//! what this says of the record that the README names.
#![forbid(unsafe_code)]

use super::record::{self, Line};
use crate::cli::Failure;

/// A row: its words, the operation, its size in bytes, its messages.
type Named = (&'static str, &'static str, usize, usize);

/// What the README shows, on two ranks.
const ROWS: [Named; 19] = [
    ("send and receive, one way, 8 B", "sendrecv", 8, 1),
    ("send and receive, one way, 4 KiB", "sendrecv", 4096, 1),
    ("send and receive, one way, 64 KiB", "sendrecv", 65536, 1),
    ("send and receive, one way, 4 MiB", "sendrecv", 4 << 20, 1),
    ("allreduce, 8 B", "allreduce", 8, 1),
    ("allreduce, 64 KiB", "allreduce", 65536, 1),
    ("allreduce, 4 MiB", "allreduce", 4 << 20, 1),
    ("allgather, 8 B", "allgather", 8, 1),
    ("allgather, 4 MiB", "allgather", 4 << 20, 1),
    ("reduce-scatter, 8 B", "reducescatter", 8, 1),
    ("reduce-scatter, 4 MiB", "reducescatter", 4 << 20, 1),
    ("all-to-all, 8 B", "alltoall", 8, 1),
    ("all-to-all, 4 MiB", "alltoall", 4 << 20, 1),
    ("broadcast, 8 B", "broadcast", 8, 1),
    ("broadcast, 4 MiB", "broadcast", 4 << 20, 1),
    ("grouped exchange, 64 messages of 8 B", "exchange", 8, 64),
    ("grouped exchange, 64 messages of 256 B", "exchange", 256, 64),
    ("grouped exchange, 64 messages of 1 KiB", "exchange", 1024, 64),
    ("grouped exchange, 64 messages of 4 KiB", "exchange", 4096, 64),
];

/// The table of a record in one state of the machine; rows that it does not hold are left out.
///
/// # Errors
/// The record is none, or holds nothing that the table shows.
pub fn of(record: &str, state: &str) -> Result<String, Failure> {
    let lines = record::parse(record).map_err(Failure)?;
    let mut table = String::from("| | Shoal | best peer | ratio | floor |\n|---|---|---|---|---|\n");
    let rows: Vec<String> = ROWS.iter().filter_map(|named| row(&lines, state, named)).collect();
    if rows.is_empty() {
        return Err(Failure(format!("nothing of the table was recorded in the {state} state")));
    }
    table.push_str(&rows.concat());
    Ok(table)
}

fn row(lines: &[Line], state: &str, &(words, op, bytes, messages): &Named) -> Option<String> {
    let is_case = |line: &&Line| {
        line.state == state
            && line.op == op
            && line.ranks == 2
            && line.bytes == bytes
            && line.messages == messages
    };
    // A later run of the same case replaces an earlier one, together with the peers of its run.
    let ours = lines.iter().rposition(|line| is_case(&line) && line.contender == "shoal")?;
    let peers = lines[ours..].iter().take_while(|line| is_case(line));
    let peers = peers.filter(|line| !line.contender.starts_with("shoal"));
    let best = peers.min_by(|one, other| one.time_us.total_cmp(&other.time_us))?;
    let ours = &lines[ours];
    let band = ours.aa_band.map_or(String::new(), |band| format!(" (a/a {:.0}%)", 100.0 * band));
    Some(format!(
        "| {words} | {} | {} ({}) | {:.2}{band} | {} |\n",
        digits(ours.time_us),
        digits(best.time_us),
        best.contender,
        ours.ratio?,
        ours.floor_us.map_or("-".to_owned(), digits),
    ))
}

/// As many digits as say something.
pub(super) fn digits(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{us:.3}"),
        us if us < 10.0 => format!("{us:.2}"),
        us => format!("{us:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::line;
    use super::*;

    #[test]
    fn the_latest_run_counts_with_its_own_peers() {
        let ours = |time_us: f64, ratio: f64| {
            let text = line("exchange", "shoal", 8, time_us);
            text.replace("\"new\":1", &format!("\"ratio\":{ratio},\"aa_band\":0.02,\"floor_us\":0.119"))
        };
        let record = ours(9.0, 0.1)
            + &line("exchange", "mpich", 8, 0.9)
            + &ours(2.34, 2.32)
            + &line("exchange", "mpich", 8, 6.0)
            + &line("exchange", "openmpi", 8, 5.42)
            + &line("exchange", "openmpi", 64, 0.1);
        let table = of(&record, "near").unwrap();
        let row = "| grouped exchange, 64 messages of 8 B | 2.34 | 5.42 (openmpi) | 2.32 (a/a 2%) | 0.119 |";
        assert_eq!(table.lines().nth(2), Some(row));
        assert_eq!(table.lines().count(), 3);
        assert!(of(&record, "far").is_err());
    }
}
