//! What plans and buffers look like: where they lie, what may be touched, what a result must be.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use crate::op::Kind;
use crate::schedule::{Action, Call, Plan, Range, SCRATCH, SOURCE, Step, TARGET, Wait};

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    To(u32),
    From(u32),
    Local,
}

/// Where one rank's buffers lie, as if memory began at 0. In place they share addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) source: usize,
    pub(super) source_bytes: usize,
    pub(super) target: usize,
    target_bytes: usize,
    scratch: usize,
    scratch_bytes: usize,
}

impl Layout {
    pub(super) fn of(call: &Call, rank: u32, scratch_bytes: usize) -> Layout {
        let (one, all) = (call.bytes(), call.bytes() * call.ranks as usize);
        let of_root = |bytes: usize| if rank == call.root { bytes } else { 0 };
        let (source_bytes, target_bytes) = match call.kind {
            Kind::AllReduce => (one, one),
            Kind::Reduce => (one, of_root(one)),
            Kind::Broadcast => (of_root(one), one),
            Kind::AllGather => (one, all),
            Kind::ReduceScatter => (all, one),
            Kind::AlltoAll => (all, all),
            Kind::Gather => (one, of_root(all)),
            Kind::Scatter => (of_root(all), one),
            Kind::Send | Kind::Recv => (0, 0),
        };
        let is_in_place =
            call.in_place && source_bytes > 0 && target_bytes > 0 && call.kind != Kind::AlltoAll;
        // The smaller of the two lies at this rank's place of the larger.
        let within = if source_bytes == target_bytes { 0 } else { rank as usize * one };
        let (source, target) = match is_in_place {
            false => (0, source_bytes),
            true if source_bytes > target_bytes => (0, within),
            true => (within, 0),
        };
        Layout {
            source,
            source_bytes,
            target,
            target_bytes,
            scratch: source_bytes + target_bytes,
            scratch_bytes,
        }
    }

    /// The address of a range that lies in its buffer.
    pub(super) fn at(&self, range: Range) -> usize {
        range.offset
            + match range.buffer {
                SOURCE => self.source,
                TARGET => self.target,
                _ => self.scratch,
            }
    }

    fn holds(&self, range: Range) -> bool {
        let bytes = match range.buffer {
            SOURCE => self.source_bytes,
            TARGET => self.target_bytes,
            SCRATCH => self.scratch_bytes,
            _ => 0,
        };
        range.offset <= bytes && range.bytes <= bytes - range.offset
    }

    fn may_write(&self, range: Range) -> bool {
        let start = self.at(range);
        let in_target = start >= self.target && start + range.bytes <= self.target + self.target_bytes;
        range.buffer == SCRATCH || in_target
    }
}

/// The waits of a step.
pub(super) fn waits<'a>(plan: &'a Plan, step: &Step) -> &'a [Wait] {
    &plan.waits[step.first_wait as usize..(step.first_wait + step.wait_count) as usize]
}

/// How long the packet of a step is.
pub(super) fn packet_bytes(step: &Step) -> usize {
    match step.action {
        Action::Send { from, .. } => from.bytes,
        Action::Recv { into, .. } | Action::RecvReduce { into, .. } => into.bytes,
        _ => 0,
    }
}

/// What each lane is for, if the plan is well formed.
pub(super) fn ways(call: &Call, plan: &Plan, layout: &Layout) -> Result<Vec<Way>, String> {
    let mut ways: Vec<Way> = Vec::new();
    let mut met = HashSet::new();
    let mut next = 0;
    for lane in &plan.lanes {
        let steps = (lane.first == next)
            .then(|| plan.steps.get(lane.first as usize..(lane.first as usize + lane.count as usize)))
            .flatten()
            .filter(|steps| !steps.is_empty())
            .ok_or("lanes do not divide the steps")?;
        next += lane.count;
        let way = way(&steps[0]);
        if !met.insert(way) {
            return Err(format!("two lanes are {way:?}"));
        }
        if steps.iter().any(|step| self::way(step) != way) {
            return Err(format!("a lane is {way:?} and more"));
        }
        if let Way::To(peer) | Way::From(peer) = way
            && peer >= call.ranks
        {
            return Err(format!("there is no rank {peer}"));
        }
        ways.push(way);
    }
    if next as usize != plan.steps.len() {
        return Err("steps lie in no lane".into());
    }
    plan.steps.iter().try_for_each(|step| step_is_sound(call, plan, layout, step))?;
    Ok(ways)
}

