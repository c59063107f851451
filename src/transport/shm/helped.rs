//! The receiver's side of a packet that both sides copy; see [`super::help`].

use std::time::{Duration, Instant};

use super::Here;
use super::doorbell::wake;
use super::help::{self, Cut, Done, Help, Side};
use super::incoming::Incoming;
use super::reading::process_of;
use super::ring::{Broken, RingMemory};
use crate::error::{Error, Result};
use crate::trace::log;

/// A sender that is at it takes microseconds for a chunk. After this long it was stopped, and must not go on.
const WITHDRAW_AFTER: Duration = Duration::from_millis(20);
/// What the kernel had begun before is over after this.
const GIVE_UP_AFTER: Duration = Duration::from_millis(500);

/// The front packet, as both sides copy it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helped {
    /// Where its first byte goes.
    target: usize,
    cut: Cut,
    /// How many chunks this side has claimed, or taken over.
    front: u32,
    /// Where they end.
    claimed_to: usize,
}

impl Incoming {
    /// The next bytes of the front packet, which is attached, with the sender's help; `None` if it is to be
    /// fetched alone.
    ///
    /// # Safety
    /// As of `read_into`.
    pub(super) unsafe fn read_helped(
        &mut self,
        here: &Here,
        peer: u32,
        target: *mut u8,
        limit: usize,
        peer_is_busy: bool,
    ) -> Option<Result<usize>> {
        if self.help.is_none() && !peer_is_busy {
            self.help = self.ask_for_help(here, peer, target, limit);
        }
        let helped = self.help?;
        // SAFETY: the caller's promise.
        Some(unsafe { self.go_on_helped(here, peer, target, limit, helped) })
    }

    /// Opens a packet to the sender that is long enough, and goes whole to one place.
    fn ask_for_help(&self, here: &Here, peer: u32, target: *mut u8, limit: usize) -> Option<Helped> {
        let (ring, bytes) = (self.ring.as_ref()?, self.untouched_bytes()?);
        let cut = Cut::new(bytes);
        if cut.count < 2 || limit < bytes {
            return None;
        }
        let permit = here.permit()?.address();
        let target = target.expose_provenance();
        help::open(ring, self.offers, target as u64, permit);
        wake(here.segment.control(peer));
        Some(Helped { target, cut, front: 0, claimed_to: 0 })
    }

    unsafe fn go_on_helped(
        &mut self,
        here: &Here,
        peer: u32,
        target: *mut u8,
        limit: usize,
        mut helped: Helped,
    ) -> Result<usize> {
        let (at, bytes) = self.position().ok_or_else(no_packet)?;
        if target.addr() != helped.target + at {
            return Err(Error::Internal("a packet that began at one place goes on at another".into()));
        }
        if at == helped.claimed_to {
            if !self.claim_next(here, peer, &mut helped)? {
                here.check_alive(peer)?;
                return Ok(0);
            }
            self.help = Some(helped);
            if at == helped.claimed_to {
                // The sender has copied the rest.
                self.end_help(here, peer);
                self.say_fetched(here, peer);
                return Ok(bytes - at);
            }
        }
        let asked = limit.min(helped.claimed_to - at);
        // SAFETY: the caller's promise, for less.
        match unsafe { self.copy(here, peer, at, target, asked)? } {
            Ok(got) => {
                if at + got == bytes {
                    self.end_help(here, peer);
                    self.say_fetched(here, peer);
                }
                Ok(got)
            }
            Err(reason) => {
                self.end_help(here, peer);
                self.refuse(here, peer, reason);
                Ok(0)
            }
        }
    }

    /// Claims the next chunk for this side, if there is one, or takes the one over that the sender could not copy.
    /// Whether anything is settled: with nothing claimed, that the sender has copied the rest.
    fn claim_next(&mut self, here: &Here, peer: u32, helped: &mut Helped) -> Result<bool> {
        let ring = self.ring.as_ref().ok_or_else(no_packet)?;
        let count = helped.cut.count;
        let claimed = help::claim(ring, self.offers, count, Side::Front);
        let is_ours = match claimed.map_err(|broken| here.broken(peer, broken))? {
            Some(index) if index == helped.front => true,
            Some(_) => {
                return Err(here.broken(peer, Broken("claimed chunks of a packet that are not its own")));
            }
            None => {
                let done = Done::read(ring.help(Help::Done));
                if done.count >= count - helped.front {
                    return Ok(true);
                }
                done.has_failed
            }
        };
        if is_ours {
            helped.claimed_to = helped.cut.chunk(helped.front).end;
            helped.front += 1;
        }
        Ok(is_ours)
    }

    /// Ends the help with the front packet, if there is any: afterwards the sender does not write it.
    pub(super) fn end_help(&mut self, here: &Here, peer: u32) {
        let (Some(_), Some(ring)) = (self.help.take(), &self.ring) else { return };
        let claimed = help::close(ring, self.offers);
        let is_done = || {
            let done = Done::read(ring.help(Help::Done));
            done.has_failed || done.count >= claimed
        };
        let mut since = None;
        while !is_done() {
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            // Who has ended has also ended its system calls.
            if process_of(here, peer).is_none() {
                return;
            }
            if waited > WITHDRAW_AFTER
                && let Some(permit) = here.permit()
            {
                permit.withdraw();
            }
            if waited > GIVE_UP_AFTER {
                log::warn(format_args!(
                    "rank {peer} stands still in the middle of a copy to rank {}; it cannot begin another one",
                    here.rank
                ));
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[cold]
fn no_packet() -> Error {
    Error::Internal("bytes of a packet were asked for where there is none".into())
}
