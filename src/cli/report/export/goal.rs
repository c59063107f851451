//! GOAL, the text form that LogGOPSim and its relatives simulate: sends, receives and calculations of every rank, and
//! which requires which.
//!
//! A collective is written as the messages of the algorithm that it ran by; where a trace does not say which, by ring,
//! or by an exchange where there is no ring. Messages stand one by one, also those that shared a frame. Between two
//! batches of a rank lies a calculation as long as the pause was. What combines data takes no time there.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::batches;
use crate::cli::replay::{Group, Script};
use crate::op::Kind;
use crate::schedule::{self, Action, Algorithm, Call, Hosts, Plan};
use crate::trace::file::Operation;

/// All ranks.
pub(super) fn text(script: &Script) -> String {
    let mut text = format!("num_ranks {}\n", script.players);
    for player in 0..script.players {
        let _ = writeln!(text, "\nrank {player} {{");
        Writer { script, text: &mut text, last: 0 }.rank(player);
        text.push_str("}\n");
    }
    text
}

/// Writes what one rank does.
struct Writer<'text> {
    script: &'text Script,
    text: &'text mut String,
    /// The last label.
    last: u64,
}

impl Writer<'_> {
    fn rank(&mut self, player: usize) {
        // What the next batch requires: that all before it is done.
        let mut before = None;
        let mut end_ns = None;
        for (place, rank, batch) in batches(self.script, player) {
            let group = &self.script.groups[place];
            let batch = group.members[rank].batches[batch];
            let pause_ns = end_ns.map_or(0, |end_ns| batch.start_ns.saturating_sub(end_ns));
            end_ns = Some(batch.end_ns);
            let opening = self.label(format_args!("calc {pause_ns}"), before.as_slice());
            let mut ends = Vec::new();
            let (mut collective, mut messages) = (opening, Vec::new());
            for operation in group.members[rank].operations(&batch) {
                if operation.kind.is_point_to_point() {
                    messages.push(operation);
                    continue;
                }
                // Collectives of a group run in their order.
                let ends = self.collective(group, place, operation, rank as u32, collective);
                collective = self.label(format_args!("calc 0"), &ends);
            }
            for operation in messages {
                let (peer, bytes) = (group.members[operation.peer as usize].player, operation.bytes());
                let way = if operation.kind == Kind::Send { ("send", "to") } else { ("recv", "from") };
                ends.push(self.message(way, bytes, peer, place, &[collective]));
            }
            ends.push(collective);
            before = Some(self.label(format_args!("calc 0"), &ends));
        }
    }

    /// A line with a new label, and lines for what it requires.
    fn label(&mut self, what: std::fmt::Arguments<'_>, requires: &[u64]) -> u64 {
        self.last += 1;
        let label = self.last;
        let _ = writeln!(self.text, "l{label}: {what}");
        for other in requires {
            let _ = writeln!(self.text, "l{label} requires l{other}");
        }
        label
    }

    fn message(
        &mut self,
        (way, of): (&str, &str),
        bytes: u64,
        peer: usize,
        tag: usize,
        requires: &[u64],
    ) -> u64 {
        self.label(format_args!("{way} {bytes}b {of} {peer} tag {tag}"), requires)
    }

    /// The messages of a collective; the labels of the ends of its lanes.
    fn collective(
        &mut self,
        group: &Group,
        tag: usize,
        operation: &Operation,
        rank: u32,
        opening: u64,
    ) -> Vec<u64> {
        let Some(plan) = plan(group, operation, rank) else { return vec![opening] };
        // Labels by lane and place; a step may wait for one of a lane that comes later, so all are given first.
        let first = self.last + 1;
        self.last += plan.steps.len() as u64;
        let label = |step: usize| first + step as u64;
        let player = |peer: u32| group.members[peer as usize].player;
        let mut ends = Vec::new();
        for lane in &plan.lanes {
            let mut before = opening;
            for step in lane.first as usize..(lane.first + lane.count) as usize {
                let its = &plan.steps[step];
                let number = label(step);
                let line = match its.action {
                    Action::Send { peer, from } => {
                        format!("send {}b to {} tag {tag}", from.bytes, player(peer))
                    }
                    Action::Recv { peer, into } | Action::RecvReduce { peer, into, .. } => {
                        format!("recv {}b from {} tag {tag}", into.bytes, player(peer))
                    }
                    _ => "calc 0".into(),
                };
                let _ = writeln!(self.text, "l{number}: {line}\nl{number} requires l{before}");
                let waits = its.first_wait as usize..(its.first_wait + its.wait_count) as usize;
                for wait in &plan.waits[waits] {
                    let other = label((plan.lanes[wait.lane as usize].first + wait.index) as usize);
                    let _ = writeln!(self.text, "l{number} requires l{other}");
                }
                before = number;
            }
            ends.push(before);
        }
        ends
    }
}

