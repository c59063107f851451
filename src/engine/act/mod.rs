//! The hands: what a step does to memory and to the transport. The only unsafe room of the engine; here are
//! the steps of collectives and what all share, in `messages` those of point-to-point messages.
//!
//! Why it is sound: every address here comes from an [`Op`], and who built the op promised (at the C edge, as
//! NCCL's interface demands of its caller) that the source is readable and the target writable, for the bytes
//! that the operation's definition gives, until the operation is done. Plans name only bytes within those
//! bounds (`schedule::check` proves it of every algorithm), or within the scratch that [`Hands::bind`] makes
//! as large as the plan says.

mod messages;

use super::compile::{Collective, Part, Work};
use super::counts::Counts;
use super::run::Progress;
use crate::coalesce::{self, head};
use crate::device::{Device, Multiplier};
use crate::error::{Error, Result};
use crate::op::{Address, Kind, Op, Reduction, Scalar};
use crate::schedule::{Action, Range};
use crate::trace::record::SoFar;
use crate::transport::shm::Reach;
use crate::transport::{Bulk, Front, Head, Transport, Whole};

/// No transport has shorter copies done past the caches.
const STREAMING_BYTES: usize = 512;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Moved,
    Blocked,
}

impl Outcome {
    /// Announcing or recognizing a packet is progress too: the peer may wait for just that.
    #[inline]
    fn counting(self, begins: bool) -> Outcome {
        if begins && self == Outcome::Blocked { Outcome::Moved } else { self }
    }
}

/// A plan's buffers, as addresses.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// By the numbers of buffers; the last one is nobody's.
    bases: [Address; 4],
    scratch: Vec<u128>,
    multiplier: Multiplier,
    /// Of every packet of the running collective.
    head: Head,
    divisor: u32,
}

impl Bound {
    #[inline]
    fn at(&self, range: Range, moved_bytes: usize) -> Address {
        self.bases[coalesce::buffer(range)].add(range.offset + moved_bytes)
    }

    /// Of every packet of the collective.
    pub(super) const fn head(&self) -> Head {
        self.head
    }
}

/// The frame whose messages are being taken, per peer. It was copied out of its line when its first message was
/// asked for: a frame that kept its room until the last one is would stop a sender whose messages one by one had
/// gone on.
#[derive(Clone, Debug, Default)]
struct Inbound {
    lengths: Vec<u32>,
    taken_count: usize,
    /// The messages, one behind the other.
    held: Vec<u8>,
    /// Where the next message starts.
    next: usize,
}

impl Inbound {
    fn is_open(&self) -> bool {
        self.taken_count < self.lengths.len()
    }
}

/// What touches memory and peers, and the numbers that keep packets in order.
#[derive(Debug)]
pub(super) struct Hands<T, D> {
    pub(super) transport: T,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    device: D,
    inbound: Vec<Inbound>,
    /// Messages, by peer. A packet carries the lower half of the number.
    sent_count: Vec<u64>,
    received_count: Vec<u64>,
    pub(super) counts: Counts,
    /// How many collectives were begun.
    pub(super) collective_count: u32,
}

impl<T: Transport, D: Device> Hands<T, D> {
    pub(super) fn new(transport: T, device: D, rank: u32, ranks: u32) -> Hands<T, D> {
        let ranks_count = ranks as usize;
        Hands {
            transport,
            rank,
            ranks,
            device,
            inbound: vec![Inbound::default(); ranks_count],
            sent_count: vec![0; ranks_count],
            received_count: vec![0; ranks_count],
            counts: Counts::default(),
            collective_count: 0,
        }
    }

    /// Gives back memory that is made anew when it is needed.
    pub(super) fn rest(&mut self) {
        for inbound in self.inbound.iter_mut().filter(|inbound| !inbound.is_open()) {
            *inbound = Inbound::default();
        }
    }

    /// How many messages were sent, and how many taken.
    pub(super) fn message_counts(&self) -> [u64; 2] {
        [&self.sent_count, &self.received_count].map(|counts| counts.iter().sum())
    }

