//! The flight record that PyTorch's analyzers read (`torch.distributed.flight_recorder.fr_trace`), of one rank. It loses:
//! operators, where in the program calls were made, and that collectives shared a group.
//!
//! Messages of one batch are entries of one number, behind which a last one says that they were one. Analyzers take
//! entries of one number that follow each other for such a group, whether they are collectives or messages; so messages
//! are numbered far from collectives.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{batches, elements, torch_type};
use crate::cli::replay::Script;
use crate::op::Kind;
use crate::trace::file::Operation;

/// Of the form of the record.
const VERSION: &str = "2.5";
const MESSAGES_FROM: u64 = 1 << 40;

/// How far a communicator is.
#[derive(Default)]
struct Count {
    collectives: u64,
    messages: u64,
    calls: u64,
}

/// The record of a rank.
pub(super) fn record(script: &Script, player: usize) -> Value {
    let mut groups = Map::new();
    for (place, group) in script.groups.iter().enumerate() {
        let ranks: Vec<usize> = group.members.iter().map(|member| member.player).collect();
        if ranks.contains(&player) {
            // Ranks are a text here.
            groups.insert(
                place.to_string(),
                json!({ "name": place.to_string(), "desc": group.name, "ranks": format!("{ranks:?}") }),
            );
        }
    }
    let mut counts: BTreeMap<usize, Count> = BTreeMap::new();
    let mut entries: Vec<Value> = Vec::new();
    for (place, rank, batch) in batches(script, player) {
        let group = &script.groups[place];
        let member = &group.members[rank];
        let batch = member.batches[batch];
        let count = counts.entry(place).or_default();
        let mut add = |name: String,
                       count: &Count,
                       is_message: bool,
                       [given, taken]: [Value; 2],
                       kind: Value| {
            entries.push(json!({
                "record_id": entries.len(), "pg_id": place, "process_group": [place.to_string(), group.name],
                "collective_seq_id": count.collectives, "p2p_seq_id": MESSAGES_FROM + count.messages,
                "op_id": count.calls, "profiling_name": name, "is_p2p": is_message,
                "time_created_ns": batch.start_ns, "time_discovered_started_ns": batch.start_ns,
                "time_discovered_completed_ns": batch.end_ns, "duration_ms": (batch.end_ns - batch.start_ns) as f64 / 1e6,
                "input_sizes": given, "output_sizes": taken, "input_dtypes": kind, "output_dtypes": kind,
                "state": "completed", "retired": true, "timeout_ms": 0, "frames": [],
            }));
        };
        let operations = member.operations(&batch);
        let sizes = |operation: &Operation| {
            elements(operation, rank, group.members.len()).map(|count| json!([[count]]))
        };
        for operation in operations.iter().filter(|one| !one.kind.is_point_to_point()) {
            count.collectives += 1;
            count.calls += 1;
            add(
                name(operation, rank),
                count,
                false,
                sizes(operation),
                json!([torch_type(operation.data_type)]),
            );
        }
        let messages: Vec<&Operation> =
            operations.iter().filter(|one| one.kind.is_point_to_point()).collect();
        count.messages += u64::from(!messages.is_empty());
        for operation in &messages {
            count.calls += 1;
            add(
                name(operation, rank),
                count,
                true,
                sizes(operation),
                json!([torch_type(operation.data_type)]),
            );
        }
        if messages.len() > 1 {
            count.calls += 1;
            add("nccl:coalesced".into(), count, true, [json!([]), json!([])], json!([]));
        }
    }
    json!({ "version": VERSION, "pg_config": groups, "pg_status": {}, "entries": entries })
}

/// The name of a call as PyTorch writes it; messages say from whom to whom.
fn name(operation: &Operation, rank: usize) -> String {
    let peer = operation.peer;
    match operation.kind {
        Kind::AllReduce => "nccl:all_reduce".into(),
        Kind::Reduce => "nccl:reduce".into(),
        Kind::Broadcast => "nccl:broadcast".into(),
        Kind::AllGather => "nccl:_all_gather_base".into(),
        Kind::ReduceScatter => "nccl:_reduce_scatter_base".into(),
        Kind::AlltoAll => "nccl:all_to_all".into(),
        Kind::Gather => "nccl:gather".into(),
        Kind::Scatter => "nccl:scatter".into(),
        Kind::Send => format!("nccl:send {rank}->{peer}"),
        Kind::Recv => format!("nccl:recv {rank}<-{peer}"),
    }
}
