//! How an element lies in memory, and in which type it is computed.

use super::narrow::{
    BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, narrow_bfloat16, settle_32, settle_64, widen_bfloat16,
};
use super::number::{Number, Order};
use super::path::Path;

/// An element type of the interface.
///
/// # Safety
/// Of the unsafe methods: the processor has the instruction set `P`.
pub(super) trait Format {
    /// As it lies in memory. Any bits are a value.
    type Stored: Copy + Default;
    /// As it is computed.
    type Wide: Number + Default;

    /// Stored values as they are computed, exactly.
    unsafe fn widen<P: Path, const N: usize>(stored: [Self::Stored; N]) -> [Self::Wide; N];

    /// Results as they are stored: rounded once, the one NaN for all.
    unsafe fn narrow<P: Path, const N: usize>(wide: [Self::Wide; N]) -> [Self::Stored; N];

    /// The larger of two stored values, as it is stored.
    fn larger(left: Self::Stored, right: Self::Stored) -> Self::Stored;

    /// The smaller of two stored values, as it is stored.
    fn smaller(left: Self::Stored, right: Self::Stored) -> Self::Stored;
}

/// How two elements become one, as a type, so that every loop is compiled for one operator.
pub(super) trait Operator {
    /// # Safety
    /// The processor has the instruction set `P`.
    unsafe fn apply<F: Format, P: Path, const N: usize>(
        left: [F::Stored; N],
        right: [F::Stored; N],
    ) -> [F::Stored; N];
}

pub(super) struct Sum;
pub(super) struct Product;
pub(super) struct Larger;
pub(super) struct Smaller;

/// By arithmetic: widened, computed, rounded.
macro_rules! computing {
    ($($operator:ty, $compute:ident;)*) => { $(
        impl Operator for $operator {
            #[inline(always)]
            unsafe fn apply<F: Format, P: Path, const N: usize>(
                left: [F::Stored; N],
                right: [F::Stored; N],
            ) -> [F::Stored; N] {
                // SAFETY: the caller's promise that the processor has the instruction set.
                unsafe {
                    let (left, right) = (F::widen::<P, N>(left), F::widen::<P, N>(right));
                    F::narrow::<P, N>(pairwise(left, right, F::Wide::$compute))
                }
            }
        }
    )* };
}
computing! {
    Sum, sum;
    Product, product;
}

/// By order: one of the two as they lie.
macro_rules! choosing {
    ($($operator:ty, $choose:ident;)*) => { $(
        impl Operator for $operator {
            #[inline(always)]
            unsafe fn apply<F: Format, P: Path, const N: usize>(
                left: [F::Stored; N],
                right: [F::Stored; N],
            ) -> [F::Stored; N] {
                pairwise(left, right, F::$choose)
            }
        }
    )* };
}
choosing! {
    Larger, larger;
    Smaller, smaller;
}

/// `combine` at every place.
#[inline(always)]
fn pairwise<A: Copy, const N: usize>(mut left: [A; N], right: [A; N], combine: impl Fn(A, A) -> A) -> [A; N] {
    for (left, right) in left.iter_mut().zip(right) {
        *left = combine(*left, right);
    }
    left
}

/// IEEE half precision.
pub(super) struct Float16;
/// The upper half of a single.
pub(super) struct Bfloat16;
/// 4 bits of exponent, 3 of mantissa.
pub(super) struct Float8E4M3;
/// 5 bits of exponent, 2 of mantissa.
pub(super) struct Float8E5M2;

/// `map` at every place; unlike `array::map` it is always inlined.
#[inline(always)]
fn each<A: Copy, B: Copy + Default, const N: usize>(from: [A; N], map: impl Fn(A) -> B) -> [B; N] {
    let mut into = [B::default(); N];
    for (into, from) in into.iter_mut().zip(from) {
        *into = map(from);
    }
    into
}

macro_rules! formats {
    ($($format:ty, $stored:ty, $wide:ty, $widen:expr, $narrow:expr, $larger:expr, $smaller:expr;)*) => { $(
        impl Format for $format {
            type Stored = $stored;
            type Wide = $wide;
            #[inline(always)]
            unsafe fn widen<P: Path, const N: usize>(stored: [$stored; N]) -> [$wide; N] {
                each(stored, $widen)
            }
            #[inline(always)]
            unsafe fn narrow<P: Path, const N: usize>(wide: [$wide; N]) -> [$stored; N] {
                each(wide, $narrow)
            }
            #[inline(always)]
            fn larger(left: $stored, right: $stored) -> $stored {
                $larger(left, right)
            }
            #[inline(always)]
            fn smaller(left: $stored, right: $stored) -> $stored {
                $smaller(left, right)
            }
        }
    )* };
}
formats! {
    i8, i8, i8, |value| value, |value| value, Ord::max, Ord::min;
    u8, u8, u8, |value| value, |value| value, Ord::max, Ord::min;
    i32, i32, i32, |value| value, |value| value, Ord::max, Ord::min;
    u32, u32, u32, |value| value, |value| value, Ord::max, Ord::min;
    i64, i64, i64, |value| value, |value| value, Ord::max, Ord::min;
    u64, u64, u64, |value| value, |value| value, Ord::max, Ord::min;
    f32, f32, f32, |value| value, settle_32,
        |left: f32, right| settle_32(left.larger(right)), |left: f32, right| settle_32(left.smaller(right));
    f64, f64, f64, |value| value, settle_64,
        |left: f64, right| settle_64(left.larger(right)), |left: f64, right| settle_64(left.smaller(right));
    Bfloat16, u16, f32, widen_bfloat16, narrow_bfloat16,
        |left, right| BFLOAT16.larger_16(left, right), |left, right| BFLOAT16.smaller_16(left, right);
    Float8E4M3, u8, f32, |code| FLOAT8_E4M3.widen(u32::from(code)), |value| FLOAT8_E4M3.narrow(value) as u8,
        |left, right| FLOAT8_E4M3.larger_8(left, right), |left, right| FLOAT8_E4M3.smaller_8(left, right);
    Float8E5M2, u8, f32, |code| FLOAT8_E5M2.widen(u32::from(code)), |value| FLOAT8_E5M2.narrow(value) as u8,
        |left, right| FLOAT8_E5M2.larger_8(left, right), |left, right| FLOAT8_E5M2.smaller_8(left, right);
}

impl Format for Float16 {
    type Stored = u16;
    type Wide = f32;

    #[inline(always)]
    unsafe fn widen<P: Path, const N: usize>(stored: [u16; N]) -> [f32; N] {
        let mut wide = [0.0; N];
        // SAFETY: the caller's promise that the processor has the instruction set.
        unsafe { P::widen_half(&stored, &mut wide) };
        wide
    }

    #[inline(always)]
    unsafe fn narrow<P: Path, const N: usize>(wide: [f32; N]) -> [u16; N] {
        let mut stored = [0; N];
        // SAFETY: the caller's promise that the processor has the instruction set.
        unsafe { P::narrow_half(&wide, &mut stored) };
        stored
    }

    #[inline(always)]
    fn larger(left: u16, right: u16) -> u16 {
        FLOAT16.larger_16(left, right)
    }

    #[inline(always)]
    fn smaller(left: u16, right: u16) -> u16 {
        FLOAT16.smaller_16(left, right)
    }
}
