//! Ordinary memory, worked on by the calling thread.
