//! Between hosts: UCX, found at run time.
//!
//! **One worker per process** (`net`), with all communicators of the process on it. Whoever waits drives it; while
//! nobody does, a thread of its own sleeps on UCX's descriptor. An endpoint is connected at the first message to a
//! process and then serves all its ranks, until the process is gone. What ranks need to reach one another, an id
//! and UCX's address, travels through the authenticated exchange at their birth.
//!
//! **A line** between two ranks of a communicator is a numbered row of pieces, each one active message with a
//! header of ours (`frame`). A packet of up to [`EAGER_BYTES`] is one piece; a larger one is as many pieces as it
//! takes. Over TCP each travels whole, within a segment, since every announcement costs the way there and back;
//! where a network reads memory by itself they are longer and announced, and UCX moves them by rendezvous into a
//! buffer of the receiver. What is under
//! way and what is not yet read stays within a window (`flow`): a sender without credit waits, the receiver says
//! how much it has read with whatever it sends next, or in a message of its own. So a peer that is flooded holds at
//! most `SHOAL_NETWORK_BYTES` for each line that is used, and nothing for those that are not.
//!
//! **UCX never sees memory of the user** (`worker`, the only file that calls it): pieces are copied to and from
//! buffers of ours, which stay in the cache meanwhile. Hence nobody writes the user's memory once a communicator
//! has ended, a source may be reused as soon as its last piece was taken, and Abort waits for nothing.
//!
//! **Who is there.** A rank that waits for a peer says so, and so the peer knows whom to tell that it leaves or
//! failed. Whether the peer's process lives is asked of the system ([`Pulse`]): a process that was stopped is no
//! dead one, and what UCX notices of a connection counts as well, in its own words. A rank that leaves in good
//! order waits, for a bounded time, until its peers' processes have what it sent.
//!
//! **Trust.** A message that names no communicator of ours, a rank that is none of its ranks on other hosts, a
//! number out of order or more than its credit is refused and counted. UCX's connections themselves are neither
//! encrypted nor authenticated: who can connect to UCX's ports can speak UCX's own protocols to it, and who can
//! listen learns the keys of communicators. Use a network that you trust.
//!
//! | file | what it holds |
//! |---|---|
//! | `frame`, `flow`, `line` | the header; order and credit; what is known of a line. Pure |
//! | `buffer`, `number` | memory for messages; maps by rank |
//! | `worker` | UCX, as an object that cannot be used wrongly |
//! | `net` | the network of this process, and its thread |
//! | here | the lines of one rank, as a [`Transport`] |

mod buffer;
mod flow;
mod frame;
mod line;
mod net;
mod number;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::Buffer;
use frame::Kind;
use line::NO_HEAD;
pub use net::{Devices, Net, end_of_process};
use number::ByNumber;

use super::{Bulk, Front, Head, Peer, Standing, Taken, Transport};
use crate::error::{Error, Result};
use crate::op::Address;
use crate::system::fork;
use crate::trace::log;

/// The largest packet that is copied at once, and the longest piece that travels whole: with its headers it fits
/// into a segment of TCP (`worker::SEGMENTS`).
pub const EAGER_BYTES: usize = 60 << 10;
/// The longest piece that is announced.
pub const PIECE_BYTES: usize = 256 << 10;
/// Pieces end at multiples of this, so that no element is cut.
const PIECE_ALIGNMENT: usize = 64;
/// The smallest window: it takes one piece, and credit is told before it is used up.
pub const WINDOW_BYTES_MIN: usize = 2 * PIECE_BYTES;
/// After how many of the ranks that follow it a rank asks although it does not wait for them.
const LOOKED_AFTER_MAX: u32 = 64;
/// How long a rank that leaves in good order waits until its peers have what it sent.
const ARRIVAL_WAIT: Duration = Duration::from_secs(2);

/// Whether a peer's process lives, as the system knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vital {
    /// As far as is known it does, or it is being asked.
    Alive,
    /// It is gone or out of reach, and how that was seen.
    Gone(String),
}

/// Asks after the processes of peers, without waiting.
pub trait Pulse: Send {
    /// How it stands with the process of `peer`.
    fn ask(&mut self, peer: u32) -> Vital;
}

