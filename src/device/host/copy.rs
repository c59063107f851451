//! Copies: a few instructions for a small one, the system's for a large one, and one past the caches.

use super::kernels::Kernels;
use crate::system;

/// Copies up to here are done in place of a call.
const INLINE_BYTES: usize = 64;

/// `into = from`.
///
/// # Safety
/// `from` is readable and `into` is writable for `bytes`, and they are disjoint.
#[inline]
pub(super) unsafe fn copy(from: *const u8, into: *mut u8, bytes: usize) {
    // SAFETY: the arms of two overlapping pieces cover exactly `bytes`, as their lower bounds show; the
    // caller's promise covers these and the last arm.
    unsafe {
        // What most small messages are.
        if bytes == 8 {
            return into.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned());
        }
        match bytes {
            0 => {}
            1..=3 => {
                // First, middle and last are all there are of three.
                let (first, middle, last) = (*from, *from.add(bytes / 2), *from.add(bytes - 1));
                *into = first;
                *into.add(bytes / 2) = middle;
                *into.add(bytes - 1) = last;
            }
            4..=7 => ends::<4>(from, into, bytes),
            8..=15 => ends::<8>(from, into, bytes),
            16..=31 => ends::<16>(from, into, bytes),
            32..=INLINE_BYTES => ends::<32>(from, into, bytes),
            _ => into.copy_from_nonoverlapping(from, bytes),
        }
    }
}

/// Copies the first `N` bytes and the last `N`, which may overlap.
///
/// # Safety
/// As [`copy`], and `bytes` is from `N` to twice `N`.
#[inline(always)]
unsafe fn ends<const N: usize>(from: *const u8, into: *mut u8, bytes: usize) {
    // SAFETY: both pieces lie within the ranges, since `bytes >= N`; none needs alignment.
    unsafe {
        let first = from.cast::<[u8; N]>().read_unaligned();
        let last = from.add(bytes - N).cast::<[u8; N]>().read_unaligned();
        into.cast::<[u8; N]>().write_unaligned(first);
        into.add(bytes - N).cast::<[u8; N]>().write_unaligned(last);
    }
}

/// `into = from` past the caches: for what is large, or is next read elsewhere.
///
/// # Safety
/// As [`copy`], and the processor has the instruction set of `kernels`.
pub(super) unsafe fn copy_streaming(kernels: &Kernels, from: *const u8, into: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { system::copy::streaming_by(kernels.stream, from, into, bytes) }
}
