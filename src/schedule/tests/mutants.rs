//! Mutants of plans, to see that the checker sees what the bytes show.

use super::{Case, execute, some_case};
use crate::schedule::check::{Post, check, check_messages};
use crate::schedule::naive::{Random, World};
use crate::schedule::{Action, Lane, Plan, Range, Step, Wait};

/// A plan that is easy to change: lanes of actions with their waits.
type Loose = Vec<Vec<(Action, Vec<Wait>)>>;

fn loosen(plan: &Plan) -> Loose {
    let step = |step: &Step| {
        let waits = step.first_wait as usize..(step.first_wait + step.wait_count) as usize;
        (step.action, plan.waits[waits].to_vec())
    };
    let lane = |lane: &Lane| {
        plan.steps[lane.first as usize..(lane.first + lane.count) as usize].iter().map(step).collect()
    };
    plan.lanes.iter().map(lane).collect()
}

fn tighten(plan: &Plan, loose: &Loose) -> Plan {
    let mut tight = Plan { steps: vec![], lanes: vec![], waits: vec![], ..plan.clone() };
    for lane in loose {
        tight.lanes.push(Lane { first: tight.steps.len() as u32, count: lane.len() as u32 });
        for (action, waits) in lane {
            let first_wait = tight.waits.len() as u32;
            tight.waits.extend(waits);
            tight.steps.push(Step { action: *action, first_wait, wait_count: waits.len() as u32 });
        }
    }
    tight
}

/// Takes a step out; waits for it become waits for the one before it.
fn drop_step(loose: &mut Loose, lane: usize, index: usize) {
    loose[lane].remove(index);
    let is_gone = loose[lane].is_empty();
    for (_, waits) in loose.iter_mut().flatten() {
        waits.retain(|wait| wait.lane as usize != lane || wait.index as usize != index || index > 0);
        for wait in waits {
            if wait.lane as usize == lane && wait.index as usize >= index {
                wait.index -= 1;
            }
            if is_gone && wait.lane as usize > lane {
                wait.lane -= 1;
            }
        }
    }
    if is_gone {
        loose.remove(lane);
    }
}

fn change_range(random: &mut Random, range: &mut Range, element: usize) {
    match random.below(5) {
        0 => range.offset += element,
        1 => range.offset = range.offset.saturating_sub(element),
        2 => range.bytes += element,
        3 => range.bytes = range.bytes.saturating_sub(element),
        _ => range.buffer = (range.buffer + 1 + random.below(2) as u32) % 3,
    }
}

fn change_action(random: &mut Random, action: &mut Action, ranks: u32, element: usize) {
    let other_peer = (random.below(ranks as usize)) as u32;
    let is_peer = random.below(4) == 0;
    match action {
        Action::Send { peer, .. }
        | Action::SendFrame { peer, .. }
        | Action::Recv { peer, .. }
        | Action::RecvMessages { peer, .. }
        | Action::RecvReduce { peer, .. }
            if is_peer =>
        {
            *peer = other_peer;
        }
        Action::Send { from: range, .. } | Action::Recv { into: range, .. } | Action::Divide { range } => {
            change_range(random, range, element);
        }
        Action::RecvReduce { with: from, into, .. }
        | Action::Copy { from, into }
        | Action::Scale { from, into } => {
            let range = if random.below(2) == 0 { from } else { into };
            change_range(random, range, element);
        }
        Action::Reduce { left, right, into } => {
            let range = [left, right, into].into_iter().nth(random.below(3)).expect("there are three");
            change_range(random, range, element);
        }
        Action::RecvMessages { first, count, .. } => match random.below(3) {
            0 => *first += 1,
            1 => *first = first.saturating_sub(1),
            _ if random.below(2) == 0 => *count += 1,
            _ => *count = count.saturating_sub(1).max(1),
        },
        Action::SendFrame { first, count, bytes, .. } => match random.below(4) {
            0 => *first += 1,
            1 => *first = first.saturating_sub(1),
            2 => *count += 1,
            _ if random.below(2) == 0 => *count = count.saturating_sub(1).max(1),
            _ => *bytes += element,
        },
    }
}

/// The plan with one thing changed.
fn mutate(random: &mut Random, plan: &Plan, ranks: u32, element: usize) -> Plan {
    let mut loose = loosen(plan);
    if loose.is_empty() {
        return plan.clone();
    }
    let lane = random.below(loose.len());
    let index = random.below(loose[lane].len());
    let any_lane = random.below(loose.len());
    let any_wait = Wait { lane: any_lane as u32, index: random.below(loose[any_lane].len()) as u32 };
    match random.below(8) {
        0 => drop_step(&mut loose, lane, index),
        1 => {
            let other = random.below(loose[lane].len());
            loose[lane].swap(index, other);
        }
        2 => {
            let twice = loose[lane][index].clone();
            loose[lane].insert(index, twice);
        }
        3 => loose[lane][index].1.push(any_wait),
        4 | 5 => change_action(random, &mut loose[lane][index].0, ranks, element),
        _ => {
            let waiting: Vec<&mut Vec<Wait>> = loose
                .iter_mut()
                .flatten()
                .map(|step| &mut step.1)
                .filter(|waits| !waits.is_empty())
                .collect();
            let count = waiting.len();
            if let Some(waits) = waiting.into_iter().nth(random.below(count)) {
                let which = random.below(waits.len());
                if random.below(3) == 0 && waits[which].index > 0 {
                    waits[which].index -= 1;
                } else {
                    waits.remove(which);
                }
            }
        }
    }
    tighten(plan, &loose)
}

