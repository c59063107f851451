//! Where the running plan stands: a counter per lane, and which lanes are still open.
#![forbid(unsafe_code)]

use super::act::{Bound, Hands, Outcome};
use super::compile::{BatchPlan, Part, Work};
use crate::coalesce::{self, Claims};
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;
use crate::schedule::{Action, Step};
use crate::transport::{Head, Transport};

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
    /// Of each collective of the part.
    bounds: Vec<Bound>,
    /// Whether the part's lanes were looked at.
    has_entered: bool,
    /// Whether it is the part and small ones behind it at once.
    is_fused: bool,
    claims: Claims,
}

impl Run {
    /// The part that runs, or is next.
    pub(super) fn part<'a>(&self, plan: &'a BatchPlan) -> Option<&'a Part> {
        plan.parts.get(self.part).map(|part| self.chosen(part))
    }

    #[inline]
    fn chosen<'a>(&self, part: &'a Part) -> &'a Part {
        if let Some(fused) = part.fused.as_deref().filter(|_| self.is_fused) { fused } else { part }
    }

    /// Begins a batch; nothing moves yet.
    #[inline]
    pub(super) fn start(&mut self) {
        self.part = 0;
        self.has_entered = false;
        self.is_fused = false;
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
            if !self.has_entered
                && let Some(fused) = &part.fused
            {
                self.is_fused = self.may_fuse(fused, ops, hands.rank, hands.ranks);
            }
            let part = self.chosen(part);
            has_moved |=
                if self.has_entered { self.poll(part, ops, hands)? } else { self.enter(part, ops, hands)? };
            if !self.open.is_empty() {
                return Ok(if has_moved { Advance::Moved } else { Advance::Waiting });
            }
            // The end of a part is progress, even if the next one cannot begin.
            has_moved = true;
            match &part.work {
                Work::Messages(tally) => hands.counts.add(tally),
                Work::Fused(all) => hands.counts.collectives_fused += all.len() as u64,
                Work::Collective(_) => {}
            }
            self.part += part.count();
            self.has_entered = false;
            self.is_fused = false;
        }
        Ok(Advance::Done)
    }

    /// Whether the collectives of a part touch nothing that others of them write.
    fn may_fuse(&mut self, part: &Part, ops: &[Op], rank: u32, ranks: u32) -> bool {
        let Work::Fused(all) = &part.work else { return false };
        self.claims.are_apart(all.iter().map(|one| &ops[one.op]), rank, ranks)
    }

    /// The first look at every lane of a part.
    #[inline]
    fn enter<T: Transport, D: Device>(
        &mut self,
        part: &Part,
        ops: &[Op],
        hands: &mut Hands<T, D>,
    ) -> Result<bool> {
        hands.bind(part, ops, &mut self.bounds);
        self.has_entered = true;
        self.done.clear();
        if !part.plan.waits.is_empty() {
            self.done.resize(part.lanes.len(), 0);
        }
        let mut has_moved = false;
        for (lane, steps) in part.lanes.iter().enumerate() {
            // Most lanes of small collectives are one packet, which is sent, or has come already.
            if let [step] = &**steps
                && (step.wait_count == 0 || !self.must_wait(step, part))
                && hands.at_once(&step.action, &part.work, &self.bounds)
            {
                if let Some(done) = self.done.get_mut(lane) {
                    *done = 1;
                }
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
            let outcome = hands.act(&step.action, part, ops, &self.bounds, &mut open.progress)?;
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
        let mut peers: Vec<u32> = self.stuck(part).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The head of the first collective of a part that is not done.
    pub(super) fn stands_at(&self, part: &Part) -> Option<Head> {
        if let Work::Messages(_) = &part.work {
            return None;
        }
        let owners = self.open.iter().filter_map(|open| Some(coalesce::owner(&next(open, part)?.action)));
        Some(self.bounds.get(owners.min().unwrap_or(0))?.head())
    }

    /// The peer of each lane that is stuck at its peer.
    fn stuck<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = u32> + 'a {
        let steps = self.open.iter().filter_map(move |open| next(open, part));
        steps.filter(move |step| !self.must_wait(step, part)).filter_map(|step| peer_of(&step.action))
    }
}

/// The step at which a lane stands.
fn next<'a>(open: &Open, part: &'a Part) -> Option<&'a Step> {
    part.lanes.get(open.lane as usize)?.get(open.progress.next as usize)
}

const fn peer_of(action: &Action) -> Option<u32> {
    match *action {
        Action::Send { peer, .. }
        | Action::SendFrame { peer, .. }
        | Action::RecvMessages { peer, .. }
        | Action::Recv { peer, .. }
        | Action::RecvReduce { peer, .. } => Some(peer),
        Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. } => None,
    }
}
