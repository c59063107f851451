//! What was measured so far: one JSON object a line, added to while a run goes on.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::points::MeasuredPoint;
use super::{Options, machine_name};
use crate::cli::Failure;
use crate::cli::peers::date;
use crate::tune::race::{Race, TURNS_MAX};
use crate::tune::table::{Choice, Sample, Site, operation_name};

/// The first line: of which run the others are. Another run does not go on with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) machine: String,
    pub(super) library: String,
    pub(super) date: String,
    pub(super) ranks: u32,
    pub(super) hosts: u32,
    /// The sizes of pieces that were tried as well.
    pub(super) pieces: Vec<u32>,
    #[serde(rename = "type")]
    pub(super) data_type: String,
    pub(super) command: String,
}

impl Header {
    pub(super) fn here(options: &Options, site: &Site) -> Header {
        let data_type = options.data_type.name();
        let words = std::iter::once("shoal".to_owned()).chain(std::env::args().skip(1));
        Header {
            machine: machine_name(),
            library: crate::version().to_owned(),
            date: today(),
            ranks: site.ranks,
            hosts: site.hosts,
            pieces: options.pieces.clone(),
            data_type: data_type.to_owned(),
            command: words.collect::<Vec<_>>().join(" "),
        }
    }

    /// Whether a run with this header goes on where that with the other ended.
    fn goes_on(&self, other: &Header) -> bool {
        let without_command = |header: &Header| Header { command: String::new(), ..header.clone() };
        without_command(self) == without_command(other)
    }
}

/// The day, as year-month-day.
pub(super) fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(now / 86_400)
}

/// One point, as far as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) op: String,
    pub(super) bytes: u64,
    pub(super) turns: usize,
    pub(super) sure: bool,
    /// Name, median, lower and upper quartile in microseconds.
    samples: Vec<(String, f64, f64, f64)>,
}

impl Entry {
    pub(super) fn of(point: &MeasuredPoint, race: &Race) -> Entry {
        let sample =
            |sample: Sample| (sample.choice.to_string(), sample.median_us, sample.low_us, sample.high_us);
        Entry {
            op: operation_name(point.operation),
            bytes: point.bytes,
            turns: race.turns(),
            sure: race.is_sure(),
            samples: race.samples().into_iter().map(sample).collect(),
        }
    }

    pub(super) fn line(&self) -> String {
        format!("{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// What it knows of every candidate.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let sample = |(name, median_us, low_us, high_us): &(String, f64, f64, f64)| {
            let choice = Choice::named(name).ok()?;
            Some(Sample { choice, median_us: *median_us, low_us: *low_us, high_us: *high_us })
        };
        self.samples.iter().filter_map(sample).collect()
    }

    fn is_of(&self, point: &MeasuredPoint) -> bool {
        self.bytes == point.bytes && self.op == operation_name(point.operation)
    }
}

/// All lines of a journal.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    pub(super) header: Header,
    entries: Vec<Entry>,
}

impl Journal {
    /// Makes sure that there is a journal of such a run; how many points it knows already.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn begin(path: &Path, header: &Header, fresh: bool) -> Result<usize, Failure> {
        if !fresh && let Ok(known) = Journal::read(path) {
            if header.goes_on(&known.header) {
                return Ok(known.points());
            }
            eprintln!(
                "{} is of another day, machine, version, or number of ranks, or had other pieces: starting anew",
                path.display()
            );
        }
        let line = format!("{}\n", serde_json::to_string(header).unwrap_or_default());
        fs::write(path, line)
            .map_err(|cause| Failure(format!("cannot write {}: {cause}", path.display())))?;
        Ok(0)
    }

    /// Reads it. A last line that is broken is that of a run which was killed.
    ///
    /// # Errors
    /// It is not there, or is no journal.
    pub(super) fn read(path: &Path) -> Result<Journal, Failure> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => Failure(format!("{name} is gone; start anew")),
            _ => Failure(format!("{name}: {cause}")),
        })?;
        Journal::parse(&text)
            .ok_or_else(|| Failure(format!("{name} is no journal of shoal tune; say --fresh")))
    }

    fn parse(text: &str) -> Option<Journal> {
        let mut lines = text.lines();
        let header = serde_json::from_str(lines.next()?).ok()?;
        Some(Journal { header, entries: lines.filter_map(|line| serde_json::from_str(line).ok()).collect() })
    }

    fn points(&self) -> usize {
        let mut points: Vec<_> = self.entries.iter().map(|entry| (entry.op.as_str(), entry.bytes)).collect();
        points.sort_unstable();
        points.dedup();
        points.len()
    }

    /// What is known best of a point: of the longest race, and of two alike the later.
    pub(super) fn entry(&self, point: &MeasuredPoint) -> Option<&Entry> {
        let alike = self.entries.iter().filter(|entry| entry.is_of(point));
        alike.max_by_key(|entry| (entry.sure, entry.turns))
    }

    /// Whether a point needs no further race.
    pub(super) fn is_sure(&self, point: &MeasuredPoint) -> bool {
        self.entry(point).is_some_and(|entry| entry.sure || entry.turns >= TURNS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;
    use crate::schedule::Algorithm;

    fn header(ranks: u32, command: &str) -> Header {
        Header {
            machine: "m".into(),
            library: "1".into(),
            date: "2026-11-21".into(),
            ranks,
            hosts: 1,
            pieces: Vec::new(),
            data_type: "float".into(),
            command: command.into(),
        }
    }

    fn raced(turns: usize) -> Race {
        let mut race = Race::new(&[Choice::usual(Algorithm::Ring), Choice::usual(Algorithm::Tree)]);
        (0..turns).for_each(|_| {
            let time = |choice: &Choice| if choice.algorithm == Algorithm::Ring { 1.0 } else { 1.05 };
            let times: Vec<f64> = race.poll_turn().iter().map(time).collect();
            race.handle_turn(&times);
        });
        race
    }

    #[test]
    fn a_run_goes_on_where_one_like_it_ended() {
        let point = MeasuredPoint { operation: Kind::AllReduce, bytes: 64, count: 16, weight: 1.0 };
        let path = std::env::temp_dir().join(format!("shoal-journal-{}", std::process::id()));
        assert_eq!(Journal::begin(&path, &header(2, "a"), true), Ok(0));
        let mut text = fs::read_to_string(&path).unwrap();
        text += &Entry::of(&point, &raced(2)).line();
        assert!(!Journal::parse(&text).unwrap().is_sure(&point));
        text += &Entry::of(&point, &raced(3)).line();
        // A line that was cut off changes nothing.
        text += "{\"op\":\"allre";
        fs::write(&path, &text).unwrap();
        assert_eq!(Journal::begin(&path, &header(2, "another"), false), Ok(1));
        let journal = Journal::read(&path).unwrap();
        assert_eq!(journal.entry(&point).unwrap().turns, 3);
        assert_eq!(journal.entry(&point).unwrap().samples().len(), 2);
        assert_eq!(Journal::begin(&path, &header(4, "a"), false), Ok(0), "other ranks start anew");
        fs::remove_file(&path).unwrap();
    }
}
