//! Ranks that are threads of one process, and what they tell one another without shared memory.
//!
//! A packet between them is copied straight from the sender's memory. Where that lies is told here, in the
//! process's own memory, not in the segment, which others can write: nobody outside makes us follow a pointer.
//! A *gate* guards each offer. The receiver holds it while it reads; a sender that leaves closes it first, and
//! so waits for the end of that one read. Afterwards nobody touches its memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::op::Address;

type Ranks = HashMap<(u128, u32), Weak<LocalRank>>;
/// The ranks of this process, by segment and number.
static LOCAL: Mutex<Option<Ranks>> = Mutex::new(None);

fn with_ranks<R>(body: impl FnOnce(&mut Ranks) -> R) -> R {
    let mut ranks = LOCAL.lock().unwrap_or_else(PoisonError::into_inner);
    body(ranks.get_or_insert_default())
}

/// The states of a gate.
mod gate {
    /// Nothing is offered, or what was is done.
    pub(super) const SHUT: u32 = 0;
    /// There is an offer, and nobody reads it now.
    pub(super) const OPEN: u32 = 1;
    /// The receiver reads.
    pub(super) const HELD: u32 = 2;
    /// The sender has left.
    pub(super) const GONE: u32 = 3;
}

#[derive(Debug, Default)]
struct Offer {
    gate: AtomicU32,
    number: AtomicU64,
    source: AtomicUsize,
    bytes: AtomicUsize,
}

/// A rank of this process, as the other ranks of the process see it.
#[derive(Debug)]
pub(super) struct LocalRank {
    place: (u128, u32),
    offers: Box<[Offer]>,
    /// Where its open windows lie, by their stamps.
    windows: Mutex<HashMap<u64, usize>>,
}

impl LocalRank {
    /// Makes `rank` of `segment` known in the process.
    pub(super) fn enter(segment: u128, rank: u32, ranks: u32) -> Arc<LocalRank> {
        let offers = (0..ranks).map(|_| Offer::default()).collect();
        let local = Arc::new(LocalRank { place: (segment, rank), offers, windows: Mutex::default() });
        with_ranks(|ranks| ranks.insert(local.place, Arc::downgrade(&local)));
        local
    }

    /// The rank, if it is one of this process.
    pub(super) fn find(segment: u128, rank: u32) -> Option<Arc<LocalRank>> {
        with_ranks(|ranks| ranks.get(&(segment, rank))?.upgrade())
    }

    /// Says where a window of the rank lies.
    pub(super) fn add_window(&self, stamp: u64, address: usize) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).insert(stamp, address);
    }

    /// Forgets a window.
    pub(super) fn remove_window(&self, stamp: u64) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).remove(&stamp);
    }

    /// Where an open window of the rank lies.
    pub(super) fn window(&self, stamp: u64) -> Option<usize> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).get(&stamp).copied()
    }

    /// Offers bulk packet `number` to `peer`.
    pub(super) fn offer(&self, peer: u32, number: u64, source: Address, bytes: usize) {
        let offer = &self.offers[peer as usize];
        offer.number.store(number, Ordering::Relaxed);
        offer.source.store(source.0, Ordering::Relaxed);
        offer.bytes.store(bytes, Ordering::Relaxed);
        // Publishes the offer, and the bytes at its source, to `hold`.
        offer.gate.store(gate::OPEN, Ordering::Release);
    }

    /// Whether the packet last offered to `peer` was read.
    pub(super) fn is_read(&self, peer: u32) -> bool {
        // Pairs with `done`: the source is no longer read.
        self.offers[peer as usize].gate.load(Ordering::Acquire) == gate::SHUT
    }

    /// For receiver `me`: where packet `number` lies, if it is offered and as long as it says.
    pub(super) fn source(&self, me: u32, number: u64, bytes: usize) -> Option<Address> {
        let offer = &self.offers[me as usize];
        let open = offer.gate.load(Ordering::Acquire) == gate::OPEN;
        let same =
            offer.number.load(Ordering::Relaxed) == number && offer.bytes.load(Ordering::Relaxed) == bytes;
        (open && same).then(|| Address(offer.source.load(Ordering::Relaxed)))
    }

    /// For receiver `me`: keeps the sender's memory in place until [`Self::let_go`] or [`Self::done`]; false
    /// if the sender has left.
    #[must_use]
    pub(super) fn hold(&self, me: u32) -> bool {
        let gate = &self.offers[me as usize].gate;
        // Acquire: see `offer`.
        gate.compare_exchange(gate::OPEN, gate::HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends [`Self::hold`]; more is read later.
    pub(super) fn let_go(&self, me: u32) {
        // Release: all reads of the source lie before.
        self.offers[me as usize].gate.store(gate::OPEN, Ordering::Release);
    }

    /// Ends [`Self::hold`]; all was read.
    pub(super) fn done(&self, me: u32) {
        // Release: all reads of the source lie before.
        self.offers[me as usize].gate.store(gate::SHUT, Ordering::Release);
    }

    /// Takes the offer to `peer` back, which is to be streamed. Returns when nobody reads it.
    pub(super) fn withdraw(&self, peer: u32) {
        self.offers[peer as usize].close(gate::SHUT);
    }

    /// Takes every offer back for good. Returns when nobody reads any.
    pub(super) fn leave(&self) {
        with_ranks(|ranks| ranks.remove(&self.place));
        for offer in &self.offers {
            offer.close(gate::GONE);
        }
    }
}

impl Offer {
    fn close(&self, to: u32) {
        loop {
            let now = self.gate.load(Ordering::Acquire);
            if now != gate::HELD
                && self.gate.compare_exchange(now, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_held_read_and_taken_back() {
        let segment = crate::system::random::wide();
        let sender = LocalRank::enter(segment, 0, 2);
        let seen = LocalRank::find(segment, 0).expect("of this process");
        assert!(LocalRank::find(segment, 1).is_none());
        assert!(!seen.hold(1));
        sender.offer(1, 1, Address(64), 8);
        assert_eq!(seen.source(1, 2, 8), None);
        assert_eq!(seen.source(1, 1, 9), None);
        assert_eq!(seen.source(1, 1, 8), Some(Address(64)));
        assert!(seen.hold(1) && !sender.is_read(1));
        seen.let_go(1);
        assert!(seen.hold(1));
        let leaving = std::thread::spawn(move || sender.leave());
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(!leaving.is_finished());
        seen.let_go(1);
        leaving.join().expect("held");
        assert!(!seen.hold(1));
        assert!(LocalRank::find(segment, 0).is_none());
    }
}
