//! The tables of figures between hosts, made from a record: `shoal plot RECORD --table`. A test compares
//! `docs/network.md` with what this says of the record that the page names.
//!
//! Every figure is beside what it should be: this library's time over the best peer's, so less is faster.
#![forbid(unsafe_code)]

use super::record::{self, Line};
use super::table::digits;
use crate::cli::Failure;

/// Whom this library is compared with.
#[derive(Clone, Copy)]
enum Whom {
    /// Who offers what this library offers.
    Libraries,
    /// Everybody, by messages of their own.
    All,
    /// Everybody, with the messages packed by hand.
    Packed,
    /// UCX's own measuring program.
    Perftest,
}

/// A row: its words, the operation, bytes, messages, beside whom, and the most that its time may be of theirs.
type Named = (&'static str, &'static str, usize, usize, Whom, f64);

const ROWS: [Named; 9] = [
    ("send and receive, one way, 8 B", "sendrecv", 8, 1, Whom::Libraries, 1.0),
    ("send and receive, one way, 8 B", "sendrecv", 8, 1, Whom::Perftest, 1.2),
    ("send and receive, one way, 64 MiB", "sendrecv", 64 << 20, 1, Whom::Perftest, 1.0 / 0.9),
    (
        "64 messages of 64 B in a group, beside messages of their own",
        "exchange",
        64,
        64,
        Whom::All,
        1.0 / 25.0,
    ),
    ("256 messages of 256 B", "exchange", 256, 256, Whom::All, 1.0 / 14.0),
    ("64 messages of 1 KiB", "exchange", 1024, 64, Whom::All, 1.0 / 4.0),
    ("64 messages of 64 B in a group, beside packing by hand", "exchange", 64, 64, Whom::Packed, 1.0),
    ("256 messages of 256 B", "exchange", 256, 256, Whom::Packed, 1.0),
    ("64 messages of 1 KiB", "exchange", 1024, 64, Whom::Packed, 1.0),
];

/// What the small messages of a stage boundary may add.
const ADDED_US_MAX: f64 = 0.5;
/// What collectives may take of the best peer's time: on average over a decade, and at any size.
const DECADE_MAX: f64 = 0.9;
const POINT_MAX: f64 = 1.1;

/// The tables of a record in one state of the machine; what it does not hold is left out.
///
/// # Errors
/// The record is none, or holds nothing that the tables show.
pub fn of(record: &str, state: &str) -> Result<String, Failure> {
    let lines = record::parse(record).map_err(Failure)?;
    let lines: Vec<Line> = lines.into_iter().filter(|line| line.state == state && line.hosts > 1).collect();
    let mut rows: Vec<String> = ROWS.iter().filter_map(|named| row(&lines, named)).collect();
    rows.extend(boundaries(&lines));
    let collectives: Vec<String> = [2, 4]
        .into_iter()
        .flat_map(|ranks| ["allreduce", "allgather", "alltoall"].map(|op| (op, ranks)))
        .filter_map(|(op, ranks)| collective(&lines, op, ranks))
        .collect();
    if rows.is_empty() && collectives.is_empty() {
        return Err(Failure(format!("nothing between hosts was recorded in the {state} state")));
    }
    let mut text =
        String::from("| | Shoal | best peer | share of its time | at most |\n|---|---|---|---|---|\n");
    text.push_str(&rows.concat());
    text.push_str(
        "\n| | below 10 B | 100 B | 1 kB | 10 kB | 100 kB | 1 MB | 10 MB | 100 MB | worst size |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    text.push_str(&collectives.concat());
    Ok(text)
}

/// This library's line of a case, and its peers of the same run: of several runs that which saw the most peers in one
/// state of the machine, and of those the newest.
fn case<'a>(
    lines: &'a [Line],
    (op, ranks, bytes, messages): (&str, usize, usize, usize),
) -> Option<(&'a Line, Vec<&'a Line>)> {
    let is_case = |line: &&Line| {
        line.op == op && line.ranks == ranks && line.bytes == bytes && line.messages == messages
    };
    let ours = (0..lines.len()).filter(|at| is_case(&&lines[*at]) && lines[*at].contender == "shoal");
    let runs = ours.map(|at| {
        let peers = lines[at + 1..].iter().take_while(|line| is_case(line) && line.contender != "shoal");
        (&lines[at], peers.collect::<Vec<_>>())
    });
    runs.max_by_key(|(_, peers)| peers.len())
}

fn best<'a>(peers: impl IntoIterator<Item = &'a Line>) -> Option<&'a Line> {
    peers.into_iter().min_by(|one, other| one.time_us.total_cmp(&other.time_us))
}

