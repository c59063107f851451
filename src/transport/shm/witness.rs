//! A segment seen from outside: by somebody who is no rank, asks nobody and writes nothing. It shows what ranks said
//! and noted there also when their processes are stopped, or gone while others still hold it.

use std::fs;
use std::sync::atomic::Ordering;

use super::failure;
use super::layout::state;
use super::segment::Segment;
use crate::error::Result;
use crate::system::slots::Slots;
use crate::system::{lock, memfd};
use crate::transport::{Peer, Standing};

/// A segment, seen from outside.
#[derive(Debug)]
pub struct Witness(Segment);

impl Witness {
    /// The segments that a process holds, each once; or why they cannot be seen.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub fn of(number: i32) -> std::io::Result<Vec<Witness>> {
        let mut found: Vec<Witness> = Vec::new();
        for entry in fs::read_dir(format!("/proc/{number}/fd"))?.flatten() {
            let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !memfd::is_named(number, descriptor, Segment::NAME) {
                continue;
            }
            // One that was closed meanwhile is no loss.
            let Ok(file) = memfd::open_of(number, descriptor, false) else { continue };
            let Ok(segment) = Segment::view(file, None, false, false) else { continue };
            if found.iter().all(|known| known.0.id() != segment.id()) {
                found.push(Witness(segment));
            }
        }
        Ok(found)
    }

    /// Which segment, for all who see it.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.0.id()
    }

    /// For how many ranks.
    #[must_use]
    pub const fn ranks(&self) -> u32 {
        self.0.ranks()
    }

    /// Whether a rank takes part; `None` if it never came here: it is on another host, or not born yet.
    #[must_use]
    pub fn peer(&self, rank: u32) -> Option<Peer> {
        Some(match self.0.control(rank).state.load(Ordering::Acquire) {
            state::AWAITED => return None,
            state::ALIVE if lock::holder(self.0.file(), u64::from(rank)).is_none() => Peer::Dead,
            state::ALIVE => Peer::Alive,
            state::CLOSED => Peer::Closed,
            state::REVOKED => Peer::Revoked,
            _ => Peer::Aborted,
        })
    }

    /// The number that the process of a rank has here.
    #[must_use]
    pub fn process(&self, rank: u32) -> Option<i32> {
        lock::holder(self.0.file(), u64::from(rank)).filter(|process| *process > 0)
    }

    /// Where a rank said that it stands.
    #[must_use]
    pub fn standing(&self, rank: u32) -> Option<Standing> {
        self.0.control(rank).standing.read()
    }

    /// What a rank notes.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn records(&self, rank: u32) -> Result<Option<Slots>> {
        self.0.records(rank)
    }

    /// Who failed first, and why.
    #[must_use]
    pub fn raised(&self) -> Option<(u32, String)> {
        failure::raised(&self.0)
    }
}
