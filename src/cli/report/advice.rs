//! What to change, in order of gain. Pure. A gain is never more than the time that was measured where it would come
//! from, and where nothing measured says how much it is, the advice says so instead of a number.
#![forbid(unsafe_code)]

use super::sections::{bytes, percent, time};
use super::share;
use crate::trace::report::Report;

/// One thing to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Advice {
    pub(super) what: String,
    pub(super) why: String,
    /// The least and the most that it may save of all ranks' time together; `None`: unknown.
    pub(super) gain_ns: Option<[f64; 2]>,
    pub(super) command: String,
}

/// Less than this share of the time is not worth a word.
const WORTH: f64 = 0.01;
/// So much of the time spent waiting is much.
const MUCH_WAITING: f64 = 0.2;

/// Everything that is worth trying, what gains the most first.
pub(super) fn all(report: &Report) -> Vec<Advice> {
    let mut all: Vec<Advice> = [group(report), wait(report), packed(report), small_collectives(report)]
        .into_iter()
        .flatten()
        .collect();
    let most = |advice: &Advice| advice.gain_ns.map_or(0.0, |gain| gain[1]);
    all.sort_by(|left, right| most(right).total_cmp(&most(left)));
    all
}

/// Lone small messages right behind each other.
fn group(report: &Report) -> Option<Advice> {
    let packing = &report.packing;
    let [quarter, _, most] = packing.alone_ns?;
    let bound = packing.small.time_ns - packing.small.waited_ns;
    let gain = [quarter, most].map(|ns| (packing.near * ns).min(bound));
    (share(gain[1], report.total.time_ns) >= WORTH).then(|| Advice {
        what: "put small messages that follow each other into one group (ncclGroupStart, ncclGroupEnd)".into(),
        why: format!(
            "{} messages of at most {} were called alone, right behind another to the same rank; in one group they \
             leave as one packet",
            packing.near,
            bytes(packing.small_bytes as f64)
        ),
        gain_ns: Some(gain),
        command: "shoal bench --op exchange -m 16 --against SHOAL_COALESCE=0".into(),
    })
}

/// Ranks that come late.
fn wait(report: &Report) -> Option<Advice> {
    let (communicator, rank, longer_ns) =
        report.late().into_iter().max_by(|left, right| left.2.total_cmp(&right.2))?;
    let of = report.by_communicator.get(&communicator)?;
    let part = share(of.waited_ns, of.time_ns);
    (part >= MUCH_WAITING && longer_ns > 0.0).then(|| Advice {
        what: format!("look at what rank {rank} does between its calls"),
        why: format!(
            "{} of the time on communicator {:08x} is waiting; rank {rank} waits {} less than the others do on average, \
             so they wait for it",
            percent(part),
            communicator as u32,
            time(longer_ns)
        ),
        gain_ns: Some([0.0, longer_ns * (report.ranks.len().saturating_sub(1)) as f64]),
        command: "shoal doctor".into(),
    })
}

/// What packing does already.
fn packed(report: &Report) -> Option<Advice> {
    let packed = report.packed();
    let is_known = report.packing.alone_ns.is_some();
    (packed > 0.0 && !is_known).then(|| Advice {
        what: "measure what packing saves here".into(),
        why: format!(
            "{packed} of {} messages left in the packet of another; none was called alone, so this trace does not say \
             what one alone takes",
            report.packing.messages
        ),
        gain_ns: None,
        command: "shoal bench --op neox --against SHOAL_COALESCE=0".into(),
    })
}

/// Many small collectives, whose time is latency.
fn small_collectives(report: &Report) -> Option<Advice> {
    let is_small = |bucket: usize| bucket <= 14;
    let mut calls = 0.0;
    for (name, sizes) in &report.sizes {
        if !matches!(*name, "Send" | "Recv") {
            calls += sizes
                .iter()
                .enumerate()
                .filter(|(bucket, _)| is_small(*bucket))
                .map(|(_, calls)| calls)
                .sum::<f64>();
        }
    }
    let all: f64 = report.ranks.iter().map(|rank| rank.collectives.calls).sum();
    (share(calls, all) >= 0.3 && calls >= 100.0).then(|| Advice {
        what: "make the buckets of collectives larger, or tune the table for small ones".into(),
        why: format!(
            "{} of the collectives carry at most 16 KiB, where the call costs more than the bytes",
            percent(share(calls, all))
        ),
        gain_ns: None,
        command: "shoal tune --budget 2m".into(),
    })
}
