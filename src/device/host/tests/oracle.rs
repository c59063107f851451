//! What results must be, by the plainest means: a narrow float is looked up among all of its type's values,
//! the nearest is found by bisection, and the arithmetic is that of double precision or of wide integers.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::sync::LazyLock;

use crate::op::{Combine, DataType};

/// A narrow float type as a table.
pub(super) struct Narrow {
    sign: u64,
    /// The value of every code; the type's own definition, in powers of two.
    values: Vec<f64>,
    /// Codes of the values that a result may have, from 0 upwards, in the order of their values.
    targets: Vec<(f64, u64)>,
    pub(super) nan: u64,
}

impl Narrow {
    fn new(exponent_bits: u32, mantissa_bits: u32, is_ieee: bool, saturates: bool) -> Narrow {
        let sign = 1u64 << (exponent_bits + mantissa_bits);
        let bias = (1 << (exponent_bits - 1)) - 1;
        let last_exponent = (1 << exponent_bits) - 1;
        let value = |code: u64| {
            let mantissa = (code & ((1 << mantissa_bits) - 1)) as f64 / f64::from(1 << mantissa_bits);
            let exponent = ((code & (sign - 1)) >> mantissa_bits) as i32;
            let magnitude = match exponent {
                _ if is_ieee && exponent == last_exponent && mantissa == 0.0 => f64::INFINITY,
                _ if is_ieee && exponent == last_exponent => f64::NAN,
                _ if !is_ieee && code & (sign - 1) == sign - 1 => f64::NAN,
                0 => mantissa * 2f64.powi(1 - bias),
                _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
            };
            if code & sign == 0 { magnitude } else { -magnitude }
        };
        let values: Vec<f64> = (0..2 * sign).map(value).collect();
        let mut targets: Vec<(f64, u64)> = (0..sign)
            .map(|code| (values[code as usize], code))
            .filter(|(value, _)| value.is_finite())
            .collect();
        if !saturates {
            // Infinity is where the next value would be.
            targets.push((2f64.powi(last_exponent - bias), targets.len() as u64));
        }
        assert!(targets.is_sorted_by(|a, b| a.0 < b.0));
        Narrow { sign, values, targets, nan: sign - 1 }
    }

    /// The value of a code.
    pub(super) fn value(&self, code: u64) -> f64 {
        self.values[code as usize]
    }

    /// The code of the nearest value, of two the even one.
    pub(super) fn nearest(&self, value: f64) -> u64 {
        if value.is_nan() {
            return self.nan;
        }
        let sign = if value.is_sign_negative() { self.sign } else { 0 };
        let magnitude = value.abs();
        let above = self.targets.partition_point(|(target, _)| *target < magnitude);
        let Some(&(high, high_code)) = self.targets.get(above) else {
            return self.targets[above - 1].1 | sign;
        };
        if above == 0 {
            return high_code | sign;
        }
        let (low, low_code) = self.targets[above - 1];
        let code = match (magnitude - low).total_cmp(&(high - magnitude)) {
            Ordering::Less => low_code,
            Ordering::Greater => high_code,
            Ordering::Equal => [low_code, high_code].into_iter().find(|code| code % 2 == 0).unwrap(),
        };
        code | sign
    }
}

/// The table of a narrow float type.
pub(super) fn narrow(data_type: DataType) -> Option<&'static Narrow> {
    static FLOAT16: LazyLock<Narrow> = LazyLock::new(|| Narrow::new(5, 10, true, false));
    static BFLOAT16: LazyLock<Narrow> = LazyLock::new(|| Narrow::new(8, 7, true, false));
    static E4M3: LazyLock<Narrow> = LazyLock::new(|| Narrow::new(4, 3, false, true));
    static E5M2: LazyLock<Narrow> = LazyLock::new(|| Narrow::new(5, 2, true, true));
    match data_type {
        DataType::Float16 => Some(&FLOAT16),
        DataType::Bfloat16 => Some(&BFLOAT16),
        DataType::Float8E4M3 => Some(&E4M3),
        DataType::Float8E5M2 => Some(&E5M2),
        _ => None,
    }
}

/// `left combine right`, elements by their bits.
pub(super) fn combine(combine: Combine, data_type: DataType, left: u64, right: u64) -> u64 {
    if let Some(narrow) = narrow(data_type) {
        return narrow.nearest(float(combine, narrow.value(left), narrow.value(right)));
    }
    match data_type {
        DataType::Float32 => {
            let [left, right] = [left, right].map(|bits| f32::from_bits(bits as u32));
            // Double has more than twice the bits of single and two more, so this rounds once.
            let result = float(combine, f64::from(left), f64::from(right)) as f32;
            u64::from(if result.is_nan() { 0x7fff_ffff } else { result.to_bits() })
        }
        DataType::Float64 => {
            let result = float(combine, f64::from_bits(left), f64::from_bits(right));
            if result.is_nan() { u64::MAX >> 1 } else { result.to_bits() }
        }
        _ => integer(combine, data_type, left, right),
    }
}

fn float(combine: Combine, left: f64, right: f64) -> f64 {
    match combine {
        Combine::Sum => left + right,
        Combine::Prod => left * right,
        Combine::Max | Combine::Min if left.is_nan() => right,
        Combine::Max | Combine::Min if right.is_nan() => left,
        // The total order is the usual one with -0 below +0, where there is no NaN.
        Combine::Max => std::cmp::max_by(left, right, f64::total_cmp),
        Combine::Min => std::cmp::min_by(left, right, f64::total_cmp),
    }
}

/// An integer by its bits.
pub(super) fn signed_value(data_type: DataType, bits: u64) -> i128 {
    match data_type {
        DataType::Int8 => i128::from(bits as i8),
        DataType::Uint8 => i128::from(bits as u8),
        DataType::Int32 => i128::from(bits as i32),
        DataType::Uint32 => i128::from(bits as u32),
        DataType::Int64 => i128::from(bits as i64),
        _ => i128::from(bits),
    }
}

/// The element's bits of a number, modulo its size.
pub(super) fn truncated(data_type: DataType, value: i128) -> u64 {
    value as u64 & (u64::MAX >> (64 - 8 * data_type.size_bytes()))
}

fn integer(combine: Combine, data_type: DataType, left: u64, right: u64) -> u64 {
    let [left, right] = [left, right].map(|bits| signed_value(data_type, bits));
    let result = match combine {
        Combine::Sum => left + right,
        Combine::Prod => left.wrapping_mul(right),
        Combine::Max => left.max(right),
        Combine::Min => left.min(right),
    };
    truncated(data_type, result)
}
