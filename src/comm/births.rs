//! Births that belong together: those of one group, whose ranks wait for one another.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use crate::error::{Error, Result};
use crate::system::thread;

/// The birth of a communicator, to be run beside others. It is told by the flag if one of them failed.
pub type Birth = Box<dyn FnOnce(Arc<AtomicBool>) -> Result<()> + Send>;

/// Runs the births side by side. Unless every one has its thread none is begun: they wait for one another.
///
/// # Errors
/// The first one's that failed; it ends the others.
pub fn run(births: Vec<Birth>) -> Result<()> {
    let (report, reports) = mpsc::channel();
    let cancel = Arc::<AtomicBool>::default();
    let mut starts = Vec::new();
    for _ in &births {
        let (start, started) = mpsc::sync_channel::<Birth>(1);
        let (report, cancel) = (report.clone(), Arc::clone(&cancel));
        thread::spawn("shoal-birth", move || {
            if let Ok(birth) = started.recv() {
                // The receiver waits for all.
                let _ = report.send(birth(cancel));
            }
        })?;
        starts.push(start);
    }
    drop(report);
    let count = births.len();
    for (start, birth) in starts.iter().zip(births) {
        // Taken by a thread that does nothing else.
        let _ = start.send(birth);
    }
    let mut ended_count = 0;
    let mut outcome = Ok(());
    for result in reports {
        ended_count += 1;
        if result.is_err() {
            cancel.store(true, Ordering::Relaxed);
        }
        // The first one is the cause.
        outcome = outcome.and(result);
    }
    let all = if ended_count == count { Ok(()) } else { Err(panicked()) };
    outcome.and(all)
}

#[cold]
fn panicked() -> Error {
    Error::Internal("the birth of a communicator panicked".into())
}
