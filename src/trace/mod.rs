//! What happened. In this form: the log. (The recorder comes with "Small messages travel together".)

pub mod log;
mod target;
mod words;
