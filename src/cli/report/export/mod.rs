//! Traces in the forms of others: what is recorded here can be looked at, replayed and simulated there.
//!
//! | file | form |
//! |---|---|
//! | `param` | PARAM's traces of communication, a file for each rank |
//! | `inspector` | records of NCCL's Inspector, one a line |
//! | `goal` | GOAL, the messages of all ranks as simulators read them |
//! | `flight`, `pickle` | the flight record that PyTorch's analyzers read, a file for each rank; its encoding |

mod flight;
mod goal;
mod inspector;
mod param;
mod pickle;

use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::cli::replay::{Script, import_own};
use crate::op::DataType;

/// A form of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Param,
    Inspector,
    Goal,
    Flight,
    FlightJson,
}

/// Writes the traces in that form: those of many files into the folder `output`, else into that file or to standard
/// output.
pub(super) fn write(form: Form, traces: &[PathBuf], output: Option<&Path>) -> Result<bool, Failure> {
    let (script, notes) = import_own(traces)?;
    for note in &notes {
        eprintln!("shoal: {note}");
    }
    let named = |path: &Path, error: std::io::Error| Failure(format!("{}: {error}", path.display()));
    let one = match form {
        Form::Inspector => Some(inspector::text(&script)?),
        Form::Goal => Some(goal::text(&script)),
        _ => None,
    };
    if let Some(text) = one {
        return match output {
            None => crate::cli::print(&text).map(|()| true),
            Some(path) => std::fs::write(path, text).map_err(|error| named(path, error)).map(|()| true),
        };
    }
    let folder =
        output.ok_or_else(|| Failure("this form is a file for each rank: say --output FOLDER".into()))?;
    std::fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
    for player in 0..script.players {
        let (name, bytes) = match form {
            Form::Param => (format!("rank{player}.json"), json(&param::entries(&script, player))?),
            Form::FlightJson => {
                (format!("nccl_trace_rank_{player}.json"), json(&flight::record(&script, player))?)
            }
            _ => (format!("nccl_trace_rank_{player}"), pickle::bytes(&flight::record(&script, player))),
        };
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| named(&path, error))?;
    }
    Ok(true)
}

fn json(value: &serde_json::Value) -> Result<Vec<u8>, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure(error.to_string()))?;
    Ok((text + "\n").into_bytes())
}

/// PyTorch's name of a type; of what it does not have, that of one as long.
const fn torch_type(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Int8 => "Char",
        DataType::Uint8 => "Byte",
        DataType::Int32 | DataType::Uint32 => "Int",
        DataType::Int64 | DataType::Uint64 => "Long",
        DataType::Float16 => "Half",
        DataType::Float32 => "Float",
        DataType::Float64 => "Double",
        DataType::Bfloat16 => "BFloat16",
        DataType::Float8E4M3 => "Float8_e4m3fn",
        DataType::Float8E5M2 => "Float8_e5m2",
    }
}

/// The batches of a player, by when they began: communicator, rank in it, batch.
fn batches(script: &Script, player: usize) -> Vec<(usize, usize, usize)> {
    let mut all = Vec::new();
    for (place, group) in script.groups.iter().enumerate() {
        for (rank, member) in group.members.iter().enumerate().filter(|(_, member)| member.player == player) {
            let starts = member.batches.iter().enumerate();
            all.extend(starts.map(|(batch, its)| (its.start_ns, place, rank, batch)));
        }
    }
    all.sort_unstable();
    all.into_iter().map(|(_, group, rank, batch)| (group, rank, batch)).collect()
}

/// What a call reads and writes, in elements.
fn elements(operation: &crate::trace::file::Operation, rank: usize, ranks: usize) -> [u64; 2] {
    use crate::op::Kind;
    let (count, ranks) = (operation.count, ranks as u64);
    let is_root = operation.peer as usize == rank;
    match operation.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => [count, count],
        Kind::AllGather => [count, count * ranks],
        Kind::ReduceScatter => [count * ranks, count],
        Kind::AlltoAll => [count * ranks, count * ranks],
        Kind::Gather => [count, if is_root { count * ranks } else { 0 }],
        Kind::Scatter => [if is_root { count * ranks } else { 0 }, count],
        Kind::Send | Kind::Recv => [count, count],
    }
}
