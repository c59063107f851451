//! Partners at distances that halve exchange halves of what they have, and sum; what everybody needs is then
//! gathered the same way back: as few hops as a tree and as few bytes as a ring.
//!
//! With p the largest power of two of at most n ranks, ranks from p on (the odd ones out) lean on rank - p.
//!
//! ```text
//! me >= p: send x to me-p;  else  sum = x, + what me+p sends, and with region(a, b) the shares of ranks a to b
//!     ReduceScatter, from region(0, p), for distance p/2, p/4 .. 1:
//!                    send the half of the region that has not me to (me xor distance);
//!                    the other half += what it sends
//!     AllReduce:     for distance 1, 2 .. p/2: swap regions with (me xor distance);  send all to me+p
//!     Reduce:        for distance 1, 2 .. p/2: likewise, but only towards the root
//!     ReduceScatter: block me+p to me+p
//! ```
//! 1. The order of a sum is that of `doubling`: both give the same bits.
//! 2. A ReduceScatter has one block per rank, so the region of a to b is the blocks a to b and those of the
//!    odd ones that lean on them: two ranges.
//! 3. Long data goes in parts, so that sums that are not at home in a target need little scratch.
#![forbid(unsafe_code)]

use super::doubling::{halves, power_within};
use super::task::{Input, Task, pieces, within};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Scaled pieces that may be in use at once.
const PIECES_HELD: usize = 8;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let kind = task.call.kind;
    if !matches!(kind, Kind::AllReduce | Kind::Reduce | Kind::ReduceScatter) {
        return None;
    }
    let mut builder = task.builder("rabenseifner");
    let is_by_block = kind == Kind::ReduceScatter;
    let total_bytes = if is_by_block { task.call.bytes() * task.ranks() as usize } else { task.call.bytes() };
    let piece_bytes = task.piece_bytes(total_bytes);
    let mut input = Input::new(&mut builder, task, PIECES_HELD, piece_bytes);
    let parts: Vec<Range> = if is_by_block {
        task.block_parts().collect()
    } else {
        pieces(task.whole(SOURCE), task.part_bytes(total_bytes)).collect()
    };
    let has_target = kind == Kind::AllReduce || (kind == Kind::Reduce && task.is_root());
    let longest_bytes = parts.first().map_or(0, |part| part.bytes);
    let aside_bytes = longest_bytes * if is_by_block { task.ranks() as usize } else { 1 };
    let aside = (!has_target).then(|| builder.scratch(aside_bytes));
    for part in parts {
        let round = Round { task, power: power_within(task.ranks()), part, aside, piece_bytes };
        round.run(&mut builder, &mut input);
    }
    Some(builder.finish())
}

/// One part of the data.
struct Round<'a> {
    task: &'a Task<'a>,
    power: u32,
    part: Range,
    /// Where sums lie; `None`: at their place in the target.
    aside: Option<Range>,
    piece_bytes: usize,
}

/// The same elements as they were, and summed.
#[derive(Clone, Copy)]
struct Place {
    own: Range,
    sum: Range,
}

