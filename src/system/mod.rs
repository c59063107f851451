//! The thin unsafe rest: shared maps, locks, futexes, copies between processes.
//!
//! One file per thing that the system offers, each with the least code that makes it safe to call.

pub mod arena;
pub mod attach;
pub mod barrier;
pub mod baton;
pub mod calendar;
pub mod clock;
pub mod copy;
pub mod exit;
pub mod fork;
pub mod futex;
pub mod local;
pub mod lock;
pub mod map;
pub mod memfd;
pub mod memory;
pub mod namespace;
pub mod passing;
pub mod permit;
pub mod process;
pub mod random;
pub mod room;
pub mod say;
pub mod slots;
pub mod socket;
pub mod tape;
pub mod thread;
pub mod wait;

/// The last system call's error of this thread.
fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}
