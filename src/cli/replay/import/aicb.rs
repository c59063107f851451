//! AICB's lists of calls (CSV): what each rank calls in one step, the same on all.
//!
//! ```text
//! [rank0 ~ rank127]
//! comm_type,comm_group,comm_group_size,msg_size,stage,dst,src,...
//! CommType.all_reduce,CommGroup.tp_group,8,20971520,forward.MegatronEmbedding,None,None,...
//! ```
//! Bytes are those of the whole buffer over all ranks for all_gather, reduce_scatter and all_to_all. The form does not
//! say element types, operators, times, which ranks make a group, and what groups beside it do at the same time: of
//! each kind of group one is played, its ranks numbered from 0 on.

use std::collections::BTreeMap;

use super::super::script::{Batch, Stream};
use super::Import;
use crate::op::{DataType, Kind, Reduction};
use crate::trace::file::Operation;

/// More ranks than anybody plays.
const RANKS_LIMIT: u32 = 1 << 20;

/// The places of the columns that count.
struct Columns {
    all: usize,
    named: [usize; 5],
}

const NAMES: [&str; 5] = ["comm_type", "comm_group", "comm_group_size", "msg_size", "src"];

/// What the ranks of one group call, by the number of the line.
type Calls = Vec<(u64, Operation)>;

/// Reads a list.
///
/// # Errors
/// The line, what stands there, and why it cannot be played.
pub(super) fn read(text: &str) -> Result<Import, String> {
    let mut columns: Option<Columns> = None;
    let mut groups: BTreeMap<(String, u32), Calls> = BTreeMap::new();
    let mut left_out = BTreeMap::<String, u64>::new();
    let mut has_barrier = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('[') {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let Some(known) = &columns else {
            columns = Some(header(&fields).map_err(|problem| format!("line {number}: {problem}"))?);
            continue;
        };
        let call = call(&fields, known).map_err(|problem| format!("line {number}: {problem}"))?;
        match call {
            Call::Nothing(name) => *left_out.entry(name).or_default() += 1,
            Call::Of { group, ranks, operation } => {
                has_barrier |= fields[known.named[0]].ends_with("barrier");
                groups.entry((group, ranks)).or_default().push((number, operation));
            }
        }
    }
    if groups.is_empty() {
        return Err("it holds no calls; expected a line of column names and then calls".into());
    }
    let mut import = Import { notes: notes(&left_out, has_barrier), streams: Vec::new() };
    for ((group, ranks), calls) in groups {
        let definitions: Vec<Vec<Operation>> = calls.iter().map(|(_, operation)| vec![*operation]).collect();
        let batches = (0..).zip(&calls);
        let batches =
            batches.map(|(definition, (line, _))| Batch { definition, start_ns: *line, end_ns: *line });
        let batches: Vec<Batch> = batches.collect();
        for rank in 0..ranks {
            let (group, process) = (format!("{group} of {ranks}"), format!("aicb/{rank}"));
            let (definitions, batches) = (definitions.clone(), batches.clone());
            import.streams.push(Stream { group, rank, ranks, process, definitions, batches });
        }
    }
    Ok(import)
}

fn notes(left_out: &BTreeMap<String, u64>, has_barrier: bool) -> Vec<String> {
    let mut notes = vec![
        "AICB's lists say neither types nor operators: what is reduced is played as sums of floats, where the bytes \
         are whole ones"
            .to_owned(),
        "AICB's lists say neither times nor which ranks make a group: one group of each kind is played, its ranks from \
         0 on"
            .to_owned(),
    ];
    if has_barrier {
        notes.push("barriers are played as sums of four bytes".into());
    }
    notes.extend(
        left_out.iter().map(|(name, count)| format!("{count} lines {name} are left out, which call nothing")),
    );
    notes
}

fn header(fields: &[&str]) -> Result<Columns, String> {
    let place = |name: &str| {
        let place = fields.iter().position(|field| *field == name);
        place.ok_or_else(|| format!("there is no column {name}; expected AICB's names of columns"))
    };
    let mut named = [0; NAMES.len()];
    for (place_of, name) in named.iter_mut().zip(NAMES) {
        *place_of = place(name)?;
    }
    Ok(Columns { all: fields.len(), named })
}

enum Call {
    Nothing(String),
    Of { group: String, ranks: u32, operation: Operation },
}

fn call(fields: &[&str], columns: &Columns) -> Result<Call, String> {
    if fields.len() != columns.all {
        return Err(format!("{} fields, expected {} as the names of the columns", fields.len(), columns.all));
    }
    let [kind, group, ranks, bytes, source] = columns.named.map(|place| fields[place]);
    let kind = kind.strip_prefix("CommType.").unwrap_or(kind);
    if matches!(kind, "epoch_end" | "computation" | "memory") {
        return Ok(Call::Nothing(kind.to_owned()));
    }
    let number = |what: &str, text: &str| {
        let number = text.parse::<u64>();
        number.map_err(|_| format!("{what} is {text:?}, expected a whole number"))
    };
    let ranks = u32::try_from(number("comm_group_size", ranks)?).unwrap_or(u32::MAX);
    if ranks == 0 || ranks > RANKS_LIMIT {
        return Err(format!("comm_group_size is {ranks}, expected 1 to {RANKS_LIMIT}"));
    }
    let root = match source {
        "None" | "" => 0,
        text => u32::try_from(number("src", text)?).unwrap_or(u32::MAX),
    };
    let bytes = if kind == "barrier" { 4 } else { number("msg_size", bytes)? };
    let operation = operation(kind, bytes, ranks, root)?;
    if operation.kind.has_root() && root >= ranks {
        return Err(format!("src is {root}, expected a rank of {ranks}"));
    }
    let group = group.strip_prefix("CommGroup.").unwrap_or(group).to_owned();
    Ok(Call::Of { group, ranks, operation })
}

