//! A rank's side of the exchange: reaches the root and hears who its neighbours are, then takes its place in the
//! tree of ranks. Pure: the driver passes in what arrived and what time it is.
//!
//! ```text
//! birth:   Seeking --valid Challenge--> Joining --Introduction--> Standing --all cards--> met
//! child:                                       (neighbours known) Standing --all cards--> met
//! met:     <--Contribute / Gathered--> any number of steps
//! ```
//! Until all have met the root listens too: whoever fails or dies before is told to all at once.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::branch::{self, Branch, FIRST_UP};
use super::epitaph::Legacy;
use super::interfaces::{Links, tried};
use super::message::{Failure, Message, Naming, card_bytes, card_from_bytes, list_bytes_max, seconds};
use super::proof::{Nonce, Secret, birth_secret};
use super::root::Time;
pub(crate) use super::seek::{Attempt, Obstacle};
use super::seek::{Order, Outcome, Seeker, Target};
use super::wire::{Frames, Malformed};
use crate::error::Error;
use crate::topology::Card;

/// The least silence of the root, which speaks once a second, that counts as its death.
const SILENCE_MIN: Duration = Duration::from_secs(10);
/// How long to wait for the birth that is under way in one's place.
const LATER_WAIT: Duration = Duration::from_millis(100);
/// More cards than a rank has neighbours.
const NEIGHBOURS_MAX: usize = 64;

/// What the driver is asked to do.
#[derive(Debug)]
pub(crate) enum Event {
    /// Connect to this address, and say how it went.
    Connect(Attempt, SocketAddr),
    /// Send what is queued there, then close it; nothing more is said about it.
    Close(Attempt),
    /// How somebody was reached, for the log.
    Reached(String),
    /// Hand in who comes to this door of the process.
    Expect([u8; 16]),
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
    /// How long to wait for the others.
    pub(crate) bound: Duration,
    pub(crate) naming: Naming,
    /// Which of others' addresses are tried from here, and how.
    pub(crate) links: Links,
}

/// Where it stands with the root.
#[derive(Debug)]
enum Meeting {
    Seeking(Box<Seeker>),
    /// Known to the root; `since` when.
    Joining {
        connection: Attempt,
        address: SocketAddr,
        frames: Frames,
        since: Time,
    },
    /// Nothing to do with the root (any more).
    Done,
}

/// The state of one member.
#[derive(Debug)]
pub(crate) struct Member {
    settings: Settings,
    card: Card,
    meeting: Meeting,
    branch: Option<Branch>,
    met: bool,
    over: Option<Error>,
    last_heard: Time,
    next_attempt: Attempt,
    progress: String,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    events: VecDeque<Event>,
}

impl Member {
    /// One that has an id.
    pub(crate) fn new(now: Time, settings: Settings, card: Card) -> Member {
        let seeker = Self::seeker(now, &settings, settings.bound, 0);
        Self::with(now, settings, card, Meeting::Seeking(Box::new(seeker)))
    }

    /// One that knows all others: `cards` of the parent by the new ranks.
    pub(crate) fn derived(now: Time, settings: Settings, card: Card, cards: &[Card]) -> Member {
        let mut member = Self::with(now, settings, card, Meeting::Done);
        let secret = member.settings.secret;
        member.stand(now, secret, |rank| cards.get(rank as usize));
        member
    }