/// What a rank needs to take its place.
pub struct Place {
    /// A number that the ranks of the communicator share and nobody else knows.
    pub key: u128,
    /// Which rank it is.
    pub rank: u32,
    /// By rank: the cards ([`Net::card`]) of those on other hosts.
    pub cards: Vec<Option<Vec<u8>>>,
    /// How many bytes may be under way and unread on a line.
    pub window_bytes: usize,
    /// Rings at whoever sleeps for this rank.
    pub bell: Box<dyn Fn() + Send>,
    /// Asks after peers.
    pub pulse: Box<dyn Pulse>,
}

/// The packet at the front of a line, as far as it was taken.
struct Current {
    front: Front,
    /// None between two pieces.
    piece: Option<Buffer>,
    /// Of the piece.
    read_bytes: usize,
    /// Of the packet, by the pieces that were taken.
    taken_bytes: usize,
}

/// A packet of ours that has not all left.
struct Leaving {
    source: Address,
    bytes: usize,
    left_bytes: usize,
    /// How long its pieces are.
    piece_bytes: usize,
}

/// How long the pieces of a packet are, so that none is much shorter than the others.
fn piece_bytes(packet_bytes: usize, longest_bytes: usize) -> usize {
    let count = packet_bytes.div_ceil(longest_bytes).max(1);
    let each = packet_bytes.div_ceil(count).next_multiple_of(PIECE_ALIGNMENT);
    each.min(longest_bytes).min(packet_bytes)
}

/// Copies what a buffer has room for.
///
/// # Safety
/// As many bytes are readable at `source`.
unsafe fn fill(buffer: &mut Buffer, source: Address) {
    let data = buffer.data_mut();
    // SAFETY: the caller's promise; no memory of the user overlaps a buffer of ours.
    unsafe {
        data.as_mut_ptr().copy_from_nonoverlapping(std::ptr::with_exposed_provenance(source.0), data.len());
    }
}

/// One rank's lines to its peers on other hosts.
pub struct UcxTransport {
    net: Arc<Net>,
    slot: usize,
    rank: u32,
    key: u128,
    is_far: Box<[bool]>,
    pulse: Box<dyn Pulse>,
    current: ByNumber<u32, Current>,
    staged: ByNumber<u32, Buffer>,
    leaving: ByNumber<u32, Leaving>,
    stood: Option<Standing>,
    generation: u32,
    has_left: bool,
}

impl std::fmt::Debug for UcxTransport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "UcxTransport(rank {} of {})", self.rank, self.is_far.len())
    }
}

impl UcxTransport {
    /// Takes the place of a rank. From here on its peers may send to it.
    ///
    /// # Errors
    /// A peer did not say where it is.
    pub fn new(net: Arc<Net>, place: Place) -> Result<UcxTransport> {
        let Place { key, rank, cards, window_bytes, bell, pulse } = place;
        let window_bytes = window_bytes.max(WINDOW_BYTES_MIN) as u64;
        let slot = net.enter(key, rank, &cards, window_bytes, bell)?;
        Ok(UcxTransport {
            net,
            slot,
            rank,
            key,
            is_far: cards.iter().map(Option::is_some).collect(),
            pulse,
            current: ByNumber::default(),
            staged: ByNumber::default(),
            leaving: ByNumber::default(),
            stood: None,
            generation: fork::generation(),
            has_left: false,
        })
    }

    /// Whether `peer` is on another host.
    #[inline]
    #[must_use]
    pub fn reaches(&self, peer: u32) -> bool {
        self.is_far[peer as usize]
    }

    /// The number that the ranks of the communicator share.
    #[must_use]
    pub fn key(&self) -> u128 {
        self.key
    }

    /// The network of the process.
    #[must_use]
    pub fn net(&self) -> Arc<Net> {
        Arc::clone(&self.net)
    }

    /// How much memory the lines take, with what lies in them. What waits for the next messages belongs to the
    /// process: each rank counts it all. What UCX takes for itself is not known.
    #[must_use]
    pub fn taken(&mut self) -> Taken {
        let pieces = self.current.values().filter_map(|current| current.piece.as_ref());
        let own: usize = pieces.chain(self.staged.values()).map(Buffer::taken_bytes).sum();
        if self.has_left {
            return Taken::default();
        }
        let mut inner = self.net.lock();
        Taken {
            lasting_bytes: (own + inner.taken_bytes(self.slot)) as u64,
            spare_bytes: inner.kept_bytes() as u64,
        }
    }

