//! Small collectives of one group run at once.
//!
//! One by one, each collective waits for its last packet before the next one begins, so a group of n pays n times for
//! the way there and back. As one plan it pays once: what one sends to a peer leaves behind what those before it
//! send there, and nothing waits but for the bytes that it needs.
//!
//! ```text
//! for each collective, in order:  for each of its lanes:  append it to the lane of the same peer and direction
//! ```
//! 1. On every line the same packets follow one another as one by one, each with its own head; so a peer cannot see
//!    the difference, and may itself run them as it likes.
//! 2. A step waits for what it waited for within its own collective, and for the steps in front of it in its lane:
//!    less than one by one, where it waited for everything before. So what finishes one by one finishes at once.
//! 3. Each collective keeps its algorithm and its order of sums, so the bits are those of one by one.
//! 4. All this holds if no collective touches what another one writes. That is known only when the addresses are
//!    ([`Claims`]); a plan by shape is therefore kept in both forms.

use crate::op::{Address, Kind, Op, Reduction, Shape};
use crate::schedule::{Action, Lane, Plan, Range, Step, Wait};

use super::Limits;

/// Collectives of up to so many bytes, all of a rank's source or target together, run at once. Measured near, two ranks,
/// 64 allgathers of a group at once against one by one: 8 B 1.37 times as fast, 256 B 1.29, 1 KiB 0.88, from 4 KiB on
/// the same. Packets that do not fit into their slots wait for the copies of those before them either way.
pub const FUSED_BYTES: usize = 512;
/// The most collectives that run at once: a bound for scratch memory, and for what is looked through.
pub const FUSED_COUNT: usize = 256;
/// The buffers of one collective are numbered apart from those of the next by this.
const BUFFERS_SHIFT: u32 = 2;

/// Whether a collective is small enough to run at once with its neighbours.
#[must_use]
pub fn may_fuse(shape: &Shape, ranks: u32, limits: Limits) -> bool {
    let [read_bytes, written_bytes] = touched_bytes(shape, ranks);
    // The scalar of a PreMulSum may be what a collective before it writes.
    limits.message_bytes > 0
        && !shape.manner.is_alone()
        && shape.reduction != Reduction::PreMulSum
        && read_bytes.max(written_bytes) <= FUSED_BYTES
}

/// The collective of a step, by its place among those that run at once.
#[must_use]
#[inline]
pub const fn owner(action: &Action) -> usize {
    let range = match action {
        Action::Send { from, .. } => from,
        Action::Recv { into, .. }
        | Action::RecvReduce { into, .. }
        | Action::Copy { into, .. }
        | Action::Reduce { into, .. }
        | Action::Scale { into, .. } => into,
        Action::Divide { range } => range,
        Action::SendFrame { .. } | Action::RecvMessages { .. } => return 0,
    };
    (range.buffer >> BUFFERS_SHIFT) as usize
}

/// The buffer as its own collective numbers it.
#[must_use]
#[inline]
pub const fn buffer(range: Range) -> usize {
    (range.buffer & ((1 << BUFFERS_SHIFT) - 1)) as usize
}

/// One plan that does the work of all.
#[must_use]
pub fn fuse<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> Plan {
    let mut lanes: Vec<(Way, Vec<Step>)> = Vec::new();
    let mut fused = Plan { algorithm: "fused", ..Plan::default() };
    for (owner, plan) in (0..).zip(plans) {
        let steps = |lane: &Lane| &plan.steps[lane.first as usize..][..lane.count as usize];
        // Where each lane of the plan goes on: in which lane, behind how many steps.
        let mut places: Vec<Wait> = Vec::with_capacity(plan.lanes.len());
        for lane in &plan.lanes {
            let way = steps(lane).first().map_or(Way::Local, |step| Way::of(&step.action));
            let place = lanes.iter().position(|(known, _)| *known == way).unwrap_or_else(|| {
                lanes.push((way, Vec::new()));
                lanes.len() - 1
            });
            places.push(Wait { lane: place as u32, index: lanes[place].1.len() as u32 });
        }
        for (lane, place) in plan.lanes.iter().zip(&places) {
            for step in steps(lane) {
                let waits = &plan.waits[step.first_wait as usize..][..step.wait_count as usize];
                let first_wait = fused.waits.len() as u32;
                fused.waits.extend(waits.iter().map(|wait| {
                    let Wait { lane, index } = places[wait.lane as usize];
                    Wait { lane, index: index + wait.index }
                }));
                let action = owned(step.action, owner);
                lanes[place.lane as usize].1.push(Step { action, first_wait, wait_count: step.wait_count });
            }
        }
    }
    for (_, steps) in lanes {
        fused.lanes.push(Lane { first: fused.steps.len() as u32, count: steps.len() as u32 });
        fused.steps.extend(steps);
    }
    fused
}

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    To(u32),
    From(u32),
    Local,
}

impl Way {
    const fn of(action: &Action) -> Way {
        match *action {
            Action::Send { peer, .. } | Action::SendFrame { peer, .. } => Way::To(peer),
            Action::Recv { peer, .. }
            | Action::RecvReduce { peer, .. }
            | Action::RecvMessages { peer, .. } => Way::From(peer),
            _ => Way::Local,
        }
    }
}

