//! One step of a model as traces: what each rank of each group would have called, in the form of `SHOAL_TRACE`. Times
//! are invented: one microsecond a batch, and one communicator after the other.

use std::path::Path;

use crate::cli::Failure;
use crate::model::Calls;
use crate::op::{DataType, Kind, Manner, Reduction, Shape};
use crate::trace::tracer::{Done, Title, Tracer};

/// More files than this nobody wants.
const RANKS_LIMIT: u32 = 1024;

/// What a batch takes.
const BATCH_TICKS: u64 = 1000;

/// A rank's calls of one kind: what, and how often.
type Part = (Shape, u64);

/// Writes the traces of all ranks of one group of each kind into `folder`; how many.
///
/// # Errors
/// A group is too large, or a file cannot be written.
pub(super) fn write(
    calls: &[Calls],
    chunks: u32,
    element_bytes: u64,
    folder: &Path,
) -> Result<usize, Failure> {
    let mut groups: Vec<(&str, u32)> = calls.iter().map(|calls| (calls.group, calls.ranks)).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut files = 0;
    let mut start_ticks = 0;
    for (number, (group, ranks)) in (1..).zip(groups) {
        if ranks > RANKS_LIMIT {
            return Err(Failure(format!(
                "the group {group} has {ranks} ranks, and traces are written for at most {RANKS_LIMIT}; \
                 ask for fewer, or for --format json"
            )));
        }
        let of_it: Vec<&Calls> =
            calls.iter().filter(|calls| (calls.group, calls.ranks) == (group, ranks)).collect();
        let mut longest = 0;
        for rank in 0..ranks {
            let parts = of_it.iter().flat_map(|calls| parts(calls, rank, chunks, element_bytes));
            let parts: Vec<Part> = parts.collect();
            let title =
                Title { communicator: number, rank, ranks, host: "model".into(), coalesce_bytes: 1024 };
            write_one(&parts, &title, start_ticks, folder)?;
            longest = longest.max(parts.iter().map(|(_, count)| count * BATCH_TICKS).sum());
            files += 1;
        }
        start_ticks += longest;
    }
    Ok(files)
}

fn write_one(parts: &[Part], title: &Title, mut start_ticks: u64, folder: &Path) -> Result<(), Failure> {
    let failed = |error: crate::error::Error| Failure(error.to_string());
    let mut tracer = Tracer::create(folder, title, u64::MAX).map_err(failed)?;
    let mut sequence = 0;
    for (shape, count) in parts {
        let frames = u32::from(shape.kind == Kind::Send);
        let id = tracer.define(&[(*shape, 0)], frames, false);
        for _ in 0..*count {
            sequence += 1;
            let end_ticks = start_ticks + BATCH_TICKS;
            tracer.write(id, &Done { sequence, start_ticks, end_ticks, ..Done::default() });
            start_ticks = end_ticks;
        }
    }
    Ok(())
}

/// What a rank calls for them.
fn parts(calls: &Calls, rank: u32, chunks: u32, element_bytes: u64) -> Vec<Part> {
    let ranks = u64::from(calls.ranks);
    let shape = |kind: Kind, bytes: u64, peer: u32| {
        let (data_type, size) = match element_bytes {
            4 if bytes.is_multiple_of(4) => (DataType::Float32, 4),
            2 if bytes.is_multiple_of(2) => (DataType::Float16, 2),
            _ => (DataType::Int8, 1),
        };
        let (reduction, manner) = (Reduction::Sum, Manner::PLAIN);
        Shape { count: (bytes / size) as usize, peer, kind, data_type, reduction, manner }
    };
    match calls.operation {
        "allreduce" => vec![(shape(Kind::AllReduce, calls.bytes, 0), calls.calls)],
        "allgather" => vec![(shape(Kind::AllGather, calls.bytes.div_ceil(ranks), 0), calls.calls)],
        "reducescatter" => vec![(shape(Kind::ReduceScatter, calls.bytes.div_ceil(ranks), 0), calls.calls)],
        "alltoall" => vec![(shape(Kind::AlltoAll, calls.bytes.div_ceil(ranks), 0), calls.calls)],
        _ => messages(calls, rank, chunks, shape),
    }
}

/// The messages of a stage. Calls count those over all stages, there and back: border by border, chunk after chunk.
fn messages(calls: &Calls, rank: u32, chunks: u32, shape: impl Fn(Kind, u64, u32) -> Shape) -> Vec<Part> {
    let stages = u64::from(calls.ranks);
    let borders = stages * u64::from(chunks) - 1;
    let times = calls.calls / (2 * borders);
    let mut parts = Vec::new();
    for border in 0..borders {
        let (left, right) = ((border % stages) as u32, ((border + 1) % stages) as u32);
        if rank == left {
            parts.push((shape(Kind::Send, calls.bytes, right), times));
            parts.push((shape(Kind::Recv, calls.bytes, right), times));
        } else if rank == right {
            parts.push((shape(Kind::Recv, calls.bytes, left), times));
            parts.push((shape(Kind::Send, calls.bytes, left), times));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layout, Shape as Model, Step, calls};
    use crate::trace::file::Reader;
    use crate::trace::report::Report;

    #[test]
    fn a_synthetic_step_holds_the_calls_and_bytes_of_its_model() {
        let folder = std::env::temp_dir().join(format!("shoal-synthetic-{}", std::process::id()));
        for (name, _) in crate::model::PRESETS {
            let layout = Layout { data: 2, tensor: 2, pipeline: 2, ..Layout::default() };
            let step = Step { micro_batches: 3, ..Step::default() };
            let calls = calls(&Model::named(name).unwrap(), &layout, &step).unwrap();
            assert_eq!(write(&calls, layout.chunks, step.element_bytes, &folder).unwrap(), 6);
            let mut report = Report::default();
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                report.add(Reader::new(std::fs::File::open(entry.path()).unwrap()).unwrap());
            }
            let modelled = |operation: &str| {
                let of_it = calls.iter().filter(|calls| calls.operation == operation);
                of_it.map(|calls| calls.total_bytes() as f64).sum::<f64>()
            };
            // Of a collective every rank of the group has all calls.
            assert_eq!(report.by_operation["AllReduce"].bytes, 2.0 * modelled("allreduce"), "{name}");
            let sent = report.by_operation["Send"];
            assert_eq!((sent.bytes, sent.calls), (modelled("send"), 6.0), "{name}");
            assert_eq!(report.by_operation["Recv"].bytes, sent.bytes);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}
