//! Where the caller's memory lies, and who may touch it.
//!
//! One trait, one implementation per kind of memory. The engine asks for copies and reductions and does not
//! know what executes them.

pub mod host;

use crate::op::{Address, Combine, DataType};

/// A multiplier in an operation's own type: its first `size_bytes` bytes.
pub type Multiplier = [u8; 8];

/// Work on the caller's memory. Ranges are given by address and element count and may be unaligned.
///
/// # Safety
/// For every method: what is read is readable, what is written is writable and not read or written by
/// anyone else meanwhile. `into` is the same range as an operand, or disjoint from it.
#[allow(clippy::missing_safety_doc, reason = "the trait says it once, for every method")]
pub trait Device {
    /// `into = from`; the ranges are disjoint.
    unsafe fn copy(&self, from: Address, into: Address, bytes: usize);

    /// As [`Device::copy`], past the caches where that can be: for what is next read elsewhere.
    unsafe fn copy_streaming(&self, from: Address, into: Address, bytes: usize);

    /// `into = left + right` element by element.
    unsafe fn reduce(
        &self,
        combine: Combine,
        data_type: DataType,
        left: Address,
        right: Address,
        into: Address,
        count: usize,
    );

    /// `into = from * multiplier`, each rounded to the type.
    unsafe fn scale(
        &self,
        data_type: DataType,
        multiplier: Multiplier,
        from: Address,
        into: Address,
        count: usize,
    );

    /// `range = range / divisor` for integer types, rounded towards zero.
    unsafe fn divide(&self, data_type: DataType, divisor: u32, range: Address, count: usize);

    /// 1/n in `data_type`, a float type.
    fn reciprocal(&self, data_type: DataType, n: u32) -> Multiplier;
}
