//! Suspend and Resume, and how much memory a communicator takes.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{Comm, Life};
use crate::engine::driver::Endpoint;
use crate::error::{Error, Result};
use crate::transport::Taken;

impl Comm {
    /// What ran its batches, whatever became of it since its birth.
    ///
    /// # Errors
    /// It belongs to the parent of this process, or is not born yet.
    pub(super) fn born(&self, call: &'static str) -> Result<&Arc<Endpoint>> {
        self.check_own(call)?;
        self.body.get().map(|body| &body.endpoint).ok_or_else(|| self.unusable(call))
    }

    /// Waits until all that was started is done, and gives back what memory a resting communicator can do
    /// without. Until [`Self::resume`] nothing can be started.
    ///
    /// # Errors
    /// What went wrong meanwhile; the communicator is then not suspended.
    pub fn suspend(&self, call: &'static str) -> Result<()> {
        let endpoint = self.usable(call)?;
        if !self.stage.advance(Life::Live, Life::Suspended) {
            return Err(self.unusable(call));
        }
        if let Err(error) = endpoint.drain() {
            self.stage.advance(Life::Suspended, Life::Live);
            return Err(error);
        }
        let mut engine = endpoint.engine();
        engine.rest();
        engine.transport().rest();
        Ok(())
    }

    /// Ends a suspension. Memory comes back as it is used.
    ///
    /// # Errors
    /// It is not suspended.
    pub fn resume(&self, call: &'static str) -> Result<()> {
        let endpoint = self.born(call)?;
        if !self.is_suspended() {
            self.usable(call)?;
            return Err(Error::usage(call, "the communicator is not suspended", "suspend it first"));
        }
        endpoint.engine().transport().near().go_on();
        self.stage.advance(Life::Suspended, Life::Live);
        Ok(())
    }

    /// Whether it is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.stage.get() == Life::Suspended
    }

    /// How much memory the communicator takes in this process: what it shares with its host as measured, what lies
    /// between it and other hosts as allocated.
    ///
    /// # Errors
    /// It belongs to the parent of this process, or is not born yet.
    pub fn taken(&self, call: &'static str) -> Result<Taken> {
        Ok(self.born(call)?.engine().transport().taken())
    }
}
