//! One page that needs nothing else: the tables, and pictures drawn as svg. Pure.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::sections::{Section, bytes, percent, time};
use super::share;
use crate::trace::report::Report;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.6em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2em .8em;text-align:right;vertical-align:top}\
th{color:#666;font-weight:500}td:first-child,th:first-child{text-align:left}tr:nth-child(even) td{background:#f6f7f9}\
.words td{text-align:left}svg text{font:12px system-ui,sans-serif;fill:#444}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}svg text{fill:#bbb}\
tr:nth-child(even) td{background:#1f2228}h2{border-color:#333}}";

const MOVING: &str = "#2a78d6";
const WAITING: &str = "#e0a030";
const WIDTH: f64 = 620.0;
const LEFT: f64 = 150.0;
const ROW: f64 = 24.0;

/// The page.
pub(super) fn page(report: &Report, sections: &[Section]) -> String {
    let mut text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>What the job communicated</title>\
         <style>{STYLE}</style></head><body><h1>What the job communicated</h1>\n"
    );
    for section in sections {
        let _ = writeln!(text, "<h2>{}</h2>", escape(section.title));
        for note in &section.notes {
            let _ = writeln!(text, "<p>{}</p>", escape(note));
        }
        match section.title {
            "By operation" => text += &times(report),
            "Sizes" => text += &sizes(report),
            _ => {}
        }
        if !section.rows.is_empty() {
            text += &table(section);
        }
    }
    text + "</body></html>\n"
}

fn table(section: &Section) -> String {
    let class = if section.title == super::sections::ADVICE { " class=\"words\"" } else { "" };
    let row = |cells: &mut dyn Iterator<Item = &str>, tag: &str| -> String {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let mut text = format!("<table{class}>\n{}", row(&mut section.columns.iter().copied(), "th"));
    for cells in &section.rows {
        text += &row(&mut cells.iter().map(String::as_str), "td");
    }
    text + "</table>\n"
}

/// A bar for each operation: what moved, and what waited.
fn times(report: &Report) -> String {
    let mut list: Vec<_> = report.by_operation.iter().collect();
    list.sort_by(|left, right| right.1.time_ns.total_cmp(&left.1.time_ns));
    let most = list.first().map_or(0.0, |(_, sum)| sum.time_ns);
    let mut text = open("Time by operation, moving and waiting", list.len() as f64 * ROW + 30.0);
    for (place, (name, sum)) in list.iter().enumerate() {
        let top = place as f64 * ROW;
        let moving = share(sum.time_ns - sum.waited_ns, most) * WIDTH;
        let waiting = share(sum.waited_ns, most) * WIDTH;
        text += &label(LEFT - 8.0, top + 16.0, "end", name);
        text += &bar(
            LEFT,
            top + 4.0,
            moving,
            MOVING,
            &format!("{name} moves {}", time(sum.time_ns - sum.waited_ns)),
        );
        text += &bar(
            LEFT + moving,
            top + 4.0,
            waiting,
            WAITING,
            &format!("{name} waits {}", time(sum.waited_ns)),
        );
        text += &label(LEFT + moving + waiting + 6.0, top + 16.0, "start", &time(sum.time_ns));
    }
    let bottom = list.len() as f64 * ROW + 8.0;
    for (place, (name, color)) in [("moving", MOVING), ("waiting", WAITING)].into_iter().enumerate() {
        let at = LEFT + place as f64 * 90.0;
        text += &bar(at, bottom, 14.0, color, name);
        text += &label(at + 20.0, bottom + 12.0, "start", name);
    }
    text + "</svg>\n"
}

/// A bar for each power of two: how many calls carry so many bytes.
fn sizes(report: &Report) -> String {
    let calls: Vec<f64> =
        (0..64).map(|place| report.sizes.values().map(|sizes| sizes[place]).sum()).collect();
    let Some(last) = calls.iter().rposition(|calls| *calls > 0.0) else { return String::new() };
    let first = calls.iter().position(|calls| *calls > 0.0).unwrap_or(0);
    let most = calls.iter().copied().fold(0.0, f64::max);
    let all: f64 = calls.iter().sum();
    let mut text = open("Calls by size", (last - first + 1) as f64 * ROW);
    for (place, calls) in calls.iter().enumerate().take(last + 1).skip(first) {
        let top = (place - first) as f64 * ROW;
        let name = if place == 0 { "1 B".into() } else { bytes(2_f64.powi(place as i32)) };
        let part = percent(share(*calls, all));
        let width = share(*calls, most) * WIDTH;
        text += &label(LEFT - 8.0, top + 16.0, "end", &format!("up to {name}"));
        text += &bar(LEFT, top + 4.0, width, MOVING, &format!("{calls} calls, {part}"));
        text += &label(LEFT + width + 6.0, top + 16.0, "start", &part);
    }
    text + "</svg>\n"
}

fn open(name: &str, height: f64) -> String {
    let width = LEFT + WIDTH + 90.0;
    format!(
        "<svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {width} {height}\" width=\"100%\">\n",
        escape(name)
    )
}

fn bar(left: f64, top: f64, width: f64, color: &str, title: &str) -> String {
    format!(
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"16\" fill=\"{color}\"><title>{}</title></rect>\n",
        escape(title)
    )
}

fn label(left: f64, top: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{left:.1}\" y=\"{top:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escape(words))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
