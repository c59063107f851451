//! A rank's place in the tree of ranks: its connections to the rank above and to those directly under it, and
//! the steps that all take together. Pure.
//!
//! ```text
//! step:   own part and those of all under me --Contribute--> the rank above
//!         the rank above --Gathered, all parts--> those under me
//! ```
//! So nobody has more connections than the tree is deep and wide, and each part crosses every edge twice. While
//! a step takes long, each rank says to its neighbours whom it waits for, so that whoever runs out of time first
//! can name who is missing. A failure goes to all neighbours but the one that it came from.
#![forbid(unsafe_code)]

mod missing;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::epitaph::Legacy;
use super::guests::{Guests, Proven};
use super::message::{Failure, FailureKind, Message, Naming, list_bytes_max, seconds};
use super::proof::{Nonce, Secret, door};
use super::root::Time;
use super::seek::{Attempt, Obstacle, Order, Outcome, Seeker, Target};
use super::tree::Shape;
use super::wire::{Frames, Malformed};
use crate::error::Error;
use crate::topology::Card;

/// Attempts to reach the rank above are numbered from here; below are those to reach the root.
pub(crate) const FIRST_UP: Attempt = 1 << 32;
/// Connections that others made are numbered from here.
pub(crate) const FIRST_VISITOR: Attempt = 2 << 32;
/// How often those who wait say for whom, at most.
const WORD_EVERY: Duration = Duration::from_secs(1);
/// How long a rank that gave up still tries to reach the one above, which would wait for it in vain.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);
/// What the driver is asked to do.
#[derive(Debug)]
pub(crate) enum Event {
    Order(Order),
    /// How the rank above was reached, for the log.
    Reached(String),
    /// All ranks contributed.
    Gathered(Vec<Vec<u8>>),
    /// It is over.
    Failed(Error),
}

/// What a place is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Of this birth alone.
    pub(crate) secret: Secret,
    pub(crate) rank: u32,
    pub(crate) shape: Shape,
    pub(crate) bound: Duration,
    pub(crate) naming: Naming,
    /// There are roots, which tell all others what went wrong before they have met.
    pub(crate) is_watched: bool,
}

/// What is still to be done by a rank that gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWords {
    Said,
    /// The rank above is not reached yet; by when it must be, once that is known.
    Pending(Option<Time>),
}

#[derive(Debug)]
struct Edge {
    rank: u32,
    /// The ranks under it, itself the first; none of the rank above.
    under: Range<u32>,
    about: String,
    connection: Option<Attempt>,
    frames: Frames,
    /// What those under it contributed to the current step.
    bundle: Option<Vec<Vec<u8>>>,
    /// For whom it waited when it last said so, at which step.
    waits_for: Option<(u32, Vec<u32>)>,
    /// How it went, if it did.
    gone: Option<&'static str>,
}

/// The state of one rank's place.
#[derive(Debug)]
pub(crate) struct Branch {
    settings: Settings,
    about: String,
    /// The rank above first, if there is one.
    edges: Vec<Edge>,
    seeker: Option<Seeker>,
    guests: Guests,
    next_visitor: Attempt,
    step: u32,
    own: Option<Vec<u8>>,
    /// Since when this rank waits in the current step.
    since: Option<Time>,
    is_handed_up: bool,
    next_word: Time,
    over: Option<Error>,
    last_words: LastWords,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    events: VecDeque<Event>,
}

