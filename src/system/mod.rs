//! The thin unsafe rest.
pub mod baton;
//! The thin unsafe rest: shared maps, locks, futexes, copies between processes.
pub mod arena;
pub mod memory;
