//! What is played again: a stream of batches for each rank of each communicator, and who plays it. Pure.
//!
//! A *player* is a rank of the replay. Streams of one process belong to one player, or to several where the process
//! held several ranks of a communicator. Of a job with more ranks than are to play, the first ones are kept: their
//! communicators shrink to them, and messages to the others are left out.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::trim;
use crate::trace::file::Operation;

/// A batch as it was recorded: what, and when, in nanoseconds of its process's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Batch {
    /// The place of its definition.
    pub(in crate::cli) definition: u32,
    pub(in crate::cli) start_ns: u64,
    pub(in crate::cli) end_ns: u64,
}

/// All that one rank of one communicator did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Stream {
    /// The communicator.
    pub(in crate::cli) group: String,
    pub(in crate::cli) rank: u32,
    pub(in crate::cli) ranks: u32,
    /// Whoever has the same did it in one process.
    pub(in crate::cli) process: String,
    /// What batches are.
    pub(in crate::cli) definitions: Vec<Vec<Operation>>,
    /// In the order of the calls.
    pub(in crate::cli) batches: Vec<Batch>,
}

/// One rank of a communicator, and who plays it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Member {
    pub(in crate::cli) player: usize,
    /// Host and process.
    pub(in crate::cli) process: String,
    pub(in crate::cli) definitions: Vec<Vec<Operation>>,
    pub(in crate::cli) batches: Vec<Batch>,
}

/// A communicator, its members by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Group {
    pub(in crate::cli) name: String,
    pub(in crate::cli) members: Vec<Member>,
}

/// Everything that is played.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Script {
    pub(in crate::cli) groups: Vec<Group>,
    pub(in crate::cli) players: usize,
    /// What is not as it was recorded, in sentences.
    pub(in crate::cli) notes: Vec<String>,
}

/// What is asked of a script.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Wishes {
    /// So many players at most.
    pub(in crate::cli) players: Option<usize>,
    /// By what counts are multiplied.
    pub(in crate::cli) scale: f64,
}

impl Script {
    /// Puts streams together.
    ///
    /// # Errors
    /// What is missing or cannot be, and what to do.
    pub(in crate::cli) fn new(streams: Vec<Stream>, wishes: &Wishes) -> Result<Script, String> {
        let streams = sorted(streams)?;
        let players = players(&streams);
        let all = players.values().max().map_or(0, |last| last + 1);
        let kept = wishes.players.unwrap_or(all).min(all);
        let mut script = Script { players: kept, ..Script::default() };
        let mut left_out = Folded::default();
        for (name, streams) in streams {
            let ranks = streams.values().next().map_or(0, |stream| stream.ranks);
            let present = streams.len() as u32;
            if present < ranks && kept == all {
                let missing = (0..ranks).filter(|rank| !streams.contains_key(rank)).take(5);
                let missing: Vec<String> = missing.map(|rank| rank.to_string()).collect();
                return Err(format!(
                    "of the {ranks} ranks of communicator {name} there is no trace of rank {}; give the traces of all, \
                     or play fewer with --ranks",
                    missing.join(", ")
                ));
            }
            let player = |rank: u32| players.get(&(name.clone(), rank)).copied().unwrap_or(usize::MAX);
            let members: Vec<u32> = streams.keys().copied().filter(|rank| player(*rank) < kept).collect();
            if members.is_empty() || (members.len() == 1 && ranks > 1) {
                left_out.groups += 1;
                continue;
            }
            let places: BTreeMap<u32, u32> = members.iter().copied().zip(0..).collect();
            let is_kept = |(rank, stream): (u32, Stream)| {
                places
                    .contains_key(&rank)
                    .then(|| member(stream, player(rank), &places, wishes, &mut left_out))
            };
            let members = streams.into_iter().filter_map(is_kept).collect();
            script.groups.push(Group { name, members });
        }
        left_out.tell(&mut script.notes);
        for group in &mut script.groups {
            trim::trim(group, &mut script.notes)?;
        }
        script.groups.retain(|group| group.members.iter().any(|member| !member.batches.is_empty()));
        if script.groups.is_empty() {
            return Err("there is nothing to play".into());
        }
        Ok(script)
    }

    /// Calls and bytes by operation, over all ranks.
    pub(in crate::cli) fn volumes(&self) -> BTreeMap<&'static str, [u64; 2]> {
        let mut volumes: BTreeMap<&'static str, [u64; 2]> = BTreeMap::new();
        for member in self.groups.iter().flat_map(|group| &group.members) {
            for operation in member.batches.iter().flat_map(|batch| member.operations(batch)) {
                let [calls, bytes] = volumes.entry(operation.kind.name()).or_default();
                *calls += 1;
                *bytes = bytes.saturating_add(operation.bytes());
            }
        }
        volumes
    }
}

