//! Slices straight between owners, one partner after the other: every byte takes as few hops as can be, and
//! everybody sends and receives as much as everybody else.
//!
//! ```text
//! AllReduce, for each piece k of the slices:
//!     for distance 1..n:  send piece k of slice (me + distance) to its owner
//!                         y[me][k] += what (me - distance) has of it, starting from x[me][k]
//!     for distance 1..n:  send y[me][k] to (me + distance)
//!                         y[me - distance][k] = what its owner sends
//! ReduceScatter:  the first half.   AllGather:  the second.
//! AlltoAll, for distance 1..n:  send x[partner] to the partner, y[partner] = what it sends
//! ```
//! 1. Piece k is spread after piece k+1 was sent for summing: while sums are waited for, data moves.
//! 2. Each slice is summed by its owner alone, so all results have the same bits.
//! 3. At most [`SENDS_AT_ONCE`] packets leave at a time: a packet waits for the one that many before it.
//!    Rounds taken in step by everybody respect all waits, so nobody waits in a circle.
//! 4. Of a power of two ranks, AlltoAll meets partners (me xor round), so that both sides of a pair move at
//!    the same time; else it sends ahead and receives from behind.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::task::{Input, Task, piece};
use super::{Builder, Mark, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// How many packets of one rank are under way at a time. First guess, to be measured.
const SENDS_AT_ONCE: usize = 16;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("pairwise");
    let mut window = Window::default();
    match task.call.kind {
        Kind::AllReduce => all_reduce(task, &mut builder, &mut window),
        Kind::ReduceScatter => reduce_scatter(task, &mut builder, &mut window),
        Kind::AllGather => all_gather(task, &mut builder, &mut window),
        Kind::AlltoAll => all_to_all(task, &mut builder, &mut window),
        _ => return None,
    }
    Some(builder.finish())
}

/// The last packets that left.
#[derive(Default)]
struct Window {
    marks: VecDeque<Mark>,
}

impl Window {
    fn send(&mut self, builder: &mut Builder, peer: u32, range: Range) {
        let is_full = self.marks.len() == SENDS_AT_ONCE;
        let earlier = if is_full { self.marks.pop_front() } else { None };
        self.marks.push_back(builder.send_behind(peer, range, earlier.unwrap_or_default()));
    }
}

fn all_reduce(task: &Task<'_>, builder: &mut Builder, window: &mut Window) {
    let piece_bytes = task.piece_bytes(task.slice_bytes());
    let mut input = Input::new(builder, task, SENDS_AT_ONCE + 2, piece_bytes);
    let of_owner =
        |buffer: u32, owner: u32, index: usize| piece(task.slice(buffer, owner), index, piece_bytes);
    let count = task.slice_bytes().div_ceil(piece_bytes);
    for index in 0..=count {
        if index < count {
            let into = of_owner(TARGET, task.rank, index);
            sum(task, builder, window, &mut input, into, |owner| of_owner(SOURCE, owner, index));
        }
        if index > 0 {
            spread(task, builder, window, of_owner(TARGET, task.rank, index - 1), |owner| {
                of_owner(TARGET, owner, index - 1)
            });
        }
    }
}

fn reduce_scatter(task: &Task<'_>, builder: &mut Builder, window: &mut Window) {
    let piece_bytes = task.piece_bytes(task.slice_bytes());
    let mut input = Input::new(builder, task, SENDS_AT_ONCE + 2, piece_bytes);
    for index in 0..task.slice_bytes().div_ceil(piece_bytes) {
        let into = piece(task.whole(TARGET), index, piece_bytes);
        sum(task, builder, window, &mut input, into, |owner| {
            piece(task.slice(SOURCE, owner), index, piece_bytes)
        });
    }
}

fn all_gather(task: &Task<'_>, builder: &mut Builder, window: &mut Window) {
    builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
    spread(task, builder, window, task.whole(SOURCE), |owner| task.slice(TARGET, owner));
}

/// Everyone's share of the sum of one piece of every slice.
fn sum(
    task: &Task<'_>,
    builder: &mut Builder,
    window: &mut Window,
    input: &mut Input,
    into: Range,
    of_owner: impl Fn(u32) -> Range,
) {
    let mut left = input.take(builder, of_owner(task.rank));
    for distance in 1..task.ranks() {
        let peer = task.after(distance);
        let from = input.take(builder, of_owner(peer));
        window.send(builder, peer, from);
        builder.recv_reduce(task.before(distance), left, into, false);
        left = into;
    }
    task.settle(builder, into);
}

/// Everyone's `own` to everyone.
fn spread(
    task: &Task<'_>,
    builder: &mut Builder,
    window: &mut Window,
    own: Range,
    of_owner: impl Fn(u32) -> Range,
) {
    for distance in 1..task.ranks() {
        window.send(builder, task.after(distance), own);
        let owner = task.before(distance);
        builder.recv(owner, of_owner(owner));
    }
}

fn all_to_all(task: &Task<'_>, builder: &mut Builder, window: &mut Window) {
    builder.copy(task.slice(SOURCE, task.rank), task.slice(TARGET, task.rank));
    for round in 1..task.ranks() {
        let (to, from) = if task.ranks().is_power_of_two() {
            (task.rank ^ round, task.rank ^ round)
        } else {
            (task.after(round), task.before(round))
        };
        window.send(builder, to, task.slice(SOURCE, to));
        builder.recv(from, task.slice(TARGET, from));
    }
}
