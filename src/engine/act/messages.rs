//! The steps of point-to-point messages. The memory of each is its operation's own.

use super::{Hands, Outcome};
use crate::coalesce::{Burst, LENGTH_BYTES, head};
use crate::device::Device;
use crate::engine::Pass;
use crate::engine::run::Progress;
use crate::error::{Error, Result};
use crate::op::{Address, Kind, Op};
use crate::schedule::{Action, Plan, Range};
use crate::transport::{Front, Transport, Whole};

/// The messages that a step still has to receive, all from one peer.
#[derive(Clone, Copy)]
struct Awaited<'a> {
    messages: &'a [Range],
    /// Their lengths as a frame carries them.
    lengths: &'a [u8],
    ops: &'a [Op],
}

impl<'a> Awaited<'a> {
    #[inline]
    fn after(self, count: usize) -> Awaited<'a> {
        Awaited { messages: &self.messages[count..], lengths: &self.lengths[count * LENGTH_BYTES..], ..self }
    }
}

impl<T: Transport, D: Device> Hands<T, D> {
    #[inline]
    pub(super) fn act_on_messages(
        &mut self,
        action: &Action,
        plan: &Plan,
        ops: &[Op],
        progress: &mut Progress,
    ) -> Result<Outcome> {
        match *action {
            Action::Send { peer, from } => {
                let head = self.next_head(peer, from.bytes);
                let source = ops[from.buffer as usize].source;
                // SAFETY: the source as at the top of `act`.
                let (outcome, is_begun) = unsafe { self.send(peer, head, source, from.bytes, progress)? };
                self.sent_count[peer as usize] += u64::from(is_begun);
                self.counts.frames += u64::from(is_begun);
                Ok(outcome)
            }
            Action::SendFrame { peer, first, count, bytes } => {
                let (first, count) = (first as usize, count as usize);
                let messages = &plan.messages[first..][..count];
                let lengths = &plan.lengths[first * LENGTH_BYTES..][..count * LENGTH_BYTES];
                Ok(self.send_frame(peer, messages, lengths, bytes, ops))
            }
            Action::RecvMessages { peer, first, count } => {
                let (first, count) = (first as usize, count as usize);
                let messages = &plan.messages[first..][..count];
                let lengths = &plan.lengths[first * LENGTH_BYTES..][..count * LENGTH_BYTES];
                self.take_messages(peer, Awaited { messages, lengths, ops }, progress)
            }
            Action::Copy { from, into } => {
                let [from_op, into_op] = [from, into].map(|range| &ops[range.buffer as usize]);
                // SAFETY: source and target as at the top of `act`; the plan matched their lengths.
                unsafe { self.device.copy(from_op.source, into_op.target, into.bytes) };
                Ok(Outcome::Done)
            }
            Action::Recv { .. }
            | Action::RecvReduce { .. }
            | Action::Reduce { .. }
            | Action::Scale { .. }
            | Action::Divide { .. } => unreachable!("the plan of a batch of messages has no such step"),
        }
    }

    /// The head of the next message to `peer`.
    #[inline]
    fn next_head(&self, peer: u32, bytes: usize) -> crate::transport::Head {
        head::numbered(head::of_message(bytes), self.sent_count[peer as usize] as u32)
    }

    /// A lone message, in one packet, without a plan.
    #[inline]
    pub(in crate::engine) fn pass(&mut self, op: &Op) -> Pass {
        let (peer, bytes) = (op.shape.peer, op.bytes());
        let place = peer as usize;
        if op.shape.kind == Kind::Recv {
            if self.inbound[place].is_open() {
                return Pass::No;
            }
            return match self.take_whole(peer, op.target, bytes) {
                Some(Outcome::Done) => {
                    self.counts.short_received_bytes += bytes as u64;
                    Pass::Done
                }
                Some(_) => Pass::NotYet,
                None => Pass::No,
            };
        }
        if bytes > self.transport.eager_bytes(peer) {
            return Pass::No;
        }
        let head = self.next_head(peer, bytes);
        // SAFETY: the source as at the top of `act`.
        if !unsafe { self.send_whole(peer, head, op.source, bytes) } {
            return Pass::No;
        }
        self.sent_count[place] += 1;
        self.counts.short_frames += 1;
        self.counts.short_sent_bytes += bytes as u64;
        Pass::Done
    }

