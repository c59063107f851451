//! From a sequential program over byte ranges to lanes and waits.
//!
//! ```text
//! step(action):
//!     append it to its lane: what is sent to a peer, what comes from it, local work
//!     for every byte it reads:    wait for the last step that wrote it
//!     for every byte it writes:   wait for the steps that read it since, else for the last that wrote it
//!     keep of every lane only the latest wait, and only if the own lane has not waited for it before
//! ```
//! 1. A writer need not wait for the writer before it if someone read in between: the reader waited for it.
//! 2. Bytes are remembered as segments that were touched alike, so the work follows the number of segments
//!    and not that of pairs of steps.
//! 3. A source that shares no memory with the target is never written, and is not remembered at all.
#![forbid(unsafe_code)]

mod memory;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use memory::Memory;

use super::{Action, Call, Lane, Plan, Range, SCRATCH, SOURCE, Step, TARGET, Wait};
use crate::op::Kind;

/// Scratch is handed out in multiples of this, so that two ranges of it share no cache line.
const SCRATCH_ALIGNMENT_BYTES: usize = 64;

/// Local copies are cut to this, so that packets are looked after in between; but no copy into more steps than
/// [`MOST_COPIES`], and twice as coarsely for every so many copies that the plan has already.
const COPY_BYTES: usize = 256 << 10;
const MOST_COPIES: usize = 4096;

/// A step that later ones can be put behind; nothing where the step had no bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(Option<u32>);

/// Writes a plan; see the module's words.
#[derive(Debug)]
pub struct Builder {
    algorithm: &'static str,
    shared: Shared,
    steps: Vec<Draft>,
    waits: Vec<Wait>,
    lane_counts: Vec<u32>,
    lanes: HashMap<LaneKey, u32, Quick>,
    /// How many steps of the second lane are known to be done when the first lane goes on.
    known: HashMap<(u32, u32), u32, Quick>,
    memory: [Memory; 3],
    scratch_bytes: usize,
    copy_count: usize,
    /// Reused between steps.
    needed: Vec<u32>,
}

/// Keys are small numbers of our own making; a multiplication spreads them.
type Quick = BuildHasherDefault<Mixer>;

#[derive(Clone, Copy, Debug, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

#[derive(Debug)]
struct Draft {
    step: Step,
    lane: u32,
    index: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LaneKey {
    To(u32),
    From(u32),
    Local,
}

/// Which buffer is a part of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    Nothing,
    SourceInTarget(usize),
    TargetInSource(usize),
}

impl Shared {
    fn of(call: &Call, rank: u32) -> Shared {
        let at = |index: u32| index as usize * call.bytes();
        let is_root = rank == call.root;
        match call.kind {
            _ if !call.in_place => Shared::Nothing,
            Kind::AllReduce => Shared::SourceInTarget(0),
            Kind::Reduce | Kind::Broadcast if is_root => Shared::SourceInTarget(0),
            Kind::AllGather => Shared::SourceInTarget(at(rank)),
            Kind::Gather if is_root => Shared::SourceInTarget(at(rank)),
            Kind::ReduceScatter => Shared::TargetInSource(at(rank)),
            Kind::Scatter if is_root => Shared::TargetInSource(at(rank)),
            _ => Shared::Nothing,
        }
    }

    /// The one name of bytes that have two.
    fn name(self, range: Range) -> Range {
        match self {
            Shared::SourceInTarget(at) if range.buffer == SOURCE => {
                Range::new(TARGET, range.offset + at, range.bytes)
            }
            Shared::TargetInSource(at) if range.buffer == TARGET => {
                Range::new(SOURCE, range.offset + at, range.bytes)
            }
            _ => range,
        }
    }
}

impl Builder {
    /// An empty program of `rank` for `call`.
    #[must_use]
    pub fn new(call: &Call, rank: u32, algorithm: &'static str) -> Builder {
        Builder {
            algorithm,
            shared: Shared::of(call, rank),
            steps: Vec::new(),
            waits: Vec::new(),
            lane_counts: Vec::new(),
            lanes: HashMap::default(),
            known: HashMap::default(),
            memory: Default::default(),
            scratch_bytes: 0,
            copy_count: 0,
            needed: Vec::new(),
        }
    }

    /// Memory of ours.
    pub fn scratch(&mut self, bytes: usize) -> Range {
        let range = Range::new(SCRATCH, self.scratch_bytes, bytes);
        self.scratch_bytes += bytes.next_multiple_of(SCRATCH_ALIGNMENT_BYTES);
        range
    }

    /// One packet to `peer`.
    pub fn send(&mut self, peer: u32, range: Range) -> Mark {
        self.send_behind(peer, range, Mark(None))
    }

    /// One packet to `peer`, which does not leave before `earlier` is done.
    pub fn send_behind(&mut self, peer: u32, range: Range, earlier: Mark) -> Mark {
        let from = self.shared.name(range);
        self.push(LaneKey::To(peer), Action::Send { peer, from }, &[from], None, earlier)
    }

