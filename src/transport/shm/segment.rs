//! The shared memory of one communicator on one machine.
//!
//! A [`Segment`] is made by one rank and passed to the others' processes (see [`super::host`]). Ranks that are
//! threads of one process share one object, and so one mapping and one descriptor: a process loses its locks
//! on a file, by which others see that it lives, when it closes *any* descriptor of that file. Hence no
//! descriptor of a segment is ever closed before the last rank of the process has left.

use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::Hash;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::failure::Failure;
use super::help::Help;
use super::inbox::Inbox;
use super::layout::{Control, FAILURE_OFFSET, HELP_OFFSET, Header, Layout, SLOTS_OFFSET};
use super::ring::{Credit, LINE_BYTES, OBSERVE, PUBLISH, RingMemory, SLOT_HEAD_WORDS, SLOT_WORDS, Shape};
use crate::error::{Error, Result};
use crate::system::map::{Mapping, PAGE_BYTES, pages};
use crate::system::slots::Slots;
use crate::system::{copy, fork, memfd, random};
use crate::transport::Taken;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every segment of this process, by id.
static SEGMENTS: Mutex<Option<HashMap<u128, Weak<Segment>>>> = Mutex::new(None);

fn with_segments<R>(body: impl FnOnce(&mut HashMap<u128, Weak<Segment>>) -> R) -> R {
    let mut segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    body(segments.get_or_insert_default())
}

/// The shared memory of one communicator on one machine.
#[derive(Debug)]
pub struct Segment {
    id: u128,
    layout: Layout,
    front: Mapping,
    rings: Mutex<HashMap<(u32, u32), Weak<Mapping>>>,
    inboxes: Mutex<HashMap<u32, Weak<Mapping>>>,
    records: Mutex<HashMap<u32, Weak<Mapping>>>,
    /// Whether what it maps may be written; not by who only looks.
    writable: bool,
    registered: bool,
    generation: u32,
    /// `None` only while it is dropped, and of a husk.
    file: Option<OwnedFd>,
    /// Further descriptors of the same file; see the module's text.
    spare: Mutex<Vec<OwnedFd>>,
}

impl Segment {
    /// What its file is called where the system shows it.
    pub(super) const NAME: &CStr = c"shoal-segment";

    /// A new segment for `ranks` ranks, with `ring_bytes` (a power of two) for what is under way from one rank
    /// to another. It takes memory only where it is used.
    ///
    /// # Errors
    /// The system refused.
    pub fn create(ranks: u32, ring_bytes: usize) -> Result<Arc<Segment>> {
        Segment::create_with_records(ranks, ring_bytes, 0)
    }

    /// The same, with room for the newest `records` records of each rank.
    ///
    /// # Errors
    /// The system refused.
    pub fn create_with_records(ranks: u32, ring_bytes: usize, records: usize) -> Result<Arc<Segment>> {
        let layout = Layout::new(ranks, ring_bytes, if records == 0 { 0 } else { Slots::bytes(records) })?;
        let id = random::wide();
        let file = memfd::create(Self::NAME, layout.total_bytes)?;
        let front = Mapping::shared(file.as_fd(), 0, layout.front_bytes, true)?;
        // SAFETY: the mapping starts with a page for the header, page aligned, and nobody else has the file.
        unsafe { front.start().cast::<Header>().write(layout.header(id)) };
        let segment = Arc::new(Segment {
            id,
            layout,
            front,
            rings: Mutex::default(),
            inboxes: Mutex::default(),
            records: Mutex::default(),
            writable: true,
            registered: true,
            generation: fork::generation(),
            file: Some(file),
            spare: Mutex::default(),
        });
        with_segments(|segments| segments.insert(id, Arc::downgrade(&segment)));
        Ok(segment)
    }

    /// The segment with this id, if a rank of this process has it already.
    #[must_use]
    pub fn find(id: u128) -> Option<Arc<Segment>> {
        with_segments(|segments| segments.get(&id)?.upgrade())
    }

