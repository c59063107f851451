//! Point-to-point messages of a batch become lanes: per peer one of what is sent and one of what comes, with
//! runs of small messages to the same peer in frames.
//!
//! 1. Messages to this rank itself are local copies, matched in order.
//! 2. Per peer, in the order of the calls: a small message joins the frame being filled; a large one, or a
//!    full frame, closes it. A frame of one message is sent as that message.
//! 3. What comes from a peer is one step: its messages in order, from whatever packets bring them.
//! 4. Nothing waits for anything: lanes are independent, and within a lane the order of the calls holds.

use super::LENGTH_BYTES;
use crate::schedule::{Action, Lane, Plan, Range, Step};

/// One send or receive of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Whether it leaves.
    pub is_send: bool,
    /// To or from whom.
    pub peer: u32,
    /// How long it is.
    pub bytes: usize,
    /// Its operation's number in the batch, by which its buffer is found.
    pub buffer: u32,
}

/// What may share a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longer messages travel alone. 0 turns coalescing off.
    pub message_bytes: usize,
    /// The longest frame.
    pub frame_bytes: usize,
}

impl Limits {
    /// Whether a message of so many bytes may share a frame.
    #[must_use]
    pub const fn may_share(self, bytes: usize) -> bool {
        self.message_bytes > 0 && bytes <= self.message_bytes && LENGTH_BYTES + bytes <= self.frame_bytes
    }
}

/// The lanes of `messages` on `rank`, or the reason why they cannot be run.
///
/// # Errors
/// A message to this rank itself without its counterpart in the batch, or of another length.
pub fn plan(messages: &[Message], rank: u32, limits: Limits) -> Result<Plan, String> {
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_by_key(|i| (messages[*i].peer, !messages[*i].is_send));
    let mut plan = Plan { algorithm: "messages", ..Plan::default() };
    local_lane(&mut plan, messages, rank)?;
    for lane in order.chunk_by(|a, b| key(&messages[*a]) == key(&messages[*b])) {
        let (peer, is_send) = key(&messages[lane[0]]);
        if peer == rank {
            continue;
        }
        let first = plan.steps.len();
        if is_send {
            send_lane(&mut plan, lane.iter().map(|i| &messages[*i]), limits);
        } else {
            let first = plan.messages.len() as u32;
            lane.iter().for_each(|i| note(&mut plan, &messages[*i]));
            push(&mut plan, Action::RecvMessages { peer, first, count: lane.len() as u32 });
        }
        close_lane(&mut plan, first);
    }
    Ok(plan)
}

fn key(message: &Message) -> (u32, bool) {
    (message.peer, message.is_send)
}

fn range(message: &Message) -> Range {
    Range::new(message.buffer, 0, message.bytes)
}

/// Adds to the plan's messages. What no frame holds has a length that no frame carries.
fn note(plan: &mut Plan, message: &Message) {
    plan.messages.push(range(message));
    let length = u32::try_from(message.bytes).unwrap_or(u32::MAX);
    plan.lengths.extend(length.to_le_bytes());
}

fn push(plan: &mut Plan, action: Action) {
    plan.steps.push(Step { action, first_wait: 0, wait_count: 0 });
}

fn close_lane(plan: &mut Plan, first: usize) {
    let count = (plan.steps.len() - first) as u32;
    if count > 0 {
        plan.lanes.push(Lane { first: first as u32, count });
    }
}

fn local_lane(plan: &mut Plan, messages: &[Message], rank: u32) -> Result<(), String> {
    let mine = |is_send| messages.iter().filter(move |m| m.peer == rank && m.is_send == is_send);
    let (sends, receives) = (mine(true).count(), mine(false).count());
    if sends != receives {
        return Err(format!(
            "rank {rank} sends {sends} messages to itself and receives {receives} from itself in one group"
        ));
    }
    let first = plan.steps.len();
    for (number, (send, receive)) in mine(true).zip(mine(false)).enumerate() {
        if send.bytes != receive.bytes {
            return Err(format!(
                "message {number} of rank {rank} to itself is sent with {} bytes and received with {}",
                send.bytes, receive.bytes
            ));
        }
        if send.bytes > 0 {
            push(plan, Action::Copy { from: range(send), into: range(receive) });
        }
    }
    close_lane(plan, first);
    Ok(())
}

fn send_lane<'a>(plan: &mut Plan, messages: impl Iterator<Item = &'a Message>, limits: Limits) {
    let mut frame = Frame::default();
    for message in messages {
        let may_share = limits.may_share(message.bytes);
        if !may_share || frame.bytes + LENGTH_BYTES + message.bytes > limits.frame_bytes {
            frame.close(plan);
        }
        if may_share {
            frame.add(plan, message);
        } else {
            push(plan, Action::Send { peer: message.peer, from: range(message) });
        }
    }
    frame.close(plan);
}

