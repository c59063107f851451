//! A network that exists in one thread's mind: virtual time, seeded delays, chosen faults.
//!
//! All ranks of a simulation share one [`Network`] and are polled by one thread, which also moves the clock
//! ([`Network::advance`]). Everything that varies comes from one seeded generator, so a seed replays exactly.
//!
//! What it varies: how long each packet takes; how many bytes a line holds; whether a bulk packet streams
//! through its line (the sender is done when the last piece is in it) or is fetched (the sender is done when
//! the receiver has all of it); in what pieces it comes. What it promises is what [`super::Transport`]
//! promises, no more: so what works here for many seeds does not lean on the kindness of one transport.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::{Bulk, Front, Head, Peer, Standing, Transport};
use crate::error::Error;
use crate::op::Address;
use crate::system::slots::Slots;

/// How many records of each rank are kept.
const RECORDS: usize = 16;

/// What a simulated network is like.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The longest time a packet takes.
    pub delay_ns: u64,
    /// The largest eager packet.
    pub eager_bytes: usize,
    /// What a line holds before its sender must wait; at least one eager packet.
    pub line_bytes: usize,
    /// The largest piece of a bulk packet.
    pub piece_bytes: usize,
}

/// A small generator of numbers that look random (xorshift, by Marsaglia's recipe).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

struct Packet {
    head: Head,
    bytes: usize,
    arrives_ns: u64,
    /// What has left the sender.
    data: Vec<u8>,
    is_fetched: bool,
    /// The receiver has seen it: a fetched packet's bytes may move.
    is_seen: bool,
}

#[derive(Default)]
struct Line {
    packets: VecDeque<Packet>,
    held_bytes: usize,
    last_arrival_ns: u64,
    /// Fetched packets of which the receiver has everything.
    fetched_count: u64,
}

struct Inner {
    now_ns: u64,
    weather: Weather,
    dice: Dice,
    lines: HashMap<(u32, u32), Line>,
    states: Vec<Peer>,
    standings: HashMap<u32, Standing>,
    records: HashMap<u32, Slots>,
    raised: Option<(u32, String)>,
    packet_count: u64,
}

/// What the ranks of a simulation share.
#[derive(Clone)]
pub struct Network(Rc<RefCell<Inner>>);

impl Network {
    /// A network of `ranks`, all alive, at time 0.
    #[must_use]
    pub fn new(ranks: u32, weather: Weather, seed: u64) -> Network {
        Network(Rc::new(RefCell::new(Inner {
            now_ns: 0,
            weather,
            dice: Dice::new(seed),
            lines: HashMap::new(),
            states: vec![Peer::Alive; ranks as usize],
            standings: HashMap::new(),
            records: HashMap::new(),
            raised: None,
            packet_count: 0,
        })))
    }

    /// The lines of one rank.
    #[must_use]
    pub fn join(&self, rank: u32) -> SimTransport {
        SimTransport {
            network: self.clone(),
            rank,
            staged: HashMap::new(),
            leaving: HashMap::new(),
            arrived: HashMap::new(),
        }
    }

    /// The time.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }

    /// How many packets were sent.
    #[must_use]
    pub fn packet_count(&self) -> u64 {
        self.0.borrow().packet_count
    }

    /// Moves the clock to the next arrival; `false` if nothing is under way.
    pub fn advance(&self) -> bool {
        let mut inner = self.0.borrow_mut();
        let now_ns = inner.now_ns;
        let arrivals = inner.lines.values().flat_map(|line| &line.packets).map(|packet| packet.arrives_ns);
        let Some(next_ns) = arrivals.filter(|at| *at > now_ns).min() else { return false };
        inner.now_ns = next_ns;
        true
    }

    /// Ends a rank's process.
    pub fn kill(&self, rank: u32) {
        self.0.borrow_mut().states[rank as usize] = Peer::Dead;
    }
}

impl Inner {
    fn line(&mut self, from: u32, to: u32) -> &mut Line {
        self.lines.entry((from, to)).or_default()
    }

    fn is_under_way(&self, from: u32, to: u32) -> bool {
        let line = self.lines.get(&(from, to));
        line.is_some_and(|line| line.packets.iter().any(|packet| packet.arrives_ns > self.now_ns))
    }

