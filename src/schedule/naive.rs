//! Runs plans on real bytes, slowly and as unkindly as a machine may: lanes take turns at random, some of
//! them rarely, every step does its work in two halves with anything in between, and lines hold as little as
//! they are told to. Elements are unsigned numbers of their size that wrap, so that the order of a reduction
//! does not matter, whatever the type is called.
//!
//! Shares nothing with the checker or the builder but the words of a plan.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use super::check::Post;
use super::{Action, Call, Plan, Range, Step};
use crate::op::{Combine, DataType, Kind, Reduction};

/// Numbers that look random; the same ones for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// How two elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// As unsigned numbers that wrap; results are compared with what they should be.
    Wrapping,
    /// The sum of singles, whose order shows in the bits; results are left to the caller.
    Singles,
}

impl Arithmetic {
    fn apply(self, combine: Combine, left: u64, right: u64) -> u64 {
        match self {
            Arithmetic::Wrapping => wrapping(combine, left, right),
            Arithmetic::Singles => {
                let sum = f32::from_bits(left as u32) + f32::from_bits(right as u32);
                u64::from(sum.to_bits())
            }
        }
    }
}

fn wrapping(combine: Combine, left: u64, right: u64) -> u64 {
    match combine {
        Combine::Sum => left.wrapping_add(right),
        Combine::Prod => left.wrapping_mul(right),
        Combine::Max => left.max(right),
        Combine::Min => left.min(right),
    }
}

/// One rank's buffers in one stretch of memory.
pub(super) struct Buffers {
    memory: Vec<u8>,
    /// Start and length of each: source, target and scratch of a collective, or one per message.
    places: Vec<(usize, usize)>,
    /// How much of the memory is the caller's.
    callers_bytes: usize,
}

impl Buffers {
    fn new(call: &Call, rank: usize, scratch_bytes: usize, random: &mut Random) -> Buffers {
        let one = call.bytes();
        let all = one * call.ranks as usize;
        let is_root = rank == call.root as usize;
        let (source, target, overlap) = match call.kind {
            Kind::AllReduce => (one, one, Some((0, 0))),
            Kind::Reduce if is_root => (one, one, Some((0, 0))),
            Kind::Reduce => (one, 0, None),
            Kind::Broadcast if is_root => (one, one, Some((0, 0))),
            Kind::Broadcast => (0, one, None),
            Kind::AllGather => (one, all, Some((rank * one, 0))),
            Kind::ReduceScatter => (all, one, Some((0, rank * one))),
            Kind::Gather if is_root => (one, all, Some((rank * one, 0))),
            Kind::Gather => (one, 0, None),
            Kind::Scatter if is_root => (all, one, Some((0, rank * one))),
            Kind::Scatter => (0, one, None),
            _ => (all, all, None),
        };
        let (source_start, target_start) = match overlap {
            Some(starts) if call.in_place => starts,
            _ => (0, source),
        };
        let bytes = source + target + scratch_bytes;
        Buffers {
            memory: (0..bytes).map(|_| random.next() as u8).collect(),
            places: vec![(source_start, source), (target_start, target), (source + target, scratch_bytes)],
            callers_bytes: source + target,
        }
    }

    fn of_messages(posts: &[Post], random: &mut Random) -> Buffers {
        let mut bytes = 0;
        let place = |post: &Post| {
            bytes += post.bytes;
            (bytes - post.bytes, post.bytes)
        };
        let places = posts.iter().map(place).collect();
        Buffers { memory: (0..bytes).map(|_| random.next() as u8).collect(), places, callers_bytes: bytes }
    }

    fn at(&self, range: Range) -> Result<std::ops::Range<usize>, String> {
        let &(start, bytes) = self.places.get(range.buffer as usize).ok_or("no such buffer")?;
        if range.offset + range.bytes > bytes {
            return Err(format!("{range:?} is outside of its buffer"));
        }
        Ok(start + range.offset..start + range.offset + range.bytes)
    }

    /// Puts singles into the source, before anything runs.
    pub(super) fn fill_source(&mut self, mut next: impl FnMut() -> f32) {
        let (start, bytes) = self.places[0];
        for chunk in self.memory[start..start + bytes].chunks_exact_mut(4) {
            chunk.copy_from_slice(&next().to_le_bytes());
        }
    }