/// The frame being filled; its messages are the last ones of the plan.
#[derive(Default)]
struct Frame {
    peer: u32,
    count: u32,
    bytes: usize,
}

impl Frame {
    fn add(&mut self, plan: &mut Plan, message: &Message) {
        note(plan, message);
        self.peer = message.peer;
        self.count += 1;
        self.bytes += LENGTH_BYTES + message.bytes;
    }

    fn close(&mut self, plan: &mut Plan) {
        let Frame { peer, count, bytes } = std::mem::take(self);
        if count == 1 {
            let from = plan.messages.pop().expect("it was added");
            plan.lengths.truncate(plan.messages.len() * LENGTH_BYTES);
            push(plan, Action::Send { peer, from });
        } else if count > 1 {
            let first = plan.messages.len() as u32 - count;
            push(plan, Action::SendFrame { peer, first, count, bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What arrives at each peer, message by message, whatever the framing.
    fn sent(plan: &Plan) -> Vec<(u32, Range)> {
        let mut all = Vec::new();
        for step in &plan.steps {
            match step.action {
                Action::Send { peer, from } => all.push((peer, from)),
                Action::SendFrame { peer, first, count, .. } => {
                    let frame = &plan.messages[first as usize..(first + count) as usize];
                    all.extend(frame.iter().map(|range| (peer, *range)));
                }
                _ => {}
            }
        }
        all.sort_by_key(|(peer, _)| *peer);
        all
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let one = (any::<bool>(), 0u32..4, prop_oneof![0usize..40, 0usize..3000]);
        prop::collection::vec(one, 0..60).prop_map(|list| {
            let message = |(i, (is_send, peer, bytes))| Message { is_send, peer, bytes, buffer: i as u32 };
            list.into_iter().enumerate().map(message).filter(|m: &Message| m.peer != 1).collect()
        })
    }

    proptest! {
        #[test]
        fn framing_changes_neither_order_nor_content(
            list in messages(), message_bytes in 0usize..2000, frame_bytes in 64usize..4096,
        ) {
            let limits = Limits { message_bytes, frame_bytes };
            let on = plan(&list, 1, limits).unwrap();
            let off = plan(&list, 1, Limits { message_bytes: 0, frame_bytes }).unwrap();
            prop_assert_eq!(sent(&on), sent(&off));
            for step in &on.steps {
                if let Action::SendFrame { first, count, bytes, .. } = step.action {
                    let frame = &on.messages[first as usize..(first + count) as usize];
                    let sum: usize = frame.iter().map(|range| range.bytes + LENGTH_BYTES).sum();
                    prop_assert_eq!(sum, bytes);
                    prop_assert!(bytes <= frame_bytes && count > 1);
                    prop_assert!(frame.iter().all(|range| range.bytes <= message_bytes));
                }
            }
            let received = on.steps.iter().map(|step| match step.action {
                Action::RecvMessages { count, .. } => count as usize,
                _ => 0,
            });
            prop_assert_eq!(received.sum::<usize>(), list.iter().filter(|m| !m.is_send).count());
            let lengths = on.lengths.chunks_exact(LENGTH_BYTES).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
            prop_assert!(lengths.eq(on.messages.iter().map(|range| range.bytes as u32)));
            let in_lanes: u32 = on.lanes.iter().map(|lane| lane.count).sum();
            prop_assert_eq!(in_lanes as usize, on.steps.len());
        }
    }

    #[test]
    fn sixty_four_small_messages_are_one_frame() {
        let list: Vec<Message> =
            (0..64).map(|i| Message { is_send: true, peer: 1, bytes: 8, buffer: i }).collect();
        let plan = plan(&list, 0, Limits { message_bytes: 1024, frame_bytes: 16384 }).unwrap();
        assert_eq!(plan.steps.len(), 1);
        assert!(matches!(plan.steps[0].action, Action::SendFrame { count: 64, bytes: 768, .. }));
    }

    #[test]
    fn messages_to_oneself_match_or_are_refused() {
        let send = Message { is_send: true, peer: 0, bytes: 8, buffer: 0 };
        let receive = Message { is_send: false, buffer: 1, ..send };
        let limits = Limits { message_bytes: 64, frame_bytes: 4096 };
        assert!(matches!(plan(&[receive, send], 0, limits).unwrap().steps[0].action, Action::Copy { .. }));
        assert!(plan(&[send], 0, limits).unwrap_err().contains("sends 1"));
        let shorter = Message { bytes: 4, ..receive };
        assert!(plan(&[send, shorter], 0, limits).unwrap_err().contains("8 bytes"));
    }
}
