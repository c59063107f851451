//! What algorithms share: whose neighbour is who, how data is cut, where a rank's own data is read from.
#![forbid(unsafe_code)]

use super::{Builder, Call, Hosts, Plan, Range, SOURCE, TARGET};
use crate::op::Kind;

/// Cuts fall on multiples of this where there is enough data: no two ranks then write one cache line.
const LINE_BYTES: usize = 64;

/// Slices shorter than this are cut between any two elements, or bytes where nothing is combined.
const SHORT_SLICE_BYTES: usize = 1024;

/// No message is cut into more pieces, so that plans stay small however large the data.
const MOST_PIECES: usize = 4096;
/// Nor is all the data of one call.
const MOST_PIECES_OF_ALL: usize = 16384;

/// How much goes through the steps of an algorithm at a time, in pieces. First guess, to be measured.
const PIECES_PER_PART: usize = 16;

/// One rank's part of a call, to be planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    pub(super) call: &'a Call,
    pub(super) rank: u32,
    pub(super) hosts: &'a Hosts,
    piece_bytes: usize,
}

impl<'a> Task<'a> {
    pub(super) fn new(call: &'a Call, rank: u32, hosts: &'a Hosts, piece_bytes: usize) -> Task<'a> {
        // Pieces hold whole elements of every type.
        Task { call, rank, hosts, piece_bytes: piece_bytes.max(8).next_multiple_of(8) }
    }

    pub(super) fn builder(&self, algorithm: &'static str) -> Builder {
        Builder::new(self.call, self.rank, algorithm)
    }

    pub(super) fn ranks(&self) -> u32 {
        self.call.ranks
    }

    pub(super) fn is_root(&self) -> bool {
        self.rank == self.call.root
    }

    /// The rank `distance` after this one; less than twice around.
    pub(super) fn after(&self, distance: u32) -> u32 {
        ((u64::from(self.rank) + u64::from(distance)) % u64::from(self.ranks())) as u32
    }

    /// The rank `distance` before this one; at most twice around.
    pub(super) fn before(&self, distance: u32) -> u32 {
        let ranks = u64::from(self.ranks());
        ((u64::from(self.rank) + 2 * ranks - u64::from(distance)) % ranks) as u32
    }

    /// All of a buffer of `count` elements.
    pub(super) fn whole(&self, buffer: u32) -> Range {
        Range::new(buffer, 0, self.call.bytes())
    }

    /// The larger of the two buffers.
    fn total_bytes(&self) -> usize {
        match self.call.kind {
            Kind::AllReduce | Kind::Reduce | Kind::Broadcast => self.call.bytes(),
            _ => self.call.bytes() * self.ranks() as usize,
        }
    }

    /// The part of `buffer` that belongs to `owner`: a share of the vector for operations on one vector, the
    /// block of `count` elements at its place for all others.
    pub(super) fn slice(&self, buffer: u32, owner: u32) -> Range {
        let bytes = self.call.bytes();
        match self.call.kind {
            Kind::AllReduce | Kind::Reduce | Kind::Broadcast => self.share(buffer, owner),
            _ => Range::new(buffer, owner as usize * bytes, bytes),
        }
    }

    /// The longest slice.
    pub(super) fn slice_bytes(&self) -> usize {
        self.slice(SOURCE, 0).bytes
    }

    /// The vector cut into one share per rank.
    fn share(&self, buffer: u32, owner: u32) -> Range {
        self.cut(self.whole(buffer), owner, self.ranks())
    }

    /// Share `index` of a range cut into `count`, alike but for one unit; the first ones are the longer.
    pub(super) fn cut(&self, range: Range, index: u32, count: u32) -> Range {
        let (bytes, count, index) = (range.bytes, count as usize, index as usize);
        let is_short = bytes / count < SHORT_SLICE_BYTES;
        // Ranks may name different types for what is moved only: cuts must not depend on them.
        let element_bytes = if self.call.kind.reduces() { self.call.data_type.size_bytes() } else { 1 };
        let unit = if is_short { element_bytes } else { LINE_BYTES };
        let units = bytes.div_ceil(unit);
        let start = |index: usize| ((units / count * index + index.min(units % count)) * unit).min(bytes);
        Range::new(range.buffer, range.offset + start(index), start(index + 1) - start(index))
    }

    /// How long the pieces of a message of `bytes` are: about a quarter, so that a chain of hops fills, yet
    /// neither so small that packets cost more than bytes nor so large that caches are left. Never more than
    /// the message, so that scratch for pieces of small messages is small.
    pub(super) fn piece_bytes(&self, bytes: usize) -> usize {
        let least = (self.piece_bytes / 16).next_multiple_of(8).max(8);
        let unit = LINE_BYTES.min(least.next_power_of_two());
        let quarter = bytes.div_ceil(4).next_multiple_of(unit).clamp(least, self.piece_bytes);
        let floor = bytes.div_ceil(MOST_PIECES).max(self.total_bytes().div_ceil(MOST_PIECES_OF_ALL));
        let floor = floor.next_multiple_of(8);
        quarter.max(floor).min(bytes.next_multiple_of(8)).max(8)
    }

    /// How long the parts are in which data of `bytes` goes through all steps of an algorithm, one part after
    /// the other, so that what is held in between stays small.
    pub(super) fn part_bytes(&self, bytes: usize) -> usize {
        PIECES_PER_PART * self.piece_bytes(bytes)
    }

    /// The parts of every rank's block, as ranges of a block: one, unless all blocks together are long.
    pub(super) fn block_parts(&self) -> impl Iterator<Item = Range> + use<> {
        let (block, ranks) = (self.whole(SOURCE), self.ranks() as usize);
        let most_bytes = self.part_bytes(block.bytes * ranks);
        let is_long = block.bytes * ranks > most_bytes;
        let each_bytes = (most_bytes / ranks / LINE_BYTES * LINE_BYTES).max(self.piece_bytes(block.bytes));
        pieces(block, if is_long { each_bytes } else { block.bytes.max(1) })
    }

    /// The ranges to `peer`, in pieces.
    pub(super) fn send_all(&self, builder: &mut Builder, peer: u32, ranges: &[Range]) {
        for &range in ranges {
            for piece in pieces(range, self.piece_bytes(range.bytes)) {
                builder.send(peer, piece);
            }
        }
    }

    /// What [`Task::send_all`] sends.
    pub(super) fn receive_all(&self, builder: &mut Builder, peer: u32, ranges: &[Range]) {
        for &range in ranges {
            for piece in pieces(range, self.piece_bytes(range.bytes)) {
                builder.recv(peer, piece);
            }
        }
    }

    /// The average of integers: their sum, divided once, where the whole sum is first known.
    pub(super) fn settle(&self, builder: &mut Builder, sum: Range) {
        if self.call.divides() {
            builder.divide(sum);
        }
    }

    /// The plan of a rank that is the only one.
    pub(super) fn alone(&self) -> Plan {
        let mut builder = self.builder("alone");
        let (from, into) = (self.whole(SOURCE), self.whole(TARGET));
        // The average of one is itself; a scalar of one's own still counts.
        if self.call.kind.reduces() && self.call.reduction == crate::op::Reduction::PreMulSum {
            for piece in pieces(from, self.piece_bytes(from.bytes)) {
                builder.scale(piece, piece.of(TARGET));
            }
        } else {
            builder.copy(from, into);
        }
        builder.finish()
    }
}

