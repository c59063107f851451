//! Reaching somebody of whom several addresses are known: several may be tried at once, and the first that
//! proves to be who is sought wins. An address where somebody else answers is of no consequence. Pure.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::id::Speaker;
use super::message::{Message, list_bytes_max};
use super::proof::{Handshake, Nonce, Secret, Side};
use super::root::Time;
use super::wire::{Frames, Malformed};

/// A connection of a rank, as it numbers them; numbers are not used again.
pub(crate) type Attempt = u64;

/// How long one address may keep silent before it is given up.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);
/// How much later than an address the next one is tried, if nothing is known about the first.
const STAGGER: Duration = Duration::from_millis(100);
/// How long after all addresses failed they are tried again; doubles up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_millis(500);
/// How long every address may refuse before it is believed that nobody is there.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// Why an attempt came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Nobody listens there.
    Refused,
    /// The process there says that it is of no use to come again.
    Gone(String),
    /// Anything else, in the system's words.
    Other(String),
}

/// Who is sought.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) secret: Secret,
    /// What the listener there knows the one by that is sought.
    pub(crate) door: [u8; 16],
    pub(crate) addresses: Vec<SocketAddr>,
    /// They may begin to listen later.
    pub(crate) patient: bool,
    /// Their process listens, and may begin to expect this rank later.
    pub(crate) early: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Connect to this address, and say how it went.
    Connect(Attempt, SocketAddr),
    /// Close it; nothing more is said about it.
    Close(Attempt),
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Reached; what came behind the answer is in `frames`.
    Found { attempt: Attempt, address: SocketAddr, proof: [u8; 32], frames: Frames },
    /// Given up: the time is over, or nobody is there.
    Unreachable { in_time: bool, after: Duration },
}

#[derive(Debug)]
struct Try {
    id: Attempt,
    address: SocketAddr,
    /// Set once it is connected.
    nonce: Option<Nonce>,
    deadline: Time,
    frames: Frames,
}

/// The state of one search.
#[derive(Debug)]
pub(crate) struct Seeker {
    target: Target,
    began: Time,
    bound: Duration,
    tries: Vec<Try>,
    next_attempt: Attempt,
    /// The next address of this round, and when it is due.
    cursor: usize,
    next_try: Time,
    retry: Duration,
    /// Since when nothing but refusals was heard.
    refused_since: Option<Time>,
    only_refusals: bool,
    /// By address: how the last attempt ended.
    obstacles: Vec<Option<Obstacle>>,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    orders: VecDeque<Order>,
    outcome: Option<Outcome>,
    over: bool,
}

impl Seeker {
    /// Begins to seek. Attempts are numbered from `first`.
    pub(crate) fn new(now: Time, target: Target, bound: Duration, first: Attempt) -> Seeker {
        let obstacles = vec![None; target.addresses.len()];
        Seeker {
            target,
            began: now,
            bound,
            tries: Vec::new(),
            next_attempt: first,
            cursor: 0,
            next_try: now,
            retry: RETRY_FIRST,
            refused_since: None,
            only_refusals: true,
            obstacles,
            transmits: VecDeque::new(),
            orders: VecDeque::new(),
            outcome: None,
            over: false,
        }
    }

