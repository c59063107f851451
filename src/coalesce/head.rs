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
/// Not of packets: a group of several operations, and one-sided calls.
const GROUP: u64 = 17;
const ONE_SIDED: u64 = 18;
/// Not of packets: what it says is waited for on another communicator.
const ELSEWHERE: u64 = 1 << 63;

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

/// What one-sided calls are called, where no packet is meant.
pub const ONE_SIDED_CALLS: Head = Head { what: ONE_SIDED << SIZE_BITS, which: 0 };

/// What a batch is called, where no packet is meant: a lone operation with its root or peer, or how many of which
/// kind it holds. See [`name`].
#[must_use]
pub fn of_batch(ops: &[Op]) -> Head {
    match ops {
        [op] if op.shape.kind.is_point_to_point() => {
            let what = op.bytes() as u64 & SIZE_MASK | (op.shape.kind as u64) << SIZE_BITS;
            Head { what, which: u64::from(op.shape.peer) << 32 }
        }
        [op] => of_collective(op),
        _ => {
            let count = |which: fn(Kind) -> bool| {
                ops.iter().filter(|op| which(op.shape.kind)).count().min(0xffff) as u64
            };
            let collectives = count(|kind| !kind.is_point_to_point());
            let sends = count(|kind| kind == Kind::Send) << 16;
            let receives = count(|kind| kind == Kind::Recv) << 32;
            Head { what: collectives | sends | receives | GROUP << SIZE_BITS, which: 0 }
        }
    }
}

/// The same, said of another communicator.
#[must_use]
pub const fn elsewhere(head: Head) -> Head {
    Head { what: head.what | ELSEWHERE, which: head.which }
}

/// Whether it is said of another communicator.
#[must_use]
pub const fn is_elsewhere(head: Head) -> bool {
    head.what & ELSEWHERE != 0
}

/// Whether it is the head of packets of a collective.
#[must_use]
pub const fn is_collective(head: Head) -> bool {
    !is_elsewhere(head) && (head.what >> SIZE_BITS) & 31 < Kind::Send as u64
}

/// What a batch, or a collective at hand, is called; heads of messages are those of [`of_batch`], not of packets.
#[must_use]
pub fn name(head: Head) -> String {
    let size = head.what & SIZE_MASK;
    let peer = head.which >> 32;
    match (head.what & !ELSEWHERE) >> SIZE_BITS & 31 {
        8 => format!("Send of {size} bytes to rank {peer}"),
        9 => format!("Recv of {size} bytes from rank {peer}"),
        GROUP => {
            let counts =
                [(size & 0xffff, "collectives"), (size >> 16 & 0xffff, "Send"), (size >> 32, "Recv")];
            let parts = counts.iter().filter(|(count, _)| *count > 0);
            let parts: Vec<String> = parts.map(|(count, what)| format!("{count} {what}")).collect();
            format!("a group of {}", parts.join(" and "))
        }
        ONE_SIDED => "one-sided calls".into(),
        _ => describe(Head { what: head.what & !ELSEWHERE, which: head.which }),
    }
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
    use crate::op::{Address, Manner, Scalar, Shape};

    fn op(kind: Kind, data_type: DataType, count: usize) -> Op {
        Op {
            shape: Shape {
                count,
                peer: 3,
                kind,
                data_type,
                reduction: Reduction::Sum,
                manner: Manner::PLAIN,
            },
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
    fn batches_have_names() {
        let [send, receive, sum] =
            [Kind::Send, Kind::Recv, Kind::AllReduce].map(|kind| op(kind, DataType::Int32, 2));
        assert_eq!(name(of_batch(&[send])), "Send of 8 bytes to rank 3");
        assert_eq!(name(of_batch(&[receive])), "Recv of 8 bytes from rank 3");
        assert_eq!(name(of_batch(&[send, sum, send])), "a group of 1 collectives and 2 Send");
        assert_eq!(name(of_batch(&[receive, receive])), "a group of 2 Recv");
        assert_eq!(name(ONE_SIDED_CALLS), "one-sided calls");
        let alone = of_batch(&[sum]);
        assert_eq!((name(alone), is_collective(alone)), (describe(of_collective(&sum)), true));
        assert_eq!((name(elsewhere(alone)), is_collective(elsewhere(alone))), (name(alone), false));
        assert!(![of_batch(&[send]), of_batch(&[send, sum]), ONE_SIDED_CALLS].into_iter().any(is_collective));
        assert!(is_elsewhere(elsewhere(alone)) && !is_elsewhere(alone));
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