    /// What a record says of all that was done.
    #[inline]
    pub(super) fn so_far(&self) -> SoFar {
        SoFar { lone_bytes: self.counts.short_bytes(), collectives: self.collective_count }
    }

    /// The number of the next message that goes where this one goes; the first is 0.
    pub(super) fn message_number(&self, op: &Op) -> u64 {
        let counts = if op.shape.kind == Kind::Send { &self.sent_count } else { &self.received_count };
        counts.get(op.shape.peer as usize).copied().unwrap_or(0)
    }

    /// Binds a plan's buffers to the addresses of this batch. Messages need none: each has its operation's.
    #[inline]
    pub(super) fn bind(&mut self, part: &Part, ops: &[Op], bounds: &mut Vec<Bound>) {
        let all = match &part.work {
            Work::Collective(one) => std::slice::from_ref(one),
            Work::Fused(all) => all,
            Work::Messages(_) => return,
        };
        if bounds.len() < all.len() {
            bounds.resize_with(all.len(), Bound::default);
        }
        for (collective, bound) in all.iter().zip(bounds) {
            self.bind_collective(collective, &ops[collective.op], bound);
        }
    }

    #[inline]
    fn bind_collective(&mut self, collective: &Collective, op: &Op, bound: &mut Bound) {
        let words = collective.scratch_bytes.div_ceil(16);
        if bound.scratch.len() < words {
            bound.scratch.resize(words, 0);
        }
        // The pointer is taken mutably: the plan writes through it, and nothing else uses the scratch.
        let scratch = Address(bound.scratch.as_mut_ptr().expose_provenance());
        bound.bases = [op.source, op.target, scratch, Address::NULL];
        bound.head = head::numbered(collective.head, self.collective_count);
        bound.divisor = self.ranks;
        self.collective_count = self.collective_count.wrapping_add(1);
        if collective.scales {
            bound.multiplier = self.multiplier(op);
        }
    }

    fn multiplier(&self, op: &Op) -> Multiplier {
        match (op.shape.reduction, op.scalar) {
            (Reduction::Avg, _) => self.device.reciprocal(op.shape.data_type, self.ranks),
            (_, Scalar::Immediate(bytes)) => bytes,
            (_, Scalar::At(place)) => {
                let mut bytes = Multiplier::default();
                let into = Address(bytes.as_mut_ptr().expose_provenance());
                // SAFETY: the maker of the operator promised a readable scalar of the type until the
                // operation ran; `bytes` has room for the largest type.
                unsafe { self.device.copy(place, into, op.shape.data_type.size_bytes()) };
                bytes
            }
            (_, Scalar::None) => Multiplier::default(),
        }
    }

    /// Does a step of a collective that is one short packet, if it can be done now and at once. `false`: nothing has
    /// happened.
    #[inline]
    pub(super) fn at_once(&mut self, action: &Action, work: &Work, bounds: &[Bound]) -> bool {
        let (Work::Collective(collective), [bound, ..]) = (work, bounds) else { return false };
        match *action {
            Action::Send { peer, from } if from.bytes <= self.transport.eager_bytes(peer) => {
                // SAFETY: the source as at the top of the file.
                let is_sent = unsafe { self.send_whole(peer, bound.head, bound.at(from, 0), from.bytes) };
                if is_sent {
                    self.counts.add_collective(from.bytes);
                }
                is_sent
            }
            Action::Recv { peer, into } => {
                let target = bound.at(into, 0);
                // SAFETY: the target as at the top of the file; the view holds as many bytes.
                let copy = |device: &D, view| unsafe { device.copy(view, target, into.bytes) };
                self.receive_whole(peer, into.bytes, bound, copy) == Some(Outcome::Done)
            }
            Action::RecvReduce { peer, with, into, incoming_first } => {
                let ranges = [with, into];
                let combine =
                    |device: &D, view| combine(device, view, ranges, incoming_first, collective, bound);
                self.receive_whole(peer, into.bytes, bound, combine) == Some(Outcome::Done)
            }
            _ => false,
        }
    }

