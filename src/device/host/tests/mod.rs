//! Every instruction set of this processor against the oracle, bit for bit.

mod oracle;

use proptest::prelude::*;

use super::narrow::{FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, narrow_bfloat16, widen_bfloat16};
use super::{Host, Width};
use crate::device::Device;
use crate::op::{Address, Combine, DataType};

const COMBINES: [Combine; 4] = [Combine::Sum, Combine::Prod, Combine::Max, Combine::Min];

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Elements as they lie in memory, from their bits.
fn lay_out(data_type: DataType, elements: &[u64]) -> Vec<u8> {
    let size = data_type.size_bytes();
    elements.iter().flat_map(|element| element.to_le_bytes().into_iter().take(size)).collect()
}

/// Elements' bits, from memory.
fn pick_up(data_type: DataType, bytes: &[u8]) -> Vec<u64> {
    let whole = |chunk: &[u8]| chunk.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    bytes.chunks_exact(data_type.size_bytes()).map(whole).collect()
}

fn reduce_all(width: Width, combine: Combine, data_type: DataType, left: &[u64], right: &[u64]) -> Vec<u64> {
    let (left, right) = (lay_out(data_type, left), lay_out(data_type, right));
    let mut into = vec![0; left.len()];
    let count = left.len() / data_type.size_bytes();
    // SAFETY: three vectors of `count` elements each.
    unsafe {
        width.reduce(combine, data_type, address(&left), address(&right), address_mut(&mut into), count);
    }
    pick_up(data_type, &into)
}

fn address(bytes: &[u8]) -> Address {
    Address(bytes.as_ptr().expose_provenance())
}

fn address_mut(bytes: &mut [u8]) -> Address {
    Address(bytes.as_mut_ptr().expose_provenance())
}

/// Fails at the first pair that differs from the oracle on any instruction set.
fn check_pairs(combine: Combine, data_type: DataType, left: &[u64], right: &[u64]) {
    let pairs = || left.iter().zip(right);
    let expected: Vec<u64> = pairs().map(|(l, r)| oracle::combine(combine, data_type, *l, *r)).collect();
    for width in Width::available() {
        let found = reduce_all(width, combine, data_type, left, right);
        for ((found, expected), (left, right)) in found.iter().zip(&expected).zip(pairs()) {
            let name = width.name();
            assert!(
                found == expected,
                "{name} {combine:?} {data_type:?}: {left:#x}, {right:#x} gave {found:#x}, not {expected:#x}"
            );
        }
    }
}

/// Bits that are likely to matter: for floats zeros, subnormals, neighbours of overflow, infinities, NaN.
fn telling_bits(data_type: DataType, random: &mut Random) -> u64 {
    let bits = 8 * data_type.size_bytes() as u32;
    let (mantissa_bits, top) = match data_type {
        DataType::Float16 => (10, 0x7c00),
        DataType::Bfloat16 => (7, 0x7f80),
        DataType::Float32 => (23, 0x7f80_0000),
        DataType::Float64 => (52, 0x7ff0_0000_0000_0000),
        _ => (bits / 2, 1u64 << (bits - 1)),
    };
    let choice = random.next();
    let near = choice >> 32 & 3;
    let element = match choice % 16 {
        0 => near,
        1 => top + near,
        2 => top.wrapping_sub(1 + near),
        3 => (1 << mantissa_bits) - 2 + near,
        4 => top >> 1 & !((1 << mantissa_bits) - 1),
        _ => random.next(),
    };
    let sign = (choice >> 40 & 1) << (bits - 1);
    (element ^ sign) & (u64::MAX >> (64 - bits))
}

#[test]
fn every_pair_of_bytes() {
    let left: Vec<u64> = (0..1 << 16).map(|pair| pair >> 8).collect();
    let right: Vec<u64> = (0..1 << 16).map(|pair| pair & 0xff).collect();
    for data_type in DataType::ALL.into_iter().filter(|data_type| data_type.size_bytes() == 1) {
        for combine in COMBINES {
            check_pairs(combine, data_type, &left, &right);
        }
    }
}

#[test]
fn pairs_by_the_ten_thousand() {
    let mut random = Random(1);
    for data_type in DataType::ALL.into_iter().filter(|data_type| data_type.size_bytes() > 1) {
        for combine in COMBINES {
            let [left, right] = [(); 2]
                .map(|()| (0..20_000).map(|_| telling_bits(data_type, &mut random)).collect::<Vec<_>>());
            check_pairs(combine, data_type, &left, &right);
        }
    }
}

