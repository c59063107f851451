//! How a communicator ends: in good order, or at once.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Body, Comm, Life};
use crate::engine::driver::Endpoint;
use crate::error::{Code, Error, Result};
use crate::system::thread;

/// How long Abort waits for births that it cancelled. They see it far sooner; what hangs in the system beyond that
/// gives back by itself what it holds.
const CANCELLED_WAIT: Duration = Duration::from_millis(500);
/// Destroy waits for what has bounds of its own.
const BOUNDED_WAIT: Duration = Duration::from_secs(24 * 3600);

impl Comm {
    /// Waits until all that was started is done, or has that done behind the caller; afterwards nothing can be
    /// started. Of one that failed nothing is left to wait for.
    ///
    /// # Errors
    /// It is not live, or what went wrong with what was started.
    pub fn finalize(self: &Arc<Self>) -> Result<Code> {
        let endpoint = Arc::clone(self.usable("ncclCommFinalize")?);
        if !self.stage.advance(Life::Live, Life::Finalizing) {
            return Err(self.unusable("ncclCommFinalize"));
        }
        let has_failed = endpoint.failure().is_some();
        if self.is_blocking() || has_failed || endpoint.is_idle() {
            let drained = endpoint.drain();
            self.stage.advance(Life::Finalizing, Life::Finalized);
            return if has_failed { Ok(Code::Success) } else { drained.map(|()| Code::Success) };
        }
        let (comm, cancel) = (Arc::clone(self), Arc::<AtomicBool>::default());
        self.work.begin(&cancel, true);
        let flag = Arc::clone(&cancel);
        let started = thread::spawn("shoal-finalize", move || {
            let drained = endpoint.drain();
            comm.stage.advance(Life::Finalizing, Life::Finalized);
            comm.work.end(&flag, drained.as_ref().err());
        });
        if let Err(error) = started {
            self.work.end(&cancel, None);
            self.stage.advance(Life::Finalizing, Life::Live);
            return Err(error);
        }
        Ok(Code::InProgress)
    }

    /// Stops what runs and lets nothing new start, for good; unlike after Abort, children can be born. Every rank
    /// that goes on calls it.
    ///
    /// # Errors
    /// It is not live.
    pub fn revoke(&self, call: &'static str) -> Result<()> {
        let endpoint = self.usable(call)?;
        if self.stage.advance(Life::Live, Life::Revoked) {
            endpoint.revoke();
            return Ok(());
        }
        Err(self.unusable(call))
    }

    /// Finalizes if that was not done, and gives everything back.
    ///
    /// # Errors
    /// It belongs to the parent of this process, for which nothing changes.
    pub fn destroy(&self) -> Result<()> {
        self.settle()?;
        self.close();
        Ok(())
    }

    /// The first half of Destroy, during which the handle still names it, so that an abort can end it: waits for
    /// what was started.
    ///
    /// # Errors
    /// It belongs to the parent of this process, for which nothing changes.
    pub fn settle(&self) -> Result<()> {
        self.check_own("ncclCommDestroy")?;
        match self.stage.get() {
            // Nobody has it yet, and nobody will.
            Life::Unborn | Life::Stillborn => self.work.cancel(),
            Life::Live => {
                if let Some(body) = self.body.get() {
                    // What went wrong with earlier work was reported there; leaving is not made to fail by it.
                    let _ = body.endpoint.drain();
                }
            }
            Life::Revoked | Life::Finalizing | Life::Finalized | Life::Gone => {}
        }
        // Children that are being born, or a finalize behind the caller.
        self.work.wait(BOUNDED_WAIT);
        Ok(())
    }

    /// The second half of Destroy: gives everything back.
    pub fn close(&self) {
        let before = self.stage.end();
        if before != Life::Gone {
            self.give_back(Endpoint::close);
        }
    }

    /// Lets go of everything; others may hold on to what is left for long.
    fn give_back(&self, end: impl FnOnce(&Endpoint)) {
        if let Some(body) = self.body.get() {
            end(&body.endpoint);
            body.kin.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        self.family.end();
    }

    /// Stops what runs and cancels what is being born, from any thread, and gives everything back. Afterwards
    /// nobody touches the user's memory.
    ///
    /// # Errors
    /// It belongs to the parent of this process, for which nothing changes.
    pub fn abort(&self) -> Result<()> {
        self.check_own("ncclCommAbort")?;
        let before = self.stage.end();
        self.work.cancel();
        if before != Life::Gone {
            self.give_back(Endpoint::abort);
        }
        self.work.wait(CANCELLED_WAIT);
        Ok(())
    }

    /// The process ends without having destroyed it. Peers are told, as if it had; nothing is waited for.
    pub(super) fn depart(&self) {
        if self.check_own("exit").is_ok()
            && let Some(body) = self.body.get()
        {
            body.endpoint.depart();
        }
    }

    /// Whether it is at a stage of its life at which children can be born.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check_parent(&self, call: &'static str) -> Result<&Body> {
        self.check_own(call)?;
        match (self.body.get(), self.stage.get()) {
            (Some(body), Life::Live | Life::Revoked) => Ok(body),
            _ => Err(self.unusable(call)),
        }
    }

    /// Whether children can be born of it: not after a communication error, which the other ranks know of as
    /// well, unless it was revoked for it.
    ///
    /// # Errors
    /// They cannot, and why.
    pub(super) fn check_fertile(&self, call: &'static str) -> Result<()> {
        match self.check_parent(call)?.endpoint.cause() {
            None => Ok(()),
            Some(cause) => Err(Error::usage(
                call,
                format_args!("the communicator failed earlier: {cause}"),
                "abort it, or shrink it to the ranks that are left",
            )),
        }
    }
}
