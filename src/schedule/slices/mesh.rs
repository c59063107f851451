//! AlltoAll between hosts: what one host has for another travels together, a message per rail.
//!
//! ```text
//! inside:   swap blocks with every rank of the host
//! give:     for each rail: all blocks for its ranks on other hosts, in one message to its owner
//! between:  for each other host: all blocks of this host's ranks for the rail there, in one message
//!           to its owner, ordered by (rank here, rank there)
//! take:     the owner sends each rank of its rail what came for it, by host and rank
//! ```
//! 1. Blocks that do not lie side by side are packed; how a message is cut depends on its length alone.
//! 2. Long blocks go in parts, so that what is held in between stays small.
#![forbid(unsafe_code)]

use super::Rails;
use crate::schedule::group::push_range;
use crate::schedule::task::{Task, within};
use crate::schedule::{Builder, Range, SOURCE, TARGET};

pub(super) fn all_to_all(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    for place in rails.places_after() {
        let peer = rails.local()[place];
        task.send_all(builder, peer, &[task.slice(SOURCE, peer)]);
    }
    builder.copy(task.slice(SOURCE, task.rank), task.slice(TARGET, task.rank));
    for place in rails.places_before() {
        let peer = rails.local()[place];
        task.receive_all(builder, peer, &[task.slice(TARGET, peer)]);
    }
    if rails.hosts.len() == 1 {
        return;
    }
    let mut memory = None;
    for part in task.block_parts() {
        let memory = *memory.get_or_insert_with(|| Memory::new(rails, builder, part.bytes));
        Round { task, rails, part, memory }.run(builder);
    }
}

/// Scratch, used again for every part.
#[derive(Clone, Copy)]
struct Memory {
    /// What this rank gives to each owner, side by side.
    given: Range,
    /// What the ranks of the host have for the rail, by rank.
    here: Range,
    /// What leaves to other hosts, by host.
    leaving: Range,
    /// What comes from other hosts, by host.
    coming: Range,
    /// What ranks of the rail on this host get, by rank; or what this rank gets.
    taken: Range,
}

impl Memory {
    fn new(rails: &Rails, builder: &mut Builder, bytes: usize) -> Memory {
        let others: usize = rails.others().map(|host| rails.hosts[host].len()).sum();
        let local = rails.local().len();
        let on_rail: usize = rails.others().map(|host| rails.on(host, rails.rail()).count()).sum();
        let mine = rails.on(rails.host, rails.rail()).count();
        let (through, back) = if rails.is_owner() { (local * on_rail, others * mine) } else { (0, others) };
        Memory {
            given: builder.scratch(others * bytes),
            here: builder.scratch(through * bytes),
            leaving: builder.scratch(through * bytes),
            coming: builder.scratch(if rails.is_owner() { back * bytes } else { 0 }),
            taken: builder.scratch(back * bytes),
        }
    }
}

impl Rails {
    /// The other hosts, in their order.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.host;
        (0..self.hosts.len()).filter(move |&host| host != own)
    }
}

/// One part of every block.
struct Round<'a> {
    task: &'a Task<'a>,
    rails: &'a Rails,
    part: Range,
    memory: Memory,
}

