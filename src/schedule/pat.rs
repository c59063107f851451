//! Parallel aggregated trees: a binomial tree from every rank, all at once, each step one message. The first
//! step goes far with one block, the last to the neighbour with half of all blocks: what goes far is little.
//!
//! ```text
//! AllGather, for distance d from the largest power of two below n down to 1:
//!     for each i = 0, 2d, 4d .. below n-d:  send block (me - i) to (me + d)
//!                                           receive block (me - d - i) from (me - d)
//! ReduceScatter: the same backwards, d from 1 up
//!     for each i:  send sum for (me - d - i) to (me - d);  sum for (me - i) += what (me + d) sends
//! ```
//! 1. Blocks of one step that are short travel together, packed into one message; long ones one by one, and
//!    straight from and to their places.
//! 2. Long blocks of a ReduceScatter go in parts, for it holds sums for half of all ranks.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, pieces, within};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Packed messages that may be in use at once: two to send from, two to receive into, in turns.
const PACKED_HELD: usize = 4;
/// Scaled pieces that may be in use at once.
const PIECES_HELD: usize = 8;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("pat");
    match task.call.kind {
        Kind::AllGather => all_gather(task, &mut builder),
        Kind::ReduceScatter => reduce_scatter(task, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

/// The largest power of two below the number of ranks.
fn farthest(task: &Task<'_>) -> u32 {
    1 << (task.ranks() - 1).ilog2()
}

/// How many blocks of so many bytes share a message, and memory for such messages where there are any.
fn packing(task: &Task<'_>, builder: &mut Builder, block_bytes: usize) -> (usize, Option<Slots>) {
    let most_bytes = task.piece_bytes(block_bytes * task.ranks() as usize);
    let most = (most_bytes / block_bytes.max(1)).clamp(1, task.ranks().div_ceil(2) as usize);
    (most, (most > 1).then(|| Slots::new(builder, PACKED_HELD, most * block_bytes)))
}

/// What goes together at distance `distance`: the numbers i of the pseudo-code, message by message.
fn messages(task: &Task<'_>, distance: u32, most: usize) -> Vec<Vec<u32>> {
    let all: Vec<u32> = (0..task.ranks() - distance).step_by(2 * distance as usize).collect();
    all.chunks(most).map(<[u32]>::to_vec).collect()
}

fn all_gather(task: &Task<'_>, builder: &mut Builder) {
    let block_bytes = task.call.bytes();
    let (most, mut packed) = packing(task, builder, block_bytes);
    builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
    for bit in (0..=farthest(task).ilog2()).rev() {
        let distance = 1 << bit;
        let (to, from) = (task.after(distance), task.before(distance));
        for message in messages(task, distance, most) {
            let leaving = |i: u32| task.slice(TARGET, task.before(i));
            let coming = |i: u32| task.slice(TARGET, task.before(distance + i));
            let Some(slots) = packed.as_mut().filter(|_| message.len() > 1) else {
                task.send_all(builder, to, &[leaving(message[0])]);
                task.receive_all(builder, from, &[coming(message[0])]);
                continue;
            };
            let bytes = message.len() * block_bytes;
            let (out, back) = (slots.take(bytes), slots.take(bytes));
            for (&i, number) in message.iter().zip(0..) {
                builder.copy(leaving(i), within(out, number * block_bytes, block_bytes));
            }
            builder.send(to, out);
            builder.recv(from, back);
            for (&i, number) in message.iter().zip(0..) {
                builder.copy(within(back, number * block_bytes, block_bytes), coming(i));
            }
        }
    }
}

fn reduce_scatter(task: &Task<'_>, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes() * task.ranks() as usize);
    let mut input = Input::new(builder, task, PIECES_HELD, piece_bytes);
    let mut memory = None;
    for part in task.block_parts() {
        let (aside, most, packed) = memory.get_or_insert_with(|| {
            let aside = builder.scratch(part.bytes * task.ranks().div_ceil(2) as usize);
            let (most, packed) = packing(task, builder, part.bytes);
            (aside, most, packed)
        });
        let mut round = Round { task, part, aside: *aside, packed, piece_bytes };
        for bit in 0..=farthest(task).ilog2() {
            for message in messages(task, 1 << bit, *most) {
                round.pass(builder, &mut input, 1 << bit, &message);
            }
        }
        for piece in pieces(part.of(TARGET), piece_bytes) {
            task.settle(builder, piece);
        }
    }
}

/// One part of every block of a ReduceScatter.
struct Round<'a> {
    task: &'a Task<'a>,
    part: Range,
    aside: Range,
    packed: &'a mut Option<Slots>,
    piece_bytes: usize,
}

impl Round<'_> {
    /// This rank's own data for the rank so far before it.
    fn own(&self, before: u32) -> Range {
        within(self.task.slice(SOURCE, self.task.before(before)), self.part.offset, self.part.bytes)
    }

    /// Where its sum for that rank lies; only even ones ever have one.
    fn sum(&self, before: u32) -> Range {
        if before == 0 {
            return self.part.of(TARGET);
        }
        within(self.aside, before as usize / 2 * self.part.bytes, self.part.bytes)
    }

    fn pass(&mut self, builder: &mut Builder, input: &mut Input, distance: u32, message: &[u32]) {
        let (to, from) = (self.task.before(distance), self.task.after(distance));
        let has_sum = |before: u32| before.is_multiple_of(2) && before + 1 < self.task.ranks();
        let is_first = distance == 1;
        if message.len() == 1 {
            let (leaving, coming) = (message[0] + distance, message[0]);
            for piece in pieces(Range::new(SOURCE, 0, self.part.bytes), self.piece_bytes) {
                let of = |range: Range| within(range, piece.offset, piece.bytes);
                let out = if has_sum(leaving) {
                    of(self.sum(leaving))
                } else {
                    input.take(builder, of(self.own(leaving)))
                };
                builder.send(to, out);
                let into = of(self.sum(coming));
                let with = if is_first { input.take(builder, of(self.own(coming))) } else { into };
                builder.recv_reduce(from, with, into, false);
            }
            return;
        }
        let Some(slots) = self.packed.as_mut() else { return };
        let bytes = message.len() * self.part.bytes;
        let (out, back) = (slots.take(bytes), slots.take(bytes));
        let of = |range: Range, number: usize| within(range, number * self.part.bytes, self.part.bytes);
        for (&i, number) in message.iter().zip(0..) {
            let leaving = i + distance;
            let one =
                if has_sum(leaving) { self.sum(leaving) } else { input.take(builder, self.own(leaving)) };
            builder.copy(one, of(out, number));
        }
        builder.send(to, out);
        builder.recv(from, back);
        for (&i, number) in message.iter().zip(0..) {
            let into = self.sum(i);
            let with = if is_first { input.take(builder, self.own(i)) } else { into };
            builder.reduce(with, of(back, number), into);
        }
    }
}
