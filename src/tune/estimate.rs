//! What a plan is estimated to take: a model of two numbers, until measured tables say better.
//!
//! ```text
//! time = hops * HOP_NS + bytes / BYTES_PER_NS
//! ```
//! *Hops* are the packets of the longest lane, which follow one another. *Bytes* are all that this rank's plan
//! reads to send, copy or combine, since one thread does them all. Waiting for ranks that come late is no
//! part of it.
#![forbid(unsafe_code)]

use crate::schedule::{Action, Plan};

/// First guess, to be measured: a small packet between two cores near each other (`benches/records/`).
const HOP_NS: u64 = 130;
/// First guess, to be measured: what one core copies out of its caches.
const BYTES_PER_NS: u64 = 30;

/// How long `plan` takes on this rank, in nanoseconds.
#[must_use]
pub fn plan_ns(plan: &Plan) -> u64 {
    let hops = |first: u32, count: u32| {
        let steps = &plan.steps[first as usize..][..count as usize];
        steps.iter().filter(|step| is_packet(&step.action)).count() as u64
    };
    let longest = plan.lanes.iter().map(|lane| hops(lane.first, lane.count)).max().unwrap_or(0);
    let bytes: u64 = plan.steps.iter().map(|step| bytes(&step.action, plan) as u64).sum();
    longest * HOP_NS + bytes.div_ceil(BYTES_PER_NS)
}

const fn is_packet(action: &Action) -> bool {
    !matches!(
        action,
        Action::Copy { .. } | Action::Reduce { .. } | Action::Scale { .. } | Action::Divide { .. }
    )
}

fn bytes(action: &Action, plan: &Plan) -> usize {
    match action {
        Action::RecvMessages { first, count, .. } => {
            plan.messages[*first as usize..][..*count as usize].iter().map(|message| message.bytes).sum()
        }
        Action::Send { from, .. } => from.bytes,
        Action::SendFrame { bytes, .. } => *bytes,
        Action::Recv { into, .. }
        | Action::RecvReduce { into, .. }
        | Action::Copy { into, .. }
        | Action::Reduce { into, .. }
        | Action::Scale { into, .. } => into.bytes,
        Action::Divide { range } => range.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Kind, Reduction};
    use crate::schedule::{Algorithm, Call, Hosts, plan};

    fn ns(algorithm: Algorithm, ranks: u32, count: usize) -> u64 {
        let call = Call {
            kind: Kind::AllReduce,
            data_type: DataType::Float32,
            reduction: Reduction::Sum,
            root: 0,
            count,
            ranks,
            in_place: true,
        };
        plan_ns(&plan(algorithm, &call, 0, &Hosts::one()).expect("a form"))
    }

    #[test]
    fn more_bytes_and_more_hops_take_longer() {
        assert!(ns(Algorithm::Ring, 4, 1 << 20) > ns(Algorithm::Ring, 4, 1 << 10));
        assert!(ns(Algorithm::Ring, 16, 16) > ns(Algorithm::Ring, 4, 16));
        assert!(ns(Algorithm::Ring, 16, 16) > ns(Algorithm::Exchange, 16, 16));
        assert_eq!(plan_ns(&Plan::default()), 0);
    }
}
