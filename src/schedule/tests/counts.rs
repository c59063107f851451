//! The table of costs in the module's documentation, against real plans.

use std::collections::HashMap;

use super::{Case, InPlace, Shape};
use crate::op::{DataType, Kind, Reduction};
use crate::schedule::{Action, Algorithm, Call, Plan};

/// What plans cost if a message takes one unit of time and all else none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    /// The longest chain of messages that follow from one another.
    steps: usize,
    /// The most that one rank sends, or receives.
    messages: usize,
    bytes: usize,
}

fn cost(plans: &[Plan]) -> Cost {
    let mut sent = vec![(0, 0); plans.len()];
    let mut received = vec![(0, 0); plans.len()];
    // By rank and step: when it is done. By sender and receiver: when messages arrive.
    let mut done: Vec<Vec<Option<usize>>> = plans.iter().map(|plan| vec![None; plan.steps.len()]).collect();
    let mut lines: HashMap<(usize, usize), (Vec<usize>, usize)> = HashMap::new();
    let mut steps = 0;
    let mut has_moved = true;
    while std::mem::take(&mut has_moved) {
        for (rank, plan) in plans.iter().enumerate() {
            for lane in &plan.lanes {
                for index in lane.first as usize..(lane.first + lane.count) as usize {
                    if done[rank][index].is_some() {
                        continue;
                    }
                    let step = &plan.steps[index];
                    let waits = step.first_wait as usize..(step.first_wait + step.wait_count) as usize;
                    let before = plan.waits[waits]
                        .iter()
                        .map(|wait| done[rank][(plan.lanes[wait.lane as usize].first + wait.index) as usize]);
                    let previous = (index > lane.first as usize).then(|| done[rank][index - 1]);
                    let Some(mut time) = before.chain(previous).try_fold(0, |time, at| Some(time.max(at?)))
                    else {
                        break;
                    };
                    match step.action {
                        Action::Send { peer, from } => {
                            lines.entry((rank, peer as usize)).or_default().0.push(time + 1);
                            sent[rank] = (sent[rank].0 + 1, sent[rank].1 + from.bytes);
                        }
                        Action::Recv { peer, into } | Action::RecvReduce { peer, into, .. } => {
                            let (arrivals, taken) = lines.entry((peer as usize, rank)).or_default();
                            let Some(&arrival) = arrivals.get(*taken) else { break };
                            *taken += 1;
                            time = time.max(arrival);
                            received[rank] = (received[rank].0 + 1, received[rank].1 + into.bytes);
                        }
                        _ => {}
                    }
                    done[rank][index] = Some(time);
                    steps = steps.max(time);
                    has_moved = true;
                }
            }
        }
    }
    assert!(done.iter().flatten().all(Option::is_some), "a plan gets stuck");
    let both = sent.iter().chain(&received);
    let messages = both.clone().map(|(count, _)| *count).max().unwrap_or(0);
    Cost { steps, messages, bytes: both.map(|(_, bytes)| *bytes).max().unwrap_or(0) }
}

#[test]
fn print_costs() {
    for algorithm in Algorithm::ALL {
        for kind in Kind::ALL.into_iter().filter(|&kind| algorithm.serves(kind)) {
            let mut line = String::new();
            for ranks in [4_u32, 8, 16, 64] {
                let call = Call {
                    kind,
                    data_type: DataType::Int8,
                    reduction: Reduction::Sum,
                    root: 0,
                    count: 64 * 64,
                    ranks,
                    in_place: false,
                };
                let case = Case {
                    algorithm,
                    call,
                    in_place: InPlace::None,
                    piece_bytes: 1 << 30,
                    shape: Shape::Blocks(4),
                };
                let c = cost(&case.build().1);
                line += &format!(" | {} {} {:.4}", c.steps, c.messages, c.bytes as f64 / 4096.);
            }
            println!("{:13} {:13} {line}", algorithm.name(), kind.name());
        }
    }
}
