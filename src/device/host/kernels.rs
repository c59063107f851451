//! The loops over memory, compiled once for each instruction set, and the choice among them.
//!
//! A loop goes block by block. A block is read whole from both operands before any of it is written, so an
//! operand may be the target, and the compiler sees a fixed count that it turns into vectors. What is left of
//! a block at the end goes in smaller steps, then as one step filled up with zeros, or singly.

use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use super::copy::copy;
use super::format::{
    Bfloat16, Float8E4M3, Float8E5M2, Float16, Format, Larger, Operator, Product, Smaller, Sum,
};
use super::number::Number;
#[cfg(target_arch = "x86_64")]
use super::path::{Avx2, Avx512};
use super::path::{Path, Portable};
use crate::device::Multiplier;
use crate::op::{Combine, DataType};
use crate::system::copy::fence;

/// `into = left op right`, by count of elements. No pointer needs alignment.
///
/// # Safety
/// The operands are readable and `into` is writable for `count` elements; `into` is each operand itself or
/// disjoint from it. The processor has the instruction set of the table that the function comes from.
type Reduce = unsafe fn(left: *const u8, right: *const u8, into: *mut u8, count: usize);

/// `into = from * multiplier`, by count of elements, under the same conditions.
type Scale = unsafe fn(multiplier: Multiplier, from: *const u8, into: *mut u8, count: usize);

/// Copies whole lines of 64 bytes past the caches.
///
/// # Safety
/// `from` is readable and `into` is writable for `lines` times 64 bytes, they are disjoint, `into` is a
/// multiple of 64. The processor has the instruction set of the table that the function comes from.
type Stream = unsafe fn(from: *const u8, into: *mut u8, lines: usize);

/// The loops of one instruction set.
pub(super) struct Kernels {
    /// As people write the instruction set.
    pub(super) name: &'static str,
    reduce: [[Reduce; 4]; 12],
    scale: [Scale; 12],
    pub(super) stream: Stream,
}

impl Kernels {
    /// The reduction of a type.
    #[inline]
    pub(super) fn reduce(&self, combine: Combine, data_type: DataType) -> Reduce {
        self.reduce[data_type as usize][combine as usize]
    }

    /// The multiplication of a type.
    #[inline]
    pub(super) fn scale(&self, data_type: DataType) -> Scale {
        self.scale[data_type as usize]
    }

    /// The widest that this processor has. Asks the processor once.
    #[inline]
    pub(super) fn best() -> &'static Kernels {
        static BEST: OnceLock<&'static Kernels> = OnceLock::new();
        BEST.get_or_init(|| available().last().copied().unwrap_or(&PORTABLE))
    }
}

/// All that this processor can run, from the narrowest to the widest.
pub(super) fn available() -> Vec<&'static Kernels> {
    #[allow(unused_mut)]
    let mut kernels = vec![&PORTABLE];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        kernels.push(&AVX2);
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
        {
            kernels.push(&AVX512);
        }
    }
    kernels
}

/// What is done with one block.
trait Body {
    /// Elements `at` to `at + N`.
    ///
    /// # Safety
    /// They are in range, and the processor has the instruction set of the body.
    unsafe fn block<const N: usize>(&self, at: usize);

    /// Elements `at` to `at + count`, which are fewer than `N`, as one block filled up with zeros.
    ///
    /// # Safety
    /// As [`Self::block`].
    unsafe fn rest<const N: usize>(&self, at: usize, count: usize);
}

/// The first `count` of `N` elements; the others are zeros.
///
/// # Safety
/// `count` is at most `N`, and so many elements are readable; any bits are a value of `T`.
#[inline(always)]
unsafe fn read_rest<T: Copy + Default, const N: usize>(from: *const T, count: usize) -> [T; N] {
    let mut block = [T::default(); N];
    // SAFETY: the caller's promise, and the block is another place.
    unsafe { copy(from.cast(), block.as_mut_ptr().cast(), count * size_of::<T>()) };
    block
}

/// Writes the first `count` of `N` elements.
///
/// # Safety
/// `count` is at most `N`, and so many elements are writable.
#[inline(always)]
unsafe fn write_rest<T: Copy, const N: usize>(block: [T; N], into: *mut T, count: usize) {
    // SAFETY: the caller's promise, and the block is another place.
    unsafe { copy(block.as_ptr().cast(), into.cast(), count * size_of::<T>()) };
}

struct Reducing<F: Format, O, P> {
    left: *const F::Stored,
    right: *const F::Stored,
    into: *mut F::Stored,
    how: PhantomData<(O, P)>,
}

