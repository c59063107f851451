//! Along a tree: as few hops as the logarithm of the ranks, for small data of many ranks.
//!
//! With places counted from the root (place 0) and written in the radix of the tree, the parent of a place
//! lacks its lowest digit that is not zero; the children of a place have one more digit below it. A place and
//! all below it are neighbours: a subtree is a run of places. Radix 2 is the binomial tree.
//!
//! ```text
//! Reduce, for each piece:     sum = x;  for each child, near ones first:  sum += what it sends
//!                             send sum to the parent
//! Broadcast, for each piece:  receive it from the parent;  send it to each child, far ones first
//! AllReduce:                  Reduce to rank 0, Broadcast from it
//! Gather:                     collect the blocks of the subtree; send them to the parent
//! Scatter:                    receive the blocks of the subtree; send each child its part
//! AllGather:                  Gather to rank 0, Broadcast of what a subtree has not
//! ```
//! 1. A piece of an AllReduce comes down while the next goes up: the directions are lanes of their own.
//! 2. A subtree's blocks lie in the order of ranks; messages are cut where ranks leave a gap, so that they are
//!    one range of everybody's memory.
//! 3. Long runs are cut to pieces, so that they are passed on while they come in.
//! 4. By hosts, a binomial tree of leaders has at each leader the binomial tree of its host: every host hears
//!    of a message once. The root leads its host, elsewhere the lowest rank does.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, pieces};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Pieces that may be in use at once. First guess, to be measured.
const PIECES_HELD: usize = 4;

/// Of the tree of leaders and of those within hosts.
const HOST_RADIX: u32 = 2;

pub(super) fn plan(task: &Task<'_>, name: &'static str, radix: u32) -> Option<Plan> {
    on(task, name, &Tree::new(task, radix))
}

pub(super) fn plan_by_host(task: &Task<'_>, name: &'static str) -> Option<Plan> {
    on(task, name, &Tree::by_host(task))
}

