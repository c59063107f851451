//! Element types, one value at a time: from bits to a number and back.
//!
//! Floats go through `f64`, in which every value of the smaller types and every product of two of them is
//! exact, so that one rounding at the end is the only one.

use shoal::op::DataType;

/// A float type that is narrower than a single.
#[derive(Clone, Copy)]
struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// Whether the largest exponent is for infinities and NaN, as IEEE has it.
    has_infinities: bool,
}

fn format(data_type: DataType) -> Format {
    let (exponent_bits, mantissa_bits) = match data_type {
        DataType::Float16 => (5, 10),
        DataType::Bfloat16 => (8, 7),
        DataType::Float8E4M3 => (4, 3),
        DataType::Float8E5M2 => (5, 2),
        _ => unreachable!("{data_type:?} is no narrow float"),
    };
    Format { exponent_bits, mantissa_bits, has_infinities: data_type != DataType::Float8E4M3 }
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn largest_bits(self) -> u64 {
        let all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1;
        if self.has_infinities { all_ones - (1 << self.mantissa_bits) } else { all_ones - 1 }
    }

    fn decode(self, bits: u64) -> f64 {
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let exponent = (bits >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1);
        let magnitude_bits = bits & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1);
        let magnitude = if magnitude_bits > self.largest_bits() {
            if self.has_infinities && mantissa == 0 { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            mantissa as f64 * power(1 - self.bias() - self.mantissa_bits as i32)
        } else {
            let whole = (1 << self.mantissa_bits) + mantissa;
            whole as f64 * power(exponent as i32 - self.bias() - self.mantissa_bits as i32)
        };
        if bits >> (self.exponent_bits + self.mantissa_bits) == 1 { -magnitude } else { magnitude }
    }

    /// Rounded to nearest, ties to even; what is too large becomes infinity, or saturates in 8 bits.
    fn encode(self, value: f64) -> u64 {
        let sign = u64::from(value.is_sign_negative()) << (self.exponent_bits + self.mantissa_bits);
        if value.is_nan() {
            return sign | ((1 << (self.exponent_bits + self.mantissa_bits)) - 1);
        }
        let lowest = 1 - self.bias();
        let exponent = exponent_of(value).max(lowest);
        let steps = (value.abs() / power(exponent - self.mantissa_bits as i32)).round_ties_even();
        if !steps.is_finite() || exponent > self.bias() + 1 {
            return sign | self.overflow();
        }
        // Counted in steps from the bits of the lowest exponent on, a carry moves into the exponent by itself.
        let magnitude = steps as u64 + (((exponent - lowest) as u64) << self.mantissa_bits);
        sign | if magnitude > self.largest_bits() { self.overflow() } else { magnitude }
    }

    fn overflow(self) -> u64 {
        let saturates = self.exponent_bits + self.mantissa_bits == 7;
        if saturates { self.largest_bits() } else { self.largest_bits() + 1 }
    }
}

/// 2 to the `exponent`, exactly.
pub fn power(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// The exponent of the highest bit of a number; very low for 0.
fn exponent_of(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// The weight of the lowest bit of a number that is set; infinity for 0.
pub fn lowest_bit(value: f64) -> f64 {
    if value == 0.0 {
        return f64::INFINITY;
    }
    let mantissa = value.to_bits() & ((1 << 52) - 1) | 1 << 52;
    power(exponent_of(value) - 52 + mantissa.trailing_zeros() as i32)
}

/// How many bits a float's significand has, the hidden one included.
pub fn precision_bits(data_type: DataType) -> i32 {
    match data_type {
        DataType::Float32 => 24,
        DataType::Float64 => 53,
        narrow => format(narrow).mantissa_bits as i32 + 1,
    }
}

/// The smallest positive number of a float type.
pub fn smallest(data_type: DataType) -> f64 {
    match data_type {
        DataType::Float32 => power(-149),
        DataType::Float64 => f64::from_bits(1),
        narrow => decode_float(narrow, 1),
    }
}

/// The number behind the bits of a float.
pub fn decode_float(data_type: DataType, bits: u64) -> f64 {
    match data_type {
        DataType::Float32 => f64::from(f32::from_bits(bits as u32)),
        DataType::Float64 => f64::from_bits(bits),
        narrow => format(narrow).decode(bits),
    }
}

/// The bits of the float nearest to a number.
pub fn encode_float(data_type: DataType, value: f64) -> u64 {
    match data_type {
        DataType::Float32 => u64::from((value as f32).to_bits()),
        DataType::Float64 => value.to_bits(),
        narrow => format(narrow).encode(value),
    }
}

/// A number, rounded to a float type.
pub fn round(data_type: DataType, value: f64) -> f64 {
    decode_float(data_type, encode_float(data_type, value))
}

/// The number behind the bits of an integer.
pub fn decode_integer(data_type: DataType, bits: u64) -> i128 {
    match data_type {
        DataType::Int8 => i128::from(bits as u8 as i8),
        DataType::Int32 => i128::from(bits as u32 as i32),
        DataType::Int64 => i128::from(bits as i64),
        DataType::Uint8 => i128::from(bits as u8),
        DataType::Uint32 => i128::from(bits as u32),
        DataType::Uint64 => i128::from(bits),
        _ => unreachable!("{data_type:?} is no integer"),
    }
}

/// A number, wrapped around to what the integer type holds.
pub fn wrap(data_type: DataType, value: i128) -> i128 {
    decode_integer(data_type, value as u64)
}

/// The bits of the element at `index`.
pub fn load(data_type: DataType, bytes: &[u8], index: usize) -> u64 {
    let size = data_type.size_bytes();
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&bytes[index * size..][..size]);
    u64::from_le_bytes(wide)
}

/// Writes the bits of the element at `index`.
pub fn store(data_type: DataType, bytes: &mut [u8], index: usize, bits: u64) {
    let size = data_type.size_bytes();
    bytes[index * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_floats_are_what_the_standard_says() {
        for bits in 0..=u64::from(u16::MAX) {
            let half = half::f16::from_bits(bits as u16);
            let brain = half::bf16::from_bits(bits as u16);
            for (data_type, value) in
                [(DataType::Float16, half.to_f64()), (DataType::Bfloat16, brain.to_f64())]
            {
                let mine = decode_float(data_type, bits);
                assert!(mine == value || mine.is_nan() && value.is_nan(), "{data_type:?} {bits:#x}");
                if !value.is_nan() {
                    assert_eq!(encode_float(data_type, value), bits, "{data_type:?} {value}");
                }
            }
        }
        assert_eq!(decode_float(DataType::Float8E4M3, 0x7e), 448.0);
        assert_eq!(decode_float(DataType::Float8E5M2, 0x7b), 57344.0);
        assert_eq!(encode_float(DataType::Float8E4M3, 1e9), 0x7e);
        assert!(decode_float(DataType::Float8E4M3, 0x7f).is_nan());
        for bits in 0..=0x7eu64 {
            assert_eq!(encode_float(DataType::Float8E4M3, decode_float(DataType::Float8E4M3, bits)), bits);
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let mut dice = super::super::dice::Dice::new(1);
        for _ in 0..20_000 {
            let value = f64::from(f32::from_bits(dice.next() as u32));
            if value.is_nan() {
                continue;
            }
            assert_eq!(
                encode_float(DataType::Float16, value),
                u64::from(half::f16::from_f64(value).to_bits())
            );
            assert_eq!(
                encode_float(DataType::Bfloat16, value),
                u64::from(half::bf16::from_f64(value).to_bits())
            );
        }
    }
}
