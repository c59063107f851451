//! Shared memory of our own making, for ranks on one machine.