/// The same action on the buffers of the collective at that place.
fn owned(action: Action, owner: u32) -> Action {
    let own = |range: Range| range.of(owner << BUFFERS_SHIFT | range.buffer);
    match action {
        Action::Send { peer, from } => Action::Send { peer, from: own(from) },
        Action::Recv { peer, into } => Action::Recv { peer, into: own(into) },
        Action::RecvReduce { peer, with, into, incoming_first } => {
            Action::RecvReduce { peer, with: own(with), into: own(into), incoming_first }
        }
        Action::Copy { from, into } => Action::Copy { from: own(from), into: own(into) },
        Action::Reduce { left, right, into } => {
            Action::Reduce { left: own(left), right: own(right), into: own(into) }
        }
        Action::Scale { from, into } => Action::Scale { from: own(from), into: own(into) },
        Action::Divide { range } => Action::Divide { range: own(range) },
        Action::SendFrame { .. } | Action::RecvMessages { .. } => action,
    }
}

/// The bytes that a rank may read and write for a collective.
fn touched_bytes(shape: &Shape, ranks: u32) -> [usize; 2] {
    let (one, all) = (shape.bytes(), shape.bytes().saturating_mul(ranks as usize));
    match shape.kind {
        Kind::AllGather | Kind::Gather => [one, all],
        Kind::ReduceScatter | Kind::Scatter => [all, one],
        Kind::AlltoAll => [all, all],
        _ => [one, one],
    }
}

/// Who touches which memory, among collectives that would run at once.
#[derive(Debug, Default)]
pub struct Claims {
    read: Vec<Claim>,
    written: Vec<Claim>,
}

/// Bytes of memory, and whose.
#[derive(Clone, Copy, Debug)]
struct Claim {
    start: usize,
    end: usize,
    owner: u32,
}

impl Claim {
    fn new(place: Address, bytes: usize, owner: u32) -> Claim {
        Claim { start: place.0, end: place.0.saturating_add(bytes), owner }
    }
}

