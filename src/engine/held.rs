//! Batches that were queued while their path was busy, and leave together ([`crate::coalesce::Burst`]).
#![forbid(unsafe_code)]

use super::cache::PlanId;
use super::{Engine, Job};
use crate::coalesce::Burst;
use crate::device::Device;
use crate::transport::Transport;

/// The most batches that leave together: a bound for the work of one poll.
const JOINED_COUNT: usize = 256;

impl Job {
    /// Whether it may leave with `before`, which stands before it and may leave.
    fn may_join(&self, before: &Job) -> bool {
        match (&self.launch, &before.launch) {
            (None, _) => true,
            (Some(launch), Some(before)) if launch.follows(before) => true,
            (Some(launch), _) => launch.is_ready(),
        }
    }
}

impl<T: Transport, D: Device> Engine<T, D> {
    /// Sends the front of the queue together with what stands behind it; `false` if there is nothing to join or
    /// no room for it, and nothing has happened. The front may start. If it has, it waits for room: its one packet
    /// leaves whole.
    pub(super) fn send_joined(&mut self) -> bool {
        let mut jobs = self.queue.iter();
        let Some(mut before) = jobs.next() else { return false };
        let Some(mut all) = self.burst(before) else { return false };
        if self.hands.transport.reserve(all.peer, all.frame_bytes).is_none() {
            return false;
        }
        let limits = self.cache.facts().limits;
        let mut count = 1;
        for job in jobs.take(JOINED_COUNT - 1) {
            let next = self.burst(job).filter(|_| job.may_join(before));
            let Some(joined) = next.and_then(|next| all.and(next, limits)) else { break };
            (all, before, count) = (joined, job, count + 1);
        }
        let ops = self.queue.iter().take(count).flat_map(|job| &job.ops);
        if count == 1 || !self.hands.send_burst(all, ops) {
            return false;
        }
        (0..count).for_each(|_| self.complete_front(None));
        true
    }

    fn burst(&self, job: &Job) -> Option<Burst> {
        if job.plan == PlanId::NONE { None } else { self.cache.get(job.plan).burst }
    }
}