    pub(super) fn result(&self) -> Vec<u8> {
        self.bytes_of(1)
    }

    fn bytes_of(&self, buffer: usize) -> Vec<u8> {
        let (start, bytes) = self.places[buffer];
        self.memory[start..start + bytes].to_vec()
    }
}

/// All ranks, their buffers and the lines between them.
pub(super) struct World<'a> {
    calls: Vec<Call>,
    /// What the batch is where it is no collective.
    posts: Option<&'a [Vec<Post>]>,
    plans: &'a [Plan],
    pub(super) ranks: Vec<Buffers>,
    /// What every rank's memory held at first.
    before: Vec<Vec<u8>>,
    lanes: Vec<LaneState>,
    /// By rank: its first lane.
    first_lanes: Vec<usize>,
    lines: HashMap<(u32, u32), Line>,
    line_packets: usize,
    arithmetic: Arithmetic,
    random: Random,
}

#[derive(Clone)]
struct LaneState {
    rank: usize,
    lane: usize,
    done: usize,
    /// How much of the step is done: it began, and what it holds.
    half: Option<Vec<u8>>,
    /// The packet is in the line; when so many were taken, the step is done.
    sent: Option<usize>,
    /// How many messages of the step were received.
    received: usize,
    is_slow: bool,
}

#[derive(Default)]
struct Line {
    /// Each some messages.
    packets: VecDeque<VecDeque<Vec<u8>>>,
    put: usize,
    taken: usize,
}