    /// The segment `id` behind a file that came from another process.
    ///
    /// # Errors
    /// It is none, or another one.
    pub fn adopt(file: OwnedFd, id: u128) -> Result<Arc<Segment>> {
        let mut file = Some(file);
        loop {
            let adopted = with_segments(|segments| {
                if let Some(known) = segments.get(&id) {
                    // Gone but not out of the table: its drop is about to close a descriptor, which would
                    // take the new one's locks. Look again when that is over.
                    let known = known.upgrade()?;
                    known.spare.lock().unwrap_or_else(PoisonError::into_inner).extend(file.take());
                    return Some(Ok(known));
                }
                let view = Self::view(file.take()?, Some(id), true, true).map(Arc::new);
                if let Ok(segment) = &view {
                    segments.insert(id, Arc::downgrade(segment));
                }
                Some(view)
            });
            match adopted {
                Some(result) => return result,
                None => std::thread::yield_now(),
            }
        }
    }

    /// Maps the file and checks that it is what it should be. What is read once here is never read again.
    pub(super) fn view(file: OwnedFd, id: Option<u128>, registered: bool, writable: bool) -> Result<Segment> {
        let total_bytes = memfd::sealed_bytes(file.as_fd())?;
        if total_bytes < PAGE_BYTES as u64 {
            return Err(Error::Remote("the shared memory of the local leader is too short".into()));
        }
        let first = Mapping::shared(file.as_fd(), 0, PAGE_BYTES, writable)?;
        // SAFETY: the file has a first page and cannot shrink, so the page stays readable; every bit pattern
        // is a header, and it is copied by one volatile read before anything in it is believed.
        let header = unsafe { first.start().cast::<Header>().read_volatile() };
        let id = id.unwrap_or(u128::from(header.id[0]) | u128::from(header.id[1]) << 64);
        let sizes =
            [header.ring_bytes, header.records_bytes].map(|bytes| usize::try_from(bytes).unwrap_or(1));
        let layout = Layout::new(header.ranks, sizes[0], sizes[1])
            .ok()
            .filter(|layout| layout.header(id) == header && layout.total_bytes == total_bytes)
            .ok_or_else(|| {
                Error::Remote(
                    "what came as shared memory is not the local leader's, or of another version".into(),
                )
            })?;
        let front = Mapping::shared(file.as_fd(), 0, layout.front_bytes, writable)?;
        Ok(Segment {
            id,
            layout,
            front,
            rings: Mutex::default(),
            inboxes: Mutex::default(),
            records: Mutex::default(),
            writable,
            registered,
            generation: fork::generation(),
            file: Some(file),
            spare: Mutex::default(),
        })
    }

    /// The same memory mapped once more, as another process would see it.
    #[cfg(test)]
    pub(super) fn mapped_again(&self) -> Arc<Segment> {
        let file = self.file().try_clone_to_owned().expect("a descriptor");
        Arc::new(Segment::view(file, Some(self.id), false, true).expect("our own"))
    }

    /// What stays with a rank that has left: the same front, but of nothing, and no file. So whoever still
    /// looks (at a rank that is held on to for no use) finds zeros, and what was shared can be given back.
    pub(super) fn husk(&self) -> Result<Arc<Segment>> {
        Ok(Arc::new(Segment {
            id: self.id,
            layout: self.layout,
            front: Mapping::private(self.layout.front_bytes)?,
            rings: Mutex::default(),
            inboxes: Mutex::default(),
            records: Mutex::default(),
            writable: true,
            registered: false,
            generation: self.generation,
            file: None,
            spare: Mutex::default(),
        }))
    }

