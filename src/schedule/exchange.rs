//! Everybody sends everything to everybody who needs it, at once. One hop: the least time for small data.
//!
//! ```text
//! AllReduce:      send x to all;         y = x[0] + x[1] + ... + x[n-1]
//! ReduceScatter:  send x[i] to each i;   y = x[0][me] + ... + x[n-1][me]
//! AllGather:      send x to all;         y[i] = x of i
//! AlltoAll:       send x[i] to each i;   y[i] = what i has for me
//! rooted ones:    straight from the root, or straight to it
//! ```
//! 1. Everybody sums in the order of ranks, so all results of an AllReduce have the same bits.
//! 2. Where the source lies in the target and others still read it, the sum so far lies in scratch, and only
//!    the last operand brings it to the target. Receiving for the sum then never waits for sending, but for
//!    the last rank's data; and the last rank's own last operand is its own, so it receives without a wait.
//! 3. Rank 1 adds its own data to what comes from rank 0 in one step, where the sum may lie in the target.
//! 4. Sums go piece by piece, so that scratch is two pieces and not the whole.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, pieces};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("exchange");
    match task.call.kind {
        Kind::AllReduce => all_reduce(task, &mut builder),
        Kind::Reduce => reduce(task, &mut builder),
        Kind::ReduceScatter => reduce_scatter(task, &mut builder),
        Kind::AllGather => all_gather(task, &mut builder),
        Kind::AlltoAll => all_to_all(task, &mut builder),
        Kind::Broadcast => broadcast(task, &mut builder),
        Kind::Gather => gather(task, &mut builder),
        Kind::Scatter => scatter(task, &mut builder),
        Kind::Send | Kind::Recv => return None,
    }
    Some(builder.finish())
}

fn all_reduce(task: &Task<'_>, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, 2, piece_bytes);
    let mut sum = Sum::new(builder, task, piece_bytes);
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let own = input.take(builder, piece);
        for distance in 1..task.ranks() {
            builder.send(task.after(distance), own);
        }
        sum.receive(builder, task, own, piece.of(TARGET));
    }
}

fn reduce(task: &Task<'_>, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, 2, piece_bytes);
    let mut sum = task.is_root().then(|| Sum::new(builder, task, piece_bytes));
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let own = input.take(builder, piece);
        match &mut sum {
            None => _ = builder.send(task.call.root, own),
            Some(sum) => sum.receive(builder, task, own, piece.of(TARGET)),
        }
    }
}

fn reduce_scatter(task: &Task<'_>, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, 2 * task.ranks() as usize, piece_bytes);
    let mut sum = Sum::new(builder, task, piece_bytes);
    for piece in pieces(task.whole(TARGET), piece_bytes) {
        let of_owner = |owner: u32| {
            let slice = task.slice(SOURCE, owner);
            Range::new(SOURCE, slice.offset + piece.offset, piece.bytes)
        };
        for distance in 1..task.ranks() {
            let peer = task.after(distance);
            let scaled = input.take(builder, of_owner(peer));
            builder.send(peer, scaled);
        }
        let own = input.take(builder, of_owner(task.rank));
        sum.receive(builder, task, own, piece);
    }
}

/// The sum of everyone's data in the order of ranks.
pub(super) struct Sum {
    /// Where it lies until its last operand; `None`: in the target.
    aside: Option<Slots>,
}

impl Sum {
    pub(super) fn new(builder: &mut Builder, task: &Task<'_>, piece_bytes: usize) -> Sum {
        let is_aside = task.call.in_place && !task.call.scales();
        Sum { aside: is_aside.then(|| Slots::new(builder, 2, piece_bytes)) }
    }

    pub(super) fn receive(&mut self, builder: &mut Builder, task: &Task<'_>, own: Range, into: Range) {
        let last = task.ranks() - 1;
        let sum = self.aside.as_mut().map_or(into, |slots| slots.take(into.bytes));
        let joins_first = task.rank == 1 && self.aside.is_none();
        let mut left = own;
        if task.rank != 0 && !joins_first {
            builder.recv(0, sum);
            left = sum;
        }
        for rank in 1..=last {
            let result = if rank == last { into } else { sum };
            if rank != task.rank {
                builder.recv_reduce(rank, left, result, false);
            } else if joins_first {
                builder.recv_reduce(0, own, result, true);
            } else {
                builder.reduce(left, own, result);
            }
            left = result;
        }
        task.settle(builder, into);
    }
}

fn all_gather(task: &Task<'_>, builder: &mut Builder) {
    let own = task.whole(SOURCE);
    for distance in 1..task.ranks() {
        builder.send(task.after(distance), own);
    }
    builder.copy(own, task.slice(TARGET, task.rank));
    for distance in 1..task.ranks() {
        let peer = task.before(distance);
        builder.recv(peer, task.slice(TARGET, peer));
    }
}

fn all_to_all(task: &Task<'_>, builder: &mut Builder) {
    for distance in 1..task.ranks() {
        let peer = task.after(distance);
        builder.send(peer, task.slice(SOURCE, peer));
    }
    builder.copy(task.slice(SOURCE, task.rank), task.slice(TARGET, task.rank));
    for distance in 1..task.ranks() {
        let peer = task.before(distance);
        builder.recv(peer, task.slice(TARGET, peer));
    }
}

fn broadcast(task: &Task<'_>, builder: &mut Builder) {
    if !task.is_root() {
        builder.recv(task.call.root, task.whole(TARGET));
        return;
    }
    for distance in 1..task.ranks() {
        builder.send(task.after(distance), task.whole(SOURCE));
    }
    builder.copy(task.whole(SOURCE), task.whole(TARGET));
}

fn gather(task: &Task<'_>, builder: &mut Builder) {
    let own = task.whole(SOURCE);
    if !task.is_root() {
        builder.send(task.call.root, own);
        return;
    }
    builder.copy(own, task.slice(TARGET, task.rank));
    for distance in 1..task.ranks() {
        let peer = task.after(distance);
        builder.recv(peer, task.slice(TARGET, peer));
    }
}

fn scatter(task: &Task<'_>, builder: &mut Builder) {
    if !task.is_root() {
        builder.recv(task.call.root, task.whole(TARGET));
        return;
    }
    for distance in 1..task.ranks() {
        let peer = task.after(distance);
        builder.send(peer, task.slice(SOURCE, peer));
    }
    builder.copy(task.slice(SOURCE, task.rank), task.whole(TARGET));
}
