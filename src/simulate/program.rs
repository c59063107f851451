//! A plan as the simulator runs it: what each step does and how long its data is, without where the data lies.
#![forbid(unsafe_code)]

use crate::schedule::{Action, Plan};

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A packet leaves, with so many messages that share it (0: it is one by itself).
    Send { shared: u32 },
    /// A packet comes.
    Receive,
    /// A packet comes and is combined.
    ReceiveReduce,
    /// So many messages come, in whatever packets.
    ReceiveMessages { count: u32 },
    /// A copy here.
    Copy,
    /// Two operands become one here.
    Reduce,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) work: Work,
    pub(super) first_wait: u32,
    pub(super) wait_count: u32,
    pub(super) bytes: u64,
}

/// Whom a lane talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partner {
    To(u32),
    From(u32),
    Nobody,
}

/// Steps in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) partner: Partner,
}

/// That a step of a lane is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) lane: u32,
    pub(super) index: u32,
}

/// One rank's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) lanes: Vec<Lane>,
    pub(super) waits: Vec<Wait>,
    pub(super) scratch_bytes: u64,
    /// Whom the lanes of what comes belong to, by peer.
    pub(super) sources: Vec<(u32, u32)>,
}

impl Program {
    pub(super) fn new(plan: &Plan) -> Program {
        let steps: Vec<Step> = plan
            .steps
            .iter()
            .map(|step| {
                let (work, bytes) = work(&step.action, plan);
                Step { work, bytes, first_wait: step.first_wait, wait_count: step.wait_count }
            })
            .collect();
        let lanes: Vec<Lane> = plan
            .lanes
            .iter()
            .map(|lane| Lane {
                first: lane.first,
                count: lane.count,
                partner: partner(&plan.steps[lane.first as usize].action),
            })
            .collect();
        let mut sources: Vec<(u32, u32)> = lanes
            .iter()
            .zip(0..)
            .filter_map(|(lane, number)| match lane.partner {
                Partner::From(peer) => Some((peer, number)),
                _ => None,
            })
            .collect();
        sources.sort_unstable();
        Program {
            steps,
            lanes,
            waits: plan.waits.iter().map(|wait| Wait { lane: wait.lane, index: wait.index }).collect(),
            scratch_bytes: plan.scratch_bytes as u64,
            sources,
        }
    }

    /// The lane of what comes from `peer`.
    pub(super) fn lane_from(&self, peer: u32) -> Option<u32> {
        let place = self.sources.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
        Some(self.sources[place].1)
    }

    /// The steps that send.
    pub(super) fn sends(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.work, Work::Send { .. }))
    }
}

const fn partner(action: &Action) -> Partner {
    match action {
        Action::Send { peer, .. } | Action::SendFrame { peer, .. } => Partner::To(*peer),
        Action::Recv { peer, .. } | Action::RecvReduce { peer, .. } | Action::RecvMessages { peer, .. } => {
            Partner::From(*peer)
        }
        Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. } => {
            Partner::Nobody
        }
    }
}

fn work(action: &Action, plan: &Plan) -> (Work, u64) {
    let (work, bytes) = match action {
        Action::Send { from, .. } => (Work::Send { shared: 0 }, from.bytes),
        Action::SendFrame { count, bytes, .. } => (Work::Send { shared: *count }, *bytes),
        Action::Recv { into, .. } => (Work::Receive, into.bytes),
        Action::RecvReduce { into, .. } => (Work::ReceiveReduce, into.bytes),
        Action::RecvMessages { first, count, .. } => {
            let messages = &plan.messages[*first as usize..][..*count as usize];
            (Work::ReceiveMessages { count: *count }, messages.iter().map(|message| message.bytes).sum())
        }
        Action::Copy { into, .. } | Action::Scale { into, .. } => (Work::Copy, into.bytes),
        Action::Divide { range } => (Work::Copy, range.bytes),
        Action::Reduce { into, .. } => (Work::Reduce, into.bytes),
    };
    (work, bytes as u64)
}
