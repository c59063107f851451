//! Giving back what a communicator that rests does not need: the data of its rings.
//!
//! ```text
//! a rank that rests     says so, returns all credit, and for each peer that rests as well (and is held for so
//!                       long) gives back the data of the empty rings between them
//! a rank that goes on   waits until nobody holds it, then says so
//! ```
//! A ring is empty if its producer has got back all that it sent, or its consumer finds no packet: since
//! neither side moves meanwhile, one side's word is enough. The first of two finds the other at work and leaves
//! the rings to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ShmTransport;
use crate::transport::Taken;

/// The values of `Control::rest`.
mod stage {
    /// The rank works.
    pub(super) const NOT: u64 = 0;
    /// It rests.
    pub(super) const RESTS: u64 = 1;
    /// It rests, and a peer gives back rings between them.
    pub(super) const HELD: u64 = 2;
}

/// How long to wait for whoever holds a rank. Giving back takes microseconds, so that one is dead.
const HOLD_WAIT: Duration = Duration::from_millis(500);

impl ShmTransport {
    /// Gives back what can be given back, with nothing under way and nothing to come before [`Self::go_on`].
    pub fn rest(&mut self) {
        let own = self.here.rank;
        self.here.segment.control(own).rest.store(stage::RESTS, Ordering::SeqCst);
        for edge in &mut self.edges {
            edge.incoming.rest();
        }
        for peer in (0..self.here.segment.ranks()).filter(|peer| *peer != own) {
            let flag = &self.here.segment.control(peer).rest;
            // Acquire: all that the peer did to the rings before it rested lies before.
            if !advance(flag, stage::RESTS, stage::HELD) {
                continue;
            }
            let edge = &mut self.edges[peer as usize];
            edge.outgoing.give_back();
            edge.incoming.give_back();
            flag.store(stage::RESTS, Ordering::SeqCst);
        }
    }

    /// Ends a rest.
    pub fn go_on(&mut self) {
        let flag = &self.here.segment.control(self.here.rank).rest;
        if !advance(flag, stage::RESTS, stage::NOT) {
            flag.store(stage::NOT, Ordering::SeqCst);
        }
    }

    /// How much memory the parts of the segment take that this process has mapped, whichever process filled
    /// them. Ranks that are threads of one process share these parts, and each counts them all.
    #[must_use]
    pub fn taken(&self) -> Taken {
        self.here.segment.taken()
    }
}

/// From one stage to another, once nobody holds the rank; false if it is at a third one, or held for too long.
fn advance(flag: &AtomicU64, from: u64, to: u64) -> bool {
    let deadline = Instant::now() + HOLD_WAIT;
    loop {
        match flag.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(stage::HELD) if Instant::now() < deadline => std::thread::yield_now(),
            Err(_) => return false,
        }
    }
}
