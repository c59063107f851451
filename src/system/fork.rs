//! Knowing that one is a child, and what a child does not get.
//!
//! A forked child has a copy of every descriptor. Of a socket on which others wait for this process that is one too
//! many: when the process is killed, the copy keeps the connection open, and nobody hears of the death. So what
//! is [`Unshared`] is noted by its number, and the first thing that a child does is to put something that nobody
//! waits for in its place. Its number stays taken, since somebody in the child may think that it is theirs to close.

use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(1);

/// A bit per descriptor that is unshared; of higher numbers children keep their copies.
static UNSHARED: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let mut instead = -1;
    for (index, word) in UNSHARED.iter().enumerate() {
        // The child's own are noted here from now on.
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let descriptor = (index * 64 + bits.trailing_zeros() as usize) as libc::c_int;
            bits &= bits - 1;
            // SAFETY: a few system calls that a child of a process with threads may make. The copy is this child's own,
            // and whoever holds its number finds an event that never comes.
            unsafe {
                if instead < 0 {
                    instead = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
                }
                libc::dup3(instead, descriptor, libc::O_CLOEXEC);
            }
        }
    }
    if instead >= 0 {
        // SAFETY: it was made above, and nobody else knows of it.
        unsafe { libc::close(instead) };
    }
}

/// How many forks lie between the first use in an ancestor and this process. What was made under another
/// generation belongs to the parent.
#[must_use]
pub fn generation() -> u32 {
    static HOOK: Once = Once::new();
    // SAFETY: the hook is a function of this library, which is never unloaded while in use, and does nothing
    // but change numbers and make system calls: safe in a child of a process with threads.
    HOOK.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    GENERATION.load(Ordering::Relaxed)
}

/// Something with a descriptor of which forked children get no copy.
#[derive(Debug)]
pub struct Unshared<T: AsRawFd>(T);

impl<T: AsRawFd> Unshared<T> {
    /// Children that are forked from now on do not get it.
    #[must_use]
    pub fn new(inner: T) -> Unshared<T> {
        let _ = generation();
        note(&inner, |word, bit| word.fetch_or(bit, Ordering::Relaxed));
        Unshared(inner)
    }
}

impl<T: AsRawFd> Deref for Unshared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: AsRawFd> Drop for Unshared<T> {
    /// Before the descriptor is closed: its number may be somebody else's right after.
    fn drop(&mut self) {
        note(&self.0, |word, bit| word.fetch_and(!bit, Ordering::Relaxed));
    }
}

fn note(of: &impl AsRawFd, change: impl FnOnce(&AtomicU64, u64) -> u64) {
    let number = usize::try_from(of.as_raw_fd()).unwrap_or(usize::MAX);
    if let Some(word) = UNSHARED.get(number / 64) {
        change(word, 1 << (number % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// What a child, which may only make system calls, ends with.
    fn in_a_child(body: impl FnOnce() -> bool) -> libc::pid_t {
        // SAFETY: by its contract `body` makes system calls only, and so does `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let is_good = body();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!is_good)) };
        }
        child
    }

    fn ended_well(child: libc::pid_t) -> bool {
        let mut status = 0;
        // SAFETY: `child` is our child and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status == 0
    }

    #[test]
    fn a_child_is_another_generation() {
        let before = generation();
        assert!(ended_well(in_a_child(|| generation() != before)));
        assert_eq!(generation(), before);
    }

    #[test]
    fn a_child_does_not_keep_what_is_unshared_open() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ours = Unshared::new(ours);
        let number = ours.as_raw_fd();
        let (shared, mut kept) = UnixStream::pair().unwrap();
        let shared_number = shared.as_raw_fd();
        let child = in_a_child(|| {
            let mut facts = std::mem::MaybeUninit::<libc::stat>::uninit();
            let mut is_socket = |number| {
                // SAFETY: `facts` is a place for the answer, which is read only if it was written.
                let answered = unsafe { libc::fstat(number, facts.as_mut_ptr()) } == 0;
                // SAFETY: likewise.
                answered && unsafe { facts.assume_init_ref() }.st_mode & libc::S_IFMT == libc::S_IFSOCK
            };
            let is_replaced = !is_socket(number) && is_socket(shared_number);
            // SAFETY: sleeps until it is killed.
            is_replaced && unsafe { libc::pause() } == 0
        });
        drop(ours);
        let mut byte = [0];
        assert_eq!(theirs.read(&mut byte).unwrap(), 0, "it is closed, though the child lives");
        drop(shared);
        kept.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(kept.read(&mut byte).is_err(), "what is not noted stays open");
        // SAFETY: our own child.
        unsafe { libc::kill(child, libc::SIGKILL) };
        assert!(!ended_well(child));
    }
}
