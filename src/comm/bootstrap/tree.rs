//! The tree in which the ranks of a communicator stand while it is born. Pure arithmetic.
//!
//! A rank's number is written with base [`WIDTH`]; its parent's has the lowest digit that is not 0 cleared. So
//! rank 0 is the top, nobody has more than `WIDTH - 1` children per digit, and the ranks under a rank follow
//! it without a gap.
#![forbid(unsafe_code)]

use std::ops::Range;

/// 2 would be a binomial tree. With 4 a thousand ranks stand 5 deep, and nobody has more than 15 children.
const WIDTH: u32 = 4;

/// Who stands above `rank`; nobody above 0.
pub(crate) fn parent(rank: u32) -> Option<u32> {
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
pub(crate) fn children(rank: u32, ranks: u32) -> Vec<Range<u32>> {
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
            let mut seen = vec![0; ranks as usize];
            for rank in 0..ranks {
                let children = children(rank, ranks);
                assert!(children.iter().all(|child| parent(child.start) == Some(rank)));
                // Who stands under a rank follows it without a gap.
                let mut next = rank + 1;
                for child in &children {
                    assert_eq!(child.start, next);
                    next = child.end;
                }
                children.iter().for_each(|child| seen[child.start as usize] += 1);
                let depth = std::iter::successors(Some(rank), |rank| parent(*rank)).count() - 1;
                let digits = ranks.ilog(WIDTH) as usize + 1;
                assert!(depth <= digits && children.len() <= 3 * digits);
            }
            assert!(seen[0] == 0 && seen[1..].iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        assert_eq!(parent(u32::MAX), Some(u32::MAX - 3));
        assert!(!children(0, u32::MAX).is_empty());
        assert!(children(u32::MAX - 1, u32::MAX).is_empty());
    }
}
