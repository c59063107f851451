//! What every transport has to do, as one suite. An implementation's tests make its ends and call [`run`] on
//! [`scripts`], with threads or without.
//!
//! Each rank sends every peer the packets of a [`Script`], and takes what comes in pieces of changing size by
//! changing means, all peers interleaved. What is sent is a function of (sender, receiver, packet, offset), so
//! each byte is known on arrival. The source of a bulk packet is overwritten once the transport says that it
//! is done with it.

use std::time::{Duration, Instant};

use super::{Bulk, Head, Transport};
use crate::op::Address;

/// How long a run may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the process if a test takes longer than [`PATIENCE`] twice: for hangs inside a call.
pub(crate) struct Watchdog(#[allow(dead_code)] std::sync::mpsc::Sender<()>);

impl Watchdog {
    /// Watches until it is dropped.
    pub(crate) fn start() -> Watchdog {
        let (alive, watched) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if watched.recv_timeout(2 * PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a test hung");
                std::process::abort();
            }
        });
        Watchdog(alive)
    }
}

/// What each rank sends to each peer, and how it is read.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The packets' lengths, in elements.
    pub(crate) counts: Vec<usize>,
    /// Bytes of an element; whatever a view gives is a whole number of them.
    pub(crate) element_bytes: usize,
    /// Decides piece sizes, means and pauses.
    pub(crate) seed: u64,
    /// Whether ranks send to themselves as well.
    pub(crate) to_self: bool,
}

/// Scripts for a transport whose packets are bulk above `eager_bytes`.
pub(crate) fn scripts(eager_bytes: usize) -> Vec<Script> {
    let script =
        |counts: Vec<usize>, element_bytes, seed| Script { counts, element_bytes, seed, to_self: false };
    let edges = [0, 1, 7, 8, 39, 40, 41, 63, 64, 65, 127, 1000];
    let around = [eager_bytes - 1, eager_bytes, eager_bytes + 1, 2 * eager_bytes + 13, 0, 5];
    vec![
        script(edges.to_vec(), 1, 1),
        script((0..400).map(|index| index % 90).collect(), 1, 2),
        script((0..200).map(|index| index * 131 % (eager_bytes / 4)).collect(), 4, 3),
        script(around.to_vec(), 1, 4),
        script(vec![eager_bytes; 40], 1, 5),
        script(vec![3, 100_000, 1, 300_000, 0, 70_001, 2], 2, 6),
        script(vec![400_003, 1, 131_072], 8, 7),
        Script { to_self: true, ..script(vec![1, 50, eager_bytes, eager_bytes + 1], 1, 8) },
    ]
}

/// Memory for what is sent; some transports treat some memory differently.
pub(crate) trait Source {
    /// Where it starts.
    fn start(&mut self) -> *mut u8;
}

impl Source for Vec<u8> {
    fn start(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}

/// Makes memory of at least so many bytes.
pub(crate) type MakeSource = fn(usize) -> Box<dyn Source>;

/// The usual memory.
pub(crate) fn ordinary(bytes: usize) -> Box<dyn Source> {
    Box::new(vec![0_u8; bytes])
}

fn byte(source: u32, target: u32, packet: usize, offset: usize) -> u8 {
    let mix = (offset as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (u64::from(source) << 40 | u64::from(target) << 20 | packet as u64)
            .wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mix >> 56) as u8
}

/// A small generator.
fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

#[derive(Default)]
struct ToPeer {
    sent: usize,
    bulk: Option<Box<dyn Source>>,
}

#[derive(Default)]
struct FromPeer {
    received: usize,
    read: usize,
    /// Where all of the front packet goes; see [`Transport::read_into`].
    whole: Option<Vec<u8>>,
}

/// One rank that plays a script.
pub(crate) struct Player<T: Transport> {
    /// Its end.
    pub(crate) transport: T,
    rank: u32,
    script: Script,
    seed: u64,
    to: Vec<ToPeer>,
    from: Vec<FromPeer>,
    make: MakeSource,
    buffer: Vec<u8>,
    /// Whether contents are compared (not where they are being destroyed on purpose).
    pub(crate) compares: bool,
}

impl<T: Transport> Player<T> {
    pub(crate) fn new(transport: T, rank: u32, ranks: u32, script: &Script, make: MakeSource) -> Player<T> {
        Player {
            transport,
            rank,
            script: script.clone(),
            seed: script.seed.wrapping_add(u64::from(rank) << 32),
            to: (0..ranks).map(|_| ToPeer::default()).collect(),
            from: (0..ranks).map(|_| FromPeer::default()).collect(),
            make,
            buffer: Vec::new(),
            compares: true,
        }
    }

