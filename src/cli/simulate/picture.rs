//! Pictures as SVG: times against bytes, and who wins where.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::cli::bench::size;
use crate::schedule::Algorithm;
use crate::simulate::regions::Cell;

/// A line of a chart.
pub(super) struct Curve {
    pub(super) name: String,
    /// Bytes and microseconds.
    pub(super) points: Vec<(f64, f64)>,
}

/// Who has which colour, in every picture: in the order of [`Algorithm::ALL`].
const COLOURS: [&str; 14] = [
    "#c2185b", "#9e9d24", "#1565c0", "#2e7d32", "#66bb6a", "#c5e1a5", "#00897b", "#f9a825", "#ef6c00",
    "#6a1b9a", "#64b5f6", "#b39ddb", "#6d4c41", "#bcaaa4",
];

fn colour(name: &str) -> &'static str {
    let place = Algorithm::ALL.iter().position(|algorithm| algorithm.name() == name);
    match name {
        "together" => COLOURS[0],
        _ => place.map_or("#616161", |place| COLOURS[place]),
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, points: u32, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{points}\" fill=\"#222\">{words}</text>"
    );
}

fn page(width: f64, height: f64, inside: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{inside}</svg>\n"
    )
}

/// From a value to a place, by the logarithm.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value.max(1e-3)), high.max(value.max(1e-3)))
        });
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Axis { low, high: high.max(low + 1.0), start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(1e-3).log10() - self.low) / (self.high - self.low);
        self.start + share * (self.end - self.start)
    }
}

/// Microseconds against bytes, a line for each name.
pub(super) fn curves(title: &str, machine: &str, curves: &[Curve]) -> String {
    let (width, height) = (900.0, 520.0);
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let x = Axis::of(points().map(|(bytes, _)| bytes), 70.0, width - 180.0);
    let y = Axis::of(points().map(|(_, time)| time), height - 80.0, 60.0);
    let mut out = String::new();
    text(&mut out, (70.0, 26.0), "start", 16, title);
    text(&mut out, (70.0, 44.0), "start", 12, "microseconds against bytes; lower is faster");
    for decade in y.low as i32..=y.high as i32 {
        let value = 10_f64.powi(decade);
        let at = y.place(value);
        let _ = writeln!(
            out,
            "<line x1=\"{}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
            x.start, x.end
        );
        let digits = usize::try_from(-decade).unwrap_or(0);
        text(&mut out, (62.0, at + 4.0), "end", 12, &format!("{value:.digits$}"));
    }
    let mut sizes: Vec<u64> = points().map(|(bytes, _)| bytes as u64).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for bytes in sizes {
        let at = (x.place(bytes as f64), height - 62.0);
        text(&mut out, at, "middle", 12, &size::display(bytes as usize));
    }
    let mut ends: Vec<(f64, &Curve)> =
        curves.iter().filter_map(|curve| Some((y.place(curve.points.last()?.1), curve))).collect();
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = 60.0_f64;
    let count = ends.len();
    for (index, (place, curve)) in ends.into_iter().enumerate() {
        let path: Vec<String> = curve
            .points
            .iter()
            .map(|(bytes, time)| format!("{:.1},{:.1}", x.place(*bytes), y.place(*time)))
            .collect();
        let colour = colour(&curve.name);
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" points=\"{}\"/>",
            path.join(" ")
        );
        if let [(bytes, time)] = curve.points[..] {
            let (at, up) = (x.place(bytes), y.place(time));
            let _ = writeln!(out, "<circle cx=\"{at:.1}\" cy=\"{up:.1}\" r=\"4\" fill=\"{colour}\"/>");
        }
        let at = place.max(free).min(y.start + 16.0 - 16.0 * (count - 1 - index) as f64);
        free = at + 16.0;
        let left = width - 168.0;
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"14\" height=\"8\" fill=\"{colour}\"/>",
            at - 5.0
        );
        text(&mut out, (left + 20.0, at + 4.0), "start", 12, &curve.name);
    }
    text(&mut out, (70.0, height - 16.0), "start", 11, machine);
    page(width, height, &out)
}

const LEFT: f64 = 64.0;
const TOP: f64 = 60.0;
const CELL_WIDTH: f64 = 46.0;
const CELL_HEIGHT: f64 = 22.0;

