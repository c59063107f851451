//! Schedules: who sends what to whom, as data.
//!
//! An algorithm is a pure function from ([`Call`], rank) to a [`Plan`]. It writes its steps through a
//! [`Builder`] as one plain sequential program over byte ranges; the builder sorts the steps into lanes
//! (one for what is sent to a peer, one for what comes from it, one for local work) and derives from the
//! ranges what must wait for what. Lanes run side by side, steps within a lane in order: exactly the freedom
//! that leaves the sequential meaning intact.
//!
//! # In place
//! Where source and target share memory, the builder writes all their ranges in terms of the larger buffer,
//! so plans name [`SOURCE`] as written only there. Point-to-point plans and AlltoAll have no in place.
//!
//! # What they cost
//! Of n ranks on h hosts with m ranks each, where all of these are powers of two (for the trees of radix 4 and 8
//! n is one of theirs) and there are two hosts at least; p, q and l are the logarithms of n, h and m, k is that
//! of n to the radix. Steps: the longest chain of messages that follow from one another. Messages and bytes: the
//! most that one rank sends, or receives; bytes as multiples of those that the caller's count makes. For data
//! that is not cut into pieces. A test holds this table against real plans.
//!
//! | algorithm | operation | steps | messages | bytes |
//! |---|---|---|---|---|
//! | exchange | AllReduce Reduce Broadcast AllGather ReduceScatter AlltoAll Gather Scatter | 1 | n-1 | n-1 |
//! | two-shot | AllReduce Reduce | 2 | 2(n-1) | 2(n-1)/n |
//! | two-shot | Broadcast | 2 | n-1 | 1 |
//! | ring | AllReduce | 2(n-1) | 2(n-1) | 2(n-1)/n |
//! | ring | Reduce Broadcast | n-1 | 1 | 1 |
//! | ring | AllGather ReduceScatter | n-1 | n-1 | n-1 |
//! | tree | AllReduce | 2p | p | p |
//! | tree | Reduce Broadcast | p | p | p |
//! | tree | AllGather | 2p-1 | 2p-1 | n p-(n-1) |
//! | tree | Gather Scatter | p | p | n-1 |
//! | tree4 | AllReduce | 2k | 3k | 3k |
//! | tree4 | Reduce Broadcast | k | 3k | 3k |
//! | tree4 | Gather Scatter | k | 3k | n-1 |
//! | tree8 | AllReduce | 2k | 7k | 7k |
//! | tree8 | Reduce Broadcast | k | 7k | 7k |
//! | tree8 | AllGather | 2k | 14k-1 | 7k n-(n-1) |
//! | tree8 | Gather Scatter | k | 7k | n-1 |
//! | double-tree | AllReduce | 2p | 4 | 2 |
//! | double-tree | Reduce Broadcast | p | 2 | 1 |
//! | doubling | AllReduce Reduce | p | p | p |
//! | doubling | AllGather | p | p | n-1 |
//! | rabenseifner | AllReduce Reduce | 2p | 2p | 2(n-1)/n |
//! | rabenseifner | ReduceScatter | p | p | n-1 |
//! | bruck | AllReduce | 2p | 3p-1 | 2(n-1)/n |
//! | bruck | Broadcast | 2p-1 | 2p | 2(n-1)/n |
//! | bruck | AllGather ReduceScatter | p | 2p-1 | n-1 |
//! | bruck | AlltoAll | p | p | p n/2 |
//! | pairwise | AllReduce | 2 | 2(n-1) | 2(n-1)/n |
//! | pairwise | AllGather ReduceScatter AlltoAll | 1 | n-1 | n-1 |
//! | pat | AllGather ReduceScatter | p | p | n-1 |
//! | leaders | AllReduce | 2(l+q) | l+q | l+q |
//! | leaders | Reduce Broadcast | l+q | l+q | l+q |
//! | leaders | AllGather | 2(l+q)-1 | 2(l+q)-1 | n(l+q)-(n-1) |
//! | leaders | ReduceScatter | 2+q | m+2q-2 | m(n-1) |
//! | leaders | AlltoAll | 3 | 2(m-1)+h-1 | m-1+(2m-1)(n-m) |
//! | leaders | Gather Scatter | l+q | l+q | n-1 |
//! | slices | AllReduce | 2+2q | 2(m-1)+3q-1 | 2(n-1)/n |
//! | slices | Reduce Broadcast | 2+q | 2(m-1)+q | (2(m-1)+q)/m |
//! | slices | AllGather | 1+q | n-1 | n-1 |
//! | slices | ReduceScatter | 1+q | (m-1)h+2q-1 | n-1 |
//! | slices | AlltoAll | 2 | 2(m-1)+h-1 | (m-1)h+n-m |
#![forbid(unsafe_code)]