    fn send(&mut self, from: u32, to: u32, mut packet: Packet) {
        let delay_ns = self.dice.below(self.weather.delay_ns + 1);
        let earliest_ns = self.now_ns + delay_ns;
        self.packet_count += 1;
        let line = self.line(from, to);
        packet.arrives_ns = earliest_ns.max(line.last_arrival_ns);
        line.last_arrival_ns = packet.arrives_ns;
        line.held_bytes += packet.data.len();
        line.packets.push_back(packet);
    }
}

/// A bulk packet of ours that has not all left.
struct Leaving {
    source: Address,
    bytes: usize,
    left_bytes: usize,
    is_fetched: bool,
    /// The line's `fetched_count` at which it is done.
    fetched_at: u64,
}

/// The packet at the front, as far as it has been taken from the line.
struct Arrived {
    front: Front,
    data: Vec<u8>,
    read_bytes: usize,
    is_fetched: bool,
}

/// One rank's lines in a [`Network`].
pub struct SimTransport {
    network: Network,
    rank: u32,
    staged: HashMap<u32, Vec<u8>>,
    leaving: HashMap<u32, Leaving>,
    arrived: HashMap<u32, Arrived>,
}

impl SimTransport {
    /// Takes over what has arrived of the front packet.
    fn look(&mut self, peer: u32) -> Option<&mut Arrived> {
        let mut inner = self.network.0.borrow_mut();
        let now_ns = inner.now_ns;
        let line = inner.lines.get_mut(&(peer, self.rank))?;
        let packet = line.packets.front_mut().filter(|packet| packet.arrives_ns <= now_ns)?;
        packet.is_seen = true;
        let arrived = self.arrived.entry(peer).or_insert_with(|| Arrived {
            front: Front { head: packet.head, bytes: packet.bytes },
            data: Vec::new(),
            read_bytes: 0,
            is_fetched: packet.is_fetched,
        });
        let piece = std::mem::take(&mut packet.data);
        line.held_bytes -= piece.len();
        arrived.data.extend(piece);
        Some(arrived)
    }
}

impl Transport for SimTransport {
    fn eager_bytes(&self, _peer: u32) -> usize {
        self.network.0.borrow().weather.eager_bytes
    }

    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8> {
        let mut inner = self.network.0.borrow_mut();
        let room = inner.weather.line_bytes;
        let held_bytes = inner.line(self.rank, peer).held_bytes;
        if held_bytes > 0 && held_bytes + bytes > room {
            return None;
        }
        let staged = self.staged.entry(peer).or_default();
        staged.clear();
        staged.resize(bytes, 0);
        Some(staged.as_mut_ptr())
    }

