//! Memory of one rank that its peers write: windows, and the ways to reach them.
//!
//! The owner *opens* a window in its inbox and tells the others its [`Facts`]. Who wants to write finds a
//! [`Reach`], the first way that works:
//!
//! 1. *direct*: both are threads of one process (where the memory lies is taken from the process's own list,
//!    not from facts that others could have written);
//! 2. *mapped*: memory of `ncclMemAlloc`, mapped here as well;
//! 3. *remote*: any memory, written by the kernel through the owner's `/proc/PID/mem`.
//!
//! Each slice is written behind the gate (see [`super::inbox`]).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::inbox::{Inbox, WINDOWS};
use super::layout::state;
use super::local::LocalRank;
use super::reading::process_of;
use super::{Here, ShmTransport, doorbell};
use crate::error::{Error, Result};
use crate::op::Address;
use crate::system::attach::Memory;
use crate::system::memory::{self, Hold, Seen};
use crate::system::random;
use crate::trace::log;
use crate::transport::{Peer, Transport};

/// The most that is written behind the gate at once: the owner waits for no more.
const SLICE_BYTES: usize = 256 << 10;
/// How long an owner waits for a gate of a process that lives and was stopped in the middle of a slice.
const GATE_WAIT: Duration = Duration::from_millis(500);

/// What peers need to reach a window; all zeros is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    stamp: u64,
    place: u64,
    bytes: u64,
    address: u64,
    allocation: u64,
    descriptor: u64,
    offset: u64,
}

impl Facts {
    /// How long they are on the way.
    pub const BYTES: usize = 56;

    /// For the way.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Facts::BYTES] {
        let words =
            [self.stamp, self.place, self.bytes, self.address, self.allocation, self.descriptor, self.offset];
        let mut bytes = [0; Facts::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From the way.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Facts::BYTES]) -> Facts {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at * 8 + index]));
        Facts {
            stamp: word(0),
            place: word(1),
            bytes: word(2),
            address: word(3),
            allocation: word(4),
            descriptor: word(5),
            offset: word(6),
        }
    }

    /// How long the window is.
    #[must_use]
    pub fn window_bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }
}

/// A window of this rank, open until [`ShmTransport::close_window`].
#[derive(Debug)]
pub struct Opened {
    /// What peers are told.
    pub facts: Facts,
    /// Memory of `ncclMemAlloc` stays in place, though it be freed.
    _hold: Option<Hold>,
}

/// A way to a peer's window.
#[derive(Debug)]
pub struct Reach {
    way: Way,
    place: u32,
    stamp: u64,
    bytes: usize,
}

#[derive(Debug)]
enum Way {
    Direct { address: usize },
    Mapped { seen: Seen, offset: usize },
    Remote { memory: Memory, address: usize },
}

// SAFETY: what it points to is a mapping that it owns, or memory of the process that belongs to no thread and is
// written only behind the gate.
unsafe impl Send for Reach {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Reach {}

impl Reach {
    /// How long the window is.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// # Safety
    /// The window is open and stays so; `source` is readable for `bytes`; `offset + bytes` lies within.
    unsafe fn write(&self, offset: usize, source: *const u8, bytes: usize) -> std::io::Result<()> {
        let target = match &self.way {
            Way::Direct { address } => std::ptr::with_exposed_provenance_mut::<u8>(address + offset),
            Way::Mapped { seen, offset: start } => match seen.at(start + offset, bytes) {
                Some(target) => target.cast_mut(),
                None => return Err(std::io::Error::from_raw_os_error(libc::EFAULT)),
            },
            Way::Remote { memory, address } => {
                // SAFETY: the caller's promise.
                return unsafe { memory.write(address + offset, source, bytes) };
            }
        };
        // SAFETY: the source is the caller's promise. The target lies in a mapping that was made for writing,
        // or in memory that its owner, a thread of this process, keeps writable while the window is open.
        // `copy`, since a rank may put into its own source.
        unsafe { std::ptr::copy(source, target, bytes) };
        Ok(())
    }
}

impl ShmTransport {
    /// The inbox of a rank, which stays mapped from its first use on.
    fn inbox(&mut self, rank: u32) -> Result<Arc<Inbox>> {
        if let Some(inbox) = self.inboxes.get(&rank) {
            return Ok(Arc::clone(inbox));
        }
        let inbox = Arc::new(self.here.segment.inbox(rank)?);
        self.inboxes.insert(rank, Arc::clone(&inbox));
        Ok(inbox)
    }

