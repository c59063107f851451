//! Collects operations between start and end, and hands over one sealed batch per communicator. A lone call
//! is a batch of one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::comm::Comm;
use crate::engine::stream::StreamRef;
use crate::error::{Error, Result};
use crate::op::Op;

/// Opens a group on this thread; groups nest.
pub fn start() {}

/// Closes the innermost group of this thread; the outermost hands everything over. With the NULL stream it
/// returns when the work is done.
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
pub fn end() -> Result<()> {
    Err(Error::Internal("not built yet".into()))
}

/// Whether a group is open on this thread.
#[must_use]
pub fn is_open() -> bool {
    false
}

/// Adds a checked call to the open group, or runs it as a batch of one.
///
/// # Errors
/// The communicator cannot take it, or what went wrong while it ran.
pub fn submit(_call: &'static str, _comm: &Arc<Comm>, _op: Op, _stream: StreamRef) -> Result<()> {
    Err(Error::Internal("not built yet".into()))
}

/// Remembers that a call of the open group was invalid, so that its end starts nothing.
pub fn poison(_error: &Error) {}

/// Runs `birth` now, or at the end of the open group, beside the other births of the group (each on a thread
/// of its own, since they wait for one another). `birth` writes the new handle itself.
///
/// # Errors
/// What `birth` reports, if it ran now.
pub fn birth(_birth: Box<dyn FnOnce() -> Result<()> + Send>) -> Result<()> {
    Err(Error::Internal("not built yet".into()))
}
