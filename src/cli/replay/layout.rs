//! Where the data of a batch lie, what they are, and whether what arrived is right. Pure.
//!
//! What a rank gives is a function of the rank and of the number of the call: of a collective its number in the
//! communicator, of a message its number among those from one rank to the other. So whoever receives knows it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::cli::bench::check::Check;
use crate::cli::bench::contender::Request;
use crate::cli::bench::operation::Operation as Measured;
use crate::op::{Kind, Reduction};
use crate::trace::file::Operation;

/// What memory holds before a message arrives.
const POISON: u8 = 0xa5;
/// So large data begin a page.
const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;

/// An operation of a batch, with the places of what it reads and writes in the player's memory.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) operation: Operation,
    /// Of a collective.
    pub(crate) request: Option<Request>,
    pub(crate) source: usize,
    pub(crate) source_bytes: usize,
    pub(crate) target: usize,
    pub(crate) target_bytes: usize,
    /// Where its own part of the memory starts, and how long it is.
    start: usize,
    bytes: usize,
}

/// The operations of a batch by one rank, one behind the other, and how much memory they take.
pub(super) fn place(operations: &[Operation], rank: usize, ranks: usize) -> (Vec<Placed>, usize) {
    let mut end = 0_usize;
    let placed = operations.iter().map(|operation| {
        let mut placed = placed(operation, rank, ranks);
        let whole = if placed.bytes >= PAGE_BYTES { PAGE_BYTES } else { LINE_BYTES };
        let start = end.next_multiple_of(whole);
        (placed.start, placed.source, placed.target) = (start, placed.source + start, placed.target + start);
        end = start.saturating_add(placed.bytes);
        placed
    });
    (placed.collect(), end)
}

/// At the start of the memory.
fn placed(operation: &Operation, rank: usize, ranks: usize) -> Placed {
    let all = operation.bytes() as usize;
    let mut placed = Placed {
        operation: *operation,
        request: None,
        source: 0,
        source_bytes: 0,
        target: 0,
        target_bytes: 0,
        start: 0,
        bytes: all,
    };
    match measured(operation.kind) {
        None if operation.kind == Kind::Send => placed.source_bytes = all,
        None => placed.target_bytes = all,
        Some(measured) => {
            let request = request(operation, measured, rank, ranks);
            let (read, written) = request.buffer_bytes();
            (placed.source_bytes, placed.target_bytes) = (read, written);
            if shares(operation, &request) {
                let inner = request.in_place_offset();
                (placed.source, placed.target) = if read < written { (inner, 0) } else { (0, inner) };
                if read == written {
                    (placed.source, placed.target) = (0, 0);
                }
                placed.bytes = read.max(written);
            } else {
                placed.target = read.next_multiple_of(LINE_BYTES);
                placed.bytes = placed.target + written;
            }
            placed.request = Some(request);
        }
    }
    placed
}

fn shares(operation: &Operation, request: &Request) -> bool {
    operation.in_place && request.operation.has_in_place() && request.shares_buffer()
}

fn request(operation: &Operation, measured: Measured, rank: usize, ranks: usize) -> Request {
    // An operator that a program made is not in the trace.
    let reduction = match operation.reduction {
        Reduction::PreMulSum => Reduction::Sum,
        known => known,
    };
    Request {
        operation: measured,
        data_type: operation.data_type,
        reduction,
        root: operation.peer as usize,
        count: operation.count as usize,
        messages: 1,
        tensor: 0,
        mask_bytes: 0,
        rank,
        ranks,
    }
}

const fn measured(kind: Kind) -> Option<Measured> {
    match kind {
        Kind::AllReduce => Some(Measured::AllReduce),
        Kind::Reduce => Some(Measured::Reduce),
        Kind::Broadcast => Some(Measured::Broadcast),
        Kind::AllGather => Some(Measured::AllGather),
        Kind::ReduceScatter => Some(Measured::ReduceScatter),
        Kind::AlltoAll => Some(Measured::AllToAll),
        Kind::Gather => Some(Measured::Gather),
        Kind::Scatter => Some(Measured::Scatter),
        Kind::Send | Kind::Recv => None,
    }
}

/// How far one rank of a communicator is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    collectives: u64,
    messages: BTreeMap<(u8, u32), u64>,
}

impl Progress {
    /// The seed of the data of the next operation, by `rank`.
    fn seed(&mut self, operation: &Operation, rank: u32) -> u64 {
        let number = match operation.kind {
            Kind::Send | Kind::Recv => {
                self.messages.entry((operation.kind as u8, operation.peer)).or_default()
            }
            _ => &mut self.collectives,
        };
        *number += 1;
        match operation.kind {
            Kind::Send => mix(*number ^ mix(u64::from(rank) << 32 | u64::from(operation.peer))),
            Kind::Recv => mix(*number ^ mix(u64::from(operation.peer) << 32 | u64::from(rank))),
            _ => mix(*number),
        }
    }