impl Branch {
    /// Takes the place. `card_of` knows every neighbour.
    pub(crate) fn new<'a>(
        now: Time,
        settings: Settings,
        card_of: impl Fn(u32) -> Option<&'a Card>,
        to_try: impl Fn(&Card) -> Vec<std::net::SocketAddr>,
    ) -> Result<Branch, Error> {
        let Settings { rank, shape, .. } = settings;
        let card = |of: u32| {
            card_of(of)
                .ok_or_else(|| Error::Internal(format!("rank {rank} does not know its neighbour {of}")))
        };
        let edge = |of: u32, under: Range<u32>| -> Result<Edge, Error> {
            Ok(Edge {
                rank: of,
                under,
                about: card(of)?.describe(),
                connection: None,
                frames: Frames::default(),
                bundle: None,
                waits_for: None,
                gone: None,
            })
        };
        let above = shape.parent(rank);
        let mut edges = Vec::new();
        let mut seeker = None;
        if let Some(above) = above {
            edges.push(edge(above, 0..0)?);
            let target = Target {
                secret: settings.secret,
                door: door(&settings.secret, above),
                addresses: to_try(card(above)?),
                patient: false,
                early: true,
            };
            // The step's bound ends the search, with the names of all who are missing.
            seeker = Some(Seeker::new(now, target, Duration::MAX, FIRST_UP));
        }
        for under in shape.children(rank) {
            edges.push(edge(under.start, under)?);
        }
        let guests = Guests::new(settings.secret, door(&settings.secret, rank));
        Ok(Branch {
            about: card(rank)?.describe(),
            settings,
            edges,
            seeker,
            guests,
            next_visitor: FIRST_VISITOR,
            step: 0,
            own: None,
            since: None,
            is_handed_up: false,
            next_word: Time::ZERO,
            over: None,
            last_words: LastWords::Said,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// What the listener of this process knows this rank by.
    pub(crate) fn door(&self) -> [u8; 16] {
        self.guests.door()
    }

    /// The connection to the rank above stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt, nonce: Nonce) {
        if let Some(seeker) = &mut self.seeker {
            seeker.handle_connected(attempt, nonce);
        }
    }

    /// Someone came to this rank's door, and said `words`. `nonce` is fresh. Says as what it is known.
    pub(crate) fn handle_visitor(&mut self, now: Time, nonce: Nonce, words: &[u8]) -> Attempt {
        let id = self.next_visitor;
        self.next_visitor += 1;
        self.guests.handle_arrival(now, id, nonce);
        self.handle_input(now, id, words);
        if let Some(error) = &self.over {
            // It may not get to say who it is before the driver closes.
            self.guests.tell(&Message::Failed(Failure::from_error(error)));
        }
        id
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, id: Attempt, bytes: &[u8]) {
        let is_edge = self.edges.iter().any(|edge| edge.connection == Some(id));
        if let Some(seeker) = self.seeker.as_mut().filter(|_| id < FIRST_VISITOR && !is_edge) {
            seeker.handle_input(now, id, bytes);
            return self.follow_seeker(now);
        }
        if self.guests.holds(id) {
            if let Some(proven) = self.guests.handle_input(id, bytes) {
                self.attach(now, proven);
            }
        } else if let Some(edge) = self.edges.iter_mut().find(|edge| edge.connection == Some(id)) {
            edge.frames.push(bytes);
            self.handle_edge_frames(now, id);
        }
    }

    /// The other side closed, or the connection broke.
    pub(crate) fn handle_closed(&mut self, now: Time, id: Attempt, obstacle: Obstacle) {
        self.guests.handle_closed(id);
        if let Some(index) = self.edges.iter().position(|edge| edge.connection == Some(id)) {
            self.depart(index, "went away");
        } else if let Some(seeker) = &mut self.seeker {
            seeker.handle_closed(now, id, obstacle);
            self.follow_seeker(now);
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if let Some(seeker) = &mut self.seeker {
            seeker.handle_timeout(now);
            self.follow_seeker(now);
        }
        self.guests.handle_timeout(now);
        match self.last_words {
            LastWords::Said => {}
            LastWords::Pending(None) => self.last_words = LastWords::Pending(Some(now + LAST_WORDS_WAIT)),
            LastWords::Pending(Some(due)) if due <= now => self.say_last_words(),
            LastWords::Pending(Some(_)) => {}
        }
        let Some(since) = self.since.filter(|_| self.over.is_none()) else { return };
        if now >= since.saturating_add(self.bound()) {
            let text = self.timeout_text();
            self.finish(None, Failure::new(FailureKind::Timeout, text));
        } else if now >= self.next_word {
            self.next_word = now + self.word_every();
            self.say_whom_it_waits_for();
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let seeker = self.seeker.as_ref().and_then(Seeker::poll_timeout);
        let since = self.since.filter(|_| self.over.is_none());
        let step = since.map(|since| since.saturating_add(self.bound()).min(self.next_word));
        let step = match self.last_words {
            LastWords::Said => step,
            LastWords::Pending(due) => Some(due.unwrap_or(Time::ZERO)),
        };
        [seeker, self.guests.poll_timeout(), step].into_iter().flatten().min()
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        let of_seeker = self.seeker.as_mut().and_then(Seeker::poll_transmit);
        of_seeker.or_else(|| self.guests.poll_transmit()).or_else(|| self.transmits.pop_front())
    }

    /// What is to be done or known, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let order = self.seeker.as_mut().and_then(Seeker::poll_order);
        order.or_else(|| self.guests.poll_order()).map(Event::Order).or_else(|| self.events.pop_front())
    }

    /// Hands in this rank's part of the next step; `Gathered` or `Failed` follows.
    pub(crate) fn contribute(&mut self, now: Time, bytes: Vec<u8>) {
        if self.since.is_some() {
            return self.finish(None, Failure::new(FailureKind::Remote, "a step of the birth out of turn"));
        }
        self.since = Some(now);
        self.own = Some(bytes);
        self.next_word = now + self.word_every();
        if let Some(error) = &self.over {
            self.events.push_back(Event::Failed(error.clone()));
        } else if let Some(edge) = self.edges.iter().find(|edge| edge.gone.is_some()) {
            let text = format!("{} {} before {}", edge.about, edge.gone.unwrap_or("left"), self.step_name());
            self.finish(None, Failure::new(FailureKind::Remote, text));
        } else {
            self.advance();
        }
    }

    /// Tells all others that this rank cannot go on.
    pub(crate) fn fail(&mut self, text: &str) {
        let text = format!("{}: {text}", self.about);
        self.since = None;
        self.finish(None, Failure::new(FailureKind::Remote, text));
    }

    /// All others have heard, or hear from elsewhere, what went wrong.
    pub(crate) fn take_over(&mut self, failure: &Failure) {
        self.finish(None, failure.clone());
    }

    /// Takes leave in good order.
    pub(crate) fn leave(&mut self) {
        if self.over.is_none() {
            self.broadcast(None, &Message::Leave);
            self.over = Some(Error::Internal("the session was left".into()));
        }
    }

    /// What those hear that come to its door after it gave up, if somebody may come.
    pub(crate) fn legacy(&self) -> Option<Legacy> {
        let waits = self.edges.iter().any(|edge| !edge.under.is_empty() && edge.connection.is_none());
        let error = self.over.as_ref().filter(|_| self.step == 0 && waits)?;
        let (secret, door, failure) = (self.settings.secret, self.guests.door(), Failure::from_error(error));
        Some(Legacy { secret, door, failure })
    }

    /// Whom this rank waits for, as far as it knows.
    pub(crate) fn missing_text(&self) -> String {
        if self.since.is_none() { String::new() } else { self.name(&self.missing()) }
    }

    fn follow_seeker(&mut self, now: Time) {
        match self.seeker.as_mut().and_then(Seeker::poll_outcome) {
            None => {}
            Some(Outcome::Found { attempt, address, proof, frames }) => {
                let failed = self.seeker.as_ref().map(Seeker::failed).unwrap_or_default();
                let (own, above) = (self.settings.rank, self.edges[0].rank);
                let text = format!("rank {own} reached rank {above} at {address}{failed}");
                self.events.push_back(Event::Reached(text));
                let edge = &mut self.edges[0];
                (edge.connection, edge.frames) = (Some(attempt), frames);
                self.send(attempt, &Message::Proof { proof });
                self.send(attempt, &Message::Attach { rank: self.settings.rank });
                if let Some(error) = &self.over {
                    let message = Message::Failed(Failure::from_error(error));
                    self.send(attempt, &message);
                    return self.say_last_words();
                }
                self.advance();
                self.handle_edge_frames(now, attempt);
            }
            Some(Outcome::Unreachable { .. }) if self.over.is_some() => self.say_last_words(),
            Some(Outcome::Unreachable { after, .. }) => {
                let text = format!(
                    "{} could not be reached by {} within {} ({}); look whether it still runs, and whether \
                     SHOAL_SOCKET_IFNAME names the right network",
                    self.name(&[self.edges[0].rank]),
                    self.name(&[self.settings.rank]),
                    seconds(after),
                    self.seeker.as_ref().map(Seeker::tried).unwrap_or_default()
                );
                self.finish(None, Failure::new(FailureKind::Remote, text));
            }
        }
    }

    fn attach(&mut self, now: Time, proven: Proven) {
        let Proven { connection, rank, frames } = proven;
        if let Some(error) = &self.over {
            let message = Message::Failed(Failure::from_error(error));
            self.send(connection, &message);
            return self.order(Order::Close(connection));
        }
        let edge =
            self.edges.iter_mut().find(|edge| edge.rank == rank && edge.under.start == rank && rank > 0);
        match edge.filter(|edge| edge.connection.is_none() && edge.gone.is_none()) {
            Some(edge) => {
                (edge.connection, edge.frames) = (Some(connection), frames);
                self.handle_edge_frames(now, connection);
            }
            None => self.guests.turn_away(connection),
        }
    }

    fn handle_edge_frames(&mut self, now: Time, id: Attempt) {
        while let Some(index) = self.edges.iter().position(|edge| edge.connection == Some(id)) {
            let edge = &mut self.edges[index];
            let count =
                if edge.under.is_empty() { self.settings.shape.ranks as usize } else { edge.under.len() };
            let message = match edge.frames.next(list_bytes_max(count)) {
                Ok(None) => return,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            match message {
                Ok(message) => self.handle_message(now, index, message),
                Err(Malformed(rule)) => {
                    let text = format!("{} sent what cannot be understood: {rule}", self.edges[index].about);
                    self.finish(None, Failure::new(FailureKind::Remote, text));
                }
            }
            if self.over.is_some() {
                return;
            }
        }
    }

    fn handle_message(&mut self, _now: Time, index: usize, message: Message) {
        let edge = &mut self.edges[index];
        let is_above = edge.under.is_empty();
        match message {
            Message::Contribute { step, parts } if !is_above => {
                if step != self.step || edge.bundle.is_some() || parts.len() != edge.under.len() {
                    let text = format!("{} is at step {step}, others at {}", edge.about, self.step);
                    return self.finish(None, Failure::new(FailureKind::Mismatch, text));
                }
                edge.bundle = Some(parts);
                self.advance();
            }
            Message::Gathered { step, parts } if is_above && self.since.is_some() => {
                if step != self.step || parts.len() != self.settings.shape.ranks as usize {
                    let text = format!("{} is at step {step}, others at {}", edge.about, self.step);
                    return self.finish(None, Failure::new(FailureKind::Mismatch, text));
                }
                self.complete(parts);
            }
            Message::Waiting { step, ranks } => edge.waits_for = Some((step, ranks)),
            Message::Failed(failure) => self.finish(Some(index), failure),
            Message::Leave => {
                if let Some(id) = edge.connection {
                    self.order(Order::Close(id));
                }
                self.depart(index, "left");
            }
            _ => {
                let text = format!("{} spoke out of turn", edge.about);
                self.finish(None, Failure::new(FailureKind::Remote, text));
            }
        }
    }

    /// Hands on what is complete.
    fn advance(&mut self) {
        let is_complete = self.own.is_some()
            && self.edges.iter().all(|edge| edge.under.is_empty() || edge.bundle.is_some());
        if !is_complete || self.is_handed_up || self.over.is_some() {
            return;
        }
        let above = self.settings.rank > 0;
        let connection = self.edges.first().and_then(|edge| edge.connection);
        if above && connection.is_none() {
            return;
        }
        let mut parts: Vec<Vec<u8>> = self.own.take().into_iter().collect();
        for edge in &mut self.edges {
            parts.extend(edge.bundle.take().into_iter().flatten());
        }
        match connection.filter(|_| above) {
            Some(connection) => {
                self.is_handed_up = true;
                self.send(connection, &Message::Contribute { step: self.step, parts });
            }
            None => self.complete(parts),
        }
    }

    fn complete(&mut self, parts: Vec<Vec<u8>>) {
        let message = Message::Gathered { step: self.step, parts };
        self.broadcast(Some(0).filter(|_| self.settings.rank > 0), &message);
        self.step += 1;
        self.since = None;
        self.is_handed_up = false;
        self.edges.iter_mut().for_each(|edge| edge.waits_for = None);
        if let Message::Gathered { parts, .. } = message {
            self.events.push_back(Event::Gathered(parts));
        }
    }

    /// A neighbour's connection is gone.
    fn depart(&mut self, index: usize, how: &'static str) {
        let edge = &mut self.edges[index];
        edge.connection = None;
        edge.gone = Some(how);
        if self.since.is_some() && self.over.is_none() {
            let when = if self.step == 0 { "before all ranks had met".to_owned() } else { self.during() };
            let text = format!("{} {how} {when}; look at its log", self.edges[index].about);
            self.finish(None, Failure::new(FailureKind::Remote, text));
        }
    }

    /// Ends it for everyone but the neighbour that said so.
    fn finish(&mut self, origin: Option<usize>, failure: Failure) {
        if self.over.is_some() {
            return;
        }
        self.broadcast(origin, &Message::Failed(failure.clone()));
        self.guests.tell(&Message::Failed(failure.clone()));
        self.over = Some(failure.into_error());
        let above = self.edges.first().filter(|edge| edge.under.is_empty());
        let is_unreached = above.is_some_and(|above| above.connection.is_none() && above.gone.is_none());
        if is_unreached && self.since.is_some() && !self.settings.is_watched && self.seeker_goes_on() {
            self.last_words = LastWords::Pending(None);
        } else {
            self.say_last_words();
        }
    }

    fn seeker_goes_on(&self) -> bool {
        self.seeker.as_ref().is_some_and(|seeker| seeker.poll_timeout().is_some())
    }

    /// All who can be reached have heard of it; so does the caller.
    fn say_last_words(&mut self) {
        self.last_words = LastWords::Said;
        if let Some(seeker) = &mut self.seeker {
            seeker.stop();
        }
        // A rank that takes no step right now hears of it at its next.
        if let Some(error) = self.over.as_ref().filter(|_| self.since.is_some()) {
            self.events.push_back(Event::Failed(error.clone()));
        }
    }

    /// The first step is the exchange of the cards, which people do not count.
    fn step_name(&self) -> String {
        match self.step.checked_sub(1) {
            None => "the birth".to_owned(),
            Some(step) => format!("step {step} of the birth"),
        }
    }

    fn during(&self) -> String {
        format!("during {}", self.step_name())
    }

    /// Where leaders wait for other roots these speak first, since they know who is missing.
    fn bound(&self) -> Duration {
        let bound = self.settings.bound;
        let by_several = self.step == 0 && self.settings.shape.groups > 1;
        if by_several { bound + bound / 16 + Duration::from_millis(500) } else { bound }
    }

    fn word_every(&self) -> Duration {
        WORD_EVERY.min(self.settings.bound / 32).max(Duration::from_millis(10))
    }

    /// One frame, shared by all who get it.
    fn broadcast(&mut self, except: Option<usize>, message: &Message) {
        let bytes = message.encode();
        for (index, edge) in self.edges.iter().enumerate() {
            if let Some(connection) = edge.connection.filter(|_| Some(index) != except) {
                self.transmits.push_back((connection, bytes.clone()));
            }
        }
    }

    fn send(&mut self, connection: Attempt, message: &Message) {
        self.transmits.push_back((connection, message.encode()));
    }

    fn order(&mut self, order: Order) {
        self.events.push_back(Event::Order(order));
    }
}