    /// The connection stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt, nonce: Nonce) {
        let Target { door: communicator, early, .. } = self.target;
        let hello = Message::Hello { speaker: Speaker::own(), communicator, early, nonce };
        if let Some(found) = self.tries.iter_mut().find(|found| found.id == attempt) {
            found.nonce = Some(nonce);
            self.transmits.push_back((attempt, hello.encode()));
        }
    }

    /// The connection could not be made, was closed, or broke.
    pub(crate) fn handle_closed(&mut self, now: Time, attempt: Attempt, obstacle: Obstacle) {
        if let Some(index) = self.tries.iter().position(|found| found.id == attempt) {
            self.give_up_on(now, index, obstacle);
        }
    }

    /// Bytes arrived. Nobody who has proved nothing gets this rank to store more than a short text.
    pub(crate) fn handle_input(&mut self, now: Time, attempt: Attempt, bytes: &[u8]) {
        let Some(index) = self.tries.iter().position(|found| found.id == attempt) else { return };
        let found = &mut self.tries[index];
        found.frames.push(bytes);
        let message = match found.frames.next(list_bytes_max(0)) {
            Ok(None) => return,
            Ok(Some(body)) => Message::decode(body),
            Err(malformed) => Err(malformed),
        };
        match (message, found.nonce) {
            (Ok(Message::Challenge { nonce, proof }), Some(member_nonce)) => {
                let (communicator, secret) = (self.target.door, &self.target.secret);
                let handshake = Handshake { communicator, member_nonce, root_nonce: nonce };
                if handshake.accepts(secret, Side::Root, &proof) {
                    return self.choose(index, handshake.proof(secret, Side::Member));
                }
                let text =
                    "it does not know the secret of this communicator (is SHOAL_SECRET the same everywhere?)";
                self.disappoint(now, index, Obstacle::Other(text.to_owned()));
            }
            (Ok(Message::Refused { gone: true, text }), _) => {
                self.disappoint(now, index, Obstacle::Gone(text));
            }
            (Ok(Message::Refused { text, .. } | Message::Later { text }), _) => {
                self.disappoint(now, index, Obstacle::Other(text))
            }
            (Ok(_) | Err(Malformed(_)), _) => {
                self.disappoint(now, index, Obstacle::Other("something else answers there".to_owned()));
            }
        }
    }

    /// Time passed: starts the attempts that are due, ends those that took too long.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.over {
            return;
        }
        if now >= self.deadline() {
            return self.finish(Outcome::Unreachable { in_time: false, after: self.bound });
        }
        while let Some(index) = self.tries.iter().position(|found| found.deadline <= now) {
            self.disappoint(now, index, Obstacle::Other("no answer".to_owned()));
        }
        if self.cursor >= self.target.addresses.len() && self.tries.is_empty() && now >= self.next_try {
            self.cursor = 0;
            self.only_refusals = true;
        }
        while !self.over && self.cursor < self.target.addresses.len() && now >= self.next_try {
            let (id, address) = (self.next_attempt, self.target.addresses[self.cursor]);
            self.next_attempt += 1;
            self.cursor += 1;
            self.next_try = now + STAGGER;
            let frames = Frames::default();
            self.tries.push(Try { id, address, nonce: None, deadline: now + ATTEMPT_WAIT, frames });
            self.orders.push_back(Order::Connect(id, address));
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let attempts = self.tries.iter().map(|found| found.deadline);
        let next =
            (self.cursor < self.target.addresses.len() || self.tries.is_empty()).then_some(self.next_try);
        attempts.chain(next).chain([self.deadline()]).min()
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        self.transmits.pop_front()
    }

    /// What to do, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// How it ended, once.
    pub(crate) fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Ends all attempts.
    pub(crate) fn stop(&mut self) {
        self.over = true;
        for other in self.tries.drain(..) {
            self.orders.push_back(Order::Close(other.id));
        }
    }

    /// What was tried in vain, as the end of a sentence.
    pub(crate) fn failed(&self) -> String {
        let failed = self.endings().filter_map(|(address, obstacle)| Some((address, obstacle?)));
        let failed: Vec<String> = failed.map(|(address, why)| format!("{address}: {why}")).collect();
        if failed.is_empty() { String::new() } else { format!("; tried in vain: {}", failed.join("; ")) }
    }

    fn endings(&self) -> impl Iterator<Item = (&SocketAddr, Option<&str>)> {
        self.target.addresses.iter().zip(&self.obstacles).map(|(address, obstacle)| {
            let why = obstacle.as_ref().map(|obstacle| match obstacle {
                Obstacle::Refused => "nobody listens",
                Obstacle::Gone(text) | Obstacle::Other(text) => text.as_str(),
            });
            (address, why)
        })
    }

    /// All addresses with how the last attempt ended.
    pub(crate) fn tried(&self) -> String {
        let endings = self.endings().map(|(address, why)| (address, why.unwrap_or("no answer")));
        let tried: Vec<String> = endings.map(|(address, why)| format!("{address}: {why}")).collect();
        if tried.is_empty() { "it offers no address".to_owned() } else { tried.join("; ") }
    }

    fn choose(&mut self, index: usize, proof: [u8; 32]) {
        let Try { id: attempt, address, frames, .. } = self.tries.swap_remove(index);
        self.finish(Outcome::Found { attempt, address, proof, frames });
    }

    fn finish(&mut self, outcome: Outcome) {
        self.stop();
        self.outcome = Some(outcome);
    }

    fn disappoint(&mut self, now: Time, index: usize, obstacle: Obstacle) {
        self.orders.push_back(Order::Close(self.tries[index].id));
        self.give_up_on(now, index, obstacle);
    }

    /// Remembers how an attempt ended, and decides what comes next.
    fn give_up_on(&mut self, now: Time, index: usize, obstacle: Obstacle) {
        let ended = self.tries.swap_remove(index);
        self.only_refusals &= !matches!(obstacle, Obstacle::Other(_));
        if let Some(at) = self.target.addresses.iter().position(|address| *address == ended.address) {
            self.obstacles[at] = Some(obstacle);
        }
        if self.cursor < self.target.addresses.len() {
            self.next_try = now;
            return;
        }
        if !self.tries.is_empty() {
            return;
        }
        let refused_since = *self.refused_since.get_or_insert(now);
        if !self.only_refusals || self.target.patient {
            self.refused_since = None;
        } else if now >= refused_since + REFUSED_WAIT {
            let after = now.saturating_sub(self.began);
            return self.finish(Outcome::Unreachable { in_time: true, after });
        }
        self.next_try = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY_LAST);
    }

    fn deadline(&self) -> Time {
        self.began.saturating_add(self.bound)
    }
}
