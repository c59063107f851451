//! What waited for its path joins the next frame.
//!
//! Nothing is held in hope of company. But while a batch waits for room, or for the one before it, others may have been
//! queued behind it; those that are nothing but small messages to the same rank leave in one frame with it, if
//! that has room *now*. If it has not, the first batch still leaves alone as soon as it can, so a batch never
//! waits for one behind it, and whoever finishes without joining finishes with it. Joined batches leave at the same
//! moment and are done in their order.
//!
//! Batches that receive, or send to several ranks, do not join: what they write or wait for might be what the batch
//! behind them sends.

use super::{LENGTH_BYTES, Limits, Message};

/// A batch, or several, of nothing but small messages to one other rank, as one frame carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// To whom.
    pub peer: u32,
    /// How many messages; at least one.
    pub count: u32,
    /// The bytes of the frame: lengths and messages.
    pub frame_bytes: usize,
}

impl Burst {
    /// The messages of a batch, if they can be one.
    #[must_use]
    pub fn of(messages: &[Message], rank: u32, limits: Limits) -> Option<Burst> {
        let peer = messages.first()?.peer;
        let fits =
            |message: &Message| message.is_send && message.peer == peer && limits.may_share(message.bytes);
        if peer == rank || !messages.iter().all(fits) {
            return None;
        }
        let frame_bytes = messages.iter().map(|message| LENGTH_BYTES + message.bytes).sum();
        let burst = Burst { peer, count: messages.len() as u32, frame_bytes };
        Some(burst).filter(|_| frame_bytes <= limits.frame_bytes)
    }

    /// Both in one frame, if they fit.
    #[must_use]
    pub fn and(self, next: Burst, limits: Limits) -> Option<Burst> {
        let frame_bytes = self.frame_bytes + next.frame_bytes;
        let fits = self.peer == next.peer && frame_bytes <= limits.frame_bytes;
        fits.then_some(Burst { peer: self.peer, count: self.count + next.count, frame_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { message_bytes: 64, frame_bytes: 256 };

    fn message(is_send: bool, peer: u32, bytes: usize) -> Message {
        Message { is_send, peer, bytes, buffer: 0 }
    }

    #[test]
    fn only_small_messages_to_one_other_rank_are_a_burst() {
        let (one, other) = (message(true, 1, 8), message(true, 2, 8));
        assert_eq!(Burst::of(&[one, one], 0, LIMITS), Some(Burst { peer: 1, count: 2, frame_bytes: 24 }));
        for list in
            [&[][..], &[one, other], &[one, message(false, 1, 8)], &[message(true, 1, 65)], &[one; 30]]
        {
            assert_eq!(Burst::of(list, 0, LIMITS), None, "{list:?}");
        }
        assert_eq!(Burst::of(&[one], 1, LIMITS), None, "to itself");
        assert_eq!(Burst::of(&[one], 0, Limits { message_bytes: 0, ..LIMITS }), None, "switched off");
    }

    proptest! {
        #[test]
        fn joined_bursts_are_the_burst_of_both(
            first in prop::collection::vec(0usize..70, 1..8), second in prop::collection::vec(0usize..70, 1..8),
            peer in 1u32..3,
        ) {
            let batch = |peer: u32, list: &[usize]| -> Vec<Message> {
                list.iter().map(|bytes| message(true, peer, *bytes)).collect()
            };
            let (one, two) = (batch(1, &first), batch(peer, &second));
            let joined = Burst::of(&one, 0, LIMITS)
                .and_then(|a| a.and(Burst::of(&two, 0, LIMITS)?, LIMITS));
            prop_assert_eq!(joined, Burst::of(&[one, two].concat(), 0, LIMITS));
        }
    }
}
