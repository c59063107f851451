//! Lines with hardly any room, whose state can be looked at and compared.
//!
//! A line holds bytes, heads among them, as the library's rings do; room comes back when a packet was read to its end.
//! A bulk packet takes the room of its head, and its sender is done when its receiver is. With delays, packets and
//! room are seen on the other side only once they are delivered, one by one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use shoal::error::Error;
use shoal::op::{Address, Head};
use shoal::transport::{Bulk, Front, Peer, Standing, Transport, Whole};

use super::program::RANKS;

/// The largest packet that is copied at once: two small messages in a frame.
pub const EAGER_BYTES: usize = 64;
/// What a packet takes beside its bytes.
pub const HEAD_BYTES: usize = 16;
const PLACES: usize = (RANKS * RANKS) as usize;

/// What is wrong with the lines on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// A packet leaves only together with the next one to the same rank.
    WaitsForCompany,
}

#[derive(Clone, Debug)]
struct Packet {
    head: Head,
    bytes: usize,
    data: Vec<u8>,
    /// Its number on the line.
    number: u64,
    room: usize,
}

#[derive(Debug, Default)]
struct Line {
    packets: VecDeque<Packet>,
    /// Sent, not yet to be seen.
    under_way: VecDeque<Packet>,
    held_bytes: usize,
    sent_count: u64,
    read_count: u64,
    /// What the receiver has given back and the sender does not see yet: the room of each packet.
    returning: VecDeque<usize>,
}

/// What lines are like.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    pub line_bytes: usize,
    pub delays: bool,
    pub mutant: Mutant,
}

/// All lines between the ranks.
#[derive(Clone, Debug)]
pub struct Lines {
    all: Rc<RefCell<Vec<Line>>>,
    nature: Nature,
}

impl Lines {
    /// What [`Self::deliver`] can be asked for: a packet or room, of every line.
    pub const DELIVERIES: usize = 2 * PLACES;

    pub fn new(nature: Nature) -> Lines {
        let all = (0..PLACES).map(|_| Line::default()).collect();
        Lines { all: Rc::new(RefCell::new(all)), nature }
    }

    pub fn join(&self, rank: u32) -> Model {
        let none = || (0..RANKS).map(|_| None).collect();
        Model {
            lines: self.clone(),
            rank,
            staged: vec![Vec::new(); RANKS as usize],
            leaving: vec![None; RANKS as usize],
            arrived: none(),
        }
    }

    /// Lets one more packet, or the room of one, be seen; `false` if there is none.
    pub fn deliver(&self, which: usize) -> bool {
        let line = &mut self.all.borrow_mut()[which / 2];
        if which.is_multiple_of(2) { line.show_packet() } else { line.show_room() }
    }

    /// Whether everything that was sent was read.
    pub fn are_empty(&self) -> bool {
        self.all.borrow().iter().all(|line| line.sent_count == line.read_count + line.returning.len() as u64)
    }
}

impl Line {
    fn show_packet(&mut self) -> bool {
        let Some(packet) = self.under_way.pop_front() else { return false };
        self.packets.push_back(packet);
        true
    }

    fn show_room(&mut self) -> bool {
        let Some(room) = self.returning.pop_front() else { return false };
        self.held_bytes -= room;
        self.read_count += 1;
        true
    }

    fn send(&mut self, mut packet: Packet, Nature { delays, mutant, .. }: Nature) {
        self.sent_count += 1;
        packet.number = self.sent_count;
        self.held_bytes += packet.room;
        self.under_way.push_back(packet);
        let least = if mutant == Mutant::WaitsForCompany { 2 } else { 1 };
        if !delays && self.under_way.len() >= least {
            while self.show_packet() {}
        }
    }
}

/// One rank's end of all lines.
pub struct Model {
    lines: Lines,
    rank: u32,
    staged: Vec<Vec<u8>>,
    /// The number of the bulk packet that is on its way, by peer.
    leaving: Vec<Option<u64>>,
    /// The front packet and how much of it was read, by peer, once it was looked at.
    arrived: Vec<Option<(Packet, usize)>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.leaving, self.arrived)
    }
}

impl Model {
    fn line<R>(&self, from: u32, to: u32, body: impl FnOnce(&mut Line, Nature) -> R) -> R {
        body(&mut self.lines.all.borrow_mut()[(from * RANKS + to) as usize], self.lines.nature)
    }

