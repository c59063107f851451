//! Writing a line where nobody may listen: it never waits long, and never raises SIGPIPE.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::last;

/// How long a reader may keep a line waiting.
const PATIENCE_MS: i32 = 100;

/// Whether a line was given up for lack of room; until one gets through, none waits again.
static IS_STALLED: AtomicBool = AtomicBool::new(false);

/// Writes all of `bytes`, or says why not: nobody reads any more, nobody made room in time, the disk is full.
///
/// # Errors
/// What the system says; [`ErrorKind::TimedOut`] for a reader that stands still.
pub fn line(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    let _quiet = Quiet::new();
    while !bytes.is_empty() {
        wait_for_room(file)?;
        // SAFETY: `bytes` is readable for its length, and the descriptor is open while it is borrowed.
        let written = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count.min(bytes.len())..],
            Err(_) => match last() {
                error if error.kind() == ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

fn wait_for_room(file: BorrowedFd<'_>) -> Result<()> {
    let mut look = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let patience_ms = if IS_STALLED.load(Ordering::Relaxed) { 0 } else { PATIENCE_MS };
    // SAFETY: `look` is one valid entry.
    let found = unsafe { libc::poll(&raw mut look, 1, patience_ms) };
    IS_STALLED.store(found == 0, Ordering::Relaxed);
    match found {
        0 => Err(ErrorKind::TimedOut.into()),
        // An interrupted look, or a descriptor that cannot be looked at: the write will tell.
        _ if look.revents & libc::POLLNVAL != 0 => Err(Error::from_raw_os_error(libc::EBADF)),
        _ => Ok(()),
    }
}

/// While it lives this thread gets no SIGPIPE; one that its own write raised is taken back before the mask is.
struct Quiet {
    before: libc::sigset_t,
    pipe: libc::sigset_t,
    was_pending: bool,
}

impl Quiet {
    fn new() -> Quiet {
        // SAFETY: signal sets are plain memory, made empty before they are looked at; all calls get valid places.
        unsafe {
            let mut quiet =
                Quiet { before: std::mem::zeroed(), pipe: std::mem::zeroed(), was_pending: false };
            libc::sigemptyset(&raw mut quiet.pipe);
            libc::sigaddset(&raw mut quiet.pipe, libc::SIGPIPE);
            quiet.was_pending = is_pending();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const quiet.pipe, &raw mut quiet.before);
            quiet
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: as above; `before` was filled by the call that set the mask.
        unsafe {
            if !self.was_pending && is_pending() {
                let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                libc::sigtimedwait(&raw const self.pipe, std::ptr::null_mut(), &raw const now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

fn is_pending() -> bool {
    // SAFETY: the set is filled by `sigpending` before it is looked at.
    unsafe {
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&raw mut pending) == 0 && libc::sigismember(&raw const pending, libc::SIGPIPE) == 1
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn lines_arrive() {
        let (mut reader, writer) = pipe().unwrap();
        line(writer.as_fd(), b"one\n").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\n");
    }

    #[test]
    fn a_reader_that_left_raises_no_signal() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        // The test's own process ignores SIGPIPE; a child with the usual disposition must survive too.
        // SAFETY: the child calls `signal`, the function under test (which allocates nothing here) and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as said.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                let outcome = line(writer.as_fd(), b"nobody\n");
                let told = outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EPIPE));
                libc::_exit(i32::from(!told));
            }
        }
        let mut status = -1;
        // SAFETY: `child` is our child and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }

    #[test]
    fn a_reader_that_stands_still_is_not_waited_for() {
        let (_reader, writer) = pipe().unwrap();
        let full = vec![b'x'; 4096];
        let error = (0..1000).find_map(|_| line(writer.as_fd(), &full).err()).expect("the pipe is full");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
