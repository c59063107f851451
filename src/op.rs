//! The shared words: what a caller can ask for, in types that every module understands.
//!
//! An [`Op`] is one call. Nothing here knows C, memory or peers.
#![forbid(unsafe_code)]

/// A place in the caller's memory. Only `device` and the transports turn it into a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Address(pub usize);

impl Address {
    /// No memory at all; legal where nothing is read or written.
    pub const NULL: Address = Address(0);

    /// The place `bytes` further on.
    #[must_use]
    pub const fn add(self, bytes: usize) -> Address {
        Address(self.0.wrapping_add(bytes))
    }

    /// Whether this names no memory.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

/// What a packet between two ranks says of itself. Transports carry it and do not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// What the packet is.
    pub what: u64,
    /// Which one of its kind.
    pub which: u64,
}

/// An operation of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Everyone gets the reduction of everyone's data.
    AllReduce = 0,
    /// The root gets the reduction of everyone's data.
    Reduce = 1,
    /// Everyone gets the root's data.
    Broadcast = 2,
    /// Everyone gets everyone's data, by rank.
    AllGather = 3,
    /// Each rank gets its slice of the reduction.
    ReduceScatter = 4,
    /// Each rank sends slice `i` to rank `i`.
    AlltoAll = 5,
    /// The root gets everyone's data, by rank.
    Gather = 6,
    /// Each rank gets its slice of the root's data.
    Scatter = 7,
    /// One message to a peer.
    Send = 8,
    /// One message from a peer.
    Recv = 9,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 10] = [
        Kind::AllReduce,
        Kind::Reduce,
        Kind::Broadcast,
        Kind::AllGather,
        Kind::ReduceScatter,
        Kind::AlltoAll,
        Kind::Gather,
        Kind::Scatter,
        Kind::Send,
        Kind::Recv,
    ];

    /// The name as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::AllReduce => "AllReduce",
            Kind::Reduce => "Reduce",
            Kind::Broadcast => "Broadcast",
            Kind::AllGather => "AllGather",
            Kind::ReduceScatter => "ReduceScatter",
            Kind::AlltoAll => "AlltoAll",
            Kind::Gather => "Gather",
            Kind::Scatter => "Scatter",
            Kind::Send => "Send",
            Kind::Recv => "Recv",
        }
    }

    /// Send and Recv; the rest are collectives.
    #[must_use]
    pub const fn is_point_to_point(self) -> bool {
        matches!(self, Kind::Send | Kind::Recv)
    }

    /// Whether values are combined, so that type and operator matter and not bytes alone.
    #[must_use]
    pub const fn reduces(self) -> bool {
        matches!(self, Kind::AllReduce | Kind::Reduce | Kind::ReduceScatter)
    }

    /// Whether `Op::peer` names a root.
    #[must_use]
    pub const fn has_root(self) -> bool {
        matches!(self, Kind::Reduce | Kind::Broadcast | Kind::Gather | Kind::Scatter)
    }
}

/// An element type; the numbers are the interface's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// Signed, 8 bits.
    Int8 = 0,
    /// Unsigned, 8 bits.
    Uint8 = 1,
    /// Signed, 32 bits.
    Int32 = 2,
    /// Unsigned, 32 bits.
    Uint32 = 3,
    /// Signed, 64 bits.
    Int64 = 4,
    /// Unsigned, 64 bits.
    Uint64 = 5,
    /// IEEE half precision.
    Float16 = 6,
    /// IEEE single precision.
    Float32 = 7,
    /// IEEE double precision.
    Float64 = 8,
    /// The upper half of a single.
    Bfloat16 = 9,
    /// 4 bits of exponent, 3 of mantissa, no infinities.
    Float8E4M3 = 10,
    /// 5 bits of exponent, 2 of mantissa.
    Float8E5M2 = 11,
}

impl DataType {
    /// Every type, in the order of their numbers.
    pub const ALL: [DataType; 12] = [
        DataType::Int8,
        DataType::Uint8,
        DataType::Int32,
        DataType::Uint32,
        DataType::Int64,
        DataType::Uint64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Bfloat16,
        DataType::Float8E4M3,
        DataType::Float8E5M2,
    ];

    /// The size of one element.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            DataType::Int8 | DataType::Uint8 | DataType::Float8E4M3 | DataType::Float8E5M2 => 1,
            DataType::Float16 | DataType::Bfloat16 => 2,
            DataType::Int32 | DataType::Uint32 | DataType::Float32 => 4,
            DataType::Int64 | DataType::Uint64 | DataType::Float64 => 8,
        }
    }

    /// Whether the type rounds.
    #[must_use]
    pub const fn is_float(self) -> bool {
        !matches!(
            self,
            DataType::Int8
                | DataType::Uint8
                | DataType::Int32
                | DataType::Uint32
                | DataType::Int64
                | DataType::Uint64
        )
    }

    /// The name as nccl-tests writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Int8 => "int8",
            DataType::Uint8 => "uint8",
            DataType::Int32 => "int32",
            DataType::Uint32 => "uint32",
            DataType::Int64 => "int64",
            DataType::Uint64 => "uint64",
            DataType::Float16 => "half",
            DataType::Float32 => "float",
            DataType::Float64 => "double",
            DataType::Bfloat16 => "bfloat16",
            DataType::Float8E4M3 => "f8e4m3",
            DataType::Float8E5M2 => "f8e5m2",
        }
    }
}

/// What a reduction does, as all ranks must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reduction {
    /// The sum.
    Sum = 0,
    /// The product.
    Prod = 1,
    /// The largest.
    Max = 2,
    /// The smallest.
    Min = 3,
    /// The mean: floats are multiplied by 1/n, rounded and summed; integers are summed and divided.
    Avg = 4,
    /// The sum of every rank's data times that rank's own scalar.
    PreMulSum = 5,
}

