//! What PyTorch's operations call, by the names and element counts that its recorders write (Kineto, PARAM).

use super::super::script::{Batch, Stream};
use crate::op::{DataType, Kind, Reduction};
use crate::trace::file::Operation;

/// One call as it was recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded<'text> {
    pub(super) name: &'text str,
    /// Elements that it reads and that it writes.
    pub(super) given: u64,
    pub(super) taken: u64,
    pub(super) data_type: &'text str,
    /// How the two fall to ranks; empty: equally.
    pub(super) given_split: Vec<u64>,
    pub(super) taken_split: Vec<u64>,
    /// The root or the peer, as a rank of the group.
    pub(super) peer: Option<u32>,
    pub(super) ranks: u32,
}

/// The letters of a name, small.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Names of what moves nothing.
pub(super) fn calls_nothing(name: &str) -> bool {
    let names = ["wait", "init", "startcoalesced", "endcoalesced", "startcoalescing", "endcoalescing"];
    names.contains(&plain(name).as_str())
}

/// What it calls, together; nothing where it calls nothing.
///
/// # Errors
/// What is not known, or does not fit together.
pub(super) fn operations(recorded: &Recorded) -> Result<Vec<Operation>, String> {
    let Recorded { given, taken, ranks, .. } = *recorded;
    if calls_nothing(recorded.name) {
        return Ok(Vec::new());
    }
    let (kind, count) = match plain(recorded.name).as_str() {
        "allreduce" | "allreducecoalesced" => (Kind::AllReduce, given),
        "broadcast" => (Kind::Broadcast, given.max(taken)),
        "reduce" => (Kind::Reduce, given),
        "allgather"
        | "allgatherbase"
        | "allgatherintotensor"
        | "allgatherintotensorcoalesced"
        | "allgathersingle" => (Kind::AllGather, given),
        "reducescatter"
        | "reducescatterbase"
        | "reducescattertensor"
        | "reducescattertensorcoalesced"
        | "reducescattersingle" => (Kind::ReduceScatter, taken),
        "gather" => (Kind::Gather, given),
        "scatter" => (Kind::Scatter, taken),
        "alltoall" | "alltoallv" | "alltoallbase" | "alltoallsingle" => return exchange(recorded),
        "send" => (Kind::Send, given.max(taken)),
        "recv" => (Kind::Recv, given.max(taken)),
        "barrier" => return Ok(vec![operation(Kind::AllReduce, DataType::Int32, 1, 0)]),
        "recvanysource" => return Err("recvanysource does not say from whom, so it cannot be played".into()),
        _ => return Err(format!("the collective {:?} is not known", recorded.name)),
    };
    let data_type = data_type(recorded.data_type)?;
    let peer = match recorded.peer {
        Some(peer) if peer < ranks => peer,
        Some(peer) => return Err(format!("{} with rank {peer} of {ranks}", recorded.name)),
        None if kind.is_point_to_point() => return Err(format!("{} does not say with whom", recorded.name)),
        None => 0,
    };
    let peer = if kind.is_point_to_point() || kind.has_root() { peer } else { 0 };
    Ok(vec![operation(kind, data_type, count, peer)])
}

fn operation(kind: Kind, data_type: DataType, count: u64, peer: u32) -> Operation {
    let reduction = Reduction::Sum;
    Operation { kind, data_type, reduction, peer, in_place: false, count, algorithm: 0 }
}

/// Everyone to everyone: one call where all get the same, else messages in a group.
fn exchange(recorded: &Recorded) -> Result<Vec<Operation>, String> {
    let Recorded { given, taken, ranks, .. } = *recorded;
    let data_type = data_type(recorded.data_type)?;
    let equal = recorded.given_split.is_empty() && recorded.taken_split.is_empty();
    if equal && given.is_multiple_of(u64::from(ranks.max(1))) {
        return Ok(vec![operation(Kind::AlltoAll, data_type, given / u64::from(ranks.max(1)), 0)]);
    }
    let sent = shares(given, &recorded.given_split, ranks, "in")?;
    let received = shares(taken, &recorded.taken_split, ranks, "out")?;
    let messages = |kind: Kind, shares: Vec<u64>| {
        let some = (0..).zip(shares).filter(|(_, count)| *count > 0);
        some.map(move |(peer, count)| operation(kind, data_type, count, peer))
    };
    Ok(messages(Kind::Send, sent).chain(messages(Kind::Recv, received)).collect())
}

/// How many elements fall to each rank. A split counts rows, which are equally long.
fn shares(all: u64, split: &[u64], ranks: u32, what: &str) -> Result<Vec<u64>, String> {
    let wrong = || format!("{all} elements do not fall to {ranks} ranks as the {what} split {split:?} says");
    if split.is_empty() {
        let share = all / u64::from(ranks.max(1));
        return if share * u64::from(ranks) == all { Ok(vec![share; ranks as usize]) } else { Err(wrong()) };
    }
    let rows: u64 = split.iter().fold(0, |sum, one| sum.saturating_add(*one));
    if split.len() != ranks as usize || (rows == 0 && all > 0) || (rows > 0 && !all.is_multiple_of(rows)) {
        return Err(wrong());
    }
    let row = all.checked_div(rows).unwrap_or(0);
    Ok(split.iter().map(|one| one.saturating_mul(row)).collect())
}

