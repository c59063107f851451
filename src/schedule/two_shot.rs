//! The vector in shares, each with an owner: two hops, and every link is used in both.
//!
//! ```text
//! AllReduce:  send x[i] to each owner i;  y[me] = x[me] of 0 + ... + x[me] of n-1;  send y[me] to all
//! Reduce:     the same, but the owners send to the root only
//! Broadcast:  the root sends share i to each owner i;  each owner sends it to all others but the root
//! ```
//! 1. Owners sum in the order of ranks, as `exchange` does: both give the same bits, and sum the same way.
//! 2. Shares go piece by piece, and what was summed is sent on behind the next piece's first hop, while it lies in the
//!    cache. A share of an AllReduce that stays there anyway is sent on whole: who only places a packet fetches it, and
//!    pays for each.
//! 3. The root owns no share of a Broadcast: it sends everything once and receives nothing.
#![forbid(unsafe_code)]

use super::exchange::Sum;
use super::task::{Input, Slots, Task, piece};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Sums that may be on their way to the root.
const PIECES_HELD: usize = 4;
/// Shares up to this long are sent on whole.
const WHOLE_BYTES: usize = 1 << 20;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("two-shot");
    match task.call.kind {
        Kind::AllReduce | Kind::Reduce => reduce(task, &mut builder),
        Kind::Broadcast => broadcast(task, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

fn reduce(task: &Task<'_>, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.slice_bytes());
    let mut input = Input::new(builder, task, task.ranks() as usize + 1, piece_bytes);
    let has_target = task.call.kind == Kind::AllReduce || task.is_root();
    let mut sum = Sum::new(builder, task, piece_bytes);
    let mut results = (!has_target).then(|| Slots::new(builder, PIECES_HELD, piece_bytes));
    let goes_whole = task.call.kind == Kind::AllReduce && task.slice_bytes() <= WHOLE_BYTES;
    let count = task.slice_bytes().div_ceil(piece_bytes);
    let mut held = Range::new(TARGET, 0, 0);
    for index in 0..=count {
        let of = |buffer: u32, owner: u32, index: usize| piece(task.slice(buffer, owner), index, piece_bytes);
        let before = held;
        if index < count {
            for distance in 1..task.ranks() {
                let peer = task.after(distance);
                let from = input.take(builder, of(SOURCE, peer, index));
                builder.send(peer, from);
            }
            let own = input.take(builder, of(SOURCE, task.rank, index));
            let into = of(TARGET, task.rank, index);
            held = results.as_mut().map_or(into, |slots| slots.take(into.bytes));
            if held.bytes > 0 {
                sum.receive(builder, task, own, held);
            }
        }
        if index > 0 && !goes_whole {
            hand_out(task, builder, before, |owner| of(TARGET, owner, index - 1));
        }
    }
    if goes_whole {
        let of_owner = |owner| task.slice(TARGET, owner);
        hand_out(task, builder, of_owner(task.rank), of_owner);
    }
}

/// What this rank summed to whoever needs it, and what others summed to its place.
fn hand_out(task: &Task<'_>, builder: &mut Builder, own: Range, of_owner: impl Fn(u32) -> Range) {
    if task.call.kind == Kind::Reduce && !task.is_root() {
        builder.send(task.call.root, own);
        return;
    }
    for distance in 1..task.ranks() {
        if task.call.kind == Kind::AllReduce {
            builder.send(task.after(distance), own);
        }
        let owner = task.before(distance);
        builder.recv(owner, of_owner(owner));
    }
}

fn broadcast(task: &Task<'_>, builder: &mut Builder) {
    let (root, owners) = (task.call.root, task.ranks() - 1);
    let rank_of = |owner: u32| ((u64::from(root) + 1 + u64::from(owner)) % u64::from(task.ranks())) as u32;
    let me = (task.rank + owners - root) % task.ranks();
    let share = |buffer: u32, owner: u32| task.cut(task.whole(buffer), owner, owners);
    let piece_bytes = task.piece_bytes(share(SOURCE, 0).bytes);
    for index in 0..share(SOURCE, 0).bytes.div_ceil(piece_bytes) {
        let of = |buffer: u32, owner: u32| piece(share(buffer, owner), index, piece_bytes);
        if task.is_root() {
            for owner in 0..owners {
                builder.send(rank_of(owner), of(SOURCE, owner));
            }
            continue;
        }
        builder.recv(root, of(TARGET, me));
        for distance in 1..owners {
            builder.send(rank_of((me + distance) % owners), of(TARGET, me));
        }
        for distance in 1..owners {
            let owner = (me + owners - distance) % owners;
            builder.recv(rank_of(owner), of(TARGET, owner));
        }
    }
    if task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
}
