//! What a trace says of each batch. Only where everything is kept (`SHOAL_TRACE`).
#![forbid(unsafe_code)]

use super::Engine;
#[cfg(doc)]
use super::Pass;
use super::cache::PlanId;
use super::compile::{BatchPlan, Work};
use super::stream::Launch;
use crate::device::Device;
use crate::op::Shape;
use crate::trace::tracer::Tracer;
use crate::transport::Transport;

impl<T: Transport, D: Device> Engine<T, D> {
    /// From now on everything is kept. Nothing has been prepared yet.
    pub fn trace_by(&mut self, tracer: Tracer) {
        self.recorder.trace_by(tracer);
        self.cache.is_traced = true;
    }

    /// From now on blocks of so many batches leave in frames and message by message, in turn. Everything is kept, so
    /// that a report can compare them; no message goes the short way.
    pub fn alternate(&mut self, every: u64) {
        self.cache.alternate(every);
    }

    /// Whether everything is kept. Then no message goes the short way ([`Pass`]), which keeps nothing.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.cache.is_traced
    }

    /// Keeps the batch that was just recorded.
    #[cold]
    pub(super) fn note(&mut self, plan: PlanId, launch: Option<&Launch>, has_failed: bool) {
        let Some(tracer) = self.recorder.tracer() else { return };
        let id = match plan {
            PlanId::NONE => {
                self.one_sided_id = self.one_sided_id.or_else(|| tracer.define(&[], 0, true));
                self.one_sided_id
            }
            plan => id_of(self.cache.get(plan), tracer),
        };
        let stream = launch.map_or(0, Launch::stream);
        self.recorder.note(id, self.completed, stream, has_failed);
    }
}

/// What the trace calls batches of this plan; they are explained when the first ends.
fn id_of(plan: &BatchPlan, tracer: &mut Tracer) -> Option<u32> {
    match plan.trace_id.get() {
        0 => {
            let (operations, frames) = explain(plan);
            let id = tracer.define(&operations, frames, false)?;
            plan.trace_id.set(id);
            Some(id)
        }
        id => Some(id),
    }
}

/// The shapes of its operations with the numbers of their algorithms, and the packets in which its messages leave.
fn explain(plan: &BatchPlan) -> (Vec<(Shape, u8)>, u32) {
    let mut operations: Vec<(Shape, u8)> = plan.shapes.iter().map(|shape| (*shape, 0)).collect();
    let mut frames = 0;
    for part in &plan.parts {
        match &part.work {
            Work::Collective(collective) => operations[collective.op].1 = collective.algorithm,
            // Stands beside its parts, which are in the list.
            Work::Fused(_) => {}
            Work::Messages(tally) => frames += tally.flushes.iter().sum::<u64>(),
        }
    }
    (operations, u32::try_from(frames).unwrap_or(u32::MAX))
}
