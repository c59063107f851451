//! Memory that peers on the machine can map: what `ncclMemAlloc` gives.
//!
//! Each allocation is one sealed file: a first page that says which allocation it is and whether it still
//! lives, then the caller's bytes. A peer that was told where a packet's bytes lie opens the file through
//! the owner's descriptor, checks the first page, and reads the bytes in place.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::map::{Mapping, PAGE_BYTES, pages};
use super::{memfd, random};
use crate::error::{Error, Result};
use crate::op::Address;

/// The first page of an allocation. Lives in shared memory.
#[repr(C)]
struct Header {
    /// The allocation's id; 0 once it was freed.
    id: AtomicU64,
    /// The caller's bytes.
    bytes: AtomicU64,
}

/// What a peer needs to map the memory around an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationFacts {
    /// Which allocation; random, so that it also proves that the right file was opened.
    pub id: u64,
    /// The owner's descriptor of the file.
    pub descriptor: i32,
    /// How far into the caller's bytes the address lies.
    pub offset: usize,
}

/// What the file of an allocation is called where the system shows it.
const FILE_NAME: &CStr = c"shoal-memory";

#[derive(Debug)]
struct Allocation {
    id: u64,
    bytes: usize,
    mapping: Mapping,
    file: OwnedFd,
}

/// A share of an allocation: while it lasts the memory stays, though it be freed.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "held for its drop")] Arc<Allocation>);

/// By the address of the caller's first byte.
static LIVE: RwLock<BTreeMap<usize, Arc<Allocation>>> = RwLock::new(BTreeMap::new());
/// How many there are: who never allocates never takes the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn header(mapping: &Mapping) -> &Header {
    // SAFETY: every mapping of an allocation starts with its header page, page aligned and zeroed at first;
    // all fields are atomics, for which any bytes are a value.
    unsafe { &*mapping.start().cast::<Header>() }
}

/// New memory of at least `bytes`, zeroed, page aligned.
///
/// # Errors
/// There is not that much.
pub fn allocate(bytes: usize) -> Result<Address> {
    let total = bytes.checked_add(2 * PAGE_BYTES).map(|total| pages(total - PAGE_BYTES));
    let total = total.filter(|total| isize::try_from(*total).is_ok()).ok_or_else(|| {
        Error::system(format_args!("allocating {bytes} bytes"), "no machine has so much", "ask for less")
    })?;
    let file = memfd::create(FILE_NAME, total as u64)?;
    let mapping = Mapping::shared(file.as_fd(), 0, total, true)?;
    mapping.prefer_huge_pages();
    let id = random::word();
    header(&mapping).bytes.store(bytes as u64, Ordering::Relaxed);
    // Publishes the length above to a peer that finds the id.
    header(&mapping).id.store(id, Ordering::Release);
    let start = mapping.start() as usize + PAGE_BYTES;
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    live.insert(start, Arc::new(Allocation { id, bytes, mapping, file }));
    COUNT.store(live.len(), Ordering::Release);
    Ok(Address(start))
}

/// Gives memory back. Peers that have it mapped see that it is gone and unmap it.
///
/// # Errors
/// It is not the start of memory that [`allocate`] gave.
pub fn free(address: Address) -> Result<()> {
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    let Some(allocation) = live.remove(&address.0) else {
        return Err(Error::argument(
            "ncclMemFree",
            "ptr",
            format_args!("({:#x}) was not given by ncclMemAlloc, or was freed before", address.0),
            "pass the pointer that ncclMemAlloc returned, once",
        ));
    };
    COUNT.store(live.len(), Ordering::Release);
    header(&allocation.mapping).id.store(0, Ordering::Release);
    Ok(())
}

/// The allocation that holds all `bytes` at `address`, if one does. Cheap: it is asked for every large packet.
#[must_use]
pub fn find(address: Address, bytes: usize) -> Option<AllocationFacts> {
    look_up(address, bytes, |_, facts| facts)
}

/// As [`find`], and keeps the memory in place.
#[must_use]
pub fn hold(address: Address, bytes: usize) -> Option<(AllocationFacts, Hold)> {
    look_up(address, bytes, |allocation, facts| (facts, Hold(Arc::clone(allocation))))
}

