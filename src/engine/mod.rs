//! Runs plans in order.
//!
//! [`Engine`] is a state machine over one communicator's batches: [`Engine::submit`] takes one,
//! [`Engine::poll`] moves it along and never blocks, [`Engine::completed`] says how far it came. It owns no
//! thread and reads no clock; its recorder, if the driver gives it one, does and tells nobody. [`driver`] decides who polls and how a wait waits.
//!
//! - `compile`: the plan of a batch, by the shapes of its operations; `cache`: plans already made.
//! - `counts`: what is counted.
//! - `held`: batches that leave together, since their path was busy.
//! - `one_sided`: puts, signals and waits, which are batches of their own.
//! - `stall`: where ranks stand in long waits, and the verdict on one that takes too long.
//! - `tracing`: what a trace says of each batch.
//! - `run`: where the running plan stands. `act`: the hands that touch memory and the transport.
//! - `stream`: streams of the host device, and launches, which tie batches of several communicators together.

mod act;
mod cache;
mod compile;
pub mod counts;
pub mod driver;
mod held;
pub mod one_sided;
mod run;
pub mod stall;
pub mod stream;
mod tracing;

use std::collections::VecDeque;
use std::sync::Arc;

pub use compile::Facts;

use crate::coalesce::head;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::op::{Op, Wish};
use crate::schedule::Algorithm;
use crate::trace::log;
use crate::trace::record::{self, Ended, LONE_COUNT, Recorder, Sealed};
use crate::transport::{Peer, Transport};
use crate::tune::estimate;
use crate::tune::table::Table;
use act::Hands;
use cache::{Cache, PlanId};
use compile::{Part, Work};
use counts::Counter;
use one_sided::OneSided;
use run::{Advance, Run};
use stream::Launch;

/// Batches of one-sided calls have no shape.
const ONE_SIDED: Sealed = Sealed::new(record::Kind::OneSided, head::ONE_SIDED_CALLS, 0, 0);

/// What a poll did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// There is nothing to do.
    Idle,
    /// What there is waits for a peer or a stream.
    Waiting,
    /// Something moved; poll again.
    Moved,
}

/// What became of a message that was tried the short way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It is done.
    Done,
    /// Nothing has happened yet, and may soon.
    NotYet,
    /// It is not for the short way; nothing has happened.
    No,
}

/// A sealed batch on its way.
#[derive(Debug)]
struct Job {
    ops: Vec<Op>,
    plan: PlanId,
    /// In place of operations with a plan.
    one_sided: Option<Box<one_sided::Run>>,
    launch: Option<Arc<Launch>>,
    has_started: bool,
}

/// One communicator's batches, in order.
#[derive(Debug)]
pub struct Engine<T, D> {
    hands: Hands<T, D>,
    cache: Cache,
    queue: VecDeque<Job>,
    run: Run,
    /// Emptied lists of operations, for batches to come.
    spare: Vec<Vec<Op>>,
    used_signals: one_sided::Used,
    submitted: u64,
    completed: u64,
    /// Polls by which something moved.
    move_count: u64,
    failure: Option<Error>,
    /// The transport is not to be touched any more.
    has_left: bool,
    recorder: Recorder,
    /// What a trace calls one-sided calls, once it does.
    one_sided_id: Option<u32>,
}

impl<T: Transport, D: Device> Engine<T, D> {
    /// An engine with nothing to do.
    pub fn new(transport: T, device: D, mut facts: Facts) -> Engine<T, D> {
        // A frame is one eager packet, whatever the settings allow: a longer one would never find room.
        let peers = (0..facts.ranks).filter(|peer| *peer != facts.rank);
        let most_bytes = peers.map(|peer| transport.eager_bytes(peer)).min().unwrap_or(usize::MAX);
        facts.limits.frame_bytes = facts.limits.frame_bytes.min(most_bytes);
        Engine {
            hands: Hands::new(transport, device, facts.rank, facts.ranks),
            cache: Cache::new(facts),
            queue: VecDeque::new(),
            run: Run::default(),
            spare: Vec::new(),
            used_signals: one_sided::Used::new(),
            submitted: 0,
            completed: 0,
            move_count: 0,
            failure: None,
            has_left: false,
            recorder: Recorder::default(),
            one_sided_id: None,
        }
    }

