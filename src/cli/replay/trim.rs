//! Makes sure that all that is called has its partners. A job that was killed leaves ranks that got further than
//! others; what has no partner is left out, and what would not fit together is refused. Pure.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::script::{Group, Member};
use crate::op::Kind;
use crate::trace::file::Operation;

/// How often something was called: collectives, messages by peer.
#[derive(Clone, Debug, Default)]
struct Counts {
    collectives: u64,
    sent: BTreeMap<u32, u64>,
    received: BTreeMap<u32, u64>,
}

impl Counts {
    fn add(&mut self, operation: &Operation) {
        let count = match operation.kind {
            Kind::Send => self.sent.entry(operation.peer).or_default(),
            Kind::Recv => self.received.entry(operation.peer).or_default(),
            _ => &mut self.collectives,
        };
        *count += 1;
    }

    fn of(member: &Member) -> Counts {
        let mut counts = Counts::default();
        member.batches.iter().flat_map(|batch| member.operations(batch)).for_each(|one| counts.add(one));
        counts
    }
}

/// Leaves out what comes behind the first batch that has no partner, on each rank, until all have theirs.
///
/// # Errors
/// Partners that differ.
pub(super) fn trim(group: &mut Group, notes: &mut Vec<String>) -> Result<(), String> {
    let count = |group: &Group| group.members.iter().map(|member| member.batches.len()).sum::<usize>();
    let before = count(group);
    loop {
        let now = count(group);
        let counts: Vec<Counts> = group.members.iter().map(Counts::of).collect();
        for rank in 0..group.members.len() {
            let length = length(&group.members[rank], rank as u32, &counts);
            group.members[rank].batches.truncate(length);
        }
        if count(group) == now {
            break;
        }
    }
    let left_out = before - count(group);
    if left_out > 0 {
        notes.push(format!(
            "communicator {}: {left_out} of {before} batches are left out, which have no partner in the traces",
            group.name
        ));
    }
    agree(group)
}

/// How many of the batches of `rank` have their partners.
fn length(member: &Member, rank: u32, counts: &[Counts]) -> usize {
    let collectives = counts.iter().map(|counts| counts.collectives).min().unwrap_or(0);
    let of = |list: &BTreeMap<u32, u64>, peer: u32| list.get(&peer).copied().unwrap_or(0);
    let mut so_far = Counts::default();
    for (index, batch) in member.batches.iter().enumerate() {
        for operation in member.operations(batch) {
            so_far.add(operation);
            let peer = operation.peer;
            let Some(other) = counts.get(peer as usize) else { return index };
            let has_partner = match operation.kind {
                Kind::Send => of(&so_far.sent, peer) <= of(&other.received, rank),
                Kind::Recv => of(&so_far.received, peer) <= of(&other.sent, rank),
                _ => so_far.collectives <= collectives,
            };
            if !has_partner {
                return index;
            }
        }
    }
    member.batches.len()
}

/// What ranks say of one call: its name, and what must be equal of it.
type Said = (Kind, u64, u8, u8, u32);

fn said(operation: &Operation) -> Said {
    let Operation { kind, data_type, reduction, peer, .. } = *operation;
    let (data_type, reduction) = if kind.reduces() { (data_type as u8, reduction as u8) } else { (0, 0) };
    let root = if kind.has_root() { peer } else { 0 };
    (kind, operation.bytes(), data_type, reduction, root)
}

/// Bytes of messages in order, by direction and peer.
type Messages = BTreeMap<(u8, u32), Vec<u64>>;

fn messages(member: &Member) -> Messages {
    let mut messages = Messages::new();
    let all = member.batches.iter().flat_map(|batch| member.operations(batch));
    for operation in all.filter(|one| one.kind.is_point_to_point()) {
        messages.entry((operation.kind as u8, operation.peer)).or_default().push(operation.bytes());
    }
    messages
}

fn agree(group: &Group) -> Result<(), String> {
    let collectives = |member: &Member| -> Vec<Said> {
        let all = member.batches.iter().flat_map(|batch| member.operations(batch));
        all.filter(|one| !one.kind.is_point_to_point()).map(said).collect()
    };
    let Some((first, rest)) = group.members.split_first() else { return Ok(()) };
    let expected = collectives(first);
    for (rank, member) in (1..).zip(rest) {
        let found = collectives(member);
        let differs = expected.iter().zip(&found).position(|(one, other)| one != other);
        if let Some(place) = differs {
            let say = |said: &Said| {
                format!(
                    "{} of {} bytes (type {}, operator {}, root {})",
                    said.0.name(),
                    said.1,
                    said.2,
                    said.3,
                    said.4
                )
            };
            return Err(format!(
                "communicator {}, collective {}: rank 0 called {}, rank {rank} {}",
                group.name,
                place + 1,
                say(&expected[place]),
                say(&found[place])
            ));
        }
    }
    let messages: Vec<Messages> = group.members.iter().map(messages).collect();
    for (rank, member) in (0..).zip(&messages) {
        for ((_, peer), sent) in member.iter().filter(|((kind, _), _)| *kind == Kind::Send as u8) {
            let received =
                messages.get(*peer as usize).and_then(|other| other.get(&(Kind::Recv as u8, rank)));
            let received = received.map_or(&[][..], Vec::as_slice);
            if let Some(place) = sent.iter().zip(received).position(|(one, other)| one != other) {
                return Err(format!(
                    "communicator {}, message {} from rank {rank} to rank {peer}: {} bytes are sent and {} received",
                    group.name,
                    place + 1,
                    sent[place],
                    received[place]
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::super::script::tests::{ALL, operation, stream};
    use super::*;

    #[test]
    fn what_has_no_partner_is_left_out() {
        let sum = operation(Kind::AllReduce, 4, 0);
        let (send, receive) = (operation(Kind::Send, 4, 1), operation(Kind::Recv, 4, 0));
        // The second rank was killed before its last receive, so what the first did behind that send goes as well.
        let streams =
            vec![stream("a", 0, 2, &[sum, send, sum, send, sum]), stream("a", 1, 2, &[sum, receive, sum])];
        let script = Script::new(streams, &ALL).unwrap();
        assert_eq!(script.groups[0].members[0].batches.len(), 3);
        assert_eq!(script.groups[0].members[1].batches.len(), 3);
        assert!(script.notes[0].contains("2 of 8 batches"), "{:?}", script.notes);
    }

    #[test]
    fn what_differs_is_named() {
        let of = |one, other| {
            Script::new(vec![stream("a", 0, 2, &[one]), stream("a", 1, 2, &[other])], &ALL).unwrap_err()
        };
        let said = of(operation(Kind::AllReduce, 4, 0), operation(Kind::AllReduce, 5, 0));
        assert!(
            said.contains("rank 0 called AllReduce of 16 bytes") && said.contains("rank 1 AllReduce of 20"),
            "{said}"
        );
        let said = of(operation(Kind::Send, 4, 1), operation(Kind::Recv, 5, 0));
        assert!(said.contains("16 bytes are sent and 20 received"), "{said}");
    }
}
