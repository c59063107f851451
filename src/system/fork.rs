//! Knowing that one is a child, and what a child does not keep.

use std::os::fd::AsRawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// How many descriptors can be kept from children; further ones are not.
const SHED_MAX: usize = 4096;
/// No descriptor.
const NONE: i32 = -1;

static GENERATION: AtomicU32 = AtomicU32::new(1);
static SHED: [AtomicI32; SHED_MAX] = [const { AtomicI32::new(NONE) }; SHED_MAX];

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let kept = SHED.iter().map(|place| place.swap(NONE, Ordering::Relaxed));
    let mut nothing = NONE;
    for descriptor in kept.filter(|descriptor| *descriptor != NONE) {
        // SAFETY: plain numbers, in a child of a process with threads, where both calls are allowed. Objects of the
        // parent that the child has copies of keep a number that is open, and may close it.
        unsafe {
            if nothing == NONE {
                nothing = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            }
            libc::dup2(nothing, descriptor);
        }
    }
    if nothing != NONE {
        // SAFETY: it was made above and is closed once.
        unsafe { libc::close(nothing) };
    }
}

/// A descriptor that a forked child does not keep, for as long as this lives: a connection ends with the process
/// that made it although a child of it goes on. To be dropped before the descriptor is closed.
#[derive(Debug)]
pub struct Shed(Option<&'static AtomicI32>);

impl Shed {
    /// Keeps `descriptor` from children.
    pub fn new(descriptor: &impl AsRawFd) -> Shed {
        // Makes sure that children are seen.
        let _ = generation();
        let descriptor = descriptor.as_raw_fd();
        let is_taken = |place: &&AtomicI32| {
            place.compare_exchange(NONE, descriptor, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        Shed(SHED.iter().find(is_taken))
    }
}

impl Drop for Shed {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(NONE, Ordering::Relaxed);
        }
    }
}

/// How many forks lie between the first use in an ancestor and this process. What was made under another
/// generation belongs to the parent.
#[must_use]
pub fn generation() -> u32 {
    static HOOK: Once = Once::new();
    // SAFETY: the hook is a function of this library, which is never unloaded while in use, and does nothing but
    // change numbers and descriptors: safe in a child of a process with threads.
    HOOK.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_generation() {
        let before = generation();
        // SAFETY: the child calls nothing but an atomic load and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let same = generation() == before;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(same)) };
        }
        let mut status = 0;
        // SAFETY: `child` is our child and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(generation(), before);
    }

    #[test]
    fn a_connection_ends_with_its_process_though_a_child_lives() {
        use std::io::Read;
        use std::os::unix::net::UnixStream;
        let (mut here, there) = UnixStream::pair().expect("sockets");
        let shed = Shed::new(&there);
        let (mut wait, go) = UnixStream::pair().expect("sockets");
        let shed_too = Shed::new(&go);
        // SAFETY: the child calls nothing but `read` and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut byte = [0_u8];
            // SAFETY: the descriptor is open and the place valid; then the child ends at once.
            unsafe {
                libc::read(wait.as_raw_fd(), byte.as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
        }
        drop(shed);
        drop(there);
        // The child lives, and still this end hears that the connection is over.
        here.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
        assert_eq!(here.read(&mut [0]).expect("over, not late"), 0);
        drop(shed_too);
        drop(go);
        let mut status = 0;
        // SAFETY: `child` is our child and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        let _ = wait.read(&mut [0]);
    }
}
