//! The algorithms by name, and what each has a form for.
#![forbid(unsafe_code)]

use super::Plan;
use super::task::Task;
use super::{
    bruck, double_tree, doubling, exchange, pairwise, pat, rabenseifner, ring, slices, tree, two_shot,
};
use crate::op::{Kind, Wish};

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Everybody sends everything to everybody who needs it, at once.
    Exchange,
    /// The vector in one share per rank: shares to their owners, then to everybody.
    TwoShot,
    /// Around the ring, a slice each hop.
    Ring,
    /// Along a binomial tree.
    Tree,
    /// Along a tree of radix 4.
    Tree4,
    /// Along a tree of radix 8.
    Tree8,
    /// Half of the vector along each of two binary trees, in which the leaves of one are within the other.
    DoubleTree,
    /// Partners at doubling distances exchange all they have.
    Doubling,
    /// Partners at halving distances exchange halves; what follows is gathered by doubling.
    Rabenseifner,
    /// Neighbours at doubling distances around a circle, for any number of ranks.
    Bruck,
    /// Slices straight between owners, one partner after the other.
    Pairwise,
    /// A binomial tree from every rank, all at once: what goes far is little.
    Pat,
    /// Through one rank of every host.
    Leaders,
    /// Through as many ranks of every host as the smallest host has.
    Slices,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 14] = [
        Algorithm::Exchange,
        Algorithm::TwoShot,
        Algorithm::Ring,
        Algorithm::Tree,
        Algorithm::Tree4,
        Algorithm::Tree8,
        Algorithm::DoubleTree,
        Algorithm::Doubling,
        Algorithm::Rabenseifner,
        Algorithm::Bruck,
        Algorithm::Pairwise,
        Algorithm::Pat,
        Algorithm::Leaders,
        Algorithm::Slices,
    ];

    /// The name as settings and logs have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Exchange => "exchange",
            Algorithm::TwoShot => "two-shot",
            Algorithm::Ring => "ring",
            Algorithm::Tree => "tree",
            Algorithm::Tree4 => "tree4",
            Algorithm::Tree8 => "tree8",
            Algorithm::DoubleTree => "double-tree",
            Algorithm::Doubling => "doubling",
            Algorithm::Rabenseifner => "rabenseifner",
            Algorithm::Bruck => "bruck",
            Algorithm::Pairwise => "pairwise",
            Algorithm::Pat => "pat",
            Algorithm::Leaders => "leaders",
            Algorithm::Slices => "slices",
        }
    }

    /// The wish for it.
    #[must_use]
    pub fn wish(self) -> Wish {
        let place = Algorithm::ALL.into_iter().position(|algorithm| algorithm == self);
        // No list of algorithms is that long; a wish that got lost leaves the choice to the table.
        Wish(place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0))
    }

    /// What a wish is for, if it is one.
    #[must_use]
    pub fn wished(wish: Wish) -> Option<Algorithm> {
        Algorithm::ALL.get(usize::from(wish.0).checked_sub(1)?).copied()
    }

    /// The algorithm of that name, in letters of either case.
    #[must_use]
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name.trim()))
    }

    /// Whether it has a form for `kind`.
    #[must_use]
    pub const fn serves(self, kind: Kind) -> bool {
        use Kind::{AllGather, AllReduce, AlltoAll, Broadcast, Gather, Reduce, ReduceScatter, Scatter};
        match self {
            Algorithm::Exchange | Algorithm::Leaders => !kind.is_point_to_point(),
            Algorithm::TwoShot | Algorithm::DoubleTree => matches!(kind, AllReduce | Broadcast | Reduce),
            Algorithm::Ring => matches!(kind, AllReduce | ReduceScatter | AllGather | Broadcast | Reduce),
            Algorithm::Tree | Algorithm::Tree8 => {
                matches!(kind, AllReduce | Reduce | Broadcast | Gather | Scatter | AllGather)
            }
            Algorithm::Tree4 => matches!(kind, AllReduce | Reduce | Broadcast | Gather | Scatter),
            Algorithm::Doubling => matches!(kind, AllReduce | Reduce | AllGather),
            Algorithm::Rabenseifner => matches!(kind, AllReduce | Reduce | ReduceScatter),
            Algorithm::Bruck => {
                matches!(kind, AllReduce | ReduceScatter | AllGather | AlltoAll | Broadcast)
            }
            Algorithm::Pairwise => matches!(kind, AllReduce | ReduceScatter | AllGather | AlltoAll),
            Algorithm::Pat => matches!(kind, ReduceScatter | AllGather),
            Algorithm::Slices => {
                matches!(kind, AllReduce | ReduceScatter | AllGather | AlltoAll | Broadcast | Reduce)
            }
        }
    }

    /// Whether it reduces in the order that depends on nothing but the number of ranks (see `doubling`): all
    /// such algorithms give the same bits, on any hosts and in any pieces.
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        matches!(self, Algorithm::Doubling | Algorithm::Rabenseifner)
    }

    /// Its plan for a task of more than one rank, of an operation that it serves.
    pub(super) fn plan(self, task: &Task<'_>) -> Option<Plan> {
        let name = self.name();
        match self {
            Algorithm::Exchange => exchange::plan(task),
            Algorithm::TwoShot => two_shot::plan(task),
            Algorithm::Ring => ring::plan(task),
            Algorithm::Tree => tree::plan(task, name, 2),
            Algorithm::Tree4 => tree::plan(task, name, 4),
            Algorithm::Tree8 => tree::plan(task, name, 8),
            Algorithm::DoubleTree => double_tree::plan(task),
            Algorithm::Doubling => doubling::plan(task),
            Algorithm::Rabenseifner => rabenseifner::plan(task),
            Algorithm::Bruck => bruck::plan(task),
            Algorithm::Pairwise => pairwise::plan(task),
            Algorithm::Pat => pat::plan(task),
            Algorithm::Leaders => match task.call.kind {
                Kind::ReduceScatter | Kind::AlltoAll => slices::plan(task, name, 1),
                _ => tree::plan_by_host(task, name),
            },
            Algorithm::Slices => slices::plan(task, name, u32::MAX),
        }
    }
}