fn on(task: &Task<'_>, name: &'static str, tree: &Tree) -> Option<Plan> {
    let mut builder = task.builder(name);
    match task.call.kind {
        Kind::AllReduce | Kind::Reduce => reduce(task, tree, &mut builder),
        Kind::Broadcast => broadcast(task, tree, &mut builder),
        Kind::Gather => gather(task, tree, &mut builder),
        Kind::Scatter => scatter(task, tree, &mut builder),
        Kind::AllGather => all_gather(task, tree, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

/// What one rank knows of the tree.
struct Tree {
    parent: Option<u32>,
    /// Near ones first.
    children: Vec<Branch>,
    /// This rank and all below it, ascending; nobody for operations that do not ask.
    members: Vec<u32>,
}

struct Branch {
    rank: u32,
    members: Vec<u32>,
}

/// The parent of a place, and the children as (place, size of the subtree), near ones first.
pub(super) fn places(place: u32, count: u32, radix: u32) -> (Option<u32>, Vec<(u32, u32)>) {
    let (at, radix, count) = (u64::from(place), u64::from(radix), u64::from(count));
    let mut weight = 1;
    let mut children = Vec::new();
    while weight < count && at.is_multiple_of(weight * radix) {
        for digit in 1..radix {
            let child = at + digit * weight;
            if child < count {
                children.push((child as u32, weight.min(count - child) as u32));
            }
        }
        weight *= radix;
    }
    let parent = (place != 0).then(|| (at - at % (weight * radix)) as u32);
    (parent, children)
}

impl Tree {
    fn new(task: &Task<'_>, radix: u32) -> Tree {
        let (root, ranks) = (root_of(task), task.ranks());
        let rank_at = |place: u32| ((u64::from(root) + u64::from(place)) % u64::from(ranks)) as u32;
        let place = (task.rank + ranks - root) % ranks;
        let (parent, children) = places(place, ranks, radix);
        let members = |first: u32, size: u32| -> Vec<u32> {
            if !wants_members(task.call.kind) {
                return Vec::new();
            }
            let mut members: Vec<u32> = (first..first + size).map(rank_at).collect();
            members.sort_unstable();
            members
        };
        let size = 1 + children.iter().map(|(_, size)| size).sum::<u32>();
        let branch =
            |(child, size): (u32, u32)| Branch { rank: rank_at(child), members: members(child, size) };
        Tree {
            parent: parent.map(rank_at),
            children: children.into_iter().map(branch).collect(),
            members: members(place, size),
        }
    }

    fn by_host(task: &Task<'_>) -> Tree {
        let root = root_of(task);
        let mut hosts = task.hosts.groups(task.ranks());
        // The root's host first, and on each host its leader first; behind them around.
        let root_host = hosts.iter().position(|host| host.contains(&root)).unwrap_or(0);
        hosts.rotate_left(root_host);
        let root_place = hosts[0].iter().position(|&rank| rank == root).unwrap_or(0);
        hosts[0].rotate_left(root_place);
        let host = hosts.iter().position(|host| host.contains(&task.rank)).unwrap_or(0);
        let local = &hosts[host];
        let place = local.iter().position(|&rank| rank == task.rank).unwrap_or(0);
        let members = |mut ranks: Vec<u32>| {
            ranks.sort_unstable();
            if wants_members(task.call.kind) { ranks } else { Vec::new() }
        };
        let (parent, below) = places(place as u32, local.len() as u32, HOST_RADIX);
        let mut parent = parent.map(|place| local[place as usize]);
        let mut own = vec![task.rank];
        let mut children = Vec::new();
        for (child, size) in below {
            let ranks = local[child as usize..(child + size) as usize].to_vec();
            own.extend(&ranks);
            children.push(Branch { rank: local[child as usize], members: members(ranks) });
        }
        if place == 0 {
            let (above, below) = places(host as u32, hosts.len() as u32, HOST_RADIX);
            parent = above.map(|host| hosts[host as usize][0]);
            for (child, size) in below {
                let ranks: Vec<u32> = hosts[child as usize..(child + size) as usize].concat();
                own.extend(&ranks);
                children.push(Branch { rank: hosts[child as usize][0], members: members(ranks) });
            }
        }
        Tree { parent, children, members: members(own) }
    }
}

fn root_of(task: &Task<'_>) -> u32 {
    if task.call.kind.has_root() { task.call.root } else { 0 }
}

fn wants_members(kind: Kind) -> bool {
    matches!(kind, Kind::Gather | Kind::Scatter | Kind::AllGather)
}

/// Ranks that follow one another, as (first, count).
fn runs(ranks: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for rank in ranks {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == rank => *count += 1,
            _ => runs.push((rank, 1)),
        }
    }
    runs
}

/// Reduce to the root, and for an AllReduce the way back.
fn reduce(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let has_target = task.call.kind == Kind::AllReduce || task.is_root();
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, PIECES_HELD, piece_bytes);
    let is_aside = !has_target && !tree.children.is_empty();
    let mut aside = is_aside.then(|| Slots::new(builder, PIECES_HELD, piece_bytes));
    for piece in pieces(task.whole(SOURCE), piece_bytes) {
        let mut sum = input.take(builder, piece);
        let into = aside.as_mut().map_or(piece.of(TARGET), |slots| slots.take(piece.bytes));
        for child in &tree.children {
            builder.recv_reduce(child.rank, sum, into, false);
            sum = into;
        }
        match tree.parent {
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
    let from = match tree.parent {
        Some(parent) => {
            builder.recv(parent, range);
            range
        }
        None => of_root,
    };
    for child in tree.children.iter().rev() {
        builder.send(child.rank, from);
    }
}

/// Where the blocks of a subtree lie in this rank's memory.
struct Blocks<'a> {
    memory: Range,
    /// Whose blocks the memory has, ascending; `None`: everybody's.
    members: Option<&'a [u32]>,
    block_bytes: usize,
}

impl Blocks<'_> {
    /// The blocks of some of the members, each run of ranks as one range.
    fn of(&self, ranks: impl IntoIterator<Item = u32>) -> Vec<Range> {
        let place = |rank: u32| match self.members {
            None => rank as usize,
            Some(members) => members.partition_point(|&member| member < rank),
        };
        let range = |(first, count): (u32, u32)| {
            let offset = self.memory.offset + place(first) * self.block_bytes;
            Range::new(self.memory.buffer, offset, count as usize * self.block_bytes)
        };
        runs(ranks).into_iter().map(range).collect()
    }
}

/// Memory for the subtree's blocks: `of_root` at the root, `of_leaf` at a leaf, else scratch.
fn memory<'a>(
    task: &Task<'_>,
    tree: &'a Tree,
    builder: &mut Builder,
    of_root: u32,
    of_leaf: u32,
) -> Blocks<'a> {
    let block_bytes = task.call.bytes();
    if tree.parent.is_none() {
        let memory = Range::new(of_root, 0, block_bytes * task.ranks() as usize);
        return Blocks { memory, members: None, block_bytes };
    }
    let memory = if tree.children.is_empty() {
        task.whole(of_leaf)
    } else {
        builder.scratch(tree.members.len() * block_bytes)
    };
    Blocks { memory, members: Some(&tree.members), block_bytes }
}

