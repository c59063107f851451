//! What a run measures: the options, made into a list of cases that is the same on every rank.
#![forbid(unsafe_code)]

use super::contender::Request;
use super::operation::Operation;
use super::options::{InPlace, MemoryKind, Options};
use super::size::{self, Step};
use crate::cli::Failure;
use crate::cli::board::Seat;
use crate::op::{DataType, Reduction};

/// The most bytes of one rank's buffer.
const BUFFER_BYTES_MAX: usize = 16 << 30;

/// One operation on one type at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) data_type: DataType,
    pub(crate) reduction: Reduction,
    pub(crate) count: usize,
    /// Of a stage boundary.
    pub(crate) tensor: usize,
}

impl Case {
    /// The call of the rank with the largest buffers, before there is a plan.
    fn request_as(&self, options: &Options, ranks: usize) -> Request {
        Request {
            operation: self.operation,
            data_type: self.data_type,
            reduction: self.reduction,
            root: options.root,
            count: self.count,
            messages: options.messages as usize,
            tensor: self.tensor,
            mask_bytes: options.mask.unwrap_or(self.count),
            rank: ranks / 2,
            ranks,
        }
    }

    /// The call that one rank makes.
    pub(crate) fn request(&self, plan: &Plan, seat: &Seat) -> Request {
        Request {
            operation: self.operation,
            data_type: self.data_type,
            reduction: self.reduction,
            root: plan.root,
            count: self.count,
            messages: plan.messages,
            tensor: self.tensor,
            mask_bytes: plan.mask_bytes.unwrap_or(self.count),
            rank: seat.rank(),
            ranks: seat.ranks(),
        }
    }
}

/// The whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cases: Vec<Case>,
    pub(crate) root: usize,
    pub(crate) messages: usize,
    /// As large as the data where nothing else is said.
    pub(crate) mask_bytes: Option<usize>,
    /// Whether the library's counters are read.
    pub(crate) verbose: bool,
    pub(crate) out_of_place: bool,
    pub(crate) in_place: bool,
    pub(crate) check: bool,
    pub(crate) rewrite: bool,
    pub(crate) library_memory: bool,
    pub(crate) floor: bool,
    pub(crate) warmup: usize,
    /// 0: as many as fit.
    pub(crate) iterations: usize,
    pub(crate) batches: usize,
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    /// Whether every rank has a core of its own.
    pub(crate) alone_on_cores: bool,
}

impl Plan {
    /// The plan behind the options.
    ///
    /// # Errors
    /// Options that contradict each other, and what to write instead.
    pub(crate) fn new(options: &Options, ranks: usize, alone_on_cores: bool) -> Result<Plan, Failure> {
        if options.root >= ranks {
            return Err(Failure(format!("--root {} of {ranks} ranks; they count from 0", options.root)));
        }
        if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
            return Err(Failure("--seconds must be above 0 and at most 3600".into()));
        }
        if options.floor && (ranks != 2 || !alone_on_cores) {
            return Err(Failure("--floor is measured between two ranks with a core each".into()));
        }
        Ok(Plan {
            cases: cases(options, ranks)?,
            root: options.root,
            messages: options.messages as usize,
            mask_bytes: options.mask,
            verbose: options.verbose,
            out_of_place: options.in_place != InPlace::In,
            in_place: options.in_place != InPlace::Out,
            check: options.check == 1,
            rewrite: options.rewrite,
            library_memory: options.memory == MemoryKind::Library,
            floor: options.floor,
            warmup: options.warmup,
            iterations: options.iters,
            batches: usize::from(options.batches),
            seconds: options.seconds,
            seed: options.seed,
            alone_on_cores,
        })
    }
}

fn cases(options: &Options, ranks: usize) -> Result<Vec<Case>, Failure> {
    let step = options.increment.map_or(Step::Factor(options.factor), Step::Increment);
    let sizes = match options.sizes.as_slice() {
        [] => size::sweep(options.begin, options.end, step).map_err(Failure)?,
        listed => listed.to_vec(),
    };
    let mut cases: Vec<Case> = Vec::new();
    for &operation in &options.op.0 {
        if ranks < 2 && (operation == Operation::Rate || operation.is_boundary()) {
            return Err(Failure(format!("{} needs two ranks", operation.name())));
        }
        for case in kinds(options, operation) {
            for &bytes in &sizes {
                let count = operation.count(bytes, case.data_type.size_bytes(), ranks);
                let case = Case { count, ..case };
                let (read, written) = case.request_as(options, ranks).buffer_bytes();
                if read.max(written) > BUFFER_BYTES_MAX {
                    let size = size::display(bytes);
                    return Err(Failure(format!("{} of {size} needs too much memory", operation.name())));
                }
                // Sizes below one element a rank are the same case.
                if cases.last() != Some(&case) {
                    cases.push(case);
                }
            }
        }
    }
    Ok(cases)
}