    fn with(now: Time, settings: Settings, card: Card, meeting: Meeting) -> Member {
        Member {
            settings,
            card,
            meeting,
            branch: None,
            met: false,
            over: None,
            last_heard: now,
            next_attempt: 0,
            progress: String::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    fn seeker(now: Time, settings: &Settings, bound: Duration, first: Attempt) -> Seeker {
        let target = Target {
            secret: settings.secret,
            door: settings.communicator,
            addresses: settings.addresses.clone(),
            patient: settings.patient,
            early: false,
        };
        Seeker::new(now, target, bound, first)
    }

    /// The connection stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt, nonce: Nonce) {
        match (&mut self.meeting, &mut self.branch) {
            (Meeting::Seeking(seeker), _) if attempt < FIRST_UP => seeker.handle_connected(attempt, nonce),
            (_, Some(branch)) => branch.handle_connected(attempt, nonce),
            _ => {}
        }
    }

    /// Someone came to this rank's door, and said `words`. `nonce` is fresh. Says as what it is known.
    pub(crate) fn handle_visitor(&mut self, now: Time, nonce: Nonce, words: &[u8]) -> Option<Attempt> {
        let id = self.branch.as_mut()?.handle_visitor(now, nonce, words);
        self.follow_branch(now);
        Some(id)
    }

    /// The connection could not be made, was closed, or broke.
    pub(crate) fn handle_closed(&mut self, now: Time, attempt: Attempt, obstacle: Obstacle) {
        if attempt >= FIRST_UP {
            if let Some(branch) = &mut self.branch {
                branch.handle_closed(now, attempt, obstacle);
                self.follow_branch(now);
            }
            return;
        }
        match &mut self.meeting {
            Meeting::Seeking(seeker) => {
                seeker.handle_closed(now, attempt, obstacle);
                self.follow_seeker(now);
            }
            Meeting::Joining { connection, address, .. } if *connection == attempt => {
                // Who has its place does not need the root.
                if self.branch.is_some() {
                    self.meeting = Meeting::Done;
                    return;
                }
                let how = match obstacle {
                    Obstacle::Refused => "refused".to_owned(),
                    Obstacle::Gone(text) | Obstacle::Other(text) => text,
                };
                let text = format!(
                    "the connection to the root at {address} ended ({how}); look at the log of the rank that made \
                     the unique id"
                );
                self.meeting = Meeting::Done;
                self.finish(Error::Remote(text));
            }
            _ => {}
        }
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, attempt: Attempt, bytes: &[u8]) {
        if attempt >= FIRST_UP {
            if let Some(branch) = &mut self.branch {
                branch.handle_input(now, attempt, bytes);
                self.follow_branch(now);
            }
            return;
        }
        match &mut self.meeting {
            Meeting::Seeking(seeker) => {
                seeker.handle_input(now, attempt, bytes);
                self.follow_seeker(now);
            }
            Meeting::Joining { connection, frames, .. } if *connection == attempt => {
                frames.push(bytes);
                self.last_heard = now;
                self.handle_root_frames(now);
            }
            _ => {}
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if let Meeting::Seeking(seeker) = &mut self.meeting {
            seeker.handle_timeout(now);
            self.follow_seeker(now);
        }
        if let Some(branch) = &mut self.branch {
            branch.handle_timeout(now);
            return self.follow_branch(now);
        }
        let Meeting::Joining { address, since, .. } = &self.meeting else { return };
        let silence = self.silence();
        if now >= self.deadline(*since) {
            let heard = if self.progress.is_empty() { "nothing" } else { &self.progress };
            let text = format!(
                "rank {}: the root at {address} did not answer within {}; last heard: {heard}",
                self.card.rank,
                seconds(self.settings.bound)
            );
            self.finish(Error::Timeout(text));
        } else if now >= self.last_heard + silence {
            let text = format!(
                "the root at {address} is silent since {}; look at the log of the rank that made the unique id",
                seconds(silence)
            );
            self.finish(Error::Remote(text));
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        if self.over.is_some() {
            return None;
        }
        match (&self.meeting, &self.branch) {
            (Meeting::Seeking(seeker), _) => seeker.poll_timeout(),
            (_, Some(branch)) => branch.poll_timeout(),
            (Meeting::Joining { since, .. }, None) => {
                Some(self.deadline(*since).min(self.last_heard + self.silence()))
            }
            (Meeting::Done, None) => None,
        }
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        let seeking = match &mut self.meeting {
            Meeting::Seeking(seeker) => seeker.poll_transmit(),
            _ => None,
        };
        let own = seeking.or_else(|| self.transmits.pop_front());
        own.or_else(|| self.branch.as_mut().and_then(Branch::poll_transmit))
    }

    /// What is to be done or known, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if let Meeting::Seeking(seeker) = &mut self.meeting
            && let Some(order) = seeker.poll_order()
        {
            return Some(Self::from_order(order));
        }
        self.events.pop_front()
    }

    /// Hands in this rank's part of the next step; `Gathered` or `Failed` follows.
    pub(crate) fn contribute(&mut self, now: Time, bytes: &[u8]) {
        match (&self.over, &mut self.branch) {
            (Some(error), _) => self.events.push_back(Event::Failed(error.clone())),
            (None, Some(branch)) => {
                branch.contribute(now, bytes.to_vec());
                self.follow_branch(now);
            }
            (None, None) => self.finish(Error::Internal("a step of the birth before it began".into())),
        }
    }

    /// Tells all others that this rank cannot go on.
    pub(crate) fn fail(&mut self, text: &str) {
        if self.over.is_some() {
            return;
        }
        if let Meeting::Joining { connection, .. } = self.meeting {
            self.send(connection, &Message::Fail { text: text.to_owned() });
        }
        if let Some(branch) = &mut self.branch {
            branch.fail(text);
        }
        self.over = Some(Error::Remote(format!("rank {}: {text}", self.card.rank)));
    }

    /// Takes leave in good order.
    pub(crate) fn leave(&mut self) {
        if self.over.is_some() {
            return;
        }
        if let Meeting::Joining { connection, .. } = self.meeting {
            self.send(connection, &Message::Leave);
        }
        if let Some(branch) = &mut self.branch {
            branch.leave();
        }
        self.over = Some(Error::Internal("the session was left".into()));
    }

    /// What those hear that come to its door after it gave up, if somebody may come.
    pub(crate) fn legacy(&self) -> Option<Legacy> {
        self.branch.as_ref().and_then(Branch::legacy)
    }

    /// For whom this rank waits, as far as it knows; empty if it does not.
    pub(crate) fn progress(&self) -> String {
        match &self.branch {
            Some(branch) => format!("waiting for {}", branch.missing_text()),
            None => self.progress.clone(),
        }
    }

    fn follow_seeker(&mut self, now: Time) {
        let Meeting::Seeking(seeker) = &mut self.meeting else { return };
        let Some(outcome) = seeker.poll_outcome() else { return };
        let (tried, failed) = (seeker.tried(), seeker.failed());
        let leftovers: Vec<_> = std::iter::from_fn(|| seeker.poll_order()).collect();
        let hellos: Vec<_> = std::iter::from_fn(|| seeker.poll_transmit()).collect();
        self.transmits.extend(hellos);
        self.events.extend(leftovers.into_iter().map(Self::from_order));
        match outcome {
            Outcome::Found { attempt, address, proof, frames } => {
                self.next_attempt = attempt + 1;
                let text = format!("rank {} reached the root at {address}{failed}", self.card.rank);
                self.events.push_back(Event::Reached(text));
                self.last_heard = now;
                self.meeting = Meeting::Joining { connection: attempt, address, frames, since: now };
                self.send(attempt, &Message::Proof { proof });
                let bound_ms = u64::try_from(self.settings.bound.as_millis()).unwrap_or(u64::MAX);
                let card = Card { payload: Vec::new(), ..self.card.clone() };
                self.send(attempt, &Message::Card { bound_ms, card });
                self.handle_root_frames(now);
            }
            Outcome::Unreachable { in_time, after } => {
                self.meeting = Meeting::Done;
                let text = format!(
                    "rank {} of {} could not reach the root within {} ({tried}); look whether the process that \
                     made the unique id still runs, whether the id was used before, and whether \
                     SHOAL_SOCKET_IFNAME names the right network",
                    self.card.rank,
                    self.card.ranks,
                    seconds(after),
                );
                self.finish(if in_time { Error::Remote(text) } else { Error::Timeout(text) });
            }
        }
    }

    fn from_order(order: Order) -> Event {
        match order {
            Order::Connect(attempt, address) => Event::Connect(attempt, address),
            Order::Close(attempt) => Event::Close(attempt),
        }
    }

    fn handle_root_frames(&mut self, now: Time) {
        while let Meeting::Joining { frames, address, .. } = &mut self.meeting {
            if self.over.is_some() {
                return;
            }
            let message = match frames.next(list_bytes_max(NEIGHBOURS_MAX)) {
                Ok(None) => return,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            match message {
                Ok(message) => self.handle_root_message(now, message),
                Err(Malformed(rule)) => {
                    let text = format!("the root at {address} sent what cannot be understood: {rule}");
                    self.finish(Error::Remote(text));
                }
            }
        }
    }

    fn handle_root_message(&mut self, now: Time, message: Message) {
        let Meeting::Joining { connection, address, since, .. } = &self.meeting else { return };
        match message {
            Message::Introduction { birth, cards } if self.branch.is_none() => {
                let secret = birth_secret(&self.settings.secret, &birth);
                self.stand(now, secret, |rank| cards.iter().find(|card| card.rank == rank));
            }
            Message::Failed(failure) => {
                // The neighbours hear it from the root as well.
                if let Some(branch) = &mut self.branch {
                    branch.take_over(&failure);
                }
                self.finish(failure.into_error());
            }
            Message::Later { .. } if self.branch.is_none() => {
                let (connection, left) = (*connection, self.deadline(*since).saturating_sub(now));
                self.events.push_back(Event::Close(connection));
                let seeker = Self::seeker(now + LATER_WAIT, &self.settings, left, self.next_attempt);
                self.meeting = Meeting::Seeking(Box::new(seeker));
            }
            Message::Refused { text, .. } => {
                let text = format!("the root at {address} turned this rank away: {text}");
                self.finish(Error::Remote(text));
            }
            Message::Progress { text } => self.progress = text,
            _ => self.finish(Error::Internal("the root spoke out of turn".into())),
        }
    }

    /// Takes the place in the tree, and hands in the card as the first step.
    fn stand<'a>(&mut self, now: Time, secret: Secret, card_of: impl Fn(u32) -> Option<&'a Card>) {
        let Card { rank, ranks, .. } = self.card;
        let settings = branch::Settings {
            secret,
            rank,
            ranks,
            bound: self.settings.bound,
            naming: self.settings.naming.clone(),
        };
        let links = &self.settings.links;
        match Branch::new(now, settings, card_of, |card| tried(&card.listeners, links)) {
            Ok(mut branch) => {
                self.events.push_back(Event::Expect(branch.door()));
                branch.contribute(now, card_bytes(&self.card));
                branch.handle_timeout(now);
                self.branch = Some(branch);
                self.follow_branch(now);
            }
            Err(error) => self.finish(error),
        }
    }

    fn follow_branch(&mut self, _now: Time) {
        while let Some(event) = self.branch.as_mut().and_then(Branch::poll_event) {
            match event {
                branch::Event::Reached(text) => self.events.push_back(Event::Reached(text)),
                branch::Event::Order(order) => self.events.push_back(Self::from_order(order)),
                branch::Event::Gathered(parts) if self.met => self.events.push_back(Event::Gathered(parts)),
                branch::Event::Gathered(parts) => self.meet(&parts),
                branch::Event::Failed(error) => self.finish(error),
            }
        }
    }

    /// All cards are there.
    fn meet(&mut self, parts: &[Vec<u8>]) {
        let cards: Option<Vec<Card>> = parts.iter().map(|bytes| card_from_bytes(bytes).ok()).collect();
        let fits = |cards: &Vec<Card>| {
            cards.len() == self.card.ranks as usize
                && cards.iter().zip(0..).all(|(card, rank)| card.rank == rank)
                && cards[self.card.rank as usize] == self.card
        };
        let Some(cards) = cards.filter(fits) else {
            return self.finish(Error::Internal("the table of ranks does not fit".into()));
        };
        self.met = true;
        if let Meeting::Joining { connection, .. } = std::mem::replace(&mut self.meeting, Meeting::Done) {
            self.send(connection, &Message::Leave);
            self.events.push_back(Event::Close(connection));
        }
        self.events.push_back(Event::Joined(cards));
    }

    fn finish(&mut self, error: Error) {
        if self.over.is_some() {
            return;
        }
        if let Meeting::Seeking(seeker) = &mut self.meeting {
            seeker.stop();
        }
        // Who waits for this rank, or is known to the root, hears of it now.
        if let Meeting::Joining { connection, .. } = self.meeting
            && self.branch.is_some()
        {
            self.send(connection, &Message::Failed(Failure::from_error(&error)));
        }
        self.events.push_back(Event::Failed(error.clone()));
        self.over = Some(error);
    }

    fn silence(&self) -> Duration {
        SILENCE_MIN.max(self.settings.bound / 4)
    }

    /// The root speaks first when the bound is over, so that all hear the same; this is for when it does not.
    fn deadline(&self, since: Time) -> Time {
        since.saturating_add(self.settings.bound + self.settings.bound / 16 + Duration::from_millis(500))
    }

    fn send(&mut self, connection: Attempt, message: &Message) {
        self.transmits.push_back((connection, message.encode()));
    }
}
