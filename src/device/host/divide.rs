//! Integers divided by one number, rounded towards zero: the last step of an integer average.
//!
//! A division by a number that stays the same is a multiplication by its reciprocal, in twice the bits:
//! with `c = 2^2b / n`, rounded up, `x * c / 2^2b`, rounded down, is `x / n` for all `x` and `n` of `b` bits.
//! (`c` exceeds the true quotient by less than 1, so the product by less than `x / 2^2b < 2^-b <= 1/n`, and
//! the fraction of `x / n` is at most `1 - 1/n`.)

use crate::op::DataType;

/// `range = range / divisor`.
///
/// # Safety
/// `range` is readable and writable for `count` elements of `data_type`, which is an integer type.
pub(super) unsafe fn divide(data_type: DataType, divisor: u32, range: *mut u8, count: usize) {
    if divisor <= 1 {
        return;
    }
    let (byte, word) = (Reciprocal8::new(divisor), Reciprocal32::new(divisor));
    let (signed, unsigned) = (i64::from(divisor), u64::from(divisor));
    // SAFETY: the caller's promise, each arm with the type's own size.
    unsafe {
        match data_type {
            DataType::Int8 => each(range, count, |value: i8| {
                let magnitude = byte.quotient(value.unsigned_abs()) as i8;
                if value < 0 { -magnitude } else { magnitude }
            }),
            DataType::Uint8 => each(range, count, |value: u8| byte.quotient(value)),
            DataType::Int32 => each(range, count, |value: i32| {
                let magnitude = word.quotient(value.unsigned_abs()) as i32;
                if value < 0 { -magnitude } else { magnitude }
            }),
            DataType::Uint32 => each(range, count, |value: u32| word.quotient(value)),
            // The divisor is at least 2, so no quotient overflows.
            DataType::Int64 => each(range, count, |value: i64| value / signed),
            DataType::Uint64 => each(range, count, |value: u64| value / unsigned),
            DataType::Float16
            | DataType::Float32
            | DataType::Float64
            | DataType::Bfloat16
            | DataType::Float8E4M3
            | DataType::Float8E5M2 => debug_assert!(false, "floats are averaged by their reciprocal"),
        }
    }
}

/// # Safety
/// `range` is readable and writable for `count` elements, any bits of which are a value.
#[inline(always)]
unsafe fn each<T: Copy>(range: *mut u8, count: usize, quotient: impl Fn(T) -> T) {
    let range = range.cast::<T>();
    for at in 0..count {
        // SAFETY: `at` is below `count`; neither access needs alignment.
        unsafe { range.add(at).write_unaligned(quotient(range.add(at).read_unaligned())) };
    }
}

/// Of a divisor from 2, for dividends of 8 bits. A larger divisor leaves nothing of them: 0.
#[derive(Clone, Copy)]
struct Reciprocal8(u16);

impl Reciprocal8 {
    fn new(divisor: u32) -> Reciprocal8 {
        Reciprocal8(if divisor > 255 { 0 } else { (1u32 << 16).div_ceil(divisor) as u16 })
    }

    #[inline(always)]
    fn quotient(self, dividend: u8) -> u8 {
        ((u32::from(dividend) * u32::from(self.0)) >> 16) as u8
    }
}

/// Of a divisor from 2, for dividends of 32 bits.
#[derive(Clone, Copy)]
struct Reciprocal32(u64);

impl Reciprocal32 {
    fn new(divisor: u32) -> Reciprocal32 {
        Reciprocal32((1u128 << 64).div_ceil(u128::from(divisor)) as u64)
    }

    #[inline(always)]
    fn quotient(self, dividend: u32) -> u32 {
        ((u128::from(dividend) * u128::from(self.0)) >> 64) as u32
    }
}
