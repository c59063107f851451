//! The hands: what a step does to memory and to the transport. The only unsafe file of the engine.
//!
//! Why it is sound: every address here comes from an [`Op`], and who built the op promised (at the C edge, as
//! NCCL's interface demands of its caller) that the source is readable and the target writable, for the bytes
//! that the operation's definition gives, until the operation is done. Plans name only bytes within those
//! bounds (`schedule::check` proves it of every algorithm), or within the scratch that [`Hands::bind`] makes
//! as large as the plan says.

use super::compile::{Collective, Part, Work};
use super::run::Progress;
use crate::coalesce::{LENGTH_BYTES, head};
use crate::device::{Device, Multiplier};
use crate::error::{Error, Result};
use crate::op::{Address, Op, Reduction, Scalar};
use crate::schedule::{Action, Range};
use crate::transport::shm::Reach;
use crate::transport::{Bulk, Front, Head, Transport, Whole};

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
    bases: Vec<Address>,
    scratch: Vec<u128>,
    multiplier: Multiplier,
    /// Of every packet of the running collective.
    head: Head,
    divisor: u32,
}

impl Bound {
    #[inline]
    fn at(&self, range: Range, moved_bytes: usize) -> Address {
        self.bases[range.buffer as usize].add(range.offset + moved_bytes)
    }
}

