//! Sleeping until a word changes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The most words that one call sleeps on.
pub const WORDS_LIMIT: usize = 128;
/// How long to sleep where the system cannot watch several words at once.
const BLIND_SLEEP: Duration = Duration::from_micros(200);
/// A word of 32 bits, in the terms of `futex_waitv`; not private to the process.
const SIZE_32: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct Waited {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    }
}

/// Sleeps while `word` holds `expected`, until it is woken or `limit` has passed; may return early.
pub fn wait(word: &AtomicU32, expected: u32, limit: Duration) {
    let limit = timespec(limit);
    // SAFETY: `word` is a valid address for the call and `limit` a valid time; the kernel reads both only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const limit) };
}

/// Wakes up to `count` sleepers of `word`, in any process.
pub fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: `word` is a valid address; waking reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// Sleeps while every word holds what is expected of it, until one is woken or `limit` has passed; may return
/// early. More than [`WORDS_LIMIT`] words, or an old kernel: a short sleep instead.
pub fn wait_any(words: &[(&AtomicU32, u32)], limit: Duration) {
    if let [(word, expected)] = words {
        return wait(word, *expected, limit);
    }
    if words.is_empty() || words.len() > WORDS_LIMIT || !wait_many(words, limit) {
        std::thread::sleep(limit.min(BLIND_SLEEP));
    }
}

/// Whether the system could do it.
fn wait_many(words: &[(&AtomicU32, u32)], limit: Duration) -> bool {
    static ABSENT: AtomicU32 = AtomicU32::new(0);
    if ABSENT.load(Ordering::Relaxed) != 0 {
        return false;
    }
    let mut list = [Waited { value: 0, address: 0, flags: SIZE_32, reserved: 0 }; WORDS_LIMIT];
    for (entry, (word, expected)) in list.iter_mut().zip(words) {
        entry.value = u64::from(*expected);
        entry.address = word.as_ptr() as u64;
    }
    let end = timespec(Duration::from_nanos(super::clock::now_ns()).saturating_add(limit));
    // SAFETY: the first `words.len()` entries of `list` name words that live through the call, `end` is a
    // valid time; the kernel reads all of them only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            list.as_ptr(),
            words.len(),
            0,
            &raw const end,
            libc::CLOCK_MONOTONIC,
        )
    };
    let absent = result < 0 && matches!(super::last().raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
    if absent {
        ABSENT.store(1, Ordering::Relaxed);
    }
    !absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_changed_word_does_not_sleep() {
        let start = Instant::now();
        let words = [AtomicU32::new(1), AtomicU32::new(2)];
        wait(&words[0], 0, Duration::from_secs(5));
        wait_any(&[(&words[0], 1), (&words[1], 1)], Duration::from_secs(5));
        assert!(start.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn any_word_wakes() {
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while words[1].load(Ordering::Acquire) == 0 {
                    wait_any(&[(&words[0], 0), (&words[1], 0)], Duration::from_millis(50));
                }
            });
            std::thread::sleep(Duration::from_millis(5));
            words[1].store(1, Ordering::Release);
            wake(&words[1], 1);
        });
    }

    #[test]
    fn nobody_sleeps_for_ever() {
        let word = AtomicU32::new(0);
        wait(&word, 0, Duration::from_millis(2));
        wait_any(&[(&word, 0), (&word, 0)], Duration::from_millis(2));
    }
}
