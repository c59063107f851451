//! Copies past the caches.

/// The unit that is written past the caches.
const LINE_BYTES: usize = 64;

/// Copies so many lines past the caches, to a multiple of 64, and makes them visible ([`fence`]).
pub type Lines = unsafe fn(*const u8, *mut u8, usize);

/// `into = from` past the caches: for what is large, or is next read on another core. Best where `into` is a
/// multiple of 64. What is written is visible like any other store.
///
/// # Safety
/// `from` is readable and `into` is writable for `bytes`, and they are disjoint.
pub unsafe fn streaming(from: *const u8, into: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; every processor has what `stream_lines` needs.
    unsafe { streaming_by(stream_lines, from, into, bytes) }
}

/// As [`streaming`], with these instructions.
///
/// # Safety
/// As [`streaming`], and the processor has what `stream` needs.
pub unsafe fn streaming_by(stream: Lines, from: *const u8, into: *mut u8, bytes: usize) {
    let head = into.addr().wrapping_neg() % LINE_BYTES;
    // Below two lines there is nothing to win.
    if bytes < head + 2 * LINE_BYTES {
        // SAFETY: the caller's promise.
        return unsafe { into.copy_from_nonoverlapping(from, bytes) };
    }
    let lines = (bytes - head) / LINE_BYTES;
    let tail = head + lines * LINE_BYTES;
    // SAFETY: head, lines and tail follow one another and end at `bytes`; `into + head` is a multiple of 64 by the
    // choice of `head`; the instructions are the caller's promise.
    unsafe {
        into.copy_from_nonoverlapping(from, head);
        stream(from.add(head), into.add(head), lines);
        into.add(tail).copy_from_nonoverlapping(from.add(tail), bytes - tail);
    }
}

/// # Safety
/// As [`Lines`] says.
unsafe fn stream_lines(from: *const u8, into: *mut u8, lines: usize) {
    for at in (0..lines * LINE_BYTES).step_by(LINE_BYTES) {
        // SAFETY: the line lies within the promised ranges, and a multiple of 64 plus a multiple of 64 is one.
        unsafe { stream_line(from.add(at), into.add(at)) };
    }
    fence();
}

/// Copies 64 bytes past the caches with what every processor of the architecture has.
///
/// # Safety
/// As for a copy of 64 bytes; `into` is a multiple of 64. Before another thread is told of the bytes, [`fence`] is
/// called.
#[inline(always)]
pub unsafe fn stream_line(from: *const u8, into: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 64 bytes are readable at `from` and writable at `into`, which is a multiple of 64, hence all quarters of
    // 16; every x86-64 has SSE2.
    unsafe {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
        let quarters = [0, 16, 32, 48].map(|at| _mm_loadu_si128(from.add(at).cast()));
        for (index, quarter) in quarters.into_iter().enumerate() {
            _mm_stream_si128(into.add(16 * index).cast(), quarter);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller vouches for 64 bytes at both places, disjoint.
    unsafe {
        into.copy_from_nonoverlapping(from, LINE_BYTES);
    }
}

/// Makes streamed bytes visible before anything that is stored later.
#[inline(always)]
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Says that the line at `from` is read soon. Any address may be named.
#[inline(always)]
pub fn prefetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and faults nowhere; every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_is_copied_and_no_other() {
        let source: Vec<u8> = (0..1000).map(|at| (at * 7 % 251) as u8 + 1).collect();
        for start in [0, 1, 8, 63, 64, 65] {
            for bytes in [0, 1, 63, 64, 65, 127, 128, 129, 500, 777] {
                let mut target = vec![0_u8; 1000];
                // SAFETY: both have 1,000 bytes, and no sum of the numbers above is more.
                unsafe { super::streaming(source.as_ptr().add(3), target.as_mut_ptr().add(start), bytes) };
                assert_eq!(target[start..start + bytes], source[3..3 + bytes]);
                assert!(target[..start].iter().chain(&target[start + bytes..]).all(|byte| *byte == 0));
            }
        }
    }
}
