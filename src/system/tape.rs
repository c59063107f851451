//! A file that grows by small cells, written as memory: what is written is the kernel's at once, so it is there also
//! after the process is killed in the next moment.
//!
//! ```text
//! | a page of head | cell | cell | ... |      cell: 32 bytes
//! ```
//! Room is taken from the disk chunk by chunk before it is written, so that a full disk is an answer, not a signal.
//! A cell's first word is written last, and what is not written yet is zero.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fork;
use super::map::{Mapping, PAGE_BYTES};
use crate::error::{Error, Result};

/// Words of the head.
pub const HEAD_WORDS: usize = PAGE_BYTES / 8;
/// Words of a cell.
pub const CELL_WORDS: usize = 4;

const CELL_BYTES: usize = CELL_WORDS * 8;
/// How much room is taken at once.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_CELLS: usize = CHUNK_BYTES / CELL_BYTES;

/// The file, open for writing.
#[derive(Debug)]
pub struct Tape {
    file: File,
    head: Mapping,
    /// Where cells are written now; `None` before the first, and once there is no more room.
    chunk: Option<Mapping>,
    /// Cells written so far.
    count: u64,
    /// The most cells.
    limit: u64,
    generation: u32,
}

impl Tape {
    /// A new file at `path`, which may grow to `limit_bytes`, behind a head that starts with these words.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, head: &[u64], limit_bytes: u64) -> Result<Tape> {
        let problem = |cause: &dyn std::fmt::Display| {
            Error::system(
                format_args!("making {}", path.display()),
                cause,
                "name a folder that can be written",
            )
        };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|cause| problem(&cause))?;
        reserve(&file, 0, PAGE_BYTES).map_err(|cause| problem(&cause))?;
        let mapped = Mapping::shared(file.as_fd(), 0, PAGE_BYTES, true)?;
        let cells_bytes = limit_bytes.saturating_sub(PAGE_BYTES as u64);
        let limit = cells_bytes / CHUNK_BYTES as u64 * CHUNK_CELLS as u64;
        let tape = Tape { file, head: mapped, chunk: None, count: 0, limit, generation: fork::generation() };
        for (index, word) in head.iter().enumerate().take(HEAD_WORDS) {
            tape.set_head(index, *word);
        }
        Ok(tape)
    }

    /// Changes a word of the head.
    pub fn set_head(&self, index: usize, value: u64) {
        assert!(index < HEAD_WORDS);
        // SAFETY: the word lies in the page that is mapped as long as `self` lives, and is aligned; the file cannot
        // be too short, for its room was taken, unless somebody else cuts it, whom we trust as we trust the folder.
        unsafe { &*self.head.start().cast::<AtomicU64>().add(index) }.store(value, Ordering::Relaxed);
    }

    /// Whether `count` more cells (at most a chunk of them) have room.
    pub fn has_room(&self, count: usize) -> bool {
        self.count + count as u64 <= self.limit
    }

    /// How many cells were written.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes a cell behind the others; `false` if there is no room for it.
    #[inline]
    pub fn push(&mut self, words: [u64; CELL_WORDS]) -> bool {
        let place = (self.count % CHUNK_CELLS as u64) as usize;
        if place == 0 && !self.turn() {
            return false;
        }
        let Some(chunk) = &self.chunk else { return false };
        // SAFETY: `place` is below the number of cells of a chunk, which the mapping holds; cells are aligned. Room on
        // the disk was taken for all of it.
        let cell = unsafe { &*chunk.start().cast::<[AtomicU64; CELL_WORDS]>().add(place) };
        let [first, rest @ ..] = cell;
        for (word, value) in rest.iter().zip(&words[1..]) {
            word.store(*value, Ordering::Relaxed);
        }
        // Who sees the first word, also in the file, sees the others.
        first.store(words[0], Ordering::Release);
        self.count += 1;
        true
    }

    /// Takes room for the next chunk and maps it.
    #[cold]
    fn turn(&mut self) -> bool {
        self.chunk = None;
        if !self.has_room(CHUNK_CELLS) {
            return false;
        }
        let start = PAGE_BYTES as u64 + self.count * CELL_BYTES as u64;
        if reserve(&self.file, start, CHUNK_BYTES).is_err() {
            self.limit = self.count;
            return false;
        }
        self.chunk = Mapping::shared(self.file.as_fd(), start, CHUNK_BYTES, true).ok();
        self.chunk.is_some()
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.chunk = None;
        // A child of the process has no say in the length of the file.
        if self.generation == fork::generation() {
            let _ = self.file.set_len(PAGE_BYTES as u64 + self.count * CELL_BYTES as u64);
        }
    }
}

/// Takes room on the disk; the bytes are zeros.
fn reserve(file: &File, start: u64, bytes: usize) -> std::io::Result<()> {
    let number = |value: u64| libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX);
    // SAFETY: a descriptor that is open, and plain numbers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), number(start), number(bytes as u64)) } {
        0 => Ok(()),
        libc::EINTR => reserve(file, start, bytes),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("shoal-tape-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_is_written_is_in_the_file_at_once() {
        let path = path("at-once");
        let mut tape = Tape::create(&path, &[7, 8, 9], u64::MAX).expect("a new file");
        tape.set_head(HEAD_WORDS - 1, 10);
        let count = CHUNK_CELLS as u64 * 2 + 3;
        for number in 0..count {
            assert!(tape.push([number + 1, 2, 3, number]));
        }
        let word =
            |bytes: &[u8], index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
        let open = std::fs::read(&path).expect("it is there");
        let head = [0, 1, 2, HEAD_WORDS - 1].map(|index| word(&open, index));
        assert_eq!(head, [7, 8, 9, 10]);
        for number in 0..count as usize {
            let at = HEAD_WORDS + number * CELL_WORDS;
            assert_eq!([word(&open, at), word(&open, at + 3)], [number as u64 + 1, number as u64]);
        }
        assert_eq!(word(&open, HEAD_WORDS + count as usize * CELL_WORDS), 0, "what is not written is zero");
        drop(tape);
        let closed = std::fs::read(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it is ours");
        assert_eq!(closed, open[..PAGE_BYTES + count as usize * CELL_BYTES]);
    }

    #[test]
    fn it_grows_no_further_than_it_may() {
        let path = path("limit");
        let mut tape =
            Tape::create(&path, &[], (PAGE_BYTES + CHUNK_BYTES + 5000) as u64).expect("a new file");
        let written = (0..2 * CHUNK_CELLS).filter(|_| tape.push([1; 4])).count();
        assert_eq!((written, tape.count()), (CHUNK_CELLS, CHUNK_CELLS as u64));
        assert!(!tape.has_room(1));
        assert!(Tape::create(&path, &[], u64::MAX).is_err(), "a file that is there is left alone");
        std::fs::remove_file(&path).expect("it is ours");
    }
}
