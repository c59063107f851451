//! What every buffer must hold afterwards, by the plainest computation.

use std::cell::OnceCell;
use std::rc::Rc;

use shoal::op::{DataType, Kind, Reduction};

use super::dice::{Dice, mix};
use super::number;
use super::program::{Action, Collective, Program, Side, Values};

/// What every rank of a program puts in and must get out; computed when first asked for.
pub struct Oracle<'a> {
    program: &'a Program,
    results: Vec<OnceCell<Rc<Result>>>,
}

/// One action's data.
struct Result {
    /// What each rank of the communicator reads; empty where it has no meaning.
    inputs: Vec<Vec<u8>>,
    /// Of reductions, the result of all slices.
    elements: Vec<Element>,
}

/// A reduced value.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    bits: u64,
    /// 0 where every order of the reduction gives the same bits.
    tolerance: f64,
}

/// What a rank's target must hold.
#[derive(Clone, Debug)]
pub enum Expected {
    Bytes(Vec<u8>),
    Elements(DataType, Vec<Element>),
}

impl<'a> Oracle<'a> {
    pub fn new(program: &'a Program) -> Oracle<'a> {
        Oracle { program, results: program.actions.iter().map(|_| OnceCell::new()).collect() }
    }

    /// The data that `rank` of the communicator puts in.
    pub fn input(&self, action: usize, rank: u32) -> Vec<u8> {
        match &self.program.actions[action] {
            Action::Message(message) => random_bytes(message.seed, rank, message.bytes),
            Action::Collective(collective) => input_of(collective, rank, self.program.ranks),
        }
    }

    /// What the target of `rank` of the communicator must hold; `None` where nothing is written.
    pub fn expected(&self, action: usize, rank: u32, side: Side) -> Option<Expected> {
        match (&self.program.actions[action], side) {
            (Action::Message(_), Side::Sender) => None,
            (Action::Message(message), _) => Some(Expected::Bytes(self.input(action, message.sender))),
            (Action::Collective(collective), _) => {
                is_written(collective, rank).then(|| self.expected_of(action, collective, rank as usize))
            }
        }
    }

    fn result(&self, action: usize, collective: &Collective) -> Rc<Result> {
        let ranks = self.program.ranks;
        Rc::clone(self.results[action].get_or_init(|| {
            let inputs: Vec<_> = (0..ranks).map(|rank| input_of(collective, rank, ranks)).collect();
            let elements = if collective.kind.reduces() { reduce(collective, &inputs) } else { Vec::new() };
            Rc::new(Result { inputs, elements })
        }))
    }

    fn expected_of(&self, action: usize, collective: &Collective, rank: usize) -> Expected {
        let result = self.result(action, collective);
        let bytes = collective.count * collective.data_type.size_bytes();
        let slice = |of: &[u8]| of[rank * bytes..][..bytes].to_vec();
        match collective.kind {
            Kind::AllReduce | Kind::Reduce => {
                Expected::Elements(collective.data_type, result.elements.clone())
            }
            Kind::ReduceScatter => {
                let mine = &result.elements[rank * collective.count..][..collective.count];
                Expected::Elements(collective.data_type, mine.to_vec())
            }
            Kind::Broadcast => Expected::Bytes(result.inputs[collective.root as usize].clone()),
            Kind::Scatter => Expected::Bytes(slice(&result.inputs[collective.root as usize])),
            Kind::AllGather | Kind::Gather => Expected::Bytes(result.inputs.concat()),
            _ => Expected::Bytes(result.inputs.iter().flat_map(|input| slice(input)).collect()),
        }
    }
}

impl Expected {
    /// Whether `found` is it; else what differs first.
    pub fn check(&self, found: &[u8]) -> std::result::Result<(), String> {
        match self {
            Expected::Bytes(bytes) => check_bytes(bytes, found),
            Expected::Elements(data_type, elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let bits = number::load(*data_type, found, index);
                    if !element.allows(*data_type, bits) {
                        return Err(format!(
                            "element {index} of {} ({}) is {bits:#x}, expected {:#x} give or take {:e}",
                            elements.len(),
                            data_type.name(),
                            element.bits,
                            element.tolerance
                        ));
                    }
                }
                Ok(())
            }
        }
    }
}

