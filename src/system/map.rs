//! Files seen as memory.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::last;
use crate::error::{Error, Result};

/// The smallest unit that is mapped.
pub const PAGE_BYTES: usize = 4096;

/// `bytes`, rounded up to whole pages.
#[must_use]
pub const fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// Part of a file in memory, shared with whoever else maps it; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is an address range of the process. It belongs to no thread, and the type hands out raw
// pointers only, so that every access carries its own proof.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives nothing but the range.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `file` from `offset` on, both whole pages.
    ///
    /// # Errors
    /// The system's.
    pub fn shared(file: BorrowedFd<'_>, offset: u64, bytes: usize, writable: bool) -> Result<Mapping> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let start_at = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory is touched; the
        // other arguments are plain numbers that it checks.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), start_at)
        };
        if start == libc::MAP_FAILED {
            return Err(Error::system(
                format_args!("mapping {bytes} bytes of shared memory"),
                last(),
                "raise the limits on address space (ulimit -v) or on maps (vm.max_map_count)",
            ));
        }
        NonNull::new(start.cast())
            .map(|start| Mapping { start, bytes })
            .ok_or_else(|| Error::Internal("the system mapped memory at address 0".into()))
    }

    /// Maps `bytes`, whole pages, of nothing: zeros that belong to this process alone, and take memory only
    /// where they are written.
    ///
    /// # Errors
    /// The system's.
    pub fn private(bytes: usize) -> Result<Mapping> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory is touched.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::system(format_args!("mapping {bytes} bytes"), last(), "raise ulimit -v"));
        }
        NonNull::new(start.cast())
            .map(|start| Mapping { start, bytes })
            .ok_or_else(|| Error::Internal("the system mapped memory at address 0".into()))
    }

    /// Where it starts.
    #[must_use]
    pub const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How long it is.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the memory behind all whole pages from `from` on back to the system, for everybody who has the file;
    /// they read zeros. Where the system cannot do that, nothing happens.
    pub fn give_back(&self, from: usize) {
        let from = pages(from);
        if from < self.bytes {
            // SAFETY: the range lies in the mapping, which stays mapped. What it holds is lost, as is said.
            unsafe { libc::madvise(self.start().add(from).cast(), self.bytes - from, libc::MADV_REMOVE) };
        }
    }

    /// How much memory the file takes in the range from `from` (whole pages) on, whoever touched it.
    #[must_use]
    pub fn resident_bytes(&self, from: usize) -> u64 {
        let mut residence = vec![0_u8; self.bytes.saturating_sub(from).div_ceil(PAGE_BYTES)];
        if residence.is_empty() {
            return 0;
        }
        let (start, bytes) = (self.start().wrapping_add(from), self.bytes - from);
        // SAFETY: the range lies in the mapping, and there is a byte for each of its pages.
        let done = unsafe { libc::mincore(start.cast(), bytes, residence.as_mut_ptr()) };
        let count = residence.iter().filter(|page| **page & 1 == 1).count();
        if done == 0 { (count * PAGE_BYTES) as u64 } else { bytes as u64 }
    }

    /// Children of this process do not get the range.
    pub fn keep_from_children(&self) {
        // SAFETY: the range is ours; this advice changes no content here.
        unsafe { libc::madvise(self.start().cast(), self.bytes, libc::MADV_DONTFORK) };
    }

    /// From here on nobody reads or writes the range, neither this process nor the kernel for another one.
    pub fn forbid(&self) {
        // SAFETY: the range is ours. Who holds a pointer into it was told not to use it any more.
        unsafe { libc::mprotect(self.start().cast(), self.bytes, libc::PROT_NONE) };
    }

    /// Asks for huge pages; harmless where there are none.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: the range is ours; this advice changes no content.
        unsafe { libc::madvise(self.start().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range came from `mmap` with this length, is unmapped nowhere else, and whoever holds a
        // pointer into it also holds (a share of) this object.
        unsafe { libc::munmap(self.start().cast(), self.bytes) };
    }
}
