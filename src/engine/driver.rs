//! Who polls an engine, and how a wait waits: the only place of the engine with threads and clocks.
//!
//! A thread that waits for its batch polls the engine itself. What a call left unfinished is the business of
//! one thread per process, started with the first such call, asleep while nothing is unfinished. Either way
//! an engine is polled under its baton, in short bursts, so that an abort gets in between.

mod patience;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use patience::{Patience, Stall};

use super::counts::Counter;
use super::one_sided::OneSided;
use super::stream::Launch;
use super::{Engine, Pass, Poll};
use crate::device::host::Host;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::system::baton::{Baton, Held};
use crate::system::wait::{Pause, Waiter};
use crate::system::{fork, thread};
use crate::transport::shm::BulkCounts;
use crate::transport::{Bell, Lines, Peer, sleep_unless};

/// The engine that jobs run on.
pub type HostEngine = Engine<Lines, Host>;

/// Polls in a row before the baton is offered to others.
const BURST_POLLS: u32 = 64;
/// Lone messages up to this size are tried the short way. A longer one gains nothing by it.
const PASS_BYTES: usize = 4096;
/// How often a long wait looks whether the peers are still there.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// The longest sleep between two looks at what the progress thread does.
const LOOK_EVERY: Duration = Duration::from_micros(500);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An engine, shared by those who may poll it.
#[derive(Debug)]
pub struct Endpoint {
    engine: Baton<HostEngine>,
    /// Taken with the transport; looked at only by who sleeps or aborts.
    bell: Mutex<Option<Bell>>,
    rank: u32,
    ranks: u32,
    spin_count: u32,
    /// Lone messages of so many bytes and more go the long way.
    pass_end: usize,
    /// Threads that wait for a batch of it, and therefore poll it.
    waiter_count: AtomicU32,
    is_aborted: AtomicBool,
    look: Mutex<Look>,
    /// Since when nothing has moved.
    stall: Mutex<Option<Stall>>,
    /// The communicator, for all who see it.
    id: u128,
    /// Why it had failed when it was revoked.
    cause: Mutex<Option<Error>>,
    /// The failure that a call has returned.
    told: OnceLock<Error>,
}

/// The last look at peers for which nobody waits.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    death: Option<Error>,
}

/// A batch that was handed over.
#[derive(Clone, Debug)]
pub struct Ticket {
    endpoint: Arc<Endpoint>,
    number: u64,
}

impl Endpoint {
    /// Shares an engine. `spin_count` looks go by before a wait yields.
    pub fn new(engine: HostEngine, rank: u32, ranks: u32, spin_count: u32) -> Arc<Endpoint> {
        let bell = Mutex::new(Some(engine.hands.transport.bell()));
        let id = engine.hands.transport.id();
        let pass_end = if engine.is_traced() { 0 } else { PASS_BYTES + 1 };
        let endpoint = Arc::new(Endpoint {
            engine: Baton::new(engine),
            bell,
            rank,
            ranks,
            spin_count,
            pass_end,
            waiter_count: AtomicU32::new(0),
            is_aborted: AtomicBool::new(false),
            look: Mutex::default(),
            stall: Mutex::default(),
            id,
            cause: Mutex::default(),
            told: OnceLock::new(),
        });
        patience::enter(&endpoint);
        endpoint
    }

