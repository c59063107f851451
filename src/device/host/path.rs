//! The instruction sets that loops are compiled for, and the few steps that no compiler finds by itself.

use super::narrow::FLOAT16;
#[cfg(target_arch = "x86_64")]
use super::narrow::settle_32;
use crate::system::copy;

/// One instruction set. Loops that are generic over it are plain Rust, which the compiler turns into its
/// vector code; the methods are what needs instructions by name.
///
/// # Safety
/// Of every method: the processor has the instruction set.
pub(super) trait Path {
    /// Halves to singles, exactly.
    #[inline(always)]
    unsafe fn widen_half<const N: usize>(codes: &[u16; N], values: &mut [f32; N]) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = FLOAT16.widen(u32::from(*code));
        }
    }

    /// Singles to halves, each rounded once, NaN settled.
    #[inline(always)]
    unsafe fn narrow_half<const N: usize>(values: &[f32; N], codes: &mut [u16; N]) {
        for (code, value) in codes.iter_mut().zip(values) {
            *code = FLOAT16.narrow(*value) as u16;
        }
    }

    /// Copies 64 bytes past the caches, where the processor can. `into` is a multiple of 64.
    ///
    /// # Safety
    /// As for a copy of 64 bytes. Before another thread is told of the bytes, [`copy::fence`] is called.
    #[inline(always)]
    unsafe fn stream_line(from: *const u8, into: *mut u8) {
        // SAFETY: the caller's promise is that of this function.
        unsafe { copy::stream_line(from, into) }
    }
}

/// What every processor of the architecture has.
pub(super) struct Portable;
impl Path for Portable {}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Path, settle_32};
    use std::arch::x86_64::*;

    /// `avx2` and `f16c`.
    pub(in super::super) struct Avx2;
    /// `avx512f`, `avx512bw`, `avx512vl`, `avx512dq`, beside those of [`Avx2`].
    pub(in super::super) struct Avx512;

    impl Path for Avx2 {
        #[inline(always)]
        unsafe fn widen_half<const N: usize>(codes: &[u16; N], values: &mut [f32; N]) {
            // SAFETY: the caller's promise that the processor has the instruction set.
            unsafe { widen_from::<N>(codes, values, 0) }
        }

        #[inline(always)]
        unsafe fn narrow_half<const N: usize>(values: &[f32; N], codes: &mut [u16; N]) {
            // SAFETY: the caller's promise that the processor has the instruction set.
            unsafe { narrow_from::<N>(values, codes, 0) }
        }

        #[inline(always)]
        unsafe fn stream_line(from: *const u8, into: *mut u8) {
            // SAFETY: 64 bytes are readable at `from` and writable at `into`, which is a multiple of 64, hence
            // both halves of 32; the caller's processor has AVX2. All is read before anything is written.
            unsafe {
                let low = _mm256_loadu_si256(from.cast());
                let high = _mm256_loadu_si256(from.add(32).cast());
                _mm256_stream_si256(into.cast(), low);
                _mm256_stream_si256(into.add(32).cast(), high);
            }
        }
    }

    impl Path for Avx512 {
        #[inline(always)]
        unsafe fn widen_half<const N: usize>(codes: &[u16; N], values: &mut [f32; N]) {
            let whole = N / 16 * 16;
            for at in (0..whole).step_by(16) {
                // SAFETY: `at + 16 <= N`, so 16 elements of each array are in range; neither access asks for
                // alignment. The processor has AVX-512F by the caller's promise.
                unsafe {
                    let singles = _mm512_cvtph_ps(_mm256_loadu_si256(codes.as_ptr().add(at).cast()));
                    _mm512_storeu_ps(values.as_mut_ptr().add(at), singles);
                }
            }
            // SAFETY: AVX-512 as tested for brings AVX2 and F16C.
            unsafe { widen_from::<N>(codes, values, whole) }
        }

        #[inline(always)]
        unsafe fn narrow_half<const N: usize>(values: &[f32; N], codes: &mut [u16; N]) {
            let values = settled(values);
            let whole = N / 16 * 16;
            for at in (0..whole).step_by(16) {
                // SAFETY: `at + 16 <= N`, so 16 elements of each array are in range; neither access asks for
                // alignment. The processor has AVX-512F by the caller's promise.
                unsafe {
                    let singles = _mm512_loadu_ps(values.as_ptr().add(at));
                    let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(singles);
                    _mm256_storeu_si256(codes.as_mut_ptr().add(at).cast(), halves);
                }
            }
            // SAFETY: AVX-512 as tested for brings AVX2 and F16C.
            unsafe { narrow_from::<N>(&values, codes, whole) }
        }

        #[inline(always)]
        unsafe fn stream_line(from: *const u8, into: *mut u8) {
            // SAFETY: 64 bytes are readable at `from` and writable at `into`, which is a multiple of 64; the
            // caller's processor has AVX-512F.
            unsafe { _mm512_stream_si512(into.cast(), _mm512_loadu_si512(from.cast())) }
        }
    }

    /// Eight at a time from `start`, then singly. Needs F16C.
    #[inline(always)]
    unsafe fn widen_from<const N: usize>(codes: &[u16; N], values: &mut [f32; N], start: usize) {
        let whole = start + (N - start) / 8 * 8;
        for at in (start..whole).step_by(8) {
            // SAFETY: `at + 8 <= N`, so 8 elements of each array are in range; neither access asks for
            // alignment. The processor has F16C by the caller's promise.
            unsafe {
                let singles = _mm256_cvtph_ps(_mm_loadu_si128(codes.as_ptr().add(at).cast()));
                _mm256_storeu_ps(values.as_mut_ptr().add(at), singles);
            }
        }
        for at in whole..N {
            // SAFETY: the processor has F16C by the caller's promise.
            values[at] = unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(codes[at])))) };
        }
    }

    /// Eight at a time from `start`, then singly. Needs F16C.
    #[inline(always)]
    unsafe fn narrow_from<const N: usize>(values: &[f32; N], codes: &mut [u16; N], start: usize) {
        let values = settled(values);
        let whole = start + (N - start) / 8 * 8;
        for at in (start..whole).step_by(8) {
            // SAFETY: `at + 8 <= N`, so 8 elements of each array are in range; neither access asks for
            // alignment. The processor has F16C by the caller's promise.
            unsafe {
                let singles = _mm256_loadu_ps(values.as_ptr().add(at));
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(singles);
                _mm_storeu_si128(codes.as_mut_ptr().add(at).cast(), halves);
            }
        }
        for at in whole..N {
            // SAFETY: the processor has F16C by the caller's promise.
            let halves = unsafe { _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(values[at])) };
            // SAFETY: every x86-64 has SSE2.
            codes[at] = unsafe { _mm_cvtsi128_si32(halves) } as u16;
        }
    }

    /// The conversion keeps the upper bits of a NaN and its sign, so the one NaN goes in.
    #[inline(always)]
    fn settled<const N: usize>(values: &[f32; N]) -> [f32; N] {
        let mut settled = *values;
        for value in &mut settled {
            *value = settle_32(*value);
        }
        settled
    }
}