/// The element type of PyTorch's name, of either recorder.
fn data_type(name: &str) -> Result<DataType, String> {
    let plain = name.trim_start_matches("Tensor(").trim_start_matches("c10::").trim_end_matches(')');
    Ok(match plain.to_ascii_lowercase().as_str() {
        "float" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "half" | "float16" => DataType::Float16,
        "bfloat16" => DataType::Bfloat16,
        "int" | "int32" => DataType::Int32,
        "long" | "long int" | "int64" => DataType::Int64,
        "char" | "signed char" | "int8" => DataType::Int8,
        "byte" | "unsigned char" | "uint8" | "bool" => DataType::Uint8,
        "float8_e4m3fn" => DataType::Float8E4M3,
        "float8_e5m2" => DataType::Float8E5M2,
        "uint32" => DataType::Uint32,
        "uint64" => DataType::Uint64,
        _ => return Err(format!("the type {name:?} is none that NCCL has")),
    })
}

/// Streams that grow call by call. Messages that follow each other in a process are one group: recorders do not say
/// which were, and in a group they need no order.
#[derive(Debug, Default)]
pub(super) struct Growing {
    streams: Vec<Stream>,
    /// The stream of the call before, if that was a message.
    before: Option<usize>,
}

/// A rank of a communicator in a process.
pub(super) struct Seat {
    pub(super) group: String,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) process: String,
}

impl Growing {
    /// Adds what one call did between two moments.
    pub(super) fn add(&mut self, seat: Seat, operations: Vec<Operation>, start_ns: u64, end_ns: u64) {
        let Seat { group, rank, ranks, process } = seat;
        let is_its =
            |stream: &Stream| stream.group == group && stream.rank == rank && stream.process == process;
        let place = self.streams.iter().position(is_its).unwrap_or_else(|| {
            self.streams.push(Stream { group, rank, ranks, process, ..Stream::default() });
            self.streams.len() - 1
        });
        let stream = &mut self.streams[place];
        let is_message = operations.iter().all(|one| one.kind.is_point_to_point());
        if is_message
            && self.before == Some(place)
            && let (Some(group), Some(batch)) = (stream.definitions.last_mut(), stream.batches.last_mut())
        {
            group.extend(operations);
            batch.end_ns = end_ns.max(batch.end_ns);
            return;
        }
        self.before = is_message.then_some(place);
        let definition = stream.definitions.len() as u32;
        stream.definitions.push(operations);
        stream.batches.push(Batch { definition, start_ns, end_ns: end_ns.max(start_ns) });
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<Stream> {
        self.streams
    }
}

/// What is lost where only calls one by one are recorded.
pub(super) const MERGED: &str =
    "which messages were one group is not recorded: those that follow each other are played as one";

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(name: &str, given: u64, taken: u64) -> Recorded<'_> {
        Recorded { name, given, taken, data_type: "Float", ranks: 4, ..Recorded::default() }
    }

    #[test]
    fn names_and_counts_are_understood() {
        let of = |name: &str, given, taken| {
            let all = operations(&recorded(name, given, taken)).unwrap();
            (all[0].kind, all[0].count)
        };
        assert_eq!(of("allreduce", 9, 9), (Kind::AllReduce, 9));
        assert_eq!(of("_allgather_base", 9, 36), (Kind::AllGather, 9));
        assert_eq!(of("reduce_scatter_tensor_coalesced", 36, 9), (Kind::ReduceScatter, 9));
        assert_eq!(of("all_to_all", 36, 36), (Kind::AlltoAll, 9));
        assert_eq!(of("barrier", 0, 0), (Kind::AllReduce, 1));
        assert!(operations(&recorded("wait", 0, 0)).unwrap().is_empty());
        for (one, words) in [
            (recorded("dance", 1, 1), "\"dance\" is not known"),
            (recorded("send", 1, 1), "does not say with whom"),
            (recorded("recvAnySource", 1, 1), "from whom"),
            (Recorded { data_type: "ComplexFloat", ..recorded("allreduce", 1, 1) }, "none that NCCL has"),
            (Recorded { peer: Some(4), ..recorded("broadcast", 1, 1) }, "rank 4 of 4"),
            (recorded("alltoallv", 5, 4), "5 elements do not fall to 4 ranks"),
        ] {
            let problem = operations(&one).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn unequal_shares_are_messages() {
        let split = Recorded {
            given_split: vec![1, 0, 2, 0],
            taken_split: vec![0, 0, 0, 5],
            ..recorded("all_to_allv", 30, 50)
        };
        let all = operations(&split).unwrap();
        let told: Vec<_> = all.iter().map(|one| (one.kind, one.peer, one.count)).collect();
        assert_eq!(told, [(Kind::Send, 0, 10), (Kind::Send, 2, 20), (Kind::Recv, 3, 50)]);
    }

    #[test]
    fn messages_that_follow_each_other_are_a_group() {
        let mut growing = Growing::default();
        let seat = |group: &str| Seat { group: group.into(), rank: 0, ranks: 2, process: "p".into() };
        let message = vec![operation(Kind::Send, DataType::Int8, 1, 1)];
        let sum = vec![operation(Kind::AllReduce, DataType::Int8, 1, 0)];
        for (group, calls) in
            [("a", &message), ("a", &message), ("a", &sum), ("a", &message), ("b", &sum), ("a", &message)]
        {
            growing.add(seat(group), calls.clone(), 0, 1);
        }
        let streams = growing.finish();
        assert_eq!(streams[0].definitions.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
        assert_eq!(streams[1].batches.len(), 1);
    }
}
