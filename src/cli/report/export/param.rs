//! PARAM's traces of communication. They lose: durations, operators, types that PyTorch does not have (one as long is
//! named), and which messages were one group.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{batches, elements};
use crate::cli::replay::Script;
use crate::op::{DataType, Kind};

/// The list of calls of a rank, behind the groups.
pub(super) fn entries(script: &Script, player: usize) -> Value {
    let players = |group: usize| -> Vec<usize> {
        script.groups[group].members.iter().map(|member| member.player).collect()
    };
    let init = |group: usize| {
        let ranks = players(group);
        json!({ "comms": "init", "pg_id": group, "global_ranks": ranks, "world_size": ranks.len(), "req": -1 })
    };
    let mut all: Vec<Value> = (0..script.groups.len()).map(init).collect();
    let mut request = 0;
    for (group, rank, batch) in batches(script, player) {
        let member = &script.groups[group].members[rank];
        let batch = member.batches[batch];
        let ranks = players(group);
        for operation in member.operations(&batch) {
            request += 1;
            let [given, taken] = elements(operation, rank, ranks.len());
            let mut entry = json!({
                "comms": name(operation.kind), "pg_id": group, "world_size": ranks.len(), "req": request,
                "in_msg_size": given, "out_msg_size": taken, "dtype": data_type(operation.data_type),
                "startTime_ns": batch.start_ns,
            });
            let partner = ranks.get(operation.peer as usize);
            match operation.kind {
                Kind::Send => (entry["src_rank"], entry["dst_rank"]) = (json!(player), json!(partner)),
                Kind::Recv => (entry["src_rank"], entry["dst_rank"]) = (json!(partner), json!(player)),
                kind if kind.has_root() => entry["root"] = json!(partner),
                _ => {}
            }
            all.push(entry);
        }
    }
    Value::Array(all)
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::AllReduce => "all_reduce",
        Kind::Reduce => "reduce",
        Kind::Broadcast => "broadcast",
        Kind::AllGather => "all_gather_base",
        Kind::ReduceScatter => "reduce_scatter_base",
        Kind::AlltoAll => "all_to_all_single",
        Kind::Gather => "gather",
        Kind::Scatter => "scatter",
        Kind::Send => "send",
        Kind::Recv => "recv",
    }
}

/// PARAM's name of a type.
const fn data_type(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Int8 | DataType::Float8E4M3 | DataType::Float8E5M2 => "char",
        DataType::Uint8 => "byte",
        DataType::Int32 | DataType::Uint32 => "int",
        DataType::Int64 | DataType::Uint64 => "long",
        DataType::Float16 => "half",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Bfloat16 => "bfloat16",
    }
}
