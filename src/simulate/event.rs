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
    pub(super) time: u64,
    pub(super) what: What,
    /// A core for [`What::CoreFree`], else a rank.
    pub(super) actor: u32,
    pub(super) lane: u32,
    number: u64,
    pub(super) packet: u32,
}

/// What is still to happen.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Event>>,
    count: u64,
}

impl Events {
    pub(super) fn push(&mut self, time: u64, what: What, (actor, lane): (u32, u32), packet: u32) {
        self.heap.push(Reverse(Event { time, what, actor, lane, number: self.count, packet }));
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
