//! Comma separated values with a header line; notes are comments.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use super::super::row::Row;
use super::Exporter;

const HEADER: &str = "library,op,type,redop,root,ranks,bytes,count,messages,in_place,time_us,time_us_p99,\
                      algbw_gbps,busbw_gbps,wrong,iterations,floor_us,floor_by,added_us,added_band_us";

pub(super) struct Csv<W> {
    out: W,
    started: bool,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> Self {
        Csv { out, started: false }
    }
}

/// Quotes what holds a separator.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

impl<W: Write> Exporter for Csv<W> {
    fn row(&mut self, row: &Row) -> io::Result<()> {
        if !self.started {
            self.started = true;
            writeln!(self.out, "{HEADER}")?;
        }
        let fields = [
            field(&row.library),
            field(&row.op),
            field(&row.data_type),
            field(&row.redop),
            row.root.to_string(),
            row.ranks.to_string(),
            row.bytes.to_string(),
            row.count.to_string(),
            row.messages.to_string(),
            row.in_place.to_string(),
            format!("{:.4}", row.time_us),
            format!("{:.4}", row.time_us_p99),
            format!("{:.4}", row.algbw_gbps),
            format!("{:.4}", row.busbw_gbps),
            row.wrong.map(|wrong| wrong.to_string()).unwrap_or_default(),
            row.iterations.to_string(),
            row.floor_us.map(|floor| format!("{floor:.4}")).unwrap_or_default(),
            row.floor_by.as_deref().map(field).unwrap_or_default(),
            row.added_us.map(|added| format!("{added:.4}")).unwrap_or_default(),
            row.added_band_us.map(|band| format!("{band:.4}")).unwrap_or_default(),
        ];
        writeln!(self.out, "{}", fields.join(","))?;
        self.out.flush()
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "# {text}")
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
    fn every_line_has_every_field() {
        let text = export(Format::Csv, &rows());
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 3);
        for line in &lines {
            assert_eq!(line.split(',').count(), HEADER.split(',').count(), "{line}");
        }
        assert!(lines[2].contains(",true,0.2560,"));
    }

    #[test]
    fn separators_are_quoted() {
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(field("plain"), "plain");
    }
}