impl Claims {
    /// Whether none of these collectives of `rank` writes what another one touches.
    pub fn are_apart<'a>(&mut self, ops: impl Iterator<Item = &'a Op>, rank: u32, ranks: u32) -> bool {
        self.read.clear();
        self.written.clear();
        for (owner, op) in (0..).zip(ops) {
            let [read_bytes, written_bytes] = touched_bytes(&op.shape, ranks);
            let is_root = op.shape.peer == rank;
            if is_root || !matches!(op.shape.kind, Kind::Broadcast | Kind::Scatter) {
                self.read.push(Claim::new(op.source, read_bytes, owner));
            }
            if is_root || !matches!(op.shape.kind, Kind::Reduce | Kind::Gather) {
                self.written.push(Claim::new(op.target, written_bytes, owner));
            }
        }
        // Mostly in order already, which a sort sees in passing.
        self.written.sort_unstable_by_key(|claim| claim.start);
        let mut neighbours = self.written.iter().zip(self.written.iter().skip(1));
        neighbours.all(|(one, next)| one.end <= next.start) && self.read.iter().all(|read| self.is_free(read))
    }

    /// Whether nobody else writes what is read. What is written is apart and in order.
    fn is_free(&self, read: &Claim) -> bool {
        let first = self.written.partition_point(|claim| claim.end <= read.start);
        let mut met = self.written[first..].iter().take_while(|claim| claim.start < read.end);
        met.all(|claim| claim.owner == read.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Manner, Scalar};
    use crate::schedule::{self, Algorithm, Call, Hosts};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { message_bytes: 1024, frame_bytes: 16384 };

    fn plans(choices: &[(u8, u8, usize)], ranks: u32, rank: u32) -> Vec<Plan> {
        let plan = |&(kind, algorithm, count): &(u8, u8, usize)| {
            let kind = Kind::ALL[usize::from(kind) % 8];
            let algorithm = Algorithm::ALL[usize::from(algorithm) % Algorithm::ALL.len()];
            let call = Call {
                kind,
                data_type: DataType::Float32,
                reduction: Reduction::Sum,
                root: count as u32 % ranks,
                count,
                ranks,
                in_place: false,
            };
            schedule::plan_in_pieces(algorithm, &call, rank, &Hosts::of(vec![0; ranks as usize]), 64)
        };
        choices.iter().filter_map(plan).collect()
    }

    /// Every step by its lane and its number there.
    fn steps(plan: &Plan) -> impl Iterator<Item = (Wait, &Step)> {
        (0..).zip(&plan.lanes).flat_map(|(lane, Lane { first, count })| {
            let steps = &plan.steps[*first as usize..][..*count as usize];
            (0..).zip(steps).map(move |(index, step)| (Wait { lane, index }, step))
        })
    }

    fn waits<'a>(plan: &'a Plan, step: &Step) -> &'a [Wait] {
        &plan.waits[step.first_wait as usize..][..step.wait_count as usize]
    }

    proptest! {
        #[test]
        fn lines_carry_what_they_carry_one_by_one_and_steps_wait_for_their_own(
            choices in prop::collection::vec((any::<u8>(), any::<u8>(), 1usize..60), 1..6),
            ranks in 2u32..6, rank in 0u32..6,
        ) {
            let plans = plans(&choices, ranks, rank % ranks);
            let fused = fuse(&plans);
            // Lane by lane the plans one behind the other.
            let mut ways: Vec<Way> = Vec::new();
            for lane in &fused.lanes {
                let way = Way::of(&fused.steps[lane.first as usize].action);
                prop_assert!(!ways.contains(&way), "two lanes of one way");
                ways.push(way);
                let is_mine = |step: &&Step| Way::of(&step.action) == way;
                let apart = (0..).zip(&plans).flat_map(|(owner, plan)| {
                    let mine = steps(plan).map(|(_, step)| step).filter(is_mine);
                    mine.map(move |step| owned(step.action, owner)).collect::<Vec<_>>()
                });
                let together = steps(&fused).map(|(_, step)| step).filter(is_mine).map(|step| step.action);
                prop_assert!(apart.eq(together));
            }
            prop_assert_eq!(fused.steps.len(), plans.iter().map(|plan| plan.steps.len()).sum::<usize>());
            // The steps of a plan in the fused one, in the same order of lanes; each waits for the same steps.
            for (owner_place, plan) in plans.iter().enumerate() {
                let place_of = |wait: &Wait| {
                    let way = Way::of(&plan.steps[plan.lanes[wait.lane as usize].first as usize].action);
                    let mut mine = steps(&fused).filter(|(_, step)| {
                        Way::of(&step.action) == way && owner(&step.action) == owner_place
                    });
                    mine.nth(wait.index as usize).expect("it is there")
                };
                for (place, step) in steps(plan) {
                    let (_, twin) = place_of(&place);
                    let expected: Vec<Wait> = waits(plan, step).iter().map(|wait| place_of(wait).0).collect();
                    prop_assert_eq!(waits(&fused, twin), expected);
                }
            }
        }

        #[test]
        fn claims_agree_with_every_byte_by_itself(
            calls in prop::collection::vec((0u8..8, 0usize..40, 0usize..40, 1usize..4, 0u32..3), 0..5),
        ) {
            let op = |&(kind, source, target, count, root): &(u8, usize, usize, usize, u32)| Op {
                shape: Shape {
                    count,
                    peer: root,
                    kind: Kind::ALL[usize::from(kind)],
                    data_type: DataType::Int8,
                    reduction: Reduction::Sum,
                    manner: Manner::PLAIN,
                },
                source: Address(source),
                target: Address(target),
                scalar: Scalar::None,
            };
            let ops: Vec<Op> = calls.iter().map(op).collect();
            // By byte: who reads it, who writes it.
            let touched = |op: &Op, byte: usize| {
                let (count, all) = (op.bytes(), 3 * op.bytes());
                let is_root = op.shape.peer == 1;
                let (reads, writes) = match op.shape.kind {
                    Kind::AllReduce => (count, count),
                    Kind::Reduce => (count, if is_root { count } else { 0 }),
                    Kind::Broadcast => (if is_root { count } else { 0 }, count),
                    Kind::AllGather => (count, all),
                    Kind::ReduceScatter => (all, count),
                    Kind::AlltoAll => (all, all),
                    Kind::Gather => (count, if is_root { all } else { 0 }),
                    _ => (if is_root { all } else { 0 }, count),
                };
                let within = |start: usize, bytes: usize| (start..start + bytes).contains(&byte);
                (within(op.source.0, reads), within(op.target.0, writes))
            };
            let clash = (0..100).any(|byte| {
                ops.iter().enumerate().any(|(place, op)| touched(op, byte).1
                    && ops.iter().enumerate().any(|(other, next)| {
                        let (reads, writes) = touched(next, byte);
                        other != place && (reads || writes)
                    }))
            });
            prop_assert_eq!(Claims::default().are_apart(ops.iter(), 1, 3), !clash);
        }
    }

    #[test]
    fn only_small_ones_without_a_scalar_of_their_own_run_at_once() {
        let shape = |kind, count, reduction| Shape {
            count,
            peer: 0,
            kind,
            data_type: DataType::Int8,
            reduction,
            manner: Manner::PLAIN,
        };
        let may = |kind, count| may_fuse(&shape(kind, count, Reduction::Sum), 4, LIMITS);
        assert!(may(Kind::AllReduce, FUSED_BYTES) && !may(Kind::AllReduce, FUSED_BYTES + 1));
        assert!(may(Kind::AllGather, FUSED_BYTES / 4) && !may(Kind::ReduceScatter, FUSED_BYTES / 4 + 1));
        assert!(!may_fuse(&shape(Kind::AllReduce, 1, Reduction::PreMulSum), 4, LIMITS));
        assert!(!may_fuse(&shape(Kind::AllReduce, 1, Reduction::Sum).alone(), 4, LIMITS));
        let off = Limits { message_bytes: 0, ..LIMITS };
        assert!(!may_fuse(&shape(Kind::AllReduce, 1, Reduction::Sum), 4, off));
    }
}