    /// Gives back what waits for the next messages.
    pub fn rest(&mut self) {
        self.net.lock().give_back();
    }

    /// Whether this rank asks after `peer` although it does not wait for it. Each looks after those that follow it,
    /// so that everybody is looked after and nobody by all.
    fn looks_after(&self, peer: u32) -> bool {
        let ranks = self.is_far.len() as u32;
        (peer + ranks - self.rank) % ranks <= LOOKED_AFTER_MAX
    }

    #[cold]
    fn lost(&self, peer: u32, why: &str) -> Error {
        Error::Remote(format!(
            "rank {peer} is gone, or out of reach from rank {} ({why}); abort the communicator, and look at rank \
             {peer}'s log and at the network between the hosts",
            self.rank
        ))
    }

    /// The next piece from `peer`, if one has come.
    fn next_piece(&mut self, peer: u32) -> Result<Option<(frame::Header, Buffer)>> {
        let mut inner = self.net.lock();
        let rounds = inner.rounds;
        let line = inner.member(self.slot).line(peer);
        if line.into.is_empty() {
            line.is_awaited = true;
            // Whoever looks at many lines makes one round of progress for all of them.
            if line.looked_at == rounds {
                self.net.progress(&mut inner);
            }
            let rounds = inner.rounds;
            inner.member(self.slot).line(peer).looked_at = rounds;
        }
        let line = inner.member(self.slot).line(peer);
        match (line.into.pop(), &line.fault) {
            (Some(piece), _) => Ok(Some(piece)),
            (None, None) => Ok(None),
            (None, Some(why)) => {
                let why = why.clone();
                drop(inner);
                Err(self.lost(peer, &why))
            }
        }
    }

    /// Ends a piece that was read: its credit returns to the peer.
    fn end_piece(&mut self, peer: u32, piece: Buffer) {
        let mut inner = self.net.lock();
        let member = inner.member(self.slot);
        let window_bytes = member.window_bytes;
        if member.line(peer).into.read(piece.bytes(), window_bytes) {
            inner.say(self.slot, peer, Kind::Credit, NO_HEAD, 0);
        }
        inner.recycle(piece);
    }

    /// Takes the next piece of the front packet, if the one before is read and there is one to come. Whether there is
    /// something to read.
    fn turn_over(&mut self, peer: u32) -> Result<bool> {
        let Some(current) = self.current.get(&peer) else { return Ok(false) };
        if current.piece.is_some() {
            return Ok(true);
        }
        let left_bytes = current.front.bytes - current.taken_bytes;
        if left_bytes == 0 {
            return Ok(false);
        }
        let Some((header, piece)) = self.next_piece(peer)? else { return Ok(false) };
        let bytes = piece.bytes();
        if header.kind != Kind::Piece || bytes > left_bytes || bytes == 0 {
            return Err(self.lost(peer, "it sent the pieces of a packet wrongly"));
        }
        let Some(current) = self.current.get_mut(&peer) else { return Ok(false) };
        current.read_bytes = 0;
        current.taken_bytes += bytes;
        current.piece = Some(piece);
        Ok(true)
    }

