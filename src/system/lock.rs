//! Locks that say who lives.
//!
//! A process that takes part holds a lock on one byte of a shared file. The kernel takes it away when the
//! process ends, however it ends; a forked child does not inherit it, so death is seen even while a child
//! lives on. **The process loses all its locks on a file when it closes any descriptor of that file.**

use std::os::fd::{AsRawFd, BorrowedFd};

use super::last;
use crate::error::{Error, Result};

fn request(kind: libc::c_int, byte: u64) -> libc::flock {
    // SAFETY: all zeros is a value of this plain struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)] // the kinds of lock are 0, 1 and 2
    {
        lock.l_type = kind as libc::c_short;
    }
    lock.l_start = libc::off_t::try_from(byte).unwrap_or(libc::off_t::MAX);
    lock.l_len = 1;
    lock
}

/// Takes the lock on `byte`; false if another process has it.
///
/// # Errors
/// The system's.
pub fn hold(file: BorrowedFd<'_>, byte: u64) -> Result<bool> {
    let lock = request(libc::F_WRLCK, byte);
    // SAFETY: `lock` is a valid request that outlives the call; the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    match last().raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => Ok(false),
        _ => Err(Error::system("locking a byte of shared memory", last(), "allow fcntl(F_SETLK)")),
    }
}

/// Gives the lock on `byte` back.
pub fn release(file: BorrowedFd<'_>, byte: u64) {
    let lock = request(libc::F_UNLCK, byte);
    // SAFETY: as in `hold`.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
}

/// Which other process holds the lock on `byte`, by its number here (0: it has none here, for it lives in
/// another namespace). `None`: none does, or this process itself.
#[must_use]
pub fn holder(file: BorrowedFd<'_>, byte: u64) -> Option<i32> {
    let mut lock = request(libc::F_WRLCK, byte);
    // SAFETY: `lock` is a valid request and place for the answer; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    match result {
        0 if i32::from(lock.l_type) == libc::F_UNLCK => None,
        0 => Some(lock.l_pid.max(0)),
        // Nothing is known; who cannot be asked counts as alive.
        _ => Some(0),
    }
}
