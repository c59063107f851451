//! What happened: the log, in words; the recorder, a few numbers for every batch; the verdict on a long wait.

pub mod log;
pub mod record;
mod target;
pub mod verdict;
mod words;
