//! The discrete events themselves.
//!
//! ```text
//! a lane whose step waits for no other lane, for room or for a packet is ready; its core takes ready lanes in turn
//! send:     the core is busy for o and the bytes it moves; then the ports have the packet, one after the other
//! receive:  the core is busy for o and the bytes it moves, and not done before the last byte is there
//! local:    the core is busy for the bytes it moves
//! ```
//! A core that several ranks share stays with one while that has something ready, then goes on to the next. A rank that
//! waited long sleeps, and what comes for it wakes it first.
//!
//! 1. A packet can be read from its first byte on: long ones stream, as they do through shared memory.
//! 2. Where a window bounds what is unread, the sender waits for room and learns of it a latency late.
//! 3. A rank that is done begins its next call, if there is one; what comes early waits on its lane.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::event::{Event, Events, NONE, Packet, Packets, What};
use super::fold::Fold;
use super::machine::{Class, Link, Machine, at_rate, picoseconds};
use super::program::{Partner, Program, Step, Work};

/// The job of a core that is no lane: the begin of a call.
const BEGIN: u32 = NONE - 1;

/// What a packet takes of a window beside its own bytes: the cache line of its head.
const HEAD_BYTES: u64 = 64;

/// What is to be run.
pub(super) struct Scene<'a> {
    pub(super) machine: &'a Machine,
    /// Of the ranks that are simulated, from 0 on.
    pub(super) programs: &'a [Program],
    pub(super) fold: Fold,
    /// How many times each rank makes the call.
    pub(super) rounds: u32,
    /// How many times slower than usual cores move bytes.
    pub(super) slow: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// When the last rank was done, by round.
    pub(super) round_ends: Vec<u64>,
    /// When each rank was done with all.
    pub(super) ends: Vec<u64>,
    /// The most that a rank held in scratch and unread packets.
    pub(super) peak_bytes: u64,
    /// Steps that never ran; none unless the programs do not fit together.
    pub(super) stuck: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be looked at.
    Idle,
    /// Behind a step of another lane.
    Blocked,
    /// For a packet or for room.
    Waiting,
    /// In a core's queue, or at work.
    Busy,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    next: u32,
    /// Messages that the step at hand has taken.
    taken: u32,
    /// How many of its waits the step at hand has seen come true.
    waited: u32,
    state: State,
    /// The lanes that wait for this one, linked through `next_blocked`.
    first_blocked: u32,
    next_blocked: u32,
    /// What has come and is unread.
    first_packet: u32,
    last_packet: u32,
    /// Of what was sent.
    unread_bytes: u64,
}

const FRESH: Lane = Lane {
    next: 0,
    taken: 0,
    waited: 0,
    state: State::Idle,
    first_blocked: NONE,
    next_blocked: NONE,
    first_packet: NONE,
    last_packet: NONE,
    unread_bytes: 0,
};

#[derive(Debug, Default)]
struct Rank {
    lanes: Vec<Lane>,
    open: u32,
    round: u32,
    has_begun: bool,
    unread_bytes: u64,
    peak_unread_bytes: u64,
}

/// A core and the ranks that take turns on it: it stays with one while that has something to do, and else goes round
/// them, a switch from each to the next.
#[derive(Debug, Default)]
struct Core {
    ranks: Vec<u32>,
    /// Ready lanes, rank by rank.
    queues: Vec<VecDeque<u32>>,
    /// Since when each has something to do, and when it last had something done.
    ready_since: Vec<u64>,
    done_since: Vec<u64>,
    /// At whom it was when it ran out of work, and when that was.
    at: usize,
    idle_since: u64,
    job: Option<Job>,
}

impl Core {
    /// The next rank with something to do: its place here, and when the core is with it.
    fn next(&self, now: u64, switch: u64) -> Option<(usize, u64)> {
        let count = self.ranks.len();
        // How often it went on since it ran out of work.
        let gone = (now - self.idle_since).checked_div(switch).unwrap_or(0);
        let position = (self.at + (gone % count as u64) as usize) % count;
        let (place, distance) = (0..count)
            .map(|distance| ((position + distance) % count, distance as u64))
            .find(|(place, _)| !self.queues[*place].is_empty())?;
        let begin = if distance == 0 { now } else { self.idle_since + (gone + distance) * switch };
        Some((place, begin))
    }
}

#[derive(Clone, Copy, Debug)]
struct Job {
    rank: u32,
    lane: u32,
    /// The step ends with the job.
    ends_step: bool,
}

