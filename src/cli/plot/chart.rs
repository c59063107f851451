//! A chart with both axes logarithmic, written as SVG by hand.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::record::{Chosen, Curve};
use crate::cli::bench::size;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 500.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 84.0;
/// Lines of text at the right, from one to the next.
const STEP: f64 = 17.0;

/// Who has which colour, always the same.
const COLOURS: [(&str, &str); 7] = [
    ("shoal", "#c2185b"),
    ("shoal-mapped", "#f48fb1"),
    ("ucx", "#1565c0"),
    ("openmpi", "#2e7d32"),
    ("openmpi-ucx", "#81c784"),
    ("mpich", "#ef6c00"),
    ("gloo", "#6d4c41"),
];

fn colour(contender: &str) -> &'static str {
    COLOURS.iter().find(|(name, _)| *name == contender).map_or("#616161", |(_, colour)| colour)
}

/// From a value to a place, by the logarithm.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        self.start + share * (self.end - self.start)
    }
}

/// The picture.
pub(super) fn svg(curves: &[Curve], chosen: &Chosen<'_>, origin: &str) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min).max(1e-6);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1e-6, f64::max);
    let sizes = || points().map(|(bytes, _)| (*bytes).max(1) as f64);
    let times = || points().map(|(_, time_us)| *time_us);
    let (low, high) = (least(&mut sizes()).log10(), most(&mut sizes()).log10());
    let x = Axis { low, high: high.max(low + 0.1), start: LEFT, end: WIDTH - RIGHT };
    let (low, high) = (rule_below(least(&mut times())), rule_above(most(&mut times())));
    let y = Axis { low, high: high.max(low + 1.0), start: HEIGHT - BOTTOM, end: TOP };
    let mut out = String::new();
    frame(&mut out, &x, &y, curves);
    for curve in curves {
        line(&mut out, curve, &x, &y);
    }
    names(&mut out, curves, &y);
    let what = match (chosen.op, chosen.messages) {
        ("exchange", messages) => format!("Grouped exchange, {messages} messages each way"),
        ("sendrecv", _) => "Send and receive, one way".to_owned(),
        (op, messages) if messages > 1 => format!("{op}, {messages} messages"),
        (op, _) => op.to_owned(),
    };
    let title = format!("{what}, {} ranks, cores {}", chosen.ranks, chosen.state);
    text(&mut out, (LEFT, 26.0), "start", 16, &title);
    text(
        &mut out,
        (LEFT, 44.0),
        "start",
        12,
        "microseconds for one message, against its size; lower is faster",
    );
    text(&mut out, (LEFT, HEIGHT - 14.0), "start", 11, origin);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{out}</svg>\n"
    )
}

/// The logarithm of the largest of 1, 2, 5, 10, ... that is not above a value.
fn rule_below(value: f64) -> f64 {
    let decade = value.log10().floor();
    let part = value / 10_f64.powf(decade);
    let rule = [5.0, 2.0].into_iter().find(|rule| part >= *rule).unwrap_or(1.0_f64);
    decade + rule.log10()
}

/// The logarithm of the smallest of 1, 2, 5, 10, ... that is not below a value.
fn rule_above(value: f64) -> f64 {
    let decade = value.log10().floor();
    let part = value / 10_f64.powf(decade);
    let rule = [1.0, 2.0, 5.0].into_iter().find(|rule| part <= *rule).unwrap_or(10.0_f64);
    decade + rule.log10()
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, points: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{points}\" fill=\"#222\">{words}</text>"
    );
}

fn frame(out: &mut String, x: &Axis, y: &Axis, curves: &[Curve]) {
    let mut rule = |x1: f64, y1: f64, x2: f64, y2: f64, grey: &str| {
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{grey}\"/>"
        );
    };
    let decades = y.low.floor() as i32..=y.high.ceil() as i32;
    let shows = |at: f64| at >= y.end - 0.1 && at <= y.start + 0.1;
    for decade in decades.clone() {
        for part in 1..10 {
            let value = f64::from(part) * 10_f64.powi(decade);
            let at = y.place(value);
            if shows(at) {
                rule(x.start, at, x.end, at, if part == 1 { "#bbb" } else { "#eee" });
            }
        }
    }
    let mut sizes: Vec<usize> =
        curves.iter().flat_map(|c| c.points.iter().map(|(bytes, _)| *bytes)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for bytes in &sizes {
        let at = x.place((*bytes).max(1) as f64);
        rule(at, y.start, at, y.end, "#eee");
    }
    for decade in decades {
        let (value, digits) = (10_f64.powi(decade), usize::try_from(-decade).unwrap_or(0));
        if !shows(y.place(value)) {
            continue;
        }
        text(out, (x.start - 8.0, y.place(value) + 4.0), "end", 12, &format!("{value:.digits$}"));
    }
    for (index, bytes) in sizes.iter().enumerate() {
        // Every other one where they would touch.
        if sizes.len() <= 10 || index % 2 == 0 {
            let at = (x.place((*bytes).max(1) as f64), y.start + 18.0);
            text(out, at, "middle", 12, &size::display(*bytes));
        }
    }
    text(out, (f64::midpoint(x.start, x.end), y.start + 38.0), "middle", 12, "bytes of one message");
}