impl Round<'_> {
    fn run(&self, builder: &mut Builder, input: &mut Input) {
        let (task, me) = (self.task, self.task.rank);
        if me >= self.power {
            for place in self.places(0, self.power) {
                let from = input.take(builder, place.own);
                builder.send(me - self.power, from);
            }
            return self.receive_for_odd(builder);
        }
        let mut is_summed = me + self.power < task.ranks();
        if is_summed {
            for Place { own, sum } in self.places(0, self.power) {
                let with = input.take(builder, own);
                builder.recv_reduce(me + self.power, with, sum, false);
            }
        }
        for distance in halves(self.power) {
            self.halve(builder, input, distance, is_summed);
            is_summed = true;
        }
        for place in self.places(me, me + 1) {
            task.settle(builder, self.result(place).sum);
        }
        match task.call.kind {
            Kind::AllReduce => self.gather_all(builder),
            Kind::Reduce => self.gather(builder),
            _ => self.send(builder, me + self.power, self.own_of(me + self.power)),
        }
    }

    fn halve(&self, builder: &mut Builder, input: &mut Input, distance: u32, is_summed: bool) {
        let (me, partner) = (self.task.rank, self.task.rank ^ distance);
        let region = |of: u32| self.places(of & !(distance - 1), (of & !(distance - 1)) + distance);
        let (leaving, coming) = (region(partner), region(me));
        for index in 0..leaving.len().max(coming.len()) {
            if let Some(place) = leaving.get(index) {
                let from = if is_summed { place.sum } else { input.take(builder, place.own) };
                builder.send(partner, from);
            }
            if let Some(&place) = coming.get(index) {
                let with = if is_summed { place.sum } else { input.take(builder, place.own) };
                let into = if distance == 1 { self.result(place).sum } else { place.sum };
                builder.recv_reduce(partner, with, into, partner < me);
            }
        }
    }

    /// The last sum of a ReduceScatter goes to the target if it is this rank's.
    fn result(&self, place: Place) -> Place {
        let own = self.task.slice(SOURCE, self.task.rank);
        let is_mine = place.own.offset >= own.offset && place.own.end() <= own.end();
        if self.task.call.kind == Kind::ReduceScatter && is_mine {
            let sum = Range::new(TARGET, place.own.offset - own.offset, place.own.bytes);
            return Place { sum, ..place };
        }
        place
    }

    fn gather_all(&self, builder: &mut Builder) {
        let (me, odd) = (self.task.rank, self.task.rank + self.power);
        for bit in 0..self.power.ilog2() {
            let distance = 1 << bit;
            let mine = me & !(distance - 1);
            let theirs = mine ^ distance;
            self.send(builder, me ^ distance, self.places(mine, mine + distance));
            self.receive(builder, me ^ distance, self.places(theirs, theirs + distance));
        }
        if odd < self.task.ranks() {
            self.send(builder, odd, self.places(0, self.power));
        }
    }

    fn gather(&self, builder: &mut Builder) {
        let (me, root) = (self.task.rank, self.task.call.root);
        let towards = root % self.power;
        for bit in 0..self.power.ilog2() {
            let distance = 1 << bit;
            let mine = me & !(distance - 1);
            if (me ^ towards) & distance != 0 {
                self.send(builder, me ^ distance, self.places(mine, mine + distance));
                return;
            }
            let theirs = mine ^ distance;
            self.receive(builder, me ^ distance, self.places(theirs, theirs + distance));
        }
        if root >= self.power {
            self.send(builder, root, self.places(0, self.power));
        }
    }

    fn receive_for_odd(&self, builder: &mut Builder) {
        let (me, from) = (self.task.rank, self.task.rank - self.power);
        match self.task.call.kind {
            Kind::AllReduce => self.receive(builder, from, self.places(0, self.power)),
            Kind::Reduce if self.task.is_root() => self.receive(builder, from, self.places(0, self.power)),
            Kind::ReduceScatter => {
                let into = self.own_of(me).into_iter().map(|place| self.result(place)).collect();
                self.receive(builder, from, into);
            }
            _ => {}
        }
    }

    fn send(&self, builder: &mut Builder, peer: u32, places: Vec<Place>) {
        for place in places {
            builder.send(peer, place.sum);
        }
    }

    fn receive(&self, builder: &mut Builder, peer: u32, places: Vec<Place>) {
        for place in places {
            builder.recv(peer, place.sum);
        }
    }

    /// What belongs to the ranks from `first` to before `end`, and to those that lean on them, in pieces.
    fn places(&self, first: u32, end: u32) -> Vec<Place> {
        if self.task.call.kind != Kind::ReduceScatter {
            let start = self.task.cut(self.part, first, self.power).offset;
            let last = self.task.cut(self.part, end - 1, self.power).end();
            let own = Range::new(SOURCE, start, last - start);
            let sum =
                self.aside.map_or(own.of(TARGET), |aside| within(aside, start - self.part.offset, own.bytes));
            return self.in_pieces(own, sum);
        }
        let ranks = self.task.ranks();
        let mut places = self.blocks(first, end);
        places.extend(self.blocks((first + self.power).min(ranks), (end + self.power).min(ranks)));
        places
    }

    /// The part of the block of one rank of a ReduceScatter; nothing where there is no such rank.
    fn own_of(&self, rank: u32) -> Vec<Place> {
        if rank < self.task.ranks() { self.blocks(rank, rank + 1) } else { Vec::new() }
    }

    /// The parts of the blocks of some ranks, side by side where the part is the whole block.
    fn blocks(&self, first: u32, end: u32) -> Vec<Place> {
        let block_bytes = self.task.call.bytes();
        let part_of = |rank: u32, count: u32| {
            let start = rank as usize * block_bytes + self.part.offset;
            let own = Range::new(SOURCE, start, self.part.bytes * count as usize);
            let sum = self.aside.unwrap_or(own);
            self.in_pieces(own, within(sum, rank as usize * self.part.bytes, own.bytes))
        };
        if self.part.bytes == block_bytes && first < end {
            return part_of(first, end - first);
        }
        (first..end).flat_map(|rank| part_of(rank, 1)).collect()
    }

    fn in_pieces(&self, own: Range, sum: Range) -> Vec<Place> {
        let place =
            |piece: Range| Place { own: piece, sum: within(sum, piece.offset - own.offset, piece.bytes) };
        pieces(own, self.piece_bytes).map(place).collect()
    }
}
