//! Along a binomial tree: as few hops as the logarithm of the ranks, for small data of many ranks.
//!
//! With places counted from the root (place 0), the parent of a place lacks its lowest bit, the children of a
//! place have one more bit below it, and a place and all below it are neighbours: a subtree is a run of
//! places.
//!
//! ```text
//! Reduce, for each piece:     sum = x;  for each child, near ones first:  sum += what it sends
//!                             send sum to the parent
//! Broadcast, for each piece:  receive it from the parent;  send it to each child, far ones first
//! AllReduce:                  Reduce to rank 0, Broadcast from it
//! Gather:                     collect the blocks of the subtree; send them to the parent
//! Scatter:                    receive the blocks of the subtree; send each child its run
//! AllGather:                  Gather to rank 0, Broadcast of what a subtree has not
//! ```
//! 1. A piece of an AllReduce comes down while the next goes up: the directions are lanes of their own.
//! 2. Runs of places are runs of ranks but where the ranks begin anew, behind the last; messages are cut
//!    there, so that they are one range of the root's buffer.
//! 3. Long runs are cut to pieces, so that they are passed on while they come in.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, pieces};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Pieces that may be in use at once. First guess, to be measured.
const PIECES_HELD: usize = 4;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let mut builder = task.builder("tree");
    let tree = Tree::new(task);
    match task.call.kind {
        Kind::AllReduce | Kind::Reduce => reduce(task, &tree, &mut builder),
        Kind::Broadcast => broadcast(task, &tree, &mut builder),
        Kind::Gather => gather(task, &tree, &mut builder),
        Kind::Scatter => scatter(task, &tree, &mut builder),
        Kind::AllGather => all_gather(task, &tree, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

/// This rank's place in the tree.
struct Tree {
    root: u32,
    ranks: u32,
    place: u32,
    /// How many places the subtree has.
    size: u32,
}

impl Tree {
    fn new(task: &Task<'_>) -> Tree {
        let (root, ranks) = (if task.call.kind.has_root() { task.call.root } else { 0 }, task.ranks());
        let place = if task.rank >= root { task.rank - root } else { ranks - root + task.rank };
        Tree { root, ranks, place, size: size_of(place, ranks) }
    }

    fn rank_at(&self, place: u32) -> u32 {
        ((u64::from(self.root) + u64::from(place)) % u64::from(self.ranks)) as u32
    }

    /// The parent's rank; the root has none.
    fn parent(&self) -> Option<u32> {
        (self.place != 0).then(|| self.rank_at(self.place & (self.place - 1)))
    }

    /// The children's places and the sizes of their subtrees, near ones first.
    fn children(&self) -> impl DoubleEndedIterator<Item = (u32, u32)> {
        let (place, size, ranks) = (self.place, self.size, self.ranks);
        (0..32)
            .map(|bit| 1_u64 << bit)
            .take_while(move |&bit| bit < u64::from(size))
            .map(move |bit| place + bit as u32)
            .map(move |child| (child, size_of(child, ranks)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The blocks of `size` places from `first` on, as ranges of a buffer ordered by rank, in the order of
    /// places.
    fn by_rank(&self, buffer: u32, first: u32, size: u32, block_bytes: usize) -> impl Iterator<Item = Range> {
        let start = self.rank_at(first);
        let before_end = size.min(self.ranks - start);
        [(start, before_end), (0, size - before_end)].into_iter().map(move |(rank, count)| {
            Range::new(buffer, rank as usize * block_bytes, count as usize * block_bytes)
        })
    }

    /// The same blocks in memory ordered by place, whose first block is that of `origin`; cut alike.
    fn by_place(
        &self,
        memory: Range,
        origin: u32,
        first: u32,
        size: u32,
        block_bytes: usize,
    ) -> impl Iterator<Item = Range> {
        let mut offset = memory.offset + (first - origin) as usize * block_bytes;
        self.by_rank(memory.buffer, first, size, block_bytes).map(move |range| {
            let start = offset;
            offset += range.bytes;
            Range::new(memory.buffer, start, range.bytes)
        })
    }
}

/// How many places the subtree under `place` has.
fn size_of(place: u32, ranks: u32) -> u32 {
    if place == 0 { ranks } else { (1 << place.trailing_zeros()).min(ranks - place) }
}

/// Reduce to the root, and for an AllReduce the way back.
fn reduce(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let has_target = task.call.kind == Kind::AllReduce || task.is_root();
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, PIECES_HELD, piece_bytes);
    let is_aside = !has_target && tree.size > 1;
    let mut aside = is_aside.then(|| Slots::new(builder, PIECES_HELD, piece_bytes));
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let mut sum = input.take(builder, piece);
        let into = aside.as_mut().map_or(piece.of(TARGET), |slots| slots.take(piece.bytes));
        for (child, _) in tree.children() {
            builder.recv_reduce(tree.rank_at(child), sum, into, false);
            sum = into;
        }
        match tree.parent() {
            Some(parent) => _ = builder.send(parent, sum),
            None => task.settle(builder, sum),
        }
        if task.call.kind == Kind::AllReduce {
            pass_down(tree, builder, piece.of(TARGET), piece.of(TARGET));
        }
    }
}

fn broadcast(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes());
    for piece in pieces(task.whole(TARGET), piece_bytes) {
        pass_down(tree, builder, piece.of(SOURCE), piece);
    }
    if task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
}

/// One message from the root to all; the root has it at `of_root`, the others get it at `range`.
fn pass_down(tree: &Tree, builder: &mut Builder, of_root: Range, range: Range) {
    let from = match tree.parent() {
        Some(parent) => {
            builder.recv(parent, range);
            range
        }
        None => of_root,
    };
    for (child, _) in tree.children().rev() {
        builder.send(tree.rank_at(child), from);
    }
}

fn gather(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let block_bytes = task.call.bytes();
    let Some(parent) = tree.parent() else {
        builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
        for (child, size) in tree.children() {
            for run in tree.by_rank(TARGET, child, size, block_bytes) {
                receive(task, builder, tree.rank_at(child), run);
            }
        }
        return;
    };
    let mut memory = task.whole(SOURCE);
    if tree.size > 1 {
        memory = builder.scratch(tree.size as usize * block_bytes);
        builder.copy(task.whole(SOURCE), Range { bytes: block_bytes, ..memory });
    }
    for (child, size) in tree.children() {
        for run in tree.by_place(memory, tree.place, child, size, block_bytes) {
            receive(task, builder, tree.rank_at(child), run);
        }
    }
    for run in tree.by_place(memory, tree.place, tree.place, tree.size, block_bytes) {
        send(task, builder, parent, run);
    }
}

fn scatter(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let block_bytes = task.call.bytes();
    let Some(parent) = tree.parent() else {
        for (child, size) in tree.children().rev() {
            for run in tree.by_rank(SOURCE, child, size, block_bytes) {
                send(task, builder, tree.rank_at(child), run);
            }
        }
        builder.copy(task.slice(SOURCE, task.rank), task.whole(TARGET));
        return;
    };
    let is_leaf = tree.size == 1;
    let memory = if is_leaf { task.whole(TARGET) } else { builder.scratch(tree.size as usize * block_bytes) };
    for run in tree.by_place(memory, tree.place, tree.place, tree.size, block_bytes) {
        receive(task, builder, parent, run);
    }
    for (child, size) in tree.children().rev() {
        for run in tree.by_place(memory, tree.place, child, size, block_bytes) {
            send(task, builder, tree.rank_at(child), run);
        }
    }
    if !is_leaf {
        builder.copy(Range { bytes: block_bytes, ..memory }, task.whole(TARGET));
    }
}

/// The tree of an AllGather has its root at rank 0, so that places are ranks and runs are ranges.
fn all_gather(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let block_bytes = task.call.bytes();
    let run = |first: u32, end: u32| {
        Range::new(TARGET, first as usize * block_bytes, (end - first) as usize * block_bytes)
    };
    builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
    for (child, size) in tree.children() {
        receive(task, builder, child, run(child, child + size));
    }
    let end = tree.place + tree.size;
    if let Some(parent) = tree.parent() {
        send(task, builder, parent, run(tree.place, end));
        receive(task, builder, parent, run(0, tree.place));
        receive(task, builder, parent, run(end, tree.ranks));
    }
    for (child, size) in tree.children().rev() {
        send(task, builder, child, run(0, child));
        send(task, builder, child, run(child + size, tree.ranks));
    }
}

fn send(task: &Task<'_>, builder: &mut Builder, peer: u32, run: Range) {
    for piece in pieces(run, task.piece_bytes(run.bytes)) {
        builder.send(peer, piece);
    }
}

fn receive(task: &Task<'_>, builder: &mut Builder, peer: u32, run: Range) {
    for piece in pieces(run, task.piece_bytes(run.bytes)) {
        builder.recv(peer, piece);
    }
}