impl Round<'_> {
    fn run(&self, builder: &mut Builder) {
        self.give(builder);
        if self.rails.is_owner() {
            self.cross(builder);
        }
        self.take(builder);
    }

    fn block(&self, buffer: u32, rank: u32) -> Range {
        within(self.task.slice(buffer, rank), self.part.offset, self.part.bytes)
    }

    /// Those ranges as one: they themselves where they are, else copies in `memory` from `start` on.
    fn pack(&self, builder: &mut Builder, ranges: &[Range], memory: Range, start: usize) -> Range {
        if let [one] = ranges {
            return *one;
        }
        let mut at = start;
        for &range in ranges {
            builder.copy(range, within(memory, at, range.bytes));
            at += range.bytes;
        }
        within(memory, start, at - start)
    }

    /// How many ranks of a rail other hosts have.
    fn count_elsewhere(&self, rail: usize) -> usize {
        self.rails.others().map(|host| self.rails.on(host, rail).count()).sum()
    }

    /// Blocks for other hosts to the owners of their rails.
    fn give(&self, builder: &mut Builder) {
        let (task, rails, memory) = (self.task, self.rails, self.memory);
        let mut start = 0;
        for rail in 0..rails.count {
            let mut ranges = Vec::new();
            for rank in rails.others().flat_map(|host| rails.on(host, rail)) {
                push_range(&mut ranges, self.block(SOURCE, rank));
            }
            let bytes = self.count_elsewhere(rail) * self.part.bytes;
            if rail == rails.place {
                // Its own part of what the host has.
                let mut at = rails.place * bytes;
                for range in ranges {
                    builder.copy(range, within(memory.here, at, range.bytes));
                    at += range.bytes;
                }
            } else {
                let all = self.pack(builder, &ranges, memory.given, start);
                task.send_all(builder, rails.local()[rail], &[all]);
            }
            start += bytes;
        }
        if rails.is_owner() {
            let bytes = self.count_elsewhere(rails.place) * self.part.bytes;
            for place in rails.places_before() {
                let into = within(memory.here, place * bytes, bytes);
                task.receive_all(builder, rails.local()[place], &[into]);
            }
        }
    }

    /// Blocks of all ranks of this host to the owner on each other host.
    fn cross(&self, builder: &mut Builder) {
        let (task, rails, memory, bytes) = (self.task, self.rails, self.memory, self.part.bytes);
        let all_bytes = self.count_elsewhere(rails.place) * bytes;
        let mine = rails.on(rails.host, rails.place).count();
        let (mut from, mut out) = (0, 0);
        let mut messages = Vec::new();
        for host in rails.others() {
            let count = rails.on(host, rails.place).count();
            let mut ranges = Vec::new();
            for place in 0..rails.local().len() {
                push_range(&mut ranges, within(memory.here, place * all_bytes + from, count * bytes));
            }
            let message = self.pack(builder, &ranges, memory.leaving, out);
            from += count * bytes;
            out += message.bytes;
            messages.push((host, message));
        }
        let mut back = 0;
        let mut places = Vec::new();
        for host in rails.others() {
            let length = rails.hosts[host].len() * mine * bytes;
            places.push((host, within(memory.coming, back, length)));
            back += length;
        }
        // Hosts behind this one first, around: pairs of hosts do not all turn to the same one.
        let behind = messages.iter().position(|(host, _)| *host > rails.host).unwrap_or(0);
        messages.rotate_left(behind);
        for (host, message) in messages {
            task.send_all(builder, rails.hosts[host][rails.place], &[message]);
        }
        places.rotate_left(behind);
        for (host, into) in places.into_iter().rev() {
            task.receive_all(builder, rails.hosts[host][rails.place], &[into]);
        }
    }

    /// What came from other hosts to the ranks of the rail here.
    fn take(&self, builder: &mut Builder) {
        let (task, rails, memory, bytes) = (self.task, self.rails, self.memory, self.part.bytes);
        let elsewhere: Vec<u32> = rails.others().flat_map(|host| rails.hosts[host].iter().copied()).collect();
        let all_bytes = elsewhere.len() * bytes;
        if !rails.is_owner() {
            let all = within(memory.taken, 0, all_bytes);
            task.receive_all(builder, rails.owner(), &[all]);
            for (&rank, number) in elsewhere.iter().zip(0..) {
                builder.copy(within(all, number * bytes, bytes), self.block(TARGET, rank));
            }
            return;
        }
        let here: Vec<u32> = rails.on(rails.host, rails.place).collect();
        for (&target, number) in here.iter().zip(0_usize..) {
            // By rank elsewhere, then by rank here.
            let one = |source: usize| within(memory.coming, (source * here.len() + number) * bytes, bytes);
            if target == task.rank {
                for (&rank, source) in elsewhere.iter().zip(0..) {
                    builder.copy(one(source), self.block(TARGET, rank));
                }
                continue;
            }
            let mut ranges = Vec::new();
            for source in 0..elsewhere.len() {
                push_range(&mut ranges, one(source));
            }
            let all = self.pack(builder, &ranges, memory.taken, number * all_bytes);
            task.send_all(builder, target, &[all]);
        }
    }
}