    /// The engine, once nobody polls it.
    #[inline]
    pub fn engine(&self) -> Held<'_, HostEngine> {
        self.engine.take()
    }

    /// Whether the communicator was aborted.
    pub fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Acquire)
    }

    /// What ended the communicator, here or on a peer, or which peer died although nobody waits for it. For
    /// GetAsyncError: it does not wait, and asks the system now and then only.
    pub fn check(&self) -> Option<Error> {
        let Some(mut engine) = self.engine.try_take() else { return self.told.get().cloned() };
        engine.check_raised();
        if let Some(error) = engine.failure() {
            return Some(error.clone());
        }
        let mut look = lock(&self.look);
        if look.at.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
            look.at = Some(Instant::now());
            look.death = engine.look_for_death();
        }
        look.death.clone()
    }

    /// What ended the communicator, as far as is known here.
    pub fn failure(&self) -> Option<Error> {
        self.engine.take().failure().cloned()
    }

    /// What was counted since the birth, also by which paths large packets came.
    pub fn counters(&self) -> Vec<Counter> {
        let mut engine = self.engine.take();
        let mut list = engine.counters();
        let peers = (0..self.ranks).filter(|peer| *peer != self.rank);
        let paths: Vec<_> = peers.map(|peer| engine.transport().near().bulk_counts(peer)).collect();
        let mut add = |name, path: fn(&BulkCounts) -> u64| {
            list.push(Counter::new(name, paths.iter().map(path).sum()));
        };
        add(c"bulk_direct", |counts| counts.direct);
        add(c"bulk_mapped", |counts| counts.mapped);
        add(c"bulk_attached", |counts| counts.attached);
        add(c"bulk_streamed", |counts| counts.streamed);
        list
    }

    /// Why it is broken for good. That it was revoked, here or by peers, is no reason.
    pub fn cause(&self) -> Option<Error> {
        if lock(&self.bell).is_some() { self.failure() } else { lock(&self.cause).clone() }
    }

    /// Whether everything that was handed over is done.
    pub fn is_idle(&self) -> bool {
        let engine = self.engine.take();
        engine.completed() == engine.submitted()
    }

    /// Waits until everything that was handed over is done.
    ///
    /// # Errors
    /// What went wrong.
    pub fn drain(self: &Arc<Self>) -> Result<()> {
        let number = self.engine.take().submitted();
        wait(&[Ticket { endpoint: Arc::clone(self), number }])
    }

    /// Leaves in good order, and gives back what is shared with the peers.
    pub fn close(&self) {
        let gone = Error::usage("the call", "the communicator was destroyed", "make a new one");
        self.engine.take().end(Peer::Closed, gone);
        lock(&self.bell).take();
    }

    /// Gives up what runs, tells the peers and gives back what is shared with them. Every thread that waits
    /// returns with an error.
    pub fn abort(&self) {
        self.stop(Peer::Aborted, "aborted");
    }

    /// The same, but peers see that it was revoked.
    pub fn revoke(&self) {
        self.stop(Peer::Revoked, "revoked");
    }

    fn stop(&self, how: Peer, did: &str) {
        self.is_aborted.store(true, Ordering::Release);
        if let Some(bell) = &*lock(&self.bell) {
            bell.ring();
        }
        let mut engine = self.engine.take();
        if how == Peer::Revoked && !engine.is_revoked_by_peers() {
            *lock(&self.cause) = engine.failure().cloned();
        }
        engine
            .end(how, Error::Aborted(format!("rank {} of {} {did} the communicator", self.rank, self.ranks)));
        lock(&self.bell).take();
    }

    /// Tells the peers that this rank leaves, without waiting for anything: for the end of the process, whose
    /// threads may hold what they like.
    pub fn depart(&self) {
        if let Ok(bell) = self.bell.try_lock()
            && let Some(bell) = &*bell
        {
            bell.depart();
        }
    }

    /// One batch on the NULL stream: hands it over and waits for it.
    ///
    /// # Errors
    /// The communicator failed before, the batch cannot be run, or what went wrong.
    #[inline]
    pub fn run(self: &Arc<Self>, ops: &[Op]) -> Result<()> {
        let number = {
            let mut engine = self.engine.take();
            let plan = engine.prepare(ops)?;
            let number = engine.run(ops, plan, self.burst_polls());
            let mut polls_left = self.spin_count;
            while engine.completed() < number && polls_left > 0 && !self.is_aborted() {
                if engine.poll() == Poll::Waiting {
                    std::hint::spin_loop();
                }
                polls_left -= 1;
            }
            if engine.completed() >= number {
                return self.verdict(&engine);
            }
            number
        };
        wait(&[Ticket { endpoint: Arc::clone(self), number }])
    }

    /// Does a lone message the short way, if it comes to that soon. `false`: nothing has happened.
    #[inline]
    pub fn pass(&self, op: &Op) -> bool {
        if op.shape.peer == self.rank || op.bytes() >= self.pass_end {
            return false;
        }
        let mut engine = self.engine.take();
        for _ in 0..self.burst_polls() {
            match engine.pass(op) {
                Pass::Done => return true,
                Pass::No => return false,
                // The pause leaves the line that is looked at to the peer that is writing it.
                Pass::NotYet => std::hint::spin_loop(),
            }
        }
        false
    }

    /// Queues a batch that was prepared.
    ///
    /// # Errors
    /// The communicator failed before, or the batch cannot be run.
    pub fn submit(self: &Arc<Self>, ops: &[Op], launch: Option<Arc<Launch>>) -> Result<Ticket> {
        let mut engine = self.engine.take();
        let plan = engine.prepare(ops)?;
        Ok(Ticket { endpoint: Arc::clone(self), number: engine.submit(ops, plan, launch) })
    }

    /// Queues one-sided calls.
    ///
    /// # Errors
    /// The communicator failed before.
    pub fn submit_one_sided(
        self: &Arc<Self>,
        calls: Vec<OneSided>,
        launch: Option<Arc<Launch>>,
    ) -> Result<Ticket> {
        let number = self.engine.take().submit_one_sided(calls, launch)?;
        Ok(Ticket { endpoint: Arc::clone(self), number })
    }

    /// With more ranks than cores whoever looks in vain makes room at once.
    #[inline]
    fn burst_polls(&self) -> u32 {
        self.spin_count.clamp(1, BURST_POLLS)
    }

    #[inline]
    fn verdict(&self, engine: &HostEngine) -> Result<()> {
        match engine.failure() {
            None => Ok(()),
            Some(error) => Err(self.told.get_or_init(|| error.clone()).clone()),
        }
    }

    /// Polls a burst; what the last poll did, or `None` if somebody else polls.
    fn poll_burst(&self, done: impl Fn(&HostEngine) -> bool) -> Option<Poll> {
        let mut engine = self.engine.try_take()?;
        let mut poll = Poll::Idle;
        for _ in 0..self.burst_polls() {
            if self.is_aborted.load(Ordering::Relaxed) {
                break;
            }
            poll = engine.poll();
            if done(&engine) || poll == Poll::Idle {
                break;
            }
        }
        Some(poll)
    }
}

