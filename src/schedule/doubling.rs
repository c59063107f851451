//! Partners at distances that double exchange all they have: the fewest hops for small data.
//!
//! With p the largest power of two of at most n ranks, ranks from p on (the odd ones out) lean on rank - p.
//!
//! ```text
//! AllReduce:  me >= p: send x to me-p, receive y from it;  else
//!     sum = x, + what me+p sends
//!     for distance p/2, p/4 .. 1:  swap sums with (me xor distance);  sum = lower one's + higher one's
//!     send sum to me+p
//! Reduce:     the same sums, but of both partners only the one goes on that leads to the root
//! AllGather:  blocks of me and me+p;  for distance 1, 2 .. p/2: swap all blocks with (me xor distance)
//!             send everything to me+p
//! ```
//! 1. The order of a sum depends on the number of ranks alone: values of all ranks that are equal modulo 2d
//!    become those of ranks equal modulo d, the lower one on the left. `rabenseifner` sums in the same order,
//!    so both give the same bits: this is the order of deterministic results.
//! 2. A sum that is being sent is not overwritten: sums take turns between slots, and only the last one goes
//!    to the target; in place by a copy, for there the source may still be on its way.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, pieces};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Sums that may be in use at once. First guess, to be measured.
const SLOTS: usize = 8;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("doubling");
    match task.call.kind {
        Kind::AllReduce => all_reduce(task, &mut builder),
        Kind::Reduce => reduce(task, &mut builder),
        Kind::AllGather => all_gather(task, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

/// The largest power of two of at most so many ranks.
pub(super) fn power_within(ranks: u32) -> u32 {
    1 << ranks.ilog2()
}

/// p/2, p/4 .. 1.
pub(super) fn halves(power: u32) -> impl Iterator<Item = u32> {
    (0..power.ilog2()).rev().map(|bit| 1 << bit)
}

fn all_reduce(task: &Task<'_>, builder: &mut Builder) {
    let power = power_within(task.ranks());
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, SLOTS, piece_bytes);
    let mut slots = Slots::new(builder, SLOTS, piece_bytes);
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let result = piece.of(TARGET);
        let mut sum = input.take(builder, piece);
        if task.rank >= power {
            builder.send(task.rank - power, sum);
            builder.recv(task.rank - power, result);
            continue;
        }
        let has_odd = task.rank + power < task.ranks();
        if has_odd {
            let into = slots.take(piece.bytes);
            builder.recv_reduce(task.rank + power, sum, into, false);
            sum = into;
        }
        for distance in halves(power) {
            let partner = task.rank ^ distance;
            let is_last = distance == 1 && !task.call.in_place;
            let into = if is_last { result } else { slots.take(piece.bytes) };
            builder.send(partner, sum);
            builder.recv_reduce(partner, sum, into, partner < task.rank);
            sum = into;
        }
        task.settle(builder, sum);
        builder.copy(sum, result);
        if has_odd {
            builder.send(task.rank + power, result);
        }
    }
}

fn reduce(task: &Task<'_>, builder: &mut Builder) {
    let (root, ranks) = (task.call.root, task.ranks());
    let power = power_within(ranks);
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, SLOTS, piece_bytes);
    let mut slots = (!task.is_root()).then(|| Slots::new(builder, SLOTS, piece_bytes));
    // Who has the sum of all ranks that are equal to `rank` modulo `distance`.
    let holder = |rank: u32, distance: u32| {
        if root % distance == rank % distance { root } else { rank % distance }
    };
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let mut sum = input.take(builder, piece);
        let into = slots.as_mut().map_or(piece.of(TARGET), |slots| slots.take(piece.bytes));
        for distance in std::iter::once(power).chain(halves(power)) {
            let mine = if distance == power { task.rank } else { task.rank % (2 * distance) };
            // Alone in its class modulo twice the distance, or one of several that lean on each other.
            let other = mine ^ distance;
            if other >= ranks {
                continue;
            }
            let next = holder(task.rank, distance);
            if next != task.rank {
                builder.send(next, sum);
                break;
            }
            let from = if distance == power { other } else { holder(other, 2 * distance) };
            builder.recv_reduce(from, sum, into, other < mine);
            sum = into;
        }
        if task.is_root() {
            task.settle(builder, sum);
        }
    }
}

fn all_gather(task: &Task<'_>, builder: &mut Builder) {
    let (me, ranks) = (task.rank, task.ranks());
    let power = power_within(ranks);
    let block_bytes = task.call.bytes();
    let run = |first: u32, end: u32| {
        let (first, end) = (first.min(ranks), end.min(ranks));
        Range::new(TARGET, first as usize * block_bytes, (end - first) as usize * block_bytes)
    };
    builder.copy(task.whole(SOURCE), task.slice(TARGET, me));
    if me >= power {
        task.send_all(builder, me - power, &[run(me, me + 1)]);
        task.receive_all(builder, me - power, &[run(0, me), run(me + 1, ranks)]);
        return;
    }
    let odd = me + power;
    if odd < ranks {
        task.receive_all(builder, odd, &[run(odd, odd + 1)]);
    }
    for bit in 0..power.ilog2() {
        let distance = 1 << bit;
        let (mine, partner) = (me & !(distance - 1), me ^ distance);
        let theirs = mine ^ distance;
        let both = |first: u32| {
            [run(first, first + distance), run(first + power, (first + distance).saturating_add(power))]
        };
        task.send_all(builder, partner, &both(mine));
        task.receive_all(builder, partner, &both(theirs));
    }
    if odd < ranks {
        task.send_all(builder, odd, &[run(0, odd), run(odd + 1, ranks)]);
    }
}
