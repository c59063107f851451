//! What is measured: operations and sizes.
#![forbid(unsafe_code)]

use super::Options;
use super::profile::{self, Profile};
use crate::cli::Failure;
use crate::cli::bench::operation::Operation;
use crate::op::Kind;

/// The sizes where nobody says otherwise.
const SIZES: [usize; 12] =
    [8, 32, 128, 512, 2 << 10, 8 << 10, 32 << 10, 128 << 10, 512 << 10, 2 << 20, 8 << 20, 16 << 20];
/// The sizes at which regret is measured: none of those above.
const OTHER_SIZES: [usize; 12] =
    [4, 16, 100, 300, 1_000, 5_000, 20_000, 70_000, 300_000, 1_000_000, 5_000_000, 12_000_000];
/// So many sizes of a profile are measured for each operation: those that count most.
const PROFILE_SIZES: usize = 12;
/// Sizes of a profile are measured up to this one, and larger ones follow it.
const BYTES_MAX: u64 = 64 << 20;

/// One operation at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MeasuredPoint {
    pub(super) operation: Kind,
    /// As rows count it.
    pub(super) bytes: u64,
    /// Elements as the call names them.
    pub(super) count: usize,
    /// Its share of the time, in relation to the others.
    pub(super) weight: f64,
}

/// Everything that is measured.
#[derive(Clone, Debug)]
pub(super) struct PointList {
    pub(super) all: Vec<MeasuredPoint>,
    pub(super) profile: Option<Profile>,
}

impl PointList {
    pub(super) fn new(options: &Options, ranks: usize) -> Result<PointList, Failure> {
        let profile = options.profile.as_deref().map(profile::load).transpose()?;
        let element_bytes = options.data_type.size_bytes();
        let mut all: Vec<MeasuredPoint> = Vec::new();
        for (operation, bytes, weight) in wanted(options, profile.as_ref()) {
            let count = measured(operation).count(bytes as usize, element_bytes, ranks);
            let bytes = measured(operation).size_bytes(count, element_bytes, ranks) as u64;
            // Sizes below one element a rank are the same point.
            match all.iter_mut().find(|known| known.operation == operation && known.bytes == bytes) {
                Some(known) => known.weight += weight,
                None => all.push(MeasuredPoint { operation, bytes, count, weight }),
            }
        }
        if all.is_empty() {
            return Err(Failure("the profile has none of the operations; see shoal tune --help".into()));
        }
        all.sort_by_key(|point| (point.operation as u8, point.bytes));
        Ok(PointList { all, profile })
    }

    /// The operations, each once.
    pub(super) fn operations(&self) -> Vec<Kind> {
        let mut operations: Vec<Kind> = self.all.iter().map(|point| point.operation).collect();
        operations.dedup();
        operations
    }
}

/// Operations, sizes and weights, as the options want them.
fn wanted(options: &Options, profile: Option<&Profile>) -> Vec<(Kind, u64, f64)> {
    let is_wanted = |kind: Kind| options.op.is_empty() || options.op.contains(&kind);
    let sizes: &[usize] = match (options.sizes.as_slice(), options.regret) {
        ([], true) => &OTHER_SIZES,
        ([], false) => &SIZES,
        (listed, _) => listed,
    };
    let collectives = Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point() && is_wanted(*kind));
    let Some(profile) = profile else {
        return collectives
            .flat_map(|kind| sizes.iter().map(move |bytes| (kind, *bytes as u64, 1.0)))
            .collect();
    };
    let mut wanted = Vec::new();
    for kind in collectives {
        let mut calls: Vec<_> = profile.calls.iter().filter(|call| call.operation == kind).collect();
        // What takes long and what is called often, without a clock: calls times the size and a little.
        let share = |calls: u64, bytes: u64| calls as f64 * (4096 + bytes) as f64;
        calls.sort_by(|one, other| share(other.calls, other.bytes).total_cmp(&share(one.calls, one.bytes)));
        let weighed = |call: &&profile::Calls| {
            (kind, call.bytes.min(BYTES_MAX), 1.0 + (1.0 + call.calls as f64).log2())
        };
        wanted.extend(calls.iter().take(PROFILE_SIZES).map(weighed));
        if !options.sizes.is_empty() && !calls.is_empty() {
            wanted.extend(options.sizes.iter().map(|bytes| (kind, *bytes as u64, 1.0)));
        }
    }
    wanted
}

/// The operation as the harness has it.
pub(super) fn measured(kind: Kind) -> Operation {
    match kind {
        Kind::Reduce => Operation::Reduce,
        Kind::Broadcast => Operation::Broadcast,
        Kind::AllGather => Operation::AllGather,
        Kind::ReduceScatter => Operation::ReduceScatter,
        Kind::AlltoAll => Operation::AllToAll,
        Kind::Gather => Operation::Gather,
        Kind::Scatter => Operation::Scatter,
        // Messages have no algorithm.
        Kind::AllReduce | Kind::Send | Kind::Recv => Operation::AllReduce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn points(line: &str, ranks: usize) -> Vec<MeasuredPoint> {
        let words = std::iter::once("tune").chain(line.split_whitespace());
        let options = Line::try_parse_from(words).map_err(|error| error.to_string()).unwrap().options;
        PointList::new(&options, ranks).unwrap().all
    }

    #[test]
    fn all_operations_have_points_of_which_none_is_measured_twice() {
        let all = points("", 8);
        assert!((80..=96).contains(&all.len()), "{}", all.len());
        for (place, point) in all.iter().enumerate() {
            let twin = all[..place]
                .iter()
                .find(|twin| (twin.operation, twin.bytes) == (point.operation, point.bytes));
            assert!(twin.is_none(), "{point:?}");
        }
        let gather: Vec<u64> =
            points("--op all-gather --sizes 8,32,64", 8).iter().map(|point| point.bytes).collect();
        assert_eq!(gather, [32, 64], "below 4 bytes a rank there is nothing");
    }

    #[test]
    fn regret_is_measured_elsewhere() {
        let (tuned, judged) = (points("", 2), points("--regret", 2));
        let is_shared = |point: &MeasuredPoint| {
            tuned.iter().any(|other| (other.operation, other.bytes) == (point.operation, point.bytes))
        };
        let shared: Vec<_> = judged.iter().filter(|point| point.bytes > 8 && is_shared(point)).collect();
        assert!(shared.is_empty(), "{shared:?}");
    }
}
