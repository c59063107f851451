//! From sums to tables of words. Pure.
#![forbid(unsafe_code)]

use super::{advice, share};
use crate::schedule::Algorithm;
use crate::trace::report::{CLASS_ENDS, Report, Sum};

/// A table with its words.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    pub(super) title: &'static str,
    /// Sentences before the table.
    pub(super) notes: Vec<String>,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The section of advice, whose cells are words.
pub(super) const ADVICE: &str = "What to try";

/// More rows than this nobody reads.
const ROWS: usize = 24;

/// Everything there is to say.
pub(super) fn all(report: &Report) -> Vec<Section> {
    let mut all = vec![
        summary(report),
        packing(report),
        measured(report),
        advices(report),
        sums(
            "By operation",
            "operation",
            report,
            report.by_operation.iter().map(|(name, sum)| ((*name).to_owned(), *sum)),
        ),
        sums(
            "By size",
            "bytes",
            report,
            report.by_class.iter().map(|(class, sum)| (class_name(*class), *sum)),
        ),
        sums(
            "By algorithm",
            "collective",
            report,
            report
                .by_algorithm
                .iter()
                .map(|((name, number), sum)| (format!("{name}, {}", algorithm(*number)), *sum)),
        ),
        sums(
            "By communicator",
            "communicator",
            report,
            report.by_communicator.iter().map(|(id, sum)| {
                let ranks = report
                    .ranks
                    .iter()
                    .find(|rank| rank.head.communicator == *id)
                    .map_or(0, |rank| rank.head.ranks);
                (format!("{:08x}, {ranks} ranks", *id as u32), *sum)
            }),
        ),
        sums(
            "Point-to-point",
            "from or to",
            report,
            report.by_peer.iter().map(|((rank, peer), sum)| (format!("rank {rank} with rank {peer}"), *sum)),
        ),
        sums(
            "By rank",
            "rank",
            report,
            report.ranks.iter().map(|rank| {
                (format!("{} of {:08x}", rank.head.rank, rank.head.communicator as u32), rank.sum)
            }),
        ),
        sizes(report),
    ];
    all.retain(|section| !section.rows.is_empty() || !section.notes.is_empty());
    all
}

fn summary(report: &Report) -> Section {
    let Report { total, ranks, .. } = report;
    let batches: u64 = ranks.iter().map(|rank| rank.batches).sum();
    let mut notes = vec![
        format!(
            "{} traces: {} operations in {batches} batches, {} in {}, over {}.",
            ranks.len(),
            total.calls,
            bytes(total.bytes),
            time(total.time_ns),
            time(report.span_ns())
        ),
        format!(
            "Of the time in the library {} is waiting, in which nothing moved; {} is moving.",
            percent(share(total.waited_ns, total.time_ns)),
            percent(1.0 - share(total.waited_ns, total.time_ns))
        ),
    ];
    for rank in ranks {
        let name = format!("rank {} of {:08x}", rank.head.rank, rank.head.communicator as u32);
        if rank.head.dropped > 0 {
            notes
                .push(format!("{name}: {} batches had no room; raise SHOAL_TRACE_BYTES.", rank.head.dropped));
        }
        if let Some(damage) = &rank.damage {
            notes.push(format!("{name}: {damage}."));
        }
    }
    Section { title: "What was communicated", notes, ..Section::default() }
}

fn packing(report: &Report) -> Section {
    let packing = &report.packing;
    if packing.all.calls == 0.0 {
        return Section::default();
    }
    let mut notes = vec![
        format!(
            "{} of all calls and {} of the time are point-to-point messages of at most {}, which carry {} of the bytes.",
            percent(share(packing.small.calls, report.total.calls)),
            percent(share(packing.small.time_ns, report.total.time_ns)),
            bytes(packing.small_bytes as f64),
            percent(share(packing.small.bytes, report.total.bytes))
        ),
        format!(
            "{} messages left in {} packets: {} of them travelled in the packet of another one.",
            packing.messages,
            packing.packets,
            percent(share(report.packed(), packing.messages))
        ),
    ];
    if let Some([quarter, half, most]) = packing.alone_ns.filter(|_| report.packed() > 0.0) {
        let saved = |ns: f64| time(report.packed() * ns);
        notes.push(format!(
            "A small message that is called alone takes {} here (half of them between {} and {}); so packing saved about \
             {} ({} to {}).",
            time(half),
            time(quarter),
            time(most),
            saved(half),
            saved(quarter),
            saved(most)
        ));
    }
    Section { title: "Small messages", notes, ..Section::default() }
}

