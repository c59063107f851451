//! Records of NCCL's Inspector, of all ranks, in the order in which calls began. Several operations of a batch share its
//! time. They lose: types, operators, roots, and what was one group.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::replay::Script;
use crate::op::Kind;
use crate::trace::file::Operation;

/// All records, one a line.
pub(super) fn text(script: &Script) -> Result<String, Failure> {
    let mut calls = Vec::new();
    for (place, group) in script.groups.iter().enumerate() {
        for (rank, member) in group.members.iter().enumerate() {
            calls.extend(
                member.batches.iter().enumerate().map(|(batch, its)| (its.start_ns, place, rank, batch)),
            );
        }
    }
    calls.sort_unstable();
    // Each kind of call counts by itself, as in NCCL.
    let mut numbers: BTreeMap<(usize, usize, &str), u64> = BTreeMap::new();
    let mut text = String::new();
    for (_, place, rank, batch) in calls {
        let group = &script.groups[place];
        let member = &group.members[rank];
        let batch = member.batches[batch];
        let (host, process) = member.process.rsplit_once('/').unwrap_or((&member.process, "0"));
        for operation in member.operations(&batch) {
            let number = numbers.entry((place, rank, operation.kind.name())).or_default();
            let mut record = json!({
                "header": { "id": group.name, "comm_name": "unknown", "rank": rank, "n_ranks": group.members.len(), "nnodes": 1 },
                "metadata": {
                    "inspector_output_format_version": "v4.2", "rec_mechanism": "shoal_trace",
                    "dump_timestamp_us": batch.end_ns / 1000, "hostname": host, "pid": process.parse::<u64>().unwrap_or(0),
                },
            });
            let (name, body) =
                performance(operation, group.members.len(), *number, [batch.start_ns, batch.end_ns]);
            record[name] = body;
            *number += 1;
            text += &serde_json::to_string(&record).map_err(|error| Failure(error.to_string()))?;
            text.push('\n');
        }
    }
    Ok(text)
}

fn performance(
    operation: &Operation,
    ranks: usize,
    number: u64,
    [start_ns, end_ns]: [u64; 2],
) -> (&'static str, Value) {
    let bytes = operation.bytes();
    let took_us = (end_ns - start_ns) as f64 / 1e3;
    let blocks = match operation.kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast | Kind::Send | Kind::Recv => 1.0,
        _ => ranks as f64,
    };
    let algorithm_gbs = if took_us > 0.0 { bytes as f64 * blocks / took_us / 1e3 } else { 0.0 };
    let part = (ranks as f64 - 1.0) / ranks as f64;
    let bus_gbs = match operation.kind {
        Kind::AllReduce => 2.0 * part * algorithm_gbs,
        Kind::Reduce | Kind::Broadcast | Kind::Send | Kind::Recv => algorithm_gbs,
        _ => part * algorithm_gbs,
    };
    let (first, last, took) = (start_ns / 1000, end_ns / 1000, took_us.round() as u64);
    if operation.kind.is_point_to_point() {
        let body = json!({
            "p2p": operation.kind.name(), "p2p_sn": number, "p2p_peer": operation.peer, "p2p_msg_size_bytes": bytes,
            "p2p_exec_time_us": took, "p2p_timing_source": "collective_cpu", "p2p_algobw_gbs": algorithm_gbs,
            "p2p_busbw_gbs": bus_gbs, "event_trace_ts": { "p2p_start_ts": first, "p2p_stop_ts": last, "kernel_events": [] },
        });
        return ("p2p_perf", body);
    }
    let body = json!({
        "coll": operation.kind.name(), "coll_algo": "unknown", "coll_proto": "unknown", "coll_sn": number,
        "coll_msg_size_bytes": bytes, "coll_exec_time_us": took, "coll_timing_source": "collective_cpu",
        "coll_algobw_gbs": algorithm_gbs, "coll_busbw_gbs": bus_gbs,
        "event_trace_ts": { "coll_start_ts": first, "coll_stop_ts": last, "kernel_events": [] },
    });
    ("coll_perf", body)
}
