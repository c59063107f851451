//! Traces of PyTorch's profiler (Kineto): of all events those named `record_param_comms`, a file for each rank.
//!
//! ```text
//! {"distributedInfo": {"rank": 0, "world_size": 2},
//!  "traceEvents": [{"ph": "X", "name": "record_param_comms", "ts": 10.5, "dur": 2, "args": {
//!    "Collective name": "allreduce", "In msg nelems": 3, "Out msg nelems": 3, "dtype": "Float", "Group size": 2,
//!    "Process Group Name": "0", "Process Group Ranks": "[0, 1]"}}]}
//! ```
//! Times are those of the calls, not of the data. The form does not say operators, which messages were one group, and
//! the ranks of long groups.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::c10d::{self, Growing, Recorded, Seat};
use super::{Import, json};

#[derive(Deserialize)]
struct Trace<'text> {
    #[serde(rename = "distributedInfo")]
    info: Option<Info>,
    #[serde(rename = "traceEvents", borrow)]
    events: Vec<&'text RawValue>,
}

#[derive(Deserialize)]
struct Info {
    rank: u32,
    world_size: u32,
}

#[derive(Deserialize)]
struct Event {
    name: String,
    ph: String,
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Value,
}

/// The name of the events that count.
pub(super) const EVENT: &str = "record_param_comms";

/// Reads the trace of one rank.
///
/// # Errors
/// The line, and what cannot be played there.
pub(super) fn read(text: &str) -> Result<Import, String> {
    let trace: Trace =
        serde_json::from_str(text).map_err(|error| format!("line {}: {error}", error.line()))?;
    let info = trace
        .info
        .ok_or("there is no distributedInfo, which says the rank; record with torch.distributed set up")?;
    let mut calls = Vec::new();
    for raw in trace.events.into_iter().filter(|raw| raw.get().contains(EVENT)) {
        let event: Event = json::understood(text, raw)?;
        if event.name != EVENT || event.ph != "X" {
            continue;
        }
        let told = |problem: String| json::located(text, raw, &problem);
        let Some((seat, operations)) = call(&event.args, &info).map_err(told)? else { continue };
        let at_ns = |us: f64| (us * 1e3) as u64;
        calls.push((at_ns(event.ts), at_ns(event.ts + event.dur), seat, operations));
    }
    if calls.is_empty() {
        return Err(format!("there is no event {EVENT} that communicates"));
    }
    // Events of several threads lie behind each other.
    calls.sort_by_key(|(start_ns, ..)| *start_ns);
    let mut growing = Growing::default();
    for (start_ns, end_ns, seat, operations) in calls {
        growing.add(seat, operations, start_ns, end_ns);
    }
    let notes = vec![
        "Kineto does not say operators: what is reduced is played as Sum".to_owned(),
        c10d::MERGED.to_owned(),
    ];
    Ok(Import { streams: growing.finish(), notes })
}

type Call = (Seat, Vec<crate::trace::file::Operation>);

fn call(args: &Value, info: &Info) -> Result<Option<Call>, String> {
    // Events that communicate nothing lack it.
    let Some(name) = args["Collective name"].as_str() else { return Ok(None) };
    if c10d::calls_nothing(name) {
        return Ok(None);
    }
    let number = |name: &str| args[name].as_u64().unwrap_or(0);
    let list = |name: &str| {
        numbers(&args[name]).ok_or_else(|| format!("{name} is {}, expected numbers", args[name]))
    };
    let members = members(args, info)?;
    let place_of =
        |global: u32| members.iter().position(|member| *member == global).map(|place| place as u32);
    let rank =
        place_of(info.rank).ok_or_else(|| format!("rank {} is none of its group {members:?}", info.rank))?;
    let global = |name: &str| args[name].as_u64().and_then(|rank| place_of(rank as u32));
    let own = || args["Rank"].as_u64().map(|rank| rank as u32);
    let peer = match name {
        "send" => global("Dst Rank").or_else(own),
        "recv" => global("Src Rank").or_else(own),
        _ => args["Root rank"].as_u64().map(|rank| rank as u32).or_else(own),
    };
    let recorded = Recorded {
        name,
        given: number("In msg nelems"),
        taken: number("Out msg nelems"),
        data_type: args["dtype"].as_str().unwrap_or(""),
        given_split: list("In split size")?,
        taken_split: list("Out split size")?,
        // Of what has no root it is the rank itself.
        peer: peer.filter(|peer| *peer < members.len() as u32 || ["send", "recv"].contains(&name)),
        ranks: members.len() as u32,
    };
    let operations = c10d::operations(&recorded)?;
    let group = format!("{} of {members:?}", args["Process Group Name"].as_str().unwrap_or("world"));
    let seat = Seat { group, rank, ranks: members.len() as u32, process: format!("kineto/{}", info.rank) };
    Ok((!operations.is_empty()).then_some((seat, operations)))
}