    /// The seeds of a batch.
    pub(super) fn seeds(&mut self, batch: &[Placed], rank: u32) -> Vec<u64> {
        batch.iter().map(|placed| self.seed(&placed.operation, rank)).collect()
    }
}

/// Writes what the batch gives, and something else where it shall receive.
pub(super) fn fill(batch: &[Placed], seeds: &[u64], memory: &mut [u8]) {
    for (placed, seed) in batch.iter().zip(seeds) {
        let own = &mut memory[placed.start..placed.start + placed.bytes];
        match (&placed.request, placed.operation.kind) {
            (None, Kind::Send) => write(*seed, own),
            (None, _) => own.fill(POISON),
            (Some(request), _) => {
                let check = Check::new(*request, *seed);
                if shares(&placed.operation, request) {
                    check.fill_in_place(&mut [], own);
                } else {
                    let (source, target) = own.split_at_mut(placed.target - placed.start);
                    check.fill(source, target);
                }
            }
        }
    }
}

/// How many elements (of messages: words) are not what they must be.
pub(super) fn wrong(batch: &[Placed], seeds: &[u64], memory: &[u8]) -> u64 {
    let wrong = |(placed, seed): (&Placed, &u64)| {
        let target = &memory[placed.target..placed.target + placed.target_bytes];
        match &placed.request {
            Some(request) => Check::new(*request, *seed).wrong(target),
            None if placed.operation.kind == Kind::Recv => differ(*seed, target),
            None => 0,
        }
    };
    batch.iter().zip(seeds).map(wrong).sum()
}

/// A message is words that depend on the seed and their place.
fn write(seed: u64, target: &mut [u8]) {
    for (place, word) in (0..).zip(target.chunks_mut(8)) {
        word.copy_from_slice(&mix(seed.wrapping_add(place)).to_le_bytes()[..word.len()]);
    }
}

fn differ(seed: u64, found: &[u8]) -> u64 {
    let is_wrong =
        |(place, word): &(u64, &[u8])| *word != &mix(seed.wrapping_add(*place)).to_le_bytes()[..word.len()];
    (0..).zip(found.chunks(8)).filter(is_wrong).count() as u64
}

/// A number that depends on every bit of another.
fn mix(value: u64) -> u64 {
    let value =
        (value ^ (value >> 33)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::super::script::tests::operation;
    use super::*;

    #[test]
    fn operations_of_a_batch_lie_apart() {
        let kinds = Kind::ALL.map(|kind| operation(kind, 100, 1));
        let in_place = kinds.map(|one| Operation { in_place: true, ..one });
        let all: Vec<Operation> = kinds.into_iter().chain(in_place).collect();
        let (placed, bytes) = place(&all, 1, 4);
        let mut end = 0;
        for one in &placed {
            assert!(one.start >= end && one.start.is_multiple_of(LINE_BYTES));
            end = one.start + one.bytes;
            assert!(one.source >= one.start && one.source + one.source_bytes <= end, "{one:?}");
            assert!(one.target >= one.start && one.target + one.target_bytes <= end, "{one:?}");
        }
        assert_eq!(end, bytes);
        // Where the interface says in place, and only there, what is read lies in what is written.
        let place =
            |kind: Kind| placed[10 + kind as usize].target as i64 - placed[10 + kind as usize].source as i64;
        assert_eq!([Kind::AllReduce, Kind::AllGather, Kind::ReduceScatter].map(place), [0, -400, 400]);
    }

    #[test]
    fn a_message_is_known_to_its_receiver_and_no_other_is_taken_for_it() {
        let (send, receive) = (operation(Kind::Send, 25, 1), operation(Kind::Recv, 25, 0));
        let (sent, bytes) = place(&[send, send], 0, 2);
        let (received, _) = place(&[receive, receive], 1, 2);
        let (mut one, mut other) = (Progress::default(), Progress::default());
        for _ in 0..3 {
            let (seeds, expected) = (one.seeds(&sent, 0), other.seeds(&received, 1));
            let mut memory = vec![0; bytes];
            fill(&sent, &seeds, &mut memory);
            assert_eq!(wrong(&received, &expected, &memory), 0);
            memory.swap(3, 130);
            assert!(wrong(&received, &expected, &memory) > 0);
            fill(&received, &expected, &mut memory);
            assert_eq!(wrong(&received, &expected, &memory), 26, "nothing has arrived");
        }
        // The next message is another one.
        let stale = one.seeds(&sent, 0);
        let mut memory = vec![0; bytes];
        fill(&sent, &stale, &mut memory);
        other.seeds(&received, 1);
        assert_eq!(wrong(&received, &other.seeds(&received, 1), &memory), 26);
    }
}
