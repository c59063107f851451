//! Schedules: who sends what to whom, as data.
//!
//! An algorithm is a pure function from ([`Call`], rank) to a [`Plan`]. It writes its steps through a
//! [`Builder`] as one plain sequential program over byte ranges; the builder sorts the steps into lanes
//! (one for what is sent to a peer, one for what comes from it, one for local work) and derives from the
//! ranges what must wait for what. Lanes run side by side, steps within a lane in order: exactly the freedom
//! that leaves the sequential meaning intact.
#![forbid(unsafe_code)]

mod build;
pub mod check;
mod exchange;
mod pairwise;
mod ring;
mod tree;

pub use build::Builder;

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
    /// The next message from `peer`.
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
    /// The messages of the frames.
    pub messages: Vec<Range>,
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
    /// Whether this rank's source lies in its target, as the interface defines in place. Local: it changes
    /// copies, never packets.
    pub in_place: bool,
}

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Everybody sends everything to everybody who needs it, at once.
    Exchange,
    /// Around the ring, a slice each hop.
    Ring,
    /// Along a binomial tree.
    Tree,
    /// Slices straight between owners, one partner after the other.
    Pairwise,
}
