//! What the four operators mean for one pair of values.
#![forbid(unsafe_code)]

/// A type that arithmetic is done in. The results of floats may be any NaN where they are a NaN; the store
/// settles which.
pub(super) trait Number: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
}

macro_rules! integers {
    ($($integer:ty)*) => { $(
        impl Number for $integer {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
        }
    )* };
}
integers!(i8 u8 i32 u32 i64 u64);

macro_rules! floats {
    ($($float:ty)*) => { $(
        impl Number for $float {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self * other
            }
            // Equal values differ in their bits only as zeros do: and keeps +0, or keeps -0.
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                let chosen = if self > other || other.is_nan() { self } else { other };
                if self == other { Self::from_bits(self.to_bits() & other.to_bits()) } else { chosen }
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                let chosen = if self < other || other.is_nan() { self } else { other };
                if self == other { Self::from_bits(self.to_bits() | other.to_bits()) } else { chosen }
            }
        }
    )* };
}
floats!(f32 f64);

/// How two values become one, as a type, so that every loop is compiled for one operator.
pub(super) trait Operator {
    fn apply<N: Number>(left: N, right: N) -> N;
}

pub(super) struct Sum;
pub(super) struct Product;
pub(super) struct Larger;
pub(super) struct Smaller;

impl Operator for Sum {
    #[inline(always)]
    fn apply<N: Number>(left: N, right: N) -> N {
        left.sum(right)
    }
}
impl Operator for Product {
    #[inline(always)]
    fn apply<N: Number>(left: N, right: N) -> N {
        left.product(right)
    }
}
impl Operator for Larger {
    #[inline(always)]
    fn apply<N: Number>(left: N, right: N) -> N {
        left.larger(right)
    }
}
impl Operator for Smaller {
    #[inline(always)]
    fn apply<N: Number>(left: N, right: N) -> N {
        left.smaller(right)
    }
}