impl Member {
    /// What a batch calls.
    pub(in crate::cli) fn operations(&self, batch: &Batch) -> &[Operation] {
        self.definitions.get(batch.definition as usize).map_or(&[], Vec::as_slice)
    }
}

/// Streams by communicator and rank.
type Sorted = BTreeMap<String, BTreeMap<u32, Stream>>;

fn sorted(streams: Vec<Stream>) -> Result<Sorted, String> {
    let mut sorted = Sorted::new();
    for stream in streams {
        let Stream { ref group, rank, ranks, .. } = stream;
        if rank >= ranks {
            return Err(format!("communicator {group} has {ranks} ranks, and a trace is of rank {rank}"));
        }
        let wrong = |operation: &&Operation| {
            (operation.kind.is_point_to_point() || operation.kind.has_root()) && operation.peer >= ranks
        };
        if let Some(operation) = stream.definitions.iter().flatten().find(wrong) {
            let (name, peer) = (operation.kind.name(), operation.peer);
            return Err(format!(
                "rank {rank} of communicator {group} calls {name} with rank {peer} of {ranks}"
            ));
        }
        let of_group = sorted.entry(group.clone()).or_default();
        if of_group.values().next().is_some_and(|other| other.ranks != ranks) {
            return Err(format!("traces of communicator {group} differ in how many ranks it has"));
        }
        let group = group.clone();
        if of_group.insert(rank, stream).is_some() {
            return Err(format!(
                "there are two traces of rank {rank} of communicator {group}; give those of one run"
            ));
        }
    }
    Ok(sorted)
}

/// A rank of a communicator: its name, the rank, how many.
type Part<'name> = (&'name str, u32, u32);

/// Who plays which rank. The ranks of a communicator that one process held are told apart by their order.
fn players(sorted: &Sorted) -> BTreeMap<(String, u32), usize> {
    let mut slots: BTreeMap<(&str, usize), Vec<Part>> = BTreeMap::new();
    for (name, streams) in sorted {
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for (rank, stream) in streams {
            let slot = held.entry(&stream.process).or_default();
            slots.entry((&stream.process, *slot)).or_default().push((name, *rank, stream.ranks));
            *slot += 1;
        }
    }
    // Players are numbered by their ranks in the largest communicator.
    let mut order: Vec<_> = slots.into_values().collect();
    order.sort_by_key(|places| {
        let largest = places.iter().max_by_key(|(name, _, ranks)| (*ranks, std::cmp::Reverse(*name)));
        largest.map(|(name, rank, ranks)| (std::cmp::Reverse(*ranks), (*name).to_owned(), *rank))
    });
    let mut players = BTreeMap::new();
    for (player, places) in order.into_iter().enumerate() {
        players.extend(places.into_iter().map(|(name, rank, _)| ((name.to_owned(), rank), player)));
    }
    players
}

/// What was left out since not all ranks play.
#[derive(Default)]
struct Folded {
    groups: usize,
    messages: BTreeSet<(u32, u32)>,
    roots: usize,
}

impl Folded {
    fn tell(&self, notes: &mut Vec<String>) {
        if self.groups > 0 {
            notes
                .push(format!("{} communicators are left out, of which at most one rank plays", self.groups));
        }
        if !self.messages.is_empty() {
            notes.push("messages with ranks that do not play are left out".into());
        }
        if self.roots > 0 {
            notes.push("where the root does not play, another rank is it".into());
        }
    }
}

fn member(
    stream: Stream,
    player: usize,
    places: &BTreeMap<u32, u32>,
    wishes: &Wishes,
    left_out: &mut Folded,
) -> Member {
    let mut fold = |mut operation: Operation| {
        let place = places.get(&operation.peer).copied();
        operation.count = scaled(operation.count, wishes.scale);
        if operation.kind.is_point_to_point() {
            let Some(peer) = place else {
                left_out.messages.insert((stream.rank, operation.peer));
                return None;
            };
            operation.peer = peer;
        } else if operation.kind.has_root() {
            left_out.roots += usize::from(place.is_none());
            operation.peer = place.unwrap_or(operation.peer % places.len() as u32);
        }
        Some(operation)
    };
    let fold_all = |operations: Vec<Operation>| operations.into_iter().filter_map(&mut fold).collect();
    let definitions: Vec<Vec<Operation>> = stream.definitions.into_iter().map(fold_all).collect();
    let mut batches = stream.batches;
    batches.retain(|batch| definitions.get(batch.definition as usize).is_some_and(|all| !all.is_empty()));
    Member { player, process: stream.process, definitions, batches }
}

