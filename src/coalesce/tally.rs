//! What a plan of messages comes to: how many frames, why each left, how many messages and bytes.
//!
//! A *frame* here is any packet that carries messages, be it one. Each left for one reason, so the reasons add up
//! to the frames. A plan knows all of this before it runs, so counting costs a run a few additions, whatever
//! the number of its messages.

use super::Limits;
use crate::schedule::{Action, Lane, Plan, Range, Step};

/// Why a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It holds the last of its batch to that peer.
    Sealed,
    /// The next message has no room in it.
    Full,
    /// It is, or is followed by, a message too long to share a frame; with coalescing off, each is.
    Long,
    /// It holds messages of several batches, which were queued while the path was busy.
    Held,
}

/// How many frames left for each reason, by the reason's number.
pub type Flushes = [u64; 4];

/// What a plan of messages comes to, as far as other ranks are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames sent, by the reason why they left.
    pub flushes: Flushes,
    /// Bytes of the messages that leave.
    pub sent_bytes: u64,
    /// Bytes of the messages that come.
    pub received_bytes: u64,
}

impl Tally {
    /// Of a plan that [`super::plan`] made within these limits.
    #[must_use]
    pub fn of(plan: &Plan, limits: Limits) -> Tally {
        let mut tally = Tally::default();
        for Lane { first, count } in &plan.lanes {
            let steps = &plan.steps[*first as usize..][..*count as usize];
            for (place, step) in steps.iter().enumerate() {
                tally.add(step, steps.get(place + 1), &plan.messages, limits);
            }
        }
        tally
    }

    fn add(&mut self, step: &Step, next: Option<&Step>, messages: &[Range], limits: Limits) {
        let sum = |first: u32, count: u32| -> usize {
            messages[first as usize..][..count as usize].iter().map(|message| message.bytes).sum()
        };
        match step.action {
            Action::Send { from, .. } => self.sent_bytes += from.bytes as u64,
            Action::SendFrame { first, count, .. } => self.sent_bytes += sum(first, count) as u64,
            Action::RecvMessages { first, count, .. } => {
                self.received_bytes += sum(first, count) as u64;
                return;
            }
            _ => return,
        }
        let flush = if is_long(step, limits) || next.is_some_and(|next| is_long(next, limits)) {
            Flush::Long
        } else if next.is_some() {
            Flush::Full
        } else {
            Flush::Sealed
        };
        self.flushes[flush as usize] += 1;
    }

    /// The frames that leave.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.flushes.iter().sum()
    }
}

fn is_long(step: &Step, limits: Limits) -> bool {
    matches!(step.action, Action::Send { from, .. } if !limits.may_share(from.bytes))
}

#[cfg(test)]
mod tests {
    use super::super::{Message, plan};
    use super::*;
    use proptest::prelude::*;

    fn message(is_send: bool, peer: u32, bytes: usize) -> Message {
        Message { is_send, peer, bytes, buffer: 0 }
    }

    #[test]
    fn each_frame_has_its_reason() {
        let limits = Limits { message_bytes: 100, frame_bytes: 256 };
        // Two fit into a frame; a long one sends off what stands before it, and the last one is sealed.
        let sizes = [100, 100, 100, 5000, 8, 8];
        let list: Vec<Message> = sizes.iter().map(|bytes| message(true, 1, *bytes)).collect();
        let tally = Tally::of(&plan(&list, 0, limits).unwrap(), limits);
        assert_eq!(tally.flushes, [1, 1, 2, 0], "sealed, full, long, held");
        assert_eq!((tally.sent_bytes, tally.received_bytes, tally.frames()), (5316, 0, 4));
        let off = Limits { message_bytes: 0, ..limits };
        assert_eq!(Tally::of(&plan(&list, 0, off).unwrap(), off).flushes, [0, 0, 6, 0]);
    }

    proptest! {
        #[test]
        fn reasons_add_up_to_frames_and_messages_to_bytes(
            list in prop::collection::vec((any::<bool>(), 1u32..4, 0usize..300), 0..60),
            message_bytes in 0usize..300, frame_bytes in 64usize..1000,
        ) {
            let limits = Limits { message_bytes, frame_bytes };
            let list: Vec<Message> =
                list.into_iter().map(|(is_send, peer, bytes)| message(is_send, peer, bytes)).collect();
            let plan = plan(&list, 0, limits).unwrap();
            let tally = Tally::of(&plan, limits);
            let is_frame = |step: &&Step| matches!(step.action, Action::Send { .. } | Action::SendFrame { .. });
            prop_assert_eq!(tally.frames(), plan.steps.iter().filter(is_frame).count() as u64);
            let bytes = |is_send| -> u64 {
                list.iter().filter(|m| m.is_send == is_send).map(|m| m.bytes as u64).sum()
            };
            prop_assert_eq!((tally.sent_bytes, tally.received_bytes), (bytes(true), bytes(false)));
            // Each peer that gets anything gets one last frame.
            let is_last_long = |peer| list.iter().rfind(|m| m.is_send && m.peer == peer).map(|m| !limits.may_share(m.bytes));
            let sealed = (1..4).filter(|peer| is_last_long(*peer) == Some(false)).count() as u64;
            prop_assert_eq!(tally.flushes[Flush::Sealed as usize], sealed);
        }
    }
}