/// A port, by when it is free.
#[derive(Clone, Copy, Debug, Default)]
struct Port(u64);

impl Port {
    /// Takes the port for so long; from when on.
    fn take(&mut self, from: u64, duration: u64) -> u64 {
        let start = from.max(self.0);
        self.0 = start + duration;
        start
    }
}

struct Run<'a> {
    scene: &'a Scene<'a>,
    events: Events,
    packets: Packets,
    ranks: Vec<Rank>,
    cores: Vec<Core>,
    /// Out of a rail and into it, up from an island and down to it.
    out: Vec<Port>,
    into: Vec<Port>,
    up: Vec<Port>,
    down: Vec<Port>,
    now: u64,
    ended: Ended,
}

/// Runs it to its end.
pub(super) fn run(scene: &Scene<'_>) -> Ended {
    let machine = scene.machine;
    let last = scene.programs.len() as u32 - 1;
    let rails = machine.rail_of(last).max(machine.host(last) * machine.rails.max(1) + machine.rails.max(1));
    let islands = machine.island(last) as usize + 1;
    let mut cores: Vec<Core> = Vec::new();
    for rank in 0..=last {
        let core = machine.core_of(rank) as usize;
        cores.resize_with(cores.len().max(core + 1), Core::default);
        cores[core].ranks.push(rank);
        cores[core].queues.push(VecDeque::new());
        cores[core].ready_since.push(0);
        cores[core].done_since.push(0);
    }
    let mut run = Run {
        scene,
        events: Events::default(),
        packets: Packets::default(),
        ranks: scene
            .programs
            .iter()
            .map(|program| Rank { lanes: vec![FRESH; program.lanes.len()], ..Rank::default() })
            .collect(),
        cores,
        out: vec![Port::default(); rails as usize + 1],
        into: vec![Port::default(); rails as usize + 1],
        up: vec![Port::default(); islands],
        down: vec![Port::default(); islands],
        now: 0,
        ended: Ended {
            round_ends: vec![0; scene.rounds as usize],
            ends: vec![0; scene.programs.len()],
            ..Ended::default()
        },
    };
    for rank in 0..=last {
        run.enqueue(rank, BEGIN);
    }
    while let Some(event) = run.events.pop() {
        run.now = event.time();
        run.handle(event);
    }
    run.finish()
}