/// Piece number `index` of `range`; empty behind its end.
pub(super) fn piece(range: Range, index: usize, piece_bytes: usize) -> Range {
    let start = (index * piece_bytes).min(range.bytes);
    Range::new(range.buffer, range.offset + start, piece_bytes.min(range.bytes - start))
}

/// The bytes of `range` from `start` on.
pub(super) const fn within(range: Range, start: usize, bytes: usize) -> Range {
    Range::new(range.buffer, range.offset + start, bytes)
}

/// All pieces of `range`, none of them empty.
pub(super) fn pieces(range: Range, piece_bytes: usize) -> impl Iterator<Item = Range> {
    (0..range.bytes.div_ceil(piece_bytes)).map(move |index| piece(range, index, piece_bytes))
}

/// Scratch for a few pieces, taken round and round. Whoever takes a slot again waits for its last use: the
/// builder sees that.
#[derive(Debug)]
pub(super) struct Slots {
    all: Range,
    slot_bytes: usize,
    next: usize,
}

impl Slots {
    pub(super) fn new(builder: &mut Builder, count: usize, slot_bytes: usize) -> Slots {
        let slot_bytes = slot_bytes.next_multiple_of(LINE_BYTES);
        Slots { all: builder.scratch(count * slot_bytes), slot_bytes, next: 0 }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Range {
        if self.next == self.all.bytes {
            self.next = 0;
        }
        let range = Range::new(self.all.buffer, self.all.offset + self.next, bytes);
        self.next += self.slot_bytes;
        range
    }
}

/// This rank's own data, as it goes into a reduction: the source itself, or copies of its pieces that are
/// scaled on the way. The source is never scaled where it lies, for others may still need it.
#[derive(Debug)]
pub(super) struct Input {
    scaled: Option<Slots>,
}

impl Input {
    /// `slot_count`: how many pieces may be in use at once.
    pub(super) fn new(builder: &mut Builder, task: &Task<'_>, slot_count: usize, slot_bytes: usize) -> Input {
        let scales = task.call.scales();
        Input { scaled: scales.then(|| Slots::new(builder, slot_count, slot_bytes)) }
    }

    /// Of data that is as it should be already.
    pub(super) const fn as_it_is() -> Input {
        Input { scaled: None }
    }

    /// Where `piece` of the source is read from.
    pub(super) fn take(&mut self, builder: &mut Builder, piece: Range) -> Range {
        match &mut self.scaled {
            None => piece,
            Some(slots) => {
                let slot = slots.take(piece.bytes);
                builder.scale(piece, slot);
                slot
            }
        }
    }
}