#[test]
fn values_whose_sum_is_a_tie_or_next_to_it() {
    let mut random = Random(2);
    for data_type in [DataType::Float16, DataType::Bfloat16] {
        let mantissa_bits = if data_type == DataType::Float16 { 10 } else { 7 };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            let large = random.next() & 0x7fff;
            let exponent = large >> mantissa_bits;
            // Near half a unit in the last place of the larger one.
            let half = exponent.saturating_sub(mantissa_bits + 1) << mantissa_bits;
            left.push(large);
            right.push((half + 1).saturating_sub(random.next() % 3) & 0x7fff | (random.next() & 1) << 15);
        }
        check_pairs(Combine::Sum, data_type, &left, &right);
    }
}

#[test]
fn every_narrow_code_widens_to_its_value() {
    for data_type in DataType::ALL {
        let Some(narrow) = oracle::narrow(data_type) else { continue };
        for code in 0..1u64 << (8 * data_type.size_bytes()) {
            let value = match data_type {
                DataType::Float16 => FLOAT16.widen(code as u32),
                DataType::Bfloat16 => widen_bfloat16(code as u16),
                DataType::Float8E4M3 => FLOAT8_E4M3.widen(code as u32),
                _ => FLOAT8_E5M2.widen(code as u32),
            };
            let expected = narrow.value(code);
            assert!(
                f64::from(value).to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(),
                "{data_type:?} {code:#x}: {value} is not {expected}"
            );
        }
    }
}

fn narrow_by_us(data_type: DataType, value: f32) -> u64 {
    match data_type {
        DataType::Float16 => u64::from(FLOAT16.narrow(value)),
        DataType::Bfloat16 => u64::from(narrow_bfloat16(value)),
        DataType::Float8E4M3 => u64::from(FLOAT8_E4M3.narrow(value)),
        _ => u64::from(FLOAT8_E5M2.narrow(value)),
    }
}

#[test]
fn singles_narrow_to_the_nearest() {
    let mut random = Random(3);
    for data_type in DataType::ALL {
        let Some(narrow) = oracle::narrow(data_type) else { continue };
        let check = |value: f32| {
            let (found, expected) = (narrow_by_us(data_type, value), narrow.nearest(f64::from(value)));
            assert!(found == expected, "{data_type:?} {value:e} gave {found:#x}, not {expected:#x}");
        };
        let codes = 1u64 << (8 * data_type.size_bytes());
        for code in 0..codes {
            // The middle between a value and the next, and the singles beside it. 64 bits hold it exactly.
            let middle = (narrow.value(code) + narrow.value((code + 1) % codes)) / 2.0;
            let middle = middle as f32;
            for value in [narrow.value(code) as f32, middle, middle.next_up(), middle.next_down()] {
                check(value);
            }
        }
        for _ in 0..50_000 {
            check(f32::from_bits(random.next() as u32));
        }
    }
}

#[test]
fn conversions_are_those_of_another_author() {
    for code in 0..=u16::MAX {
        let ours = FLOAT16.widen(u32::from(code));
        let theirs = half::f16::from_bits(code).to_f32();
        assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        let single = f32::from_bits(u32::from(code) << 16 | u32::from(code.reverse_bits()));
        if !single.is_nan() {
            assert_eq!(FLOAT16.narrow(single) as u16, half::f16::from_f32(single).to_bits());
            assert_eq!(narrow_bfloat16(single), half::bf16::from_f32(single).to_bits());
        }
    }
}

/// Which operand, if any, is the target.
#[derive(Clone, Copy)]
enum Place {
    Apart,
    Left,
    Right,
    Both,
}

