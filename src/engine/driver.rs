//! Who polls an engine, and how a wait waits: the only place of the engine with threads and clocks.
//!
//! A thread that waits for its batch polls the engine itself. What a call left unfinished is the business of
//! one thread per process, started with the first such call, asleep while nothing is unfinished. Either way
//! an engine is polled under its baton, in short bursts, so that an abort gets in between.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::stream::Launch;
use super::{Engine, Poll};
use crate::config::Config;
use crate::device::host::Host;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::system::baton::{Baton, Held};
use crate::transport::shm::ShmTransport;
use crate::transport::{Bell, Peer, Transport};

/// The engine that jobs run on.
pub type HostEngine = Engine<ShmTransport, Host>;

/// Polls in a row before the baton is offered to others.
const BURST_POLLS: u32 = 64;
/// How long a wait yields before it sleeps.
const YIELD_BEFORE_SLEEP: Duration = Duration::from_millis(2);
/// How often a long wait looks whether the peers are still there.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// The longest sleep while one engine is waited for: what a lost ring costs at most.
const SLEEP_AT_MOST: Duration = Duration::from_millis(10);
/// The longest sleep while several are, of which only one can ring.
const SLEEP_AMONG_MANY: Duration = Duration::from_micros(500);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An engine, shared by those who may poll it.
#[derive(Debug)]
pub struct Endpoint {
    engine: Baton<HostEngine>,
    bell: Arc<dyn Bell>,
    rank: u32,
    ranks: u32,
    spin_count: u32,
    /// Threads that wait for a batch of it, and therefore poll it.
    waiter_count: AtomicU32,
    is_aborted: AtomicBool,
    /// Whether a failure is known; the engine has the words.
    has_failed: AtomicBool,
}

impl std::fmt::Debug for dyn Bell {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Bell")
    }
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
        let bell = engine.hands.transport.bell();
        Arc::new(Endpoint {
            engine: Baton::new(engine),
            bell,
            rank,
            ranks,
            spin_count,
            waiter_count: AtomicU32::new(0),
            is_aborted: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        })
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

    /// What ended the communicator, if something did.
    pub fn failure(&self) -> Option<Error> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        self.engine.take().failure().cloned()
    }

    /// Gives up what runs and tells the peers. Every thread that waits returns with an error.
    pub fn abort(&self) {
        self.is_aborted.store(true, Ordering::Release);
        self.bell.ring();
        let mut engine = self.engine.take();
        engine.transport().leave(Peer::Aborted);
        engine.fail(Error::Aborted(format!("rank {} of {} aborted the communicator", self.rank, self.ranks)));
        self.has_failed.store(true, Ordering::Release);
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
            let number = engine.submit(ops, plan, None);
            for _ in 0..self.burst_polls() {
                engine.poll();
                if engine.completed() >= number {
                    return self.verdict(&engine);
                }
            }
            number
        };
        wait(&[Ticket { endpoint: Arc::clone(self), number }])
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

    /// With more ranks than cores whoever looks in vain makes room at once.
    #[inline]
    fn burst_polls(&self) -> u32 {
        self.spin_count.clamp(1, BURST_POLLS)
    }

    #[inline]
    fn verdict(&self, engine: &HostEngine) -> Result<()> {
        match engine.failure() {
            None => Ok(()),
            Some(error) => {
                self.has_failed.store(true, Ordering::Release);
                Err(error.clone())
            }
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
        if engine.failure().is_some() {
            self.has_failed.store(true, Ordering::Release);
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
    let mut patience = Patience::new(tickets.iter().map(|ticket| ticket.endpoint.spin_count).min().unwrap_or(0));
    while results.iter().any(Option::is_none) {
        let mut has_moved = false;
        for (ticket, result) in tickets.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            *result = ticket.poll(&mut has_moved);
        }
        let left: Vec<&Arc<Endpoint>> = tickets
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_none())
            .map(|(ticket, _)| &ticket.endpoint)
            .collect();
        patience.pause(has_moved, &left);
    }
    for ticket in tickets {
        ticket.endpoint.waiter_count.fetch_sub(1, Ordering::AcqRel);
    }
    if tickets.iter().any(|ticket| ticket.endpoint.engine.take().submitted() > ticket.number) {
        nudge();
    }
    results.into_iter().flatten().collect()
}

