//! What happened: the log, in words; the recorder, a few numbers for every batch.

pub mod log;
pub mod record;
mod target;
mod words;
