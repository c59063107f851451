//! Shoal: collective communication with NCCL's C ABI, in which small messages travel together.
//!
//! # The map
//! ```text
//! C call -> abi -> comm -> group =Batch=> coalesce + tune -> schedule =Plan=> engine -> transport | device
//! ncclResult_t / async error <- comm <- completions, by poll <- engine <-'
//! ```
//! Down once, up once. What decides is pure; what touches memory or the system is thin.
//!
//! | place | what lives there |
//! |---|---|
//! | [`abi`] | the only place that sees C: checks pointers, catches panics, turns arguments into an [`op::Op`] and an [`error::Error`] into a result number |
//! | [`comm`] | a communicator's life; [`comm::bootstrap`], the exchange between ranks at birth |
//! | [`group`] | collects operations between start and end, hands over one sealed batch; a lone call is a batch of one |
//! | [`coalesce`] | which messages share a frame, and the frame's layout |
//! | [`tune`] | which algorithm, by size |
//! | [`schedule`] | one algorithm per file, each a pure function to steps on byte ranges; `check` proves them |
//! | [`engine`] | runs plans: a state machine, and one thin driver that owns threads and clocks |
//! | [`transport`] | one trait; `shm` and `sim` behind it. Moves bytes between peers |
//! | [`device`] | one trait; `host` behind it: copies and reductions |
//! | [`topology`] | hosts and ranks, as facts |
//! | [`trace`] | what is logged |
//! | [`system`] | the thin unsafe rest: shared maps, locks, futexes, copies between processes |
//! | [`op`], [`error`], [`config`] | shared words |
//! | [`cli`] | the `shoal` command |

pub mod abi;
pub mod cli;
pub mod coalesce;
pub mod comm;
pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod group;
pub mod op;
pub mod schedule;
pub mod system;
pub mod topology;
pub mod trace;
pub mod transport;
pub mod tune;