    /// Does one step as far as it goes.
    #[inline]
    pub(super) fn act(
        &mut self,
        action: &Action,
        part: &Part,
        ops: &[Op],
        bounds: &[Bound],
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let (collective, bound) = match &part.work {
            Work::Messages(_) => return self.act_on_messages(action, &part.plan, ops, progress),
            Work::Collective(one) => (one, &bounds[0]),
            Work::Fused(all) => {
                let owner = coalesce::owner(action);
                (&all[owner], &bounds[owner])
            }
        };
        self.act_on_collective(action, collective, bound, progress)
    }

    #[inline]
    fn act_on_collective(
        &mut self,
        action: &Action,
        collective: &Collective,
        bound: &Bound,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let begins = !progress.has_begun;
        match *action {
            Action::Send { peer, from } => {
                // SAFETY: the source as at the top of the file.
                let (outcome, is_begun) =
                    unsafe { self.send(peer, bound.head, bound.at(from, 0), from.bytes, progress)? };
                if is_begun {
                    self.counts.add_collective(from.bytes);
                }
                Ok(outcome)
            }
            Action::Recv { peer, into } => {
                let target = bound.at(into, 0);
                // SAFETY: the target as at the top of the file; the view holds as many bytes.
                let copy = |device: &D, view| unsafe { device.copy(view, target, into.bytes) };
                if begins && let Some(outcome) = self.receive_whole(peer, into.bytes, bound, copy) {
                    return Ok(outcome);
                }
                if begins && !self.recognize(peer, bound.head, into.bytes)? {
                    return Ok(Outcome::Blocked);
                }
                progress.has_begun = true;
                // SAFETY: the target as at the top of the file.
                let outcome = unsafe { self.receive(peer, target, into.bytes, progress)? };
                Ok(outcome.counting(begins))
            }
            Action::RecvReduce { peer, with, into, incoming_first } => {
                let ranges = [with, into];
                let combine =
                    |device: &D, view| combine(device, view, ranges, incoming_first, collective, bound);
                if begins && let Some(outcome) = self.receive_whole(peer, into.bytes, bound, combine) {
                    return Ok(outcome);
                }
                if begins && !self.recognize(peer, bound.head, into.bytes)? {
                    return Ok(Outcome::Blocked);
                }
                progress.has_begun = true;
                let outcome =
                    self.receive_reduce(peer, ranges, incoming_first, collective, bound, progress)?;
                Ok(outcome.counting(begins))
            }
            local => {
                self.work_locally(local, collective, bound);
                Ok(Outcome::Done)
            }
        }
    }

    /// Writes the next bytes of a put; how many.
    pub(super) fn put(
        &mut self,
        peer: u32,
        reach: &Reach,
        offset: usize,
        source: Address,
        bytes: usize,
    ) -> Result<usize> {
        // SAFETY: the source as at the top of the file: who made the call promised its bytes until it is done.
        unsafe { self.transport.put(peer, reach, offset, source, bytes) }
    }

    fn work_locally(&mut self, action: Action, c: &Collective, bound: &Bound) {
        // SAFETY, for each call below: the ranges lie within the buffers (see the top of the file), the
        // lanes' waits keep everybody else off them, and the builder made operands disjoint or equal.
        match action {
            Action::Copy { from, into } => {
                // SAFETY: as above.
                unsafe { self.device.copy(bound.at(from, 0), bound.at(into, 0), into.bytes) };
            }
            Action::Reduce { left, right, into } => {
                let count = into.bytes / c.data_type.size_bytes();
                let [left, right, into] = [left, right, into].map(|range| bound.at(range, 0));
                // SAFETY: as above.
                unsafe { self.device.reduce(c.combine, c.data_type, left, right, into, count) };
            }
            Action::Scale { from, into } => {
                let count = into.bytes / c.data_type.size_bytes();
                let [from, into] = [from, into].map(|range| bound.at(range, 0));
                // SAFETY: as above.
                unsafe { self.device.scale(c.data_type, bound.multiplier, from, into, count) };
            }
            Action::Divide { range } => {
                let count = range.bytes / c.data_type.size_bytes();
                // SAFETY: as above.
                unsafe { self.device.divide(c.data_type, bound.divisor, bound.at(range, 0), count) };
            }
            _ => unreachable!("a collective has no frames, and act_on_collective() took the rest"),
        }
    }