    /// Opens a window.
    ///
    /// # Errors
    /// Too many are open, or the inbox could not be mapped.
    pub fn open_window(&mut self, address: Address, bytes: usize) -> Result<Opened> {
        let inbox = self.inbox(self.here.rank)?;
        let is_free = |place: &u32| inbox.window(*place).load(Ordering::Relaxed) == 0;
        let Some(place) = (0..WINDOWS).find(is_free) else {
            return Err(Error::usage(
                "ncclCommWindowRegister",
                format_args!("{WINDOWS} windows of this communicator are open"),
                "deregister some with ncclCommWindowDeregister",
            ));
        };
        let (facts, hold) = memory::hold(address, bytes).unzip();
        let stamp = random::word().max(1);
        self.here.local.add_window(stamp, address.0);
        // Publishes the window to peers of this process; others are told by the caller.
        inbox.window(place).store(stamp, Ordering::SeqCst);
        let facts = Facts {
            stamp,
            place: u64::from(place),
            bytes: bytes as u64,
            address: address.0 as u64,
            allocation: facts.map_or(0, |facts| facts.id),
            descriptor: facts.map_or(0, |facts| u64::from(facts.descriptor.unsigned_abs())),
            offset: facts.map_or(0, |facts| facts.offset as u64),
        };
        self.own_windows.insert(stamp, place);
        Ok(Opened { facts, _hold: hold })
    }

    /// Closes a window of this rank. Afterwards nobody writes it.
    pub fn close_window(&mut self, opened: &Opened) {
        if self.own_windows.remove(&opened.facts.stamp).is_some() {
            self.shut(&[opened.facts.place as u32]);
            self.here.local.remove_window(opened.facts.stamp);
        }
    }

    /// Closes all windows of this rank.
    pub(super) fn close_windows(&mut self) {
        let places: Vec<u32> = self.own_windows.drain().map(|(_, place)| place).collect();
        if !places.is_empty() {
            self.shut(&places);
        }
    }

