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

/// A formula of one-letter names, numbers, `+ - /` and brackets; what stands side by side is multiplied.
struct Formula<'a> {
    rest: &'a str,
    value_of: &'a dyn Fn(char) -> f64,
}

impl Formula<'_> {
    fn sum(&mut self) -> f64 {
        let mut sum = self.product();
        while let Some(sign) = self.take(|next| next == '+' || next == '-') {
            let next = self.product();
            sum += if sign == '+' { next } else { -next };
        }
        sum
    }

    fn product(&mut self) -> f64 {
        let mut product = self.factor();
        while let Some(next) = self.rest.trim_start().chars().next() {
            if self.take(|next| next == '/').is_some() {
                product /= self.factor();
            } else if next.is_alphanumeric() || next == '(' {
                product *= self.factor();
            } else {
                break;
            }
        }
        product
    }

    fn factor(&mut self) -> f64 {
        if self.take(|next| next == '(').is_some() {
            let inner = self.sum();
            self.take(|next| next == ')').expect("brackets close");
            return inner;
        }
        let mut number = None;
        while let Some(digit) = self.take(|next| next.is_ascii_digit()) {
            number = Some(number.unwrap_or(0.0) * 10.0 + f64::from(digit.to_digit(10).expect("a digit")));
        }
        number.unwrap_or_else(|| {
            let name = self.take(char::is_alphabetic).expect("a number or a name");
            (self.value_of)(name)
        })
    }

    fn take(&mut self, is_it: impl Fn(char) -> bool) -> Option<char> {
        let rest = self.rest.trim_start();
        let next = rest.chars().next().filter(|&next| is_it(next))?;
        self.rest = &rest[next.len_utf8()..];
        Some(next)
    }
}

/// The rows of the documented table: algorithm, operations, steps, messages, bytes.
fn rows() -> Vec<[&'static str; 5]> {
    include_str!("../mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter_map(|line| line.split('|').map(str::trim).take(5).collect::<Vec<_>>().try_into().ok())
        .skip(1)
        .collect()
}

/// Ranks per host.
const PER_HOST: u32 = 4;
/// What a count of the tests makes.
const BYTES: usize = 64 * 64;

fn hold_against(row: [&str; 5], algorithm: Algorithm, kind: Kind, ranks: u32) {
    let call = Call {
        kind,
        data_type: DataType::Int8,
        reduction: Reduction::Sum,
        root: 0,
        count: BYTES,
        ranks,
        in_place: false,
    };
    let (in_place, shape) = (InPlace::None, Shape::Blocks(PER_HOST));
    let case = Case { algorithm, call, in_place, piece_bytes: 1 << 30, shape };
    let found = cost(&case.build().1);
    let radix = if algorithm == Algorithm::Tree8 { 8_u32 } else { 4 };
    let value_of = |name: char| match name {
        'n' => f64::from(ranks),
        'm' => f64::from(PER_HOST),
        'h' => f64::from(ranks / PER_HOST),
        'p' => f64::from(ranks.ilog2()),
        'q' => f64::from((ranks / PER_HOST).ilog2()),
        'l' => f64::from(PER_HOST.ilog2()),
        'k' => f64::from(ranks.ilog(radix)),
        _ => panic!("{name} is not explained"),
    };
    let said = [row[2], row[3], row[4]].map(|text| Formula { rest: text, value_of: &value_of }.sum());
    let bytes = found.bytes as f64 / BYTES as f64;
    let found = [found.steps as f64, found.messages as f64, bytes];
    let is_alike = said.iter().zip(found).all(|(said, found)| (said - found).abs() < 1e-6);
    assert!(is_alike, "{row:?} of {ranks} ranks is {said:?}, plans have {found:?}");
}

#[test]
fn the_documented_costs_are_those_of_plans() {
    let mut forms = Vec::new();
    for row in rows() {
        let algorithm = Algorithm::named(row[0]).expect("the table names algorithms");
        for name in row[1].split_whitespace() {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).expect("an operation");
            forms.push((algorithm, kind));
            let ranks: &[u32] = match algorithm {
                Algorithm::Tree4 => &[16, 64],
                Algorithm::Tree8 => &[8, 64],
                _ => &[8, 16, 64],
            };
            ranks.iter().for_each(|&ranks| hold_against(row, algorithm, kind, ranks));
        }
    }
    for algorithm in Algorithm::ALL {
        for kind in Kind::ALL {
            let count = forms.iter().filter(|form| **form == (algorithm, kind)).count();
            assert_eq!(count, usize::from(algorithm.serves(kind)), "{algorithm:?} of {kind:?}");
        }
    }
}
