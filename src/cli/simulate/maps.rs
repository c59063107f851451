//! Regions of victory: a letter for every winner, and the picture.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::calls::json;
use super::options::{Format, Options};
use super::{draw, picture, words};
use crate::cli::Failure;
use crate::cli::bench::size;
use crate::simulate::regions::{Cell, cell};
use crate::simulate::{Machine, mix};

/// From one size to the next.
const FACTOR: u64 = 4;
const LEAST_BYTES: u64 = 64;
const MOST_BYTES: u64 = 64 << 20;

#[derive(Serialize)]
struct Line<'line> {
    op: &'line str,
    ranks: u32,
    bytes: u64,
    winner: &'static str,
    time_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    second: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slower: Option<f64>,
}

/// 2, 3, 4, 6, 8, 12, ...: powers of two and what lies between them.
fn ranks(most: u32) -> Vec<u32> {
    let powers = (1..21).map(|power| 1_u32 << power);
    let both = powers.flat_map(|power| [power, power / 2 * 3]);
    both.filter(|ranks| *ranks <= most).collect()
}

fn sizes() -> Vec<u64> {
    std::iter::successors(Some(LEAST_BYTES), |bytes| Some(bytes * FACTOR))
        .take_while(|bytes| *bytes <= MOST_BYTES)
        .collect()
}

pub(super) fn run(options: &Options, machine: &Machine) -> Result<bool, Failure> {
    let op = options.op.as_deref().unwrap_or_default();
    let kind = mix::kind(op).map_err(Failure)?;
    let (ranks, sizes) = (ranks(options.ranks), sizes());
    let mut cells: Vec<Cell> = Vec::new();
    if options.format == Format::Table {
        put_line!("# {op}: who is fastest, by ranks and bytes; {}", words(machine));
        let heads: Vec<_> =
            sizes.iter().map(|bytes| format!("{:>13}", size::display(*bytes as usize))).collect();
        put_line!("#  ranks{}", heads.concat());
    }
    for &ranks in &ranks {
        let row: Vec<Option<Cell>> = sizes.iter().map(|&bytes| cell(machine, kind, ranks, bytes)).collect();
        match options.format {
            Format::Table => {
                let name = |cell: &Option<Cell>| cell.as_ref().map_or("-", |cell| cell.winner.name());
                let names: Vec<_> = row.iter().map(|cell| format!("{:>13}", name(cell))).collect();
                put_line!("{ranks:>8}{}", names.concat());
            }
            Format::Json => {
                for cell in row.iter().flatten() {
                    put_line!("{}", json(&line(op, cell))?);
                }
            }
        }
        cells.extend(row.into_iter().flatten());
    }
    if let Some(output) = &options.output {
        draw(&picture::regions(op, &words(machine), &ranks, &sizes, &cells), output)?;
    }
    Ok(!cells.is_empty())
}

fn line<'line>(op: &'line str, cell: &Cell) -> Line<'line> {
    Line {
        op,
        ranks: cell.ranks,
        bytes: cell.bytes,
        winner: cell.winner.name(),
        time_us: cell.time_ns / 1000.0,
        second: cell.second.map(|(algorithm, _)| algorithm.name()),
        slower: cell.second.map(|(_, ratio)| ratio),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_powers_of_two_and_between() {
        assert_eq!(ranks(16), [2, 3, 4, 6, 8, 12, 16]);
        assert_eq!((sizes()[0], *sizes().last().unwrap()), (64, 64 << 20));
    }
}
