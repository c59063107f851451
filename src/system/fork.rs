//! Knowing that one is a child.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(1);

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between the first use in an ancestor and this process. What was made under another
/// generation belongs to the parent.
#[must_use]
pub fn generation() -> u32 {
    static HOOK: Once = Once::new();
    // SAFETY: the hook is a function of this library, which is never unloaded while in use, and does nothing
    // but add to a number: safe in a child of a process with threads.
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
}
