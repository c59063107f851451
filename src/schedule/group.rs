//! Some of the ranks in an order, as if they were all; and what such a group does around a circle.
//!
//! ```text
//! hops:           held = 1;  while held < n:  moved = min(held, n - held);  held += moved
//! AllGather:      for each hop:      send blocks me .. me+moved to (me - held)
//!                                    receive blocks me+held .. me+held+moved from (me + held)
//! ReduceScatter:  the same, backwards, sums going the other way
//! ```
//! 1. All numbers go around: the last hop moves what is left, so any number of ranks takes as few hops as
//!    can be, and each rank moves every byte as seldom as can be.
//! 2. Blocks that lie side by side on all ranks travel as one message, cut to pieces.
//! 3. In a ReduceScatter some blocks of a message may have been summed before and others not; messages are
//!    cut there, on both sides.
#![forbid(unsafe_code)]

use super::task::{Input, Task, piece, pieces, within};
use super::{Builder, Range};

/// Ranks in an order, seen from one of them.
#[derive(Clone, Debug)]
pub(super) struct Group {
    ranks: Vec<u32>,
    me: u32,
}

impl Group {
    /// Everybody, by rank.
    pub(super) fn all(task: &Task<'_>) -> Group {
        Group { ranks: (0..task.ranks()).collect(), me: task.rank }
    }

    /// Everybody, by rank, from `first` on around.
    pub(super) fn all_from(task: &Task<'_>, first: u32) -> Group {
        let ranks: Vec<u32> = (first..task.ranks()).chain(0..first).collect();
        Group { me: (task.rank + task.ranks() - first) % task.ranks(), ranks }
    }

    /// Those ranks; `None` if the task's is not one of them.
    pub(super) fn of(task: &Task<'_>, ranks: Vec<u32>) -> Option<Group> {
        let me = ranks.iter().position(|&rank| rank == task.rank)? as u32;
        Some(Group { ranks, me })
    }

    pub(super) fn count(&self) -> u32 {
        self.ranks.len() as u32
    }

    pub(super) fn me(&self) -> u32 {
        self.me
    }

    pub(super) fn rank(&self, index: u32) -> u32 {
        self.ranks[index as usize]
    }

    /// The member `distance` after this one; at most once around.
    pub(super) fn after(&self, distance: u32) -> u32 {
        ((u64::from(self.me) + u64::from(distance)) % u64::from(self.count())) as u32
    }

    /// The member `distance` before this one; at most once around.
    pub(super) fn before(&self, distance: u32) -> u32 {
        self.after(self.count() - distance)
    }

    /// What is held before each hop, and how much more after it.
    fn hops(&self) -> Vec<(u32, u32)> {
        let mut hops = Vec::new();
        let mut held = 1;
        while held < self.count() {
            let moved = held.min(self.count() - held);
            hops.push((held, moved));
            held += moved;
        }
        hops
    }
}

/// Appends a range, joined with the last one where the two are one.
pub(super) fn push_range(ranges: &mut Vec<Range>, range: Range) {
    match ranges.last_mut() {
        _ if range.bytes == 0 => {}
        Some(last) if last.buffer == range.buffer && last.end() == range.offset => last.bytes += range.bytes,
        _ => ranges.push(range),
    }
}

/// Everyone gets everyone's blocks; `add` names those of a member, which lie alike on all ranks. `sated`, if
/// there is one, has all of them already.
pub(super) fn all_gather(
    task: &Task<'_>,
    builder: &mut Builder,
    group: &Group,
    sated: Option<u32>,
    mut add: impl FnMut(u32, &mut Vec<Range>),
) {
    let mut blocks = |first: u32, count: u32| {
        let mut ranges = Vec::new();
        for distance in first..first + count {
            add(group.after(distance), &mut ranges);
        }
        ranges
    };
    for (held, moved) in group.hops() {
        let (to, from) = (group.before(held), group.after(held));
        if sated != Some(to) {
            task.send_all(builder, group.rank(to), &blocks(0, moved));
        }
        if sated != Some(group.me) {
            task.receive_all(builder, group.rank(from), &blocks(held, moved));
        }
    }
}

/// Where a group's sums come from and where they go.
pub(super) struct Sums<'a> {
    /// This rank's own data for a member; lies alike on all ranks.
    pub(super) own: &'a dyn Fn(u32) -> Range,
    /// Where the sum for the member so far after this one lies; and whether it is the last time, so that it
    /// is this rank's result. Sums lie side by side where own data does.
    pub(super) sum: &'a dyn Fn(u32, bool) -> Range,
    pub(super) piece_bytes: usize,
}

/// Each member gets the sum of everyone's data for it.
pub(super) fn reduce_scatter(
    task: &Task<'_>,
    builder: &mut Builder,
    group: &Group,
    input: &mut Input,
    sums: &Sums<'_>,
) {
    // How many blocks, from this rank's on, have been summed with something.
    let mut summed = 0_u32;
    for (held, moved) in group.hops().into_iter().rev() {
        let is_last = held == 1;
        let cuts = [summed.saturating_sub(held), summed];
        let list = |first: u32| runs(group, sums, first, moved, cuts);
        let (leaving, coming) = (list(held), list(0));
        let (to, from) = (group.rank(group.after(held)), group.rank(group.before(held)));
        for index in 0..leaving.len().max(coming.len()) {
            if let Some(&(distance, own, start)) = leaving.get(index) {
                let range = if distance < summed {
                    within((sums.sum)(distance, false), start, own.bytes)
                } else {
                    input.take(builder, own)
                };
                builder.send(to, range);
            }
            if let Some(&(distance, own, start)) = coming.get(index) {
                let into = within((sums.sum)(distance, is_last), start, own.bytes);
                let with = if distance < summed {
                    within((sums.sum)(distance, false), start, own.bytes)
                } else {
                    input.take(builder, own)
                };
                builder.recv_reduce(from, with, into, false);
            }
        }
        summed = summed.max(moved);
    }
    let result = (sums.sum)(0, true);
    for part in pieces(result, sums.piece_bytes) {
        task.settle(builder, part);
    }
}

/// The pieces of the blocks from `first` on: the first block of the run that a piece belongs to, the piece as
/// own data, and where it starts within the run. Runs begin anew behind `cuts` blocks.
fn runs(group: &Group, sums: &Sums<'_>, first: u32, count: u32, cuts: [u32; 2]) -> Vec<(u32, Range, usize)> {
    let mut runs: Vec<(u32, Range)> = Vec::new();
    for number in 0..count {
        let own = (sums.own)(group.after(first + number));
        match runs.last_mut() {
            _ if own.bytes == 0 => {}
            Some((_, run)) if run.end() == own.offset && !cuts.contains(&number) => run.bytes += own.bytes,
            _ => runs.push((first + number, own)),
        }
    }
    let pieces_of = |&(distance, run): &(u32, Range)| {
        let count = run.bytes.div_ceil(sums.piece_bytes);
        let one = move |index| (distance, piece(run, index, sums.piece_bytes), index * sums.piece_bytes);
        (0..count).map(one).collect::<Vec<_>>()
    };
    runs.iter().flat_map(pieces_of).collect()
}
