//! What a communicator counts, always: plain fields of whoever owns the engine, no atomics.
//!
//! What happens for every packet costs an addition there; what a plan knows beforehand is added when its messages
//! are done. So where messages were given up, by an error or an abort, their frames have left and the reasons for
//! them are not counted.
#![forbid(unsafe_code)]

use std::ffi::CStr;

use crate::coalesce::{Flush, Flushes, Tally};

/// What an engine counts while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames sent, but for [`Self::short_frames`].
    pub frames: u64,
    /// Lone messages sent the short way: each a sealed frame.
    pub short_frames: u64,
    /// Frames of which all messages were taken.
    pub received_frames: u64,
    /// Why frames left.
    pub flushes: Flushes,
    /// Bytes of messages sent, but for those the short way.
    pub sent_bytes: u64,
    /// Bytes of messages taken, likewise.
    pub received_bytes: u64,
    /// Bytes of lone messages sent the short way.
    pub short_sent_bytes: u64,
    /// Bytes of lone messages taken the short way.
    pub short_received_bytes: u64,
    /// Packets of collectives sent.
    pub collective_packets: u64,
    /// Their bytes.
    pub collective_bytes: u64,
    /// Collectives that ran at once with others.
    pub collectives_fused: u64,
}

impl Counts {
    /// The messages of a plan are done.
    #[inline]
    pub(super) fn add(&mut self, tally: &Tally) {
        for (sum, count) in self.flushes.iter_mut().zip(tally.flushes) {
            *sum += count;
        }
        self.sent_bytes += tally.sent_bytes;
        self.received_bytes += tally.received_bytes;
    }

    /// A packet of a collective is on its way.
    #[inline]
    pub(super) fn add_collective(&mut self, bytes: usize) {
        self.collective_packets += 1;
        self.collective_bytes += bytes as u64;
    }

    /// Messages of several batches have left in one frame.
    pub(super) fn add_held(&mut self, bytes: u64) {
        self.frames += 1;
        self.flushes[Flush::Held as usize] += 1;
        self.sent_bytes += bytes;
    }

    /// Of all lone messages that went the short way.
    #[inline]
    pub(super) fn short_bytes(&self) -> u64 {
        self.short_sent_bytes + self.short_received_bytes
    }
}

/// One counter, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What is counted; `_bytes` at the end where it is bytes.
    pub name: &'static CStr,
    /// Since the communicator was born.
    pub value: u64,
}

impl Counter {
    pub(super) const fn new(name: &'static CStr, value: u64) -> Counter {
        Counter { name, value }
    }
}

/// The counters of an engine. What it counts itself in `counts`, beside that how many batches it took, messages
/// sent and taken, plans made and found.
pub(super) fn list(
    counts: &Counts,
    batches: u64,
    [messages, received_messages]: [u64; 2],
    [made, found]: [u64; 2],
) -> Vec<Counter> {
    let flushes = |reason: Flush| counts.flushes[reason as usize];
    let one = Counter::new;
    vec![
        one(c"batches", batches),
        one(c"messages", messages),
        one(c"message_bytes", counts.sent_bytes + counts.short_sent_bytes),
        one(c"frames", counts.frames + counts.short_frames),
        one(c"frames_sealed", flushes(Flush::Sealed) + counts.short_frames),
        one(c"frames_full", flushes(Flush::Full)),
        one(c"frames_long", flushes(Flush::Long)),
        one(c"frames_held", flushes(Flush::Held)),
        one(c"received_messages", received_messages),
        one(c"received_message_bytes", counts.received_bytes + counts.short_received_bytes),
        one(c"received_frames", counts.received_frames),
        one(c"collective_packets", counts.collective_packets),
        one(c"collective_bytes", counts.collective_bytes),
        one(c"collectives_fused", counts.collectives_fused),
        one(c"plans_made", made),
        one(c"plans_found", found),
    ]
}