fn plan(group: &Group, operation: &Operation, rank: u32) -> Option<Plan> {
    let call = Call {
        kind: operation.kind,
        data_type: operation.data_type,
        reduction: operation.reduction,
        root: operation.peer,
        count: usize::try_from(operation.count).ok()?,
        ranks: group.members.len() as u32,
        in_place: operation.in_place,
    };
    let host = |process: &str| process.rsplit_once('/').map_or(process, |(host, _)| host).to_owned();
    let mut names: Vec<String> = group.members.iter().map(|member| host(&member.process)).collect();
    let numbers = names.clone();
    names.sort_unstable();
    names.dedup();
    let number = |name: &String| names.binary_search(name).unwrap_or(0) as u32;
    let hosts = Hosts::of(numbers.iter().map(number).collect());
    let known =
        (operation.algorithm as usize).checked_sub(1).and_then(|place| Algorithm::ALL.get(place).copied());
    let candidates = known.into_iter().chain([Algorithm::Ring, Algorithm::Exchange]);
    candidates.filter_map(|algorithm| schedule::plan(algorithm, &call, rank, &hosts)).next()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;
    use crate::cli::replay::tests::{operation, script, stream};

    /// An operation of a rank: what it is, and what it requires.
    type Line = (String, Vec<u64>);

    fn read(text: &str) -> Vec<BTreeMap<u64, Line>> {
        let mut ranks: Vec<BTreeMap<u64, Line>> = Vec::new();
        let number =
            |label: &str| label.trim_start_matches('l').trim_end_matches(':').parse::<u64>().unwrap();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["rank", ..] => ranks.push(BTreeMap::new()),
                [label, "requires", other] => {
                    ranks.last_mut().unwrap().get_mut(&number(label)).unwrap().1.push(number(other));
                }
                [label, rest @ ..] if label.starts_with('l') => {
                    let is_new = ranks
                        .last_mut()
                        .unwrap()
                        .insert(number(label), (rest.join(" "), Vec::new()))
                        .is_none();
                    assert!(is_new, "{line}");
                }
                _ => {}
            }
        }
        ranks
    }

    /// Runs all ranks; the bytes that were sent.
    fn run(ranks: Vec<BTreeMap<u64, Line>>) -> u64 {
        let mut done: Vec<Vec<u64>> = vec![Vec::new(); ranks.len()];
        let mut wire: BTreeMap<(usize, usize, String), VecDeque<u64>> = BTreeMap::new();
        let (mut sent, mut has_moved) = (0, true);
        while has_moved {
            has_moved = false;
            for (rank, lines) in ranks.iter().enumerate() {
                for (label, (line, requires)) in lines {
                    if done[rank].contains(label) || requires.iter().any(|other| !done[rank].contains(other))
                    {
                        continue;
                    }
                    let words: Vec<&str> = line.split(' ').collect();
                    let bytes = words[1].trim_end_matches('b').parse::<u64>().unwrap();
                    if words[0] == "send" {
                        wire.entry((rank, words[3].parse().unwrap(), words[5].into()))
                            .or_default()
                            .push_back(bytes);
                        sent += bytes;
                    } else if words[0] == "recv" {
                        let key = (words[3].parse().unwrap(), rank, words[5].into());
                        let Some(found) = wire.get_mut(&key).and_then(VecDeque::pop_front) else { continue };
                        assert_eq!(found, bytes, "{line}");
                    }
                    done[rank].push(*label);
                    has_moved = true;
                }
            }
        }
        for (rank, lines) in ranks.iter().enumerate() {
            assert_eq!(done[rank].len(), lines.len(), "rank {rank} stands still");
        }
        assert!(wire.values().all(VecDeque::is_empty));
        sent
    }

    #[test]
    fn what_is_written_runs_to_its_end() {
        for (number, algorithm) in (0_u8..).zip([None].into_iter().chain(Algorithm::ALL.map(Some))) {
            for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()) {
                let call = Operation { algorithm: number, ..operation(kind, 40, 1) };
                let calls = |rank: u32| {
                    let (next, last) = ((rank + 1) % 4, (rank + 3) % 4);
                    [call, operation(Kind::Send, 3, next), operation(Kind::Recv, 3, last)]
                };
                let streams = (0..4).map(|rank| stream("a", rank, 4, &calls(rank)));
                let sent = run(read(&text(&script(streams.collect()))));
                assert!(sent >= 4 * 12 + 3 * 160, "{kind:?} by {algorithm:?}: {sent}");
                if kind == Kind::AllReduce && algorithm == Some(Algorithm::Ring) {
                    assert_eq!(sent, 4 * 12 + 2 * 3 * 160);
                }
            }
        }
    }
}
