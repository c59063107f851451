//! The columns of nccl-tests: out of place and in place side by side.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use super::super::row::Row;
use super::Exporter;

pub(super) struct Table<W> {
    out: W,
    /// The operation, ranks and messages of the block that is being printed.
    block: Option<(String, usize, usize)>,
    /// A row out of place whose twin may still come.
    waiting: Option<Row>,
    wrong: u64,
    unchecked: bool,
    bus_gbps: Vec<f64>,
}

impl<W: Write> Table<W> {
    pub(super) fn new(out: W) -> Self {
        Table { out, block: None, waiting: None, wrong: 0, unchecked: false, bus_gbps: Vec::new() }
    }

    fn header(&mut self, row: &Row) -> io::Result<()> {
        let block = (row.op.clone(), row.ranks, row.messages);
        if self.block.as_ref() == Some(&block) {
            return Ok(());
        }
        self.block = Some(block);
        let messages = if row.messages > 1 {
            format!(", {} messages to each peer", row.messages)
        } else {
            String::new()
        };
        writeln!(self.out, "#\n# {} on {} ranks{messages}", row.op, row.ranks)?;
        writeln!(self.out, "# {:>40}  {:^49}  {:^49}", "", "out of place", "in place")?;
        let side = format!("{:>10} {:>10} {:>8} {:>8} {:>9}", "time", "p99", "algbw", "busbw", "#wrong");
        let common = format!("{:>11} {:>11} {:>8} {:>6} {:>4}", "size", "count", "type", "redop", "root");
        let extra = if row.floor_us.is_some() { "     floor  by      ratio" } else { "" };
        writeln!(self.out, "#{common}  {side}  {side}{extra}")?;
        let units = format!("{:>10} {:>10} {:>8} {:>8} {:>9}", "(us)", "(us)", "(GB/s)", "(GB/s)", "");
        writeln!(self.out, "#{:>11} {:>11} {:>20}  {units}  {units}", "(B)", "(elements)", "")
    }

    fn line(&mut self, out_of_place: Option<&Row>, in_place: Option<&Row>) -> io::Result<()> {
        let Some(row) = out_of_place.or(in_place) else { return Ok(()) };
        self.header(row)?;
        let common = format!(
            "{:>11} {:>11} {:>8} {:>6} {:>4}",
            row.bytes, row.count, row.data_type, row.redop, row.root
        );
        let floor = match (row.floor_us, row.floor_ratio()) {
            (Some(floor), Some(ratio)) => {
                format!(
                    " {:>9} {:<7}{ratio:>6.2}",
                    time(floor),
                    format!(" {}", row.floor_by.as_deref().unwrap_or(""))
                )
            }
            _ => String::new(),
        };
        let added = match (row.added_us, row.added_band_us) {
            (Some(added), Some(band)) => format!("  small ones add {added:.3} (a/a {band:.3})"),
            _ => String::new(),
        };
        writeln!(self.out, " {common}  {}  {}{floor}{added}", side(out_of_place), side(in_place))?;
        self.out.flush()
    }

    fn flush_waiting(&mut self) -> io::Result<()> {
        match self.waiting.take() {
            Some(row) => self.line(Some(&row), None),
            None => Ok(()),
        }
    }
}

fn side(row: Option<&Row>) -> String {
    let Some(row) = row else {
        return format!("{:>10} {:>10} {:>8} {:>8} {:>9}", "-", "-", "-", "-", "-");
    };
    let wrong = row.wrong.map_or("N/A".to_owned(), |wrong| wrong.to_string());
    let (mean, p99) = (time(row.time_us), time(row.time_us_p99));
    format!("{mean:>10} {p99:>10} {:>8.2} {:>8.2} {wrong:>9}", row.algbw_gbps, row.busbw_gbps)
}

/// Four digits that count.
fn time(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.3}"),
        us if us < 100.0 => format!("{us:.2}"),
        us if us < 1000.0 => format!("{us:.1}"),
        us => format!("{us:.0}"),
    }
}

/// Whether `twin` is the same case in place.
fn is_twin(row: &Row, twin: &Row) -> bool {
    let key = |row: &Row| (row.op.clone(), row.data_type.clone(), row.redop.clone(), row.count, row.ranks);
    twin.in_place && key(row) == key(twin)
}

impl<W: Write> Exporter for Table<W> {
    fn row(&mut self, row: &Row) -> io::Result<()> {
        self.bus_gbps.push(row.busbw_gbps);
        match row.wrong {
            Some(wrong) => self.wrong += wrong,
            None => self.unchecked = true,
        }
        match self.waiting.take() {
            Some(waiting) if is_twin(&waiting, row) => return self.line(Some(&waiting), Some(row)),
            Some(waiting) => self.line(Some(&waiting), None)?,
            None => {}
        }
        if row.in_place {
            return self.line(None, Some(row));
        }
        self.waiting = Some(row.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        self.flush_waiting()?;
        writeln!(self.out, "# {text}")
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush_waiting()?;
        if !self.bus_gbps.is_empty() {
            let mean = self.bus_gbps.iter().sum::<f64>() / self.bus_gbps.len() as f64;
            let verdict = match (self.unchecked, self.wrong) {
                (true, 0) => "not checked",
                (_, 0) => "OK",
                _ => "FAILED",
            };
            writeln!(self.out, "# Wrong elements: {} {verdict}", self.wrong)?;
            writeln!(self.out, "# Average bus bandwidth: {mean:.3} GB/s")?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{export, rows};
    use super::*;
    use crate::cli::bench::options::Format;

    fn lines(rows: &[Row]) -> Vec<String> {
        export(Format::Table, rows).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn twins_share_a_line() {
        let found = lines(&rows());
        assert_eq!(found.len(), 1);
        let words: Vec<&str> = found[0].split_whitespace().collect();
        let expected = "1024 256 float sum -1 0.512 0.750 2.00 2.00 0 0.256 0.750 4.00 4.00 0";
        assert_eq!(words, expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn lonely_rows_have_a_line_each() {
        let [out, twin] = rows();
        let larger = Row { count: 512, bytes: 2048, ..out.clone() };
        assert_eq!(lines(&[out.clone(), larger]).len(), 2);
        assert!(lines(std::slice::from_ref(&twin))[0].contains(" - "));
        assert_eq!(lines(&[out, Row { count: 1, ..twin }]).len(), 2);
    }

    #[test]
    fn what_small_messages_add_stands_behind_the_row() {
        let [out, _] = rows();
        let row = Row { added_us: Some(0.15), added_band_us: Some(0.02), ..out };
        assert!(lines(&[row])[0].ends_with("small ones add 0.150 (a/a 0.020)"));
    }

    #[test]
    fn the_end_says_whether_all_was_right() {
        let [out, twin] = rows();
        assert!(export(Format::Table, &rows()).contains("Wrong elements: 0 OK"));
        assert!(export(Format::Table, &[Row { wrong: Some(3), ..out.clone() }]).contains("3 FAILED"));
        assert!(export(Format::Table, &[out, Row { wrong: None, ..twin }]).contains("not checked"));
    }

    #[test]
    fn floors_and_blocks_have_their_columns() {
        let [out, _] = rows();
        let row = Row { floor_us: Some(0.25), floor_by: Some("ring".into()), ..out.clone() };
        let text = export(Format::Table, &[row, Row { op: "reduce".into(), root: 0, ..out }]);
        assert!(text.contains("0.250  ring"), "{text}");
        assert!(text.contains("2.05"));
        assert!(text.contains("# allreduce on 2 ranks") && text.contains("# reduce on 2 ranks"));
    }
}
