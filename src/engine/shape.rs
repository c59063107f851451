//! What of a batch decides its plan: everything but the addresses and the scalars.
#![forbid(unsafe_code)]

use crate::op::{DataType, Kind, Op, Reduction};

/// The part of a call that its plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) count: usize,
    pub(super) peer: u32,
    pub(super) kind: Kind,
    pub(super) data_type: DataType,
    pub(super) reduction: Reduction,
    /// The caller's algorithm, and whether it is in place: the shape stays two words, which are compared at
    /// every call.
    wish_and_place: u8,
}

impl Shape {
    /// The shape of `op` on `rank`.
    #[inline]
    pub(super) fn of(op: &Op, rank: u32) -> Shape {
        Shape {
            count: op.count,
            peer: op.peer,
            kind: op.kind,
            data_type: op.data_type,
            reduction: op.reduction,
            wish_and_place: op.wish.0 << 1 | u8::from(is_in_place(op, rank)),
        }
    }

    pub(super) fn in_place(&self) -> bool {
        self.wish_and_place & 1 == 1
    }

    /// A number that differs for nearly all different shapes.
    #[inline]
    pub(super) fn mix(&self, before: u64) -> u64 {
        let small = u64::from(self.peer) << 32
            | (self.kind as u64) << 24
            | (self.data_type as u64) << 16
            | (self.reduction as u64) << 8
            | u64::from(self.wish_and_place);
        let mixed = (before ^ small).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        (mixed ^ self.count as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

/// Whether the source lies in the target (or the target in the source) where the interface says in place.
#[inline]
fn is_in_place(op: &Op, rank: u32) -> bool {
    let slice = |of: u32| op.bytes().wrapping_mul(of as usize);
    match op.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => op.source == op.target,
        Kind::AllGather => op.source == op.target.add(slice(rank)),
        Kind::ReduceScatter => op.target == op.source.add(slice(rank)),
        Kind::Gather => rank == op.peer && op.source == op.target.add(slice(op.peer)),
        Kind::Scatter => rank == op.peer && op.target == op.source.add(slice(op.peer)),
        Kind::AlltoAll | Kind::Send | Kind::Recv => false,
    }
}
