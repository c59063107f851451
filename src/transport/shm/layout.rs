//! What lies where in a segment.
//!
//! ```text
//! header | control area of rank 0, 1, ... | ring 0->0, 0->1, ..., 1->0, ... | inbox of rank 0, 1, ... | records of rank 0, 1, ...
//! ring:    credit line, spare line | help line, spare line | slots | data
//! records: what the rank did last (`trace::record`), for whoever misses it
//! inbox:   windows | gate of rank 0, 1, ... | signals of rank 0, 1, ...     (see [`super::inbox`])
//! ```
//! Both sides compute every place from the rank count and the ring size, and refuse a segment whose header
//! does not agree. Rings start on pages, so that each is mapped by itself, by the two ranks that use it.

use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::inbox;
use super::ring::{LINE_BYTES, Shape};
use super::standing::Place;
use crate::error::{Error, Result};
use crate::system::map::{PAGE_BYTES, pages};

/// "shoalshm" in the order of the bytes.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"shoalshm");
/// Where the first page says what failed; see [`super::failure`].
pub(super) const FAILURE_OFFSET: usize = 256;
/// Changes with every change of the layout.
pub(super) const VERSION: u32 = 6;
/// The most ranks of one segment.
const RANKS_LIMIT: u32 = 1 << 12;
/// The most memory for the records of one rank.
const RECORDS_LIMIT_BYTES: usize = 1 << 31;

/// The first page; written by the creator before anybody else sees the segment, then only read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) magic: u64,
    pub(super) version: u32,
    pub(super) ranks: u32,
    pub(super) ring_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) records_bytes: u64,
    pub(super) id: [u64; 2],
}

/// What a rank says of itself. Each line is written by one side and read by the other.
#[repr(C, align(256))]
pub(super) struct Control {
    /// Written by the rank, read by peers during long waits and copies: one of the [`state`]s.
    pub(super) state: AtomicU32,
    /// 1 if the rank's process takes part in [`crate::system::barrier`].
    pub(super) barriers: AtomicU32,
    /// The word that proves that one reads the right process ...
    pub(super) proof: AtomicU64,
    /// ... and where it lies there.
    pub(super) proof_address: AtomicU64,
    /// Whether the rank rests; see [`super::rest`].
    pub(super) rest: AtomicU64,
    spare_rest: [u64; 4],
    /// 1 while the rank sleeps; read by peers after each packet, so alone in its line.
    pub(super) sleeping: AtomicU32,
    /// 1 once the rank has heard that all are there; written once, so that it does not disturb its line.
    pub(super) born: AtomicU32,
    spare_sleeping: [u32; 14],
    /// Counts wakes; the word that the rank sleeps on.
    pub(super) doorbell: AtomicU32,
    spare_doorbell: [u32; 15],
    /// Where it stands in a long wait.
    pub(super) standing: Place,
}

const _: () = assert!(size_of::<Header>() <= PAGE_BYTES && size_of::<Header>() == 56);
const _: () = assert!(size_of::<Control>() == 256 && align_of::<Control>() == 256);
const _: () = assert!(offset_of!(Control, sleeping) == LINE_BYTES);
const _: () = assert!(offset_of!(Control, doorbell) == 2 * LINE_BYTES);

/// The values of [`Control::state`].
pub(super) mod state {
    /// Nobody has taken the place yet.
    pub(in super::super) const AWAITED: u32 = 0;
    /// The rank takes part.
    pub(in super::super) const ALIVE: u32 = 1;
    /// It left in good order.
    pub(in super::super) const CLOSED: u32 = 2;
    /// It aborted.
    pub(in super::super) const ABORTED: u32 = 3;
    /// It revoked the communicator.
    pub(in super::super) const REVOKED: u32 = 4;
}

/// Where everything lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) ranks: u32,
    pub(super) shape: Shape,
    /// How much one ring takes, whole pages.
    pub(super) ring_stride_bytes: usize,
    /// Header and control areas, whole pages.
    pub(super) front_bytes: usize,
    /// How much one inbox takes, whole pages.
    pub(super) inbox_bytes: usize,
    /// How much the records of one rank take, whole pages; 0: there are none.
    pub(super) records_bytes: usize,
    pub(super) total_bytes: u64,
}