    fn skips(&self, peer: u32) -> bool {
        peer == self.rank && !self.script.to_self
    }

    /// Whether everything is sent and received.
    pub(crate) fn is_done(&self) -> bool {
        (0..self.to.len()).all(|peer| {
            let (to, from) = (&self.to[peer], &self.from[peer]);
            let all = self.script.counts.len();
            self.skips(peer as u32) || (to.sent == all && to.bulk.is_none() && from.received == all)
        })
    }

    /// One round over all peers. Whether anything moved.
    pub(crate) fn poll(&mut self) -> Result<bool, crate::error::Error> {
        let mut moved = false;
        for peer in 0..self.to.len() as u32 {
            if self.skips(peer) {
                continue;
            }
            // Now and then a peer is left alone, so that lines fill up.
            if !next(&mut self.seed).is_multiple_of(8) {
                moved |= self.send(peer)?;
            }
            if !next(&mut self.seed).is_multiple_of(4) {
                moved |= self.receive(peer)?;
            }
        }
        Ok(moved)
    }

    fn send(&mut self, peer: u32) -> Result<bool, crate::error::Error> {
        let to = &mut self.to[peer as usize];
        if let Some(source) = &mut to.bulk {
            let state = self.transport.poll_bulk(peer)?;
            if state == Bulk::Done {
                let bytes = self.script.counts[to.sent - 1] * self.script.element_bytes;
                // SAFETY: the source was made with this length.
                unsafe { source.start().write_bytes(0xee, bytes) };
                to.bulk = None;
            }
            return Ok(state != Bulk::Waiting);
        }
        let Some(count) = self.script.counts.get(to.sent) else { return Ok(false) };
        let bytes = count * self.script.element_bytes;
        let head = Head { what: to.sent as u64, which: !(to.sent as u64) };
        let fill = |start: *mut u8| {
            for offset in 0..bytes {
                // SAFETY: `start` has `bytes` bytes: it was reserved or made with that length.
                unsafe { start.add(offset).write(byte(self.rank, peer, to.sent, offset)) };
            }
        };
        if bytes <= self.transport.eager_bytes(peer) {
            let Some(start) = self.transport.reserve(peer, bytes) else { return Ok(false) };
            fill(start);
            self.transport.publish(peer, head);
        } else {
            let mut source = (self.make)(bytes);
            fill(source.start());
            let at = Address(source.start() as usize);
            // SAFETY: the source is kept until the transport says that it is done, or is dropped after it
            // (fields are dropped in order, the transport first).
            if !unsafe { self.transport.begin_bulk(peer, head, at, bytes) } {
                return Ok(false);
            }
            to.bulk = Some(source);
        }
        to.sent += 1;
        Ok(true)
    }

    fn receive(&mut self, peer: u32) -> Result<bool, crate::error::Error> {
        let Some(front) = self.transport.front(peer)? else { return Ok(false) };
        let number = self.from[peer as usize].received;
        if self.compares {
            assert_eq!(front.head, Head { what: number as u64, which: !(number as u64) });
            assert_eq!(front.bytes, self.script.counts[number] * self.script.element_bytes);
        }
        let read = self.from[peer as usize].read;
        if read == front.bytes {
            self.transport.finish(peer);
            self.from[peer as usize] = FromPeer { received: number + 1, ..FromPeer::default() };
            return Ok(true);
        }
        let got = self.take(peer, number, read, front.bytes - read)?;
        self.from[peer as usize].read += got;
        Ok(got > 0)
    }

