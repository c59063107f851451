//! A machine's numbers from measured times: those under which the simulator comes closest.
//!
//! ```text
//! repeat, with smaller and smaller factors:
//!     for each number of the fit, times the factor and divided by it:
//!         keep it if the error over the samples gets smaller
//! ```
//! The error is the mean of |log(simulated / measured)|, so that small times count like large ones, and one sample
//! that went wrong counts once. Only numbers of one host are fitted; what is 0 stays 0.
#![forbid(unsafe_code)]

use super::{Folding, Machine, in_a_row};
use crate::schedule::{Algorithm, Call};

/// A measured time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// What was called.
    pub call: Call,
    /// By which algorithm.
    pub algorithm: Algorithm,
    /// How long one call took, of many in a row.
    pub time_ns: f64,
}

/// How many calls in a row are simulated for one that was measured: many of small ones, since a rank that receives
/// nothing runs ahead of the others by what the window holds.
const fn calls(call: &Call) -> u32 {
    if call.bytes() <= 16 << 10 { 64 } else { 8 }
}

type Place = fn(&mut Machine) -> &mut f64;

/// What is fitted.
const PLACES: [Place; 14] = [
    |machine| &mut machine.local.latency_ns,
    |machine| &mut machine.local.send_ns,
    |machine| &mut machine.local.receive_ns,
    |machine| &mut machine.local.send_bytes_per_ns,
    |machine| &mut machine.local.receive_bytes_per_ns,
    |machine| &mut machine.core.call_ns,
    |machine| &mut machine.core.step_ns,
    |machine| &mut machine.core.copy_bytes_per_ns,
    |machine| &mut machine.core.reduce_bytes_per_ns,
    |machine| &mut machine.core.switch_ns,
    |machine| &mut machine.core.patience_ns,
    |machine| &mut machine.core.wake_ns,
    |machine| &mut machine.core.cache_bytes,
    |machine| &mut machine.core.beyond_cache,
];

/// By how much numbers are tried to change, round after round.
const FACTORS: [f64; 7] = [3.0, 2.0, 2.0, 1.5, 1.25, 1.12, 1.06];

/// The simulated time of a sample, in nanoseconds; `None` where it cannot be simulated.
#[must_use]
pub fn simulated_ns(machine: &Machine, sample: &Sample) -> Option<f64> {
    let outcome = in_a_row(machine, &sample.call, sample.algorithm, &Folding::Never, calls(&sample.call));
    outcome.ok().map(|outcome| outcome.time_ns)
}

fn error(machine: &Machine, samples: &[Sample]) -> f64 {
    let one = |sample: &Sample| {
        let simulated = simulated_ns(machine, sample)?;
        Some((simulated.max(0.001) / sample.time_ns).ln().abs())
    };
    let errors: Vec<f64> = samples.iter().filter_map(one).collect();
    errors.iter().sum::<f64>() / errors.len().max(1) as f64
}

/// The machine that comes closest to the samples, beginning with `start`.
#[must_use]
pub fn fit(start: &Machine, samples: &[Sample]) -> Machine {
    let mut best = start.clone();
    let mut least = error(&best, samples);
    for factor in FACTORS {
        for place in PLACES {
            for factor in [factor, factor.recip()] {
                let mut tried = best.clone();
                let number = place(&mut tried);
                *number = round(*number * factor);
                if tried.core.beyond_cache < 1.0 {
                    continue;
                }
                let error = error(&tried, samples);
                if error < least {
                    (best, least) = (tried, error);
                }
            }
        }
    }
    best
}

/// To three digits: more would say nothing.
fn round(value: f64) -> f64 {
    if value <= 0.0 {
        return value;
    }
    let unit = 10_f64.powf(value.log10().floor() - 2.0);
    let digits = (value / unit).round();
    // Through text, so that 0.1 is 0.1.
    format!("{:.9}", digits * unit).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Kind, Reduction};

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([round(0.012_345), round(1234.5), round(0.0)], [0.0123, 1230.0, 0.0]);
    }

    #[test]
    fn times_of_a_known_machine_lead_near_it() {
        let mut known = Machine { ranks_per_host: 0, cores_per_host: 2, ..Machine::default() };
        known.core.switch_ns = 1500.0;
        known.local.send_bytes_per_ns = 6.0;
        let sample = |ranks, count, algorithm| {
            let call = Call {
                kind: Kind::AllReduce,
                data_type: DataType::Float32,
                reduction: Reduction::Sum,
                root: 0,
                count,
                ranks,
                in_place: false,
            };
            let time_ns = simulated_ns(&known, &Sample { call, algorithm, time_ns: 1.0 }).unwrap();
            Sample { call, algorithm, time_ns }
        };
        let samples: Vec<Sample> = [2, 3, 4]
            .into_iter()
            .flat_map(|ranks| [16, 4096, 65536].map(|count| (ranks, count)))
            .flat_map(|(ranks, count)| {
                [Algorithm::Ring, Algorithm::Exchange].map(|algorithm| sample(ranks, count, algorithm))
            })
            .collect();
        let start = Machine { ranks_per_host: 0, cores_per_host: 2, ..Machine::default() };
        let before = error(&start, &samples);
        let after = error(&fit(&start, &samples), &samples);
        assert!(after < before / 2.0 && after < 0.1, "{before} became {after}");
    }
}