fn operation(kind: &str, bytes: u64, ranks: u32, root: u32) -> Result<Operation, String> {
    let kind = match kind {
        "all_reduce" | "barrier" => Kind::AllReduce,
        "reduce" => Kind::Reduce,
        "broadcast" => Kind::Broadcast,
        "all_gather" => Kind::AllGather,
        "reduce_scatter" => Kind::ReduceScatter,
        "all_to_all" => Kind::AlltoAll,
        "gather" => Kind::Gather,
        "scatter" => Kind::Scatter,
        "isend" | "irecv" | "send" | "recv" => {
            return Err(format!(
                "{kind} is told as one rank does it, and not what its peer does then, so it cannot be played; leave such \
                 lines out, or record a run with SHOAL_TRACE"
            ));
        }
        other => return Err(format!("comm_type is {other:?}, which is not known")),
    };
    let is_divided =
        matches!(kind, Kind::AllGather | Kind::ReduceScatter | Kind::AlltoAll | Kind::Gather | Kind::Scatter);
    // Whole slices for every rank.
    let bytes = if is_divided { bytes.div_ceil(u64::from(ranks)) } else { bytes };
    let (data_type, size_bytes) = match bytes {
        bytes if bytes.is_multiple_of(4) => (DataType::Float32, 4),
        bytes if bytes.is_multiple_of(2) => (DataType::Float16, 2),
        _ => (DataType::Int8, 1),
    };
    let peer = if kind.has_root() { root } else { 0 };
    let (reduction, count) = (Reduction::Sum, bytes / size_bytes);
    Ok(Operation { kind, data_type, reduction, peer, in_place: false, count, algorithm: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str =
        "[rank0 ~ rank7]\ncomm_type,comm_group,comm_group_size,msg_size,stage,dst,src,additional\n";

    fn list(lines: &str) -> String {
        format!("{START}{lines}")
    }

    #[test]
    fn a_list_is_read() {
        let text = list(
            "CommType.all_reduce,CommGroup.tp_group,2,80,a,None,None,\nCommType.epoch_end,None,None,0,,None,None,\n\
             CommType.all_gather,CommGroup.dp_group,4,30,b,None,None,\nCommType.broadcast,CommGroup.tp_group,2,6,c,None,1,\n",
        );
        let import = read(&text).unwrap();
        let names: Vec<_> = import.streams.iter().map(|one| (one.group.as_str(), one.rank)).collect();
        assert_eq!(
            names,
            [
                ("dp_group of 4", 0),
                ("dp_group of 4", 1),
                ("dp_group of 4", 2),
                ("dp_group of 4", 3),
                ("tp_group of 2", 0),
                ("tp_group of 2", 1)
            ]
        );
        let gather = import.streams[0].definitions[0][0];
        assert_eq!((gather.kind, gather.bytes()), (Kind::AllGather, 8));
        let tensor = &import.streams[5];
        assert_eq!(
            (tensor.definitions[1][0].peer, tensor.definitions[1][0].data_type),
            (1, DataType::Float16)
        );
        assert_eq!(tensor.batches.iter().map(|batch| batch.start_ns).collect::<Vec<_>>(), [3, 6]);
        assert!(import.notes.iter().any(|note| note.starts_with("1 lines epoch_end")));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, words) in [
            (String::new(), "it holds no calls"),
            ("a,b\n".into(), "line 1: there is no column comm_type"),
            (list("CommType.all_reduce,x\n"), "line 3: 2 fields, expected 8"),
            (list("CommType.all_reduce,x,2,many,,None,None,\n"), "line 3: msg_size is \"many\""),
            (
                list("\nCommType.isend,CommGroup.pp_group,2,5,,1,0,\n"),
                "line 4: isend is told as one rank does it",
            ),
            (list("CommType.broadcast,x,2,5,,None,7,\n"), "line 3: src is 7"),
            (list("CommType.broadcast,x,0,5,,None,0,\n"), "line 3: comm_group_size is 0"),
            (list("CommType.dance,x,2,5,,None,0,\n"), "line 3: comm_type is \"dance\""),
        ] {
            let problem = read(&text).unwrap_err();
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(lines in "(CommType\\.|all_reduce|all_gather|isend|x|,|,|,|[0-9]{1,20}|None|\\n|.){0,60}") {
            let lines_count = START.lines().count() + lines.lines().count();
            if let Err(problem) = read(&list(&lines)) {
                let line = problem.strip_prefix("line ").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
                proptest::prop_assert!(line.is_none_or(|line| line <= lines_count), "{}", problem);
            }
        }
    }
}