impl Ticket {
    /// Polls for it; `Some` once it is done.
    fn poll(&self, has_moved: &mut bool) -> Option<Result<()>> {
        let poll = self.endpoint.poll_burst(|engine| engine.completed() >= self.number);
        *has_moved |= poll == Some(Poll::Moved);
        let engine = self.endpoint.engine.try_take()?;
        (engine.completed() >= self.number).then(|| self.endpoint.verdict(&engine))
    }
}

/// Waits until every batch is done; the first error in their order, if any failed.
///
/// # Errors
/// What went wrong.
pub fn wait(tickets: &[Ticket]) -> Result<()> {
    for ticket in tickets {
        ticket.endpoint.waiter_count.fetch_add(1, Ordering::AcqRel);
    }
    let mut results: Vec<Option<Result<()>>> = tickets.iter().map(|_| None).collect();
    let mut patience =
        Patience::new(tickets.iter().map(|ticket| ticket.endpoint.spin_count).min().unwrap_or(0));
    let mut left_count = tickets.len();
    while left_count > 0 {
        let mut has_moved = false;
        for (ticket, result) in tickets.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            *result = ticket.poll(&mut has_moved);
            left_count -= usize::from(result.is_some());
        }
        let unfinished = tickets.iter().zip(&results).filter(|(_, result)| result.is_none());
        patience
            .pause(has_moved || left_count == 0, || unfinished.map(|(ticket, _)| &ticket.endpoint).collect());
    }
    for ticket in tickets {
        ticket.endpoint.waiter_count.fetch_sub(1, Ordering::AcqRel);
    }
    results.into_iter().flatten().collect()
}