mod algorithm;
mod bruck;
mod build;
pub mod check;
mod double_tree;
mod doubling;
mod exchange;
mod group;
mod hosts;
#[cfg(test)]
mod naive;
mod pairwise;
mod pat;
mod rabenseifner;
mod ring;
mod slices;
mod task;
#[cfg(test)]
mod tests;
mod tree;
mod two_shot;

pub use algorithm::Algorithm;
pub use build::{Builder, Mark};
pub use hosts::Hosts;

use task::Task;

use crate::op::{DataType, Kind, Reduction};

/// What is read: the operation's source.
pub const SOURCE: u32 = 0;
/// What is written: the operation's target.
pub const TARGET: u32 = 1;
/// Memory of ours that lives as long as the plan runs.
pub const SCRATCH: u32 = 2;

/// Bytes of one buffer of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// [`SOURCE`], [`TARGET`] or [`SCRATCH`] of a collective; the number of the operation within the batch
    /// for point-to-point messages.
    pub buffer: u32,
    /// Where it starts.
    pub offset: usize,
    /// How long it is.
    pub bytes: usize,
}

impl Range {
    /// The bytes from `offset` on.
    #[must_use]
    pub const fn new(buffer: u32, offset: usize, bytes: usize) -> Range {
        Range { buffer, offset, bytes }
    }

    /// The byte behind its last.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.offset + self.bytes
    }

    /// The same bytes of another buffer.
    #[must_use]
    pub const fn of(self, buffer: u32) -> Range {
        Range { buffer, ..self }
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.buffer == other.buffer
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One packet to `peer`.
    Send {
        /// To whom.
        peer: u32,
        /// What.
        from: Range,
    },
    /// Several messages to `peer` in one packet: `count` entries of [`Plan::messages`] from `first` on.
    SendFrame {
        /// To whom.
        peer: u32,
        /// The first of its messages.
        first: u32,
        /// How many.
        count: u32,
        /// Of how many bytes, with the frame's own.
        bytes: usize,
    },
    /// The next messages from `peer`, in whatever packets they come: `count` entries of [`Plan::messages`] from
    /// `first` on.
    RecvMessages {
        /// From whom.
        peer: u32,
        /// The first of them.
        first: u32,
        /// How many.
        count: u32,
    },
    /// The next packet from `peer`.
    Recv {
        /// From whom.
        peer: u32,
        /// Where to.
        into: Range,
    },
    /// The next packet from `peer`, combined with `with` on the way: `into = incoming + with` if
    /// `incoming_first`, else `into = with + incoming`. `with` and `into` are the same range or disjoint.
    RecvReduce {
        /// From whom.
        peer: u32,
        /// What it is combined with.
        with: Range,
        /// Where to.
        into: Range,
        /// Which of the two is the left operand (the order decides the bits of a NaN, nothing else).
        incoming_first: bool,
    },
    /// Local copy.
    Copy {
        /// What.
        from: Range,
        /// Where to.
        into: Range,
    },
    /// `into = left + right`; `into` may be either.
    Reduce {
        /// Left operand.
        left: Range,
        /// Right operand.
        right: Range,
        /// Where to.
        into: Range,
    },
    /// `into = from * scalar`, rounded: before a PreMulSum, or an Avg of floats (by 1/n). May be in place.
    Scale {
        /// What.
        from: Range,
        /// Where to.
        into: Range,
    },
    /// `range = range / n`, rounded towards zero: after an Avg of integers.
    Divide {
        /// What.
        range: Range,
    },
}