    /// Sends pieces of the bulk packet to `peer` while there is credit. Whether any left.
    fn send_pieces(&mut self, peer: u32) -> Result<bool> {
        let Some(leaving) = self.leaving.get_mut(&peer) else { return Ok(false) };
        let mut inner = self.net.lock();
        let mut has_moved = false;
        while leaving.left_bytes < leaving.bytes {
            let bytes = (leaving.bytes - leaving.left_bytes).min(leaving.piece_bytes);
            let member = inner.member(self.slot);
            let window_bytes = member.window_bytes;
            let line = member.line(peer);
            if let Some(why) = line.fault.clone() {
                drop(inner);
                return Err(self.lost(peer, &why));
            }
            if !line.out.has_room(bytes, window_bytes) {
                line.is_awaited = true;
                if has_moved {
                    break;
                }
                self.net.progress(&mut inner);
                has_moved = inner.member(self.slot).line(peer).out.has_room(bytes, window_bytes);
                if has_moved {
                    continue;
                }
                break;
            }
            let sequence = line.out.send(bytes);
            let mut buffer = inner.buffer(bytes);
            // SAFETY: `begin_bulk`'s caller promised the source until the packet is done, and the piece lies within
            // it.
            unsafe { fill(&mut buffer, leaving.source.add(leaving.left_bytes)) };
            inner.send(self.slot, peer, (Kind::Piece, sequence), NO_HEAD, 0, buffer);
            leaving.left_bytes += bytes;
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Leaves, once.
    fn go(&mut self, how: Peer) {
        // In a child of the process none of this is its own.
        if self.has_left || self.generation != fork::generation() {
            return;
        }
        self.has_left = true;
        let mut inner = self.net.lock();
        for (_, current) in self.current.drain() {
            current.piece.into_iter().for_each(|piece| inner.recycle(piece));
        }
        for (_, staged) in self.staged.drain() {
            inner.recycle(staged);
        }
        self.leaving.clear();
        inner.say_leave(self.slot, how);
        let began = Instant::now();
        while how == Peer::Closed && !inner.has_arrived(self.slot) {
            if began.elapsed() > ARRIVAL_WAIT {
                log::warn(format_args!(
                    "rank {} left a communicator, and does not know whether all peers have what it sent",
                    self.rank
                ));
                break;
            }
            if !inner.progress() {
                // Others may have to do something before it comes.
                drop(inner);
                std::thread::yield_now();
                inner = self.net.lock();
            }
        }
        inner.remove(self.slot, how);
    }
}

impl Transport for UcxTransport {
    fn eager_bytes(&self, _peer: u32) -> usize {
        EAGER_BYTES
    }

    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8> {
        let mut inner = self.net.lock();
        let window_bytes = inner.member(self.slot).window_bytes;
        if !inner.member(self.slot).line(peer).out.has_room(bytes, window_bytes) {
            self.net.progress(&mut inner);
            let line = inner.member(self.slot).line(peer);
            if !line.out.has_room(bytes, window_bytes) {
                line.is_awaited = true;
                return None;
            }
        }
        if let Some(forgotten) = self.staged.remove(&peer) {
            inner.recycle(forgotten);
        }
        let buffer = inner.buffer(bytes);
        Some(self.staged.entry(peer).or_insert(buffer).data_mut().as_mut_ptr())
    }

    fn publish(&mut self, peer: u32, head: Head) {
        let Some(buffer) = self.staged.remove(&peer) else { return };
        let mut inner = self.net.lock();
        let bytes = buffer.bytes();
        let sequence = inner.member(self.slot).line(peer).out.send(bytes);
        inner.send(self.slot, peer, (Kind::Packet, sequence), head, bytes as u64, buffer);
    }

    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        let mut inner = self.net.lock();
        let member = inner.member(self.slot);
        let window_bytes = member.window_bytes;
        // The first piece announces the others.
        let piece_bytes = piece_bytes(bytes, self.net.piece_bytes());
        if !member.line(peer).out.has_room(piece_bytes, window_bytes) {
            member.line(peer).is_awaited = true;
            self.net.progress(&mut inner);
            return false;
        }
        let sequence = member.line(peer).out.send(piece_bytes);
        let mut buffer = inner.buffer(piece_bytes);
        // SAFETY: the caller promised the source, of which this is the first part.
        unsafe { fill(&mut buffer, source) };
        inner.send(self.slot, peer, (Kind::Packet, sequence), head, bytes as u64, buffer);
        drop(inner);
        self.leaving.insert(peer, Leaving { source, bytes, left_bytes: piece_bytes, piece_bytes });
        true
    }

    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk> {
        let has_moved = self.send_pieces(peer)?;
        let is_done = self.leaving.get(&peer).is_none_or(|leaving| leaving.left_bytes == leaving.bytes);
        if is_done {
            self.leaving.remove(&peer);
            return Ok(Bulk::Done);
        }
        Ok(if has_moved { Bulk::Moving } else { Bulk::Waiting })
    }

    fn front(&mut self, peer: u32) -> Result<Option<Front>> {
        if let Some(current) = self.current.get(&peer) {
            return Ok(Some(current.front));
        }
        let Some((header, piece)) = self.next_piece(peer)? else { return Ok(None) };
        let taken_bytes = piece.bytes();
        let bytes = usize::try_from(header.total).unwrap_or(usize::MAX);
        if header.kind != Kind::Packet || taken_bytes > bytes || (taken_bytes < bytes && bytes <= EAGER_BYTES)
        {
            return Err(self.lost(peer, "it sent something else than a packet"));
        }
        let front = Front { head: header.head, bytes };
        let piece = if taken_bytes == 0 {
            self.end_piece(peer, piece);
            None
        } else {
            Some(piece)
        };
        self.current.insert(peer, Current { front, piece, read_bytes: 0, taken_bytes });
        Ok(Some(front))
    }

    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8]> {
        if !self.turn_over(peer)? {
            return Ok(&[]);
        }
        let Some(current) = self.current.get(&peer) else { return Ok(&[]) };
        let rest = current.piece.as_ref().map_or(&[][..], |piece| &piece.data()[current.read_bytes..]);
        Ok(&rest[..rest.len().min(limit)])
    }

    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize> {
        let view = self.view(peer, limit)?;
        let bytes = view.len();
        // SAFETY: the caller promised `limit` writable bytes, and the view is no longer; it lies in a buffer of ours,
        // which does not overlap the caller's memory.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u8>(target.0).copy_from(view.as_ptr(), bytes);
        }
        self.consume(peer, bytes);
        Ok(bytes)
    }

    fn consume(&mut self, peer: u32, bytes: usize) {
        let Some(current) = self.current.get_mut(&peer) else { return };
        current.read_bytes += bytes;
        // At once, since the peer may have no credit for the next one.
        if let Some(piece) = current.piece.take_if(|piece| current.read_bytes >= piece.bytes()) {
            self.end_piece(peer, piece);
        }
    }

    fn finish(&mut self, peer: u32) {
        if let Some(Current { piece: Some(piece), .. }) = self.current.remove(&peer) {
            self.end_piece(peer, piece);
        }
    }

    fn peer(&mut self, peer: u32) -> Peer {
        if self.has_left {
            return Peer::Alive;
        }
        let mut inner = self.net.lock();
        let Some(line) = inner.member(self.slot).used_line(peer) else { return Peer::Alive };
        if line.fault.is_some() {
            return Peer::Dead;
        }
        let state = line.state();
        let is_awaited = std::mem::take(&mut line.is_awaited);
        if state != Peer::Alive || !(is_awaited || self.looks_after(peer)) {
            return state;
        }
        if is_awaited && !line.is_known {
            inner.say(self.slot, peer, Kind::Watch, NO_HEAD, 0);
        }
        drop(inner);
        match self.pulse.ask(peer) {
            Vital::Alive => Peer::Alive,
            Vital::Gone(how) => {
                let mut inner = self.net.lock();
                let line = inner.member(self.slot).line(peer);
                line.fail(&how);
                // Unless it said meanwhile that it leaves.
                if line.fault.is_some() { Peer::Dead } else { line.state() }
            }
        }
    }

    fn raise(&mut self, reason: &str) {
        if !self.has_left {
            self.net.lock().say_raise(self.slot, reason);
        }
    }

    fn raised(&mut self) -> Option<(u32, String)> {
        if self.has_left {
            return None;
        }
        self.net.lock().member(self.slot).raised.clone()
    }

    fn stand(&mut self, standing: Standing) {
        let stood = self.stood.replace(standing);
        if self.has_left || stood.is_some_and(|stood| stood.is_same_place(&standing)) {
            return;
        }
        let mut inner = self.net.lock();
        for peer in (0..self.is_far.len() as u32).filter(|peer| self.is_far[*peer as usize]) {
            if standing.waits_for & 1_u64.checked_shl(peer).unwrap_or(0) != 0 {
                inner.say(self.slot, peer, Kind::Stand, standing.head, standing.waits_for);
            }
        }
    }

    fn standing(&mut self, peer: u32) -> Option<Standing> {
        if self.has_left {
            return None;
        }
        self.net.lock().member(self.slot).used_line(peer)?.standing()
    }

    fn leave(&mut self, how: Peer) {
        self.go(how);
    }
}

impl Drop for UcxTransport {
    fn drop(&mut self) {
        self.go(Peer::Closed);
    }
}
