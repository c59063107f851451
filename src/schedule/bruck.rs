//! Neighbours at distances that double, around a circle: the fewest hops for any number of ranks, and no rank
//! is odd.
//!
//! ```text
//! AllGather, ReduceScatter:  see `group`
//! AllReduce:   a ReduceScatter of shares, then an AllGather of them
//! Broadcast:   the root sends shares down a binomial tree, everybody gathers all shares
//! AlltoAll:    b[i] = x[me + i];  for distance 1, 2 .. below n:
//!                  send every b[i] with that bit in i to (me + distance), receive as many into their places
//!              y[me - i] = b[i]
//! ```
//! 1. Blocks of an AlltoAll that travel together are packed into one message, and those that came to their
//!    last place are unpacked straight into the target.
//! 2. Nobody sends the root of a Broadcast what it has.
//! 3. Long blocks go in parts, so that what is held in between stays small.
#![forbid(unsafe_code)]

use super::group::{Group, Sums, all_gather, push_range, reduce_scatter};
use super::task::{Input, Slots, Task, pieces, within};
use super::{Builder, Plan, Range, SOURCE, TARGET, tree};
use crate::op::Kind;

/// Scaled pieces that may be in use at once.
const PIECES_HELD: usize = 8;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("bruck");
    match task.call.kind {
        Kind::AllReduce => all_reduce(task, &mut builder),
        Kind::ReduceScatter => scatter_sums(task, &mut builder),
        Kind::AllGather => {
            builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
            let add = |owner: u32, ranges: &mut Vec<Range>| push_range(ranges, task.slice(TARGET, owner));
            all_gather(task, &mut builder, &Group::all(task), None, add);
        }
        Kind::AlltoAll => all_to_all(task, &mut builder),
        Kind::Broadcast => broadcast(task, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

fn all_reduce(task: &Task<'_>, builder: &mut Builder) {
    let group = Group::all(task);
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, PIECES_HELD, piece_bytes);
    for part in pieces(task.whole(SOURCE), task.part_bytes(task.call.bytes())) {
        let own = |owner: u32| task.cut(part, owner, task.ranks());
        let sum = |distance: u32, _| own(group.after(distance)).of(TARGET);
        reduce_scatter(task, builder, &group, &mut input, &Sums { own: &own, sum: &sum, piece_bytes });
        let add = |owner: u32, ranges: &mut Vec<Range>| push_range(ranges, own(owner).of(TARGET));
        all_gather(task, builder, &group, None, add);
    }
}

fn scatter_sums(task: &Task<'_>, builder: &mut Builder) {
    let group = Group::all(task);
    let piece_bytes = task.piece_bytes(task.call.bytes() * task.ranks() as usize);
    let mut input = Input::new(builder, task, PIECES_HELD, piece_bytes);
    let mut aside = None;
    for part in task.block_parts() {
        let aside =
            *aside.get_or_insert_with(|| builder.scratch(part.bytes * task.ranks().div_ceil(2) as usize));
        let own = |owner: u32| within(task.slice(SOURCE, owner), part.offset, part.bytes);
        let sum = |distance: u32, is_last: bool| {
            if is_last { part.of(TARGET) } else { within(aside, distance as usize * part.bytes, part.bytes) }
        };
        reduce_scatter(task, builder, &group, &mut input, &Sums { own: &own, sum: &sum, piece_bytes });
    }
}

fn broadcast(task: &Task<'_>, builder: &mut Builder) {
    let group = Group::all_from(task, task.call.root);
    let ranks = task.ranks();
    let buffer = if task.is_root() { SOURCE } else { TARGET };
    let shares = |first: u32, count: u32| {
        let start = task.cut(task.whole(buffer), first, ranks).offset;
        let end = task.cut(task.whole(buffer), first + count - 1, ranks).end();
        [Range::new(buffer, start, end - start)]
    };
    let (parent, children) = tree::places(group.me(), ranks, 2);
    if let Some(parent) = parent {
        let size = 1 + children.iter().map(|(_, size)| size).sum::<u32>();
        task.receive_all(builder, group.rank(parent), &shares(group.me(), size));
    }
    for (child, size) in children.into_iter().rev() {
        task.send_all(builder, group.rank(child), &shares(child, size));
    }
    all_gather(task, builder, &group, Some(0), |owner, ranges| push_range(ranges, shares(owner, 1)[0]));
    if task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
}

fn all_to_all(task: &Task<'_>, builder: &mut Builder) {
    let ranks = task.ranks();
    let mut memory = None;
    for part in task.block_parts() {
        let (blocks, packed) = memory.get_or_insert_with(|| {
            let blocks = builder.scratch(part.bytes * ranks as usize);
            // Two to send from and two to receive into, in turns.
            (blocks, Slots::new(builder, 4, part.bytes * ranks.div_ceil(2) as usize))
        });
        let block = |index: u32, count: u32| {
            within(*blocks, index as usize * part.bytes, count as usize * part.bytes)
        };
        copy_from_source(task, builder, part, |index| block(index, 1));
        let mut distance = 1;
        while distance < ranks {
            // Runs of blocks that have the bit, and how many blocks that is.
            let runs: Vec<(u32, u32)> = (distance..ranks)
                .step_by(2 * distance as usize)
                .map(|first| (first, distance.min(ranks - first)))
                .collect();
            let total: u32 = runs.iter().map(|(_, count)| count).sum();
            let (leaving, coming) =
                (packed.take(total as usize * part.bytes), packed.take(total as usize * part.bytes));
            let mut at = 0;
            for &(first, count) in &runs {
                let from = block(first, count);
                builder.copy(from, within(leaving, at, from.bytes));
                at += from.bytes;
            }
            task.send_all(builder, task.after(distance), &[leaving]);
            task.receive_all(builder, task.before(distance), &[coming]);
            let mut at = 0;
            for &(first, count) in &runs {
                let bytes = count as usize * part.bytes;
                // The first run has no higher bit in any block.
                if first == distance {
                    for index in first..first + count {
                        let start = at + (index - first) as usize * part.bytes;
                        let into = task.slice(TARGET, task.before(index));
                        let into = within(into, part.offset, part.bytes);
                        builder.copy(within(coming, start, part.bytes), into);
                    }
                } else {
                    builder.copy(within(coming, at, bytes), block(first, count));
                }
                at += bytes;
            }
            distance *= 2;
        }
    }
}

/// b[i] = x[me + i], and what stays.
fn copy_from_source(task: &Task<'_>, builder: &mut Builder, part: Range, block: impl Fn(u32) -> Range) {
    let of = |buffer: u32, owner: u32| within(task.slice(buffer, owner), part.offset, part.bytes);
    builder.copy(of(SOURCE, task.rank), of(TARGET, task.rank));
    let mut copies: Vec<(Range, Range)> = Vec::new();
    for index in 1..task.ranks() {
        let (from, into) = (of(SOURCE, task.after(index)), block(index));
        match copies.last_mut() {
            Some((last, into)) if last.end() == from.offset => {
                last.bytes += from.bytes;
                into.bytes += from.bytes;
            }
            _ => copies.push((from, into)),
        }
    }
    for (from, into) in copies {
        builder.copy(from, into);
    }
}