fn line(out: &mut String, curve: &Curve, x: &Axis, y: &Axis) {
    let places: Vec<String> = curve
        .points
        .iter()
        .map(|(bytes, time_us)| {
            format!("{:.1},{:.1}", x.place((*bytes).max(1) as f64), y.place(time_us.max(1e-6)))
        })
        .collect();
    let dashes = if curve.packed { " stroke-dasharray=\"5 4\"" } else { "" };
    let width = if curve.contender.starts_with("shoal") && !curve.packed { 3.0 } else { 1.6 };
    let colour = colour(&curve.contender);
    let _ = writeln!(
        out,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes} points=\"{}\"/>",
        places.join(" ")
    );
}

/// The contenders' names at the ends of their lines, moved apart where they would touch.
fn names(out: &mut String, curves: &[Curve], y: &Axis) {
    let mut ends: Vec<(f64, &Curve)> =
        curves.iter().filter_map(|c| Some((y.place(c.points.last()?.1.max(1e-6)), c))).collect();
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = TOP;
    let below = HEIGHT - BOTTOM + STEP;
    let count = ends.len();
    for (index, (place, curve)) in ends.into_iter().enumerate() {
        // Those below need their room too.
        let last = below - STEP * (count - 1 - index) as f64;
        let at = place.max(free).min(last);
        free = at + STEP;
        let (colour, left) = (colour(&curve.contender), WIDTH - RIGHT + 12.0);
        let dashes = if curve.packed { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"{colour}\" stroke-width=\"3\"{dashes}/>",
            left + 24.0
        );
        let packed = if curve.packed { ", packed by hand" } else { "" };
        text(out, (left + 30.0, at + 4.0), "start", 12, &format!("{}{packed}", curve.contender));
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{CHOSEN, line as recorded};
    use super::super::record::{curves, origin, parse};
    use super::*;

    #[test]
    fn every_contender_has_a_line_and_a_name() {
        let mut lines = String::new();
        for (place, contender) in ["shoal", "ucx", "mpich"].into_iter().enumerate() {
            for bytes in [8, 64, 1024] {
                lines += &recorded("exchange", contender, bytes, (place + 1) as f64 * bytes as f64);
                lines += &recorded("packed", contender, bytes, bytes as f64);
            }
        }
        let lines = parse(&lines).unwrap();
        let picture = svg(&curves(&lines, &CHOSEN), &CHOSEN, &origin(&lines, "a.jsonl"));
        assert_eq!(picture.matches("<polyline").count(), 6);
        assert_eq!(picture.matches("packed by hand").count(), 3);
        assert!(
            picture.contains(">shoal<") && picture.contains(">mpich<") && picture.contains("record a.jsonl")
        );
        assert!(picture.contains("a &lt;cpu&gt;") && !picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn larger_is_further_and_slower_is_higher() {
        let axis = Axis { low: 0.0, high: 2.0, start: 10.0, end: 110.0 };
        assert!((axis.place(10.0) - 60.0).abs() < 1e-9);
        let up = Axis { start: 110.0, end: 10.0, ..axis };
        assert!(up.place(100.0) < up.place(1.0));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, below, above) in
            [(0.0075, 0.005, 0.01), (1.0, 1.0, 1.0), (3.0, 2.0, 5.0), (70.0, 50.0, 100.0)]
        {
            let (low, high) = (rule_below(value), rule_above(value));
            assert!(
                (low - f64::log10(below)).abs() < 1e-9 && (high - f64::log10(above)).abs() < 1e-9,
                "{value}"
            );
        }
    }

    #[test]
    fn one_point_is_drawn_too() {
        let lines = parse(&recorded("exchange", "shoal", 8, 64.0)).unwrap();
        let picture = svg(&curves(&lines, &CHOSEN), &CHOSEN, "");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }
}