    /// From now on what is done is noted: the newest `count` batches at least, where other ranks can see it if there
    /// is such a place; of none with 0.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn record(&mut self, count: usize) -> Result<()> {
        let (rank, ranks) = (self.hands.rank, self.hands.ranks);
        let shared = if count == 0 { None } else { self.hands.transport.records(rank) };
        self.recorder = match shared {
            Some(ring) => Recorder::over(ring, rank, ranks),
            None => Recorder::new(count, rank, ranks)?,
        };
        Ok(())
    }

    /// What notes what is done.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Finds or makes the plan of a batch, so that whatever makes the batch impossible is known before
    /// anything is started.
    ///
    /// # Errors
    /// The communicator failed before, or the batch cannot be run.
    #[inline]
    pub fn prepare(&mut self, ops: &[Op]) -> Result<PlanId> {
        if self.failure.is_some() {
            return Err(self.refusal());
        }
        self.cache.find(ops, self.queue.is_empty())
    }

    /// What a prepared batch is estimated to take here.
    #[must_use]
    pub fn estimate_ns(&self, plan: PlanId) -> u64 {
        self.cache.get(plan).parts.iter().map(|part| estimate::plan_ns(&part.plan)).sum()
    }

    /// The wish that stands for the best of the algorithms that a call allows.
    #[must_use]
    pub fn wish(&self, op: &Op, allowed: &[Algorithm]) -> Wish {
        self.cache.facts().wish(op, allowed)
    }

    /// Whether everything that was handed over is done; then, from now on, `table` comes before those that are
    /// built in.
    pub fn use_table(&mut self, table: Option<&Table>) -> bool {
        if self.completed < self.submitted {
            return false;
        }
        self.cache.change(|facts| facts.tune = facts.tune.clone().with_table(table));
        true
    }

    /// Queues a prepared batch; the number at which [`Self::completed`] arrives when it is done.
    #[inline]
    pub fn submit(&mut self, ops: &[Op], plan: PlanId, launch: Option<Arc<Launch>>) -> u64 {
        let mut list = self.spare.pop().unwrap_or_default();
        list.extend_from_slice(ops);
        self.push(Job { ops: list, plan, one_sided: None, launch, has_started: false })
    }

    /// Queues one-sided calls; the number at which [`Self::completed`] arrives when they are done.
    ///
    /// # Errors
    /// The communicator failed before.
    pub fn submit_one_sided(&mut self, calls: Vec<OneSided>, launch: Option<Arc<Launch>>) -> Result<u64> {
        if self.failure.is_some() {
            return Err(self.refusal());
        }
        let one_sided = Some(Box::new(one_sided::Run::new(calls)));
        let (ops, plan) = (Vec::new(), PlanId::NONE);
        Ok(self.push(Job { ops, plan, one_sided, launch, has_started: false }))
    }

    #[inline]
    fn push(&mut self, job: Job) -> u64 {
        if self.queue.is_empty() {
            self.recorder.rest();
        }
        self.queue.push_back(job);
        self.submitted += 1;
        self.submitted
    }

    /// Takes a prepared batch and moves it along at once, at most for `polls` polls, if nothing is queued before
    /// it. Its operations are copied to the queue only if it has to wait. Returns the number at which
    /// [`Self::completed`] arrives when it is done.
    #[inline]
    pub fn run(&mut self, ops: &[Op], id: PlanId, polls: u32) -> u64 {
        if !self.queue.is_empty() {
            return self.submit(ops, id, None);
        }
        self.submitted += 1;
        let plan = self.cache.get(id);
        self.run.start();
        self.recorder.begin(plan.is_long);
        for _ in 0..polls {
            match self.run.advance(plan, ops, &mut self.hands) {
                Ok(Advance::Done) => {
                    self.completed += 1;
                    let ended = if plan.is_long { Ended::Now } else { Ended::ByLook };
                    self.recorder.end(plan.sealed, self.completed, ended, self.hands.so_far());
                    if self.recorder.is_tracing() {
                        self.note(id, None, false);
                    }
                    return self.submitted;
                }
                Ok(advance) => self.recorder.look(advance == Advance::Waiting),
                Err(error) => {
                    let (sealed, so_far) = (plan.sealed, self.hands.so_far());
                    self.fail(error);
                    self.completed += 1;
                    self.recorder.end(sealed, self.completed, Ended::Failed, so_far);
                    if self.recorder.is_tracing() {
                        self.note(id, None, true);
                    }
                    return self.submitted;
                }
            }
        }
        let mut list = self.spare.pop().unwrap_or_default();
        list.extend_from_slice(ops);
        self.queue.push_back(Job { ops: list, plan: id, one_sided: None, launch: None, has_started: true });
        self.submitted
    }

    /// Does a lone message to or from a peer, if it is one packet. It is a batch like any other, only that its
    /// plan is too short to be written down.
    #[inline]
    pub fn pass(&mut self, op: &Op) -> Pass {
        if self.failure.is_some() || !self.queue.is_empty() {
            return Pass::No;
        }
        let pass = self.hands.pass(op);
        if pass == Pass::Done {
            self.submitted += 1;
            self.completed += 1;
            if self.completed.is_multiple_of(LONE_COUNT) {
                self.recorder.end_run(self.completed, self.hands.so_far());
            }
        }
        pass
    }

    /// How many batches are done.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// How many batches were taken.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> Vec<Counter> {
        let plans = [self.cache.made_count, self.cache.found_count];
        let mut list = counts::list(&self.hands.counts, self.submitted, self.hands.message_counts(), plans);
        list.push(Counter::new(c"records", self.recorder.written()));
        list
    }

    /// What ended the communicator, if something did.
    #[must_use]
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The lines to the peers.
    pub fn transport(&mut self) -> &mut T {
        &mut self.hands.transport
    }

    /// Moves the front batch along, without blocking.
    #[inline]
    pub fn poll(&mut self) -> Poll {
        match self.try_poll() {
            Ok(poll) => poll,
            Err(error) => {
                // A peer that left in the middle of a packet has mostly said why.
                if matches!(error, Error::Remote(_)) {
                    self.check_raised();
                }
                self.fail(error);
                Poll::Moved
            }
        }
    }

    #[inline]
    fn try_poll(&mut self) -> Result<Poll> {
        let Some(job) = self.queue.front_mut() else { return Ok(Poll::Idle) };
        if !job.has_started {
            if job.launch.as_ref().is_some_and(|launch| !launch.is_ready()) {
                self.recorder.rest();
                return Ok(Poll::Waiting);
            }
            job.has_started = true;
            self.recorder.begin_queued();
            self.run.start();
        }
        if self.queue.len() > 1 && self.send_joined() {
            return Ok(Poll::Moved);
        }
        let Some(job) = self.queue.front_mut() else { return Ok(Poll::Idle) };
        let advance = match &mut job.one_sided {
            None => self.run.advance(self.cache.get(job.plan), &job.ops, &mut self.hands)?,
            Some(run) => run.advance(&mut self.hands, &mut self.used_signals)?,
        };
        Ok(match advance {
            Advance::Waiting => {
                self.recorder.look_queued(true);
                Poll::Waiting
            }
            Advance::Moved => {
                self.recorder.look_queued(false);
                self.move_count += 1;
                Poll::Moved
            }
            Advance::Done => {
                self.complete_front(None);
                Poll::Moved
            }
        })
    }

    #[inline]
    fn complete_front(&mut self, error: Option<&Error>) {
        let Some(mut job) = self.queue.pop_front() else { return };
        self.completed += 1;
        let sealed = if job.plan == PlanId::NONE { ONE_SIDED } else { self.cache.get(job.plan).sealed };
        let ended = if error.is_some() { Ended::Failed } else { Ended::Now };
        self.recorder.end(sealed, self.completed, ended, self.hands.so_far());
        if self.recorder.is_tracing() {
            self.note(job.plan, job.launch.as_deref(), error.is_some());
        }
        if let Some(launch) = &job.launch {
            launch.finish_one(error);
        }
        job.ops.clear();
        self.spare.push(job.ops);
    }

    /// Ends the communicator: what is queued is given up, what comes is refused.
    #[cold]
    pub fn fail(&mut self, error: Error) {
        if self.failure.is_none() {
            let (rank, ranks) = (self.hands.rank, self.hands.ranks);
            match &error {
                // The program's own wish.
                Error::Aborted(text) => log::info(format_args!("{text}")),
                _ => log::warn(format_args!("rank {rank} of {ranks}: {error}")),
            }
            // Who aborts with nothing under way takes nothing from those who still read what it sent.
            let is_missed = !matches!(error, Error::Aborted(_)) || !self.queue.is_empty();
            if !self.has_left && is_missed {
                self.hands.transport.raise(&error.to_string());
            }
            self.failure = Some(error.clone());
        }
        while !self.queue.is_empty() {
            self.complete_front(Some(&error));
        }
        self.run = Run::default();
    }

    /// Ends this rank's part. What still runs is given up, nothing can be started any more, and what is
    /// left of the engine is small: a thread may hold on to it for long.
    pub fn end(&mut self, how: Peer, error: Error) {
        if how == Peer::Revoked {
            // Peers see that it was revoked before they see that anything failed.
            self.leave(how);
        }
        if matches!(how, Peer::Aborted | Peer::Revoked) {
            self.fail(error);
        } else {
            self.failure.get_or_insert(error);
        }
        self.leave(how);
        // Of a communicator that is closed in good order only what other threads submitted meanwhile.
        let error = self.failure.clone();
        while !self.queue.is_empty() {
            self.complete_front(error.as_ref());
        }
        self.run = Run::default();
        self.cache.forget();
        self.hands.rest();
    }

    fn leave(&mut self, how: Peer) {
        if !self.has_left {
            self.has_left = true;
            self.recorder.leave();
            self.hands.transport.leave(how);
        }
    }

    /// Ends the communicator if a peer reported a failure.
    pub fn check_raised(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if let Some((rank, text)) = self.hands.transport.raised() {
            self.fail(Error::Remote(format!("rank {rank} reported: {text}")));
        }
    }

    #[cold]
    fn refusal(&self) -> Error {
        let cause = self.failure.as_ref().map_or_else(String::new, ToString::to_string);
        Error::usage(
            "the call",
            format_args!("the communicator failed earlier: {cause}"),
            "abort it, and make a new one or shrink to the survivors",
        )
    }

    /// Gives back plans and scratch, to be made again. Nothing is queued.
    pub fn rest(&mut self) {
        if self.queue.is_empty() {
            self.run = Run::default();
            self.cache.forget();
            self.hands.rest();
        }
    }

    /// Gives back what the transport keeps of memory that peers have freed.
    pub fn forget_freed(&mut self) {
        if !self.has_left {
            self.hands.transport.forget_freed();
        }
    }

    /// Looks whether the peers still take part; ends the communicator if one that matters does not. For long
    /// waits: it may ask the system.
    pub fn check_peers(&mut self) {
        self.check_raised();
        self.compare_standings();
        let (rank, ranks) = (self.hands.rank, self.hands.ranks);
        for peer in (0..ranks).filter(|peer| *peer != rank) {
            if self.queue.is_empty() || self.failure.is_some() {
                return;
            }
            let how = match self.hands.transport.peer(peer) {
                Peer::Alive => continue,
                // What it sent before it left, or before its program just ended, may still lie in its line, and
                // be what is waited for. Whoever does wait for it tells the others.
                _ if self.poll() == Poll::Moved || !self.waited_for().contains(&peer) => continue,
                Peer::Closed => "left the communicator",
                Peer::Aborted => "aborted the communicator",
                Peer::Revoked => "revoked the communicator",
                Peer::Dead => "is gone (its process ended)",
            };
            // It said why before it left, perhaps since this was looked at above.
            self.check_raised();
            if self.failure.is_some() {
                return;
            }
            let current = self.current();
            self.fail(Error::Remote(format!(
                "rank {peer} {how} while rank {rank} was in {current}; \
                 abort the communicator and look at rank {peer}'s log"
            )));
        }
    }

    /// Who is gone, also if nobody waits for it. It ends a communicator on which nothing is under way; what is may
    /// still end well. Asks the system.
    pub fn look_for_death(&mut self) -> Option<Error> {
        let (rank, ranks) = (self.hands.rank, self.hands.ranks);
        let mut peers = (0..ranks).filter(|peer| *peer != rank);
        let gone = peers.find(|peer| self.hands.transport.peer(*peer) == Peer::Dead)?;
        let error = Error::Remote(format!(
            "rank {gone} is gone (its process ended), seen by rank {rank}; \
             abort the communicator, or shrink it, and look at rank {gone}'s log"
        ));
        if self.queue.is_empty() {
            self.fail(error.clone());
        }
        Some(error)
    }

    /// Whether peers have revoked the communicator, and none is lost: how it failed here may follow from that.
    pub fn is_revoked_by_peers(&mut self) -> bool {
        let (rank, ranks) = (self.hands.rank, self.hands.ranks);
        let peers = (0..ranks).filter(|peer| *peer != rank);
        let states: Vec<Peer> = peers.map(|peer| self.hands.transport.peer(peer)).collect();
        states.contains(&Peer::Revoked)
            && !states.iter().any(|state| matches!(state, Peer::Dead | Peer::Aborted))
    }

    /// What runs, and whether it has begun.
    fn running(&self) -> Option<(&Part, bool)> {
        let job = self.queue.front().filter(|job| job.one_sided.is_none())?;
        let part = self.run.part(self.cache.get(job.plan))?;
        Some((part, job.has_started))
    }

    /// The one-sided calls that run.
    fn one_sided(&self) -> Option<&one_sided::Run> {
        self.queue.front().filter(|job| job.has_started)?.one_sided.as_deref()
    }

    /// The peers that the running batch waits for.
    #[must_use]
    pub fn waited_for(&self) -> Vec<u32> {
        if let Some(run) = self.one_sided() {
            return run.waited_for();
        }
        match self.running() {
            Some((part, true)) => self.run.waited_for(part),
            _ => Vec::new(),
        }
    }

    /// The running operation, as a person reads it.
    #[must_use]
    pub fn current(&self) -> String {
        if let Some(run) = self.one_sided() {
            return run.describe();
        }
        let Some(job) = self.queue.front() else { return "nothing".into() };
        let Some((part, is_begun)) = self.running() else { return "nothing".into() };
        match (&part.work, job.ops.as_slice()) {
            (Work::Messages(_), [op]) => {
                format!("{}, message number {}", part.describe(&job.ops, 0), self.hands.message_number(op))
            }
            _ => match self.run.stands_at(part).filter(|_| is_begun) {
                Some(head) => head::describe(head),
                None => part.describe(&job.ops, self.hands.collective_count),
            },
        }
    }
}
