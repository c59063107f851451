//! Structures that say their own size: read as far as the caller's reaches, and no further.

use std::ffi::{c_int, c_uint};

use crate::abi::convert::bad;
use crate::abi::types::UNDEFINED;
use crate::error::Result;

/// How a kind of structure is told, and what to do about one that is not.
pub(super) struct Kind {
    pub(super) call: &'static str,
    pub(super) argument: &'static str,
    pub(super) magic: c_uint,
    /// The size of the oldest one.
    pub(super) least_bytes: usize,
    pub(super) remedy: &'static str,
}

/// A caller's structure, copied.
pub(super) struct Copy<const N: usize> {
    bytes: [u8; N],
    known_bytes: usize,
}

impl Kind {
    /// A copy of the structure, as much of it as the caller has and this library knows.
    ///
    /// # Safety
    /// `place` is not NULL, and readable for as many bytes as its first word says.
    pub(super) unsafe fn copy<const N: usize>(&self, place: *const u8) -> Result<Copy<N>> {
        // SAFETY: whatever its age, the structure starts with its size.
        let size_bytes = unsafe { place.cast::<usize>().read_unaligned() };
        if size_bytes < self.least_bytes {
            let problem = format_args!("says that it has {size_bytes} bytes");
            return bad(self.call, self.argument, problem, self.remedy);
        }
        let mut bytes = [0; N];
        let known_bytes = size_bytes.min(N);
        // SAFETY: the structure is readable for its size, the array is as long, and nobody else knows the array.
        unsafe { std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), known_bytes) };
        let copy = Copy { bytes, known_bytes };
        let magic = copy.at(8).map_or(0, c_uint::from_ne_bytes);
        if magic != self.magic {
            let problem = format_args!("has the magic {magic:#x}, not {:#x}", self.magic);
            return bad(self.call, self.argument, problem, self.remedy);
        }
        Ok(copy)
    }
}

impl<const N: usize> Copy<N> {
    /// The bytes of a field, if the caller's structure holds all of them.
    pub(super) fn at<const M: usize>(&self, offset: usize) -> Option<[u8; M]> {
        self.bytes[..self.known_bytes].get(offset..offset + M)?.try_into().ok()
    }

    /// A number that the caller has set.
    pub(super) fn number(&self, offset: usize) -> Option<c_int> {
        self.at(offset).map(c_int::from_ne_bytes).filter(|value| *value != UNDEFINED)
    }

    /// A pointer; NULL if the caller's structure is too old to have it.
    pub(super) fn pointer<T>(&self, offset: usize) -> *const T {
        std::ptr::with_exposed_provenance(self.at(offset).map_or(0, usize::from_ne_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { call: "f", argument: "x", magic: 7, least_bytes: 24, remedy: "start anew" };

    fn copy(words: &[u32; 8]) -> Result<Copy<32>> {
        // SAFETY: the size in the words is at most theirs, in each test.
        unsafe { KIND.copy(words.as_ptr().cast()) }
    }

    #[test]
    fn nothing_is_read_past_the_size() {
        let copied = copy(&[24, 0, 7, 9, 1, 2, 3, 4]).expect("sound");
        assert_eq!((copied.number(20), copied.number(24), copied.number(22)), (Some(2), None, None));
        assert!(copied.pointer::<u8>(24).is_null());
    }

    #[test]
    fn foreign_ones_are_refused() {
        for (words, problem) in [([23, 0, 7, 9, 0, 0, 0, 0], "23 bytes"), ([24, 0, 8, 9, 0, 0, 0, 0], "0x8")]
        {
            let text = copy(&words).err().expect("refused").to_string();
            assert!(text.starts_with("f: x ") && text.contains(problem), "{text}");
        }
    }
}