    /// Sends a packet as far as it goes; and whether it was begun now, and so is on its way in any case.
    ///
    /// # Safety
    /// `source` is readable for `bytes` until the step is done, or given up with the transport.
    #[inline]
    unsafe fn send(
        &mut self,
        peer: u32,
        head: Head,
        source: Address,
        bytes: usize,
        progress: &mut Progress,
    ) -> Result<(Outcome, bool)> {
        let begins = !progress.has_begun;
        if begins {
            if bytes <= self.transport.eager_bytes(peer) {
                // SAFETY: the caller's promise.
                let is_sent = unsafe { self.send_whole(peer, head, source, bytes) };
                return Ok((if is_sent { Outcome::Done } else { Outcome::Blocked }, is_sent));
            }
            // SAFETY: the step is not done, so the source not reusable, before `poll_bulk` says `Done`;
            // a failed run is followed by no reuse of the transport.
            if !unsafe { self.transport.begin_bulk(peer, head, source, bytes) } {
                return Ok((Outcome::Blocked, false));
            }
            progress.has_begun = true;
        }
        let outcome = match self.transport.poll_bulk(peer)? {
            Bulk::Done => Outcome::Done,
            Bulk::Moving => Outcome::Moved,
            Bulk::Waiting => Outcome::Blocked.counting(begins),
        };
        Ok((outcome, begins))
    }

    /// Sends a packet that is not too long to be copied; `false` if there is no room for it yet.
    ///
    /// # Safety
    /// `source` is readable for `bytes`.
    #[inline(always)]
    unsafe fn send_whole(&mut self, peer: u32, head: Head, source: Address, bytes: usize) -> bool {
        let Some(room) = self.transport.reserve(peer, bytes) else { return false };
        // SAFETY: the caller's promise; `room` was reserved for these bytes.
        unsafe { self.fill(peer, source, Address(room.expose_provenance()), bytes, true) };
        self.transport.publish(peer, head);
        true
    }

