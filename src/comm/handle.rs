//! Communicators as the numbers that C programs hold. A handle that was never ours, or is no longer, is
//! recognized without touching what it points to.
