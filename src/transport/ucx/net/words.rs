//! What a rank says to its peers beside packets, how it leaves, and how much memory it takes.
#![forbid(unsafe_code)]

use super::super::frame::Kind;
use super::super::line::{Line, NO_HEAD, how_to};
use super::{DEPARTED_MAX, Departed, Inner};
use crate::transport::{Head, Peer};

impl Inner {
    /// Says something about the line.
    pub(in crate::transport::ucx) fn say(
        &mut self,
        slot: usize,
        peer: u32,
        kind: Kind,
        head: Head,
        total: u64,
    ) {
        let buffer = self.worker.buffer(0);
        let sequence = self.member(slot).line(peer).out.sequence;
        self.send(slot, peer, (kind, sequence), head, total, buffer);
    }

    /// Says in words why the rank failed, to all that know it.
    pub(in crate::transport::ucx) fn say_raise(&mut self, slot: usize, words: &str) {
        let mut end = words.len().min(2048);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        for peer in self.member(slot).used() {
            let line = self.member(slot).line(peer);
            if line.fault.is_some() || line.state() != Peer::Alive {
                continue;
            }
            let mut buffer = self.worker.buffer(end);
            buffer.data_mut().copy_from_slice(&words.as_bytes()[..end]);
            let sequence = self.member(slot).line(peer).out.sequence;
            self.send(slot, peer, (Kind::Raise, sequence), NO_HEAD, 0, buffer);
        }
    }

    /// Says that the rank leaves, to all that know it.
    pub(in crate::transport::ucx) fn say_leave(&mut self, slot: usize, how: Peer) {
        for peer in self.member(slot).used() {
            let line = self.member(slot).line(peer);
            if line.fault.is_none() && line.state() == Peer::Alive {
                self.say(slot, peer, Kind::Leave, NO_HEAD, how_to(how));
            }
        }
    }

    /// Whether all peers that still take part have what the rank sent before it left.
    pub(in crate::transport::ucx) fn has_arrived(&mut self, slot: usize) -> bool {
        let member = self.member(slot);
        member.lines.iter().flatten().all(|line| {
            line.has_arrived || line.out.sequence == 0 || line.fault.is_some() || line.state() != Peer::Alive
        })
    }

    /// How much memory the rank at `slot` takes: its lines, what came over them and what leaves.
    pub(in crate::transport::ucx) fn taken_bytes(&self, slot: usize) -> usize {
        let Some(member) = self.members[slot].as_ref() else { return 0 };
        let lines: usize = member.lines.iter().flatten().map(|line| line.taken_bytes()).sum();
        let places = member.lines.len() * (size_of::<Option<Box<Line>>>() + size_of::<u32>());
        places + lines + self.worker.under_way_bytes(member.key, member.rank)
    }

    /// Whether messages of ours wait to be sent.
    #[cfg(test)]
    pub(in crate::transport::ucx) fn is_sending(&self) -> bool {
        self.worker.is_sending()
    }

    /// How much memory waits for the next messages, whoever's they are.
    pub(in crate::transport::ucx) fn kept_bytes(&mut self) -> usize {
        self.worker.kept_bytes()
    }

    /// Gives back what waits for the next messages.
    pub(in crate::transport::ucx) fn give_back(&mut self) {
        self.worker.give_back();
    }

    /// Takes the rank out; how it left is remembered for a while.
    pub(in crate::transport::ucx) fn remove(&mut self, slot: usize, how: Peer) {
        let Some(member) = self.members[slot].take() else { return };
        let place = (member.key, member.rank);
        self.by_place.remove(&place);
        for mut line in member.lines.into_iter().flatten() {
            line.into.clear(|(_, buffer)| self.worker.recycle(buffer));
        }
        if self.departed.len() == DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed { place, how, remotes: member.remotes });
    }
}