/// The frame whose messages are being taken, per peer.
#[derive(Clone, Debug, Default)]
struct Inbound {
    lengths: Vec<u32>,
    taken_count: usize,
    /// Where the next message lies. The frame is whole, and stays in place until it is finished.
    next: Address,
    frame_bytes: usize,
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
    sent_count: Vec<u32>,
    received_count: Vec<u32>,
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
            collective_count: 0,
        }
    }

    /// The head of the collective that was begun last.
    pub(super) fn numbered(&self, head: Head) -> Head {
        head::numbered(head, self.collective_count.wrapping_sub(1))
    }

    /// Binds a plan's buffers to the addresses of this batch.
    #[inline]
    pub(super) fn bind(&mut self, part: &Part, ops: &[Op], bound: &mut Bound) {
        bound.bases.clear();
        match &part.work {
            Work::Messages => bound.bases.extend(
                ops.iter().map(|op| if op.kind == crate::op::Kind::Send { op.source } else { op.target }),
            ),
            Work::Collective(collective) => {
                self.bind_collective(part, collective, &ops[collective.op], bound)
            }
        }
    }

    #[inline]
    fn bind_collective(&mut self, part: &Part, collective: &Collective, op: &Op, bound: &mut Bound) {
        let words = part.plan.scratch_bytes.div_ceil(16);
        if bound.scratch.len() < words {
            bound.scratch.resize(words, 0);
        }
        // The pointer is taken mutably: the plan writes through it, and nothing else uses the scratch.
        let scratch = Address(bound.scratch.as_mut_ptr().expose_provenance());
        bound.bases.extend([op.source, op.target, scratch]);
        bound.head = head::numbered(collective.head, self.collective_count);
        bound.divisor = self.ranks;
        self.collective_count = self.collective_count.wrapping_add(1);
        if collective.scales {
            bound.multiplier = self.multiplier(op);
        }
    }

    fn multiplier(&self, op: &Op) -> Multiplier {
        match (op.reduction, op.scalar) {
            (Reduction::Avg, _) => self.device.reciprocal(op.data_type, self.ranks),
            (_, Scalar::Immediate(bytes)) => bytes,
            (_, Scalar::At(place)) => {
                let mut bytes = Multiplier::default();
                let into = Address(bytes.as_mut_ptr().expose_provenance());
                // SAFETY: the maker of the operator promised a readable scalar of the type until the
                // operation ran; `bytes` has room for the largest type.
                unsafe { self.device.copy(place, into, op.data_type.size_bytes()) };
                bytes
            }
            (_, Scalar::None) => Multiplier::default(),
        }
    }

    /// Does one step as far as it goes.
    #[inline]
    pub(super) fn act(
        &mut self,
        action: &Action,
        part: &Part,
        bound: &Bound,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        match (*action, &part.work) {
            (Action::Send { peer, from }, work) => self.send(peer, from, work, bound, progress),
            (Action::Recv { peer, into }, Work::Collective(_)) => {
                let begins = !progress.has_begun;
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
                Ok(self.receive(peer, into, bound, progress)?.counting(begins))
            }
            (Action::Recv { peer, into }, Work::Messages) => self.take_message(peer, into, bound, progress),
            (Action::RecvReduce { peer, with, into, incoming_first }, Work::Collective(collective)) => {
                let begins = !progress.has_begun;
                let combine = |device: &D, view| {
                    let (own, target) = (bound.at(with, 0), bound.at(into, 0));
                    let (left, right) = if incoming_first { (view, own) } else { (own, view) };
                    let count = into.bytes / collective.data_type.size_bytes();
                    // SAFETY: the buffers as at the top of the file; the view holds as many bytes.
                    unsafe {
                        device.reduce(collective.combine, collective.data_type, left, right, target, count);
                    }
                };
                if begins && let Some(outcome) = self.receive_whole(peer, into.bytes, bound, combine) {
                    return Ok(outcome);
                }
                if begins && !self.recognize(peer, bound.head, into.bytes)? {
                    return Ok(Outcome::Blocked);
                }
                progress.has_begun = true;
                let ranges = [with, into];
                let outcome =
                    self.receive_reduce(peer, ranges, incoming_first, collective, bound, progress)?;
                Ok(outcome.counting(begins))
            }
            (Action::SendFrame { peer, first, count, bytes }, _) => Ok(self.send_frame(
                peer,
                &part.plan.messages[first as usize..][..count as usize],
                bytes,
                bound,
            )),
            (local, work) => {
                self.work_locally(local, work, bound);
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

    fn work_locally(&mut self, action: Action, work: &Work, bound: &Bound) {
        let collective = match work {
            Work::Collective(collective) => Some(collective),
            Work::Messages => None,
        };
        // SAFETY, for each call below: the ranges lie within the buffers (see the top of the file), the
        // lanes' waits keep everybody else off them, and the builder made operands disjoint or equal.
        match (action, collective) {
            (Action::Copy { from, into }, _) => {
                // SAFETY: as above.
                unsafe { self.device.copy(bound.at(from, 0), bound.at(into, 0), into.bytes) };
            }
            (Action::Reduce { left, right, into }, Some(c)) => {
                let count = into.bytes / c.data_type.size_bytes();
                let [left, right, into] = [left, right, into].map(|range| bound.at(range, 0));
                // SAFETY: as above.
                unsafe { self.device.reduce(c.combine, c.data_type, left, right, into, count) };
            }
            (Action::Scale { from, into }, Some(c)) => {
                let count = into.bytes / c.data_type.size_bytes();
                let [from, into] = [from, into].map(|range| bound.at(range, 0));
                // SAFETY: as above.
                unsafe { self.device.scale(c.data_type, bound.multiplier, from, into, count) };
            }
            (Action::Divide { range }, Some(c)) => {
                let count = range.bytes / c.data_type.size_bytes();
                // SAFETY: as above.
                unsafe { self.device.divide(c.data_type, bound.divisor, bound.at(range, 0), count) };
            }
            _ => unreachable!("batches of messages hold no reductions, and act() took the rest"),
        }
    }

    #[inline]
    fn send(
        &mut self,
        peer: u32,
        from: Range,
        work: &Work,
        bound: &Bound,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let source = bound.at(from, 0);
        let begins = !progress.has_begun;
        if begins {
            let head = match work {
                Work::Collective(_) => bound.head,
                Work::Messages => {
                    head::numbered(head::of_message(from.bytes), self.sent_count[peer as usize])
                }
            };
            let is_eager = from.bytes <= self.transport.eager_bytes(peer);
            if is_eager {
                let Some(room) = self.transport.reserve(peer, from.bytes) else {
                    return Ok(Outcome::Blocked);
                };
                // SAFETY: the source as at the top of the file; `room` was reserved for these bytes.
                unsafe { self.device.copy(source, Address(room.expose_provenance()), from.bytes) };
                self.transport.publish(peer, head);
            } else {
                // SAFETY: the step is not done, so the source not reusable, before `poll_bulk` says `Done`;
                // a failed run is followed by no reuse of the transport.
                if !unsafe { self.transport.begin_bulk(peer, head, source, from.bytes) } {
                    return Ok(Outcome::Blocked);
                }
                progress.has_begun = true;
            }
            if matches!(work, Work::Messages) {
                let sent_count = &mut self.sent_count[peer as usize];
                *sent_count = sent_count.wrapping_add(1);
            }
            if is_eager {
                return Ok(Outcome::Done);
            }
        }
        Ok(match self.transport.poll_bulk(peer)? {
            Bulk::Done => Outcome::Done,
            Bulk::Moving => Outcome::Moved,
            Bulk::Waiting => Outcome::Blocked.counting(begins),
        })
    }

    fn send_frame(&mut self, peer: u32, messages: &[Range], bytes: usize, bound: &Bound) -> Outcome {
        let Some(room) = self.transport.reserve(peer, bytes) else { return Outcome::Blocked };
        let mut length_at = room.cast::<u32>();
        let mut into = Address(room.expose_provenance()).add(messages.len() * LENGTH_BYTES);
        for message in messages {
            // SAFETY: `bytes` is the sum of the lengths' and the messages' bytes, so both cursors stay
            // within the room; the sources as at the top of the file.
            unsafe {
                length_at.write_unaligned(message.bytes as u32);
                length_at = length_at.add(1);
                self.device.copy(bound.at(*message, 0), into, message.bytes);
            }
            into = into.add(message.bytes);
        }
        let sent_count = &mut self.sent_count[peer as usize];
        let head = head::numbered(head::of_frame(messages.len() as u32), *sent_count);
        *sent_count = sent_count.wrapping_add(messages.len() as u32);
        self.transport.publish(peer, head);
        Outcome::Done
    }

    /// Whether the packet that is expected lies at the front; an error if another one does.
    #[inline]
    fn recognize(&mut self, peer: u32, expected: Head, bytes: usize) -> Result<bool> {
        let inbound = &self.inbound[peer as usize];
        if inbound.is_open() {
            let sequence = self.received_count[peer as usize];
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
    #[inline]
    fn receive(&mut self, peer: u32, into: Range, bound: &Bound, progress: &mut Progress) -> Result<Outcome> {
        let before = progress.moved_bytes;
        while progress.moved_bytes < into.bytes {
            let target = bound.at(into, progress.moved_bytes);
            let left = into.bytes - progress.moved_bytes;
            // SAFETY: the target as at the top of the file, less what is already there.
            let count = unsafe { self.transport.read_into(peer, target, left)? };
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

    /// Takes the next message from `peer`, from whatever packet brings it.
    #[inline]
    fn take_message(
        &mut self,
        peer: u32,
        into: Range,
        bound: &Bound,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let place = peer as usize;
        let begins = !progress.has_begun;
        if begins && !self.inbound[place].is_open() {
            let expected = head::numbered(head::of_message(into.bytes), self.received_count[place]);
            match self.transport.peek_whole(peer, expected, into.bytes) {
                Whole::Absent => return Ok(Outcome::Blocked),
                Whole::Unknown => {}
                Whole::Here(view) => {
                    let view = Address(view.as_ptr().expose_provenance());
                    // SAFETY: the target as at the top of the file; the view holds as many bytes.
                    unsafe { self.device.copy(view, bound.at(into, 0), into.bytes) };
                    self.transport.drop_whole(peer, into.bytes);
                    self.received_count[place] = self.received_count[place].wrapping_add(1);
                    return Ok(Outcome::Done);
                }
            }
            let Some(front) = self.transport.front(peer)? else { return Ok(Outcome::Blocked) };
            if let Some(count) = head::frame_count(front.head) {
                self.open_frame(peer, front, count, expected, into.bytes)?;
            } else if front.head != expected || front.bytes != into.bytes {
                return Err(self.mismatch(peer, expected, into.bytes, front));
            } else {
                progress.has_begun = true;
            }
        }
        let outcome = if progress.has_begun {
            self.receive(peer, into, bound, progress)?.counting(begins)
        } else {
            self.take_from_frame(peer, into, bound)?
        };
        if outcome == Outcome::Done {
            self.received_count[place] = self.received_count[place].wrapping_add(1);
        }
        Ok(outcome)
    }

    fn open_frame(
        &mut self,
        peer: u32,
        front: Front,
        count: u32,
        expected: Head,
        bytes: usize,
    ) -> Result<()> {
        let lengths_bytes = count as usize * LENGTH_BYTES;
        if head::sequence(front.head) != head::sequence(expected) || count == 0 || lengths_bytes > front.bytes
        {
            return Err(self.mismatch(peer, expected, bytes, front));
        }
        let inbound = &mut self.inbound[peer as usize];
        inbound.lengths.clear();
        inbound.taken_count = 0;
        // A frame is eager, so all of it is there at once.
        let view = self.transport.view(peer, front.bytes)?;
        let lengths = view.get(..lengths_bytes).unwrap_or_default().chunks_exact(LENGTH_BYTES);
        inbound.lengths.extend(lengths.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default())));
        let sum: usize = inbound.lengths.iter().map(|length| *length as usize).sum();
        if view.len() != front.bytes
            || inbound.lengths.len() != count as usize
            || sum + lengths_bytes != front.bytes
        {
            inbound.lengths.clear();
            return Err(Error::Remote(format!("rank {peer} sent a frame whose lengths do not add up")));
        }
        inbound.next = Address(view.as_ptr().expose_provenance()).add(lengths_bytes);
        inbound.frame_bytes = front.bytes;
        Ok(())
    }

    #[inline]
    fn take_from_frame(&mut self, peer: u32, into: Range, bound: &Bound) -> Result<Outcome> {
        let inbound = &mut self.inbound[peer as usize];
        let length = inbound.lengths[inbound.taken_count] as usize;
        if length != into.bytes {
            let sequence = self.received_count[peer as usize];
            let [expected, found] =
                [into.bytes, length].map(|bytes| head::numbered(head::of_message(bytes), sequence));
            return Err(self.mismatch(peer, expected, into.bytes, Front { head: found, bytes: length }));
        }
        // SAFETY: the target as at the top of the file. `next` lies in the frame, whose lengths add up; nothing
        // was received from the peer since the frame was viewed, so the view is still in place.
        unsafe { self.device.copy(inbound.next, bound.at(into, 0), length) };
        inbound.next = inbound.next.add(length);
        inbound.taken_count += 1;
        if !inbound.is_open() {
            self.transport.consume(peer, inbound.frame_bytes);
            self.transport.finish(peer);
        }
        Ok(Outcome::Done)
    }
}