/// Waits for something that the progress thread brings about.
pub fn wait_until(is_done: impl Fn() -> bool) {
    let mut waiter = Waiter::new(0);
    while !is_done() {
        if let Pause::Sleep(_) = waiter.pause() {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Sleeps until one of the endpoints may go on.
fn doze(endpoints: &[&Arc<Endpoint>], bound: Duration) {
    let bells: Vec<Bell> = endpoints.iter().filter_map(|endpoint| lock(&endpoint.bell).clone()).collect();
    sleep_unless(&bells, bound, || {
        endpoints.iter().any(|endpoint| {
            endpoint.is_aborted() || endpoint.poll_burst(|_| true).is_none_or(|poll| poll != Poll::Waiting)
        })
    });
}

/// What the progress thread works on.
#[derive(Default)]
struct Progress {
    unfinished: Mutex<Vec<Ticket>>,
    woken: Condvar,
}

/// How deep forks may nest between processes that each use streams.
const FORK_DEPTH_MAX: usize = 64;

/// The progress of this process: one place per fork generation, since in a forked child the parent's thread
/// does not run and its locks may have been copied while held.
static PROGRESS: [OnceLock<Progress>; FORK_DEPTH_MAX] = [const { OnceLock::new() }; FORK_DEPTH_MAX];

fn place() -> &'static OnceLock<Progress> {
    &PROGRESS[fork::generation() as usize % FORK_DEPTH_MAX]
}

/// Makes sure that the progress thread runs. To be called before anything is left to it.
///
/// # Errors
/// It could not be started.
pub fn ensure_progress() -> Result<()> {
    if place().get().is_some() {
        return Ok(());
    }
    let progress = place().get_or_init(Progress::default);
    thread::spawn("shoal-progress", move || progress.run()).map(drop)
}

/// Leaves batches to the progress thread, which runs.
pub fn finish_behind(tickets: Vec<Ticket>) {
    if let Some(progress) = place().get() {
        lock(&progress.unfinished).extend(tickets);
        progress.woken.notify_one();
    }
}

impl Progress {
    fn run(&self) {
        let mut patience = Patience::new(0);
        loop {
            let tickets = self.wait_for_work();
            let mut has_moved = false;
            // One poll per engine: its batches are done in order.
            let mut polled: Vec<*const Endpoint> = Vec::new();
            let mut waiting: Vec<&Arc<Endpoint>> = Vec::new();
            for ticket in &tickets {
                let endpoint = &ticket.endpoint;
                if polled.contains(&Arc::as_ptr(endpoint)) {
                    continue;
                }
                polled.push(Arc::as_ptr(endpoint));
                waiting.push(endpoint);
                // A thread that waits for this engine polls it, sooner than this one would.
                if endpoint.waiter_count.load(Ordering::Acquire) == 0 {
                    has_moved |= endpoint.poll_burst(|_| false) == Some(Poll::Moved);
                }
            }
            let before = tickets.len();
            self.drop_finished();
            let is_shorter = lock(&self.unfinished).len() != before;
            patience.pause(has_moved || is_shorter, || waiting);
        }
    }

    fn wait_for_work(&self) -> Vec<Ticket> {
        let mut unfinished = lock(&self.unfinished);
        while unfinished.is_empty() {
            unfinished = self.woken.wait(unfinished).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        unfinished.clone()
    }

    fn drop_finished(&self) {
        lock(&self.unfinished).retain(|ticket| {
            let Some(engine) = ticket.endpoint.engine.try_take() else { return true };
            engine.completed() < ticket.number
        });
    }
}