    /// Takes some of what is left of the front packet.
    fn take(
        &mut self,
        peer: u32,
        number: usize,
        read: usize,
        left: usize,
    ) -> Result<usize, crate::error::Error> {
        let element_bytes = self.script.element_bytes;
        let choice = next(&mut self.seed);
        let most = if choice.is_multiple_of(3) { left.min(8 << 20) } else { left.min(1 << (choice % 20)) };
        let limit = most.next_multiple_of(element_bytes);
        let eager = read + left <= self.transport.eager_bytes(peer);
        let whole = &mut self.from[peer as usize].whole;
        if read == 0 && whole.is_none() && choice % 5 < 2 && limit >= left {
            *whole = Some(vec![0; left]);
        }
        let limit = if whole.is_some() { left } else { limit };
        let got = if let Some(whole) = whole {
            let target = Address(whole[read..].as_mut_ptr() as usize);
            // SAFETY: that many bytes are left of the buffer, which is kept until the packet ends.
            let got = unsafe { self.transport.read_into(peer, target, left)? };
            check(self.compares, &whole[read..read + got], (peer, self.rank, number, read));
            got
        } else if choice % 5 < 2 {
            self.buffer.resize(limit, 0);
            let target = Address(self.buffer.as_mut_ptr() as usize);
            // SAFETY: the buffer has `limit` bytes.
            let got = unsafe { self.transport.read_into(peer, target, limit)? };
            check(self.compares, &self.buffer[..got], (peer, self.rank, number, read));
            got
        } else {
            let view = self.transport.view(peer, limit)?;
            check(self.compares, view, (peer, self.rank, number, read));
            let elements = view.len() / element_bytes;
            // Sometimes less is consumed than was seen.
            let taken =
                if choice.is_multiple_of(7) { elements.div_ceil(2) } else { elements } * element_bytes;
            let seen = view.len();
            self.transport.consume(peer, taken);
            assert!(!self.compares || seen.is_multiple_of(element_bytes) && seen <= limit);
            taken
        };
        assert!(!self.compares || got.is_multiple_of(element_bytes) && got <= limit.min(left));
        assert!(!self.compares || !eager || got > 0 || left == 0, "an eager packet is there whole");
        Ok(got)
    }
}

fn check(compares: bool, bytes: &[u8], (source, target, packet, read): (u32, u32, usize, usize)) {
    if !compares {
        return;
    }
    for (index, value) in bytes.iter().enumerate() {
        let expected = byte(source, target, packet, read + index);
        assert_eq!(*value, expected, "{source} to {target}, packet {packet}, byte {}", read + index);
    }
}

/// Plays to the end, or panics after [`PATIENCE`].
pub(crate) fn play<T: Transport>(player: &mut Player<T>) {
    let start = Instant::now();
    while !player.is_done() {
        if !player.poll().expect("an edge in order") {
            assert!(start.elapsed() < PATIENCE, "hung");
            std::thread::yield_now();
        }
    }
}

/// All ranks on one thread, in turn.
pub(crate) fn run<T: Transport>(ends: Vec<T>, script: &Script, make: MakeSource) -> Vec<T> {
    let _watchdog = Watchdog::start();
    let ranks = ends.len() as u32;
    let mut players: Vec<_> =
        (0..).zip(ends).map(|(rank, end)| Player::new(end, rank, ranks, script, make)).collect();
    let start = Instant::now();
    while !players.iter().all(Player::is_done) {
        assert!(start.elapsed() < PATIENCE, "hung");
        for player in &mut players {
            player.poll().expect("an edge in order");
        }
    }
    players.into_iter().map(|player| player.transport).collect()
}

/// Each rank on a thread of its own.
pub(crate) fn run_threads<T: Transport + Send>(ends: Vec<T>, script: &Script, make: MakeSource) -> Vec<T> {
    let _watchdog = Watchdog::start();
    let ranks = ends.len() as u32;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(ends)
            .map(|(rank, end)| {
                scope.spawn(move || {
                    let mut player = Player::new(end, rank, ranks, script, make);
                    play(&mut player);
                    player.transport
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("played to the end")).collect()
    })
}