impl<'a> World<'a> {
    pub(super) fn new(
        calls: &'a [Call],
        plans: &'a [Plan],
        seed: u64,
        line_packets: usize,
        arithmetic: Arithmetic,
    ) -> World<'a> {
        let mut random = Random(seed);
        let ranks: Vec<_> = calls
            .iter()
            .zip(plans)
            .enumerate()
            .map(|(rank, (call, plan))| Buffers::new(call, rank, plan.scratch_bytes, &mut random))
            .collect();
        World::with(calls.to_vec(), None, plans, ranks, (line_packets, arithmetic, random))
    }

    /// A world of point-to-point messages.
    pub(super) fn of_messages(
        posts: &'a [Vec<Post>],
        plans: &'a [Plan],
        seed: u64,
        line_packets: usize,
    ) -> World<'a> {
        let mut random = Random(seed);
        // Bytes that nobody combines.
        let call = Call {
            kind: Kind::AlltoAll,
            data_type: DataType::Uint8,
            reduction: Reduction::Sum,
            root: 0,
            count: 1,
            ranks: posts.len() as u32,
            in_place: false,
        };
        let ranks = posts.iter().map(|posts| Buffers::of_messages(posts, &mut random)).collect();
        let how = (line_packets, Arithmetic::Wrapping, random);
        World::with(vec![call; posts.len()], Some(posts), plans, ranks, how)
    }

    fn with(
        calls: Vec<Call>,
        posts: Option<&'a [Vec<Post>]>,
        plans: &'a [Plan],
        ranks: Vec<Buffers>,
        (line_packets, arithmetic, mut random): (usize, Arithmetic, Random),
    ) -> World<'a> {
        let (mut lanes, mut first_lanes) = (Vec::new(), Vec::new());
        for (rank, plan) in plans.iter().enumerate() {
            first_lanes.push(lanes.len());
            for lane in 0..plan.lanes.len() {
                let is_slow = random.below(4) == 0;
                lanes.push(LaneState { rank, lane, done: 0, half: None, sent: None, received: 0, is_slow });
            }
        }
        let lines = HashMap::new();
        World {
            calls,
            posts,
            plans,
            ranks,
            before: Vec::new(),
            lanes,
            first_lanes,
            lines,
            line_packets,
            arithmetic,
            random,
        }
    }

    /// Runs everything and compares every result with what it should be.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.before = self.ranks.iter().map(|rank| rank.memory.clone()).collect();
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        loop {
            for index in (1..order.len()).rev() {
                order.swap(index, self.random.below(index + 1));
            }
            let mut has_moved = false;
            for is_patient in [false, true] {
                for &lane in &order {
                    let is_skipped = !is_patient && self.lanes[lane].is_slow && self.random.below(8) > 0;
                    has_moved |= !is_skipped && self.turn(lane)?;
                }
                if has_moved {
                    break;
                }
            }
            if !has_moved {
                break;
            }
        }
        for state in &self.lanes {
            if state.done < self.plans[state.rank].lanes[state.lane].count as usize {
                return Err(format!("stuck: rank {} lane {} at step {}", state.rank, state.lane, state.done));
            }
        }
        self.compare()
    }

    fn may_start(&self, state: &LaneState, step: &Step) -> bool {
        let plan = &self.plans[state.rank];
        let waits = step.first_wait as usize..(step.first_wait + step.wait_count) as usize;
        plan.waits[waits].iter().all(|wait| {
            let other = &self.lanes[self.first_lanes[state.rank] + wait.lane as usize];
            other.done > wait.index as usize
        })
    }

    /// Lets a lane do a little; whether it did.
    fn turn(&mut self, index: usize) -> Result<bool, String> {
        let mut state = self.lanes[index].clone();
        let lane = self.plans[state.rank].lanes[state.lane];
        if state.done == lane.count as usize {
            return Ok(false);
        }
        let step = self.plans[state.rank].steps[lane.first as usize + state.done];
        if state.half.is_none() && state.sent.is_none() && !self.may_start(&state, &step) {
            return Ok(false);
        }
        let has_moved = match step.action {
            Action::Send { peer, from } => self.send(&mut state, peer, &[from])?,
            Action::SendFrame { peer, first, count, .. } => {
                let messages = &self.plans[state.rank].messages;
                let messages = messages.get(first as usize..(first + count) as usize);
                self.send(&mut state, peer, messages.ok_or("a frame of messages that are not there")?)?
            }
            Action::Recv { peer, into } => self.receive(&mut state, peer, into, None)?,
            Action::RecvMessages { peer, first, count } => {
                let before = state.done;
                let messages = &self.plans[state.rank].messages;
                let into = messages.get(first as usize + state.received);
                let into = *into.ok_or("a receive of messages that are not there")?;
                let has_moved = self.receive(&mut state, peer, into, None)?;
                if state.done > before {
                    state.received += 1;
                    let is_last = state.received == count as usize;
                    (state.received, state.done) =
                        if is_last { (0, state.done) } else { (state.received, before) };
                }
                has_moved
            }
            Action::RecvReduce { peer, with, into, .. } => {
                self.receive(&mut state, peer, into, Some((with, step.action)))?
            }
            action => self.local(&mut state, action)?,
        };
        self.lanes[index] = state;
        Ok(has_moved)
    }

    fn send(&mut self, state: &mut LaneState, peer: u32, messages: &[Range]) -> Result<bool, String> {
        let line = self.lines.entry((state.rank as u32, peer)).or_default();
        if let Some(number) = state.sent {
            let is_done = self.line_packets > 0 || line.taken > number;
            if is_done {
                state.sent = None;
                state.done += 1;
            }
            return Ok(is_done);
        }
        let buffers = &self.ranks[state.rank];
        let mut bytes = Vec::new();
        for &message in messages {
            bytes.extend_from_slice(&buffers.memory[buffers.at(message)?]);
        }
        let middle = bytes.len() / 2;
        let Some(first) = state.half.take() else {
            bytes.truncate(middle);
            state.half = Some(bytes);
            return Ok(true);
        };
        if line.packets.len() >= self.line_packets.max(1) {
            state.half = Some(first);
            return Ok(false);
        }
        bytes[..middle].copy_from_slice(&first);
        let mut rest = &bytes[..];
        let mut packet = VecDeque::new();
        for message in messages {
            let (one, behind) = rest.split_at(message.bytes);
            packet.push_back(one.to_vec());
            rest = behind;
        }
        line.packets.push_back(packet);
        state.sent = Some(line.put);
        line.put += 1;
        Ok(true)
    }

    fn receive(
        &mut self,
        state: &mut LaneState,
        peer: u32,
        into: Range,
        reduce: Option<(Range, Action)>,
    ) -> Result<bool, String> {
        let line = self.lines.entry((peer, state.rank as u32)).or_default();
        let second = state.half.take();
        let is_first = second.is_none();
        let first = line.packets.front().and_then(VecDeque::front);
        let Some(packet) = second.or_else(|| first.cloned()) else { return Ok(false) };
        if packet.len() != into.bytes {
            return Err(format!("a packet of {} bytes where {} were expected", packet.len(), into.bytes));
        }
        self.half(state.rank, is_first, into, |world, part| {
            let incoming = packet[part.clone()].to_vec();
            let Some((with, Action::RecvReduce { incoming_first, .. })) = reduce else { return Ok(incoming) };
            let with = world.part_of(state.rank, with, part)?;
            let (left, right) = if incoming_first { (&incoming, &with) } else { (&with, &incoming) };
            Ok(world.combine(left, right))
        })?;
        if is_first {
            state.half = Some(packet);
        } else {
            let line = self.lines.entry((peer, state.rank as u32)).or_default();
            let messages = line.packets.front_mut().ok_or("the packet is gone")?;
            messages.pop_front();
            if messages.is_empty() {
                line.packets.pop_front();
                line.taken += 1;
            }
            state.done += 1;
        }
        Ok(true)
    }

    fn local(&mut self, state: &mut LaneState, action: Action) -> Result<bool, String> {
        let rank = state.rank;
        let is_first = state.half.take().is_none();
        let call = self.calls[rank];
        let into = match action {
            Action::Copy { into, .. } | Action::Reduce { into, .. } | Action::Scale { into, .. } => into,
            Action::Divide { range } => range,
            _ => return Err("not a local action".into()),
        };
        self.half(rank, is_first, into, |world, part| match action {
            Action::Copy { from, .. } => world.part_of(rank, from, part),
            Action::Reduce { left, right, .. } => {
                let (left, right) =
                    (world.part_of(rank, left, part.clone())?, world.part_of(rank, right, part)?);
                Ok(world.combine(&left, &right))
            }
            Action::Scale { from, .. } => {
                let from = world.part_of(rank, from, part)?;
                Ok(each(&call, &from, |value| value.wrapping_mul(factor(&call, rank))))
            }
            _ => {
                let from = world.part_of(rank, into, part)?;
                Ok(each(&call, &from, |value| value / u64::from(call.ranks)))
            }
        })?;
        if is_first {
            state.half = Some(Vec::new());
        } else {
            state.done += 1;
        }
        Ok(true)
    }

    /// Writes one half of `into`, as `make` makes it.
    fn half(
        &mut self,
        rank: usize,
        is_first: bool,
        into: Range,
        make: impl Fn(&Self, std::ops::Range<usize>) -> Result<Vec<u8>, String>,
    ) -> Result<(), String> {
        let size = self.calls[rank].data_type.size_bytes();
        let middle = into.bytes / size / 2 * size;
        let part = if is_first { 0..middle } else { middle..into.bytes };
        let made = make(self, part.clone())?;
        let start = self.ranks[rank].at(into)?.start;
        self.ranks[rank].memory[start + part.start..start + part.end].copy_from_slice(&made);
        Ok(())
    }

    fn part_of(&self, rank: usize, range: Range, part: std::ops::Range<usize>) -> Result<Vec<u8>, String> {
        let range = Range::new(range.buffer, range.offset + part.start, part.len());
        Ok(self.ranks[rank].memory[self.ranks[rank].at(range)?].to_vec())
    }

    fn combine(&self, left: &[u8], right: &[u8]) -> Vec<u8> {
        combine(&self.calls[0], self.arithmetic, left, right)
    }

    /// Every result is what it should be, and nothing else has changed.
    fn compare(&self) -> Result<(), String> {
        if let Some(posts) = self.posts {
            return self.compare_messages(posts);
        }
        let sources: Vec<Vec<u8>> = self
            .before
            .iter()
            .zip(&self.ranks)
            .map(|(before, rank)| before[rank.places[0].0..rank.places[0].0 + rank.places[0].1].to_vec())
            .collect();
        for (number, rank) in self.ranks.iter().enumerate() {
            if self.arithmetic == Arithmetic::Wrapping
                && rank.result() != expected(&self.calls[number], &sources, number)
            {
                return Err(format!("rank {number} has a wrong result"));
            }
            let target = rank.places[1].0..rank.places[1].0 + rank.places[1].1;
            for at in (0..rank.callers_bytes).filter(|at| !target.contains(at)) {
                if rank.memory[at] != self.before[number][at] {
                    return Err(format!("rank {number} wrote into its source"));
                }
            }
        }
        Ok(())
    }
}