/// The ranks of the group. Of long lists Kineto writes the ends only.
fn members(args: &Value, info: &Info) -> Result<Vec<u32>, String> {
    /// More ranks than any job has.
    const RANKS_LIMIT: u32 = 1 << 20;
    if info.world_size > RANKS_LIMIT {
        return Err(format!("a world of {} ranks", info.world_size));
    }
    let size = args["Group size"].as_u64().unwrap_or(u64::from(info.world_size));
    let listed = numbers(&args["Process Group Ranks"]);
    match listed.filter(|list| !list.is_empty()) {
        Some(list) if list.len() as u64 == size => Ok(list.into_iter().map(|rank| rank as u32).collect()),
        _ if size == u64::from(info.world_size) => Ok((0..info.world_size).collect()),
        _ => Err(format!(
            "the ranks of a group of {size} are {}, expected all of them",
            args["Process Group Ranks"]
        )),
    }
}

/// Numbers, as a list or as the text of one; none where there is nothing.
fn numbers(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(Value::as_u64).collect(),
        Value::String(text) => {
            let inner = text.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
            let words = inner.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(|word| word.parse().ok()).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;

    fn event(ts: f64, args: &str) -> String {
        format!(
            "{{\"ph\":\"X\",\"cat\":\"cpu_op\",\"name\":\"{EVENT}\",\"pid\":7,\"tid\":7,\"ts\":{ts},\"dur\":2.5,\"args\":{{{args}}}}}"
        )
    }

    fn trace(events: &[String]) -> String {
        let other = "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"ts\":0,\"args\":{}}".to_owned();
        let events: Vec<String> = std::iter::once(other).chain(events.iter().cloned()).collect();
        format!(
            "{{\"distributedInfo\":{{\"backend\":\"nccl\",\"rank\":2,\"world_size\":4}},\"traceEvents\":[\n{}\n]}}",
            events.join(",\n")
        )
    }

    const SUM: &str = "\"Collective name\":\"allreduce\",\"dtype\":\"BFloat16\",\"In msg nelems\":24,\"Out msg nelems\":24,\
                       \"Group size\":4,\"Process Group Name\":\"0\",\"Process Group Ranks\":\"[0, 1, 2, 3]\",\"Rank\":2";

    #[test]
    fn a_trace_is_read() {
        let part = "\"Group size\":2,\"Process Group Name\":\"pp\",\"Process Group Ranks\":\"[2, 3]\",\"dtype\":\"Float\"";
        let send = format!(
            "\"Collective name\":\"send\",\"In msg nelems\":8,\"Out msg nelems\":8,\"Dst Rank\":3,{part}"
        );
        let text = trace(&[
            event(90.0, &send),
            event(10.5, SUM),
            event(95.0, &send.replace("send", "recv").replace("Dst", "Src")),
            event(50.0, "\"Collective name\":\"wait\""),
            event(60.0, ""),
        ]);
        let streams = read(&text).unwrap().streams;
        let [world, stages] = streams.as_slice() else { panic!("{streams:?}") };
        assert_eq!((world.rank, world.ranks, world.definitions[0][0].bytes()), (2, 4, 48));
        assert_eq!((world.batches[0].start_ns, world.batches[0].end_ns), (10_500, 13_000));
        let told: Vec<_> = stages.definitions[0].iter().map(|one| (one.kind, one.peer)).collect();
        assert_eq!((stages.rank, stages.ranks, told), (0, 2, vec![(Kind::Send, 1), (Kind::Recv, 1)]));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, words) in [
            ("[]".to_owned(), "line 1: "),
            ("{\"traceEvents\":[]}".into(), "there is no distributedInfo"),
            (trace(&[]), "there is no event"),
            (
                trace(&[event(1.0, SUM), event(1.0, &SUM.replace("allreduce", "dance"))]),
                "line 4: the collective \"dance\"",
            ),
            (
                trace(&[event(1.0, &SUM.replace("[0, 1, 2, 3]", "[0, 1]").replace("size\":4", "size\":2"))]),
                "line 3: rank 2 is none",
            ),
            (
                trace(&[event(
                    1.0,
                    &SUM.replace("[0, 1, 2, 3]", "[0, ..., 2]").replace("size\":4", "size\":3"),
                )]),
                "line 3: the ranks of a group of 3",
            ),
        ] {
            let problem = read(&text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_arguments_are_borne(args in "(\"Collective name\":\"(send|all_to_all|x)\",|\"Group size\":[0-9]{1,12},|\"Rank\":[0-9]{1,12},|\"In split size\":\"\\[[0-9, ]{0,9}\\]\",|\"In msg nelems\":[0-9]{1,19},|.){0,8}") {
            let args = args + "\"dtype\":\"Float\"";
            if let Err(problem) = read(&trace(&[event(1.0, &args)])) {
                proptest::prop_assert!(problem.starts_with("line ") || problem.starts_with("there is no event"), "{}", problem);
            }
        }
    }
}
