//! A page that others must be able to write before they write anything else of this process.
//!
//! A peer that copies into this process names the page first, in the same system call. Once it is withdrawn no
//! such call that begins later writes anything, though its caller had been stopped for hours in between; nor does
//! one that finds another process under the number, which does not have this page. A child of this process does
//! not have it either.

use std::sync::atomic::{AtomicBool, Ordering};

use super::map::{Mapping, PAGE_BYTES};
use crate::error::Result;

/// Such a page.
#[derive(Debug)]
pub struct Permit {
    page: std::mem::ManuallyDrop<Mapping>,
    is_withdrawn: AtomicBool,
}

impl Permit {
    /// A new one.
    ///
    /// # Errors
    /// There is no address space.
    pub fn new() -> Result<Permit> {
        let page = Mapping::private(PAGE_BYTES)?;
        page.keep_from_children();
        // SAFETY: the page is ours alone, as yet; a first write gives it memory.
        unsafe { page.start().write_volatile(0) };
        Ok(Permit { page: std::mem::ManuallyDrop::new(page), is_withdrawn: AtomicBool::new(false) })
    }

    /// Where it lies.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.page.start().expose_provenance() as u64
    }

    /// From here on no copy begins.
    pub fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Relaxed);
        self.page.forbid();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Where somebody may still come with it the address stays taken for good: anything else that came to lie
        // there would be a permit again.
        if !*self.is_withdrawn.get_mut() {
            // SAFETY: dropped once, here.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.page) };
        }
    }
}
