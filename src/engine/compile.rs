//! A batch's shapes become parts: each collective in the order of the calls, then all point-to-point messages
//! together.
#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::coalesce::{self, Burst, Limits, Message, Tally, head};
use crate::error::{Error, Result};
use crate::op::{Combine, DataType, Head, Kind, Op, Shape, Wish};
use crate::schedule::{self, Call, Lane, Plan, Step};
use crate::trace::record::{self, Sealed};
use crate::tune;

/// What all plans of a communicator depend on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This rank.
    pub rank: u32,
    /// How many ranks.
    pub ranks: u32,
    /// What may share a frame.
    pub limits: Limits,
    /// What the choice of an algorithm depends on.
    pub tune: tune::Facts,
    /// The algorithm that the user wants, by name; empty for the table's choice.
    pub algorithm: String,
}

/// A batch, ready to be run with any addresses.
#[derive(Debug)]
pub(super) struct BatchPlan {
    pub(super) shapes: Box<[Shape]>,
    pub(super) parts: Vec<Part>,
    pub(super) sealed: Sealed,
    /// If it is nothing but small messages to one other rank.
    pub(super) burst: Option<Burst>,
    /// Whether it is worth knowing when it started before its first look.
    pub(super) is_long: bool,
    /// What a trace calls it; 0 before it does.
    pub(super) trace_id: Cell<u32>,
}

/// One plan, and what it is about.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) plan: Plan,
    pub(super) work: Work,
    /// The plan's steps, lane by lane.
    pub(super) lanes: Box<[Box<[Step]>]>,
    /// This collective and small ones behind it at once, if their buffers allow that.
    pub(super) fused: Option<Box<Part>>,
}

/// What a plan is about.
#[derive(Debug)]
pub(super) enum Work {
    /// The collective at this place of the batch.
    Collective(Collective),
    /// Several of them at once.
    Fused(Box<[Collective]>),
    /// All the point-to-point messages of the batch, and what they come to.
    Messages(Tally),
}

/// What running a collective takes beside its steps.
#[derive(Clone, Debug)]
pub(super) struct Collective {
    pub(super) op: usize,
    pub(super) scratch_bytes: usize,
    /// Of every packet, but for the sequence.
    pub(super) head: Head,
    pub(super) combine: Combine,
    pub(super) data_type: DataType,
    pub(super) scales: bool,
    /// One more than its place in the list of algorithms.
    pub(super) algorithm: u8,
}

impl Part {
    fn new(plan: Plan, work: Work) -> Part {
        let steps = |lane: &Lane| plan.steps[lane.first as usize..][..lane.count as usize].into();
        Part { lanes: plan.lanes.iter().map(steps).collect(), plan, work, fused: None }
    }

    /// How many parts of the batch it stands for.
    pub(super) fn count(&self) -> usize {
        if let Work::Fused(all) = &self.work { all.len() } else { 1 }
    }

    /// The operation, as a person reads it; `number` if it is a collective.
    pub(super) fn describe(&self, ops: &[Op], number: u32) -> String {
        match &self.work {
            Work::Collective(collective) => head::describe(head::numbered(collective.head, number)),
            Work::Fused(all) => head::describe(head::numbered(all[0].head, number)),
            Work::Messages(_) => {
                let messages: Vec<Op> =
                    ops.iter().filter(|op| op.shape.kind.is_point_to_point()).copied().collect();
                head::name(head::of_batch(&messages))
            }
        }
    }
}

