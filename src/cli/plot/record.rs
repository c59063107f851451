//! The lines of a record, and what a picture needs of them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;

/// One contender at one operation and size; what a picture or a table does not need is left out.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Line {
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) state: String,
    pub(super) op: String,
    pub(super) ranks: usize,
    pub(super) bytes: usize,
    pub(super) messages: usize,
    pub(super) contender: String,
    pub(super) time_us: f64,
    #[serde(default)]
    pub(super) aa_band: Option<f64>,
    #[serde(default)]
    pub(super) floor_us: Option<f64>,
    #[serde(default)]
    pub(super) ratio: Option<f64>,
    #[serde(default)]
    pub(super) added_us: Option<f64>,
    #[serde(default = "one")]
    pub(super) hosts: usize,
}

const fn one() -> usize {
    1
}

/// Every line, or which one is none.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))
        })
        .collect()
}

/// What is drawn.
pub(super) struct Chosen<'options> {
    pub(super) op: &'options str,
    pub(super) messages: usize,
    pub(super) ranks: usize,
    pub(super) state: &'options str,
}

/// One contender's points: size in bytes, time of one message in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) contender: String,
    /// The same bytes packed by hand into one message.
    pub(super) packed: bool,
    pub(super) points: Vec<(usize, f64)>,
}

/// The curves of what is chosen, this library's first. A later line replaces an earlier one of the same case.
pub(super) fn curves(lines: &[Line], chosen: &Chosen<'_>) -> Vec<Curve> {
    let mut found: BTreeMap<(bool, bool, &str), BTreeMap<usize, f64>> = BTreeMap::new();
    for line in lines {
        let packed = chosen.op == "exchange" && line.op == "packed";
        let fits = (line.op == chosen.op || packed)
            && line.messages == chosen.messages
            && line.ranks == chosen.ranks
            && line.state == chosen.state;
        if fits {
            let key = (packed, !line.contender.starts_with("shoal"), line.contender.as_str());
            let messages = line.messages.max(1) as f64;
            found.entry(key).or_default().insert(line.bytes, line.time_us / messages);
        }
    }
    let curve = |((packed, _, contender), points): ((bool, bool, &str), BTreeMap<usize, f64>)| Curve {
        contender: contender.to_owned(),
        packed,
        points: points.into_iter().collect(),
    };
    found.into_iter().map(curve).collect()
}

/// Where the figures come from, in a line.
pub(super) fn origin(lines: &[Line], file: &str) -> String {
    let Some(line) = lines.last() else { return file.to_owned() };
    format!("{}, {} cores of {}, commit {}; record {file}", line.date, line.cores, line.cpu, line.commit)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::plot) fn line(op: &str, contender: &str, bytes: usize, time_us: f64) -> String {
        format!(
            "{{\"date\":\"2026-01-01\",\"commit\":\"abc\",\"cpu\":\"a <cpu>\",\"cores\":2,\"state\":\"near\",\
             \"op\":\"{op}\",\"ranks\":2,\"bytes\":{bytes},\"messages\":64,\"contender\":\"{contender}\",\
             \"time_us\":{time_us},\"new\":1}}\n"
        )
    }

    pub(in crate::cli::plot) const CHOSEN: Chosen<'static> =
        Chosen { op: "exchange", messages: 64, ranks: 2, state: "near" };

    #[test]
    fn curves_are_per_message_and_ours_come_first() {
        let text = line("exchange", "mpich", 8, 64.0)
            + &line("exchange", "shoal", 64, 6.4)
            + &line("exchange", "shoal", 8, 3.2)
            + &line("packed", "mpich", 8, 1.28)
            + &line("exchange", "shoal", 8, 6.4);
        let curves = curves(&parse(&text).unwrap(), &CHOSEN);
        let names: Vec<_> = curves.iter().map(|curve| (curve.contender.as_str(), curve.packed)).collect();
        assert_eq!(names, [("shoal", false), ("mpich", false), ("mpich", true)]);
        assert_eq!(curves[0].points, [(8, 0.1), (64, 0.1)]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let text = line("exchange", "shoal", 8, 1.0) + "\nnothing\n";
        assert!(parse(&text).unwrap_err().starts_with("line 3: "));
    }
}
