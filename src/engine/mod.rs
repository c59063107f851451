//! Runs plans in order.
pub mod stream;