/// The plan of the batch.
pub(super) fn compile(ops: &[Op], facts: &Facts) -> Result<BatchPlan> {
    let mut parts = Vec::new();
    let mut messages = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let Shape { kind, peer, count, .. } = op.shape;
        if kind.is_point_to_point() {
            let is_send = kind == Kind::Send;
            messages.push(Message { is_send, peer, bytes: op.bytes(), buffer: index as u32 });
        } else if count > 0 {
            parts.push(collective(index, op, facts)?);
        }
    }
    if !messages.is_empty() {
        let plan = coalesce::plan(&messages, facts.rank, facts.limits).map_err(|problem| {
            Error::usage("ncclGroupEnd", problem, "put each send to oneself and its receive into one group")
        })?;
        let tally = Tally::of(&plan, facts.limits);
        parts.push(Part::new(plan, Work::Messages(tally)));
    }
    fuse_runs(&mut parts, ops, facts);
    let bytes = ops.iter().map(|op| op.bytes() as u64).sum();
    let is_pure = messages.len() == ops.len();
    Ok(BatchPlan {
        shapes: ops.iter().map(|op| op.shape).collect(),
        parts,
        burst: Burst::of(&messages, facts.rank, facts.limits).filter(|_| is_pure),
        sealed: Sealed::new(record::Kind::Batch, head::of_batch(ops), bytes, ops.len() as u64),
        is_long: bytes >= record::LONG_BYTES || ops.len() >= record::LONG_COUNT,
        trace_id: Cell::new(0),
    })
}

/// Gives the first of each run of small collectives the plan of all.
fn fuse_runs(parts: &mut [Part], ops: &[Op], facts: &Facts) {
    let may_fuse = |part: &Part| match &part.work {
        Work::Collective(one) => coalesce::may_fuse(&ops[one.op].shape, facts.ranks, facts.limits),
        _ => false,
    };
    for run in parts.chunk_by_mut(|one, next| may_fuse(one) && may_fuse(next)) {
        for run in run.chunks_mut(coalesce::FUSED_COUNT).filter(|run| run.len() > 1) {
            let one =
                |part: &Part| if let Work::Collective(one) = &part.work { Some(one.clone()) } else { None };
            let all = run.iter().filter_map(one).collect();
            let plan = coalesce::fuse(run.iter().map(|part| &part.plan));
            run[0].fused = Some(Box::new(Part::new(plan, Work::Fused(all))));
        }
    }
}

impl Facts {
    fn call(&self, op: &Op) -> Call {
        let Shape { count, peer: root, kind, data_type, reduction, manner } = op.shape;
        Call { kind, data_type, reduction, root, count, ranks: self.ranks, in_place: manner.in_place() }
    }

    /// The wish that stands for the best of the algorithms that a call allows.
    pub(super) fn wish(&self, op: &Op, allowed: &[schedule::Algorithm]) -> Wish {
        let chosen = tune::choose_among(&self.call(op), &self.tune, allowed);
        chosen.map_or(Wish::NONE, schedule::Algorithm::wish)
    }
}

fn collective(index: usize, op: &Op, facts: &Facts) -> Result<Part> {
    let Shape { kind, data_type, reduction, manner, .. } = op.shape;
    let call = facts.call(op);
    let choice = schedule::Algorithm::wished(manner.wish())
        .filter(|algorithm| tune::allows(&call, &facts.tune, *algorithm))
        .map(|algorithm| tune::choice_of(&call, &facts.tune, algorithm))
        .unwrap_or_else(|| tune::choose(&call, &facts.tune, &facts.algorithm));
    let hosts = &facts.tune.hosts;
    let plan = schedule::plan_in_pieces(choice.algorithm, &call, facts.rank, hosts, choice.piece_bytes());
    let plan = plan.ok_or_else(|| {
        Error::Internal(format!("{choice} has no form of {} for {} ranks", kind.name(), facts.ranks))
    })?;
    let work = Work::Collective(Collective {
        op: index,
        scratch_bytes: plan.scratch_bytes,
        head: head::of_collective(op),
        combine: reduction.combine(),
        data_type,
        algorithm: choice.algorithm as u8 + 1,
        scales: plan.steps.iter().any(|step| matches!(step.action, schedule::Action::Scale { .. })),
    });
    Ok(Part::new(plan, work))
}
