//! Where the running plan stands: a counter per lane, and which lanes are still open.
#![forbid(unsafe_code)]

use super::act::{Bound, Hands, Outcome};
use super::compile::{BatchPlan, Part, Work};
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
    /// Whether the step has been announced or its packet recognized.
    pub(super) has_begun: bool,
    /// Bytes of the step, or of its message under way, that are done.
    pub(super) moved_bytes: usize,
    /// Messages of the step that are done.
    pub(super) taken_count: u32,
}

/// A lane with steps left.
#[derive(Clone, Copy, Debug)]
struct Open {
    lane: u32,
    progress: Progress,
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
    /// What is unfinished. A lane that ends at the first look never gets here.
    open: Vec<Open>,
    /// Steps done, by lane; kept only where steps wait for steps of other lanes.
    done: Vec<u32>,
    bound: Bound,
    /// Whether the part's lanes were looked at.
    has_entered: bool,
}

impl Run {
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// Begins a batch; nothing moves yet.
    #[inline]
    pub(super) fn start(&mut self) {
        self.part = 0;
        self.has_entered = false;
        self.open.clear();
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
            has_moved |=
                if self.has_entered { self.poll(part, ops, hands)? } else { self.enter(part, ops, hands)? };
            if !self.open.is_empty() {
                return Ok(if has_moved { Advance::Moved } else { Advance::Waiting });
            }
            // The end of a part is progress, even if the next one cannot begin.
            has_moved = true;
            if let Work::Messages(tally) = &part.work {
                hands.counts.add(tally);
            }
            self.part += 1;
            self.has_entered = false;
        }
        Ok(Advance::Done)
    }

    /// The first look at every lane of a part.
    #[inline]
    fn enter<T: Transport, D: Device>(
        &mut self,
        part: &Part,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        hands.bind(part, ops, &mut self.bound);
        self.has_entered = true;
        self.done.clear();
        if !part.plan.waits.is_empty() {
            self.done.resize(part.lanes.len(), 0);
        }
        let mut has_moved = false;
        let is_free = part.plan.waits.is_empty();
        for (lane, steps) in part.lanes.iter().enumerate() {
            // Most lanes of small collectives are one packet, which is sent, or has come already.
            if let [step] = &**steps
                && is_free
                && hands.at_once(&step.action, &part.work, &self.bound)
            {
                has_moved = true;
                continue;
            }
            let mut open = Open { lane: lane as u32, progress: Progress::default() };
            has_moved |= self.poll_lane(&mut open, steps, part, ops, hands)?;
            if (open.progress.next as usize) < steps.len() {
                self.open.push(open);
            }
        }
        Ok(has_moved)
    }

    /// Moves every open lane as far as it goes; whether any moved.
    #[inline]
    fn poll<T: Transport, D: Device>(
        &mut self,
        part: &Part,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        let mut has_moved = false;
        let mut place = 0;
        while let Some(mut open) = self.open.get(place).copied() {
            let steps = &part.lanes[open.lane as usize];
            has_moved |= self.poll_lane(&mut open, steps, part, ops, hands)?;
            if open.progress.next as usize == steps.len() {
                self.open.swap_remove(place);
            } else {
                self.open[place] = open;
                place += 1;
            }
        }
        Ok(has_moved)
    }

    /// Whether a step has to wait for steps of other lanes.
    fn must_wait(&self, step: &Step, part: &Part) -> bool {
        let waits = &part.plan.waits[step.first_wait as usize..][..step.wait_count as usize];
        waits.iter().any(|wait| self.done[wait.lane as usize] <= wait.index)
    }

    #[inline]
    fn poll_lane<T: Transport, D: Device>(
        &mut self,
        open: &mut Open,
        steps: &[Step],
        part: &Part,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        let mut has_moved = false;
        while let Some(step) = steps.get(open.progress.next as usize) {
            if step.wait_count > 0 && self.must_wait(step, part) {
                break;
            }
            let outcome = hands.act(&step.action, part, ops, &self.bound, &mut open.progress)?;
            has_moved |= outcome != Outcome::Blocked;
            if outcome != Outcome::Done {
                break;
            }
            open.progress = Progress { next: open.progress.next + 1, ..Progress::default() };
            if let Some(done) = self.done.get_mut(open.lane as usize) {
                *done = open.progress.next;
            }
        }
        Ok(has_moved)
    }

    /// The peers that open lanes are stuck at. A lane that waits for another lane is not stuck at its peer,
    /// whose packet may have come long ago.
    pub(super) fn waited_for(&self, part: &Part) -> Vec<u32> {
        let mut peers: Vec<u32> = self.open.iter().filter_map(|open| self.peer_of(open, part)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    fn peer_of(&self, open: &Open, part: &Part) -> Option<u32> {
        let step = part.lanes.get(open.lane as usize)?.get(open.progress.next as usize)?;
        if self.must_wait(step, part) {
            return None;
        }
        match step.action {
            Action::Send { peer, .. }
            | Action::SendFrame { peer, .. }
            | Action::RecvMessages { peer, .. }
            | Action::Recv { peer, .. }
            | Action::RecvReduce { peer, .. } => Some(peer),
            Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. } => {
                None
            }
        }
    }
}
