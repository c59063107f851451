//! The lines that a comparison leaves in the repository: one JSON object for each contender of each case,
//! with the machine, the version and the state in which it was taken. `benches/records/README.md` explains
//! every field.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Options;
use super::contenders::{MAPPED, OURS};
use super::summary::{Comparison, Entry};
use crate::cli::{Failure, machine};

/// Where the figures come from.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Origin {
    date: String,
    commit: String,
    cpu: String,
    cores: usize,
    kernel: String,
    command: String,
    #[serde(skip_serializing_if = "is_one")]
    hosts: u16,
    /// There and back in ns, before the first run and after the last.
    canary_ns: [Option<f64>; 2],
}

fn is_one(hosts: &u16) -> bool {
    *hosts == 1
}

impl Origin {
    /// This machine, now.
    pub(super) fn here(options: &Options, canary_ns: [Option<f64>; 2]) -> Origin {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let rewrite = if options.rewrite { " --rewrite" } else { "" };
        let (before, hosts) = match options.hosts {
            1 => (String::new(), String::new()),
            hosts => (format!("scripts/hosts.sh make {hosts} "), format!(" --hosts {hosts}")),
        };
        let suite = clap::ValueEnum::to_possible_value(&options.suite);
        let suite = suite.as_ref().map_or("", |value| value.get_name()).to_owned();
        Origin {
            date: date(now / 86_400),
            commit: options.commit.clone(),
            cpu: model.map_or("unknown", |(_, name)| name).trim().to_owned(),
            cores: machine::available_cores(),
            kernel: kernel.trim().to_owned(),
            command: format!(
                "{before}shoal peers --suite {suite}{hosts} --seconds {}{rewrite}",
                options.seconds
            ),
            hosts: options.hosts,
            canary_ns: canary_ns.map(|ns| ns.map(f64::round)),
        }
    }
}

#[derive(Serialize)]
struct Line<'line> {
    #[serde(flatten)]
    origin: &'line Origin,
    state: &'line str,
    op: &'line str,
    ranks: usize,
    #[serde(rename = "type")]
    data_type: &'line str,
    bytes: usize,
    messages: usize,
    contender: &'line str,
    library: &'line str,
    time_us: f64,
    time_us_p99: f64,
    runs_us: &'line [f64],
    /// Of this library's lines: how far it differs from itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    aa_band: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_us: Option<f64>,
    /// Best peer over this library.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// Of a stage boundary: what its small messages add.
    #[serde(skip_serializing_if = "Option::is_none")]
    added_us: Option<f64>,
}

/// Adds a line for each contender of each comparison.
///
/// # Errors
/// The file cannot be written.
pub(super) fn append(path: &Path, origin: &Origin, comparisons: &[Comparison]) -> Result<(), Failure> {
    let refused = |error: std::io::Error| Failure(format!("cannot add to {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(refused)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(refused)?;
    file.write_all(lines(origin, comparisons).as_bytes()).map_err(refused)
}

fn lines(origin: &Origin, comparisons: &[Comparison]) -> String {
    let mut text = String::new();
    for comparison in comparisons {
        for entry in comparison.ours.iter().chain(&comparison.mapped).chain(&comparison.peers) {
            let line = line(origin, comparison, entry);
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            text.push('\n');
        }
    }
    text
}

fn line<'line>(origin: &'line Origin, comparison: &'line Comparison, entry: &'line Entry) -> Line<'line> {
    let case = &comparison.case;
    let is_ours = entry.contender == OURS;
    let ratio = match entry.contender {
        OURS => comparison.ratio(),
        MAPPED => comparison.mapped_ratio(),
        _ => None,
    };
    let rounded = |value: f64| (value * 1e4).round() / 1e4;
    Line {
        origin,
        state: comparison.state.name(),
        op: &case.op,
        ranks: case.ranks,
        data_type: &case.data_type,
        bytes: case.bytes,
        messages: case.messages,
        contender: entry.contender,
        library: &entry.library,
        time_us: rounded(entry.median_us),
        time_us_p99: rounded(entry.p99_us),
        runs_us: &entry.times_us,
        aa_band: comparison.band.filter(|_| is_ours).map(rounded),
        floor_us: comparison.floor_us.filter(|_| is_ours).map(rounded),
        ratio: ratio.map(rounded),
        added_us: entry.added_us.map(rounded),
    }
}

/// The date of a day since 1970, in the calendar that counts leap years by 4, 100 and 400.
pub(crate) fn date(days: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, left + 1)
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Limits, tests::pretend};
    use super::super::summary::compare;
    use super::*;

    #[test]
    fn dates() {
        for (days, expected) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_454, "2026-01-01")]
        {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn every_contender_of_every_case_has_a_line() {
        let origin = Origin {
            date: "2026-01-01".into(),
            commit: "abc".into(),
            cpu: "a cpu".into(),
            cores: 2,
            kernel: "6".into(),
            command: "shoal peers".into(),
            hosts: 1,
            canary_ns: [Some(70.0), None],
        };
        let text = lines(&origin, &compare(&pretend(0, Limits { enough: 5, turns: 5 })));
        assert_eq!(text.lines().count(), 2 * 3);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((value["state"].as_str(), value["cores"].as_u64()), (Some("near"), Some(2)));
            assert_eq!(value["runs_us"].as_array().unwrap().len(), 5);
            assert_eq!(value.get("ratio").is_some(), value["contender"] == "shoal");
        }
    }
}