impl Layout {
    /// Where things lie for `ranks` ranks with `ring_bytes` of data per ring (a power of two) and `records_bytes`
    /// (whole pages) of records per rank.
    pub(super) fn new(ranks: u32, ring_bytes: usize, records_bytes: usize) -> Result<Layout> {
        let sound = (1..=RANKS_LIMIT).contains(&ranks)
            && records_bytes.is_multiple_of(PAGE_BYTES)
            && records_bytes <= RECORDS_LIMIT_BYTES
            && ring_bytes.is_power_of_two()
            && (8192..=1 << 30).contains(&ring_bytes);
        if !sound {
            return Err(Error::Internal(format!("no segment for {ranks} ranks with rings of {ring_bytes}")));
        }
        let slots = (ring_bytes / 512).clamp(16, 1024);
        let shape = Shape { slots: slots as u64, data_bytes: ring_bytes as u64 };
        let ring_stride_bytes = pages(SLOTS_OFFSET + slots * LINE_BYTES + ring_bytes);
        let front_bytes = PAGE_BYTES + pages(ranks as usize * size_of::<Control>());
        let rings = u64::from(ranks) * u64::from(ranks);
        let inbox_bytes = pages(inbox::bytes(ranks));
        let inboxes_bytes = u64::from(ranks) * inbox_bytes as u64;
        let all_records_bytes = u64::from(ranks) * records_bytes as u64;
        let total_bytes =
            rings * ring_stride_bytes as u64 + front_bytes as u64 + inboxes_bytes + all_records_bytes;
        Ok(Layout { ranks, shape, ring_stride_bytes, front_bytes, inbox_bytes, records_bytes, total_bytes })
    }

    /// Where a rank's control area starts.
    pub(super) fn control_offset(&self, rank: u32) -> usize {
        assert!(rank < self.ranks);
        PAGE_BYTES + rank as usize * size_of::<Control>()
    }

    /// Where the ring from `source` to `target` starts.
    pub(super) fn ring_offset(&self, source: u32, target: u32) -> u64 {
        assert!(source < self.ranks && target < self.ranks);
        let index = u64::from(source) * u64::from(self.ranks) + u64::from(target);
        self.front_bytes as u64 + index * self.ring_stride_bytes as u64
    }

    /// Where the inbox of a rank starts.
    pub(super) fn inbox_offset(&self, rank: u32) -> u64 {
        assert!(rank < self.ranks);
        self.records_offset(0) - u64::from(self.ranks - rank) * self.inbox_bytes as u64
    }

    /// Where the records of a rank start.
    pub(super) fn records_offset(&self, rank: u32) -> u64 {
        assert!(rank < self.ranks);
        self.total_bytes - u64::from(self.ranks - rank) * self.records_bytes as u64
    }

    /// The header that belongs to this layout.
    pub(super) const fn header(&self, id: u128) -> Header {
        Header {
            magic: MAGIC,
            version: VERSION,
            ranks: self.ranks,
            ring_bytes: self.shape.data_bytes,
            total_bytes: self.total_bytes,
            records_bytes: self.records_bytes as u64,
            id: [id as u64, (id >> 64) as u64],
        }
    }
}

/// Where the help line lies. The credit line before it has a spare one, as it has itself: the processor's prefetch
/// of line pairs would drag it along.
pub(super) const HELP_OFFSET: usize = 2 * LINE_BYTES;
/// Where the slots of a ring start.
pub(super) const SLOTS_OFFSET: usize = 4 * LINE_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_lie_side_by_side() {
        for (ranks, ring_bytes) in [(1, 8192), (2, 131_072), (9, 16384), (300, 65536)] {
            let records_bytes = ranks as usize % 3 * PAGE_BYTES;
            let layout = Layout::new(ranks, ring_bytes, records_bytes).expect("sound");
            let mut end = layout.front_bytes as u64;
            assert!(layout.control_offset(ranks - 1) + size_of::<Control>() <= layout.front_bytes);
            for source in 0..ranks {
                for target in 0..ranks {
                    assert_eq!(layout.ring_offset(source, target), end);
                    end += layout.ring_stride_bytes as u64;
                }
            }
            for rank in 0..ranks {
                assert_eq!(layout.inbox_offset(rank), end);
                end += layout.inbox_bytes as u64;
            }
            for rank in 0..ranks {
                assert_eq!(layout.records_offset(rank), end);
                end += records_bytes as u64;
            }
            assert_eq!(end, layout.total_bytes);
        }
    }

    #[test]
    fn unsound_sizes_are_refused() {
        for (ranks, ring_bytes) in [(0, 8192), (RANKS_LIMIT + 1, 8192), (2, 8191), (2, 4096), (2, 1 << 31)] {
            assert!(Layout::new(ranks, ring_bytes, 0).is_err());
        }
        assert!(Layout::new(2, 8192, 100).is_err() && Layout::new(2, 8192, 1 << 32).is_err());
    }
}
