//! The first failure of the communicator, in words, where every rank can read it.
//!
//! ```text
//! who has not failed         claims (0 -> 1), writes rank, length and text, publishes (1 -> 2)
//! who wants to know          looks for 2 (acquire), copies the text
//! ```
//! Only the first claim counts. A rank that dies between claim and publication leaves no words; its death is
//! seen by its lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::FAILURE_OFFSET;
use super::segment::Segment;

/// How many bytes of text are kept.
const TEXT_BYTES: usize = 2048;
const CLAIMED: u32 = 1;
const PUBLISHED: u32 = 2;

/// In the first page of the segment, behind the header.
#[repr(C)]
pub(super) struct Failure {
    stage: AtomicU32,
    rank: AtomicU32,
    length_bytes: AtomicU64,
    text: [AtomicU64; TEXT_BYTES / 8],
}

const _: () = assert!(FAILURE_OFFSET + size_of::<Failure>() <= crate::system::map::PAGE_BYTES);

/// Publishes a failure, if it is the first.
pub(super) fn raise(segment: &Segment, rank: u32, reason: &str) {
    let failure = segment.failure();
    if failure.stage.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    let mut end = reason.len().min(TEXT_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    for (word, bytes) in failure.text.iter().zip(reason.as_bytes()[..end].chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
    failure.rank.store(rank, Ordering::Relaxed);
    failure.length_bytes.store(end as u64, Ordering::Relaxed);
    // Release: publishes the words above to whoever reads the stage with acquire.
    failure.stage.store(PUBLISHED, Ordering::Release);
}

/// Who failed first, and why.
pub(super) fn raised(segment: &Segment) -> Option<(u32, String)> {
    let failure = segment.failure();
    if failure.stage.load(Ordering::Acquire) != PUBLISHED {
        return None;
    }
    let length = usize::try_from(failure.length_bytes.load(Ordering::Relaxed)).unwrap_or(0).min(TEXT_BYTES);
    let mut bytes: Vec<u8> =
        failure.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(length);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some((failure.rank.load(Ordering::Relaxed), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let segment = Segment::create(2, 8192).expect("memory");
        assert_eq!(raised(&segment), None);
        raise(&segment, 1, &"ü".repeat(2000));
        raise(&segment, 0, "later");
        let (rank, text) = raised(&segment).expect("raised");
        assert_eq!((rank, text.chars().count()), (1, TEXT_BYTES / 2));
        assert!(text.chars().all(|letter| letter == 'ü'));
    }
}
