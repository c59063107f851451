//! What the operators mean for one pair of values that are computed as they lie.
#![forbid(unsafe_code)]

/// A type that arithmetic is done in. The results of floats may be any NaN where they are a NaN; the store
/// settles which.
pub(super) trait Number: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
}

/// The order of the floats that are computed as they lie.
pub(super) trait Order: Copy {
    /// The larger, a number rather than a NaN, +0 rather than -0.
    fn larger(self, other: Self) -> Self;
    /// The smaller, a number rather than a NaN, -0 rather than +0.
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
        }

        impl Order for $float {
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                // Each is the larger, and where there is none the second of its own comparison.
                let forth = if self > other { self } else { other };
                let back = if other > self { other } else { self };
                // They differ for zeros of two signs, of which `and` keeps +0, and where there is a NaN.
                let number = Self::from_bits(forth.to_bits() & back.to_bits());
                let number = if other.is_nan() { back } else { number };
                if self.is_nan() { forth } else { number }
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                let forth = if self < other { self } else { other };
                let back = if other < self { other } else { self };
                // As above, but `or` keeps -0.
                let number = Self::from_bits(forth.to_bits() | back.to_bits());
                let number = if other.is_nan() { back } else { number };
                if self.is_nan() { forth } else { number }
            }
        }
    )* };
}
floats!(f32 f64);