impl World<'_> {
    /// The k-th message from one rank to another is what the k-th receive has; what is sent stays.
    fn compare_messages(&self, posts: &[Vec<Post>]) -> Result<(), String> {
        for (to, receiver) in posts.iter().enumerate() {
            for from in 0..posts.len() {
                let of = |rank: usize, peer: usize, is_send: bool| {
                    let is_it = move |post: &Post| post.peer == peer as u32 && post.is_send == is_send;
                    (0..).zip(&posts[rank]).filter(move |(_, post)| is_it(post)).map(|(buffer, _)| buffer)
                };
                for (sent, received) in of(from, to, true).zip(of(to, from, false)) {
                    if self.ranks[from].bytes_of(sent) != self.ranks[to].bytes_of(received) {
                        return Err(format!("rank {to} has something else in receive {received}"));
                    }
                }
            }
            for (buffer, _) in (0..).zip(receiver).filter(|(_, post)| post.is_send) {
                let (start, bytes) = self.ranks[to].places[buffer];
                if self.before[to][start..start + bytes] != self.ranks[to].bytes_of(buffer) {
                    return Err(format!("rank {to} wrote into what it sends"));
                }
            }
        }
        Ok(())
    }
}

fn factor(call: &Call, rank: usize) -> u64 {
    if call.reduction == Reduction::Avg { 3 } else { 2 * rank as u64 + 3 }
}