    /// Takes the next message, if it is a packet of its own and all of it is there; `None` if that has to be
    /// looked at the long way.
    #[inline]
    fn take_whole(&mut self, peer: u32, target: Address, bytes: usize) -> Option<Outcome> {
        let received_count = &mut self.received_count[peer as usize];
        let expected = head::numbered(head::of_message(bytes), *received_count as u32);
        match self.transport.peek_whole(peer, expected, bytes) {
            Whole::Absent => Some(Outcome::Blocked),
            Whole::Unknown => None,
            Whole::Here(view) => {
                let view = Address(view.as_ptr().expose_provenance());
                // SAFETY: the target as at the top of `act`; the view holds as many bytes.
                unsafe { self.device.copy(view, target, bytes) };
                self.transport.drop_whole(peer, bytes);
                *received_count += 1;
                self.counts.received_frames += 1;
                Some(Outcome::Done)
            }
        }
    }

    fn send_frame(
        &mut self,
        peer: u32,
        messages: &[Range],
        lengths: &[u8],
        bytes: usize,
        ops: &[Op],
    ) -> Outcome {
        let Some(room) = self.transport.reserve(peer, bytes) else { return Outcome::Blocked };
        let mut into = Address(room.expose_provenance());
        // SAFETY: `bytes` is the sum of the lengths' and the messages' bytes, so the cursor stays within the
        // room; the sources as at the top of `act`.
        unsafe { self.device.copy(Address(lengths.as_ptr().expose_provenance()), into, lengths.len()) };
        into = into.add(lengths.len());
        for message in messages {
            // SAFETY: as above.
            unsafe { self.fill(peer, ops[message.buffer as usize].source, into, message.bytes, false) };
            into = into.add(message.bytes);
        }
        let sent_count = &mut self.sent_count[peer as usize];
        let head = head::numbered(head::of_frame(messages.len() as u32), *sent_count as u32);
        *sent_count += messages.len() as u64;
        self.counts.frames += 1;
        self.transport.publish(peer, head);
        Outcome::Done
    }

