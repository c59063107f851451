//! The head of a packet: enough to see that two ranks called different things, and to say what both called.
//!
//! ```text
//! what:  bits 0..48 bytes or count | 48..53 operation | 53..57 type | 57..61 operator
//! which: bits 0..32 sequence       | 32..64 root
//! ```
//! For movers the type and the operator are `ANY`: ranks may name different types of equal size. For
//! reductions the low bits are the count, for movers the bytes that the caller's count makes.

use crate::op::{DataType, Head, Kind, Op, Reduction};

const SIZE_BITS: u32 = 48;
const SIZE_MASK: u64 = (1 << SIZE_BITS) - 1;
const ANY: u64 = 15;
const FRAME: u64 = 16;

/// The head of every packet of a collective, but for its sequence.
#[must_use]
pub fn of_collective(op: &Op) -> Head {
    let (size, data_type, reduction) = if op.shape.kind.reduces() {
        (op.shape.count, op.shape.data_type as u64, op.shape.reduction as u64)
    } else {
        (op.bytes(), ANY, ANY)
    };
    let root = if op.shape.kind.has_root() { op.shape.peer } else { 0 };
    Head {
        what: size as u64 & SIZE_MASK | (op.shape.kind as u64) << 48 | data_type << 53 | reduction << 57,
        which: u64::from(root) << 32,
    }
}

/// The head of a point-to-point message, but for its sequence.
#[must_use]
pub const fn of_message(bytes: usize) -> Head {
    Head { what: bytes as u64 & SIZE_MASK | (Kind::Send as u64) << 48 | ANY << 53 | ANY << 57, which: 0 }
}

/// The head of a frame of `count` messages, but for the sequence of its first.
#[must_use]
pub const fn of_frame(count: u32) -> Head {
    Head { what: count as u64 | FRAME << 48, which: 0 }
}

/// The same head, numbered.
#[must_use]
pub const fn numbered(head: Head, sequence: u32) -> Head {
    Head { what: head.what, which: head.which | sequence as u64 }
}

/// How many messages a frame holds, if the head is a frame's.
#[must_use]
pub const fn frame_count(head: Head) -> Option<u32> {
    if head.what >> 48 == FRAME { Some(head.what as u32) } else { None }
}

/// The sequence that the head carries.
#[must_use]
pub const fn sequence(head: Head) -> u32 {
    head.which as u32
}

/// The call behind a head, as a person reads it.
#[must_use]
pub fn describe(head: Head) -> String {
    let size = head.what & SIZE_MASK;
    let number = (head.what >> 48) & 31;
    let sequence = sequence(head);
    if number == FRAME {
        return format!("a frame of {size} point-to-point messages, the first of them number {sequence}");
    }
    let Some(kind) = Kind::ALL.get(number as usize) else {
        return format!("something unknown ({:#x}, {:#x})", head.what, head.which);
    };
    if kind.is_point_to_point() {
        return format!("a point-to-point message of {size} bytes, number {sequence}");
    }
    let root = if kind.has_root() { format!(" with root {}", head.which >> 32) } else { String::new() };
    let what = if kind.reduces() {
        let data_type = DataType::ALL.get((head.what >> 53 & 15) as usize);
        let name = data_type.map_or("unknown", |data_type| data_type.name());
        format!("{size} elements of {name}, operator {}", reduction_name(head.what >> 57 & 15))
    } else {
        format!("{size} bytes")
    };
    format!("{} of {what}{root}, collective number {sequence}", kind.name())
}

fn reduction_name(number: u64) -> &'static str {
    const ALL: [Reduction; 6] = [
        Reduction::Sum,
        Reduction::Prod,
        Reduction::Max,
        Reduction::Min,
        Reduction::Avg,
        Reduction::PreMulSum,
    ];
    ALL.get(number as usize).map_or("unknown", |reduction| reduction.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Address, Scalar, Shape};

    fn op(kind: Kind, data_type: DataType, count: usize) -> Op {
        Op {
            shape: Shape { count, peer: 3, kind, data_type, reduction: Reduction::Sum, in_place: false },
            source: Address(1),
            target: Address(2),
            scalar: Scalar::None,
        }
    }

    #[test]
    fn movers_agree_by_bytes_reductions_by_type() {
        let bytes = of_collective(&op(Kind::AllGather, DataType::Float32, 2));
        assert_eq!(bytes, of_collective(&op(Kind::AllGather, DataType::Int64, 1)));
        let sum = of_collective(&op(Kind::AllReduce, DataType::Float32, 2));
        assert_ne!(sum, of_collective(&op(Kind::AllReduce, DataType::Int32, 2)));
    }

    #[test]
    fn heads_are_told_apart_and_described() {
        let mut seen = std::collections::HashSet::new();
        for kind in &Kind::ALL[..8] {
            let head = numbered(of_collective(&op(*kind, DataType::Uint8, 7)), 9);
            assert!(describe(head).starts_with(kind.name()), "{}", describe(head));
            assert!(describe(head).contains("collective number 9"));
            assert!(frame_count(head).is_none());
            assert!(seen.insert(head.what));
        }
        assert!(describe(numbered(of_message(120), 4)).contains("120 bytes, number 4"));
        assert_eq!(frame_count(of_frame(64)), Some(64));
        assert!(seen.insert(of_message(7).what) && seen.insert(of_frame(7).what));
    }
}
