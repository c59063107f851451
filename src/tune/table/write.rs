//! Writes a table in the form that [`read`](super::read) knows.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::read::device_name;
use super::{Cores, Point, Row, Run, Span, Stock, Table, TypeClass, operation_name};

/// The text of a table; its name and its lines are not in it.
#[must_use]
pub fn write(table: &Table) -> String {
    let mut text = String::new();
    table.runs.iter().for_each(|run| write_run(&mut text, run));
    table.rows.iter().for_each(|row| write_row(&mut text, row));
    table.stock.iter().for_each(|stock| write_stock(&mut text, stock));
    text
}

fn begin(text: &mut String, name: &str) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}[[{name}]]");
}

/// A text as files have it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn put(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name} = {}", quoted(value));
}

fn put_span(text: &mut String, name: &str, span: Span) {
    let _ = match span {
        Span::ANY => Ok(()),
        Span { from, to } if from == to => writeln!(text, "{name} = {from}"),
        Span { from, to: u64::MAX } => writeln!(text, "{name} = [{from}, \"any\"]"),
        Span { from, to } => writeln!(text, "{name} = [{from}, {to}]"),
    };
}

fn write_run(text: &mut String, run: &Run) {
    begin(text, "run");
    put(text, "name", &run.name);
    put(text, "machine", &run.machine);
    put(text, "date", &run.date);
    put(text, "command", &run.command);
    put(text, "library", &run.library);
    if !run.state.is_empty() {
        put(text, "state", &run.state);
    }
}

fn write_row(text: &mut String, row: &Row) {
    begin(text, "row");
    if !row.run.is_empty() {
        put(text, "run", &row.run);
    }
    put(text, "operation", &operation_name(row.key.operation));
    put_span(text, "ranks", row.key.ranks);
    put_span(text, "hosts", row.key.hosts);
    put_span(text, "ranks_per_host", row.key.ranks_per_host);
    row.key.cores.map(Cores::name).into_iter().for_each(|name| put(text, "cores", name));
    row.key.types.map(TypeClass::name).into_iter().for_each(|name| put(text, "types", name));
    row.key.device.map(device_name).into_iter().for_each(|name| put(text, "device", name));
    put_span(text, "bytes", row.key.bytes);
    put(text, "algorithm", row.choice.algorithm.name());
    if let Some(bytes) = row.choice.piece_bytes {
        let _ = writeln!(text, "piece_bytes = {bytes}");
    }
    if !row.points.is_empty() {
        text.push_str("points = [\n");
        row.points.iter().for_each(|point| write_point(text, point));
        text.push_str("]\n");
    }
}

fn write_point(text: &mut String, point: &Point) {
    let _ = write!(text, "  {{ bytes = {}", point.bytes);
    for sample in &point.samples {
        let [median, low, high] = [sample.median_us, sample.low_us, sample.high_us].map(decimal);
        let _ = write!(text, ", {} = [{median}, {low}, {high}]", sample.choice);
    }
    text.push_str(" },\n");
}

/// Four digits that count: more say nothing.
fn decimal(us: f64) -> String {
    let digits = (3.0 - us.abs().max(1e-3).log10().floor()).clamp(0.0, 6.0);
    let rounded = format!("{us:.*}", digits as usize);
    if rounded.contains('.') {
        rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        rounded
    }
}

fn write_stock(text: &mut String, stock: &Stock) {
    begin(text, "stock");
    put(text, "operation", &operation_name(stock.operation));
    put_span(text, "bytes", stock.bytes);
    put_span(text, "ranks", stock.ranks);
    put_span(text, "hosts", stock.hosts);
    put(text, "algorithm", &stock.algorithm);
    put(text, "protocol", &stock.protocol);
    let mut number = |name: &str, value: Option<u32>| {
        value.map_or(Ok(()), |value| writeln!(text, "{name} = {value}")).unwrap_or_default();
    };
    number("channels", stock.channels);
    number("pipelined", stock.pipelined);
    if let Some(registered) = stock.registered {
        let _ = writeln!(text, "registered = {registered}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::super::{Choice, Key, Sample};
    use super::*;
    use crate::op::Kind;
    use crate::schedule::Algorithm;
    use crate::topology::DeviceKind;
    use proptest::prelude::*;

    fn spans() -> impl Strategy<Value = Span> {
        (0_u64..100, 0_u64..100, 0..4).prop_map(|(from, more, kind)| match kind {
            0 => Span::ANY,
            1 => Span::one(from),
            2 => Span { from, to: u64::MAX },
            _ => Span { from, to: from + more },
        })
    }

    fn rows() -> impl Strategy<Value = Row> {
        let key = (0_usize..8, spans(), spans(), spans(), spans(), 0_usize..3, 0_usize..3, 0_usize..3);
        (key, 0_usize..14, proptest::option::of(12_u32..31), 0_u64..3).prop_filter_map(
            "an algorithm without a form",
            |(
                (kind, ranks, hosts, ranks_per_host, bytes, cores, types, device),
                algorithm,
                piece,
                points,
            )| {
                let operation = Kind::ALL[kind];
                let algorithm = Algorithm::ALL[algorithm];
                let choice = Choice { algorithm, piece_bytes: piece.map(|shift| 1 << shift) };
                let sample = Sample { choice, median_us: 1.25, low_us: 0.5, high_us: 1234.0 };
                let points = (0..points).map(|bytes| Point { bytes, samples: vec![sample] }).collect();
                let key = Key {
                    operation,
                    ranks,
                    hosts,
                    ranks_per_host,
                    cores: [None, Some(Cores::Own), Some(Cores::Shared)][cores],
                    types: if operation.reduces() {
                        [None, Some(TypeClass::Native), Some(TypeClass::Narrow)][types]
                    } else {
                        None
                    },
                    device: [None, Some(DeviceKind::Host), Some(DeviceKind::Cuda)][device],
                    bytes,
                };
                let row = Row { line: 0, run: "r \"1\"\\".into(), key, choice, points };
                algorithm.serves(operation).then_some(row)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in proptest::collection::vec(rows(), 0..6)) {
            let run = Run { name: "r \"1\"\\".into(), machine: "m".into(), state: "near".into(), ..Run::default() };
            let table = Table { name: "t".into(), runs: vec![run], rows, ..Table::default() };
            let mut back = read("t", &write(&table)).unwrap();
            back.rows.iter_mut().for_each(|row| row.line = 0);
            prop_assert_eq!(back, table);
        }
    }

    #[test]
    fn times_have_four_digits_that_count() {
        for (us, text) in [
            (0.123_456, "0.1235"),
            (12.5, "12.5"),
            (1_234.56, "1235"),
            (0.0, "0"),
            (1.0, "1"),
            (100.0, "100"),
        ] {
            assert_eq!(decimal(us), text);
        }
    }
}
