//! Ordinary memory, worked on by the calling thread.
//!
//! # What the numbers are
//! The bits of a result depend on the operands alone: not on the processor, the alignment, or where in a
//! range the elements lie.
//!
//! | type | sum, product | largest, smallest |
//! |---|---|---|
//! | integers | wrap | as integers |
//! | float, double | rounded once in the type | see below |
//! | half, bfloat16 | computed in single precision, rounded once to nearest even; what is too large becomes infinity | exact |
//! | f8e4m3, f8e5m2 | likewise; what is too large becomes the largest finite value, 448 or 57344 | exact, see below |
//!
//! - The largest and the smallest are those of numbers: of a number and a NaN it is the number. -0 is less
//!   than +0.
//! - Every NaN that is stored is the same: all bits but the sign. The payloads and signs of operands would
//!   otherwise show which one the processor happened to take.
//! - f8e5m2 can be read as an infinity, but none is ever stored: as in NCCL every result, of the largest and
//!   the smallest too, passes through a conversion that ends at 57344.
//! - Single precision has more than twice the bits of the narrower types and two more, so rounding to it and
//!   then to the type is rounding once. NCCL computes fp8 in half precision, for which the same holds: pair
//!   by pair its results are these.
//! - A multiplier is a value of the type. 1/n for an average is rounded from double to single and then to the
//!   type, as NCCL rounds it. Integers multiply modulo their size.
//! - An integer average divides the wrapped sum, rounding towards zero.
//!
//! Subnormal numbers are numbers, unless the program has told the processor to flush them to zero.

mod copy;
mod divide;
mod format;
mod kernels;
mod narrow;
mod number;
mod path;
#[cfg(test)]
mod tests;

use self::kernels::Kernels;
use super::{Device, Multiplier};
use crate::op::{Address, Combine, DataType};

/// The calling thread, with the widest instructions that its processor has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host;

impl Device for Host {
    #[inline]
    unsafe fn copy(&self, from: Address, into: Address, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { copy::copy(from.0 as *const u8, into.0 as *mut u8, bytes) }
    }

    /// Best where `into` is a multiple of 64. What is written is visible like any other store.
    unsafe fn copy_streaming(&self, from: Address, into: Address, bytes: usize) {
        // SAFETY: the caller's promise; `best` is what the processor has.
        unsafe { copy::copy_streaming(Kernels::best(), from.0 as *const u8, into.0 as *mut u8, bytes) }
    }

    #[inline]
    unsafe fn reduce(
        &self,
        combine: Combine,
        data_type: DataType,
        left: Address,
        right: Address,
        into: Address,
        count: usize,
    ) {
        let reduce = Kernels::best().reduce(combine, data_type);
        // SAFETY: the caller's promise; `best` is what the processor has.
        unsafe { reduce(left.0 as *const u8, right.0 as *const u8, into.0 as *mut u8, count) }
    }

    #[inline]
    unsafe fn scale(
        &self,
        data_type: DataType,
        multiplier: Multiplier,
        from: Address,
        into: Address,
        count: usize,
    ) {
        let scale = Kernels::best().scale(data_type);
        // SAFETY: the caller's promise; `best` is what the processor has.
        unsafe { scale(multiplier, from.0 as *const u8, into.0 as *mut u8, count) }
    }

    unsafe fn divide(&self, data_type: DataType, divisor: u32, range: Address, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { divide::divide(data_type, divisor, range.0 as *mut u8, count) }
    }

    fn reciprocal(&self, data_type: DataType, n: u32) -> Multiplier {
        let double = 1.0 / f64::from(n);
        let single = double as f32;
        let mut multiplier = Multiplier::default();
        let mut put = |bytes: &[u8]| multiplier[..bytes.len()].copy_from_slice(bytes);
        match data_type {
            DataType::Float64 => put(&double.to_ne_bytes()),
            DataType::Float32 => put(&single.to_ne_bytes()),
            DataType::Float16 => put(&(narrow::FLOAT16.narrow(single) as u16).to_ne_bytes()),
            DataType::Bfloat16 => put(&narrow::narrow_bfloat16(single).to_ne_bytes()),
            DataType::Float8E4M3 => put(&[narrow::FLOAT8_E4M3.narrow(single) as u8]),
            DataType::Float8E5M2 => put(&[narrow::FLOAT8_E5M2.narrow(single) as u8]),
            DataType::Int8
            | DataType::Uint8
            | DataType::Int32
            | DataType::Uint32
            | DataType::Int64
            | DataType::Uint64 => debug_assert!(false, "integers are averaged by division"),
        }
        multiplier
    }
}

/// One instruction set among those that the processor has, for measuring one against another.
#[derive(Clone, Copy)]
pub struct Width(&'static Kernels);

impl Width {
    /// All of this processor, from the narrowest to the widest, which is the one that [`Host`] uses.
    #[must_use]
    pub fn available() -> Vec<Width> {
        kernels::available().into_iter().map(Width).collect()
    }

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// [`Device::reduce`] with this instruction set.
    ///
    /// # Safety
    /// As [`Device::reduce`].
    pub unsafe fn reduce(
        self,
        combine: Combine,
        data_type: DataType,
        left: Address,
        right: Address,
        into: Address,
        count: usize,
    ) {
        let reduce = self.0.reduce(combine, data_type);
        // SAFETY: the caller's promise; a `Width` is made only of what the processor has.
        unsafe { reduce(left.0 as *const u8, right.0 as *const u8, into.0 as *mut u8, count) }
    }

    /// [`Device::scale`] with this instruction set.
    ///
    /// # Safety
    /// As [`Device::scale`].
    pub unsafe fn scale(
        self,
        data_type: DataType,
        multiplier: Multiplier,
        from: Address,
        into: Address,
        count: usize,
    ) {
        let scale = self.0.scale(data_type);
        // SAFETY: the caller's promise; a `Width` is made only of what the processor has.
        unsafe { scale(multiplier, from.0 as *const u8, into.0 as *mut u8, count) }
    }

    /// [`Device::copy_streaming`] with this instruction set.
    ///
    /// # Safety
    /// As [`Device::copy`].
    pub unsafe fn copy_streaming(self, from: Address, into: Address, bytes: usize) {
        // SAFETY: the caller's promise; a `Width` is made only of what the processor has.
        unsafe { copy::copy_streaming(self.0, from.0 as *const u8, into.0 as *mut u8, bytes) }
    }
}
