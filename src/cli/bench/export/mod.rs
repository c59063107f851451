//! How results leave the command: one exporter a file.
#![forbid(unsafe_code)]

mod csv;
pub(crate) mod json;
mod table;

use std::io::{self, Write};

use super::measure::Report;
use super::options::Format;
use super::row::Row;

/// Writes results as they come.
pub(crate) trait Exporter {
    /// A result.
    fn row(&mut self, row: &Row) -> io::Result<()>;
    /// A sentence about the run.
    fn note(&mut self, text: &str) -> io::Result<()>;
    /// Nothing more will come.
    fn finish(&mut self) -> io::Result<()>;
}

impl dyn Exporter + '_ {
    /// Either.
    pub(crate) fn report(&mut self, report: &Report) -> io::Result<()> {
        match report {
            Report::Row(row) => self.row(row),
            Report::Note(text) => self.note(text),
        }
    }
}

/// The exporter of a format.
pub(crate) fn exporter<'out>(format: Format, out: impl Write + 'out) -> Box<dyn Exporter + 'out> {
    match format {
        Format::Table => Box::new(table::Table::new(out)),
        Format::Json => Box::new(json::Json::new(out)),
        Format::Csv => Box::new(csv::Csv::new(out)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A result out of place, and its twin in place.
    pub(crate) fn rows() -> [Row; 2] {
        let row = Row {
            library: "libshoal.so 2.28.9".into(),
            op: "allreduce".into(),
            data_type: "float".into(),
            redop: "sum".into(),
            root: -1,
            ranks: 2,
            bytes: 1024,
            count: 256,
            messages: 1,
            time_us: 0.512,
            time_us_p99: 0.75,
            algbw_gbps: 2.0,
            busbw_gbps: 2.0,
            wrong: Some(0),
            iterations: 100,
            ..Row::default()
        };
        let twin = Row { in_place: true, time_us: 0.256, algbw_gbps: 4.0, busbw_gbps: 4.0, ..row.clone() };
        [row, twin]
    }

    pub(crate) fn export(format: Format, rows: &[Row]) -> String {
        let mut out = Vec::new();
        let mut exporter = exporter(format, &mut out);
        exporter.note("a note").unwrap();
        rows.iter().for_each(|row| exporter.row(row).unwrap());
        exporter.finish().unwrap();
        drop(exporter);
        String::from_utf8(out).unwrap()
    }
}