fn way(step: &Step) -> Way {
    match step.action {
        Action::Send { peer, .. } | Action::SendFrame { peer, .. } => Way::To(peer),
        Action::Recv { peer, .. } | Action::RecvMessages { peer, .. } | Action::RecvReduce { peer, .. } => {
            Way::From(peer)
        }
        Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. } => {
            Way::Local
        }
    }
}

fn step_is_sound(call: &Call, plan: &Plan, layout: &Layout, step: &Step) -> Result<(), String> {
    let end = step.first_wait as usize + step.wait_count as usize;
    let waits = plan.waits.get(step.first_wait as usize..end).ok_or("a step has waits that are not there")?;
    let exists = |wait: &Wait| plan.lanes.get(wait.lane as usize).is_some_and(|lane| wait.index < lane.count);
    if !waits.iter().all(exists) {
        return Err(format!("{:?} waits for a step that is not there", step.action));
    }
    let (reads, write): (&[Range], Option<Range>) = match &step.action {
        Action::Send { from, .. } => (&[*from], None),
        Action::SendFrame { .. } | Action::RecvMessages { .. } => {
            return Err("a collective has no frames".into());
        }
        Action::Recv { into, .. } => (&[], Some(*into)),
        Action::RecvReduce { with, into, .. } => (&[*with], Some(*into)),
        Action::Copy { from, into } | Action::Scale { from, into } => (&[*from], Some(*into)),
        Action::Reduce { left, right, into } => (&[*left, *right], Some(*into)),
        Action::Divide { range } => (&[*range], Some(*range)),
    };
    let element = call.data_type.size_bytes();
    let bytes = reads.iter().chain(&write).map(|range| range.bytes).max().unwrap_or(0);
    for range in reads.iter().chain(&write) {
        let is_whole = range.offset % element == 0 && range.bytes % element == 0;
        if !layout.holds(*range) || range.bytes != bytes || bytes == 0 || !is_whole {
            return Err(format!("{:?} has a range that cannot be", step.action));
        }
    }
    let Some(into) = write else { return Ok(()) };
    if !layout.may_write(into) {
        return Err(format!("{:?} writes what is not its own", step.action));
    }
    let may_be_same = !matches!(step.action, Action::Copy { .. });
    let (start, end) = (layout.at(into), layout.at(into) + bytes);
    for range in reads {
        let from = layout.at(*range);
        let is_apart = from + bytes <= start || end <= from;
        let is_same = may_be_same && from == start;
        if !is_apart && !is_same {
            return Err(format!("{:?} reads and writes ranges that overlap", step.action));
        }
    }
    Ok(())
}

/// A part of a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Where in the target.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// The offset in the sources that it comes from.
    pub(super) origin: usize,
    /// Whose data; `None`: everyone's, reduced.
    pub(super) from: Option<u32>,
}

/// What the target of `rank` must hold in the end.
pub(super) fn wanted(call: &Call, rank: u32) -> Vec<Wanted> {
    let bytes = call.bytes();
    let own = rank as usize * bytes;
    let one = |origin: usize, from: Option<u32>| vec![Wanted { offset: 0, bytes, origin, from }];
    let by_rank = |origin: usize| {
        let block = |from: u32| Wanted { offset: from as usize * bytes, bytes, origin, from: Some(from) };
        (0..call.ranks).map(block).collect()
    };
    match call.kind {
        Kind::AllReduce => one(0, None),
        Kind::Reduce if rank == call.root => one(0, None),
        Kind::ReduceScatter => one(own, None),
        Kind::Broadcast => one(0, Some(call.root)),
        Kind::AllGather => by_rank(0),
        Kind::AlltoAll => by_rank(own),
        Kind::Gather if rank == call.root => by_rank(0),
        Kind::Scatter => one(own, Some(call.root)),
        _ => Vec::new(),
    }
}
