//! What a long wait does meanwhile: looks after the peers, gives its verdict, and gives up where a setting says so.
//!
//! Each endpoint has a clock of its own, that starts when nothing more moves on it: that others move is no comfort
//! to those who wait for it.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::{BURST_POLLS, CHECK_EVERY, Endpoint, FORK_DEPTH_MAX, HostEngine, doze, lock};
use crate::config::Config;
use crate::error::Error;
use crate::op::Head;
use crate::system::fork;
use crate::system::wait::{Pause, Waiter};
use crate::trace::log;

/// A wait that goes on has a verdict again after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// So long a wait is told on the other communicators of the process: sooner than the shortest bound after which a peer
/// looks for it there.
const TOLD_ELSEWHERE: Duration = Duration::from_millis(300);
/// After so many rounds in which something moved the clock is looked at, for those on which nothing does.
const BUSY_ROUNDS: u32 = 256;

/// An endpoint on which nothing moves.
#[derive(Debug)]
pub(super) struct Stall {
    /// How far it had come.
    progress: (u64, u64),
    since: Instant,
    /// Verdicts so far.
    told_count: u32,
}

/// One wait.
#[derive(Debug)]
pub(super) struct Patience {
    waiter: Waiter,
    checked_at: Option<Instant>,
    busy_rounds: u32,
}

impl Patience {
    pub(super) fn new(spin_count: u32) -> Patience {
        Patience { waiter: Waiter::new(spin_count / BURST_POLLS), checked_at: None, busy_rounds: 0 }
    }

    /// A moment of waiting for `endpoints`, which are asked for only when it is time to sleep.
    pub(super) fn pause<'a>(&mut self, has_moved: bool, endpoints: impl FnOnce() -> Vec<&'a Arc<Endpoint>>) {
        if has_moved {
            self.waiter.reset();
            self.busy_rounds += 1;
            if self.busy_rounds.is_multiple_of(BUSY_ROUNDS) && self.is_time() {
                look_around(&endpoints());
            }
            return;
        }
        if let Pause::Sleep(bound) = self.waiter.pause() {
            let endpoints = endpoints();
            if self.is_time() {
                look_around(&endpoints);
            }
            doze(&endpoints, bound);
        }
    }

    /// Whether it is time to look around again.
    fn is_time(&mut self) -> bool {
        let now = Instant::now();
        let is_time = self.checked_at.is_none_or(|at| now - at >= CHECK_EVERY);
        if is_time {
            self.checked_at = Some(now);
        }
        is_time
    }
}

fn look_around(endpoints: &[&Arc<Endpoint>]) {
    let mut waits = None;
    for endpoint in endpoints {
        let Some(mut engine) = endpoint.engine.try_take() else { continue };
        // A sleeper must not keep mapped what a peer has freed meanwhile.
        engine.forget_freed();
        engine.check_peers();
        if judge(endpoint, &mut engine) >= TOLD_ELSEWHERE && waits.is_none() {
            waits = engine.head().map(|head| (*endpoint, head));
        }
    }
    if let Some((endpoint, head)) = waits {
        stand_elsewhere(endpoint, head);
    }
}

/// Says what is to be said of a wait, or ends it; how long nothing has moved.
fn judge(endpoint: &Endpoint, engine: &mut HostEngine) -> Duration {
    let mut stall = lock(&endpoint.stall);
    let Some(progress) = engine.progress() else {
        *stall = None;
        return Duration::ZERO;
    };
    let fresh = || Stall { progress, since: Instant::now(), told_count: 0 };
    let stall = stall.get_or_insert_with(fresh);
    if stall.progress != progress {
        *stall = fresh();
    }
    let waited = stall.since.elapsed();
    let config = Config::get();
    if config.timeout.is_some_and(|timeout| waited >= timeout) {
        let verdict = engine.verdict(waited);
        engine.fail(Error::Timeout(format!("{verdict}; SHOAL_TIMEOUT says that this is too long")));
    } else if config.stall.is_some_and(|bound| waited >= bound + AGAIN * stall.told_count) {
        stall.told_count += 1;
        log::warn(format_args!("{}", engine.verdict(waited)));
    }
    waited
}

/// The endpoints of this process, in one place per fork generation, as with the progress thread.
static OPEN: [Mutex<Vec<Weak<Endpoint>>>; FORK_DEPTH_MAX] =
    [const { Mutex::new(Vec::new()) }; FORK_DEPTH_MAX];

fn open() -> &'static Mutex<Vec<Weak<Endpoint>>> {
    &OPEN[fork::generation() as usize % FORK_DEPTH_MAX]
}

/// Makes an endpoint known to the waits of this process.
pub(super) fn enter(endpoint: &Arc<Endpoint>) {
    let mut open = lock(open());
    open.retain(|known| known.strong_count() > 0);
    open.push(Arc::downgrade(endpoint));
}

/// Says on the other communicators of the process that it waits on this one, for peers that miss it there. Of ranks
/// that share their process nobody knows which of them waits where, so nothing is said of them.
fn stand_elsewhere(waiting: &Arc<Endpoint>, head: Head) {
    let all: Vec<Arc<Endpoint>> = lock(open()).iter().filter_map(Weak::upgrade).collect();
    let is_alone = |endpoint: &Endpoint| all.iter().filter(|other| other.id == endpoint.id).count() == 1;
    if !is_alone(waiting) {
        return;
    }
    for other in all.iter().filter(|other| !Arc::ptr_eq(other, waiting) && is_alone(other)) {
        if let Some(mut engine) = other.engine.try_take() {
            engine.stand_elsewhere(head);
        }
    }
}