    /// The next packet from `peer`.
    pub fn recv(&mut self, peer: u32, range: Range) -> Mark {
        let into = self.shared.name(range);
        self.push(LaneKey::From(peer), Action::Recv { peer, into }, &[], Some(into), Mark(None))
    }

    /// The next packet from `peer`, combined with `with` on the way; see [`Action::RecvReduce`].
    pub fn recv_reduce(&mut self, peer: u32, with: Range, into: Range, incoming_first: bool) -> Mark {
        let (with, into) = (self.shared.name(with), self.shared.name(into));
        let action = Action::RecvReduce { peer, with, into, incoming_first };
        self.push(LaneKey::From(peer), action, &[with], Some(into), Mark(None))
    }

    /// `into = from`; nothing where the two are the same bytes.
    pub fn copy(&mut self, from: Range, into: Range) -> Mark {
        let (from, into) = (self.shared.name(from), self.shared.name(into));
        let mut mark = Mark(None);
        if from == into {
            return mark;
        }
        let coarse_bytes = COPY_BYTES << (self.copy_count / MOST_COPIES).min(30);
        let most_bytes = coarse_bytes.max(from.bytes.div_ceil(MOST_COPIES).next_multiple_of(8));
        self.copy_count += from.bytes.div_ceil(most_bytes);
        for start in (0..from.bytes).step_by(most_bytes) {
            let bytes = most_bytes.min(from.bytes - start);
            let from = Range::new(from.buffer, from.offset + start, bytes);
            let into = Range::new(into.buffer, into.offset + start, bytes);
            mark = self.push(LaneKey::Local, Action::Copy { from, into }, &[from], Some(into), Mark(None));
        }
        mark
    }

    /// `into = left + right`.
    pub fn reduce(&mut self, left: Range, right: Range, into: Range) -> Mark {
        let (left, right) = (self.shared.name(left), self.shared.name(right));
        let into = self.shared.name(into);
        let action = Action::Reduce { left, right, into };
        self.push(LaneKey::Local, action, &[left, right], Some(into), Mark(None))
    }

    /// `into = from * scalar`.
    pub fn scale(&mut self, from: Range, into: Range) -> Mark {
        let (from, into) = (self.shared.name(from), self.shared.name(into));
        self.push(LaneKey::Local, Action::Scale { from, into }, &[from], Some(into), Mark(None))
    }

    /// `range = range / n`.
    pub fn divide(&mut self, range: Range) -> Mark {
        let range = self.shared.name(range);
        self.push(LaneKey::Local, Action::Divide { range }, &[range], Some(range), Mark(None))
    }

    /// The plan.
    #[must_use]
    pub fn finish(self) -> Plan {
        let mut lanes = Vec::with_capacity(self.lane_counts.len());
        let mut first = 0;
        for &count in &self.lane_counts {
            lanes.push(Lane { first, count });
            first += count;
        }
        // Where each lane's steps go; drafts come in program order, so each lane fills up in order.
        let mut order = vec![0; self.steps.len()];
        for (draft, position) in self.steps.iter().zip(0_usize..) {
            order[(lanes[draft.lane as usize].first + draft.index) as usize] = position;
        }
        Plan {
            steps: order.into_iter().map(|position| self.steps[position].step).collect(),
            lanes,
            waits: self.waits,
            messages: Vec::new(),
            lengths: Vec::new(),
            scratch_bytes: self.scratch_bytes,
            algorithm: self.algorithm,
        }
    }

    fn push(
        &mut self,
        key: LaneKey,
        action: Action,
        reads: &[Range],
        write: Option<Range>,
        behind: Mark,
    ) -> Mark {
        if reads.iter().chain(&write).all(|range| range.bytes == 0) {
            return Mark(None);
        }
        let step = u32::try_from(self.steps.len()).expect("fewer steps than 2^32");
        let mut needed = std::mem::take(&mut self.needed);
        needed.extend(behind.0);
        for &range in reads {
            if self.is_remembered(range) {
                self.memory[range.buffer as usize].read(range, step, &mut needed);
            }
        }
        if let Some(range) = write {
            debug_assert!(self.is_remembered(range), "a source of its own is never written");
            self.memory[range.buffer as usize].write(range, step, &mut needed);
        }
        let lane = self.lane(key);
        let first_wait = self.waits.len() as u32;
        self.add_waits(lane, step, &mut needed);
        needed.clear();
        self.needed = needed;
        let wait_count = self.waits.len() as u32 - first_wait;
        let index = self.lane_counts[lane as usize];
        self.lane_counts[lane as usize] += 1;
        self.steps.push(Draft { step: Step { action, first_wait, wait_count }, lane, index });
        Mark(Some(step))
    }

    fn is_remembered(&self, range: Range) -> bool {
        range.buffer != SOURCE || matches!(self.shared, Shared::TargetInSource(_))
    }

    fn lane(&mut self, key: LaneKey) -> u32 {
        let next = self.lane_counts.len() as u32;
        let lane = *self.lanes.entry(key).or_insert(next);
        if lane == next {
            self.lane_counts.push(0);
        }
        lane
    }