/// Reduces `count` elements at these offsets, the operands filled from `elements`, and checks the target and
/// the bytes around it.
fn check_place(
    width: Width,
    combine: Combine,
    data_type: DataType,
    (place, offset, count): (Place, usize, usize),
    elements: &[u8],
    expected: [&[u8]; 2],
) {
    const ROOM: usize = 64 + 200 * 8 + 64;
    const UNTOUCHED: u8 = 0xa5;
    let bytes = count * data_type.size_bytes();
    let mut memory = [[UNTOUCHED; ROOM]; 3];
    let offsets = [offset, offset * 7 % 64, offset * 13 % 64];
    let half = elements.len() / 2;
    memory[0][offsets[0]..][..bytes].copy_from_slice(&elements[..bytes]);
    memory[1][offsets[1]..][..bytes].copy_from_slice(&elements[half..half + bytes]);
    let (left, right, target) = match place {
        Place::Apart => (0, 1, 2),
        Place::Left => (0, 1, 0),
        Place::Right => (0, 1, 1),
        Place::Both => (0, 0, 0),
    };
    let base = memory.as_mut_ptr().expose_provenance();
    let at = |which: usize| Address(base + which * ROOM + offsets[which]);
    // SAFETY: every range begins below 64 and ends within its row of `memory`.
    unsafe { width.reduce(combine, data_type, at(left), at(right), at(target), count) };
    let expected = if matches!(place, Place::Both) { expected[1] } else { expected[0] };
    let (before, rest) = memory[target].split_at(offsets[target]);
    let (found, after) = rest.split_at(bytes);
    let name = width.name();
    assert!(
        found == &expected[..bytes],
        "{name} {combine:?} {data_type:?} {count} elements, offset {offset}, place {}",
        place as u8
    );
    assert!(before.iter().chain(after).all(|byte| *byte == UNTOUCHED), "{name} wrote beside its target");
}

#[test]
fn all_alignments_and_counts_in_all_places() {
    let mut random = Random(4);
    let widths = Width::available();
    for data_type in DataType::ALL {
        let elements: Vec<u64> = (0..400).map(|_| telling_bits(data_type, &mut random)).collect();
        let (left, right) = elements.split_at(200);
        let bytes = lay_out(data_type, &elements);
        let results = COMBINES.map(|combine| {
            [right, left].map(|right| {
                let pairs = left.iter().zip(right);
                let result: Vec<u64> =
                    pairs.map(|(l, r)| oracle::combine(combine, data_type, *l, *r)).collect();
                lay_out(data_type, &result)
            })
        });
        for offset in 0..64 {
            for count in 0..=200 {
                let operator = (offset + count) % 4;
                let place = [Place::Apart, Place::Left, Place::Right, Place::Both][(offset / 4 + count) % 4];
                let expected = [&results[operator][0][..], &results[operator][1][..]];
                let place = (place, offset, count);
                for width in &widths {
                    check_place(*width, COMBINES[operator], data_type, place, &bytes, expected);
                }
            }
        }
    }
}

#[test]
fn scaling_is_the_product_with_one_value() {
    let mut random = Random(5);
    for data_type in DataType::ALL {
        let elements: Vec<u64> = (0..777).map(|_| telling_bits(data_type, &mut random)).collect();
        for _ in 0..20 {
            let multiplier = telling_bits(data_type, &mut random);
            let product = |element: &u64| oracle::combine(Combine::Prod, data_type, *element, multiplier);
            let expected: Vec<u64> = elements.iter().map(product).collect();
            for width in Width::available() {
                let mut bytes = lay_out(data_type, &elements);
                let range = address_mut(&mut bytes);
                // SAFETY: one vector of as many elements, in place.
                unsafe { width.scale(data_type, multiplier.to_le_bytes(), range, range, elements.len()) };
                assert_eq!(pick_up(data_type, &bytes), expected, "{} {data_type:?}", width.name());
            }
        }
    }
}

#[test]
fn division_rounds_towards_zero() {
    let mut random = Random(6);
    for data_type in DataType::ALL.into_iter().filter(|data_type| !data_type.is_float()) {
        let mut elements: Vec<u64> = (0..1000).map(|_| telling_bits(data_type, &mut random)).collect();
        elements.extend((0..256).map(|byte| oracle::truncated(data_type, byte)));
        let small = 1..300;
        let large = [65535, 65536, 65537, 1 << 31, u32::MAX - 1, u32::MAX];
        for divisor in small.chain(large).chain((0..100).map(|_| random.next() as u32 | 1)) {
            let quotient = |element: &u64| {
                let quotient = oracle::signed_value(data_type, *element) / i128::from(divisor);
                oracle::truncated(data_type, quotient)
            };
            let expected: Vec<u64> = elements.iter().map(quotient).collect();
            let mut bytes = lay_out(data_type, &elements);
            let range = address_mut(&mut bytes[..]);
            // SAFETY: one vector of as many elements.
            unsafe { Host.divide(data_type, divisor, range, elements.len()) };
            assert_eq!(pick_up(data_type, &bytes), expected, "{data_type:?} by {divisor}");
        }
    }
}

