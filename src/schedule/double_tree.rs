//! Half of the vector along each of two binary trees. Who is within one tree is a leaf of the other, so every
//! rank sends and receives no more than about the vector once each way, at logarithmic depth.
//!
//! With places 1 to n-1 in order, the height of a place is the number of zeros at the end of its number in
//! binary; a place of height h has children at distance 2^(h-1) on both sides, the right one nearer where the
//! places end. The root, place 0, has the highest place as its only child. The second tree is the first with
//! its places mirrored, or where there is an odd number of them shifted by one.
//!
//! ```text
//! for each piece, for each of both trees:
//!     Reduce:     sum = x;  for each child: sum += what it sends;  send sum to the parent
//!     Broadcast:  receive from the parent;  send to each child
//! AllReduce:      Reduce to rank 0, Broadcast from it
//! ```
//! 1. What comes down of a piece follows what goes up of a later one: so much later that both directions of a
//!    link that one tree uses up and the other down keep moving.
//! 2. The root is no bottleneck: it has one child in each tree.
#![forbid(unsafe_code)]

use super::task::{Input, Slots, Task, piece};
use super::{Builder, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Pieces of a tree that may be in use at once. First guess, to be measured.
const PIECES_HELD: usize = 4;

pub(super) fn plan(task: &Task<'_>) -> Option<Plan> {
    let kind = task.call.kind;
    if !matches!(kind, Kind::AllReduce | Kind::Reduce | Kind::Broadcast) {
        return None;
    }
    let mut builder = task.builder("double-tree");
    let trees = [Tree::new(task, false), Tree::new(task, true)];
    let half = |buffer: u32, tree: usize| task.cut(task.whole(buffer), tree as u32, 2);
    let piece_bytes = task.piece_bytes(half(SOURCE, 0).bytes);
    let count = half(SOURCE, 0).bytes.div_ceil(piece_bytes);
    let mut up = (kind != Kind::Broadcast).then(|| Up::new(&mut builder, task, &trees, piece_bytes));
    let lag = if kind == Kind::AllReduce { 2 * task.ranks().ilog2() as usize } else { 0 };
    for index in 0..count + lag {
        for (number, tree) in trees.iter().enumerate() {
            let of = |buffer: u32, index: usize| piece(half(buffer, number), index, piece_bytes);
            if let Some(up) = up.as_mut().filter(|_| index < count) {
                up.pass(task, &mut builder, tree, of(SOURCE, index));
            }
            if kind != Kind::Reduce && (lag..lag + count).contains(&index) {
                let of_root = if kind == Kind::Broadcast { SOURCE } else { TARGET };
                pass_down(&mut builder, tree, of(of_root, index - lag), of(TARGET, index - lag));
            }
        }
    }
    if kind == Kind::Broadcast && task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
    Some(builder.finish())
}

/// One rank's neighbours in one of the trees.
struct Tree {
    parent: Option<u32>,
    children: Vec<u32>,
}

impl Tree {
    fn new(task: &Task<'_>, is_second: bool) -> Tree {
        let ranks = task.ranks();
        let root = if task.call.kind.has_root() { task.call.root } else { 0 };
        // Both are their own inverse but for the shift, which goes back the other way.
        let last = ranks - 1;
        let shifts = is_second && last % 2 == 1;
        let place_of = |seat: u32| match seat {
            0 => 0,
            seat if shifts => seat % last + 1,
            seat if is_second => ranks - seat,
            seat => seat,
        };
        let seat_of = |place: u32| match place {
            0 => 0,
            place if shifts => (place + last - 2) % last + 1,
            place if is_second => ranks - place,
            place => place,
        };
        let rank_at = |place: u32| ((u64::from(root) + u64::from(seat_of(place))) % u64::from(ranks)) as u32;
        let (parent, children) = neighbours(place_of((task.rank + ranks - root) % ranks), last);
        Tree { parent: parent.map(rank_at), children: children.into_iter().map(rank_at).collect() }
    }
}

/// Parent and children of a place, of places up to `last`.
fn neighbours(place: u32, last: u32) -> (Option<u32>, Vec<u32>) {
    if place == 0 {
        return (None, vec![1 << last.ilog2()]);
    }
    let bit = 1 << place.trailing_zeros();
    let above = (place ^ bit) | (bit << 1);
    let parent = if above > last { place ^ bit } else { above };
    let mut children = Vec::new();
    if bit > 1 {
        children.push(place - bit / 2);
        let mut distance = bit / 2;
        while distance > 0 && place + distance > last {
            distance /= 2;
        }
        if distance > 0 {
            children.push(place + distance);
        }
    }
    (Some(parent), children)
}

/// The way to the root.
struct Up {
    input: Input,
    /// Where sums lie that are not this rank's to keep, by tree.
    aside: Option<Slots>,
}

impl Up {
    fn new(builder: &mut Builder, task: &Task<'_>, trees: &[Tree; 2], piece_bytes: usize) -> Up {
        let has_target = task.call.kind == Kind::AllReduce || task.is_root();
        let is_within = trees.iter().any(|tree| !tree.children.is_empty());
        Up {
            input: Input::new(builder, task, 2 * PIECES_HELD, piece_bytes),
            aside: (!has_target && is_within).then(|| Slots::new(builder, 2 * PIECES_HELD, piece_bytes)),
        }
    }

    fn pass(&mut self, task: &Task<'_>, builder: &mut Builder, tree: &Tree, own: Range) {
        if own.bytes == 0 {
            return;
        }
        let mut sum = self.input.take(builder, own);
        if !tree.children.is_empty() {
            let into = self.aside.as_mut().map_or(own.of(TARGET), |slots| slots.take(own.bytes));
            for &child in &tree.children {
                builder.recv_reduce(child, sum, into, false);
                sum = into;
            }
        }
        match tree.parent {
            Some(parent) => _ = builder.send(parent, sum),
            None => task.settle(builder, sum),
        }
    }
}

fn pass_down(builder: &mut Builder, tree: &Tree, of_root: Range, range: Range) {
    let from = match tree.parent {
        Some(parent) => {
            builder.recv(parent, range);
            range
        }
        None => of_root,
    };
    for &child in &tree.children {
        builder.send(child, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_and_children_agree_and_reach_everybody() {
        for last in 1..300 {
            let mut met = 0;
            for place in 0..=last {
                let (parent, children) = neighbours(place, last);
                assert_eq!(parent.is_none(), place == 0);
                met += children.len() as u32;
                for child in children {
                    assert_eq!(neighbours(child, last).0, Some(place), "{child} of {last}");
                }
            }
            assert_eq!(met, last);
        }
    }
}