fn gather(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let blocks = memory(task, tree, builder, TARGET, SOURCE);
    for own in blocks.of([task.rank]) {
        builder.copy(task.whole(SOURCE), own);
    }
    for child in &tree.children {
        task.receive_all(builder, child.rank, &blocks.of(child.members.iter().copied()));
    }
    if let Some(parent) = tree.parent {
        task.send_all(builder, parent, &blocks.of(tree.members.iter().copied()));
    }
}

fn scatter(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let blocks = memory(task, tree, builder, SOURCE, TARGET);
    if let Some(parent) = tree.parent {
        task.receive_all(builder, parent, &blocks.of(tree.members.iter().copied()));
    }
    for child in tree.children.iter().rev() {
        task.send_all(builder, child.rank, &blocks.of(child.members.iter().copied()));
    }
    for own in blocks.of([task.rank]) {
        builder.copy(own, task.whole(TARGET));
    }
}

fn all_gather(task: &Task<'_>, tree: &Tree, builder: &mut Builder) {
    let block_bytes = task.call.bytes();
    let memory = Range::new(TARGET, 0, block_bytes * task.ranks() as usize);
    let blocks = Blocks { memory, members: None, block_bytes };
    let without =
        |members: &[u32]| blocks.of((0..task.ranks()).filter(|rank| members.binary_search(rank).is_err()));
    builder.copy(task.whole(SOURCE), task.slice(TARGET, task.rank));
    for child in &tree.children {
        task.receive_all(builder, child.rank, &blocks.of(child.members.iter().copied()));
    }
    if let Some(parent) = tree.parent {
        task.send_all(builder, parent, &blocks.of(tree.members.iter().copied()));
        task.receive_all(builder, parent, &without(&tree.members));
    }
    for child in tree.children.iter().rev() {
        task.send_all(builder, child.rank, &without(&child.members));
    }
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn every_place_has_the_parent_that_has_it_as_a_child() {
        for radix in [2, 3, 4, 8] {
            for count in 1..200 {
                for place in 0..count {
                    let (parent, children) = places(place, count, radix);
                    assert_eq!(parent.is_none(), place == 0);
                    for (child, size) in children {
                        let (back, below) = places(child, count, radix);
                        assert_eq!(back, Some(place));
                        let all: u32 = below.iter().map(|(_, size)| size).sum();
                        assert_eq!(size, all + 1, "radix {radix}, {child} of {count}");
                    }
                }
            }
        }
    }
}
