//! How an element lies in memory, and in which type it is computed.

use super::narrow::{FLOAT8_E4M3, FLOAT8_E5M2, narrow_bfloat16, settle_32, settle_64, widen_bfloat16};
use super::number::Number;
use super::path::Path;

/// An element type of the interface.
///
/// # Safety
/// Of both methods: the processor has the instruction set `P`.
pub(super) trait Format {
    /// As it lies in memory. Any bits are a value.
    type Stored: Copy + Default;
    /// As it is computed.
    type Wide: Number + Default;

    /// Stored values as they are computed, exactly.
    unsafe fn widen<P: Path, const N: usize>(stored: [Self::Stored; N]) -> [Self::Wide; N];

    /// Results as they are stored: rounded once, the one NaN for all.
    unsafe fn narrow<P: Path, const N: usize>(wide: [Self::Wide; N]) -> [Self::Stored; N];
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
    ($($format:ty, $stored:ty, $wide:ty, $widen:expr, $narrow:expr;)*) => { $(
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
        }
    )* };
}
formats! {
    i8, i8, i8, |value| value, |value| value;
    u8, u8, u8, |value| value, |value| value;
    i32, i32, i32, |value| value, |value| value;
    u32, u32, u32, |value| value, |value| value;
    i64, i64, i64, |value| value, |value| value;
    u64, u64, u64, |value| value, |value| value;
    f32, f32, f32, |value| value, settle_32;
    f64, f64, f64, |value| value, settle_64;
    Bfloat16, u16, f32, widen_bfloat16, narrow_bfloat16;
    Float8E4M3, u8, f32, |code| FLOAT8_E4M3.widen(code as u32), |value| FLOAT8_E4M3.narrow(value) as u8;
    Float8E5M2, u8, f32, |code| FLOAT8_E5M2.widen(code as u32), |value| FLOAT8_E5M2.narrow(value) as u8;
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
}