/// What was measured with blocks in frames and message by message in turn, beside what lone messages let expect.
fn measured(report: &Report) -> Section {
    let rows = report.measured.iter().take(ROWS).map(|one| {
        let saved = f64::from(one.messages.saturating_sub(one.packets));
        let predicted =
            report.packing.alone_ns.filter(|_| one.packed_ns > 0.0).map_or("-".into(), |quarters| {
                let [low, half, high] = quarters.map(|alone_ns| 1.0 + saved * alone_ns / one.packed_ns);
                format!("{half:.2} ({low:.2} to {high:.2})")
            });
        let gain = one.gain;
        vec![
            format!("{} of {} together", one.messages, bytes(one.bytes as f64)),
            one.batches.to_string(),
            time(one.packed_ns),
            time(one.apart_ns),
            format!("{:.2} ({:.2} to {:.2}, {:.0}%)", gain.ratio, gain.low, gain.high, 100.0 * gain.sure),
            predicted,
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Section::default();
    }
    Section {
        title: "Packing, measured in turn",
        notes: vec![
            "Blocks of batches left in frames and message by message in turn (SHOAL_ALTERNATE). Gain: the time message by \
             message over the time in frames, of each block and the next, with its interval; predicted: by what a small \
             message takes here that is called alone."
                .into(),
        ],
        columns: vec!["messages", "batches", "in frames", "one by one", "gain", "predicted"],
        rows,
    }
}

fn advices(report: &Report) -> Section {
    let all = advice::all(report);
    let rows = all.iter().map(|advice| {
        let gain = advice
            .gain_ns
            .map_or("unknown".into(), |[least, most]| format!("{} to {}", time(least), time(most)));
        vec![gain, advice.what.clone(), advice.why.clone(), advice.command.clone()]
    });
    Section {
        title: ADVICE,
        rows: rows.collect(),
        columns: vec!["may save", "what", "why", "how it is tried"],
        notes: Vec::new(),
    }
}

/// A row for each sum, what took the longest first.
fn sums(
    title: &'static str,
    what: &'static str,
    report: &Report,
    list: impl Iterator<Item = (String, Sum)>,
) -> Section {
    let mut list: Vec<(String, Sum)> = list.collect();
    list.sort_by(|left, right| right.1.time_ns.total_cmp(&left.1.time_ns));
    let notes =
        if list.len() > ROWS { vec![format!("The first {ROWS} of {}.", list.len())] } else { Vec::new() };
    let rows = list.into_iter().take(ROWS).map(|(name, sum)| {
        let each = |whole: f64| share(whole, sum.calls);
        vec![
            name,
            format!("{:.0}", sum.calls),
            percent(share(sum.calls, report.total.calls)),
            bytes(sum.bytes),
            bytes(each(sum.bytes)),
            time(sum.time_ns),
            percent(share(sum.time_ns, report.total.time_ns)),
            time(each(sum.time_ns)),
            percent(share(sum.waited_ns, sum.time_ns)),
        ]
    });
    let columns = vec![what, "calls", "of all", "bytes", "each", "time", "of all", "each", "of it waiting"];
    Section { title, notes, columns, rows: rows.collect() }
}

fn sizes(report: &Report) -> Section {
    let used = |place: usize| report.sizes.values().any(|sizes| sizes[place] > 0.0);
    let places: Vec<usize> = (0..64).filter(|place| used(*place)).collect();
    let mut columns = vec!["up to"];
    columns.extend(report.sizes.keys());
    let rows = places.into_iter().map(|place| {
        let name = if place == 0 { "1 B".into() } else { bytes(2_f64.powi(place as i32)) };
        std::iter::once(name)
            .chain(report.sizes.values().map(|sizes| format!("{:.0}", sizes[place])))
            .collect()
    });
    Section { title: "Sizes", notes: Vec::new(), columns, rows: rows.collect() }
}

fn class_name(class: usize) -> String {
    let end = CLASS_ENDS[class.min(CLASS_ENDS.len() - 1)];
    let above = |class: usize| bytes(CLASS_ENDS[class] as f64);
    match class {
        0 => format!("up to {}", bytes(end as f64)),
        class if end == u64::MAX => format!("above {}", above(class - 1)),
        class => format!("{} to {}", above(class - 1), bytes(end as f64)),
    }
}

fn algorithm(number: u8) -> &'static str {
    match usize::from(number).checked_sub(1).and_then(|place| Algorithm::ALL.get(place)) {
        Some(algorithm) => algorithm.name(),
        None => "nothing to do",
    }
}

/// Bytes as people say them.
pub(super) fn bytes(count: f64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A time as people say it.
pub(super) fn time(ns: f64) -> String {
    if ns >= 60e9 {
        return format!("{:.1} min", ns / 60e9);
    }
    scaled(ns, 1000.0, &["ns", "us", "ms", "s"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut place = 0;
    while value >= step && place + 1 < units.len() {
        (value, place) = (value / step, place + 1);
    }
    let digits = if value >= 100.0 || place == 0 || value == value.round() {
        0
    } else {
        usize::from(value < 10.0) + 1
    };
    format!("{value:.digits$} {}", units[place])
}

/// A share as people say it.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 8.0, 1024.0, 1500.0, 1e6].map(bytes),
            ["0 B", "8 B", "1 KiB", "1.46 KiB", "977 KiB"]
        );
        assert_eq!(
            [12.4, 1234.0, 5e6, 2.5e10, 3e11].map(time),
            ["12 ns", "1.23 us", "5 ms", "25 s", "5.0 min"]
        );
        assert_eq!((0..6).map(class_name).collect::<Vec<_>>()[..2], ["up to 64 B", "64 B to 1 KiB"]);
        assert_eq!(
            (class_name(5), algorithm(3), algorithm(0)),
            ("above 4 MiB".into(), "ring", "nothing to do")
        );
    }
}
