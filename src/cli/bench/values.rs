//! Seeded inputs, and elements of every type as numbers: the slow, obvious side of the comparison.
//!
//! Inputs are small whole numbers, chosen so that every correct result is exact in every type, whatever the
//! order of the reduction; then one wrong bit is a wrong element. Where that cannot be (a mean whose divisor
//! is no power of two, more ranks than a tiny float counts), a few units in the last place are allowed.
#![forbid(unsafe_code)]

use half::{bf16, f16};

use crate::op::{DataType, Reduction};

/// What all inputs of a run depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) data_type: DataType,
    /// `None`: nothing is combined, every bit pattern that the type counts exactly will do.
    pub(crate) reduction: Option<Reduction>,
    pub(crate) ranks: usize,
    pub(crate) seed: u64,
}

impl Recipe {
    /// Element `index` of the input of `rank`.
    pub(crate) fn value(&self, rank: usize, index: usize) -> f64 {
        let bits = mix(self.seed ^ mix((rank as u64) << 40 ^ index as u64));
        let ranks = self.ranks as u64;
        match self.reduction {
            Some(Reduction::Prod) => 1.0 + f64::from(u8::from(rank < 3 && bits & 1 == 1)),
            Some(Reduction::Sum | Reduction::PreMulSum) => {
                (bits % ((self.exact_limit() / ranks).max(1) + 1)) as f64
            }
            // Multiples of the number of ranks, so that integers divide evenly whenever there is room.
            Some(Reduction::Avg) => {
                let steps = (self.exact_limit() / (ranks * ranks)).max(1);
                (bits % (steps + 1) * ranks.min(self.exact_limit() / ranks).max(1)) as f64
            }
            Some(Reduction::Max | Reduction::Min) | None => (bits % (self.exact_limit() + 1)) as f64,
        }
    }

    /// What the reduction of `index` over all ranks must be.
    pub(crate) fn reduced(&self, index: usize) -> f64 {
        let values = (0..self.ranks).map(|rank| self.value(rank, index));
        match self.reduction.unwrap_or(Reduction::Sum) {
            Reduction::Sum | Reduction::PreMulSum => values.sum(),
            Reduction::Prod => values.product(),
            Reduction::Max => values.fold(f64::NEG_INFINITY, f64::max),
            Reduction::Min => values.fold(f64::INFINITY, f64::min),
            Reduction::Avg if self.data_type.is_float() => values.sum::<f64>() / self.ranks as f64,
            Reduction::Avg => (values.sum::<f64>() / self.ranks as f64).trunc(),
        }
    }

    /// By what share of itself a correct reduction may differ.
    pub(crate) fn tolerance(&self) -> f64 {
        let ranks = self.ranks as u64;
        let inexact = match self.reduction {
            Some(Reduction::Avg) => self.data_type.is_float() && !ranks.is_power_of_two(),
            Some(Reduction::Sum | Reduction::PreMulSum) => ranks > self.exact_limit(),
            _ => false,
        };
        let tiny = self.data_type.is_float() && ranks * ranks > self.exact_limit();
        let averaged = self.reduction == Some(Reduction::Avg) && tiny;
        if inexact || averaged { self.ranks as f64 / self.exact_limit() as f64 } else { 0.0 }
    }

    /// The largest whole number up to which the type counts without a gap, within reason.
    fn exact_limit(&self) -> u64 {
        match self.data_type {
            DataType::Int8 => 127,
            DataType::Uint8 => 255,
            DataType::Int32 => (1 << 31) - 1,
            DataType::Uint32 => (1 << 32) - 1,
            DataType::Int64 | DataType::Uint64 | DataType::Float64 => 1 << 52,
            DataType::Float16 => 1 << 11,
            DataType::Float32 => 1 << 24,
            DataType::Bfloat16 => 1 << 8,
            DataType::Float8E4M3 => 1 << 4,
            DataType::Float8E5M2 => 1 << 3,
        }
    }
}

/// Writes elements `value(0)`, `value(1)`, ... over the whole of `target`.
pub(crate) fn write(data_type: DataType, target: &mut [u8], value: impl Fn(usize) -> f64) {
    fn each<const BYTES: usize>(target: &mut [u8], encode: impl Fn(usize) -> [u8; BYTES]) {
        for (index, element) in target.chunks_exact_mut(BYTES).enumerate() {
            element.copy_from_slice(&encode(index));
        }
    }
    match data_type {
        DataType::Int8 => each(target, |i| (value(i) as i8).to_le_bytes()),
        DataType::Uint8 => each(target, |i| (value(i) as u8).to_le_bytes()),
        DataType::Int32 => each(target, |i| (value(i) as i32).to_le_bytes()),
        DataType::Uint32 => each(target, |i| (value(i) as u32).to_le_bytes()),
        DataType::Int64 => each(target, |i| (value(i) as i64).to_le_bytes()),
        DataType::Uint64 => each(target, |i| (value(i) as u64).to_le_bytes()),
        DataType::Float16 => each(target, |i| f16::from_f64(value(i)).to_le_bytes()),
        DataType::Float32 => each(target, |i| (value(i) as f32).to_le_bytes()),
        DataType::Float64 => each(target, |i| value(i).to_le_bytes()),
        DataType::Bfloat16 => each(target, |i| bf16::from_f64(value(i)).to_le_bytes()),
        DataType::Float8E4M3 | DataType::Float8E5M2 => {
            let whole: Vec<u8> = (0..=16).map(|number| eight_bits(data_type, number)).collect();
            each(target, |i| [whole[(value(i) as usize).min(16)]]);
        }
    }
}

