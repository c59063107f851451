//! What happened: the log, in words; the recorder, a few numbers for every batch; the verdict on a long wait; the
//! trace, which keeps everything in a file, and the report on what traces come to.

pub mod alternation;
pub mod file;
pub mod log;
pub mod record;
pub mod report;
mod target;
pub mod tracer;
pub mod verdict;
mod words;