impl Run<'_> {
    fn finish(mut self) -> Ended {
        let lost = |(rank, program): (&Rank, &Program)| {
            let lanes = rank.lanes.iter().zip(&program.lanes);
            lanes.map(|(lane, all)| u64::from(all.count - lane.next)).sum::<u64>()
        };
        self.ended.stuck = self.ranks.iter().zip(self.scene.programs).map(lost).sum();
        let peaks = self.ranks.iter().zip(self.scene.programs);
        let peaks = peaks.map(|(rank, program)| rank.peak_unread_bytes + program.scratch_bytes);
        self.ended.peak_bytes = peaks.max().unwrap_or(0);
        self.ended
    }

    fn handle(&mut self, event: Event) {
        let (actor, lane, packet) = (event.actor(), event.lane(), event.packet);
        match event.what {
            What::CoreFree => self.core_free(actor),
            What::StepDone => self.step_done(actor, lane),
            What::Up => self.up(packet),
            What::Down => self.down(actor, lane, packet),
            What::Eject => self.eject(actor, lane, packet),
            What::Arrive => self.arrive(actor, lane, packet),
            What::Credit => {
                self.ranks[actor as usize].lanes[lane as usize].unread_bytes -=
                    self.packets.get(packet).bytes + HEAD_BYTES;
                self.packets.free(packet);
                self.wake(actor, lane);
            }
        }
    }

    fn step(&self, rank: u32, lane: u32) -> Option<Step> {
        let program = &self.scene.programs[rank as usize];
        let next = self.ranks[rank as usize].lanes[lane as usize].next;
        let lane = &program.lanes[lane as usize];
        (next < lane.count).then(|| program.steps[(lane.first + next) as usize])
    }

    /// The link of a lane, and its peer.
    fn link(&self, rank: u32, lane: u32) -> (Class, &Link, u32) {
        let machine = self.scene.machine;
        match self.scene.programs[rank as usize].lanes[lane as usize].partner {
            Partner::To(peer) | Partner::From(peer) => {
                let class = machine.class(rank, peer);
                (class, machine.link(class), peer)
            }
            Partner::Nobody => (Class::Local, &machine.local, rank),
        }
    }

    /// How long a core moves so many bytes.
    fn moving(&self, bytes: u64, bytes_per_ns: f64) -> u64 {
        at_rate(bytes, bytes_per_ns / self.scene.slow)
    }

    fn wake(&mut self, rank: u32, lane: u32) {
        let state = &mut self.ranks[rank as usize].lanes[lane as usize].state;
        if *state == State::Waiting {
            *state = State::Idle;
            self.look(rank, lane);
        }
    }

    /// Queues the lane's next step if it can run.
    fn look(&mut self, rank: u32, lane: u32) {
        if !self.ranks[rank as usize].has_begun {
            return;
        }
        let Some(step) = self.step(rank, lane) else { return };
        let program = &self.scene.programs[rank as usize];
        let lanes = &mut self.ranks[rank as usize].lanes;
        let waits = &program.waits[step.first_wait as usize..][..step.wait_count as usize];
        while let Some(wait) = waits.get(lanes[lane as usize].waited as usize) {
            if lanes[wait.lane as usize].next <= wait.index {
                let other = &mut lanes[wait.lane as usize].first_blocked;
                let next_blocked = std::mem::replace(other, lane);
                lanes[lane as usize].next_blocked = next_blocked;
                lanes[lane as usize].state = State::Blocked;
                return;
            }
            lanes[lane as usize].waited += 1;
        }
        let window = self.link(rank, lane).1.window_bytes as u64;
        let state = &self.ranks[rank as usize].lanes[lane as usize];
        let can_run = match step.work {
            Work::Send { .. } => {
                window == 0 || state.unread_bytes + (step.bytes + HEAD_BYTES).min(window) <= window
            }
            Work::Receive | Work::ReceiveReduce | Work::ReceiveMessages { .. } => state.first_packet != NONE,
            Work::Copy | Work::Reduce => true,
        };
        let next = if can_run { State::Busy } else { State::Waiting };
        self.ranks[rank as usize].lanes[lane as usize].state = next;
        if can_run {
            self.enqueue(rank, lane);
        }
    }

    fn enqueue(&mut self, rank: u32, lane: u32) {
        let number = self.scene.machine.core_of(rank);
        let core = &mut self.cores[number as usize];
        let place = core.ranks.binary_search(&rank).expect("a rank is on its core");
        if core.queues[place].is_empty() {
            core.ready_since[place] = self.now;
        }
        core.queues[place].push_back(lane);
        if core.job.is_none() {
            self.begin_job(number);
        }
    }

    /// The core's next job, if there is one.
    fn begin_job(&mut self, number: u32) {
        let core = &mut self.cores[number as usize];
        let switch = picoseconds(self.scene.machine.core.switch_ns);
        let Some((place, mut begin)) = core.next(self.now, switch) else { return };
        core.at = place;
        let patience = picoseconds(self.scene.machine.core.patience_ns);
        if patience > 0 && core.ready_since[place].saturating_sub(core.done_since[place]) > patience {
            begin = begin.max(core.ready_since[place] + picoseconds(self.scene.machine.core.wake_ns));
        }
        let (rank, lane) = (core.ranks[place], core.queues[place].pop_front().unwrap_or(BEGIN));
        let (end, ends_step) = if lane == BEGIN {
            (begin + picoseconds(self.scene.machine.core.call_ns), true)
        } else {
            self.act(rank, lane, begin)
        };
        self.cores[number as usize].job = Some(Job { rank, lane, ends_step });
        self.events.push(end, What::CoreFree, (number, lane), NONE);
    }

    /// Does the lane's step; when the core is done with it, and whether the step is then done.
    fn act(&mut self, rank: u32, lane: u32, begin: u64) -> (u64, bool) {
        let step = self.step(rank, lane).expect("a lane that was queued has a step");
        let core = self.scene.machine.core;
        let local = |rate| begin + picoseconds(core.step_ns) + self.moving(step.bytes, rate);
        match step.work {
            Work::Copy => (local(core.copy_bytes_per_ns), true),
            Work::Reduce => (local(core.reduce_bytes_per_ns), true),
            Work::Send { shared } => self.send(rank, lane, begin, step.bytes, shared),
            Work::Receive | Work::ReceiveReduce | Work::ReceiveMessages { .. } => {
                self.receive(rank, lane, begin, step.work)
            }
        }
    }

    fn send(&mut self, rank: u32, lane: u32, begin: u64, bytes: u64, shared: u32) -> (u64, bool) {
        let (class, link, peer) = self.link(rank, lane);
        let (link, machine) = (*link, self.scene.machine);
        let packing = picoseconds(machine.core.message_ns) * u64::from(shared);
        let prepared = begin + picoseconds(link.send_ns) + packing;
        let end = prepared + self.moving(bytes, link.send_bytes_per_ns);
        let latency = picoseconds(link.latency_ns).max(1);
        let (target, source) = self.scene.fold.of(rank, peer);
        let target_lane = self.scene.programs[target as usize].lane_from(source);
        let target_lane = target_lane.expect("whoever is sent to receives: plans are checked");
        let to = (target, target_lane);
        self.ranks[rank as usize].lanes[lane as usize].unread_bytes += bytes + HEAD_BYTES;
        let sender = (rank, lane);
        let packet = Packet { bytes, last: end + latency, shared, sender, target: to, next: NONE };
        let packet = self.packets.add(packet);
        if class == Class::Local && link.port_bytes_per_ns <= 0.0 {
            self.events.push(prepared + latency, What::Arrive, to, packet);
            return (end, true);
        }
        let carrying = at_rate(bytes, link.port_bytes_per_ns);
        let port = &mut self.out[machine.rail_of(rank) as usize];
        let start = port.take(end, carrying.max(picoseconds(link.gap_ns)));
        self.packets.get_mut(packet).last = start + carrying + latency;
        match class {
            Class::Spine => {
                // Who comes first to the port of an island is a matter of those who send.
                self.events.push(start + latency / 2, What::Up, (rank, lane), packet);
                self.packets.get_mut(packet).last = start + carrying + latency / 2;
            }
            Class::Local | Class::Rail => self.events.push(start + latency, What::Eject, to, packet),
        }
        let left = start + carrying;
        if left > end {
            self.events.push(left, What::StepDone, (rank, lane), NONE);
        }
        (end, left <= end)
    }

    /// Through a port on the way: from when on, and when the last byte is through.
    fn through(&mut self, packet: u32, start: u64, carrying: u64, latency: u64) -> u64 {
        let packet = self.packets.get_mut(packet);
        packet.last = packet.last.max(start + carrying) + latency;
        start + latency
    }

    fn up(&mut self, packet: u32) {
        let machine = self.scene.machine;
        let Packet { sender, target, bytes, .. } = *self.packets.get(packet);
        let carrying = at_rate(bytes, machine.island_bytes_per_ns());
        let start = self.up[machine.island(sender.0) as usize].take(self.now, carrying);
        let latency = picoseconds(machine.spine.latency_ns).max(2);
        let at = self.through(packet, start, carrying, latency - latency / 2);
        self.events.push(at, What::Down, target, packet);
    }

    fn down(&mut self, target: u32, lane: u32, packet: u32) {
        let machine = self.scene.machine;
        let carrying = at_rate(self.packets.get(packet).bytes, machine.island_bytes_per_ns());
        let start = self.down[machine.island(target) as usize].take(self.now, carrying);
        let at = self.through(packet, start, carrying, 0);
        self.events.push(at, What::Eject, (target, lane), packet);
    }

    fn eject(&mut self, target: u32, lane: u32, packet: u32) {
        let link = *self.link(target, lane).1;
        let carrying = at_rate(self.packets.get(packet).bytes, link.port_bytes_per_ns);
        let port = &mut self.into[self.scene.machine.rail_of(target) as usize];
        let start = port.take(self.now, carrying.max(picoseconds(link.gap_ns)));
        let at = self.through(packet, start, carrying, 0);
        self.events.push(at, What::Arrive, (target, lane), packet);
    }

    fn arrive(&mut self, target: u32, lane: u32, packet: u32) {
        let bytes = self.packets.get(packet).bytes;
        let rank = &mut self.ranks[target as usize];
        rank.unread_bytes += bytes;
        rank.peak_unread_bytes = rank.peak_unread_bytes.max(rank.unread_bytes);
        let state = &mut rank.lanes[lane as usize];
        let before = std::mem::replace(&mut state.last_packet, packet);
        if before == NONE {
            state.first_packet = packet;
        } else {
            self.packets.get_mut(before).next = packet;
        }
        self.wake(target, lane);
    }

    fn receive(&mut self, rank: u32, lane: u32, begin: u64, work: Work) -> (u64, bool) {
        let link = *self.link(rank, lane).1;
        let core = self.scene.machine.core;
        let state = &mut self.ranks[rank as usize];
        let place = state.lanes[lane as usize].first_packet;
        let packet = *self.packets.get(place);
        state.unread_bytes -= packet.bytes;
        let state = &mut state.lanes[lane as usize];
        state.first_packet = packet.next;
        if packet.next == NONE {
            state.last_packet = NONE;
        }
        // What is combined is combined on its way out of the link.
        let rate = match work {
            Work::ReceiveReduce => core.reduce_bytes_per_ns,
            _ => link.receive_bytes_per_ns,
        };
        let mut end = begin + picoseconds(link.receive_ns) + self.moving(packet.bytes, rate);
        let mut is_whole = true;
        if let Work::ReceiveMessages { count } = work {
            end += picoseconds(core.message_ns) * u64::from(packet.shared);
            let state = &mut self.ranks[rank as usize].lanes[lane as usize];
            state.taken += packet.shared.max(1);
            is_whole = state.taken >= count;
        }
        // What the core still has to move once the last byte is there: about a cache line.
        let done = end.max(packet.last + picoseconds(link.receive_ns));
        if link.window_bytes > 0.0 {
            let latency = picoseconds(link.latency_ns).max(1);
            self.events.push(done + latency, What::Credit, packet.sender, place);
        } else {
            self.packets.free(place);
        }
        let ends_step = done == end && is_whole;
        if !ends_step {
            self.events.push(done, What::StepDone, (rank, lane), NONE);
        }
        (end, ends_step)
    }

    fn core_free(&mut self, core: u32) {
        let state = &mut self.cores[core as usize];
        state.idle_since = self.now;
        state.done_since[state.at] = self.now;
        let job = state.job.take().expect("a core that gets free was at work");
        if job.lane == BEGIN {
            self.begin_call(job.rank);
        } else if job.ends_step {
            self.step_done(job.rank, job.lane);
        }
        if self.cores[core as usize].job.is_none() {
            self.begin_job(core);
        }
    }

    fn begin_call(&mut self, rank: u32) {
        let lanes = self.scene.programs[rank as usize].lanes.len() as u32;
        let state = &mut self.ranks[rank as usize];
        state.has_begun = true;
        state.open = lanes;
        for lane in &mut state.lanes {
            *lane = Lane {
                first_packet: lane.first_packet,
                last_packet: lane.last_packet,
                unread_bytes: lane.unread_bytes,
                ..FRESH
            };
        }
        if lanes == 0 {
            return self.end_call(rank);
        }
        for lane in 0..lanes {
            self.look(rank, lane);
        }
    }

    fn step_done(&mut self, rank: u32, lane: u32) {
        let step = self.step(rank, lane).expect("a step that ends was there");
        let count = self.scene.programs[rank as usize].lanes[lane as usize].count;
        let state = &mut self.ranks[rank as usize].lanes[lane as usize];
        state.state = State::Idle;
        if let Work::ReceiveMessages { count } = step.work
            && state.taken < count
        {
            return self.look(rank, lane);
        }
        state.next += 1;
        state.taken = 0;
        state.waited = 0;
        let is_last = state.next == count;
        let blocked = std::mem::replace(&mut state.first_blocked, NONE);
        self.look(rank, lane);
        self.unblock(rank, blocked);
        if is_last {
            let state = &mut self.ranks[rank as usize];
            state.open -= 1;
            if state.open == 0 {
                self.end_call(rank);
            }
        }
    }

    /// Lets blocked lanes look again, in the order in which they came; whoever has to wait for more is blocked anew.
    fn unblock(&mut self, rank: u32, last: u32) {
        let (mut last, mut first) = (last, NONE);
        while last != NONE {
            let lane = &mut self.ranks[rank as usize].lanes[last as usize];
            let before = std::mem::replace(&mut lane.next_blocked, first);
            first = std::mem::replace(&mut last, before);
        }
        while first != NONE {
            let lane = &mut self.ranks[rank as usize].lanes[first as usize];
            lane.state = State::Idle;
            let next = std::mem::replace(&mut lane.next_blocked, NONE);
            self.look(rank, first);
            first = next;
        }
    }

    fn end_call(&mut self, rank: u32) {
        let state = &mut self.ranks[rank as usize];
        let end = &mut self.ended.round_ends[state.round as usize];
        *end = (*end).max(self.now);
        state.has_begun = false;
        state.round += 1;
        if state.round < self.scene.rounds {
            self.enqueue(rank, BEGIN);
        } else {
            self.ended.ends[rank as usize] = self.now;
        }
    }
}