/// Of mutants, how many showed on bytes, and how many were refused.
#[derive(Debug, Default)]
struct Tally {
    shown: usize,
    refused: usize,
}

impl Tally {
    /// `shows`: whether the bytes of some unkind run are wrong, or it gets stuck, by seed.
    fn add(&mut self, is_refused: bool, shows: impl Fn(u64) -> bool, what: impl std::fmt::Debug) {
        self.refused += usize::from(is_refused);
        if (0..6).any(shows) {
            self.shown += 1;
            assert!(is_refused, "a mutant was not seen: {what:?}");
        }
    }
}

/// Mutants of collectives; those that show on bytes must be refused.
fn hunt(seed: u64, count: usize, tally: &mut Tally) {
    let mut random = Random(seed);
    for number in 0..count {
        let ranks = 2 + random.below(5) as u32;
        let case: Case = some_case(&mut random, ranks, &[1, 5, 12, 40], &[16, 32]);
        let (calls, mut plans) = case.build();
        let rank = random.below(plans.len());
        let element = calls[rank].data_type.size_bytes();
        plans[rank] = mutate(&mut random, &plans[rank], ranks, element);
        let is_refused = check(&calls, &plans).is_err();
        tally.add(is_refused, |seed| execute(&calls, &plans, seed).is_err(), (number, rank, case));
    }
}

/// A batch of messages on every rank, and plans with frames at random.
fn some_messages(random: &mut Random) -> (Vec<Vec<Post>>, Vec<Plan>) {
    let ranks = 2 + random.below(3);
    let mut posts = vec![Vec::new(); ranks];
    for _ in 0..2 + random.below(12) {
        let (from, to) = (random.below(ranks), random.below(ranks));
        if from != to {
            let bytes = random.pick(&[0, 1, 4, 4, 4, 9]);
            posts[from].push(Post { is_send: true, peer: to as u32, bytes });
            posts[to].push(Post { is_send: false, peer: from as u32, bytes });
        }
    }
    let plans = posts.iter().map(|posts| framed(random, posts, ranks as u32)).collect();
    (posts, plans)
}

fn framed(random: &mut Random, posts: &[Post], ranks: u32) -> Plan {
    let mut plan = Plan { algorithm: "messages", ..Plan::default() };
    for (peer, is_send) in (0..ranks).flat_map(|peer| [(peer, true), (peer, false)]) {
        let of = (0..).zip(posts).filter(|(_, post)| post.peer == peer && post.is_send == is_send);
        let mut ranges: Vec<Range> = of.map(|(buffer, post)| Range::new(buffer, 0, post.bytes)).collect();
        let first_step = plan.steps.len() as u32;
        while !ranges.is_empty() {
            let frame: Vec<Range> = ranges.drain(..ranges.len().min(1 + random.below(4))).collect();
            let (first, count) = (plan.messages.len() as u32, frame.len() as u32);
            let action = match frame[..] {
                [from] if is_send => Action::Send { peer, from },
                [into] if random.below(2) == 0 => Action::Recv { peer, into },
                _ if !is_send => Action::RecvMessages { peer, first, count },
                _ => {
                    let bytes = frame.iter().map(|range| range.bytes + 4).sum();
                    Action::SendFrame { peer, first, count, bytes }
                }
            };
            plan.steps.push(Step { action, first_wait: 0, wait_count: 0 });
            plan.lengths.extend(frame.iter().flat_map(|range| (range.bytes as u32).to_le_bytes()));
            plan.messages.extend(frame);
        }
        let count = plan.steps.len() as u32 - first_step;
        if count > 0 {
            plan.lanes.push(Lane { first: first_step, count });
        }
    }
    plan
}

/// Mutants of batches of messages; those that show on bytes must be refused.
fn hunt_messages(seed: u64, count: usize, tally: &mut Tally) {
    let mut random = Random(seed);
    for number in 0..count {
        let (posts, mut plans) = some_messages(&mut random);
        check_messages(&posts, &plans).expect("it is right");
        let rank = random.below(plans.len());
        plans[rank] = mutate(&mut random, &plans[rank], posts.len() as u32, 1);
        if random.below(4) == 0 && !plans[rank].messages.is_empty() {
            let which = random.below(plans[rank].messages.len());
            change_range(&mut random, &mut plans[rank].messages[which], 1);
            let length = (plans[rank].messages[which].bytes as u32).to_le_bytes();
            plans[rank].lengths[which * 4..which * 4 + 4].copy_from_slice(&length);
        }
        let is_refused = check_messages(&posts, &plans).is_err();
        let shows = |seed: u64| {
            World::of_messages(&posts, &plans, seed, [0, 1, 1000][(seed % 3) as usize]).run().is_err()
        };
        tally.add(is_refused, shows, (number, rank, &posts));
    }
}

/// How many mutants of each sort: a share, or with `SHOAL_TEST_CAMPAIGN=full` all.
fn mutant_count() -> usize {
    if super::is_full_campaign() { 40_000 } else { 2000 }
}

#[test]
fn mutants_that_show_are_refused() {
    let mut tally = Tally::default();
    for seed in 0..mutant_count() / 500 {
        hunt(4 + seed as u64, 500, &mut tally);
    }
    println!("{} showed, {} were refused", tally.shown, tally.refused);
    assert!(tally.shown > mutant_count() / 3, "{tally:?}");
}

#[test]
fn mutants_of_messages_that_show_are_refused() {
    let mut tally = Tally::default();
    for seed in 0..mutant_count() / 500 {
        hunt_messages(4 + seed as u64, 500, &mut tally);
    }
    println!("{} showed, {} were refused", tally.shown, tally.refused);
    assert!(tally.shown > mutant_count() / 3, "{tally:?}");
}