/// Whether two lists of bytes are the same; else what differs first.
pub fn check_bytes(expected: &[u8], found: &[u8]) -> std::result::Result<(), String> {
    let different = expected.iter().zip(found).position(|(left, right)| left != right);
    match different {
        None if expected.len() == found.len() => Ok(()),
        None => Err(format!("{} bytes, expected {}", found.len(), expected.len())),
        Some(at) => {
            let count = expected.iter().zip(found).filter(|(left, right)| left != right).count();
            Err(format!(
                "byte {at} of {} is {:#x}, expected {:#x}; {count} bytes differ",
                expected.len(),
                found[at],
                expected[at]
            ))
        }
    }
}

impl Element {
    fn allows(self, data_type: DataType, bits: u64) -> bool {
        if self.tolerance == 0.0 || bits == self.bits {
            return bits == self.bits;
        }
        let [found, expected] = [bits, self.bits].map(|bits| number::decode_float(data_type, bits));
        (found - expected).abs() <= self.tolerance
    }
}

/// Whether the source of `rank` has a meaning.
pub fn is_read(collective: &Collective, rank: u32) -> bool {
    !matches!(collective.kind, Kind::Broadcast | Kind::Scatter) || rank == collective.root
}

/// Whether the target of `rank` has a meaning.
pub fn is_written(collective: &Collective, rank: u32) -> bool {
    !matches!(collective.kind, Kind::Reduce | Kind::Gather) || rank == collective.root
}

/// How many times the count the source and the target hold.
pub fn slices(kind: Kind, ranks: u32) -> [usize; 2] {
    let all = ranks as usize;
    match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast | Kind::Send | Kind::Recv => [1, 1],
        Kind::AllGather | Kind::Gather => [1, all],
        Kind::ReduceScatter | Kind::Scatter => [all, 1],
        Kind::AlltoAll => [all, all],
    }
}

fn random_bytes(seed: u64, rank: u32, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    Dice::new(mix(seed, u64::from(rank))).fill(&mut data);
    data
}

fn input_of(collective: &Collective, rank: u32, ranks: u32) -> Vec<u8> {
    if !is_read(collective, rank) {
        return Vec::new();
    }
    let count = collective.count * slices(collective.kind, ranks)[0];
    let data_type = collective.data_type;
    let mut data = random_bytes(collective.seed, rank, count * data_type.size_bytes());
    if collective.kind.reduces() && data_type.is_float() {
        for index in 0..count {
            let random = number::load(data_type, &data, index);
            let bits = float_value(collective, rank, ranks, index, random);
            number::store(data_type, &mut data, index, bits);
        }
    }
    data
}

/// A float that suits the reduction, from random bits.
fn float_value(collective: &Collective, rank: u32, ranks: u32, index: usize, random: u64) -> u64 {
    let data_type = collective.data_type;
    let mut dice = Dice::new(random ^ (index as u64) << 32);
    let sign = if dice.chance(50) { -1.0 } else { 1.0 };
    // Turns with the element, so that no rank is always the special one.
    let turn = (rank as usize + index) % ranks as usize;
    let value = match collective.reduction {
        Reduction::Max | Reduction::Min => {
            let value = number::decode_float(data_type, random);
            // NaN and the two zeros have no order that everybody agrees on, and 8 bits store no infinity.
            let is_odd = value.is_nan() || value == 0.0 || data_type.size_bytes() == 1 && value.is_infinite();
            return if is_odd { 0 } else { random };
        }
        Reduction::Prod => {
            let is_special = turn.is_multiple_of((ranks as usize).div_ceil(5));
            sign * if is_special { dice.pick(&[0.5, 1.0, 2.0]) } else { 1.0 }
        }
        _ if collective.values == Values::Rough => sign * dice.below(1 << 24) as f64 / f64::from(1 << 24),
        _ => {
            let most = 1usize << number::precision_bits(data_type).min(20);
            let scale = number::power((mix(collective.seed, index as u64) % 4) as i32);
            let is_special = turn.is_multiple_of((ranks as usize).div_ceil(most));
            let magnitude = dice.below((most / ranks as usize).max(1) + 1);
            if is_special { sign * magnitude as f64 * scale } else { 0.0 }
        }
    };
    number::encode_float(data_type, value)
}

