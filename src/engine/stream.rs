//! Streams of the host device: work runs in order behind the call.

use crate::error::{Error, Result};

/// The stream of a call: `None` is the NULL stream, whose work is done when the call returns.
pub type StreamRef = Option<std::sync::Arc<Stream>>;

/// Work in order.
#[derive(Debug)]
pub struct Stream {}

/// A new stream, as the number that C programs hold.
#[must_use]
pub fn create() -> usize {
    0
}

/// The stream behind a handle; NULL is `None`.
///
/// # Errors
/// The handle is none of ours (it is not touched to find out).
pub fn resolve(_call: &'static str, _handle: usize) -> Result<StreamRef> {
    Err(Error::Internal("not built yet".into()))
}

/// Waits until all work of the stream is done.
///
/// # Errors
/// What went wrong with it.
pub fn synchronize(_handle: usize) -> Result<()> {
    Err(Error::Internal("not built yet".into()))
}

/// Whether all work of the stream is done.
///
/// # Errors
/// What went wrong with it.
pub fn query(_handle: usize) -> Result<bool> {
    Err(Error::Internal("not built yet".into()))
}

/// Waits for its work, then forgets it.
///
/// # Errors
/// What went wrong with its work.
pub fn destroy(_handle: usize) -> Result<()> {
    Err(Error::Internal("not built yet".into()))
}