    /// Turns the steps that `step` needs into waits of `lane`, as few as do.
    fn add_waits(&mut self, lane: u32, step: u32, needed: &mut [u32]) {
        // Later steps of a lane have larger numbers: the last of a run of equal lanes is the latest.
        needed.sort_unstable_by_key(|&other| {
            self.steps.get(other as usize).map_or((u32::MAX, 0), |draft| (draft.lane, draft.index))
        });
        for position in 0..needed.len() {
            let other = needed[position];
            // A step that reads what it writes finds itself.
            if other == step {
                continue;
            }
            let Draft { lane: other_lane, index, .. } = self.steps[other as usize];
            let is_latest = needed
                .get(position + 1)
                .and_then(|&next| self.steps.get(next as usize))
                .is_none_or(|next| next.lane != other_lane);
            if !is_latest || other_lane == lane {
                continue;
            }
            let known = self.known.entry((lane, other_lane)).or_insert(0);
            if *known <= index {
                *known = index + 1;
                self.waits.push(Wait { lane: other_lane, index });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Reduction};

    fn builder(kind: Kind, in_place: bool) -> Builder {
        let call = Call {
            kind,
            data_type: DataType::Int8,
            reduction: Reduction::Sum,
            root: 0,
            count: 100,
            ranks: 4,
            in_place,
        };
        Builder::new(&call, 1, "test")
    }

    /// Every step as its action and its waits as (lane, index).
    fn waits(plan: &Plan) -> Vec<Vec<(u32, u32)>> {
        let of = |step: &Step| {
            let first = step.first_wait as usize;
            let waits = &plan.waits[first..first + step.wait_count as usize];
            waits.iter().map(|wait| (wait.lane, wait.index)).collect()
        };
        plan.steps.iter().map(of).collect()
    }

    #[test]
    fn steps_go_to_lanes_in_order_of_first_use() {
        let mut b = builder(Kind::AllReduce, false);
        b.send(2, Range::new(SOURCE, 0, 8));
        b.recv(3, Range::new(TARGET, 0, 8));
        b.send(2, Range::new(SOURCE, 8, 8));
        b.copy(Range::new(SOURCE, 0, 8), Range::new(TARGET, 8, 8));
        let plan = b.finish();
        let lanes: Vec<_> = plan.lanes.iter().map(|lane| (lane.first, lane.count)).collect();
        assert_eq!(lanes, [(0, 2), (2, 1), (3, 1)]);
        assert_eq!(plan.waits, []);
    }

    #[test]
    fn hazards_become_waits_and_none_is_said_twice() {
        let mut b = builder(Kind::AllReduce, false);
        let range = Range::new(TARGET, 0, 8);
        b.recv(2, range); // lane 0
        b.send(3, range); // lane 1: reads what lane 0 wrote
        b.send(3, range); // known already
        b.copy(Range::new(SOURCE, 0, 8), range); // lane 2: after the latest reader only
        b.recv(2, Range::new(TARGET, 4, 8)); // lane 0: after the copy
        assert_eq!(waits(&b.finish()), [vec![], vec![(2, 0)], vec![(0, 0)], vec![], vec![(1, 1)]]);
    }

    #[test]
    fn bytes_that_do_not_touch_do_not_wait() {
        let mut b = builder(Kind::AllReduce, false);
        b.recv(2, Range::new(TARGET, 0, 8));
        b.send(3, Range::new(TARGET, 8, 8));
        b.send(0, Range::new(SCRATCH, 0, 8));
        assert_eq!(b.finish().waits, []);
    }

    #[test]
    fn in_place_has_one_name_for_every_byte() {
        let mut b = builder(Kind::AllGather, true);
        b.copy(Range::new(SOURCE, 0, 100), Range::new(TARGET, 100, 100));
        b.send(2, Range::new(SOURCE, 0, 100));
        b.recv(2, Range::new(TARGET, 150, 10));
        let plan = b.finish();
        assert_eq!(plan.steps.len(), 2);
        let sent = Action::Send { peer: 2, from: Range::new(TARGET, 100, 100) };
        assert_eq!(plan.steps[0].action, sent);
        assert_eq!(plan.waits, [Wait { lane: 0, index: 0 }]);

        let mut b = builder(Kind::ReduceScatter, true);
        b.recv(2, Range::new(TARGET, 0, 100));
        let received = Action::Recv { peer: 2, into: Range::new(SOURCE, 100, 100) };
        assert_eq!(b.finish().steps[0].action, received);
    }

    #[test]
    fn nothing_is_no_step() {
        let mut b = builder(Kind::AllReduce, false);
        let nothing = Range::new(TARGET, 8, 0);
        b.send(2, nothing);
        b.recv_reduce(2, nothing, nothing, true);
        b.divide(nothing);
        assert_eq!(b.finish(), Plan { algorithm: "test", ..Plan::default() });
    }

    #[test]
    fn a_step_can_be_put_behind_another() {
        let mut b = builder(Kind::AllReduce, false);
        let first = b.send(2, Range::new(SOURCE, 0, 8));
        b.send_behind(3, Range::new(SOURCE, 0, 8), first);
        assert_eq!(b.finish().waits, [Wait { lane: 0, index: 0 }]);
    }
}