impl<F: Format, O: Operator, P: Path> Body for Reducing<F, O, P> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&self, at: usize) {
        // SAFETY: the range lies within what was promised for the whole loop; any bits are a value of
        // `F::Stored`; reads and the write ask for no alignment, and both reads come first.
        unsafe {
            let left = self.left.add(at).cast::<[F::Stored; N]>().read_unaligned();
            let right = self.right.add(at).cast::<[F::Stored; N]>().read_unaligned();
            let result = O::apply::<F, P, N>(left, right);
            self.into.add(at).cast::<[F::Stored; N]>().write_unaligned(result);
        }
    }

    #[inline(always)]
    unsafe fn rest<const N: usize>(&self, at: usize, count: usize) {
        // SAFETY: as above, and both reads come first.
        unsafe {
            let left = read_rest::<_, N>(self.left.add(at), count);
            let right = read_rest::<_, N>(self.right.add(at), count);
            write_rest(O::apply::<F, P, N>(left, right), self.into.add(at), count);
        }
    }
}

struct Scaling<F: Format, P> {
    multiplier: F::Wide,
    from: *const F::Stored,
    into: *mut F::Stored,
    how: PhantomData<P>,
}

impl<F: Format, P: Path> Scaling<F, P> {
    /// # Safety
    /// The processor has the instruction set `P`.
    #[inline(always)]
    unsafe fn result<const N: usize>(&self, from: [F::Stored; N]) -> [F::Stored; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut wide = F::widen::<P, N>(from);
            for value in &mut wide {
                *value = value.product(self.multiplier);
            }
            F::narrow::<P, N>(wide)
        }
    }
}

impl<F: Format, P: Path> Body for Scaling<F, P> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&self, at: usize) {
        // SAFETY: as for `Reducing`.
        unsafe {
            let from = self.from.add(at).cast::<[F::Stored; N]>().read_unaligned();
            self.into.add(at).cast::<[F::Stored; N]>().write_unaligned(self.result(from));
        }
    }

    #[inline(always)]
    unsafe fn rest<const N: usize>(&self, at: usize, count: usize) {
        // SAFETY: as for `Reducing`.
        unsafe {
            let from = read_rest::<_, N>(self.from.add(at), count);
            write_rest(self.result(from), self.into.add(at), count);
        }
    }
}

/// Blocks of `MAIN` elements, then of `STEP`, then what is left.
///
/// # Safety
/// `body` may be given every block below `count`.
#[inline(always)]
unsafe fn sweep<B: Body, const MAIN: usize, const STEP: usize>(body: &B, count: usize) {
    let mut at = 0;
    // A block is the vector code; without the fences, which cost no instruction, the compiler would weave
    // several blocks into one, with a gather for every operand.
    let fence = || compiler_fence(Ordering::SeqCst);
    // SAFETY: `at` plus the block is at most `count` in each of the loops, and less than `STEP` is left after the second.
    unsafe {
        while count - at >= MAIN {
            body.block::<MAIN>(at);
            at += MAIN;
            fence();
        }
        while count - at >= STEP {
            body.block::<STEP>(at);
            at += STEP;
            fence();
        }
        if STEP > 4 && count - at > 1 {
            return body.rest::<STEP>(at, count - at);
        }
        while at < count {
            body.block::<1>(at);
            at += 1;
            fence();
        }
    }
}