/// That the step at `index` of the plan, which lies in `lane`, is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In which lane.
    pub lane: u32,
    /// Which step, counted within the lane.
    pub index: u32,
}

/// One step, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// First entry of [`Plan::waits`].
    pub first_wait: u32,
    /// How many entries.
    pub wait_count: u32,
}

/// Steps that run in order; see [`Plan::lanes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The first step.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// One rank's part of one operation, or of the point-to-point messages of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All steps, lane by lane.
    pub steps: Vec<Step>,
    /// Which steps belong together. Lanes are independent but for `waits`.
    pub lanes: Vec<Lane>,
    /// What steps wait for.
    pub waits: Vec<Wait>,
    /// The messages of frames and of receives.
    pub messages: Vec<Range>,
    /// The lengths of `messages`, as a frame carries them.
    pub lengths: Vec<u8>,
    /// How much [`SCRATCH`] it needs.
    pub scratch_bytes: usize,
    /// The algorithm that wrote it.
    pub algorithm: &'static str,
}

/// A collective as every rank knows it: the part of a call that decides who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Which operation; a collective.
    pub kind: Kind,
    /// Of which elements.
    pub data_type: DataType,
    /// How they are combined.
    pub reduction: Reduction,
    /// The root, where there is one.
    pub root: u32,
    /// The count as the caller gave it.
    pub count: usize,
    /// How many ranks.
    pub ranks: u32,
    /// Whether this rank's source lies in its target, as the interface defines in place (or its target in
    /// its source, for ReduceScatter and Scatter). Without meaning for AlltoAll and where the rank has only
    /// one of the two. Local: it changes copies, never packets.
    pub in_place: bool,
}

impl Call {
    /// `count` in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.count * self.data_type.size_bytes()
    }

    /// Whether every rank's data is multiplied before it is combined.
    #[must_use]
    pub const fn scales(&self) -> bool {
        match self.reduction {
            Reduction::PreMulSum => self.kind.reduces(),
            Reduction::Avg => self.kind.reduces() && self.data_type.is_float(),
            _ => false,
        }
    }

    /// Whether every result is divided by the number of ranks.
    #[must_use]
    pub const fn divides(&self) -> bool {
        matches!(self.reduction, Reduction::Avg) && self.kind.reduces() && !self.data_type.is_float()
    }

    /// Whether it can be planned for `rank`: a collective, of ranks and bytes that exist.
    #[must_use]
    pub fn is_sound(&self, rank: u32) -> bool {
        let bytes = self.count.checked_mul(self.data_type.size_bytes());
        let total = bytes.and_then(|bytes| bytes.checked_mul(self.ranks as usize));
        !self.kind.is_point_to_point()
            && rank < self.ranks
            && (self.root < self.ranks || !self.kind.has_root())
            && total.is_some_and(|total| total < isize::MAX as usize)
    }
}

/// The most bytes of one piece of a large message. First guess, to be measured: half of what a core's second
/// cache usually holds, so that a piece that was just received is reduced and passed on from there.
pub const PIECE_BYTES: usize = 256 << 10;

/// What `rank` does for `call` under `algorithm`, on `hosts`. `None` where the algorithm has no form for the
/// operation, or the call names ranks or bytes that cannot exist.
#[must_use]
pub fn plan(algorithm: Algorithm, call: &Call, rank: u32, hosts: &Hosts) -> Option<Plan> {
    plan_in_pieces(algorithm, call, rank, hosts, PIECE_BYTES)
}

/// [`plan`] with large messages cut into pieces of at most `piece_bytes`, the same number on every rank.
#[must_use]
pub fn plan_in_pieces(
    algorithm: Algorithm,
    call: &Call,
    rank: u32,
    hosts: &Hosts,
    piece_bytes: usize,
) -> Option<Plan> {
    if !call.is_sound(rank) || !algorithm.serves(call.kind) || !hosts.fits(call.ranks) {
        return None;
    }
    let task = Task::new(call, rank, hosts, piece_bytes);
    if call.ranks == 1 { Some(task.alone()) } else { algorithm.plan(&task) }
}