/// Waits for something that the progress thread brings about.
pub fn wait_until(is_done: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_done() {
        if started.elapsed() < YIELD_BEFORE_SLEEP {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// The one wait strategy: spin, yield, sleep; and what a long wait does meanwhile.
#[derive(Debug)]
struct Patience {
    spin_count: u32,
    looks: u32,
    /// Set with the first yield.
    idle_since: Option<Instant>,
    checked_at: Option<Instant>,
    has_warned: bool,
}

impl Patience {
    fn new(spin_count: u32) -> Patience {
        Patience { spin_count, looks: 0, idle_since: None, checked_at: None, has_warned: false }
    }

    fn pause(&mut self, has_moved: bool, endpoints: &[&Arc<Endpoint>]) {
        if has_moved {
            self.looks = 0;
            self.idle_since = None;
            return;
        }
        if endpoints.is_empty() {
            return;
        }
        self.looks = self.looks.saturating_add(BURST_POLLS);
        if self.looks < self.spin_count {
            std::hint::spin_loop();
            return;
        }
        let now = Instant::now();
        let idle_since = *self.idle_since.get_or_insert(now);
        let idle = now - idle_since;
        if idle < YIELD_BEFORE_SLEEP {
            std::thread::yield_now();
        } else {
            self.look_around(now, idle, endpoints);
            doze(endpoints);
        }
    }

    fn look_around(&mut self, now: Instant, idle: Duration, endpoints: &[&Arc<Endpoint>]) {
        if self.checked_at.is_some_and(|at| now - at < CHECK_EVERY) {
            return;
        }
        self.checked_at = Some(now);
        let config = Config::get();
        for endpoint in endpoints {
            let Some(mut engine) = endpoint.engine.try_take() else { continue };
            engine.check_peers();
            if idle >= config.warn_after && !self.has_warned {
                self.has_warned = true;
                warn_of_long_wait(endpoint, &engine, idle);
            }
            if config.timeout.is_some_and(|timeout| idle >= timeout) {
                let (current, peers) = (engine.current(), names(&engine.waited_for()));
                engine.fail(Error::Timeout(format!(
                    "rank {} waited {} s in {current} for {peers}; SHOAL_TIMEOUT says that is too long",
                    endpoint.rank,
                    idle.as_secs()
                )));
            }
        }
    }
}

fn warn_of_long_wait(endpoint: &Endpoint, engine: &HostEngine, idle: Duration) {
    let peers = engine.waited_for();
    crate::trace::log::warn(format_args!(
        "rank {} of {} has waited {} s in {}; missing: {}",
        endpoint.rank,
        endpoint.ranks,
        idle.as_secs(),
        engine.current(),
        names(&peers)
    ));
}

fn names(peers: &[u32]) -> String {
    if peers.is_empty() {
        return "earlier work of its streams".into();
    }
    let list: Vec<String> = peers.iter().map(|peer| format!("rank {peer}")).collect();
    list.join(", ")
}

/// Sleeps until one of the endpoints may go on. Only the first one's bell can be slept on.
fn doze(endpoints: &[&Arc<Endpoint>]) {
    for endpoint in endpoints {
        endpoint.bell.announce();
    }
    // Whoever sends from here on rings; what came before is seen by this look.
    let is_stuck = endpoints.iter().all(|endpoint| {
        endpoint.poll_burst(|_| true).is_some_and(|poll| poll != Poll::Moved) && !endpoint.is_aborted()
    });
    if is_stuck {
        let bound = if endpoints.len() == 1 { SLEEP_AT_MOST } else { SLEEP_AMONG_MANY };
        endpoints[0].bell.sleep(bound);
    }
    for endpoint in endpoints {
        endpoint.bell.retract();
    }
}

/// What the progress thread of one process (not of its forked children) works on.
struct Progress {
    unfinished: Mutex<Vec<Ticket>>,
    woken: Condvar,
}

/// The progress of this process; a forked child makes its own.
static PROGRESS: Mutex<Option<(u32, &'static Progress)>> = Mutex::new(None);

fn progress() -> &'static Progress {
    let process = std::process::id();
    let mut current = lock(&PROGRESS);
    if let Some((owner, progress)) = *current {
        if owner == process {
            return progress;
        }
    }
    let progress: &'static Progress =
        Box::leak(Box::new(Progress { unfinished: Mutex::new(Vec::new()), woken: Condvar::new() }));
    *current = Some((process, progress));
    crate::system::thread::spawn("shoal-progress", move || progress.run());
    progress
}

/// Leaves batches to the progress thread.
pub fn finish_behind(tickets: Vec<Ticket>) {
    let progress = progress();
    lock(&progress.unfinished).extend(tickets);
    progress.woken.notify_one();
}

/// Wakes the progress thread, if it was ever needed.
fn nudge() {
    if let Some((_, progress)) = *lock(&PROGRESS) {
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
            patience.pause(has_moved || lock(&self.unfinished).len() != before, &waiting);
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
            if engine.failure().is_some() {
                ticket.endpoint.has_failed.store(true, Ordering::Release);
            }
            engine.completed() < ticket.number
        });
    }
}