    fn publish(&mut self, peer: u32, head: Head) {
        let data = self.staged.remove(&peer).unwrap_or_default();
        let bytes = data.len();
        let packet = Packet { head, bytes, arrives_ns: 0, data, is_fetched: false, is_seen: false };
        self.network.0.borrow_mut().send(self.rank, peer, packet);
    }

    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        let mut inner = self.network.0.borrow_mut();
        let is_fetched = inner.dice.below(2) == 0;
        let line = inner.line(self.rank, peer);
        let waiting = line.packets.iter().filter(|packet| packet.is_fetched).count() as u64;
        let fetched_at = line.fetched_count + waiting + 1;
        let packet = Packet { head, bytes, arrives_ns: 0, data: Vec::new(), is_fetched, is_seen: false };
        inner.send(self.rank, peer, packet);
        self.leaving.insert(peer, Leaving { source, bytes, left_bytes: 0, is_fetched, fetched_at });
        true
    }

    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk, Error> {
        let Some(leaving) = self.leaving.get_mut(&peer) else { return Ok(Bulk::Done) };
        let mut inner = self.network.0.borrow_mut();
        let piece_bytes = inner.weather.piece_bytes as u64;
        let wanted_bytes = (inner.dice.below(piece_bytes / 8 + 1) as usize * 8).max(8);
        let line_bytes = inner.weather.line_bytes;
        let line = inner.line(self.rank, peer);
        if leaving.left_bytes == leaving.bytes {
            let is_done = !leaving.is_fetched || line.fetched_count >= leaving.fetched_at;
            if is_done {
                self.leaving.remove(&peer);
            }
            return Ok(if is_done { Bulk::Done } else { Bulk::Waiting });
        }
        let room = line_bytes.saturating_sub(line.held_bytes) & !7;
        let piece_bytes = wanted_bytes.min(room).min(leaving.bytes - leaving.left_bytes);
        let Some(packet) = line.packets.back_mut() else {
            return Err(Error::Internal("a bulk packet vanished from its line".into()));
        };
        if piece_bytes == 0 || (packet.is_fetched && !packet.is_seen) {
            return Ok(Bulk::Waiting);
        }
        let start = leaving.source.add(leaving.left_bytes).0;
        // SAFETY: `begin_bulk`'s caller promised the source until this returns `Done`, and the piece lies
        // within it.
        let piece = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(start), piece_bytes)
        };
        packet.data.extend_from_slice(piece);
        line.held_bytes += piece_bytes;
        leaving.left_bytes += piece_bytes;
        Ok(Bulk::Moving)
    }

    fn front(&mut self, peer: u32) -> Result<Option<Front>, Error> {
        Ok(self.look(peer).map(|arrived| arrived.front))
    }

    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8], Error> {
        let Some(arrived) = self.look(peer) else { return Ok(&[]) };
        let end = arrived.data.len().min(arrived.read_bytes + limit);
        Ok(&arrived.data[arrived.read_bytes..end])
    }

    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize, Error> {
        let view = self.view(peer, limit)?;
        let bytes = view.len();
        // SAFETY: the caller promised `limit` writable bytes, and the view is no longer; the simulation's
        // own memory does not overlap the caller's.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u8>(target.0).copy_from(view.as_ptr(), bytes);
        }
        self.consume(peer, bytes);
        Ok(bytes)
    }

    fn consume(&mut self, peer: u32, bytes: usize) {
        if let Some(arrived) = self.arrived.get_mut(&peer) {
            arrived.read_bytes += bytes;
        }
    }

    fn finish(&mut self, peer: u32) {
        let mut inner = self.network.0.borrow_mut();
        let line = inner.line(peer, self.rank);
        line.packets.pop_front();
        if let Some(arrived) = self.arrived.remove(&peer) {
            assert_eq!(arrived.read_bytes, arrived.front.bytes, "a packet was ended before it was read");
            line.fetched_count += u64::from(arrived.is_fetched);
        }
    }

    fn peer(&mut self, peer: u32) -> Peer {
        let inner = self.network.0.borrow();
        let state = inner.states[peer as usize];
        // That it left arrives behind what it sent.
        if state == Peer::Closed && inner.is_under_way(peer, self.rank) { Peer::Alive } else { state }
    }

    fn raise(&mut self, reason: &str) {
        let mut inner = self.network.0.borrow_mut();
        if inner.states[self.rank as usize] == Peer::Alive {
            inner.states[self.rank as usize] = Peer::Aborted;
        }
        inner.raised.get_or_insert_with(|| (self.rank, reason.to_owned()));
    }

    fn raised(&mut self) -> Option<(u32, String)> {
        self.network.0.borrow().raised.clone()
    }

    fn stand(&mut self, standing: Standing) {
        self.network.0.borrow_mut().standings.insert(self.rank, standing);
    }

    fn standing(&mut self, peer: u32) -> Option<Standing> {
        let inner = self.network.0.borrow();
        // What it says arrives behind what it sent.
        if inner.is_under_way(peer, self.rank) { None } else { inner.standings.get(&peer).copied() }
    }

    fn records(&mut self, rank: u32) -> Option<Slots> {
        let mut inner = self.network.0.borrow_mut();
        if let Some(known) = inner.records.get(&rank) {
            return Some(known.clone());
        }
        let made = Slots::new(RECORDS).ok()?;
        inner.records.insert(rank, made.clone());
        Some(made)
    }

    fn leave(&mut self, how: Peer) {
        self.network.0.borrow_mut().states[self.rank as usize] = how;
    }
}