impl Reduction {
    /// Those that every program has, by their numbers.
    pub const BUILT_IN: [Reduction; 5] =
        [Reduction::Sum, Reduction::Prod, Reduction::Max, Reduction::Min, Reduction::Avg];

    /// The name as nccl-tests writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "sum",
            Reduction::Prod => "prod",
            Reduction::Max => "max",
            Reduction::Min => "min",
            Reduction::Avg => "avg",
            Reduction::PreMulSum => "mulsum",
        }
    }

    /// How two values become one.
    #[must_use]
    pub const fn combine(self) -> Combine {
        match self {
            Reduction::Sum | Reduction::Avg | Reduction::PreMulSum => Combine::Sum,
            Reduction::Prod => Combine::Prod,
            Reduction::Max => Combine::Max,
            Reduction::Min => Combine::Min,
        }
    }
}

/// How two values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Combine {
    /// `left + right`
    Sum,
    /// `left * right`
    Prod,
    /// the larger
    Max,
    /// the smaller
    Min,
}

/// The scalar of a PreMulSum, in the operation's own type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scalar {
    /// There is none.
    #[default]
    None,
    /// Its bytes, little end first, known when the operator was made.
    Immediate([u8; 8]),
    /// Where it lies; read when the operation runs.
    At(Address),
}

/// Which algorithm a call wants: 0 leaves it to the table, else one more than its place in `schedule`'s list.
/// Equal on every rank, as the interface demands of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Wish(pub u8);

impl Wish {
    /// The table chooses.
    pub const NONE: Wish = Wish(0);
}

/// What a plan depends on beside the call itself: whether the source lies in the target (or the target in the
/// source) where the interface says in place, the caller's [`Wish`], and whether it wants to be alone. One byte, so
/// that a shape stays two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Manner(u8);

impl Manner {
    /// Not in place, and no wish.
    pub const PLAIN: Manner = Manner(0);

    /// Whether it is in place.
    #[must_use]
    #[inline]
    pub const fn in_place(self) -> bool {
        self.0 & 1 == 1
    }

    /// The algorithm that the caller wants.
    #[must_use]
    pub const fn wish(self) -> Wish {
        Wish((self.0 & !Manner::ALONE) >> 1)
    }

    /// Whether it is not to share anything with others of its group.
    #[must_use]
    pub const fn is_alone(self) -> bool {
        self.0 & Manner::ALONE != 0
    }

    const ALONE: u8 = 1 << 7;
}

/// What of a call decides its plan: everything but the addresses and the scalar. Two words, so that a batch is
/// compared with a known one in passing.
#[derive(Clone, Copy, Debug, Hash)]
#[repr(C)]
#[allow(clippy::derived_hash_with_manual_eq, reason = "equal field by field either way")]
pub struct Shape {
    /// The count as the caller gave it: per rank for all but AllReduce, Reduce and Broadcast.
    pub count: usize,
    /// The root or the peer; 0 where there is none.
    pub peer: u32,
    /// Which operation.
    pub kind: Kind,
    /// Of which elements.
    pub data_type: DataType,
    /// How they are combined; `Sum` where nothing is.
    pub reduction: Reduction,
    /// In place or not, and by which algorithm.
    pub manner: Manner,
}

const _: () = assert!(size_of::<Shape>() == 16);

impl PartialEq for Shape {
    #[inline]
    fn eq(&self, other: &Shape) -> bool {
        self.count == other.count && self.small() == other.small()
    }
}

impl Eq for Shape {}

/// One call, checked, on one communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What is called.
    pub shape: Shape,
    /// What is read.
    pub source: Address,
    /// What is written.
    pub target: Address,
    /// The scalar of a PreMulSum.
    pub scalar: Scalar,
}

impl Shape {
    /// All but the count, in one word, as it lies in memory.
    #[must_use]
    #[inline]
    pub const fn small(&self) -> u64 {
        self.peer as u64
            | (self.kind as u64) << 32
            | (self.data_type as u64) << 40
            | (self.reduction as u64) << 48
            | (self.manner.0 as u64) << 56
    }

    /// `count` in bytes.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.count * self.data_type.size_bytes()
    }

    /// The same call by `rank` with its memory at these places, which may make it one in place.
    #[must_use]
    #[inline]
    pub const fn at(self, source: Address, target: Address, rank: u32) -> Shape {
        let slice = self.bytes().wrapping_mul(rank as usize);
        let in_place = match self.kind {
            Kind::AllReduce | Kind::Reduce | Kind::Broadcast => source.0 == target.0,
            Kind::AllGather => source.0 == target.add(slice).0,
            Kind::ReduceScatter => target.0 == source.add(slice).0,
            Kind::Gather => rank == self.peer && source.0 == target.add(slice).0,
            Kind::Scatter => rank == self.peer && target.0 == source.add(slice).0,
            Kind::AlltoAll | Kind::Send | Kind::Recv => false,
        };
        Shape { manner: Manner(self.manner.0 & !1 | in_place as u8), ..self }
    }

    /// The same call with a wish.
    #[must_use]
    pub const fn wishing(self, wish: Wish) -> Shape {
        Shape { manner: Manner(wish.0 << 1 | self.manner.0 & (1 | Manner::ALONE)), ..self }
    }

    /// The same call, alone.
    #[must_use]
    pub const fn alone(self) -> Shape {
        Shape { manner: Manner(self.manner.0 | Manner::ALONE), ..self }
    }
}

impl Op {
    /// The count in bytes.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.shape.bytes()
    }
}
