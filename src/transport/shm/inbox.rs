//! What peers may write for a rank without its doing: which of its windows are open, and signals.
//!
//! ```text
//! a peer that writes a window     gate := 1, fence, is the window open?, writes a slice, gate := 0
//! the owner that closes it        window := 0, fence, waits until every gate is 0
//! ```
//! Both write first and look afterwards, in one order that all see (`SeqCst`), so one of them sees the other:
//! either the peer finds the window closed, or the owner finds the gate taken and waits for the end of that
//! one slice. Afterwards nobody writes the owner's memory.
//!
//! A signal is a number that only one peer adds to. It adds with release after the bytes of its put, and the
//! owner reads with acquire: who sees the signal sees the bytes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ring::LINE_BYTES;
use crate::system::map::Mapping;

/// How many windows of a rank may be open at once.
pub(super) const WINDOWS: u32 = 1024;
/// Contexts of signals, each an order of its own.
pub const CONTEXTS: u32 = 16;
/// Signals of one context, from one peer.
pub const SIGNALS: u32 = 64;

const GATES_OFFSET: usize = WINDOWS as usize * 8;

const fn signals_offset(ranks: u32) -> usize {
    GATES_OFFSET + ranks as usize * LINE_BYTES
}

/// How long an inbox is.
pub(super) const fn bytes(ranks: u32) -> usize {
    signals_offset(ranks) + ranks as usize * (CONTEXTS * SIGNALS) as usize * 8
}

/// A mapped inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    mapping: Arc<Mapping>,
    ranks: u32,
}

impl Inbox {
    /// `mapping` is at least [`bytes`] long.
    pub(super) const fn new(mapping: Arc<Mapping>, ranks: u32) -> Inbox {
        Inbox { mapping, ranks }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.mapping.bytes());
        // SAFETY: the offset was just checked to lie in the mapping, which `self` keeps and which starts on a
        // page, so the word is aligned. Everybody accesses it as an atomic.
        unsafe { &*self.mapping.start().add(offset).cast::<AtomicU64>() }
    }

    /// The stamp of the window that is open at a place, 0 if none is. Written by the owner.
    pub(super) fn window(&self, place: u32) -> &AtomicU64 {
        self.word((place % WINDOWS) as usize * 8)
    }

    /// 1 while `source` writes. Written by `source`.
    pub(super) fn gate(&self, source: u32) -> &AtomicU64 {
        self.word(GATES_OFFSET + source as usize * LINE_BYTES)
    }

    /// How often `source` has given a signal. Written by `source`.
    pub(super) fn signal(&self, source: u32, index: u32) -> &AtomicU64 {
        let place = source as usize * (CONTEXTS * SIGNALS) as usize + (index % (CONTEXTS * SIGNALS)) as usize;
        self.word(signals_offset(self.ranks) + place * 8)
    }
}
