//! Which messages share a frame, what a frame looks like, and what a packet says of itself.
//!
//! A *packet* is what a transport moves: a head of sixteen bytes and some bytes. Three kinds exist: a packet
//! of a collective, one point-to-point message, and a *frame*: several small messages to the same peer.
//! Framing is the sender's choice alone. The receiver expects messages, in order, and takes each from
//! whatever packet brings it; so a program cannot see how its messages were grouped.
//!
//! ```text
//! frame: | length 0 (u32) | length 1 | ... | length n-1 | bytes of 0 | bytes of 1 | ... |
//! ```
//! The lengths stand together, so that a receiver learns all of them from the first lines that arrive and
//! does not chase them through memory that another core has just written.
//!
//! A receiver that asks for the first message of a frame alone copies the rest out of the line, whose room returns
//! to the sender at once. Else a frame would hold room until its last message is asked for, and a program in which
//! that depends on the sender's going on would finish only without frames.
//!
//! Small collectives of one group need no frames to travel together: their plans become one ([`fuse`]).
#![forbid(unsafe_code)]

mod fused;
pub mod head;
mod held;
mod plan;
mod tally;

pub use fused::{Claims, FUSED_BYTES, FUSED_COUNT, buffer, fuse, may_fuse, owner};
pub use held::Burst;
pub use plan::{Limits, Message, plan};
pub use tally::{Flush, Flushes, Tally};

/// The bytes of one length in a frame.
pub const LENGTH_BYTES: usize = 4;
