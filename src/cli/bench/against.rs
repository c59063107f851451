//! The same measurement several times in turn: against itself, and against another setting.
//!
//! Sides take turns, so that a slow minute of the machine hits all alike; what is compared is the ratio within a
//! turn, and of those the median.
#![forbid(unsafe_code)]

use super::row::Row;
use super::{size, statistics};

/// One way of running the same thing.
pub(super) struct Side {
    /// What is added to the ranks' environment.
    pub(super) environment: Vec<(String, String)>,
    /// The rows of each turn.
    pub(super) turns: Vec<Vec<Row>>,
}

impl Side {
    fn new(environment: Vec<(String, String)>) -> Side {
        Side { environment, turns: Vec::new() }
    }

    /// The time of a case in a turn.
    fn time_us(&self, turn: usize, case: usize) -> Option<f64> {
        self.turns.get(turn)?.get(case).map(|row| row.time_us)
    }

    fn median_us(&self, case: usize) -> Option<f64> {
        let times: Vec<f64> = (0..self.turns.len()).filter_map(|turn| self.time_us(turn, case)).collect();
        statistics::median(&times)
    }
}

/// As it is, once more as it is, and with the setting, where there is one.
pub(super) fn sides(against: Option<&(String, String)>) -> Vec<Side> {
    let mut sides = vec![Side::new(Vec::new()), Side::new(Vec::new())];
    sides.extend(against.map(|setting| Side::new(vec![setting.clone()])));
    sides
}

/// The median over turns of the other side's time over the first one's.
fn ratio(one: &Side, other: &Side, case: usize) -> Option<f64> {
    let turns = one.turns.len().min(other.turns.len());
    let of = |turn| other.time_us(turn, case).zip(one.time_us(turn, case)).filter(|(_, one)| *one > 0.0);
    let ratios: Vec<f64> = (0..turns).filter_map(of).map(|(other, one)| other / one).collect();
    statistics::median(&ratios)
}

/// A row for each case, with what was found, and the sentence that says it.
pub(super) fn compare(sides: &[Side]) -> Vec<(Row, String)> {
    let [one, control, rest @ ..] = sides else { return Vec::new() };
    let cases = one.turns.first().map_or(&[][..], Vec::as_slice).iter().enumerate();
    let compared = cases.filter_map(|(case, row)| {
        let time_us = one.median_us(case)?;
        let band = statistics::band(ratio(one, control, case)?, 1.0);
        let wrong = sides.iter().flat_map(|side| &side.turns).filter_map(|rows| rows.get(case)?.wrong);
        let wrong = row.wrong.map(|_| wrong.sum());
        let mut row = Row { time_us, wrong, aa_band: Some(band), ..row.clone() };
        let text = match rest.first() {
            None => itself(&row, control.median_us(case)?, band),
            Some(other) => {
                let ratio = ratio(one, other, case)?;
                row.against = other.environment.first().map(|(name, value)| format!("{name}={value}"));
                row.against_us = other.median_us(case);
                row.against_ratio = Some(ratio);
                another(&row, ratio, band)
            }
        };
        Some((row, text))
    });
    compared.collect()
}

fn named(row: &Row) -> String {
    let place = if row.in_place { "in place" } else { "out of place" };
    format!("{} {} {place}", row.op, size::display(row.bytes))
}

fn itself(row: &Row, other_us: f64, band: f64) -> String {
    let (name, time_us) = (named(row), row.time_us);
    format!("a/a {name}: {time_us:.3} us against {other_us:.3} us, band {:.1}%", 100.0 * band)
}

fn another(row: &Row, ratio: f64, band: f64) -> String {
    let verdict = match ratio {
        ratio if ratio > 1.0 + band => "faster",
        ratio if ratio * (1.0 + band) < 1.0 => "SLOWER",
        _ => "same",
    };
    format!(
        "{}: {:.3} us, with {} {:.3} us, ratio {ratio:.2}, a/a {:.1}%, {verdict}",
        named(row),
        row.time_us,
        row.against.as_deref().unwrap_or(""),
        row.against_us.unwrap_or(0.0),
        100.0 * band,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: usize = 5;

    fn measured(factors: [f64; 3]) -> Vec<Side> {
        let mut sides = sides(Some(&("SHOAL_COALESCE".to_owned(), "0".to_owned())));
        for turn in 0..TURNS {
            for (side, factor) in sides.iter_mut().zip(factors) {
                // The machine is four times slower in some turns.
                let pace = if turn % 2 == 0 { 1.0 } else { 4.0 };
                let op = "exchange".to_owned();
                side.turns.push(vec![Row {
                    op,
                    bytes: 8,
                    time_us: pace * factor,
                    wrong: Some(1),
                    ..Row::default()
                }]);
            }
        }
        sides
    }

    #[test]
    fn turns_are_compared_within_themselves() {
        let (row, text) = compare(&measured([1.0, 1.02, 3.0])).remove(0);
        assert!((row.against_ratio.unwrap() - 3.0).abs() < 1e-9 && row.aa_band.unwrap() < 0.03);
        assert!(text.ends_with("faster") && text.contains("SHOAL_COALESCE=0"), "{text}");
        assert_eq!(row.wrong, Some(3 * TURNS as u64));
        for (factors, verdict) in [([1.0, 1.1, 1.05], "same"), ([1.0, 1.1, 0.5], "SLOWER")] {
            let (_, text) = compare(&measured(factors)).remove(0);
            assert!(text.ends_with(verdict), "{text}");
        }
    }

    #[test]
    fn without_another_setting_it_is_compared_with_itself() {
        let mut sides = measured([1.0, 1.02, 3.0]);
        sides.truncate(2);
        let (row, text) = compare(&sides).remove(0);
        assert!(row.against.is_none() && text.starts_with("a/a exchange 8 out of place"), "{text}");
    }
}
