//! A member's side of the exchange: finds the root among its addresses, proves itself, hands in its card, and
//! takes steps with the others. Pure: the driver passes in what arrived and what time it is.
//!
//! ```text
//! Seeking --valid Challenge--> Joining --Table--> Ready <--Contribute / Gathered--> Stepping
//!    '----------------------------'------------------'--> Over, with the error that all calls return
//! ```
//! While it seeks, several addresses may be tried at once; the first that proves to be the root wins. An
//! address where somebody else answers is of no consequence.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Message, Naming, root_body_bytes_max, seconds};
use super::proof::{Handshake, Nonce, Secret, Side};
use super::root::Time;
use super::wire::{Frames, Malformed};
use crate::error::Error;
use crate::topology::Card;

/// An attempt to reach the root, as this machine numbers them; numbers are not used again.
pub(crate) type Attempt = u64;

/// How long one address may keep silent before it is given up.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);
/// How much later than an address the next one is tried, if nothing is known about the first.
const STAGGER: Duration = Duration::from_millis(100);
/// How long after all addresses failed they are tried again; doubles up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_millis(500);
/// How long every address may refuse before it is believed that the root is gone.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// The least silence of the root, which speaks once a second, that counts as its death.
const SILENCE_MIN: Duration = Duration::from_secs(10);

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

/// What the driver is asked to do.
#[derive(Debug)]
pub(crate) enum Event {
    /// Connect to this address, and say how it went.
    Connect(Attempt, SocketAddr),
    /// Close it; nothing more is said about it.
    Close(Attempt),
    /// All ranks came.
    Joined(Vec<Card>),
    /// All ranks contributed.
    Gathered(Vec<Vec<u8>>),
    /// The session is over.
    Failed(Error),
}

/// What a member is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) secret: Secret,
    pub(crate) communicator: [u8; 16],
    pub(crate) addresses: Vec<SocketAddr>,
    /// The root may begin to listen later.
    pub(crate) patient: bool,
    /// The root's process listens, and may begin to expect this rank later.
    pub(crate) early: bool,
    /// How long to wait for the others.
    pub(crate) bound: Duration,
    pub(crate) naming: Naming,
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

#[derive(Clone, Debug)]
enum State {
    Seeking,
    Joining { since: Time },
    Ready,
    Stepping { since: Time },
    Over(Error),
}

/// The state of one member.
#[derive(Debug)]
pub(crate) struct Member {
    settings: Settings,
    card: Card,
    began: Time,
    state: State,
    /// While seeking all that are under way, afterwards the one that won.
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
    step: u32,
    last_heard: Time,
    progress: String,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    events: VecDeque<Event>,
}