    /// Sends the messages of several batches in one frame; `false` if there is no room for it.
    pub(in crate::engine) fn send_burst<'a>(
        &mut self,
        burst: Burst,
        ops: impl Iterator<Item = &'a Op>,
    ) -> bool {
        let Burst { peer, count, frame_bytes } = burst;
        let Some(room) = self.transport.reserve(peer, frame_bytes) else { return false };
        let mut length_at = Address(room.expose_provenance());
        let mut into = length_at.add(count as usize * LENGTH_BYTES);
        for op in ops {
            let length = (op.bytes() as u32).to_le_bytes();
            // SAFETY: `frame_bytes` is the sum of the lengths' and the messages' bytes of these operations, so both
            // cursors stay within the room; the sources as at the top of `act`.
            unsafe {
                self.device.copy(Address(length.as_ptr().expose_provenance()), length_at, LENGTH_BYTES);
                self.device.copy(op.source, into, op.bytes());
            }
            (length_at, into) = (length_at.add(LENGTH_BYTES), into.add(op.bytes()));
        }
        let sent_count = &mut self.sent_count[peer as usize];
        let head = head::numbered(head::of_frame(count), *sent_count as u32);
        *sent_count += u64::from(count);
        self.counts.add_held((frame_bytes - count as usize * LENGTH_BYTES) as u64);
        self.transport.publish(peer, head);
        true
    }

    /// Takes messages from `peer`, from whatever packets bring them, as far as they have come.
    #[inline]
    fn take_messages(&mut self, peer: u32, all: Awaited<'_>, progress: &mut Progress) -> Result<Outcome> {
        let place = peer as usize;
        let mut outcome = Outcome::Blocked;
        loop {
            let left = all.after(progress.taken_count as usize);
            let Some(next) = left.messages.first() else { return Ok(Outcome::Done) };
            let target = left.ops[next.buffer as usize].target;
            let taken_count = if self.inbound[place].is_open() {
                self.take_from_frame(peer, target, next.bytes)?;
                1
            } else if progress.has_begun {
                // SAFETY: the target as at the top of `act`.
                match unsafe { self.receive(peer, target, next.bytes, progress)? } {
                    Outcome::Done => {}
                    Outcome::Moved => return Ok(Outcome::Moved),
                    Outcome::Blocked => return Ok(outcome),
                }
                (progress.has_begun, progress.moved_bytes) = (false, 0);
                self.received_count[place] += 1;
                self.counts.received_frames += 1;
                1
            } else {
                match self.take_whole(peer, target, next.bytes) {
                    Some(Outcome::Done) => 1,
                    Some(_) => return Ok(outcome),
                    None => match self.look(peer, left, progress)? {
                        Some(count) => count,
                        None => return Ok(outcome),
                    },
                }
            };
            progress.taken_count += taken_count;
            outcome = Outcome::Moved;
        }
    }

    /// Looks at the packet at the front, which is not just the next message: how many messages it brought at
    /// once; `None` if there is no packet.
    fn look(&mut self, peer: u32, left: Awaited<'_>, progress: &mut Progress) -> Result<Option<u32>> {
        let bytes = left.messages.first().map_or(0, |next| next.bytes);
        let expected = head::numbered(head::of_message(bytes), self.received_count[peer as usize] as u32);
        let Some(front) = self.transport.front(peer)? else { return Ok(None) };
        if let Some(count) = head::frame_count(front.head) {
            let is_next = head::sequence(front.head) == head::sequence(expected);
            if !is_next || count == 0 || count as usize * LENGTH_BYTES > front.bytes {
                return Err(self.mismatch(peer, expected, bytes, front));
            }
            return self.open_frame(peer, front, count as usize, left).map(Some);
        }
        if front.head != expected || front.bytes != bytes {
            return Err(self.mismatch(peer, expected, bytes, front));
        }
        progress.has_begun = true;
        Ok(Some(0))
    }

    /// Takes a frame whole if it brings just what is awaited next; else holds it, so that its messages are taken one
    /// by one. How many were taken.
    fn open_frame(&mut self, peer: u32, front: Front, count: usize, left: Awaited<'_>) -> Result<u32> {
        // A frame is eager, so all of it is there at once.
        let view = self.transport.view(peer, front.bytes)?;
        let Some((lengths, mut rest)) = view.split_at_checked(count * LENGTH_BYTES) else {
            return Err(torn(peer));
        };
        if left.lengths.get(..lengths.len()) == Some(lengths) {
            for message in &left.messages[..count] {
                let Some((bytes, behind)) = rest.split_at_checked(message.bytes) else {
                    return Err(torn(peer));
                };
                let target = left.ops[message.buffer as usize].target;
                // SAFETY: the target as at the top of `act`; the slice holds as many bytes.
                unsafe { self.device.copy(Address(bytes.as_ptr().expose_provenance()), target, bytes.len()) };
                rest = behind;
            }
            if !rest.is_empty() {
                return Err(torn(peer));
            }
            self.transport.consume(peer, front.bytes);
            self.transport.finish(peer);
            self.received_count[peer as usize] += count as u64;
            self.counts.received_frames += 1;
            return Ok(count as u32);
        }
        let inbound = &mut self.inbound[peer as usize];
        inbound.taken_count = 0;
        inbound.lengths.clear();
        let lengths = lengths.chunks_exact(LENGTH_BYTES);
        inbound.lengths.extend(lengths.map(|four| u32::from_le_bytes(four.try_into().unwrap_or_default())));
        let sum: usize = inbound.lengths.iter().map(|length| *length as usize).sum();
        if sum != rest.len() {
            inbound.lengths.clear();
            return Err(torn(peer));
        }
        inbound.held.clear();
        inbound.held.extend_from_slice(rest);
        inbound.next = 0;
        self.transport.consume(peer, front.bytes);
        self.transport.finish(peer);
        self.counts.received_frames += 1;
        Ok(0)
    }

    /// Takes the next message of the open frame.
    fn take_from_frame(&mut self, peer: u32, target: Address, bytes: usize) -> Result<()> {
        let inbound = &mut self.inbound[peer as usize];
        let length = inbound.lengths[inbound.taken_count] as usize;
        if length != bytes {
            let sequence = self.received_count[peer as usize] as u32;
            let [expected, found] =
                [bytes, length].map(|bytes| head::numbered(head::of_message(bytes), sequence));
            return Err(self.mismatch(peer, expected, bytes, Front { head: found, bytes: length }));
        }
        let message = &inbound.held[inbound.next..][..length];
        // SAFETY: the target as at the top of `act`; the slice holds as many bytes.
        unsafe { self.device.copy(Address(message.as_ptr().expose_provenance()), target, length) };
        inbound.next += length;
        inbound.taken_count += 1;
        self.received_count[peer as usize] += 1;
        Ok(())
    }
}

#[cold]
fn torn(peer: u32) -> Error {
    Error::Remote(format!("rank {peer} sent a frame whose lengths do not add up"))
}
