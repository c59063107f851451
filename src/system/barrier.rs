//! A memory barrier that one process executes for all.
//!
//! Who publishes a packet then looks whether the other sleeps: a store, then a load, which the processor may
//! swap. Instead of a fence per packet, who goes to sleep makes every processor that runs one of us execute
//! the fence, once.

use std::sync::OnceLock;

const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes numbers only and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Lets others' [`everywhere`] reach this process. Whether it will.
pub fn register() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(REGISTER_GLOBAL_EXPEDITED))
}

/// When it returns true, every running thread of every registered process has executed a full fence since
/// the call began.
#[must_use]
pub fn everywhere() -> bool {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    register() && membarrier(GLOBAL_EXPEDITED)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_answers_the_same_each_time() {
        assert_eq!(super::everywhere(), super::everywhere());
    }
}
