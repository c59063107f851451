//! PARAM's traces of communication: a list of calls in JSON, a file for each rank, whose name ends in the rank
//! (`rank3.json`, `3.json`).
//!
//! ```text
//! [{"comms": "init", "pg_id": 0, "global_ranks": [0, 1], "world_size": 2},
//!  {"comms": "all_reduce", "pg_id": 0, "in_msg_size": 1024, "out_msg_size": 1024, "dtype": "float", "req": 7}]
//! ```
//! Sizes are elements. The form does not say operators, streams, durations, and which messages were one group.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::c10d::{self, Growing, Recorded, Seat};
use super::{Import, json};

#[derive(Deserialize)]
struct Entry {
    comms: Option<String>,
    pg_id: Option<u64>,
    global_ranks: Option<Vec<u32>>,
    in_msg_size: Option<u64>,
    out_msg_size: Option<u64>,
    dtype: Option<String>,
    #[serde(default)]
    in_split: Vec<u64>,
    #[serde(default)]
    out_split: Vec<u64>,
    root: Option<u32>,
    src_rank: Option<u32>,
    dst_rank: Option<u32>,
    #[serde(rename = "startTime_ns")]
    start_ns: Option<f64>,
}

/// Reads the trace of one of so many ranks, by the name of its file.
///
/// # Errors
/// The line, and what cannot be played there.
pub(super) fn read(name: &str, text: &str, files: usize) -> Result<Import, String> {
    let rank = rank_of(name).ok_or("its name does not end in a rank, as rank0.json does")?;
    let mut groups: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let world: Vec<u32> = (0..u32::try_from(files).unwrap_or(u32::MAX)).collect();
    let mut growing = Growing::default();
    for (place, raw) in (0..).zip(json::entries(text)?) {
        let entry: Entry = json::understood(text, raw)?;
        let told = |problem: String| json::located(text, raw, &problem);
        // Entries without it are computations.
        let Some(comms) = &entry.comms else { continue };
        if let (Some(id), Some(ranks)) = (entry.pg_id, &entry.global_ranks) {
            groups.insert(id, ranks.clone());
        }
        let members = match entry.pg_id {
            None => &world,
            Some(id) => {
                groups.get(&id).ok_or_else(|| told(format!("pg_id {id} was not told by an init before")))?
            }
        };
        let place_of =
            |global: u32| members.iter().position(|member| *member == global).map(|place| place as u32);
        let Some(own) = place_of(rank) else {
            if comms == "init" {
                continue;
            }
            return Err(told(format!("rank {rank} calls {comms} in a group of {members:?}")));
        };
        let partner = match comms.as_str() {
            "send" | "isend" => entry.dst_rank,
            "recv" | "irecv" => entry.src_rank,
            _ => entry.root,
        };
        let peer = partner.map(|global| {
            place_of(global).ok_or_else(|| told(format!("rank {global} is none of the group {members:?}")))
        });
        let recorded = Recorded {
            name: comms.strip_prefix('i').filter(|name| ["send", "recv"].contains(name)).unwrap_or(comms),
            given: entry.in_msg_size.unwrap_or(0),
            taken: entry.out_msg_size.unwrap_or(0),
            data_type: entry.dtype.as_deref().unwrap_or(""),
            given_split: entry.in_split,
            taken_split: entry.out_split,
            peer: peer.transpose()?,
            ranks: members.len() as u32,
        };
        let operations = c10d::operations(&recorded).map_err(told)?;
        if operations.is_empty() {
            continue;
        }
        let at_ns = entry.start_ns.map_or(place, |ns| ns as u64);
        let group =
            format!("group {} of {members:?}", entry.pg_id.map_or("world".into(), |id| id.to_string()));
        let seat = Seat { group, rank: own, ranks: members.len() as u32, process: format!("param/{rank}") };
        growing.add(seat, operations, at_ns, at_ns);
    }
    let notes = vec![
        "PARAM does not say operators: what is reduced is played as Sum".to_owned(),
        c10d::MERGED.to_owned(),
    ];
    Ok(Import { streams: growing.finish(), notes })
}

