//! What is still to happen, in order, and the packets on their way.
//!
//! Events of one moment are taken by kind, then by who they concern, then by lane. That order says nothing of absolute
//! ranks but where ranks share a port, and there it is the order of ranks on the host or island: so ranks that are
//! alike see alike moments, and a folded run is equal to one event by event.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A core is done with what it did.
    CoreFree,
    /// A step is done whose core was free before.
    StepDone,
    /// A packet reaches the port of its island.
    Up,
    /// A packet reaches the port of the other island.
    Down,
    /// A packet reaches the port of its host.
    Eject,
    /// A packet can be read.
    Arrive,
    /// The sender learns that a packet was read.
    Credit,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    /// Time, what, actor and lane, one behind the other: events are compared often, and one number at once.
    key: u128,
    number: u64,
    pub(super) packet: u32,
    pub(super) what: What,
}

/// Where the time begins in a key: above three bits of what happens, an actor and a lane.
const TIME_SHIFT: u32 = 67;

impl Event {
    pub(super) const fn time(&self) -> u64 {
        (self.key >> TIME_SHIFT) as u64
    }

    /// A core for [`What::CoreFree`], else a rank.
    pub(super) const fn actor(&self) -> u32 {
        (self.key >> 32) as u32
    }

    pub(super) const fn lane(&self) -> u32 {
        self.key as u32
    }
}

/// What is still to happen.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Event>>,
    count: u64,
}

impl Events {
    pub(super) fn push(&mut self, time: u64, what: What, (actor, lane): (u32, u32), packet: u32) {
        // 2^61 picoseconds are a month.
        debug_assert!(time >> (128 - TIME_SHIFT) == 0, "no run takes a month");
        let time = u128::from(time) << TIME_SHIFT;
        let key = time | (what as u128) << 64 | u128::from(actor) << 32 | u128::from(lane);
        self.heap.push(Reverse(Event { key, number: self.count, packet, what }));
        self.count += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(event)| event)
    }
}

/// No packet, no lane.
pub(super) const NONE: u32 = u32::MAX;

/// One packet between ranks that are simulated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) bytes: u64,
    /// When its last byte can be read.
    pub(super) last: u64,
    /// How many messages share it.
    pub(super) shared: u32,
    /// Who sent it, and from which lane.
    pub(super) sender: (u32, u32),
    /// Who receives it, and on which lane.
    pub(super) target: (u32, u32),
    /// Behind it on the same lane.
    pub(super) next: u32,
}

/// Packets on their way or unread; places are used again.
#[derive(Debug, Default)]
pub(super) struct Packets {
    all: Vec<Packet>,
    free: Vec<u32>,
}

impl Packets {
    pub(super) fn add(&mut self, packet: Packet) -> u32 {
        if let Some(place) = self.free.pop() {
            self.all[place as usize] = packet;
            return place;
        }
        self.all.push(packet);
        (self.all.len() - 1) as u32
    }

    pub(super) fn get(&self, place: u32) -> &Packet {
        &self.all[place as usize]
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut Packet {
        &mut self.all[place as usize]
    }

    pub(super) fn free(&mut self, place: u32) {
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_what_then_actor_then_lane_then_as_they_were_pushed() {
        let mut events = Events::default();
        let order = [
            (5, What::Credit, (u32::MAX, 7)),
            (1 << 60, What::CoreFree, (0, NONE)),
            (1 << 60, What::CoreFree, (1, 0)),
            (1 << 60, What::Credit, (0, 0)),
            (1 << 60, What::Credit, (0, 0)),
        ];
        for place in [3, 2, 4, 1, 0] {
            let (time, what, to) = order[place];
            events.push(time, what, to, place as u32);
        }
        for (place, (time, what, to)) in (0..).zip(order) {
            let event = events.pop().expect("as many as were pushed");
            assert_eq!((event.time(), event.what, event.actor(), event.lane()), (time, what, to.0, to.1));
            assert_eq!(event.packet, place);
        }
        assert!(events.pop().is_none());
    }
}
