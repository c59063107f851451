//! Equal ranks, simulated once.
//!
//! Where the machine repeats every so many ranks and the schedule does too, what the first of them do is what all do:
//! a packet to a rank further on is a packet that its image among the first ones receives, from where the sender
//! would stand as seen from there. Two kinds of moves are known: around the circle of ranks, and by exclusive or.
//!
//! Whether plans repeat is looked up in the plans themselves: of all ranks where there are few, of some where there
//! are many. The tests run every folded case up to 1,024 ranks event by event as well.
#![forbid(unsafe_code)]

use super::program::{Partner, Program};

/// How ranks are moved onto those that are simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    ranks: u32,
    period: u32,
    by_xor: bool,
}

/// Up to so many ranks, the plans of all are compared.
const ALL_COMPARED: u32 = 64;

impl Fold {
    /// Every rank is simulated.
    #[must_use]
    pub const fn none(ranks: u32) -> Fold {
        Fold { ranks, period: ranks, by_xor: false }
    }

    /// How many ranks are simulated.
    #[must_use]
    pub const fn period(&self) -> u32 {
        self.period
    }

    /// Who of those that are simulated stands for `peer`, and who the sender `rank` is as seen from there.
    pub(super) const fn of(&self, rank: u32, peer: u32) -> (u32, u32) {
        let target = peer % self.period;
        (target, self.moved(rank, peer - target, true))
    }

    /// The rank so far on, or back.
    const fn moved(&self, rank: u32, distance: u32, back: bool) -> u32 {
        if self.by_xor {
            rank ^ distance
        } else {
            let distance = if back { self.ranks - distance } else { distance };
            ((rank as u64 + distance as u64) % self.ranks as u64) as u32
        }
    }

    /// The fold of `ranks` ranks onto the first `period`, whose plans `make` gives.
    ///
    /// # Errors
    /// Why they are not alike.
    pub(super) fn find(
        ranks: u32,
        period: u32,
        make: &dyn Fn(u32) -> Option<Program>,
    ) -> Result<Fold, String> {
        let first: Vec<Program> = (0..period).filter_map(make).collect();
        let mut moves: Vec<u32> = if ranks <= ALL_COMPARED {
            (1..ranks / period).map(|times| times * period).collect()
        } else {
            let count = ranks / period;
            [1, 2, 3, count / 3, count / 2, count - 1].map(|times| times % count * period).to_vec()
        };
        moves.retain(|&distance| distance > 0);
        moves.sort_unstable();
        moves.dedup();
        let circle = Fold { ranks, period, by_xor: false };
        let xor = Fold { ranks, period, by_xor: true };
        let mut folds = vec![circle];
        if ranks.is_power_of_two() && period.is_power_of_two() {
            folds.push(xor);
        }
        for &distance in &moves {
            for (rank, program) in (0..).zip(&first) {
                let before = folds.clone();
                folds.retain(|fold| {
                    let image = make(fold.moved(rank, distance, false));
                    image.is_some_and(|image| fold.is_image(program, &image, distance))
                });
                if folds.is_empty() {
                    let image = before[0].moved(rank, distance, false);
                    return Err(format!("rank {image} does not do what rank {rank} does, moved on"));
                }
            }
        }
        Ok(folds[0])
    }

    /// Whether `image` does what `program` does, with every peer moved.
    fn is_image(self, program: &Program, image: &Program, distance: u32) -> bool {
        let moved = |partner: Partner| match partner {
            Partner::To(peer) => Partner::To(self.moved(peer, distance, false)),
            Partner::From(peer) => Partner::From(self.moved(peer, distance, false)),
            Partner::Nobody => Partner::Nobody,
        };
        program.lanes.len() == image.lanes.len()
            && program.steps == image.steps
            && program.waits == image.waits
            && program.scratch_bytes == image.scratch_bytes
            && program.lanes.iter().zip(&image.lanes).all(|(one, other)| {
                (one.first, one.count) == (other.first, other.count) && moved(one.partner) == other.partner
            })
    }
}