fn look_up<R>(
    address: Address,
    bytes: usize,
    answer: impl FnOnce(&Arc<Allocation>, AllocationFacts) -> R,
) -> Option<R> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
    let (start, allocation) = live.range(..=address.0).next_back()?;
    let offset = address.0 - start;
    (bytes <= allocation.bytes.checked_sub(offset)?).then(|| {
        let (id, descriptor) = (allocation.id, allocation.file.as_raw_fd());
        answer(allocation, AllocationFacts { id, descriptor, offset })
    })
}

/// A peer's allocation, seen from here.
#[derive(Debug)]
pub struct Seen {
    id: u64,
    bytes: usize,
    mapping: Mapping,
}

impl Seen {
    /// Maps allocation `id` of process `pid`, open there as `descriptor`, for reading only. `None` if that
    /// cannot be done or is not that allocation; the bytes then have to come another way.
    #[must_use]
    pub fn map(pid: i32, descriptor: i32, id: u64) -> Option<Seen> {
        Seen::map_as(pid, descriptor, id, false)
    }

    /// As [`Self::map`], for writing too.
    #[must_use]
    pub fn map_writable(pid: i32, descriptor: i32, id: u64) -> Option<Seen> {
        Seen::map_as(pid, descriptor, id, true)
    }

    fn map_as(pid: i32, descriptor: i32, id: u64, writable: bool) -> Option<Seen> {
        // Where `/proc` shows another namespace the number may be another process's.
        if !memfd::is_named(pid, descriptor, FILE_NAME) {
            return None;
        }
        let file = memfd::open_of(pid, descriptor, writable).ok()?;
        let total = usize::try_from(memfd::sealed_bytes(file.as_fd()).ok()?).ok()?;
        if total <= PAGE_BYTES || total % PAGE_BYTES != 0 {
            return None;
        }
        let mapping = Mapping::shared(file.as_fd(), 0, total, writable).ok()?;
        let seen = Seen { id, bytes: total - PAGE_BYTES, mapping };
        seen.is_alive().then_some(seen)
    }

    /// Which allocation.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether its owner has not freed it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.id != 0 && header(&self.mapping).id.load(Ordering::Acquire) == self.id
    }

    /// Where the `bytes` at `offset` lie here, if they are part of it.
    #[must_use]
    pub fn at(&self, offset: usize, bytes: usize) -> Option<*const u8> {
        let inside = offset.checked_add(bytes)? <= self.bytes;
        inside.then(|| self.mapping.start().wrapping_add(PAGE_BYTES + offset).cast_const())
    }

    /// How much address space it takes.
    #[must_use]
    pub const fn mapped_bytes(&self) -> usize {
        self.mapping.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_by_any_of_its_bytes() {
        let start = allocate(10_000).expect("memory");
        assert_eq!(start.0 % PAGE_BYTES, 0);
        let facts = find(start, 10_000).expect("found");
        assert_eq!(facts.offset, 0);
        assert_eq!(find(start.add(9_999), 1).map(|facts| facts.offset), Some(9_999));
        assert_eq!(find(start.add(9_999), 2), None);
        assert_eq!(find(start.add(10_001), 0), None);
        assert_eq!(find(Address(16), 1), None);
        free(start).expect("ours");
        assert_eq!(find(start, 1), None);
        assert!(free(start).is_err());
    }

    #[test]
    fn a_peer_sees_the_bytes_until_they_are_freed() {
        let start = allocate(5000).expect("memory");
        // SAFETY: the allocation has 5000 bytes.
        unsafe { (start.0 as *mut u8).add(4999).write(7) };
        let facts = find(start, 5000).expect("found");
        let pid = i32::try_from(std::process::id()).expect("small");
        assert!(Seen::map(pid, facts.descriptor, facts.id + 1).is_none());
        let seen = Seen::map(pid, facts.descriptor, facts.id).expect("mapped");
        let at = seen.at(4999, 1).expect("inside");
        // SAFETY: the byte lies in the mapping.
        assert_eq!(unsafe { at.read() }, 7);
        assert!(seen.at(4999, usize::MAX).is_none() && seen.at(9000, 1).is_none());
        free(start).expect("ours");
        assert!(!seen.is_alive());
        // SAFETY: the file cannot shrink, so what is mapped stays readable.
        assert_eq!(unsafe { at.read() }, 7);
    }

    #[test]
    fn nothing_and_too_much() {
        free(allocate(0).expect("even nothing has an address")).expect("ours");
        assert!(allocate(usize::MAX).is_err());
        assert!(allocate(1 << 62).is_err());
    }
}