    fn look(&mut self, peer: u32) -> Option<&mut (Packet, usize)> {
        let front = self.line(peer, self.rank, |line, _| line.packets.front().cloned());
        let arrived = &mut self.arrived[peer as usize];
        if arrived.is_none() {
            *arrived = front.map(|packet| (packet, 0));
        }
        arrived.as_mut()
    }
}

impl Transport for Model {
    fn eager_bytes(&self, _peer: u32) -> usize {
        EAGER_BYTES
    }

    fn reserve(&mut self, peer: u32, bytes: usize) -> Option<*mut u8> {
        let room = HEAD_BYTES + bytes;
        let fits = self.line(self.rank, peer, |line, nature| line.held_bytes + room <= nature.line_bytes);
        let staged = &mut self.staged[peer as usize];
        *staged = vec![0; bytes];
        fits.then_some(staged.as_mut_ptr())
    }

    fn publish(&mut self, peer: u32, head: Head) {
        let data = std::mem::take(&mut self.staged[peer as usize]);
        let packet = Packet { head, bytes: data.len(), room: HEAD_BYTES + data.len(), data, number: 0 };
        self.line(self.rank, peer, |line, nature| line.send(packet, nature));
    }

    unsafe fn begin_bulk(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        let start = std::ptr::with_exposed_provenance::<u8>(source.0);
        // SAFETY: the caller promises so many readable bytes.
        let data = unsafe { std::slice::from_raw_parts(start, bytes) }.to_vec();
        let packet = Packet { head, bytes, room: HEAD_BYTES, data, number: 0 };
        let number = self.line(self.rank, peer, |line, nature| {
            let fits = line.held_bytes + packet.room <= nature.line_bytes;
            fits.then(|| {
                line.send(packet, nature);
                line.sent_count
            })
        });
        self.leaving[peer as usize] = number;
        number.is_some()
    }

    fn poll_bulk(&mut self, peer: u32) -> Result<Bulk, Error> {
        let Some(number) = self.leaving[peer as usize] else { return Ok(Bulk::Done) };
        if self.line(self.rank, peer, |line, _| line.read_count < number) {
            return Ok(Bulk::Waiting);
        }
        self.leaving[peer as usize] = None;
        Ok(Bulk::Done)
    }

    fn front(&mut self, peer: u32) -> Result<Option<Front>, Error> {
        Ok(self.look(peer).map(|(packet, _)| Front { head: packet.head, bytes: packet.bytes }))
    }

    fn peek_whole(&mut self, peer: u32, head: Head, bytes: usize) -> Whole<'_> {
        match self.look(peer) {
            None => Whole::Absent,
            Some((packet, 0)) if packet.head == head && packet.bytes == bytes => Whole::Here(&packet.data),
            Some(_) => Whole::Unknown,
        }
    }

    fn drop_whole(&mut self, peer: u32, bytes: usize) {
        self.consume(peer, bytes);
        self.finish(peer);
    }

    fn view(&mut self, peer: u32, limit: usize) -> Result<&[u8], Error> {
        let Some((packet, read_bytes)) = self.look(peer) else { return Ok(&[]) };
        let left = &packet.data[*read_bytes..];
        Ok(&left[..limit.min(left.len())])
    }

    unsafe fn read_into(&mut self, peer: u32, target: Address, limit: usize) -> Result<usize, Error> {
        let view = self.view(peer, limit)?;
        let bytes = view.len();
        // SAFETY: the caller promises `limit` writable bytes, of which the view is no longer.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(target.0).copy_from(view.as_ptr(), bytes) };
        self.consume(peer, bytes);
        Ok(bytes)
    }

    fn consume(&mut self, peer: u32, bytes: usize) {
        self.look(peer).expect("what is read has come").1 += bytes;
    }

    fn finish(&mut self, peer: u32) {
        let (packet, read_bytes) = self.arrived[peer as usize].take().expect("what ends has come");
        assert_eq!(read_bytes, packet.bytes, "a packet was ended before it was read");
        self.line(peer, self.rank, |line, nature| {
            line.packets.pop_front();
            line.returning.push_back(packet.room);
            if !nature.delays {
                line.show_room();
            }
        });
    }

    fn peer(&mut self, _peer: u32) -> Peer {
        Peer::Alive
    }

    fn raise(&mut self, _reason: &str) {}

    fn raised(&mut self) -> Option<(u32, String)> {
        None
    }

    fn stand(&mut self, _standing: Standing) {}

    fn standing(&mut self, _peer: u32) -> Option<Standing> {
        None
    }

    fn leave(&mut self, _how: Peer) {}
}
