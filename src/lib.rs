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
//! | [`coalesce`] | which messages share a frame, the frame's layout, and why frames leave; which collectives run at once |
//! | [`tune`] | which algorithm, by a table that is data ([`tune::table`]); what is worth measuring, and the rows that come of it |
//! | [`schedule`] | one algorithm per file, each a pure function to steps on byte ranges; `check` proves them |
//! | [`simulate`] | thousands of ranks on paper: the same plans over links and cores as discrete events |
//! | [`model`] | what a training job should communicate, by formulas |
//! | [`engine`] | runs plans: a state machine, and one thin driver that owns threads and clocks |
//! | [`transport`] | one trait; `shm`, `ucx` and `sim` behind it, and `Lines`, which is `shm` to ranks of this host and `ucx` to others. Moves bytes between peers |
//! | [`device`] | one trait; `host` behind it: copies and reductions |
//! | [`stock`] | stock NCCL, as yet its version alone |
//! | [`topology`] | hosts and ranks, as facts |
//! | [`trace`] | what happened: the log, a record of every batch, the verdict on a hang; the trace that keeps everything, and the report on it |
//! | [`system`] | the thin unsafe rest: shared maps, locks, futexes, copies between processes |
//! | [`op`], [`error`], [`config`] | shared words |
//! | [`cli`] | the `shoal` command |
//!
//! # How one call runs
//! A C call becomes an [`op::Op`]; [`group`] makes a batch of it and what stands beside it. The engine finds the
//! batch's plan by its shape, or makes it: every collective a plan of its own, in order, but small ones in a row one
//! plan if their buffers do not overlap ([`coalesce::fuse`]); then all point-to-point messages together as one.
//! A plan is lanes of steps, one lane per peer and direction and one for local work; `engine::run` polls the open lanes, `engine::act` does a step. The caller polls until its batch is done (the
//! NULL stream); what a stream leaves unfinished is polled by one thread per process. Between two ranks lies one
//! line of packets per direction. Each packet's head says which call it belongs to, so that ranks which call
//! different things see both calls instead of wrong data. A batch that is done leaves a record (`trace::record`), and
//! the communicator counts (`engine::counts`).
//!
//! Which algorithm a collective gets is a row of a table. At birth rank 0 reads the file of the setting or of the user's
//! cache ([`comm::table`]) and gives what fits these ranks to all; each looks through it and then through the built-in
//! tables, so that all choose alike.
//!
//! One-sided calls go the same way as batches of their own (`engine::one_sided`), without a plan: a put writes the
//! peer's memory (`transport::shm::window`) and counts up a signal in the peer's inbox.
//!
//! # Where unsafe code may stand
//! In `abi`, `system`, `device`, `transport/shm`, `transport/ucx`, `transport/lines.rs` and `transport/sim`, in some files of the command (buffers and
//! functions of the libraries that are measured), and in `engine/act`: the one room of the engine that hands
//! the caller's promise about its buffers on to device and transport. `tests/tidy` holds this list.
//!
//! # Where the first design was changed
//! - Packets of ordinary memory stream through shared memory up to 64 KiB, past the caches where the peer's core is
//!   far (`transport::shm::distance`); above, the kernel copies them once, for both sides at once
//!   (`transport::shm::help`). So a peer writes this rank's memory, by its leave: what the receiver withdraws on
//!   Abort is a page that each such copy has to write first (`system::permit`). What is combined always streams.
//! - A rank in a long wait says in shared memory where it stands ([`transport::Standing`]): ranks that all wait
//!   for each other in different calls exchange no packet by which they would notice. What a rank did last lies there as
//!   well, so that a verdict on who is missing ([`trace::verdict`]) needs no answer from anybody.
//! - A lone small message takes a short way: it is one packet, so its plan would say nothing ([`engine::Pass`]). A lone
//!   collective comes in the same way, and those of its lanes that are one packet are tried before any other. And a
//!   call on the communicator of the call before joins the open group by one look at the thread's own memory
//!   (`system::local`, [`group::join`]); what is unusual about a call sends it the long way, which has the words.
//!   Both do what the long way does, in the same order on the same lines.
//! - What waits for its path joins the next frame where a batch is nothing but small messages to one rank
//!   ([`coalesce::Burst`]): batches that also receive, or send to several, might depend on each other.
//! - Revoke stops what runs on the rank that calls it; peers that wait for that rank get an error, and each of them
//!   revokes as well. A communicator on which the ranks disagreed or one died stays without Split and Grow, revoked
//!   or not. Finalize after Revoke is refused, as NCCL's header says.
//! - Point-to-point messages and collectives of a communicator share one line per ordered pair. A send that was
//!   meant for a receive behind a collective is a disagreement, and is told as one.

/// What a file of this library holds in front of its version, for whoever asks without loading it.
pub const MARK_START: &str = "shoal library version ";

const MARK_TEXT: &str = concat!("shoal library version ", env!("CARGO_PKG_VERSION"), "\0");

/// The mark itself.
#[used]
static MARK: [u8; MARK_TEXT.len()] = *MARK_TEXT.as_bytes().first_chunk().unwrap();

/// The version of this library, read from its mark, so that no linker drops it.
#[must_use]
pub fn version() -> &'static str {
    // What lies in the file counts, not what the compiler knows: a test makes another version by changing it there.
    let mark = std::hint::black_box(&MARK);
    std::str::from_utf8(&mark[MARK_START.len()..mark.len() - 1]).unwrap_or_default()
}

pub mod abi;
pub mod cli;
pub mod coalesce;
pub mod comm;
pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod group;
pub mod model;
pub mod op;
pub mod schedule;
pub mod simulate;
pub mod stock;
pub mod system;
pub mod topology;
pub mod trace;
pub mod transport;
pub mod tune;