/// The multiplier that `rank` gives to a PreMulSum, as bits of the type.
pub fn scalar_of(collective: &Collective, rank: u32) -> u64 {
    let mut dice = Dice::new(mix(collective.seed, 0x5ca1a + u64::from(rank)));
    if collective.data_type.is_float() {
        return number::encode_float(collective.data_type, dice.pick(&[1.0, -1.0, 0.5, 2.0, -2.0]));
    }
    let random = dice.next();
    number::load(collective.data_type, &random.to_le_bytes(), 0)
}

fn reduce(collective: &Collective, inputs: &[Vec<u8>]) -> Vec<Element> {
    let data_type = collective.data_type;
    let count = inputs[0].len() / data_type.size_bytes();
    let mut bits = vec![0; inputs.len()];
    let scalars: Vec<u64> = (0..inputs.len()).map(|rank| scalar_of(collective, rank as u32)).collect();
    let element = |index| {
        for (bits, input) in bits.iter_mut().zip(inputs) {
            *bits = number::load(data_type, input, index);
        }
        if data_type.is_float() {
            reduce_floats(data_type, collective.reduction, &bits, &scalars)
        } else {
            reduce_integers(data_type, collective.reduction, &bits, &scalars)
        }
    };
    (0..count).map(element).collect()
}

/// Integers wrap around, so that no order matters.
fn reduce_integers(data_type: DataType, reduction: Reduction, bits: &[u64], scalars: &[u64]) -> Element {
    let wrap = |value| number::wrap(data_type, value);
    let values = bits.iter().map(|bits| number::decode_integer(data_type, *bits));
    let scalars = scalars.iter().map(|bits| number::decode_integer(data_type, *bits));
    let sum = |terms: &mut dyn Iterator<Item = i128>| terms.fold(0, |sum, term| wrap(sum + term));
    let result = match reduction {
        Reduction::Sum => sum(&mut values.into_iter()),
        Reduction::Avg => sum(&mut values.into_iter()) / bits.len() as i128,
        Reduction::PreMulSum => sum(&mut values.zip(scalars).map(|(value, by)| wrap(value.wrapping_mul(by)))),
        Reduction::Prod => values.fold(1, |product: i128, value| wrap(product.wrapping_mul(value))),
        Reduction::Max => values.max().unwrap_or_default(),
        Reduction::Min => values.min().unwrap_or_default(),
    };
    Element { bits: number::load(data_type, &(result as u64).to_le_bytes(), 0), tolerance: 0.0 }
}

fn reduce_floats(data_type: DataType, reduction: Reduction, bits: &[u64], scalars: &[u64]) -> Element {
    let decode = |bits: &u64| number::decode_float(data_type, *bits);
    let values = bits.iter().map(decode);
    let by_each = |by: f64, value: f64| number::round(data_type, value * by);
    let reciprocal = number::round(data_type, 1.0 / bits.len() as f64);
    let (result, tolerance) = match reduction {
        Reduction::Max => (values.fold(f64::NEG_INFINITY, f64::max), 0.0),
        Reduction::Min => (values.fold(f64::INFINITY, f64::min), 0.0),
        // The values were chosen so that no product rounds.
        Reduction::Prod => (values.product(), 0.0),
        Reduction::Sum => sum(data_type, values.collect()),
        Reduction::Avg => sum(data_type, values.map(|value| by_each(reciprocal, value)).collect()),
        Reduction::PreMulSum => {
            let terms = values.zip(scalars.iter().map(decode)).map(|(value, by)| by_each(by, value));
            sum(data_type, terms.collect())
        }
    };
    Element { bits: number::encode_float(data_type, result), tolerance }
}

/// The sum, and how far another order of adding may lie from it.
///
/// Each of the n - 1 additions rounds by at most half a step of a number that is no larger than the sum of all
/// magnitudes. None rounds where all terms are multiples of a step that still fits that sum.
fn sum(data_type: DataType, terms: Vec<f64>) -> (f64, f64) {
    let result = terms.iter().copied().reduce(|sum, term| sum + term).unwrap_or_default();
    let magnitude: f64 = terms.iter().map(|term| term.abs()).sum();
    let step = terms.iter().map(|term| number::lowest_bit(*term)).fold(f64::INFINITY, f64::min);
    let precision = number::power(number::precision_bits(data_type).min(52));
    if terms.len() == 1 || magnitude == 0.0 || magnitude / step <= precision {
        return (result, 0.0);
    }
    let roundings = terms.len() as f64;
    (result, roundings * (magnitude / precision * 1.25 + number::smallest(data_type)))
}
