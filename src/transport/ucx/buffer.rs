//! Memory for messages: a header right in front of aligned data, used again and again.
#![forbid(unsafe_code)]

use super::frame::Header;

/// Data start at a multiple of this, as reductions like it.
const ALIGNMENT: usize = 64;
/// What lies between the start of a buffer and its data; the header is the end of it.
const FRONT_BYTES: usize = Header::BYTES.next_multiple_of(ALIGNMENT);
const HEADER_START: usize = FRONT_BYTES - Header::BYTES;
/// How much of each size is kept for the next use.
const KEPT_BYTES: usize = 4 << 20;
/// The sizes that buffers have.
const SIZES: [usize; 5] = [512, 4096, 16 << 10, super::EAGER_BYTES, super::PIECE_BYTES];

/// Which of the sizes holds `bytes`.
fn size_place(bytes: usize) -> usize {
    SIZES.iter().position(|size| bytes <= *size).expect("no message is longer than a piece")
}

/// How much memory a message of `bytes`, at most the longest size, takes.
pub(super) fn taken_bytes(bytes: usize) -> usize {
    ALIGNMENT + FRONT_BYTES + SIZES[size_place(bytes)]
}

/// A message, its header in front.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    /// Where it is aligned.
    start: usize,
    bytes: usize,
}

impl Buffer {
    fn with_capacity(bytes: usize) -> Buffer {
        let memory = vec![0; ALIGNMENT + FRONT_BYTES + bytes].into_boxed_slice();
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, bytes: 0 }
    }

    fn capacity(&self) -> usize {
        self.memory.len() - ALIGNMENT - FRONT_BYTES
    }

    /// How many bytes of data it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How much memory it takes.
    pub(super) fn taken_bytes(&self) -> usize {
        self.memory.len()
    }

    /// The data.
    pub(super) fn data(&self) -> &[u8] {
        &self.memory[self.start + FRONT_BYTES..][..self.bytes]
    }

    /// The data, to be written.
    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + FRONT_BYTES..][..self.bytes]
    }

    /// The encoded header.
    pub(super) fn header(&self) -> &[u8] {
        &self.memory[self.start + HEADER_START..][..Header::BYTES]
    }

    /// The encoded header and the data behind it.
    pub(super) fn whole(&self) -> &[u8] {
        &self.memory[self.start + HEADER_START..][..Header::BYTES + self.bytes]
    }

    /// Writes the header.
    pub(super) fn set_header(&mut self, header: &Header) {
        self.memory[self.start + HEADER_START..][..Header::BYTES].copy_from_slice(&header.encode());
    }
}

/// Buffers that wait for their next use.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: [Vec<Buffer>; SIZES.len()],
}

impl Pool {
    /// A buffer for `bytes` of data, at most the longest size. What lies in it is old.
    pub(super) fn take(&mut self, bytes: usize) -> Buffer {
        let place = size_place(bytes);
        let mut buffer = self.free[place].pop().unwrap_or_else(|| Buffer::with_capacity(SIZES[place]));
        buffer.bytes = bytes;
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn put(&mut self, buffer: Buffer) {
        let capacity = buffer.capacity();
        let place = SIZES.iter().position(|size| capacity <= *size).unwrap_or(SIZES.len() - 1);
        if self.free[place].len() < KEPT_BYTES / SIZES[place] {
            self.free[place].push(buffer);
        }
    }

    /// How much memory waits here.
    pub(super) fn kept_bytes(&self) -> usize {
        self.free.iter().flatten().map(Buffer::taken_bytes).sum()
    }

    /// Gives back what waits here.
    pub(super) fn clear(&mut self) {
        self.free = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_used_again_and_bounded() {
        let mut pool = Pool::default();
        for bytes in [0, 1, 512, 513, super::super::EAGER_BYTES, super::super::PIECE_BYTES] {
            let mut buffer = pool.take(bytes);
            assert_eq!((buffer.data().len(), buffer.taken_bytes()), (bytes, taken_bytes(bytes)));
            assert_eq!(buffer.data().as_ptr().align_offset(ALIGNMENT), 0);
            buffer.data_mut().fill(7);
            let place = buffer.data().as_ptr();
            pool.put(buffer);
            assert_eq!(pool.take(bytes).data().as_ptr(), place, "{bytes}");
        }
        let many: Vec<Buffer> = (0..100).map(|_| pool.take(super::super::PIECE_BYTES)).collect();
        many.into_iter().for_each(|buffer| pool.put(buffer));
        let front_bytes = (ALIGNMENT + FRONT_BYTES) * KEPT_BYTES / SIZES[0];
        assert!(pool.kept_bytes() <= SIZES.len() * (KEPT_BYTES + front_bytes));
        pool.clear();
        assert_eq!(pool.kept_bytes(), 0);
    }
}