    /// Which segment.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.id
    }

    /// For how many ranks.
    #[must_use]
    pub const fn ranks(&self) -> u32 {
        self.layout.ranks
    }

    /// How much of it this process has mapped.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        let parts = [live(&self.rings), live(&self.inboxes)].concat();
        self.front.bytes() + parts.iter().map(|mapping| mapping.bytes()).sum::<usize>()
    }

    /// How much memory takes what this process has mapped of it.
    pub(super) fn taken(&self) -> Taken {
        let sum = |known: Vec<Arc<Mapping>>, from: usize| -> u64 {
            known.iter().map(|mapping| mapping.resident_bytes(from)).sum()
        };
        let rings = live(&self.rings);
        let spare_bytes = sum(rings.clone(), pages(data_start(self.layout.shape)));
        let lasting = [live(&self.inboxes), live(&self.records)].map(|part| sum(part, 0));
        let all = sum(rings, 0) + lasting.iter().sum::<u64>() + self.front.resident_bytes(0);
        Taken { lasting_bytes: all - spare_bytes.min(all), spare_bytes }
    }

    pub(super) const fn shape(&self) -> Shape {
        self.layout.shape
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("open until it is dropped").as_fd()
    }

    /// What `rank` says of itself.
    #[inline]
    pub(super) fn control(&self, rank: u32) -> &Control {
        let offset = self.layout.control_offset(rank);
        // SAFETY: the offset lies within the front mapping, which lives as long as `self`, and is a multiple
        // of the alignment (the mapping is page aligned). All fields are atomics or never touched, for which
        // any bytes are a value, whoever writes them.
        unsafe { &*self.front.start().add(offset).cast::<Control>() }
    }

    /// What failed first.
    pub(super) fn failure(&self) -> &Failure {
        // SAFETY: it lies within the first page (asserted where it is defined), which the front mapping holds
        // as long as `self` lives, at a multiple of its alignment. All fields are atomics, for which any bytes
        // are a value, whoever writes them.
        unsafe { &*self.front.start().add(FAILURE_OFFSET).cast::<Failure>() }
    }

    /// What lies at `offset` of the file, mapped once for all who ask at the same time.
    fn share<K: Eq + Hash>(
        &self,
        known: &Mutex<HashMap<K, Weak<Mapping>>>,
        key: K,
        offset: u64,
        bytes: usize,
    ) -> Result<Arc<Mapping>> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapping) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(mapping);
        }
        let mapping = Arc::new(Mapping::shared(self.file(), offset, bytes, self.writable)?);
        known.insert(key, Arc::downgrade(&mapping));
        Ok(mapping)
    }

    /// The inbox of `rank`, mapped at the first request.
    pub(super) fn inbox(&self, rank: u32) -> Result<Inbox> {
        let (offset, bytes) = (self.layout.inbox_offset(rank), self.layout.inbox_bytes);
        Ok(Inbox::new(self.share(&self.inboxes, rank, offset, bytes)?, self.layout.ranks))
    }

    /// The records of `rank`, mapped at the first request; `None` if none are kept here.
    pub(super) fn records(&self, rank: u32) -> Result<Option<Slots>> {
        // A husk has no file.
        if self.layout.records_bytes == 0 || self.file.is_none() {
            return Ok(None);
        }
        let (offset, bytes) = (self.layout.records_offset(rank), self.layout.records_bytes);
        Ok(Some(Slots::over(self.share(&self.records, rank, offset, bytes)?)))
    }

    /// The ring from `source` to `target`, mapped at the first request.
    pub(super) fn ring(&self, source: u32, target: u32) -> Result<Ring> {
        let (offset, bytes) = (self.layout.ring_offset(source, target), self.layout.ring_stride_bytes);
        let mapping = self.share(&self.rings, (source, target), offset, bytes)?;
        Ok(Ring { start: mapping.start(), shape: self.layout.shape, mapping })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.registered || self.generation != fork::generation() {
            // In a child of the process the table's lock may be held by a thread that is not there.
            return;
        }
        // Everything is closed before the table forgets the segment; see `adopt`.
        self.spare.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.file.take());
        with_segments(|segments| segments.remove(&self.id));
    }
}