/// The last number in a name, without its ending.
fn rank_of(name: &str) -> Option<u32> {
    let stem = name.rsplit('/').next()?.split('.').next()?;
    let digits = stem.len() - stem.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;

    const INIT: &str = "[{\"comms\":\"init\",\"pg_id\":5,\"global_ranks\":[2,4]},\n";

    #[test]
    fn a_trace_is_read() {
        let text = INIT.to_owned()
            + "{\"compute\":\"gemm\"},\n\
               {\"comms\":\"all_gather\",\"pg_id\":5,\"in_msg_size\":3,\"out_msg_size\":6,\"dtype\":\"half\",\"startTime_ns\":70},\n\
               {\"comms\":\"send\",\"pg_id\":5,\"in_msg_size\":3,\"out_msg_size\":3,\"dtype\":\"Int\",\"dst_rank\":2,\"startTime_ns\":80},\n\
               {\"comms\":\"irecv\",\"pg_id\":5,\"in_msg_size\":3,\"out_msg_size\":3,\"dtype\":\"Int\",\"src_rank\":2},\n\
               {\"comms\":\"wait\",\"pg_id\":5,\"req\":1},\n\
               {\"comms\":\"broadcast\",\"in_msg_size\":2,\"out_msg_size\":2,\"dtype\":\"byte\",\"root\":3}]";
        let streams = read("dir/rank4.json", &text, 6).unwrap().streams;
        let [group, world] = streams.as_slice() else { panic!("{streams:?}") };
        assert_eq!((group.rank, group.ranks, group.batches[0].start_ns), (1, 2, 70));
        assert_eq!((group.definitions[0][0].kind, group.definitions[0][0].bytes()), (Kind::AllGather, 6));
        let told: Vec<_> = group.definitions[1].iter().map(|one| (one.kind, one.peer)).collect();
        assert_eq!(told, [(Kind::Send, 0), (Kind::Recv, 0)]);
        assert_eq!((world.rank, world.ranks, world.definitions[0][0].peer), (4, 6, 3));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        let of = |more: &str| read("rank4.json", &(INIT.to_owned() + more), 6).unwrap_err();
        for (text, words) in [
            ("{\"comms\":7}]", "line 2: invalid type"),
            ("\n{\"comms\":\"all_reduce\",\"pg_id\":6}]", "line 3: pg_id 6 was not told"),
            ("{\"comms\":\"all_reduce\",\"pg_id\":5,\"dtype\":\"odd\"}]", "line 2: the type \"odd\""),
            (
                "{\"comms\":\"send\",\"pg_id\":5,\"dtype\":\"int\",\"dst_rank\":3}]",
                "line 2: rank 3 is none of the group",
            ),
            ("{", "line 2: "),
        ] {
            let problem = of(text);
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
        assert!(
            read("rank1.json", &(INIT.to_owned() + "{\"comms\":\"all_reduce\",\"pg_id\":5}]"), 6)
                .unwrap_err()
                .contains("rank 1 calls all_reduce")
        );
        assert!(read("trace.json", "[]", 1).unwrap_err().contains("does not end in a rank"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(more in "(\\{|\\}|\\]|\\[|,|:|\"comms\":|\"all_to_allv\"|\"send\"|\"pg_id\":5|\"in_split\":\\[1,9\\]|\"dtype\":\"int\"|\"in_msg_size\":[0-9]{1,22}|.|\\n){0,30}") {
            for start in ["", INIT, "[{"] {
                if let Err(problem) = read("rank4.json", &(start.to_owned() + &more), 6) {
                    proptest::prop_assert!(problem.starts_with("line "), "{}", problem);
                }
            }
        }
    }
}