/// Who wins, by bytes to the right and ranks upwards. Cells are paler where the second is near.
pub(super) fn regions(op: &str, machine: &str, ranks: &[u32], sizes: &[u64], cells: &[Cell]) -> String {
    let (columns, rows) = (sizes.len() as f64, ranks.len() as f64);
    let (width, bottom) = (LEFT + columns * CELL_WIDTH + 150.0, TOP + rows * CELL_HEIGHT);
    let mut out = String::new();
    text(&mut out, (LEFT, 24.0), "start", 16, &format!("{op}: who is fastest, simulated"));
    text(
        &mut out,
        (LEFT, 42.0),
        "start",
        11,
        "ranks upwards, bytes to the right; pale where the second is within 10%",
    );
    let mut winners: Vec<Algorithm> = Vec::new();
    for cell in cells {
        let column = sizes.iter().position(|bytes| *bytes == cell.bytes).unwrap_or(0) as f64;
        let row = ranks.iter().position(|ranks| *ranks == cell.ranks).unwrap_or(0) as f64;
        let is_near = cell.second.is_some_and(|(_, ratio)| ratio < 1.1);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{CELL_WIDTH}\" height=\"{CELL_HEIGHT}\" fill=\"{}\" \
             fill-opacity=\"{}\" stroke=\"white\"/>",
            LEFT + column * CELL_WIDTH,
            bottom - (row + 1.0) * CELL_HEIGHT,
            colour(cell.winner.name()),
            if is_near { 0.45 } else { 1.0 }
        );
        if !winners.contains(&cell.winner) {
            winners.push(cell.winner);
        }
    }
    for (bytes, column) in sizes.iter().zip(0..) {
        let at = (LEFT + (f64::from(column) + 0.5) * CELL_WIDTH, bottom + 16.0);
        text(&mut out, at, "middle", 11, &size::display(*bytes as usize));
    }
    for (ranks, row) in ranks.iter().zip(0..) {
        let at = (LEFT - 8.0, bottom - (f64::from(row) + 0.3) * CELL_HEIGHT);
        text(&mut out, at, "end", 11, &ranks.to_string());
    }
    let left = LEFT + columns * CELL_WIDTH + 16.0;
    let legend = Algorithm::ALL.into_iter().filter(|algorithm| winners.contains(algorithm));
    for (algorithm, row) in legend.zip(0..) {
        let at = TOP + 14.0 + f64::from(row) * 18.0;
        let colour = colour(algorithm.name());
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"14\" height=\"12\" fill=\"{colour}\"/>",
            at - 10.0
        );
        text(&mut out, (left + 20.0, at), "start", 12, algorithm.name());
    }
    text(&mut out, (LEFT, bottom + 38.0), "start", 11, machine);
    page(width, bottom + 50.0, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_and_every_winner_is_drawn() {
        let cell = |ranks, bytes, winner| Cell {
            ranks,
            bytes,
            winner,
            time_ns: 1.0,
            second: Some((Algorithm::Tree, 2.0)),
        };
        let cells =
            [cell(2, 64, Algorithm::Ring), cell(4, 64, Algorithm::Pat), cell(4, 256, Algorithm::Ring)];
        let picture = regions("allgather", "a <machine>", &[2, 4], &[64, 256], &cells);
        assert_eq!(picture.matches("stroke=\"white\"").count(), 3);
        assert!(picture.contains(">pat<") && picture.contains(">ring<") && !picture.contains(">tree<"));
        assert!(picture.contains("a &lt;machine&gt;") && !picture.contains("NaN"));
    }

    #[test]
    fn every_curve_has_a_line_and_a_name() {
        let curve =
            |name: &str, points: &[(f64, f64)]| Curve { name: name.to_owned(), points: points.to_vec() };
        let all = [curve("ring", &[(64.0, 1.0), (1024.0, 3.0)]), curve("tree", &[(64.0, 0.5)])];
        let picture = curves("a title", "", &all);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains("<circle") && picture.contains(">ring<") && !picture.contains("NaN"));
    }

    #[test]
    fn every_algorithm_has_a_colour_of_its_own() {
        let mut colours: Vec<_> =
            Algorithm::ALL.into_iter().map(|algorithm| colour(algorithm.name())).collect();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), Algorithm::ALL.len());
    }
}
