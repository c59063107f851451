//! Floats of 8 and 16 bits: to single precision exactly, and back with one rounding to nearest, ties to even.
//!
//! Every function is straight-line arithmetic on 32-bit lanes without a table, so that a loop over it becomes
//! vector code on any processor.
#![forbid(unsafe_code)]

/// How a float of fewer than 32 bits is laid out: a sign, then an exponent, then a mantissa.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Bits without the sign.
    magnitude_bits: u32,
    mantissa_bits: u32,
    bias: u32,
    /// The code of infinity; where the type has none, one that no magnitude reaches.
    infinity: u32,
    /// Magnitudes from here on are NaN.
    first_nan: u32,
    /// What is too large, infinity included, becomes this.
    ceiling: u32,
}

/// IEEE half precision; what is too large becomes infinity.
pub(super) const FLOAT16: Layout = Layout {
    magnitude_bits: 15,
    mantissa_bits: 10,
    bias: 15,
    infinity: 0x7c00,
    first_nan: 0x7c01,
    ceiling: 0x7c00,
};

/// No infinity, one NaN of each sign, 448 at most; what is too large becomes that.
pub(super) const FLOAT8_E4M3: Layout =
    Layout { magnitude_bits: 7, mantissa_bits: 3, bias: 7, infinity: 0x80, first_nan: 0x7f, ceiling: 0x7e };

/// A half without its low byte, but what is too large becomes 57344, infinity included.
pub(super) const FLOAT8_E5M2: Layout =
    Layout { magnitude_bits: 7, mantissa_bits: 2, bias: 15, infinity: 0x7c, first_nan: 0x7d, ceiling: 0x7b };

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
/// The NaN of every result: all bits but the sign.
pub(super) const NAN_32: u32 = 0x7fff_ffff;
/// The same for double precision.
pub(super) const NAN_64: u64 = 0x7fff_ffff_ffff_ffff;

impl Layout {
    /// How far a single's mantissa is shifted.
    const fn shift(self) -> u32 {
        23 - self.mantissa_bits
    }

    /// The distance of two subnormals, times `2^more`.
    const fn unit(self, more: u32) -> f32 {
        f32::from_bits((127 + 1 + more - self.bias - self.mantissa_bits) << 23)
    }

    /// The value of a code, exactly. A NaN stays a NaN.
    #[inline(always)]
    pub(super) const fn widen(self, code: u32) -> f32 {
        let magnitude = code & ((1 << self.magnitude_bits) - 1);
        let sign = (code >> self.magnitude_bits) << 31;
        let normal = (magnitude << self.shift()) + ((127 - self.bias) << 23);
        // Through an integer, not through a subnormal single, which some processors handle slowly.
        let subnormal = (magnitude as i32 as f32 * self.unit(0)).to_bits();
        let finite = if magnitude < 1 << self.mantissa_bits { subnormal } else { normal };
        let number = if magnitude == self.infinity { INFINITY } else { finite };
        let bits = if magnitude >= self.first_nan { NAN_32 } else { number };
        f32::from_bits(bits | sign)
    }

    /// The code nearest to a value, ties to even; the one positive NaN of all ones for every NaN.
    #[inline(always)]
    pub(super) const fn narrow(self, value: f32) -> u32 {
        let magnitude = value.to_bits() & !SIGN;
        let sign = (value.to_bits() >> 31) << self.magnitude_bits;
        let shift = self.shift();
        // Half a unit less one, and one more where the kept part is odd: a tie goes to even. A carry out of
        // the mantissa rightly counts the exponent up.
        let rounded = magnitude.wrapping_add((1 << (shift - 1)) - 1 + ((magnitude >> shift) & 1));
        let normal = (rounded >> shift).wrapping_sub((127 - self.bias) << self.mantissa_bits) as i32;
        // The sum's last bit is one subnormal unit, so the addition itself rounds to the nearest.
        let magic = self.unit(23);
        let subnormal = (f32::from_bits(magnitude) + magic).to_bits().wrapping_sub(magic.to_bits()) as i32;
        let is_subnormal = magnitude < (127 + 1 - self.bias) << 23;
        let unbounded = if is_subnormal { subnormal } else { normal };
        let ceiling = self.ceiling as i32;
        let bounded = if unbounded > ceiling { ceiling } else { unbounded } as u32;
        if magnitude > INFINITY { (1 << self.magnitude_bits) - 1 } else { bounded | sign }
    }
}

/// bfloat16 as far as its order goes; its conversions are below.
pub(super) const BFLOAT16: Layout = Layout {
    magnitude_bits: 15,
    mantissa_bits: 7,
    bias: 127,
    infinity: 0x7f80,
    first_nan: 0x7f81,
    ceiling: 0x7f80,
};

/// The larger and the smaller of two codes, in integers of the code's own size.
///
/// With the magnitude's bits turned over where the sign is set, codes are ordered as signed integers are: NaN,
/// -infinity, ..., -0, +0, ..., +infinity, NaN. Counted from just above +infinity and around the end, every
/// NaN comes before every number, and a number is the larger. Counted from -infinity, every NaN comes last.
macro_rules! orders {
    ($($larger:ident $smaller:ident $choose:ident $code:ty, $signed:ty;)*) => { impl Layout { $(
        #[inline(always)]
        pub(super) fn $larger(self, left: $code, right: $code) -> $code {
            self.$choose(left, right, self.first_nan as $code, Ord::max)
        }

        #[inline(always)]
        pub(super) fn $smaller(self, left: $code, right: $code) -> $code {
            // What is turned over becomes the complement.
            self.$choose(left, right, !(self.first_nan as $code - 1), Ord::min)
        }

        #[inline(always)]
        fn $choose(self, left: $code, right: $code, start: $code, choose: fn($code, $code) -> $code) -> $code {
            const MAGNITUDE: $code = <$code>::MAX >> 1;
            let turn = |code: $code| code ^ ((code as $signed) >> (<$code>::BITS - 1)) as $code & MAGNITUDE;
            let place = |code| turn(code).wrapping_sub(start);
            let code = turn(choose(place(left), place(right)).wrapping_add(start));
            let (magnitude, sign) = (code & MAGNITUDE, code & !MAGNITUDE);
            let can_store_all = self.ceiling + 1 == self.first_nan;
            let number = if can_store_all { code } else { magnitude.min(self.ceiling as $code) | sign };
            if magnitude >= self.first_nan as $code { MAGNITUDE } else { number }
        }
    )* } };
}
orders! {
    larger_8 smaller_8 choose_8 u8, i8;
    larger_16 smaller_16 choose_16 u16, i16;
}

/// The value of a bfloat16, exactly: it is the upper half of a single.
#[inline(always)]
pub(super) const fn widen_bfloat16(code: u16) -> f32 {
    f32::from_bits((code as u32) << 16)
}

/// The bfloat16 nearest to a value, ties to even; the one positive NaN of all ones for every NaN.
#[inline(always)]
pub(super) const fn narrow_bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    // A NaN's sum is not used, all others stay below the sign.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { (NAN_32 >> 16) as u16 } else { rounded as u16 }
}

/// The value, with every NaN made the one of all ones but the sign.
#[inline(always)]
pub(super) const fn settle_32(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(NAN_32) } else { value }
}

/// The same for double precision.
#[inline(always)]
pub(super) const fn settle_64(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(NAN_64) } else { value }
}
