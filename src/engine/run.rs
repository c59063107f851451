//! Where the running plan stands: a counter per lane, and which lanes are still open.
#![forbid(unsafe_code)]

use super::act::{Bound, Hands, Outcome};
use super::compile::{BatchPlan, Part};
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;
use crate::schedule::{Action, Step};
use crate::transport::Transport;

/// A lane's next step, and how much of it is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Steps done.
    pub(super) next: u32,
    /// Of how many.
    pub(super) count: u32,
    /// Whether the step has been announced or its packet recognized.
    pub(super) has_begun: bool,
    /// Bytes of the step that are done.
    pub(super) moved_bytes: usize,
}

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    Waiting,
    Moved,
    Done,
}

/// The running plan.
#[derive(Debug, Default)]
pub(super) struct Run {
    part: usize,
    lanes: Vec<Progress>,
    /// The lanes with steps left.
    open: Vec<u32>,
    bound: Bound,
}

impl Run {
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// Begins the first part of a batch.
    #[inline]
    pub(super) fn start<T: Transport, D: Device>(
        &mut self,
        plan: &BatchPlan,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) {
        self.part = 0;
        self.enter(plan, ops, hands);
    }

    /// Moves the batch as far as it goes now, part after part.
    #[inline]
    pub(super) fn advance<T: Transport, D: Device>(
        &mut self,
        plan: &BatchPlan,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) -> Result<Advance> {
        let mut has_moved = false;
        while let Some(part) = plan.parts.get(self.part) {
            has_moved |= self.poll(part, hands)?;
            if !self.open.is_empty() {
                return Ok(if has_moved { Advance::Moved } else { Advance::Waiting });
            }
            // The end of a part is progress, even if the next one cannot begin.
            has_moved = true;
            self.part += 1;
            self.enter(plan, ops, hands);
        }
        Ok(Advance::Done)
    }

    #[inline]
    fn enter<T: Transport, D: Device>(&mut self, plan: &BatchPlan, ops: &[Op], hands: &mut Hands<T, D>) {
        let Some(part) = plan.parts.get(self.part) else { return };
        hands.bind(part, ops, &mut self.bound);
        self.lanes.clear();
        self.lanes.extend_from_slice(&part.lanes_at_start);
        self.open.clear();
        self.open.extend(0..part.lanes_at_start.len() as u32);
    }

    /// Moves every open lane as far as it goes; whether any moved.
    #[inline]
    pub(super) fn poll<T: Transport, D: Device>(
        &mut self,
        part: &Part,
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        let mut has_moved = false;
        let mut place = 0;
        while let Some(lane) = self.open.get(place).copied() {
            has_moved |= self.poll_lane(lane as usize, part, hands)?;
            let progress = &self.lanes[lane as usize];
            if progress.next == progress.count {
                self.open.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(has_moved)
    }

    /// Whether a step has to wait for steps of other lanes.
    fn must_wait(&self, step: &Step, part: &Part) -> bool {
        let waits = &part.plan.waits[step.first_wait as usize..][..step.wait_count as usize];
        waits.iter().any(|wait| self.lanes[wait.lane as usize].next <= wait.index)
    }

    #[inline]
    fn poll_lane<T: Transport, D: Device>(
        &mut self,
        lane: usize,
        part: &Part,
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        let steps = part.steps_of(lane);
        let mut progress = self.lanes[lane];
        let mut has_moved = false;
        while let Some(step) = steps.get(progress.next as usize) {
            if step.wait_count > 0 && self.must_wait(step, part) {
                break;
            }
            let outcome = hands.act(step.action, part, &self.bound, &mut progress)?;
            has_moved |= outcome != Outcome::Blocked;
            if outcome != Outcome::Done {
                break;
            }
            progress = Progress { next: progress.next + 1, ..part.lanes_at_start[lane] };
        }
        self.lanes[lane] = progress;
        Ok(has_moved)
    }

    /// The peers that open lanes are stuck at. A lane that waits for another lane is not stuck at its peer,
    /// whose packet may have come long ago.
    pub(super) fn waited_for(&self, part: &Part) -> Vec<u32> {
        let mut peers: Vec<u32> = self.open.iter().filter_map(|lane| self.peer_of(*lane, part)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    fn peer_of(&self, lane: u32, part: &Part) -> Option<u32> {
        let progress = self.lanes.get(lane as usize)?;
        let step = part.steps_of(lane as usize).get(progress.next as usize)?;
        if self.must_wait(step, part) {
            return None;
        }
        match step.action {
            Action::Send { peer, .. }
            | Action::SendFrame { peer, .. }
            | Action::Recv { peer, .. }
            | Action::RecvReduce { peer, .. } => Some(peer),
            Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. } => {
                None
            }
        }
    }
}
