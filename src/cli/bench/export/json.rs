//! One JSON object a line: results, and notes as `{"note": ...}`.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::super::measure::Report;
use super::super::row::Row;
use super::Exporter;

#[derive(Serialize, Deserialize)]
struct Note {
    note: String,
}

/// Reads a line back; `None` if it is none of ours.
pub(crate) fn parse(line: &str) -> Option<Report> {
    let row = serde_json::from_str::<Row>(line).map(|row| Report::Row(Box::new(row)));
    row.or_else(|_| serde_json::from_str::<Note>(line).map(|note| Report::Note(note.note))).ok()
}

pub(super) struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Json { out }
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        writeln!(self.out, "{text}")?;
        // A reader at the other end of a pipe waits for each result.
        self.out.flush()
    }
}

impl<W: Write> Exporter for Json<W> {
    fn row(&mut self, row: &Row) -> io::Result<()> {
        self.line(row)
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        self.line(&Note { note: text.to_owned() })
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{export, rows};
    use super::*;
    use crate::cli::bench::options::Format;

    #[test]
    fn what_is_written_is_read() {
        let text = export(Format::Json, &rows());
        let reports: Vec<Report> = text.lines().map(|line| parse(line).unwrap()).collect();
        let [Report::Note(note), Report::Row(one), Report::Row(two)] = reports.as_slice() else {
            panic!("{text}");
        };
        assert_eq!((note.as_str(), [(**one).clone(), (**two).clone()]), ("a note", rows()));
        assert!(parse("warning: something else").is_none());
        assert!(parse("{}").is_none());
    }

    #[test]
    fn the_promised_fields_are_there() {
        let text = export(Format::Json, &rows()[..1]);
        let value: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        for field in [
            "library", "op", "type", "redop", "ranks", "bytes", "count", "in_place", "time_us",
            "time_us_p99", "algbw_gbps", "busbw_gbps", "wrong",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert!(value.get("floor_us").is_none());
    }
}
