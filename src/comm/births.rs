//! Births: that of a lone call, and those of one group, whose ranks wait for one another.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::life::Life;
use super::{Body, Comm};
use crate::error::{Code, Error, Result};
use crate::system::thread;

/// Meets the others and becomes a rank; `None` for who takes part and gets nothing. Sees the flag.
pub(super) type Work = Box<dyn FnOnce(&Arc<AtomicBool>) -> Result<Option<Body>> + Send>;

/// A communicator that is to be born.
pub struct Birth {
    labour: Labour,
    undo: Option<Box<dyn FnOnce()>>,
}

/// The part of a birth that runs where it can wait.
struct Labour {
    call: &'static str,
    /// Unborn; nobody for a rank that takes part and gets nothing.
    child: Option<Arc<Comm>>,
    /// Whose child it is, if it has a parent.
    parent: Option<Arc<Comm>>,
    cancel: Arc<AtomicBool>,
    work: Work,
}

impl std::fmt::Debug for Birth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Birth({} {:?})", self.labour.call, self.labour.child)
    }
}

impl Birth {
    pub(super) fn new(
        call: &'static str,
        child: Option<Arc<Comm>>,
        parent: Option<Arc<Comm>>,
        work: Work,
    ) -> Birth {
        Birth { labour: Labour { call, child, parent, cancel: Arc::default(), work }, undo: None }
    }

    /// The function that the caller called.
    #[must_use]
    pub fn call(&self) -> &'static str {
        self.labour.call
    }

    /// Who is to be born; nobody for a rank that takes part and gets nothing.
    #[must_use]
    pub fn child(&self) -> Option<&Arc<Comm>> {
        self.labour.child.as_ref()
    }

    /// What takes the handle away from a caller who waited in vain. It runs on the caller's thread.
    pub fn undo_by(&mut self, undo: impl FnOnce() + 'static) {
        self.undo = Some(Box::new(undo));
    }

    /// Whether the call, or its group's end, waits for it: who is asked about it is the parent, else the child.
    #[must_use]
    pub fn is_blocking(&self) -> bool {
        let asked = self.labour.parent.as_ref().or(self.labour.child.as_ref());
        asked.is_none_or(|comm| comm.is_blocking())
    }
}

/// Runs births side by side; `InProgress` if they go on behind the caller.
///
/// # Errors
/// The first one's that failed; it ends the others, and none of them was born.
pub fn run(mut births: Vec<Birth>) -> Result<Code> {
    let is_behind = births.iter().any(|birth| !birth.is_blocking());
    let undos: Vec<_> = births.iter_mut().filter_map(|birth| birth.undo.take()).collect();
    let mut labours: Vec<Labour> = births.into_iter().map(|birth| birth.labour).collect();
    for labour in &labours {
        labour.begin(is_behind);
    }
    let outcome = match (is_behind, labours.len()) {
        (false, 1) => labours.pop().map_or(Ok(()), Labour::run),
        (false, _) => run_together(labours),
        (true, _) => run_behind(labours).map(drop),
    };
    match outcome {
        Ok(()) if is_behind => Ok(Code::InProgress),
        Ok(()) => Ok(Code::Success),
        Err(error) => {
            undos.into_iter().for_each(|undo| undo());
            Err(error)
        }
    }
}

/// Undoes births that were never begun.
pub fn give_up(births: Vec<Birth>) {
    for birth in births {
        if let Some(child) = birth.child() {
            child.stage.advance(Life::Unborn, Life::Stillborn);
        }
        if let Some(undo) = birth.undo {
            undo();
        }
    }
}

/// Starts each on a thread of its own. Unless every one has its thread none is begun: they wait for one another.
fn run_behind(labours: Vec<Labour>) -> Result<mpsc::Receiver<Result<()>>> {
    let (report, reports) = mpsc::channel();
    let cancels: Arc<[Arc<AtomicBool>]> = labours.iter().map(|labour| Arc::clone(&labour.cancel)).collect();
    let mut starts = Vec::new();
    for _ in &labours {
        let (start, started) = mpsc::sync_channel::<Labour>(1);
        let (report, cancels) = (report.clone(), Arc::clone(&cancels));
        let spawned = thread::spawn("shoal-birth", move || {
            if let Ok(labour) = started.recv() {
                let outcome = labour.run();
                let has_failed = outcome.is_err();
                // Perhaps nobody waits for it.
                let _ = report.send(outcome);
                if has_failed {
                    cancels.iter().for_each(|cancel| cancel.store(true, Ordering::Release));
                }
            }
        });
        if let Err(error) = spawned {
            labours.iter().for_each(|labour| labour.end(&Err(error.clone())));
            return Err(error);
        }
        starts.push(start);
    }
    for (start, labour) in starts.iter().zip(labours) {
        // Taken by a thread that does nothing else.
        let _ = start.send(labour);
    }
    Ok(reports)
}

/// The same, and waits for all. If one fails, those that were born are of no use without it.
fn run_together(labours: Vec<Labour>) -> Result<()> {
    let children: Vec<Arc<Comm>> = labours.iter().filter_map(|labour| labour.child.clone()).collect();
    // The first report of a failure is the cause of the others.
    let outcome = run_behind(labours)?.into_iter().fold(Ok(()), Result::and);
    if outcome.is_err() {
        for child in children {
            child.abort()?;
        }
    }
    outcome
}

impl Labour {
    /// From here on those who are asked about it know of it.
    fn begin(&self, is_behind: bool) {
        for comm in self.child.iter().chain(&self.parent) {
            comm.work.begin(&self.cancel, is_behind);
        }
    }

    fn run(mut self) -> Result<()> {
        let work = std::mem::replace(&mut self.work, Box::new(|_| Ok(None)));
        let worked = catch_unwind(AssertUnwindSafe(|| work(&self.cancel)));
        let outcome = match worked {
            Ok(Ok(body)) => self.deliver(body),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Internal(format!("{}: the birth of a communicator panicked", self.call))),
        };
        self.end(&outcome);
        outcome
    }

    fn deliver(&self, body: Option<Body>) -> Result<()> {
        match (&self.child, body) {
            (Some(child), Some(body)) => child.take_body(body),
            (None, None) => Ok(()),
            _ => Err(Error::Internal(format!("{}: a birth without a child", self.call))),
        }
    }

    fn end(&self, outcome: &Result<()>) {
        if let (Some(child), Err(_)) = (&self.child, outcome) {
            child.stage.advance(Life::Unborn, Life::Stillborn);
        }
        for comm in self.child.iter().chain(&self.parent) {
            comm.work.end(&self.cancel, outcome.as_ref().err());
        }
    }
}
