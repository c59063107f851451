//! The thin unsafe rest.
pub mod baton;