/// A count of nothing stays nothing, and no other becomes nothing.
fn scaled(count: u64, scale: f64) -> u64 {
    if count == 0 || scale == 1.0 { count } else { ((count as f64 * scale).round() as u64).max(1) }
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::*;
    use crate::op::{DataType, Kind, Reduction};

    pub(in crate::cli) const ALL: Wishes = Wishes { players: None, scale: 1.0 };

    pub(in crate::cli) fn operation(kind: Kind, count: u64, peer: u32) -> Operation {
        let (data_type, reduction) = (DataType::Int32, Reduction::Sum);
        Operation { kind, data_type, reduction, peer, in_place: false, count, algorithm: 0 }
    }

    /// A stream of batches of one operation each, one behind the other.
    pub(in crate::cli) fn stream(group: &str, rank: u32, ranks: u32, calls: &[Operation]) -> Stream {
        let batch = |index: usize| Batch {
            definition: index as u32,
            start_ns: 10 * index as u64,
            end_ns: 10 * index as u64 + 5,
        };
        Stream {
            group: group.into(),
            rank,
            ranks,
            process: format!("host/{rank}"),
            definitions: calls.iter().map(|call| vec![*call]).collect(),
            batches: (0..calls.len()).map(batch).collect(),
        }
    }

    /// Everyone sums, and sends to the next.
    fn ring(ranks: u32) -> Vec<Stream> {
        let calls = |rank: u32| {
            [
                operation(Kind::AllReduce, 100, 0),
                operation(Kind::Broadcast, 9, ranks - 1),
                operation(Kind::Send, 50, (rank + 1) % ranks),
                operation(Kind::Recv, 50, (rank + ranks - 1) % ranks),
            ]
        };
        (0..ranks).map(|rank| stream("world", rank, ranks, &calls(rank))).collect()
    }

    #[test]
    fn what_was_recorded_is_what_is_played() {
        let script = Script::new(ring(4), &ALL).unwrap();
        assert_eq!((script.players, script.groups.len(), script.notes.len()), (4, 1, 0));
        let volumes = script.volumes();
        assert_eq!((volumes["AllReduce"], volumes["Send"], volumes["Recv"]), ([4, 1600], [4, 800], [4, 800]));
    }

    #[test]
    fn fewer_ranks_play_what_is_among_them() {
        let script = Script::new(ring(4), &Wishes { players: Some(2), scale: 0.1 }).unwrap();
        let volumes = script.volumes();
        assert_eq!((volumes["AllReduce"], volumes["Send"], volumes["Recv"]), ([2, 80], [1, 20], [1, 20]));
        // The root did not stay.
        assert_eq!(script.groups[0].members[0].definitions[1][0].peer, 1);
        assert_eq!(script.notes.len(), 2, "{:?}", script.notes);
    }

    #[test]
    fn a_process_that_holds_several_ranks_is_several_players() {
        let mut streams = ring(2);
        streams.iter_mut().for_each(|stream| stream.process = "one".into());
        assert_eq!(Script::new(streams, &ALL).unwrap().players, 2);
        // Communicators of one process are one player's.
        let mut streams = ring(2);
        streams.extend(ring(2).into_iter().map(|stream| Stream { group: "other".into(), ..stream }));
        let script = Script::new(streams, &ALL).unwrap();
        assert_eq!((script.players, script.groups.len()), (2, 2));
        assert_eq!(script.groups[1].members[1].player, 1);
    }

    #[test]
    fn what_cannot_be_played_is_named() {
        let mut streams = ring(3);
        streams.pop();
        assert!(Script::new(streams.clone(), &ALL).unwrap_err().contains("no trace of rank 2"));
        streams.push(streams[0].clone());
        assert!(Script::new(streams, &ALL).unwrap_err().contains("two traces of rank 0"));
        let wrong = vec![stream("a", 0, 1, &[operation(Kind::Send, 1, 5)])];
        assert!(Script::new(wrong, &ALL).unwrap_err().contains("calls Send with rank 5 of 1"));
        assert!(Script::new(Vec::new(), &ALL).unwrap_err().contains("nothing to play"));
    }
}