    /// Copies to what was reserved for `peer`. `is_whole`: it is all of the packet.
    ///
    /// # Safety
    /// As [`Device::copy`].
    #[inline(always)]
    unsafe fn fill(&mut self, peer: u32, source: Address, room: Address, bytes: usize, is_whole: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            if bytes < STREAMING_BYTES {
                self.device.copy(source, room, bytes);
            } else {
                self.fill_long(peer, source, room, bytes, is_whole);
            }
        }
    }

    /// As [`Self::fill`], for what may go past the caches. Apart, to keep the short way short.
    ///
    /// # Safety
    /// As [`Device::copy`].
    #[inline(never)]
    unsafe fn fill_long(&mut self, peer: u32, source: Address, room: Address, bytes: usize, is_whole: bool) {
        let streams = self.transport.streams(peer, bytes, is_whole);
        // SAFETY: the caller's promise.
        unsafe {
            if streams {
                self.device.copy_streaming(source, room, bytes);
            } else {
                self.device.copy(source, room, bytes);
            }
        }
    }

    /// Whether the packet that is expected lies at the front; an error if another one does.
    #[inline]
    fn recognize(&mut self, peer: u32, expected: Head, bytes: usize) -> Result<bool> {
        let inbound = &self.inbound[peer as usize];
        if inbound.is_open() {
            let sequence = self.received_count[peer as usize] as u32;
            let length = inbound.lengths[inbound.taken_count] as usize;
            let found = head::numbered(head::of_message(length), sequence);
            return Err(self.mismatch(peer, expected, bytes, Front { head: found, bytes: length }));
        }
        match self.transport.front(peer)? {
            None => Ok(false),
            Some(front) if front.head == expected && front.bytes == bytes => Ok(true),
            Some(front) => Err(self.mismatch(peer, expected, bytes, front)),
        }
    }

    #[cold]
    pub(super) fn mismatch(&self, peer: u32, expected: Head, bytes: usize, found: Front) -> Error {
        let (rank, found_bytes) = (self.rank, found.bytes);
        if found.head == expected {
            return Error::Mismatch(format!(
                "rank {peer} sent a packet of {found_bytes} bytes where rank {rank} expects {bytes}, in {}; \
                 do both ranks use the same settings?",
                head::describe(expected)
            ));
        }
        Error::Mismatch(format!(
            "ranks disagree: rank {rank} is in {}; rank {peer} is in {}; \
             make both call the same operations in the same order with the same sizes",
            head::describe(expected),
            head::describe(found.head)
        ))
    }

    /// Receives the front packet, which was recognized, in as many pieces as it comes.
    ///
    /// # Safety
    /// `target` is writable for `bytes`.
    #[inline]
    unsafe fn receive(
        &mut self,
        peer: u32,
        target: Address,
        bytes: usize,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let before = progress.moved_bytes;
        while progress.moved_bytes < bytes {
            let left = bytes - progress.moved_bytes;
            // SAFETY: the caller's promise, less what is already there.
            let count = unsafe { self.transport.read_into(peer, target.add(progress.moved_bytes), left)? };
            if count == 0 {
                return Ok(if progress.moved_bytes > before { Outcome::Moved } else { Outcome::Blocked });
            }
            progress.moved_bytes += count;
        }
        self.transport.finish(peer);
        Ok(Outcome::Done)
    }

    /// The short way for a packet of a collective; `None` if it has to be looked at the long way.
    #[inline]
    fn receive_whole(
        &mut self,
        peer: u32,
        bytes: usize,
        bound: &Bound,
        take: impl FnOnce(&D, Address),
    ) -> Option<Outcome> {
        if self.inbound[peer as usize].is_open() {
            return None;
        }
        match self.transport.peek_whole(peer, bound.head, bytes) {
            Whole::Absent => Some(Outcome::Blocked),
            Whole::Unknown => None,
            Whole::Here(view) => {
                take(&self.device, Address(view.as_ptr().expose_provenance()));
                self.transport.drop_whole(peer, bytes);
                Some(Outcome::Done)
            }
        }
    }

    #[inline]
    fn receive_reduce(
        &mut self,
        peer: u32,
        [with, into]: [Range; 2],
        incoming_first: bool,
        collective: &Collective,
        bound: &Bound,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let element_bytes = collective.data_type.size_bytes();
        let before = progress.moved_bytes;
        while progress.moved_bytes < into.bytes {
            let view = self.transport.view(peer, into.bytes - progress.moved_bytes)?;
            let count = view.len() / element_bytes;
            if count == 0 {
                return Ok(if progress.moved_bytes > before { Outcome::Moved } else { Outcome::Blocked });
            }
            let incoming = Address(view.as_ptr().expose_provenance());
            let own = bound.at(with, progress.moved_bytes);
            let (left, right) = if incoming_first { (incoming, own) } else { (own, incoming) };
            let target = bound.at(into, progress.moved_bytes);
            // SAFETY: `view` is readable until the next call for this peer, the rest as at the top.
            unsafe {
                self.device.reduce(collective.combine, collective.data_type, left, right, target, count);
            }
            self.transport.consume(peer, count * element_bytes);
            progress.moved_bytes += count * element_bytes;
        }
        self.transport.finish(peer);
        Ok(Outcome::Done)
    }
}

/// Combines a packet, all of which is at `view`, with this rank's own bytes.
#[inline]
fn combine<D: Device>(
    device: &D,
    view: Address,
    [with, into]: [Range; 2],
    incoming_first: bool,
    collective: &Collective,
    bound: &Bound,
) {
    let (own, target) = (bound.at(with, 0), bound.at(into, 0));
    let (left, right) = if incoming_first { (view, own) } else { (own, view) };
    let count = into.bytes / collective.data_type.size_bytes();
    // SAFETY: the buffers as at the top of the file; the view holds as many bytes.
    unsafe { device.reduce(collective.combine, collective.data_type, left, right, target, count) };
}
