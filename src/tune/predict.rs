//! What a candidate takes at a size: as it was measured there, between two sizes at which it was measured, or by
//! the model.
//!
//! Between points the model is bent so that it goes through both: the ratio of measured to modelled time is
//! interpolated over the logarithm of the size. Outside of the points the ratio of the nearest one holds, and the
//! answer says that it is a guess.
#![forbid(unsafe_code)]

use super::estimate;
use super::table::{Choice, Sample, Site, Table, TypeClass};
use crate::op::{DataType, Kind, Reduction};
use crate::schedule::{self, Call, Hosts};

/// Up to this many ranks every rank's plan is looked at; of more ranks the first, the middle and the last.
const RANKS_MAX: u32 = 64;

/// How a time is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// It was measured at this size.
    Measured(Sample),
    /// Between these two sizes at which it was measured.
    Between(u64, u64),
    /// Outside of all sizes at which it was measured; this one is the nearest.
    Outside(u64),
    /// It was never measured: the model alone.
    Model,
}

/// A time, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// How long.
    pub us: f64,
    /// How it is known.
    pub basis: Basis,
}

/// What the model says of `choice` for `call`: the slowest rank's plan, in microseconds. `None` without a form.
#[must_use]
pub fn model_us(choice: Choice, call: &Call, hosts: &Hosts) -> Option<f64> {
    let ranks: Vec<u32> = if call.ranks <= RANKS_MAX {
        (0..call.ranks).collect()
    } else {
        vec![0, call.ranks / 2, call.ranks - 1]
    };
    let plan = |rank| schedule::plan_in_pieces(choice.algorithm, call, rank, hosts, choice.piece_bytes());
    let times: Option<Vec<u64>> =
        ranks.into_iter().map(|rank| plan(rank).map(|plan| estimate::plan_ns(&plan))).collect();
    times?.into_iter().max().map(|ns| ns as f64 / 1e3)
}

/// A call of that size: the sum of floats, from rank 0.
#[must_use]
pub fn call_of(operation: Kind, bytes: u64, data_type: DataType, ranks: u32) -> Call {
    let blocks = match operation {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => u64::from(ranks.max(1)),
    };
    let count = bytes / blocks / data_type.size_bytes() as u64;
    let count = usize::try_from(count).unwrap_or(usize::MAX).max(usize::from(bytes > 0));
    Call { kind: operation, data_type, reduction: Reduction::Sum, root: 0, count, ranks, in_place: false }
}

/// The samples of `choice` at `site`, by size, of the first table that has any.
#[must_use]
pub fn samples(
    tables: &[&Table],
    site: &Site,
    operation: Kind,
    types: TypeClass,
    choice: Choice,
) -> Vec<(u64, Sample)> {
    let of_table = |table: &&Table| {
        let fits = table.rows.iter().filter(|row| {
            row.key.operation == operation
                && row.key.fits(site)
                && row.key.types.is_none_or(|named| named == types)
        });
        let mut found: Vec<(u64, Sample)> = fits
            .flat_map(|row| &row.points)
            .flat_map(|point| point.samples.iter().map(|sample| (point.bytes, *sample)))
            .filter(|(_, sample)| sample.choice == choice)
            .collect();
        found.sort_by_key(|(bytes, _)| *bytes);
        found.dedup_by_key(|(bytes, _)| *bytes);
        found
    };
    tables.iter().map(of_table).find(|found| !found.is_empty()).unwrap_or_default()
}

/// The time at `bytes` from `samples`, ascending by size, and from the model.
#[must_use]
pub fn predict(samples: &[(u64, Sample)], bytes: u64, model_us: impl Fn(u64) -> f64) -> Predicted {
    let ratio = |(at, sample): &(u64, Sample)| sample.median_us / model_us(*at).max(1e-3);
    let here_us = model_us(bytes).max(1e-3);
    let above = samples.partition_point(|(at, _)| *at < bytes);
    match (above.checked_sub(1).map(|below| &samples[below]), samples.get(above)) {
        (_, Some((at, sample))) if *at == bytes => {
            Predicted { us: sample.median_us, basis: Basis::Measured(*sample) }
        }
        (Some(low), Some(high)) => {
            let log = |bytes: u64| (bytes.max(1) as f64).ln();
            let share = (log(bytes) - log(low.0)) / (log(high.0) - log(low.0)).max(1e-9);
            let bent = ratio(low).max(1e-9).ln() * (1.0 - share) + ratio(high).max(1e-9).ln() * share;
            Predicted { us: here_us * bent.exp(), basis: Basis::Between(low.0, high.0) }
        }
        (Some(nearest), None) | (None, Some(nearest)) => {
            Predicted { us: here_us * ratio(nearest), basis: Basis::Outside(nearest.0) }
        }
        (None, None) => Predicted { us: model_us(bytes), basis: Basis::Model },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Algorithm;

    const CHOICE: Choice = Choice::usual(Algorithm::Ring);

    fn sample(median_us: f64) -> Sample {
        Sample { choice: CHOICE, median_us, low_us: median_us, high_us: median_us }
    }

    #[test]
    fn points_hold_and_between_them_the_model_is_bent() {
        let model = |bytes: u64| 1.0 + bytes as f64 / 100.0;
        // Twice the model at one point, four times at the other.
        let samples = [(100, sample(4.0)), (1600, sample(68.0))];
        assert_eq!(predict(&samples, 100, model).us, 4.0);
        let between = predict(&samples, 400, model);
        assert_eq!(between.basis, Basis::Between(100, 1600));
        assert!((between.us - 5.0 * 2.0 * 2_f64.sqrt()).abs() < 1e-9, "{between:?}");
        let above = predict(&samples, 9_900, model);
        assert_eq!((above.us, above.basis), (400.0, Basis::Outside(1600)));
        let below = predict(&samples, 0, model);
        assert_eq!((below.us, below.basis), (2.0, Basis::Outside(100)));
        assert_eq!(predict(&[], 100, model), Predicted { us: 2.0, basis: Basis::Model });
    }

    #[test]
    fn sizes_make_calls_of_that_size() {
        for operation in [Kind::AllReduce, Kind::AllGather] {
            for bytes in [0, 4, 64, 1 << 20] {
                let call = call_of(operation, bytes, DataType::Float32, 4);
                let expected = if bytes == 4 && operation == Kind::AllGather { 16 } else { bytes };
                assert_eq!(super::super::size_bytes(&call), expected);
            }
        }
        let call = call_of(Kind::AllReduce, 1 << 20, DataType::Float32, 100);
        assert!(model_us(CHOICE, &call, &Hosts::one()) > Some(10.0));
    }

    proptest::proptest! {
        /// Nothing between two points lies outside of what the two ratios allow.
        #[test]
        fn between_two_points_the_ratio_is_between_theirs(a in 1.0_f64..50.0, b in 1.0_f64..50.0, bytes in 100_u64..1600) {
            let model = |bytes: u64| bytes as f64;
            let samples = [(100, sample(100.0 * a)), (1600, sample(1600.0 * b))];
            let ratio = predict(&samples, bytes, model).us / bytes as f64;
            proptest::prop_assert!(ratio >= a.min(b) * 0.999 && ratio <= a.max(b) * 1.001);
        }
    }
}
