//! Around the ring, a slice each hop: every rank talks to two neighbours only, and every link carries the
//! same load all the time.
//!
//! ```text
//! ReduceScatter, for step 0..n-1:  send slice (me-1-step) to the next, summed so far
//!                                  sum of slice (me-2-step) = what the previous sends + x[me-2-step]
//! AllGather, for step 0..n-1:      send slice (me-step), receive slice (me-step-1)
//! AllReduce:                       both, one after the other
//! Broadcast:                       root -> root+1 -> ... -> root-1
//! Reduce:                          root+1 -> ... -> root-1 -> root, summed on the way
//! ```
//! 1. Slices are worked on in rounds of [`PIECES_PER_ROUND`] pieces: a piece is passed on while the next
//!    comes in, and what a ReduceScatter holds in between is bounded and stays in the cache.
//! 2. ReduceScatter holds sums that are not its own in scratch, one piece more than a round has: the one
//!    that comes never waits for the one that leaves in the same step.
//! 3. Each slice is summed once, around the ring, so all results have the same bits.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, piece, pieces};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Pieces of a slice that follow one another around the ring. First guess, to be measured.
const PIECES_PER_ROUND: usize = 4;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("ring");
    match task.call.kind {
        Kind::AllReduce | Kind::ReduceScatter | Kind::AllGather => around(task, &mut builder),
        Kind::Broadcast => broadcast(task, &mut builder),
        Kind::Reduce => reduce(task, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

fn around(task: &Task<'_>, builder: &mut Builder) {
    let kind = task.call.kind;
    let piece_bytes = task.piece_bytes(task.slice_bytes());
    let mut scattering = (kind != Kind::AllGather).then(|| Scattering::new(builder, task, piece_bytes));
    if kind == Kind::AllGather {
        builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
    }
    let piece_count = task.slice_bytes().div_ceil(piece_bytes);
    for first in (0..piece_count).step_by(PIECES_PER_ROUND) {
        let round = Round { first, count: PIECES_PER_ROUND.min(piece_count - first), piece_bytes };
        if let Some(scattering) = &mut scattering {
            scattering.run(task, builder, round);
        }
        if kind != Kind::ReduceScatter {
            gather(task, builder, round);
        }
    }
}

/// Some pieces of every slice.
#[derive(Clone, Copy)]
struct Round {
    first: usize,
    count: usize,
    piece_bytes: usize,
}

impl Round {
    fn piece(&self, slice: Range, index: usize) -> Range {
        piece(slice, self.first + index, self.piece_bytes)
    }
}

struct Scattering {
    input: Input,
    /// Where sums that are not this rank's lie in between; `None`: at their place in the target.
    aside: Option<Slots>,
}

impl Scattering {
    fn new(builder: &mut Builder, task: &Task<'_>, piece_bytes: usize) -> Scattering {
        let is_aside = task.call.kind == Kind::ReduceScatter;
        Scattering {
            input: Input::new(builder, task, 4, piece_bytes),
            aside: is_aside.then(|| Slots::new(builder, PIECES_PER_ROUND + 1, piece_bytes)),
        }
    }

    fn run(&mut self, task: &Task<'_>, builder: &mut Builder, round: Round) {
        let ranks = task.ranks();
        let (next, previous) = (task.after(1), task.before(1));
        // What was received in the step before, and is sent in this one.
        let mut held = [Range::new(SOURCE, 0, 0); PIECES_PER_ROUND];
        for step in 0..ranks - 1 {
            for (index, held) in held.iter_mut().enumerate().take(round.count) {
                if step == 0 {
                    *held = self.input.take(builder, round.piece(task.slice(SOURCE, previous), index));
                }
                builder.send(next, *held);
                let owner = task.before(2 + step);
                let own = self.input.take(builder, round.piece(task.slice(SOURCE, owner), index));
                let into = match &mut self.aside {
                    None => round.piece(task.slice(TARGET, owner), index),
                    Some(_) if owner == task.rank => round.piece(task.whole(TARGET), index),
                    Some(slots) => slots.take(own.bytes),
                };
                builder.recv_reduce(previous, own, into, true);
                *held = into;
            }
        }
        for &sum in held.iter().take(round.count) {
            task.settle(builder, sum);
        }
    }
}

fn gather(task: &Task<'_>, builder: &mut Builder, round: Round) {
    for step in 0..task.ranks() - 1 {
        let (leaving, coming) = (task.before(step), task.before(step + 1));
        for index in 0..round.count {
            builder.send(task.after(1), round.piece(task.slice(TARGET, leaving), index));
            builder.recv(task.before(1), round.piece(task.slice(TARGET, coming), index));
        }
    }
}

fn broadcast(task: &Task<'_>, builder: &mut Builder) {
    let (next, previous) = (task.after(1), task.before(1));
    let piece_bytes = task.piece_bytes(task.call.bytes());
    for piece in pieces(task.whole(TARGET), piece_bytes) {
        if task.is_root() {
            builder.send(next, piece.of(SOURCE));
            continue;
        }
        builder.recv(previous, piece);
        if next != task.call.root {
            builder.send(next, piece);
        }
    }
    if task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
}

fn reduce(task: &Task<'_>, builder: &mut Builder) {
    let (next, previous) = (task.after(1), task.before(1));
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, PIECES_PER_ROUND, piece_bytes);
    let is_first = previous == task.call.root;
    let is_between = !is_first && !task.is_root();
    let mut aside = is_between.then(|| Slots::new(builder, PIECES_PER_ROUND, piece_bytes));
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let own = input.take(builder, piece);
        if is_first {
            builder.send(next, own);
            continue;
        }
        let into = aside.as_mut().map_or(piece.of(TARGET), |slots| slots.take(piece.bytes));
        builder.recv_reduce(previous, own, into, true);
        if is_between {
            builder.send(next, into);
        } else {
            task.settle(builder, into);
        }
    }
}
