//! Records of NCCL's Inspector plugin: one JSON object a line, of all communicators of a process.
//!
//! ```text
//! {"header":{"id":"0x7f","rank":0,"n_ranks":2},"metadata":{"hostname":"a","pid":7},
//!  "coll_perf":{"coll":"AllReduce","coll_sn":1,"coll_msg_size_bytes":64,"coll_exec_time_us":12}}
//! ```
//! Sizes are what one rank's count makes. The form does not say element types, operators, roots and groups, nor when
//! calls began (but where it was verbose), nor in which order collectives and messages of one dump came. What is smaller
//! than the Inspector was told to keep (8 KiB by default) is missing, and what it dropped is an error here.

use serde::Deserialize;

use super::Import;
use super::c10d::{self, Growing, Seat};
use crate::op::{DataType, Kind, Reduction};
use crate::trace::file::Operation;

#[derive(Deserialize)]
struct Record {
    header: Header,
    metadata: Option<Metadata>,
    coll_perf: Option<Collective>,
    p2p_perf: Option<Message>,
    dump_stats: Option<Dropped>,
}

/// What had no room.
#[derive(Deserialize)]
struct Dropped {
    #[serde(default)]
    coll_dropped_total: u64,
    #[serde(default)]
    p2p_dropped_total: u64,
}

#[derive(Deserialize)]
struct Header {
    id: String,
    rank: u32,
    n_ranks: u32,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    pid: u64,
}

#[derive(Deserialize)]
struct Times {
    #[serde(alias = "coll_start_ts", alias = "p2p_start_ts")]
    start_us: Option<u64>,
}

#[derive(Deserialize)]
struct Collective {
    coll: String,
    coll_msg_size_bytes: u64,
    #[serde(default)]
    coll_exec_time_us: u64,
    event_trace_ts: Option<Times>,
}

#[derive(Deserialize)]
struct Message {
    p2p: String,
    p2p_peer: u32,
    p2p_msg_size_bytes: u64,
    #[serde(default)]
    p2p_exec_time_us: u64,
    event_trace_ts: Option<Times>,
}

/// Reads the records of a process.
///
/// # Errors
/// The line, and what is wrong there.
pub(super) fn read(text: &str) -> Result<Import, String> {
    let mut calls = Vec::new();
    let mut has_times = true;
    for (number, line) in (1_u64..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let told = |problem: String| format!("line {number}: {problem}");
        let record: Record = serde_json::from_str(line)
            .map_err(|error| told(format!("no record of the Inspector: {error}")))?;
        let Some((operation, start_us, took_us)) = call(&record).map_err(told)? else { continue };
        has_times &= start_us.is_some();
        let process = record.metadata.map_or(String::new(), |at| format!("{}/{}", at.hostname, at.pid));
        let Header { id, rank, n_ranks: ranks } = record.header;
        if rank >= ranks {
            return Err(told(format!("rank {rank} of {ranks}")));
        }
        calls.push((
            start_us.unwrap_or(number),
            number,
            took_us,
            Seat { group: id, rank, ranks, process },
            operation,
        ));
    }
    if calls.is_empty() {
        return Err("no call is in it; expected coll_perf or p2p_perf in its lines".into());
    }
    if has_times {
        calls.sort_by_key(|(start_us, number, ..)| (*start_us, *number));
    }
    let mut growing = Growing::default();
    for (start_us, number, took_us, seat, operation) in calls {
        let (start_ns, end_ns) = match has_times {
            true => (start_us.saturating_mul(1000), start_us.saturating_add(took_us).saturating_mul(1000)),
            // Without times the order of the lines counts.
            false => (number, number),
        };
        growing.add(seat, vec![operation], start_ns, end_ns);
    }
    let mut notes = vec![
        "the Inspector says neither types, operators nor roots: what is reduced is played as a sum of floats, where \
         the bytes are whole ones, and rank 0 is the root"
            .to_owned(),
        "the Inspector leaves out what is smaller than NCCL_INSPECTOR_DUMP_MIN_SIZE_BYTES, 8192 by default".to_owned(),
        c10d::MERGED.to_owned(),
    ];
    if !has_times {
        notes.push("these records say no times (NCCL_INSPECTOR_DUMP_VERBOSE=1 does): calls are played in the order of the lines".into());
    }
    Ok(Import { streams: growing.finish(), notes })
}

