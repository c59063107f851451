//! The loops over memory, compiled once for each instruction set, and the choice among them.
//!
//! A loop goes block by block. A block is read whole from both operands before any of it is written, so an
//! operand may be the target, and the compiler sees a fixed count that it turns into vectors. What is left of
//! a block at the end goes in steps of 16 bytes, then singly.

use std::marker::PhantomData;
use std::sync::OnceLock;

use super::format::{Bfloat16, Float8E4M3, Float8E5M2, Float16, Format};
use super::number::{Larger, Number, Operator, Product, Smaller, Sum};
#[cfg(target_arch = "x86_64")]
use super::path::{Avx2, Avx512};
use super::path::{Path, Portable, fence};
use crate::device::Multiplier;
use crate::op::{Combine, DataType};

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
            let mut wide = F::widen::<P, N>(left);
            for (left, right) in wide.iter_mut().zip(F::widen::<P, N>(right)) {
                *left = O::apply(*left, right);
            }
            let result = F::narrow::<P, N>(wide);
            self.into.add(at).cast::<[F::Stored; N]>().write_unaligned(result);
        }
    }
}

struct Scaling<F: Format, P> {
    multiplier: F::Wide,
    from: *const F::Stored,
    into: *mut F::Stored,
    how: PhantomData<P>,
}

impl<F: Format, P: Path> Body for Scaling<F, P> {
    #[inline(always)]
    unsafe fn block<const N: usize>(&self, at: usize) {
        // SAFETY: as for `Reducing`.
        unsafe {
            let from = self.from.add(at).cast::<[F::Stored; N]>().read_unaligned();
            let mut wide = F::widen::<P, N>(from);
            for value in &mut wide {
                *value = value.product(self.multiplier);
            }
            let result = F::narrow::<P, N>(wide);
            self.into.add(at).cast::<[F::Stored; N]>().write_unaligned(result);
        }
    }
}

/// Blocks of `MAIN` elements, then of `STEP`, then single ones.
///
/// # Safety
/// `body` may be given every block below `count`.
#[inline(always)]
unsafe fn sweep<B: Body, const MAIN: usize, const STEP: usize>(body: &B, count: usize) {
    let mut at = 0;
    // SAFETY: `at` plus the block is at most `count` in each of the three loops.
    unsafe {
        while count - at >= MAIN {
            body.block::<MAIN>(at);
            at += MAIN;
        }
        while count - at >= STEP {
            body.block::<STEP>(at);
            at += STEP;
        }
        while at < count {
            body.block::<1>(at);
            at += 1;
        }
    }
}

/// The loops of one instruction set: a module with the functions, and their table.
macro_rules! instruction_set {
    ($table:ident, $module:ident, $path:ty, $name:literal, $(#[$feature:meta])*) => {
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

            /// The four operators of one type; sums and products of signed integers are the unsigned ones.
            macro_rules! operators {
                ($modular:ty, $ordered:ty, $main:literal, $step:literal) => {
                    [
                        reduce::<$modular, Sum, $main, $step>,
                        reduce::<$modular, Product, $main, $step>,
                        reduce::<$ordered, Larger, $main, $step>,
                        reduce::<$ordered, Smaller, $main, $step>,
                    ]
                };
            }

            // A block is 128 bytes where elements are computed as they lie, 64 where they widen: what it
            // keeps in registers is about the same.
            pub(super) const KERNELS: Kernels = Kernels {
                name: $name,
                reduce: [
                    operators!(u8, i8, 128, 16),
                    operators!(u8, u8, 128, 16),
                    operators!(u32, i32, 32, 4),
                    operators!(u32, u32, 32, 4),
                    operators!(u64, i64, 16, 2),
                    operators!(u64, u64, 16, 2),
                    operators!(Float16, Float16, 32, 8),
                    operators!(f32, f32, 32, 4),
                    operators!(f64, f64, 16, 2),
                    operators!(Bfloat16, Bfloat16, 32, 8),
                    operators!(Float8E4M3, Float8E4M3, 32, 16),
                    operators!(Float8E5M2, Float8E5M2, 32, 16),
                ],
                scale: [
                    scale::<u8, 128, 16>,
                    scale::<u8, 128, 16>,
                    scale::<u32, 32, 4>,
                    scale::<u32, 32, 4>,
                    scale::<u64, 16, 2>,
                    scale::<u64, 16, 2>,
                    scale::<Float16, 32, 8>,
                    scale::<f32, 32, 4>,
                    scale::<f64, 16, 2>,
                    scale::<Bfloat16, 32, 8>,
                    scale::<Float8E4M3, 32, 16>,
                    scale::<Float8E5M2, 32, 16>,
                ],
                stream,
            };
        }
    };
}

instruction_set!(PORTABLE, portable, Portable, "portable",);
#[cfg(target_arch = "x86_64")]
instruction_set!(AVX2, avx2, Avx2, "avx2", #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
instruction_set!(
    AVX512,
    avx512,
    Avx512,
    "avx512",
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
);