#[test]
fn reciprocals_are_rounded_to_the_type() {
    let exact = |n: u32| f64::from((1.0 / f64::from(n)) as f32);
    for n in (1..3000).chain([65_536, 1 << 24, (1 << 26) + 1, u32::MAX]) {
        for data_type in DataType::ALL.into_iter().filter(|data_type| data_type.is_float()) {
            let expected = match (oracle::narrow(data_type), data_type) {
                (Some(narrow), _) => narrow.nearest(exact(n)),
                (None, DataType::Float32) => u64::from((exact(n) as f32).to_bits()),
                _ => (1.0 / f64::from(n)).to_bits(),
            };
            assert_eq!(u64::from_le_bytes(Host.reciprocal(data_type, n)), expected, "{data_type:?} of {n}");
        }
    }
}

#[test]
fn what_is_too_large_for_eight_bits_ends_at_the_largest() {
    let [inf, largest, nan] = [0x7c, 0x7b, 0x7f];
    for combine in COMBINES {
        check_pairs(combine, DataType::Float8E5M2, &[inf, inf, largest], &[inf, nan, largest]);
    }
    let width = Width::available()[0];
    assert_eq!(reduce_all(width, Combine::Max, DataType::Float8E5M2, &[inf], &[0]), [largest]);
    assert_eq!(reduce_all(width, Combine::Sum, DataType::Float8E5M2, &[inf], &[0xfc]), [nan]);
    assert_eq!(reduce_all(width, Combine::Sum, DataType::Float8E4M3, &[0x7e], &[0x7e]), [0x7e]);
    assert_eq!(reduce_all(width, Combine::Sum, DataType::Float8E4M3, &[0xff], &[1]), [0x7f]);
}

fn check_copy(bytes: usize, offsets: [usize; 2], copy: impl Fn(Address, Address, usize)) {
    let source: Vec<u8> = (0..bytes + 64).map(|at| (at * 31 + at / 256) as u8).collect();
    let mut target = vec![0xa5; bytes + 192];
    let start = target.as_ptr().align_offset(64) + offsets[1];
    copy(address(&source[offsets[0]..]), address_mut(&mut target[start..]), bytes);
    assert_eq!(target[start..start + bytes], source[offsets[0]..offsets[0] + bytes], "{bytes} {offsets:?}");
    let (before, rest) = target.split_at(start);
    assert!(before.iter().chain(&rest[bytes..]).all(|byte| *byte == 0xa5), "{bytes} {offsets:?}");
}

#[test]
fn copies_copy_and_no_more() {
    for bytes in 0..400 {
        for offset in [0, 1, 8, 31, 63] {
            let offsets = [offset, offset * 5 % 64];
            // SAFETY: `check_copy` hands out two ranges of so many bytes in two vectors.
            check_copy(bytes, offsets, |from, into, bytes| unsafe { Host.copy(from, into, bytes) });
            // SAFETY: the same.
            check_copy(bytes, offsets, |from, into, bytes| unsafe { Host.copy_streaming(from, into, bytes) });
            for width in Width::available() {
                // SAFETY: the same.
                check_copy(bytes, offsets, |from, into, bytes| unsafe {
                    width.copy_streaming(from, into, bytes);
                });
            }
        }
    }
}

proptest! {
    #[test]
    fn the_host_is_its_widest_instruction_set(
        data_type in (0..12usize).prop_map(|index| DataType::ALL[index]),
        combine in (0..4usize).prop_map(|index| COMBINES[index]),
        elements in proptest::collection::vec(any::<[u64; 2]>(), 0..300),
    ) {
        let mask = u64::MAX >> (64 - 8 * data_type.size_bytes());
        let [left, right] = [0, 1].map(|which| elements.iter().map(|pair| pair[which] & mask).collect::<Vec<_>>());
        let expected: Vec<u64> =
            left.iter().zip(&right).map(|(l, r)| oracle::combine(combine, data_type, *l, *r)).collect();
        let (left, mut right) = (lay_out(data_type, &left), lay_out(data_type, &right));
        let target = address_mut(&mut right);
        // SAFETY: two vectors of as many elements; the target is the right one.
        unsafe { Host.reduce(combine, data_type, address(&left), target, target, elements.len()) };
        prop_assert_eq!(pick_up(data_type, &right), expected);
    }
}
