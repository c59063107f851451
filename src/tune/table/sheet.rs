//! The table of stock NCCL's example tuner plugin: comma-separated, a line for each choice.
//!
//! ```text
//! collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff
//! ```
//! The last two fields may be missing; -1 stands for any.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::{Span, Stock, operation_name};
use crate::op::Kind;

/// The operations that NCCL asks a tuner about, by its numbers.
pub const OPERATIONS: [Kind; 5] =
    [Kind::Broadcast, Kind::Reduce, Kind::AllGather, Kind::ReduceScatter, Kind::AllReduce];
/// NCCL's algorithms, by its numbers.
pub const ALGORITHMS: [&str; 7] =
    ["tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat"];
/// NCCL's protocols, by its numbers.
pub const PROTOCOLS: [&str; 3] = ["ll", "ll128", "simple"];

/// By this number files say that there is no upper bound.
const ALL_BYTES: u64 = 0xffff_ffff;
const HEADER: &str =
    "collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff";

/// The choices of a sheet.
///
/// # Errors
/// The first thing that is wrong, as `name:line: text`.
pub fn import(name: &str, text: &str) -> Result<Vec<Stock>, String> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("collective_type") {
            continue;
        }
        let row = row(line).map_err(|problem| format!("{name}:{}: {problem}", number + 1))?;
        rows.push(Stock { line: u32::try_from(number + 1).unwrap_or(u32::MAX), ..row });
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Stock, String> {
    let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
    let (8..=10) = fields.len() else {
        return Err(format!("expected 8 to 10 fields, {HEADER}, found {}", fields.len()));
    };
    let optional = |at: usize| fields.get(at).copied().unwrap_or("-1");
    let operation = OPERATIONS.into_iter().find(|kind| operation_name(*kind) == fields[0]);
    let operation = operation.ok_or_else(|| {
        let names = OPERATIONS.map(operation_name).join(", ");
        format!("expected a collective_type of {names}, found {:?}", fields[0])
    })?;
    let bytes = Span { from: whole("min_bytes", fields[1])?, to: whole("max_bytes", fields[2])? };
    if bytes.from > bytes.to {
        return Err(format!("min_bytes is {} and max_bytes is {}", bytes.from, bytes.to));
    }
    let ranks = any_or("nRanks", optional(7))?;
    let hosts = any_or("nNodes", optional(6))?;
    let registered = match optional(9) {
        "-1" => None,
        "0" => Some(false),
        "1" => Some(true),
        other => return Err(format!("expected a regBuff of 0, 1 or -1, found {other:?}")),
    };
    Ok(Stock {
        line: 0,
        operation,
        bytes: if bytes.to == ALL_BYTES { Span { to: u64::MAX, ..bytes } } else { bytes },
        ranks: ranks.map_or(Span::ANY, |number| Span::one(number.into())),
        hosts: hosts.map_or(Span::ANY, |number| Span::one(number.into())),
        algorithm: one_of("algorithm", fields[3], &ALGORITHMS)?,
        protocol: one_of("protocol", fields[4], &PROTOCOLS)?,
        channels: any_or("channels", fields[5])?,
        pipelined: any_or("numPipeOps", optional(8))?,
        registered,
    })
}

fn whole(name: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a number of bytes as {name}, found {text:?}"))
}

fn any_or(name: &str, text: &str) -> Result<Option<u32>, String> {
    let number = text.parse::<i32>().ok().filter(|number| *number == -1 || *number > 0);
    let number =
        number.ok_or_else(|| format!("expected a number from 1, or -1, as {name}, found {text:?}"))?;
    Ok(u32::try_from(number).ok())
}

fn one_of(name: &str, text: &str, known: &[&str]) -> Result<String, String> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("expected one of {} as {name}, found {text:?}", known.join(", ")))
}

/// The sheet of the choices, and how many of them it cannot say: those for a range of ranks or hosts.
#[must_use]
pub fn export(rows: &[Stock]) -> (String, usize) {
    let mut text = format!("# {HEADER}\n");
    let mut left_out = 0;
    for row in rows {
        let (Some(ranks), Some(hosts)) = (one(row.ranks), one(row.hosts)) else {
            left_out += 1;
            continue;
        };
        let signed = |number: Option<u32>| number.map_or(-1, i64::from);
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{hosts},{ranks},{},{}",
            operation_name(row.operation),
            row.bytes.from,
            row.bytes.to.min(ALL_BYTES),
            row.algorithm,
            row.protocol,
            signed(row.channels),
            signed(row.pipelined),
            row.registered.map_or(-1, i32::from),
        );
    }
    (text, left_out)
}

/// The one number of a span, -1 for any.
fn one(span: Span) -> Option<i64> {
    match span {
        Span::ANY => Some(-1),
        Span { from, to } if from == to => i64::try_from(from).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHEET: &str = "collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks\n\
        # a comment\n\nallreduce,0,65536,tree,simple,2,1,-1,-1,1\nallreduce,65537,4294967295,ring,ll128,-1,4,32,4\n\
        broadcast,0,32768,pat,ll,-1,1,-1\n";

    #[test]
    fn sheets_are_read_and_written() {
        let rows = import("s", SHEET).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[0].line, rows[0].registered, rows[0].channels), (4, Some(true), Some(2)));
        assert_eq!((rows[1].bytes.to, rows[1].pipelined, rows[1].ranks), (u64::MAX, Some(4), Span::one(32)));
        let (text, left_out) = export(&rows);
        assert_eq!(left_out, 0);
        let mut back = import("s", &text).unwrap();
        back.iter_mut().zip(&rows).for_each(|(back, row)| back.line = row.line);
        assert_eq!(back, rows);
    }

    #[test]
    fn ranges_cannot_be_said_in_a_sheet() {
        let mut rows = import("s", SHEET).unwrap();
        rows[0].ranks = Span { from: 2, to: 4 };
        assert_eq!(export(&rows).1, 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (line, words) in [
            ("allreduce,0,1,tree,ll,1,1", "s:1: expected 8 to 10 fields"),
            ("alltoall,0,1,tree,ll,1,1,1", "s:1: expected a collective_type of broadcast"),
            ("allreduce,0,1,bush,ll,1,1,1", "s:1: expected one of tree, ring"),
            ("allreduce,0,1,tree,fast,1,1,1", "s:1: expected one of ll, ll128, simple"),
            ("allreduce,x,1,tree,ll,1,1,1", "s:1: expected a number of bytes as min_bytes"),
            ("allreduce,2,1,tree,ll,1,1,1", "s:1: min_bytes is 2"),
            ("allreduce,0,1,tree,ll,0,1,1", "s:1: expected a number from 1, or -1, as channels"),
            ("allreduce,0,1,tree,ll,1,1,1,-1,2", "s:1: expected a regBuff"),
        ] {
            let error = import("s", line).expect_err(line);
            assert!(error.starts_with(words), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(text in "(allreduce|,|0|-1|tree|ll|\n|x){0,30}") {
            let _ = import("s", &text);
        }
    }
}