/// Element `index` of `source` as a number.
pub(crate) fn read(data_type: DataType, source: &[u8], index: usize) -> f64 {
    fn element<const BYTES: usize>(source: &[u8], index: usize) -> [u8; BYTES] {
        source[index * BYTES..(index + 1) * BYTES].try_into().expect("a slice of that length")
    }
    match data_type {
        DataType::Int8 => f64::from(source[index] as i8),
        DataType::Uint8 => f64::from(source[index]),
        DataType::Int32 => f64::from(i32::from_le_bytes(element(source, index))),
        DataType::Uint32 => f64::from(u32::from_le_bytes(element(source, index))),
        DataType::Int64 => i64::from_le_bytes(element(source, index)) as f64,
        DataType::Uint64 => u64::from_le_bytes(element(source, index)) as f64,
        DataType::Float16 => f16::from_le_bytes(element(source, index)).to_f64(),
        DataType::Float32 => f64::from(f32::from_le_bytes(element(source, index))),
        DataType::Float64 => f64::from_le_bytes(element(source, index)),
        DataType::Bfloat16 => bf16::from_le_bytes(element(source, index)).to_f64(),
        DataType::Float8E4M3 | DataType::Float8E5M2 => from_eight_bits(data_type, source[index]),
    }
}

/// The byte of an eight-bit float that is `number`.
fn eight_bits(data_type: DataType, number: u8) -> u8 {
    let distance = |bits: &u8| (from_eight_bits(data_type, *bits) - f64::from(number)).abs();
    (0..0x78).min_by(|one, other| distance(one).total_cmp(&distance(other))).unwrap_or(0)
}

/// An eight-bit float, by its definition.
fn from_eight_bits(data_type: DataType, bits: u8) -> f64 {
    let (mantissa_bits, bias) = if data_type == DataType::Float8E4M3 { (3, 7) } else { (2, 15) };
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits & 0x7f) >> mantissa_bits;
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let magnitude = bits & 0x7f;
    match data_type {
        DataType::Float8E4M3 if magnitude == 0x7f => f64::NAN,
        DataType::Float8E5M2 if magnitude == 0x7c => sign * f64::INFINITY,
        DataType::Float8E5M2 if magnitude > 0x7c => f64::NAN,
        _ if exponent == 0 => sign * mantissa * 2f64.powi(1 - bias),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - bias),
    }
}

/// A number that depends on every bit of another.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDUCTIONS: [Reduction; 5] =
        [Reduction::Sum, Reduction::Prod, Reduction::Max, Reduction::Min, Reduction::Avg];

    #[test]
    fn inputs_and_results_survive_their_type() {
        for data_type in DataType::ALL {
            for reduction in REDUCTIONS {
                for ranks in [1, 2, 3, 4, 7, 8] {
                    let recipe = Recipe { data_type, reduction: Some(reduction), ranks, seed: 7 };
                    let bytes = data_type.size_bytes();
                    let mut stored = vec![0; 64 * bytes];
                    for rank in 0..ranks {
                        write(data_type, &mut stored, |index| recipe.value(rank, index));
                        for index in 0..64 {
                            let value = recipe.value(rank, index);
                            assert_eq!(read(data_type, &stored, index), value, "{recipe:?}");
                        }
                    }
                    write(data_type, &mut stored, |index| recipe.reduced(index));
                    for index in 0..64 {
                        let expected = recipe.reduced(index);
                        let found = read(data_type, &stored, index);
                        let allowed = recipe.tolerance() * expected.abs().max(1.0);
                        assert!((found - expected).abs() <= allowed, "{recipe:?}: {found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn ranks_and_places_differ() {
        let recipe = Recipe { data_type: DataType::Float32, reduction: None, ranks: 2, seed: 1 };
        let mut seen: Vec<u64> =
            (0..2000).map(|i| recipe.value(i / 1000, i % 1000) as u64).collect();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 1990);
    }

    #[test]
    fn eight_bit_floats() {
        for (data_type, bits, value) in [
            (DataType::Float8E4M3, 0x7e, 448.0),
            (DataType::Float8E4M3, 0x01, 0.001953125),
            (DataType::Float8E4M3, 0xb8, -1.0),
            (DataType::Float8E5M2, 0x7b, 57344.0),
            (DataType::Float8E5M2, 0x3c, 1.0),
            (DataType::Float8E5M2, 0x7c, f64::INFINITY),
        ] {
            assert_eq!(from_eight_bits(data_type, bits), value);
        }
        assert!(from_eight_bits(DataType::Float8E4M3, 0x7f).is_nan());
        for number in 0..=16 {
            assert_eq!(from_eight_bits(DataType::Float8E4M3, eight_bits(DataType::Float8E4M3, number)), f64::from(number));
        }
    }
}
