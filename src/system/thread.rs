//! Threads of our own, and how many can run.

use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// Signals that a thread brings on itself. Blocked, they would end the process past the program's handlers.
const OWN_FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Starts `body` on a thread called `name` that takes no signals: they are the program's. Its own faults are
/// handled as in every thread.
///
/// # Errors
/// The system's.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    // SAFETY: all zeros is a value of this plain struct; it is overwritten by the calls below.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: both sets are valid places. A new thread inherits the mask of the thread that starts it, so it
    // is changed around the start and put back.
    unsafe {
        libc::sigfillset(&raw mut all);
        for signal in OWN_FAULTS {
            libc::sigdelset(&raw mut all, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started.map_err(|cause| {
        Error::system(format_args!("starting thread {name}"), cause, "raise the limit on threads (ulimit -u)")
    })
}

/// How many processors this process may use.
#[must_use]
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_no_signals() {
        let thread = spawn("shoal-test", || {
            // SAFETY: all zeros is a value of this plain struct, filled by the call.
            unsafe {
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
                assert_eq!(libc::sigismember(&raw const mask, libc::SIGTERM), 1);
            }
            assert_eq!(std::thread::current().name(), Some("shoal-test"));
        });
        thread.expect("started").join().expect("held");
        assert!(available_cores() >= 1);
    }
}