    fn shut(&mut self, places: &[u32]) {
        // It is mapped while a window is open; without address space for it nobody else has it for long.
        let Ok(inbox) = self.inbox(self.here.rank) else { return };
        for place in places {
            inbox.window(*place).store(0, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        let deadline = Instant::now() + GATE_WAIT;
        let (rank, ranks) = (self.here.rank, self.here.segment.ranks());
        for source in (0..ranks).filter(|source| *source != rank) {
            while inbox.gate(source).load(Ordering::SeqCst) != 0 {
                if self.peer(source) == Peer::Dead {
                    break;
                }
                if Instant::now() > deadline {
                    log::warn(format_args!(
                        "rank {source} stands still in the middle of a write to a window of rank {}; it may \
                         finish that write when it goes on",
                        rank
                    ));
                    break;
                }
                std::thread::yield_now();
            }
        }
    }

    /// Finds a way to the window of `peer` that `facts` tell of.
    ///
    /// # Errors
    /// There is none; why, and what to do.
    pub fn reach(&mut self, call: &'static str, peer: u32, facts: &Facts) -> Result<Reach> {
        let here = &self.here;
        let bytes = facts.window_bytes();
        let way = find_way(here, peer, facts).map_err(|reason| {
            Error::usage(
                call,
                format_args!("rank {} cannot write the window of rank {peer}: {reason}", here.rank),
                "register memory of ncclMemAlloc, and run both ranks as one user in one process namespace; or \
                 use ncclSend and ncclRecv",
            )
        })?;
        let place = u32::try_from(facts.place).unwrap_or(u32::MAX);
        Ok(Reach { way, place, stamp: facts.stamp, bytes })
    }

    /// See [`Transport::put`].
    pub(super) unsafe fn put_slice(
        &mut self,
        peer: u32,
        reach: &Reach,
        offset: usize,
        source: Address,
        bytes: usize,
    ) -> Result<usize> {
        let slice_bytes = bytes.min(SLICE_BYTES);
        if offset.checked_add(slice_bytes).is_none_or(|end| end > reach.bytes) {
            return Err(Error::Internal(format!("a put beyond the end of the window of rank {peer}")));
        }
        let inbox = self.inbox(peer)?;
        let here = &self.here;
        let (gate, window) = (inbox.gate(here.rank), inbox.window(reach.place));
        gate.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let is_open = here.segment.control(peer).state.load(Ordering::SeqCst) == state::ALIVE
            && window.load(Ordering::SeqCst) == reach.stamp;
        let written = match is_open {
            // SAFETY: the window was seen open after the gate was taken, so its owner waits for the gate before
            // it takes the memory away. The rest is the caller's promise, and checked above.
            true => Some(unsafe { reach.write(offset, source.0 as *const u8, slice_bytes) }),
            false => None,
        };
        // Release: all writes lie before.
        gate.store(0, Ordering::Release);
        match written {
            Some(Ok(())) => Ok(slice_bytes),
            Some(Err(cause)) => Err(Error::Remote(format!(
                "writing the window of rank {peer} failed ({cause}); see whether its process has ended"
            ))),
            None => Err(Error::Remote(format!(
                "rank {peer} has closed the window that rank {} puts into; let every rank wait for the last \
                 signals before it deregisters",
                here.rank
            ))),
        }
    }

    /// See [`Transport::signal`].
    pub(super) fn give_signal(&mut self, peer: u32, index: u32) -> Result<()> {
        let inbox = self.inbox(peer)?;
        // Release: what was put before is seen by who sees the signal.
        inbox.signal(self.here.rank, index).fetch_add(1, Ordering::Release);
        doorbell::wake(self.here.segment.control(peer));
        Ok(())
    }

    /// See [`Transport::signals`].
    pub(super) fn count_signals(&mut self, peer: u32, index: u32) -> Result<u64> {
        let inbox = self.inbox(self.here.rank)?;
        Ok(inbox.signal(peer, index).load(Ordering::Acquire))
    }
}

fn find_way(here: &Here, peer: u32, facts: &Facts) -> std::result::Result<Way, String> {
    let bytes = facts.window_bytes();
    if let Some(owner) = owner(here, peer) {
        let address = owner.window(facts.stamp).ok_or("it was closed")?;
        return Ok(Way::Direct { address });
    }
    let pid = process_of(here, peer).ok_or("its process is gone, or in another process namespace")?;
    if here.settings.mapped
        && facts.allocation != 0
        && let Ok(offset) = usize::try_from(facts.offset)
        && let Ok(descriptor) = i32::try_from(facts.descriptor)
        && let Some(seen) = Seen::map_writable(pid, descriptor, facts.allocation)
        && seen.at(offset, bytes).is_some()
    {
        return Ok(Way::Mapped { seen, offset });
    }
    if !here.settings.attach {
        return Err("its memory is not mapped here, and SHOAL_CMA=0 forbids other ways".into());
    }
    let control = here.segment.control(peer);
    let proof = control.proof.load(Ordering::Relaxed);
    let address = usize::try_from(facts.address).map_err(|_| "it lies nowhere")?;
    address.checked_add(bytes).ok_or("it lies nowhere")?;
    match Memory::open(pid, control.proof_address.load(Ordering::Relaxed), proof) {
        Ok(memory) => Ok(Way::Remote { memory, address }),
        Err(cause) => Err(format!("opening its memory failed ({cause})")),
    }
}

/// The rank as a thread of this process, if it is one; this rank itself is.
fn owner(here: &Here, peer: u32) -> Option<Arc<LocalRank>> {
    if peer == here.rank { Some(Arc::clone(&here.local)) } else { here.find_local(peer) }
}