/// The parts that somebody holds on to.
fn live<K>(known: &Mutex<HashMap<K, Weak<Mapping>>>) -> Vec<Arc<Mapping>> {
    known.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
}

/// Where the data of a ring starts.
const fn data_start(shape: Shape) -> usize {
    SLOTS_OFFSET + shape.slots as usize * LINE_BYTES
}

/// A mapped ring.
#[derive(Debug)]
pub(super) struct Ring {
    start: *mut u8,
    shape: Shape,
    mapping: Arc<Mapping>,
}

// SAFETY: the pointer leads into the mapping that the object holds on to, which belongs to no thread.
unsafe impl Send for Ring {}

impl Ring {
    #[inline]
    fn atomic(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= data_start(self.shape));
        // SAFETY: all callers pass offsets of words of the credit line, the help line or a slot, which lie in the mapping
        // and are multiples of 8 from a page aligned start. They are accessed as atomics only while shared.
        unsafe { &*self.start.add(offset).cast::<AtomicU64>() }
    }

    #[inline]
    fn slot_word(&self, slot: usize, index: usize) -> &AtomicU64 {
        let slot = slot & (self.shape.slots as usize - 1);
        self.atomic(SLOTS_OFFSET + slot * LINE_BYTES + (index % SLOT_WORDS) * 8)
    }

    /// Gives the memory of the data back; what lies there is lost.
    pub(super) fn give_back(&self) {
        self.mapping.give_back(data_start(self.shape));
    }

    /// What lies in a slot itself: `INLINE_BYTES` of it.
    #[inline]
    pub(super) fn inline(&self, slot: usize) -> *mut u8 {
        self.slot_word(slot, SLOT_HEAD_WORDS).as_ptr().cast()
    }

    /// The data at a position. What [`super::ring::place`] gave for up to `Shape::longest` bytes lies inside.
    #[inline]
    pub(super) fn data(&self, position: u64) -> *mut u8 {
        self.start.wrapping_add(data_start(self.shape) + self.shape.offset(position))
    }
}

impl RingMemory for Ring {
    #[inline]
    fn header(&self, slot: usize) -> u64 {
        self.slot_word(slot, 0).load(OBSERVE)
    }
    #[inline]
    fn set_header(&self, slot: usize, value: u64) {
        self.slot_word(slot, 0).store(value, PUBLISH);
    }
    #[inline]
    fn word(&self, slot: usize, index: usize) -> u64 {
        self.slot_word(slot, index).load(Ordering::Relaxed)
    }
    #[inline]
    fn set_word(&self, slot: usize, index: usize, value: u64) {
        self.slot_word(slot, index).store(value, Ordering::Relaxed);
    }
    #[inline]
    fn expect(&self, slot: usize) {
        copy::prefetch(self.slot_word(slot, 0).as_ptr().cast());
    }
    #[inline]
    fn credit(&self, which: Credit) -> u64 {
        self.atomic(which as usize * 8).load(OBSERVE)
    }
    #[inline]
    fn set_credit(&self, which: Credit, value: u64) {
        self.atomic(which as usize * 8).store(value, PUBLISH);
    }
    #[inline]
    fn help(&self, which: Help) -> u64 {
        self.atomic(HELP_OFFSET + which as usize * 8).load(OBSERVE)
    }
    fn set_help(&self, which: Help, value: u64) {
        self.atomic(HELP_OFFSET + which as usize * 8).store(value, PUBLISH);
    }
    fn exchange_claims(&self, before: u64, after: u64) -> std::result::Result<(), u64> {
        let claims = self.atomic(HELP_OFFSET + Help::Claims as usize * 8);
        claims.compare_exchange(before, after, Ordering::AcqRel, OBSERVE).map(|_| ())
    }
}
