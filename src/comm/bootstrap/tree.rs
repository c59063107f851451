//! The tree in which the ranks of a communicator stand while it is born. Pure arithmetic.
//!
//! A rank's number is written with base [`WIDTH`]; its parent's has the lowest digit that is not 0 cleared. So
//! rank 0 is the top, nobody has more than `WIDTH - 1` children per digit, and the ranks under a rank follow
//! it without a gap.
//!
//! Ranks that meet by several ids are as many groups of ranks that follow each other, each with a tree of its own;
//! the first ranks of the groups, the leaders, stand in such a tree as well. Again the ranks under a rank follow it
//! without a gap.
#![forbid(unsafe_code)]

use std::ops::Range;

/// 2 would be a binomial tree. With 4 a thousand ranks stand 5 deep, and nobody has more than 15 children.
const WIDTH: u32 = 4;

/// How many ranks there are, in how many groups: at least one of each, and no group without a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) ranks: u32,
    pub(crate) groups: u32,
}

impl Shape {
    /// The group's first rank; of the number of groups the number of ranks.
    fn start(self, group: u32) -> u32 {
        let start = u64::from(group) * u64::from(self.ranks) / u64::from(self.groups);
        u32::try_from(start).unwrap_or(u32::MAX)
    }

    /// The group of `rank`.
    pub(crate) fn group_of(self, rank: u32) -> u32 {
        // The only candidates, since starts are rounded down.
        let guess = u64::from(rank) * u64::from(self.groups) / u64::from(self.ranks);
        let guess = u32::try_from(guess).unwrap_or(u32::MAX);
        if guess + 1 < self.groups && self.start(guess + 1) <= rank { guess + 1 } else { guess }
    }

    /// Whether `rank` is its group's first.
    pub(crate) fn leads(self, rank: u32) -> bool {
        self.start(self.group_of(rank)) == rank
    }

    /// Who meets at the root of `group`: its ranks, and at that of the first group also all leaders.
    pub(crate) fn expected(self, group: u32) -> Vec<u32> {
        let own = self.start(group)..self.start(group + 1);
        let leaders = (1..self.groups).filter(|_| group == 0).map(|other| self.start(other));
        own.chain(leaders).collect()
    }

    /// Whether `rank` meets at the root of `group`.
    pub(crate) fn meets(self, group: u32, rank: u32) -> bool {
        self.group_of(rank) == group || group == 0 && self.leads(rank)
    }

    /// Who stands above `rank`; nobody above 0.
    pub(crate) fn parent(self, rank: u32) -> Option<u32> {
        let group = self.group_of(rank);
        let start = self.start(group);
        match parent(rank - start) {
            Some(above) => Some(start + above),
            None => parent(group).map(|group| self.start(group)),
        }
    }

    /// Who stands directly under `rank`, each with all that stand under it, itself the first of them.
    pub(crate) fn children(self, rank: u32) -> Vec<Range<u32>> {
        let group = self.group_of(rank);
        let (start, end) = (self.start(group), self.start(group + 1));
        let mut all: Vec<Range<u32>> =
            children(rank - start, end - start).into_iter().map(|r| start + r.start..start + r.end).collect();
        if rank == start {
            let groups = children(group, self.groups).into_iter();
            all.extend(groups.map(|groups| self.start(groups.start)..self.start(groups.end)));
        }
        all
    }
}

/// Who stands above `rank`; nobody above 0.
fn parent(rank: u32) -> Option<u32> {
    let mut place = 1;
    loop {
        if rank == 0 {
            return None;
        }
        let digit = rank / place % WIDTH;
        if digit > 0 {
            return Some(rank - digit * place);
        }
        place *= WIDTH;
    }
}

/// Who stands directly under `rank` of `ranks`, each with all that stand under it, itself the first of them.
fn children(rank: u32, ranks: u32) -> Vec<Range<u32>> {
    let (rank, ranks, width) = (u64::from(rank), u64::from(ranks), u64::from(WIDTH));
    let mut children = Vec::new();
    let mut place = 1;
    while rank + place < ranks && (rank / place).is_multiple_of(width) {
        for digit in 1..width {
            let first = rank + digit * place;
            if first < ranks {
                let end = (first + place).min(ranks);
                children
                    .push(u32::try_from(first).unwrap_or(u32::MAX)..u32::try_from(end).unwrap_or(u32::MAX));
            }
        }
        place *= width;
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_stands_once_and_the_tree_is_low() {
        for ranks in (1..200).chain([256, 1000, 1024, 4097]) {
            for groups in [1, 2, 3, 7, 16, 100, ranks] {
                if groups <= ranks {
                    check(Shape { ranks, groups });
                }
            }
        }
    }

    fn check(shape: Shape) {
        let Shape { ranks, groups } = shape;
        let mut seen = vec![0; ranks as usize];
        let digits = ranks.ilog(WIDTH) as usize + 1;
        for rank in 0..ranks {
            let group = (0..groups).rfind(|group| shape.start(*group) <= rank);
            assert_eq!(Some(shape.group_of(rank)), group);
            let children = shape.children(rank);
            assert!(children.iter().all(|child| shape.parent(child.start) == Some(rank)));
            // Who stands under a rank follows it without a gap.
            let mut next = rank + 1;
            for child in &children {
                assert_eq!(child.start, next);
                next = child.end;
            }
            assert_eq!(next == ranks, rank == 0 || next == ranks);
            children.iter().for_each(|child| seen[child.start as usize] += 1);
            let depth = std::iter::successors(Some(rank), |rank| shape.parent(*rank)).count() - 1;
            assert!(depth <= 2 * digits && children.len() <= 6 * digits);
        }
        assert!(seen[0] == 0 && seen[1..].iter().all(|count| *count == 1));
        let mut met: Vec<u32> = (0..groups).flat_map(|group| shape.expected(group)).collect();
        met.sort_unstable();
        met.dedup();
        assert!(met.into_iter().eq(0..ranks));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        assert_eq!(parent(u32::MAX), Some(u32::MAX - 3));
        assert!(!children(0, u32::MAX).is_empty());
        assert!(children(u32::MAX - 1, u32::MAX).is_empty());
    }
}