/// What was called, when, and how long it took.
fn call(record: &Record) -> Result<Option<(Operation, Option<u64>, u64)>, String> {
    if let Some(Dropped { coll_dropped_total: one, p2p_dropped_total: other }) = record.dump_stats
        && (one > 0 || other > 0)
    {
        return Err(format!(
            "the Inspector dropped {one} collectives and {other} messages; record again with larger rings \
             (NCCL_INSPECTOR_DUMP_COLL_RING_SIZE, NCCL_INSPECTOR_DUMP_P2P_RING_SIZE)"
        ));
    }
    if let Some(one) = &record.coll_perf {
        let known = Kind::ALL
            .into_iter()
            .find(|kind| !kind.is_point_to_point() && kind.name().eq_ignore_ascii_case(&one.coll));
        let kind = known.ok_or_else(|| format!("the collective {:?} is not known", one.coll))?;
        let start_us = one.event_trace_ts.as_ref().and_then(|times| times.start_us);
        return Ok(Some((operation(kind, one.coll_msg_size_bytes, 0), start_us, one.coll_exec_time_us)));
    }
    let Some(one) = &record.p2p_perf else { return Ok(None) };
    let kind = match one.p2p.as_str() {
        "Send" => Kind::Send,
        "Recv" => Kind::Recv,
        other => return Err(format!("the message {other:?} is neither Send nor Recv")),
    };
    if one.p2p_peer >= record.header.n_ranks {
        return Err(format!("{} with rank {} of {}", one.p2p, one.p2p_peer, record.header.n_ranks));
    }
    let start_us = one.event_trace_ts.as_ref().and_then(|times| times.start_us);
    Ok(Some((operation(kind, one.p2p_msg_size_bytes, one.p2p_peer), start_us, one.p2p_exec_time_us)))
}

fn operation(kind: Kind, bytes: u64, peer: u32) -> Operation {
    let (data_type, count) = match bytes {
        bytes if kind.reduces() && bytes.is_multiple_of(4) => (DataType::Float32, bytes / 4),
        bytes if kind.reduces() && bytes.is_multiple_of(2) => (DataType::Float16, bytes / 2),
        bytes => (DataType::Int8, bytes),
    };
    Operation { kind, data_type, reduction: Reduction::Sum, peer, in_place: false, count, algorithm: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: &str) -> String {
        format!(
            "{{\"header\":{{\"id\":\"0x1\",\"rank\":1,\"n_ranks\":2,\"nnodes\":1}},\"metadata\":{{\"hostname\":\"a\",\"pid\":7}},{body}}}\n"
        )
    }

    fn sum(start: u64, bytes: u64) -> String {
        line(&format!(
            "\"coll_perf\":{{\"coll\":\"AllReduce\",\"coll_sn\":1,\"coll_msg_size_bytes\":{bytes},\"coll_exec_time_us\":3,\"event_trace_ts\":{{\"coll_start_ts\":{start}}}}}"
        ))
    }

    const SEND: &str = "\"p2p_perf\":{\"p2p\":\"Send\",\"p2p_peer\":0,\"p2p_msg_size_bytes\":5}";

    #[test]
    fn records_are_read() {
        let import = read(&(sum(50, 64) + &sum(20, 6) + &line("\"dump_stats\":{}"))).unwrap();
        let [stream] = import.streams.as_slice() else { panic!("{import:?}") };
        assert_eq!((stream.rank, stream.ranks, stream.process.as_str()), (1, 2, "a/7"));
        // By their times, where all have one.
        let told: Vec<_> = stream.definitions.iter().map(|all| (all[0].data_type, all[0].count)).collect();
        assert_eq!(told, [(DataType::Float16, 3), (DataType::Float32, 16)]);
        assert_eq!((stream.batches[0].start_ns, stream.batches[0].end_ns), (20_000, 23_000));
        let import = read(&(sum(50, 64) + &line(SEND) + &line(SEND))).unwrap();
        assert_eq!(import.streams[0].definitions.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        assert!(import.notes.iter().any(|note| note.contains("in the order of the lines")));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, words) in [
            (String::new(), "no call is in it"),
            (sum(1, 4) + "{}\n", "line 2: no record of the Inspector"),
            (
                sum(1, 4) + &line("\"dump_stats\":{\"coll_dropped_total\":3,\"p2p_dropped_total\":0}"),
                "line 2: the Inspector dropped 3 collectives",
            ),
            (sum(1, 4).replace("AllReduce", "Dance"), "line 1: the collective \"Dance\""),
            (line(SEND).replace("\"p2p_peer\":0", "\"p2p_peer\":9"), "line 1: Send with rank 9 of 2"),
            (line(SEND).replace("\"rank\":1", "\"rank\":2"), "line 1: rank 2 of 2"),
        ] {
            let problem = read(&text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(body in "(\"coll_perf\":|\"p2p_perf\":|\\{|\\}|\"p2p\":\"Send\"|\"p2p_peer\":[0-9]{1,11}|\"coll_msg_size_bytes\":[0-9]{1,21}|,|.){0,12}") {
            if let Err(problem) = read(&(sum(1, 4) + &line(&body))) {
                proptest::prop_assert!(problem.starts_with("line 2: "), "{}", problem);
            }
        }
    }
}