impl Member {
    pub(crate) fn new(now: Time, settings: Settings, card: Card) -> Member {
        let obstacles = vec![None; settings.addresses.len()];
        Member {
            settings,
            card,
            began: now,
            state: State::Seeking,
            tries: Vec::new(),
            next_attempt: 0,
            cursor: 0,
            next_try: now,
            retry: RETRY_FIRST,
            refused_since: None,
            only_refusals: true,
            obstacles,
            step: 0,
            last_heard: now,
            progress: String::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The connection stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, _now: Time, attempt: Attempt, nonce: Nonce) {
        let (communicator, early) = (self.settings.communicator, self.settings.early);
        if let Some(found) = self.tries.iter_mut().find(|found| found.id == attempt) {
            found.nonce = Some(nonce);
            let hello = Message::Hello { communicator, early, nonce };
            self.transmits.push_back((attempt, hello.encode()));
        }
    }

    /// The connection could not be made, was closed, or broke.
    pub(crate) fn handle_closed(&mut self, now: Time, attempt: Attempt, obstacle: Obstacle) {
        let Some(index) = self.tries.iter().position(|found| found.id == attempt) else { return };
        if matches!(self.state, State::Seeking) {
            return self.give_up_on(now, index, obstacle);
        }
        let how = match obstacle {
            Obstacle::Refused => "refused".to_owned(),
            Obstacle::Gone(text) | Obstacle::Other(text) => text,
        };
        let text = format!(
            "the connection to the root at {} ended ({how}); look at the log of the rank that made the unique id",
            self.tries[index].address
        );
        self.tries.clear();
        self.finish(Error::Remote(text));
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, attempt: Attempt, bytes: &[u8]) {
        let body_bytes_max = root_body_bytes_max(self.card.ranks);
        if let Some(found) = self.tries.iter_mut().find(|found| found.id == attempt) {
            found.frames.push(bytes);
            self.last_heard = now;
        }
        // What is handled may end the attempt, so it is looked up for every message.
        while let Some(index) = self.tries.iter().position(|found| found.id == attempt) {
            let seeking = matches!(self.state, State::Seeking);
            // Nobody who has proved nothing gets this rank to store more than a short text.
            let body_bytes_max = if seeking { root_body_bytes_max(0) } else { body_bytes_max };
            let message = match self.tries[index].frames.next(body_bytes_max) {
                Ok(None) => return,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            match message {
                Ok(message) if seeking => self.handle_stranger(now, index, message),
                Ok(message) => self.handle_message(message),
                Err(Malformed(_)) if seeking => self.disappoint(now, index, "something else answers there"),
                Err(Malformed(rule)) => self.finish(Error::Remote(format!(
                    "the root at {} sent what cannot be understood: {rule}",
                    self.tries[index].address
                ))),
            }
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        match self.state {
            State::Seeking => self.seek(now),
            State::Joining { since } | State::Stepping { since } => {
                let silence = SILENCE_MIN.max(self.settings.bound / 4);
                if now >= self.deadline(since) {
                    let heard = if self.progress.is_empty() { "nothing" } else { &self.progress };
                    let text = format!(
                        "rank {}: the root at {} did not answer within {}; last heard: {heard}",
                        self.card.rank,
                        self.root_address(),
                        seconds(self.settings.bound)
                    );
                    self.finish(Error::Timeout(text));
                } else if now >= self.last_heard + silence {
                    let text = format!(
                        "the root at {} is silent since {}; look at the log of the rank that made the unique id",
                        self.root_address(),
                        seconds(silence)
                    );
                    self.finish(Error::Remote(text));
                }
            }
            State::Ready | State::Over(_) => {}
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Seeking => {
                let attempts = self.tries.iter().map(|found| found.deadline);
                let next = (self.cursor < self.settings.addresses.len() || self.tries.is_empty())
                    .then_some(self.next_try);
                attempts.chain(next).chain([self.seek_deadline()]).min()
            }
            State::Joining { since } | State::Stepping { since } => {
                let silence = self.last_heard + SILENCE_MIN.max(self.settings.bound / 4);
                Some(self.deadline(since).min(silence))
            }
            State::Ready | State::Over(_) => None,
        }
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        self.transmits.pop_front()
    }

    /// What is to be done or known, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Hands in this rank's part of the next step; `Gathered` or `Failed` follows.
    pub(crate) fn contribute(&mut self, now: Time, bytes: &[u8]) {
        match &self.state {
            State::Ready => {
                let message = Message::Contribute { step: self.step, bytes: bytes.to_vec() };
                self.send(&message);
                self.state = State::Stepping { since: now };
                self.last_heard = now;
                self.progress.clear();
            }
            State::Over(error) => {
                let error = error.clone();
                self.events.push_back(Event::Failed(error));
            }
            State::Seeking | State::Joining { .. } | State::Stepping { .. } => {
                self.finish(Error::Internal("a step of the birth out of turn".into()));
            }
        }
    }

    /// Tells all others that this rank cannot go on.
    pub(crate) fn fail(&mut self, text: &str) {
        if !matches!(self.state, State::Over(_) | State::Seeking) {
            self.send(&Message::Fail { text: text.to_owned() });
        }
        self.state = State::Over(Error::Remote(format!("rank {}: {text}", self.card.rank)));
    }

    /// Takes leave in good order.
    pub(crate) fn leave(&mut self) {
        if !matches!(self.state, State::Over(_) | State::Seeking) {
            self.send(&Message::Leave);
        }
        self.state = State::Over(Error::Internal("the session was left".into()));
    }

    /// Who was missing when the root last said so; empty if it did not.
    pub(crate) fn progress(&self) -> &str {
        &self.progress
    }

    fn handle_stranger(&mut self, now: Time, index: usize, message: Message) {
        let found = &self.tries[index];
        match (message, found.nonce) {
            (Message::Challenge { nonce, proof }, Some(member_nonce)) => {
                let communicator = self.settings.communicator;
                let handshake = Handshake { communicator, member_nonce, root_nonce: nonce };
                if !handshake.accepts(&self.settings.secret, Side::Root, &proof) {
                    let text = "it does not know the secret of this communicator (is SHOAL_SECRET the same everywhere?)";
                    return self.disappoint(now, index, text);
                }
                self.choose(now, index, &handshake);
            }
            (Message::Refused { gone: true, text }, _) => {
                self.events.push_back(Event::Close(self.tries[index].id));
                self.give_up_on(now, index, Obstacle::Gone(text));
            }
            (Message::Refused { text, .. }, _) => self.disappoint(now, index, &text),
            _ => self.disappoint(now, index, "something else answers there"),
        }
    }

    /// This one is the root; the other attempts end.
    fn choose(&mut self, now: Time, index: usize, handshake: &Handshake) {
        let won = self.tries.swap_remove(index);
        for other in self.tries.drain(..) {
            self.events.push_back(Event::Close(other.id));
        }
        self.tries.push(won);
        self.state = State::Joining { since: now };
        self.send(&Message::Proof { proof: handshake.proof(&self.settings.secret, Side::Member) });
        let bound_ms = u64::try_from(self.settings.bound.as_millis()).unwrap_or(u64::MAX);
        self.send(&Message::Card { bound_ms, card: self.card.clone() });
    }

    fn handle_message(&mut self, message: Message) {
        match (message, &self.state) {
            (Message::Table(cards), State::Joining { .. }) => {
                let fits = cards.len() == self.card.ranks as usize
                    && cards.iter().zip(0..).all(|(card, rank)| card.rank == rank)
                    && cards[self.card.rank as usize] == self.card;
                if !fits {
                    return self.finish(Error::Internal("the root's table of ranks does not fit".into()));
                }
                self.state = State::Ready;
                self.events.push_back(Event::Joined(cards));
            }
            (Message::Gathered { step, parts }, State::Stepping { .. }) => {
                if step != self.step || parts.len() != self.card.ranks as usize {
                    return self.finish(Error::Internal("the root's answer to a step does not fit".into()));
                }
                self.step += 1;
                self.state = State::Ready;
                self.events.push_back(Event::Gathered(parts));
            }
            (Message::Failed(failure), _) => self.finish(failure.into_error()),
            (Message::Refused { text, .. }, _) => {
                let text = format!("the root at {} turned this rank away: {text}", self.root_address());
                self.finish(Error::Remote(text));
            }
            (Message::Progress { text }, _) => self.progress = text,
            _ => self.finish(Error::Internal("the root spoke out of turn".into())),
        }
    }

    fn finish(&mut self, error: Error) {
        for found in self.tries.drain(..) {
            self.events.push_back(Event::Close(found.id));
        }
        // A rank that takes no step right now hears of it at its next.
        if !matches!(self.state, State::Ready | State::Over(_)) {
            self.events.push_back(Event::Failed(error.clone()));
        }
        if !matches!(self.state, State::Over(_)) {
            self.state = State::Over(error);
        }
    }

    /// Starts the attempts that are due, ends those that took too long.
    fn seek(&mut self, now: Time) {
        if now >= self.seek_deadline() {
            return self.finish(Error::Timeout(self.unreachable_text(self.settings.bound)));
        }
        while let Some(index) = self.tries.iter().position(|found| found.deadline <= now) {
            self.disappoint(now, index, "no answer");
        }
        if self.cursor >= self.settings.addresses.len() && self.tries.is_empty() && now >= self.next_try {
            self.cursor = 0;
            self.only_refusals = true;
        }
        while self.cursor < self.settings.addresses.len() && now >= self.next_try {
            let (id, address) = (self.next_attempt, self.settings.addresses[self.cursor]);
            self.next_attempt += 1;
            self.cursor += 1;
            self.next_try = now + STAGGER;
            let frames = Frames::default();
            self.tries.push(Try { id, address, nonce: None, deadline: now + ATTEMPT_WAIT, frames });
            self.events.push_back(Event::Connect(id, address));
        }
    }

    fn disappoint(&mut self, now: Time, index: usize, text: &str) {
        self.events.push_back(Event::Close(self.tries[index].id));
        self.give_up_on(now, index, Obstacle::Other(text.to_owned()));
    }

    /// Remembers how an attempt ended, and decides what comes next.
    fn give_up_on(&mut self, now: Time, index: usize, obstacle: Obstacle) {
        let ended = self.tries.swap_remove(index);
        self.only_refusals &= !matches!(obstacle, Obstacle::Other(_));
        if let Some(at) = self.settings.addresses.iter().position(|address| *address == ended.address) {
            self.obstacles[at] = Some(obstacle);
        }
        if self.cursor < self.settings.addresses.len() {
            self.next_try = now;
            return;
        }
        if !self.tries.is_empty() {
            return;
        }
        let refused_since = *self.refused_since.get_or_insert(now);
        if !self.only_refusals || self.settings.patient {
            self.refused_since = None;
        } else if now >= refused_since + REFUSED_WAIT {
            let text = self.unreachable_text(now - self.began);
            return self.finish(Error::Remote(text));
        }
        self.next_try = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY_LAST);
    }

    fn unreachable_text(&self, span: Duration) -> String {
        let tried: Vec<String> = self
            .settings
            .addresses
            .iter()
            .zip(&self.obstacles)
            .map(|(address, obstacle)| match obstacle {
                None => format!("{address}: no answer"),
                Some(Obstacle::Refused) => format!("{address}: nobody listens"),
                Some(Obstacle::Gone(text) | Obstacle::Other(text)) => format!("{address}: {text}"),
            })
            .collect();
        if self.settings.naming.parent.is_some() {
            let (root, rank) = (self.name(0), self.name(self.card.rank));
            return format!(
                "{root} did not come, or could not be reached by {rank}, within {} ({}); {} (SHOAL_INIT_TIMEOUT \
                 sets the bound)",
                seconds(span),
                tried.join("; "),
                self.settings.naming.advice()
            );
        }
        format!(
            "rank {} of {} could not reach the root within {} ({}); look whether the process that made the unique id \
             still runs, whether the id was used before, and whether SHOAL_SOCKET_IFNAME names the right network",
            self.card.rank,
            self.card.ranks,
            seconds(span),
            tried.join("; ")
        )
    }

    fn name(&self, rank: u32) -> String {
        self.settings.naming.name(&[rank], self.card.ranks)
    }

    fn seek_deadline(&self) -> Time {
        self.began.saturating_add(self.settings.bound)
    }

    /// The root speaks first when the bound is over, so that all hear the same; this is for when it does not.
    fn deadline(&self, since: Time) -> Time {
        since.saturating_add(self.settings.bound + self.settings.bound / 16 + Duration::from_millis(500))
    }

    fn root_address(&self) -> String {
        self.tries.first().map_or_else(|| "an unknown address".to_owned(), |won| won.address.to_string())
    }

    fn send(&mut self, message: &Message) {
        if let Some(won) = self.tries.first() {
            self.transmits.push_back((won.id, message.encode()));
        }
    }
}