fn each(call: &Call, from: &[u8], change: impl Fn(u64) -> u64) -> Vec<u8> {
    let size = call.data_type.size_bytes();
    from.chunks(size).flat_map(|chunk| change(number(chunk)).to_le_bytes()[..size].to_vec()).collect()
}

fn number(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

fn combine(call: &Call, arithmetic: Arithmetic, left: &[u8], right: &[u8]) -> Vec<u8> {
    let size = call.data_type.size_bytes();
    let pairs = left.chunks(size).zip(right.chunks(size));
    pairs
        .flat_map(|(left, right)| {
            let value = arithmetic.apply(call.reduction.combine(), number(left), number(right));
            value.to_le_bytes()[..size].to_vec()
        })
        .collect()
}

/// What the target of `rank` must hold.
fn expected(call: &Call, sources: &[Vec<u8>], rank: usize) -> Vec<u8> {
    let one = call.bytes();
    let block = |source: usize, index: usize| &sources[source][index * one..(index + 1) * one];
    let root = call.root as usize;
    let is_root = rank == root;
    let ranks = 0..sources.len();
    match call.kind {
        Kind::AllReduce => reduced(call, sources, 0),
        Kind::Reduce if is_root => reduced(call, sources, 0),
        Kind::ReduceScatter => reduced(call, sources, rank),
        Kind::Broadcast => block(root, 0).to_vec(),
        Kind::AllGather => ranks.flat_map(|source| block(source, 0).to_vec()).collect(),
        Kind::AlltoAll => ranks.flat_map(|source| block(source, rank).to_vec()).collect(),
        Kind::Gather if is_root => ranks.flat_map(|source| block(source, 0).to_vec()).collect(),
        Kind::Scatter => block(root, rank).to_vec(),
        _ => Vec::new(),
    }
}

/// The reduction of block `index` of everyone.
fn reduced(call: &Call, sources: &[Vec<u8>], index: usize) -> Vec<u8> {
    let one = call.bytes();
    let is_scaled = match call.reduction {
        Reduction::PreMulSum => true,
        Reduction::Avg => call.data_type.is_float() && sources.len() > 1,
        _ => false,
    };
    let mut sum: Option<Vec<u8>> = None;
    for (rank, source) in sources.iter().enumerate() {
        let mut own = source[index * one..(index + 1) * one].to_vec();
        if is_scaled {
            own = each(call, &own, |value| value.wrapping_mul(factor(call, rank)));
        }
        sum = Some(sum.map_or_else(|| own.clone(), |sum| combine(call, Arithmetic::Wrapping, &sum, &own)));
    }
    let sum = sum.unwrap_or_default();
    if call.reduction == Reduction::Avg && !call.data_type.is_float() {
        return each(call, &sum, |value| value / sources.len() as u64);
    }
    sum
}
