//! Order and credit of one line, on both sides.
//!
//! The sender numbers its pieces and stays within a window: what it sent, less what the receiver said it has
//! read. Both count what the buffer of a piece takes, so that many small pieces are bounded as well. The receiver
//! hands pieces out in their order, however they come (what UCX moves by rendezvous may be overtaken), and takes
//! a piece outside the window for what it is: no peer of ours sent it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::buffer;

/// What a piece counts.
pub(super) fn charge(bytes: usize) -> u64 {
    buffer::taken_bytes(bytes) as u64
}

/// Why a peer's word cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The sender's side.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// How many pieces were sent.
    pub(super) sequence: u64,
    sent: u64,
    returned: u64,
}

impl Outgoing {
    /// Whether a piece of `bytes` may leave.
    pub(super) fn has_room(&self, bytes: usize, window_bytes: u64) -> bool {
        self.sent - self.returned + charge(bytes) <= window_bytes
    }

    /// Counts a piece that leaves; its number.
    pub(super) fn send(&mut self, bytes: usize) -> u64 {
        self.sent += charge(bytes);
        self.sequence += 1;
        self.sequence - 1
    }

    /// Takes the receiver's word of how much it has read. What was overtaken says less than is known.
    pub(super) fn handle_returned(&mut self, returned: u64) -> Result<(), Broken> {
        if returned > self.sent {
            return Err(Broken("returned more credit than was lent"));
        }
        self.returned = self.returned.max(returned);
        Ok(())
    }

    /// What was sent and not read.
    #[cfg(test)]
    fn unread(&self) -> u64 {
        self.sent - self.returned
    }
}

/// The receiver's side, with what each piece brings.
#[derive(Debug)]
pub(super) struct Incoming<P> {
    arrived: VecDeque<P>,
    early: BTreeMap<u64, P>,
    /// How many pieces have come in order.
    expected: u64,
    received: u64,
    read: u64,
    told: u64,
}

impl<P> Default for Incoming<P> {
    fn default() -> Self {
        let (arrived, early) = (VecDeque::new(), BTreeMap::new());
        Incoming { arrived, early, expected: 0, received: 0, read: 0, told: 0 }
    }
}

impl<P> Incoming<P> {
    /// Takes a piece of `bytes`. Whether there is more to hand out than before.
    pub(super) fn handle(
        &mut self,
        sequence: u64,
        bytes: usize,
        piece: P,
        window_bytes: u64,
    ) -> Result<bool, Broken> {
        // No piece counts less than an empty one, so no number lies further ahead in a line that is in order.
        let furthest = self.expected + window_bytes / charge(0);
        if sequence < self.expected || sequence > furthest || self.early.contains_key(&sequence) {
            return Err(Broken("sent a piece out of its order"));
        }
        if self.received - self.read + charge(bytes) > window_bytes {
            return Err(Broken("sent more than its credit"));
        }
        self.received += charge(bytes);
        if sequence != self.expected {
            self.early.insert(sequence, piece);
            return Ok(false);
        }
        self.arrived.push_back(piece);
        self.expected += 1;
        while let Some(next) = self.early.remove(&self.expected) {
            self.arrived.push_back(next);
            self.expected += 1;
        }
        Ok(true)
    }

    /// How many pieces have come in order.
    pub(super) fn arrived_count(&self) -> u64 {
        self.expected
    }

    /// The next piece, in order.
    pub(super) fn pop(&mut self) -> Option<P> {
        self.arrived.pop_front()
    }

    /// Whether there is a piece to hand out.
    pub(super) fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Counts a piece as read. Whether that should be told on its own.
    pub(super) fn read(&mut self, bytes: usize, window_bytes: u64) -> bool {
        self.read += charge(bytes);
        self.read - self.told >= window_bytes / 4
    }

    /// How much was read, to be told to the sender now.
    pub(super) fn tell(&mut self) -> u64 {
        self.told = self.read;
        self.read
    }

    /// What came and was not handed out.
    pub(super) fn held(&self) -> impl Iterator<Item = &P> {
        self.arrived.iter().chain(self.early.values())
    }

    /// Forgets what was not handed out; it is given to `take`.
    pub(super) fn clear(&mut self, mut take: impl FnMut(P)) {
        self.arrived.drain(..).for_each(&mut take);
        std::mem::take(&mut self.early).into_values().for_each(take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::sim::Dice;

    #[test]
    fn whatever_overtakes_pieces_are_read_in_order_within_the_window() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let window_bytes = 9000 + dice.below(20_000);
            let (mut out, mut into) = (Outgoing::default(), Incoming::default());
            let mut under_way: Vec<(u64, usize)> = Vec::new();
            let mut words: Vec<u64> = Vec::new();
            let (mut sent, mut read) = (Vec::new(), Vec::new());
            while read.len() < 200 {
                match dice.below(4) {
                    0 if sent.len() < 200 => {
                        let bytes = dice.below(900) as usize;
                        if out.has_room(bytes, window_bytes) {
                            under_way.push((out.send(bytes), bytes));
                            sent.push(bytes);
                        }
                    }
                    1 if !under_way.is_empty() => {
                        let at = dice.below(under_way.len() as u64) as usize;
                        let (number, bytes) = under_way.swap_remove(at);
                        into.handle(number, bytes, bytes, window_bytes).expect("in order");
                    }
                    2 => {
                        if let Some(bytes) = into.pop() {
                            read.push(bytes);
                            if into.read(bytes, window_bytes) {
                                words.push(into.tell());
                            }
                        }
                    }
                    3 if !words.is_empty() => {
                        let at = dice.below(words.len() as u64) as usize;
                        out.handle_returned(words.swap_remove(at)).expect("true");
                        assert!(out.unread() <= window_bytes);
                    }
                    _ => {}
                }
            }
            assert_eq!(sent, read, "seed {seed}");
            assert_eq!(into.arrived_count(), 200);
        }
    }

    #[test]
    fn what_no_peer_of_ours_sends_is_told() {
        let mut into = Incoming::default();
        assert_eq!(into.handle(1, 10, (), 2000), Ok(false));
        assert!(into.handle(1, 10, (), 2000).is_err(), "twice");
        assert!(into.handle(0, 1000, (), 2000).is_err(), "too long");
        assert!(into.handle(99, 1, (), 2000).is_err(), "too far ahead");
        assert_eq!(into.handle(0, 10, (), 2000), Ok(true));
        assert!(into.handle(0, 10, (), 2000).is_err(), "late");
        let mut out = Outgoing::default();
        out.send(10);
        assert!(out.handle_returned(charge(10) + 1).is_err());
        assert_eq!(out.handle_returned(charge(10)), Ok(()));
    }
}