fn row(lines: &[Line], &(words, op, bytes, messages, whom, most): &Named) -> Option<String> {
    let (ours, peers) = case(lines, (op, 2, bytes, messages))?;
    let packed = case(lines, ("packed", 2, bytes, messages)).map(|(_, peers)| peers).unwrap_or_default();
    let peer = match whom {
        Whom::Libraries => best(peers.into_iter().filter(|peer| !peer.contender.starts_with("ucx"))),
        Whom::All => best(peers),
        Whom::Packed => best(packed),
        Whom::Perftest => best(peers.into_iter().filter(|peer| peer.contender == "ucx-perftest")),
    }?;
    let share = ours.time_us / peer.time_us;
    let band = ours.aa_band.map_or(String::new(), |band| format!(" (a/a {:.0}%)", 100.0 * band));
    Some(format!(
        "| {words} | {} | {} ({}) | {}{band} | {most:.2} |\n",
        digits(ours.time_us),
        digits(peer.time_us),
        peer.contender,
        marked(share, most),
    ))
}

/// What the small messages of a stage boundary add.
fn boundaries(lines: &[Line]) -> Vec<String> {
    let rows = [256, 4096, 65536].into_iter().filter_map(|bytes| {
        let (ours, peers) = case(lines, ("neox-t2", 2, bytes, 3))?;
        let added_us = ours.added_us?;
        let peer = peers.into_iter().filter(|peer| peer.added_us.is_some());
        let peer = peer.min_by(|one, other| one.added_us.unwrap_or(0.0).total_cmp(&other.added_us.unwrap_or(0.0)));
        let theirs = peer.map_or("-".to_owned(), |peer| {
            format!("{} ({})", digits(peer.added_us.unwrap_or(0.0)), peer.contender)
        });
        let size = crate::cli::bench::size::display(bytes);
        let mark = if added_us > ADDED_US_MAX { "**" } else { "" };
        Some(format!(
            "| what the small messages of a stage boundary add to data of {size}B | {mark}{}{mark} | {theirs} | - | {ADDED_US_MAX} us |\n",
            digits(added_us),
        ))
    });
    rows.collect()
}

/// By decade of bytes, the geometric mean of this library's times over the best peer's.
fn collective(lines: &[Line], op: &str, ranks: usize) -> Option<String> {
    let mut sizes: Vec<usize> =
        lines.iter().filter(|line| line.op == op && line.ranks == ranks).map(|line| line.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let shares: Vec<(usize, f64)> = sizes
        .into_iter()
        .filter_map(|bytes| {
            let (ours, peers) = case(lines, (op, ranks, bytes, 1))?;
            Some((bytes, ours.time_us / best(peers)?.time_us))
        })
        .collect();
    let (worst_bytes, worst) = shares.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1))?;
    let decades = (0..8).map(|decade| {
        let own = shares.iter().filter(|(bytes, _)| bytes.checked_ilog10() == Some(decade));
        let logs: Vec<f64> = own.map(|(_, share)| share.ln()).collect();
        if logs.is_empty() {
            return "-".to_owned();
        }
        marked((logs.iter().sum::<f64>() / logs.len() as f64).exp(), DECADE_MAX)
    });
    let decades: Vec<String> = decades.collect();
    Some(format!(
        "| {op}, 2 hosts with {} | {} | {} at {}B |\n",
        if ranks == 2 { "1 rank" } else { "2 ranks" },
        decades.join(" | "),
        marked(worst, POINT_MAX),
        crate::cli::bench::size::display(worst_bytes),
    ))
}

/// A share; what is more than it should be stands out.
fn marked(share: f64, most: f64) -> String {
    if share > most { format!("**{share:.2}**") } else { format!("{share:.2}") }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::line;
    use super::*;

    fn between(line: String) -> String {
        line.replacen('{', "{\"hosts\":2,", 1)
    }

    #[test]
    fn figures_are_shares_of_the_best_peers_time() {
        let lines = [
            line("sendrecv", "shoal", 8, 9.0),
            line("sendrecv", "ucx", 8, 1.0),
            line("sendrecv", "mpich", 8, 10.0),
            line("sendrecv", "openmpi", 8, 12.0),
            line("sendrecv", "ucx-perftest", 8, 6.0),
            line("alltoall", "shoal", 8, 1.0),
            line("alltoall", "mpich", 8, 8.0),
            line("alltoall", "shoal", 8, 1.0),
            line("alltoall", "mpich", 8, 2.0),
            line("alltoall", "shoal", 16, 4.0),
            line("alltoall", "mpich", 16, 2.0),
            line("alltoall", "shoal", 64, 4.5),
            line("alltoall", "mpich", 64, 9.0),
            line("alltoall", "openmpi", 64, 5.0),
        ];
        let messages_of_one = |line: String| between(line).replace("\"messages\":64", "\"messages\":1");
        let record = lines.map(messages_of_one).join("\n");
        let text = of(&record, "near").expect("a table");
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[2], "| send and receive, one way, 8 B | 9.00 | 10 (mpich) | 0.90 | 1.00 |");
        assert_eq!(
            rows[3],
            "| send and receive, one way, 8 B | 9.00 | 6.00 (ucx-perftest) | **1.50** | 1.20 |"
        );
        let last =
            "| alltoall, 2 hosts with 1 rank | 0.50 | **1.34** | - | - | - | - | - | - | **2.00** at 16B |";
        assert_eq!(rows.last(), Some(&last));
        assert!(of(&record, "far").is_err() && of("x", "near").is_err());
    }
}
