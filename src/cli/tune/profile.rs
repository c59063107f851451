//! What a recorded job calls: AICB's CSV, or the JSON lines of NCCL's Inspector.
#![forbid(unsafe_code)]

use std::path::Path;

use serde::Deserialize;

use crate::cli::{Failure, explain};
use crate::op::Kind;

/// How often a job calls one operation at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) operation: Kind,
    /// As rows count it: of all blocks together where each rank has its own.
    pub(super) bytes: u64,
    pub(super) calls: u64,
}

/// A job's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) calls: Vec<Calls>,
}

/// The profile of a file.
///
/// # Errors
/// The file cannot be read, or in which line it is none of the two forms.
pub(super) fn load(path: &Path) -> Result<Profile, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|cause| Failure(format!("{name}: {cause}")))?;
    let profile = read(&text).map_err(|(line, problem)| Failure(format!("{name}:{line}: {problem}")))?;
    if profile.calls.is_empty() {
        return Err(Failure(format!(
            "{name}: no collective is in it; AICB's CSV and NCCL Inspector's JSON are read"
        )));
    }
    Ok(profile)
}

type Problem = (usize, String);

fn read(text: &str) -> Result<Profile, Problem> {
    let mut profile = Profile::default();
    let is_json = text.trim_start().starts_with('{');
    let mut columns = None;
    for (number, line) in text.lines().enumerate() {
        let told = |problem: String| (number + 1, problem);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let call = if is_json {
            inspector(line).map_err(told)?
        } else if let Some(columns) = &columns {
            aicb(line, columns).map_err(told)?
        } else {
            columns = Columns::of(line);
            // In front of the header stands which ranks the file is of.
            if columns.is_none() && !line.starts_with('[') {
                return Err(told("expected the header of AICB's CSV, comm_type,comm_group,...".into()));
            }
            None
        };
        if let Some(call) = call {
            profile.add(call);
        }
    }
    Ok(profile)
}

impl Profile {
    fn add(&mut self, call: Calls) {
        let same = |known: &&mut Calls| known.operation == call.operation && known.bytes == call.bytes;
        match self.calls.iter_mut().find(same) {
            Some(known) => known.calls += call.calls,
            None => self.calls.push(call),
        }
    }
}

/// Where AICB's CSV has what counts here.
struct Columns {
    operation: usize,
    bytes: usize,
}

impl Columns {
    fn of(line: &str) -> Option<Columns> {
        let place = |name: &str| line.split(',').position(|field| field.trim() == name);
        Some(Columns { operation: place("comm_type")?, bytes: place("msg_size")? })
    }
}

/// A line of AICB. Its sizes are of the whole buffer. What is no collective is passed over.
fn aicb(line: &str, columns: &Columns) -> Result<Option<Calls>, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let field =
        |place: usize| fields.get(place).copied().ok_or_else(|| format!("field {} is missing", place + 1));
    let name = field(columns.operation)?;
    let Ok(operation) = explain::operation(name.strip_prefix("CommType.").unwrap_or(name)) else {
        return Ok(None);
    };
    let text = field(columns.bytes)?;
    let bytes = text.parse().map_err(|_| format!("expected a msg_size in bytes, found {text:?}"))?;
    Ok(Some(Calls { operation, bytes, calls: 1 }))
}

#[derive(Deserialize)]
struct Record {
    header: RecordHeader,
    coll_perf: Option<Performance>,
}

#[derive(Deserialize)]
struct RecordHeader {
    n_ranks: u64,
}

#[derive(Deserialize)]
struct Performance {
    coll: String,
    coll_msg_size_bytes: u64,
}

/// A line of the Inspector. Its sizes are what one rank's count makes, so those of operations in which each rank
/// has its own block are multiplied.
fn inspector(line: &str) -> Result<Option<Calls>, String> {
    let record: Record =
        serde_json::from_str(line).map_err(|error| format!("no record of the Inspector: {error}"))?;
    let Some(Performance { coll, coll_msg_size_bytes: bytes }) = record.coll_perf else { return Ok(None) };
    let Ok(operation) = explain::operation(&coll) else { return Ok(None) };
    let blocks = match operation {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => record.header.n_ranks,
    };
    Ok(Some(Calls { operation, bytes: bytes.saturating_mul(blocks), calls: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aicbs_calls_are_counted() {
        let text = "[rank0 ~ rank127]\ncomm_type,comm_group,comm_group_size,msg_size,stage,count\n\
            CommType.all_gather,CommGroup.dp_group,128,1024,init,1\nCommType.barrier,CommGroup.dp_group,128,0,init,1\n\
            CommType.all_gather,CommGroup.dp_group,128,1024,init,1\nCommType.reduce_scatter,CommGroup.dp_group,8,64,x,1\n";
        let calls = read(text).unwrap().calls;
        let expected = [
            Calls { operation: Kind::AllGather, bytes: 1024, calls: 2 },
            Calls { operation: Kind::ReduceScatter, bytes: 64, calls: 1 },
        ];
        assert_eq!(calls, expected);
    }

    #[test]
    fn the_inspectors_calls_are_counted_with_the_whole_buffer() {
        let line = |coll: &str, bytes: u32| {
            format!(
                "{{\"header\":{{\"rank\":0,\"n_ranks\":8}},\"metadata\":{{}},\"coll_perf\":{{\"coll\":\"{coll}\",\"coll_msg_size_bytes\":{bytes}}}}}\n"
            )
        };
        let text =
            line("AllReduce", 64) + &line("ReduceScatter", 64) + &line("AllReduce", 64) + &line("Send", 8);
        let calls = read(&text).unwrap().calls;
        let expected = [
            Calls { operation: Kind::AllReduce, bytes: 64, calls: 2 },
            Calls { operation: Kind::ReduceScatter, bytes: 512, calls: 1 },
        ];
        assert_eq!(calls, expected);
    }

    #[test]
    fn what_is_neither_is_told_with_its_line() {
        for (text, line, words) in [
            ("a,b\n1,2\n", 1, "expected the header"),
            ("comm_type,msg_size\nall_reduce,x\n", 2, "expected a msg_size"),
            ("comm_type,comm_group,msg_size\nall_reduce\n", 2, "field 3 is missing"),
            ("{}\n", 1, "no record of the Inspector"),
        ] {
            let (found, problem) = read(text).expect_err(text);
            assert!(found == line && problem.contains(words), "{text}: {found}: {problem}");
        }
    }
}
