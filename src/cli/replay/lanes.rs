//! In which order a player plays. Pure.
//!
//! If no two batches of different communicators overlapped, one lane plays all in the order of their beginnings. Else
//! each communicator gets a lane, and a batch waits for those of other lanes that had ended before it began. What was
//! recorded kept this order itself, so waiting for it cannot be what stops a replay.
#![forbid(unsafe_code)]

use super::script::{Batch, Script};

/// A batch waits until another lane has done so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// The place of the batch in its lane.
    pub(super) turn: usize,
    pub(super) lane: usize,
    pub(super) count: usize,
}

/// What one thread plays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// Communicators, and the places of their batches.
    pub(super) turns: Vec<(usize, usize)>,
    /// By the place of the batch that waits.
    pub(super) needs: Vec<Need>,
}

/// The lanes of a player.
pub(super) fn lanes(script: &Script, player: usize) -> Vec<Lane> {
    let of_player = |group: usize| {
        let members = &script.groups[group].members;
        members.iter().find(|member| member.player == player).map(|member| member.batches.as_slice())
    };
    let parts: Vec<(usize, &[Batch])> =
        (0..script.groups.len()).filter_map(|group| Some((group, of_player(group)?))).collect();
    match one(&parts) {
        Some(lane) => vec![lane],
        None => apart(&parts),
    }
}

/// All in one lane, unless batches of different communicators overlap.
fn one(parts: &[(usize, &[Batch])]) -> Option<Lane> {
    let mut all: Vec<(u64, usize, usize, u64)> = Vec::new();
    for (group, batches) in parts {
        let mut latest_ns = 0;
        for (place, batch) in batches.iter().enumerate() {
            // Within a communicator the order of the calls counts.
            latest_ns = batch.start_ns.max(latest_ns);
            all.push((latest_ns, *group, place, batch.end_ns));
        }
    }
    all.sort_unstable();
    let (mut end_ns, mut before) = (0, usize::MAX);
    for (start_ns, group, _, its_end_ns) in &all {
        if *group != before && before != usize::MAX && *start_ns < end_ns {
            return None;
        }
        (end_ns, before) = (end_ns.max(*its_end_ns), *group);
    }
    let turns = all.into_iter().map(|(_, group, place, _)| (group, place)).collect();
    Some(Lane { turns, needs: Vec::new() })
}

/// A lane for each communicator.
fn apart(parts: &[(usize, &[Batch])]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for (lane, (group, batches)) in parts.iter().enumerate() {
        let mut done = vec![0; parts.len()];
        let mut needs = Vec::new();
        for (turn, batch) in batches.iter().enumerate() {
            for (other, (_, others)) in parts.iter().enumerate().filter(|(other, _)| *other != lane) {
                let before = done[other];
                while others.get(done[other]).is_some_and(|one| one.end_ns <= batch.start_ns) {
                    done[other] += 1;
                }
                if done[other] > before {
                    needs.push(Need { turn, lane: other, count: done[other] });
                }
            }
        }
        lanes.push(Lane { turns: (0..batches.len()).map(|place| (*group, place)).collect(), needs });
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(times: &[(u64, u64)]) -> Vec<Batch> {
        times
            .iter()
            .map(|(start_ns, end_ns)| Batch { definition: 0, start_ns: *start_ns, end_ns: *end_ns })
            .collect()
    }

    #[test]
    fn what_does_not_overlap_is_one_lane() {
        let (first, second) = (batches(&[(0, 10), (30, 40)]), batches(&[(10, 20), (20, 30), (50, 60)]));
        let lane = one(&[(4, &first), (7, &second)]).unwrap();
        assert_eq!(lane.turns, [(4, 0), (7, 0), (7, 1), (4, 1), (7, 2)]);
        // Batches of one communicator may.
        let (first, second) = (batches(&[(0, 10), (5, 12), (5, 12)]), batches(&[(12, 20)]));
        assert_eq!(one(&[(0, &first), (1, &second)]).unwrap().turns.len(), 4);
    }

    #[test]
    fn what_overlaps_waits_for_what_had_ended() {
        let (first, second) =
            (batches(&[(0, 10), (15, 40), (70, 80)]), batches(&[(12, 20), (20, 30), (50, 60)]));
        let parts = [(0, first.as_slice()), (1, second.as_slice())];
        assert_eq!(one(&parts), None);
        let lanes = apart(&parts);
        assert_eq!(lanes[0].needs, [Need { turn: 2, lane: 1, count: 3 }]);
        assert_eq!(
            lanes[1].needs,
            [Need { turn: 0, lane: 0, count: 1 }, Need { turn: 2, lane: 0, count: 2 }]
        );
        assert_eq!(lanes[1].turns, [(1, 0), (1, 1), (1, 2)]);
    }
}
