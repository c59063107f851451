//! Where the running plan stands: a counter per lane, and which lanes are still open.
#![forbid(unsafe_code)]

use super::act::{Bound, Hands, Outcome};
use super::compile::{BatchPlan, Part};
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;
use crate::schedule::Action;
use crate::transport::{Head, Transport};

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

    /// The head of the running collective's packets.
    pub(super) fn head(&self) -> Head {
        self.bound.head()
    }

    #[inline]
    pub(super) fn is_part_done(&self) -> bool {
        self.open.is_empty()
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

    /// Begins the next part.
    #[inline]
    pub(super) fn next_part<T: Transport, D: Device>(
        &mut self,
        plan: &BatchPlan,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) {
        self.part += 1;
        self.enter(plan, ops, hands);
    }

    #[inline]
    fn enter<T: Transport, D: Device>(&mut self, plan: &BatchPlan, ops: &[Op], hands: &mut Hands<T, D>) {
        self.lanes.clear();
        self.open.clear();
        let Some(part) = plan.parts.get(self.part) else { return };
        hands.bind(part, ops, &mut self.bound);
        for (index, lane) in part.plan.lanes.iter().enumerate() {
            self.lanes.push(Progress { count: lane.count, ..Progress::default() });
            self.open.push(index as u32);
        }
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

    #[inline]
    fn poll_lane<T: Transport, D: Device>(
        &mut self,
        lane: usize,
        part: &Part,
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        let first = part.plan.lanes[lane].first;
        let mut has_moved = false;
        while self.lanes[lane].next < self.lanes[lane].count {
            let step = &part.plan.steps[(first + self.lanes[lane].next) as usize];
            let waits = &part.plan.waits[step.first_wait as usize..][..step.wait_count as usize];
            if waits.iter().any(|wait| self.lanes[wait.lane as usize].next <= wait.index) {
                break;
            }
            let outcome = hands.act(step.action, part, &self.bound, &mut self.lanes[lane])?;
            has_moved |= outcome != Outcome::Blocked;
            if outcome != Outcome::Done {
                break;
            }
            let progress = &mut self.lanes[lane];
            *progress = Progress { next: progress.next + 1, count: progress.count, ..Progress::default() };
        }
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
        let first = part.plan.lanes.get(lane as usize)?.first;
        let step = part.plan.steps.get((first + progress.next) as usize)?;
        let waits = &part.plan.waits[step.first_wait as usize..][..step.wait_count as usize];
        if waits.iter().any(|wait| self.lanes[wait.lane as usize].next <= wait.index) {
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