/// The loops of one instruction set: a module with the functions, and their table. The counts are elements
/// of a block: of halves when computed, of singles and doubles when compared, of codes when compared.
macro_rules! instruction_set {
    (
        $table:ident, $module:ident, $path:ty, $name:literal,
        half: $half:literal, single: $single:literal, double: $double:literal,
        codes: $codes_8:literal, $codes_16:literal,
        $(#[$feature:meta])*
    ) => {
        static $table: Kernels = $module::KERNELS;

        mod $module {
            use super::*;

            /// # Safety
            /// As [`Reduce`](super::Reduce).
            $(#[$feature])*
            unsafe fn reduce<F: Format, O: Operator, const MAIN: usize, const STEP: usize>(
                left: *const u8,
                right: *const u8,
                into: *mut u8,
                count: usize,
            ) {
                let body = Reducing::<F, O, $path> {
                    left: left.cast(),
                    right: right.cast(),
                    into: into.cast(),
                    how: PhantomData,
                };
                // SAFETY: the caller promises the ranges up to `count` and the instruction set.
                unsafe { sweep::<_, MAIN, STEP>(&body, count) }
            }

            /// # Safety
            /// As [`Scale`](super::Scale).
            $(#[$feature])*
            unsafe fn scale<F: Format, const MAIN: usize, const STEP: usize>(
                multiplier: Multiplier,
                from: *const u8,
                into: *mut u8,
                count: usize,
            ) {
                const { assert!(size_of::<F::Stored>() <= size_of::<Multiplier>()) };
                // SAFETY: the multiplier begins with an element, as the assertion shows that it can; any
                // bits are a value. The processor has the instruction set.
                let [multiplier] = unsafe {
                    F::widen::<$path, 1>(multiplier.as_ptr().cast::<[F::Stored; 1]>().read_unaligned())
                };
                let body = Scaling::<F, $path> {
                    multiplier,
                    from: from.cast(),
                    into: into.cast(),
                    how: PhantomData,
                };
                // SAFETY: the caller promises the ranges up to `count` and the instruction set.
                unsafe { sweep::<_, MAIN, STEP>(&body, count) }
            }

            /// # Safety
            /// As [`Stream`](super::Stream).
            $(#[$feature])*
            unsafe fn stream(from: *const u8, into: *mut u8, lines: usize) {
                for line in 0..lines {
                    // SAFETY: the line lies within the promised ranges, and a multiple of 64 plus a multiple
                    // of 64 is one.
                    unsafe { <$path>::stream_line(from.add(64 * line), into.add(64 * line)) }
                }
                fence();
            }

            /// Of an integer type; sums and products of signed ones are the unsigned ones.
            macro_rules! integer_operators {
                ($modular:ty, $ordered:ty, $main:literal, $step:literal) => {
                    [
                        reduce::<$modular, Sum, $main, $step>,
                        reduce::<$modular, Product, $main, $step>,
                        reduce::<$ordered, Larger, $main, $step>,
                        reduce::<$ordered, Smaller, $main, $step>,
                    ]
                };
            }

            /// Of a float type, with blocks and steps for what is computed and for what is chosen.
            macro_rules! float_operators {
                ($format:ty, $main:literal, $step:literal, $order_main:literal, $order_step:literal) => {
                    [
                        reduce::<$format, Sum, $main, $step>,
                        reduce::<$format, Product, $main, $step>,
                        reduce::<$format, Larger, $order_main, $order_step>,
                        reduce::<$format, Smaller, $order_main, $order_step>,
                    ]
                };
            }

            // The sizes of blocks were chosen by reading what the compiler makes of them: about 128 bytes in
            // registers; of a comparison one vector, or its masks are widened and packed again; of an emulated
            // type 32 elements, or the loop is unrolled before it can become vectors.
            pub(super) const KERNELS: Kernels = Kernels {
                name: $name,
                reduce: [
                    integer_operators!(u8, i8, 128, 16),
                    integer_operators!(u8, u8, 128, 16),
                    integer_operators!(u32, i32, 32, 4),
                    integer_operators!(u32, u32, 32, 4),
                    integer_operators!(u64, i64, 16, 2),
                    integer_operators!(u64, u64, 16, 2),
                    float_operators!(Float16, $half, $half, $codes_16, 8),
                    float_operators!(f32, 32, 4, $single, 4),
                    float_operators!(f64, 16, 2, $double, 2),
                    float_operators!(Bfloat16, 32, 32, $codes_16, 8),
                    float_operators!(Float8E4M3, 32, 32, $codes_8, 16),
                    float_operators!(Float8E5M2, 32, 32, $codes_8, 16),
                ],
                scale: [
                    scale::<u8, 128, 16>,
                    scale::<u8, 128, 16>,
                    scale::<u32, 32, 4>,
                    scale::<u32, 32, 4>,
                    scale::<u64, 16, 2>,
                    scale::<u64, 16, 2>,
                    scale::<Float16, $half, $half>,
                    scale::<f32, 32, 4>,
                    scale::<f64, 16, 2>,
                    scale::<Bfloat16, 32, 32>,
                    scale::<Float8E4M3, 32, 32>,
                    scale::<Float8E5M2, 32, 32>,
                ],
                stream,
            };
        }
    };
}

instruction_set!(PORTABLE, portable, Portable, "portable", half: 32, single: 4, double: 2, codes: 16, 8,);
#[cfg(target_arch = "x86_64")]
instruction_set!(
    AVX2, avx2, Avx2, "avx2",
    half: 8, single: 8, double: 4, codes: 32, 16,
    #[target_feature(enable = "avx2,f16c")]
);
#[cfg(target_arch = "x86_64")]
instruction_set!(
    AVX512, avx512, Avx512, "avx512",
    half: 16, single: 16, double: 8, codes: 64, 32,
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
);