/// The cases of an operation, without their sizes.
fn kinds(options: &Options, operation: Operation) -> Vec<Case> {
    let mut case =
        Case { operation, data_type: DataType::Uint8, reduction: Reduction::Sum, count: 0, tensor: 0 };
    if operation.is_boundary() {
        return options.tensor.iter().map(|&tensor| Case { tensor: tensor.into(), ..case }).collect();
    }
    // The sizes of a pattern are bytes.
    if operation.is_pattern() {
        return vec![case];
    }
    let mut kinds = Vec::new();
    for &data_type in &options.data_type.0 {
        case.data_type = data_type;
        let reductions: &[Reduction] = if operation.reduces() { &options.redop.0 } else { &[Reduction::Sum] };
        kinds.extend(reductions.iter().map(|&reduction| Case { reduction, ..case }));
    }
    kinds
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

    fn plan(line: &str, ranks: usize) -> Result<Plan, Failure> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Plan::new(&Line::try_parse_from(words).map_err(|e| Failure(e.to_string()))?.options, ranks, true)
    }

    #[test]
    fn nccl_tests_options_are_understood() {
        let plan = plan("-b 8 -e 64 -f 2 -n 20 -w 3 -c 0 -o max -d half -r 1", 2).unwrap();
        assert_eq!(plan.cases.iter().map(|case| case.count).collect::<Vec<_>>(), [4, 8, 16, 32]);
        assert!(plan.cases.iter().all(|case| case.reduction == Reduction::Max));
        assert_eq!((plan.iterations, plan.warmup, plan.check, plan.root), (20, 3, false, 1));
        assert!(plan.in_place && plan.out_of_place);
    }

    #[test]
    fn sizes_below_an_element_are_one_case() {
        assert_eq!(plan("--op allgather -b 1 -e 32 -f 2", 4).unwrap().cases.len(), 2);
        assert_eq!(plan("--op barrier -b 1 -e 32 -f 2", 4).unwrap().cases.len(), 1);
    }

    #[test]
    fn everything_times_everything() {
        let plan = plan("--op all -d all -o all --sizes 64,1K --in-place 1", 2).unwrap();
        assert_eq!(plan.cases.len(), (3 * 5 + 6) * 12 * 2);
        assert!(plan.in_place && !plan.out_of_place);
    }

    #[test]
    fn patterns_are_bytes_and_boundaries_have_their_tensor_ranks() {
        let plan = plan("--op neox,moe,zero3 -d all --tensor 2,8 --mask 8M --sizes 256,16M", 2).unwrap();
        assert_eq!(plan.cases.len(), 4 + 2 + 2);
        assert_eq!(plan.mask_bytes, Some(8 << 20));
        assert!(plan.cases.iter().all(|case| case.data_type == DataType::Uint8));
        let tensors: Vec<_> = plan.cases.iter().map(|case| case.tensor).collect();
        assert_eq!(tensors, [2, 2, 8, 8, 0, 0, 0, 0]);
    }

    #[test]
    fn contradictions_are_named() {
        for (line, ranks, word) in [
            ("-r 2", 2, "--root"),
            ("-b 64 -e 8", 2, "--end"),
            ("-b 8 -e 64 -f 1", 2, "grow"),
            ("--seconds 0", 2, "--seconds"),
            ("--op rate", 1, "rate"),
            ("--op neox", 1, "neox"),
            ("--op zero3 --sizes 1G", 2, "memory"),
            ("--against SHOAL_COALESCE", 2, "NAME=VALUE"),
            ("--floor", 4, "--floor"),
            ("--op rate -b 1G -e 1G", 2, "memory"),
            ("-c 2", 2, "0..=1"),
            ("-f 2 -i 8", 2, "cannot be used with"),
        ] {
            let message = plan(line, ranks).err().unwrap().0;
            assert!(message.contains(word), "{line}: {message}");
        }
    }
}
