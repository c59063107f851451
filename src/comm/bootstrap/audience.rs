//! A rank's dealings with one root: reaches it, hands in its card, and hears who its neighbours are. Pure.
//!
//! ```text
//! Seeking --valid Challenge--> Joining --Introduction--> Introduced --it has met the others--> Done
//!    '<---------Later------------'
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Failure, Message, list_bytes_max, seconds};
use super::proof::{Nonce, Secret};
use super::root::Time;
use super::seek::{Attempt, Obstacle, Order, Outcome, Seeker, Target};
use super::wire::{Frames, Malformed};
use crate::error::Error;
use crate::topology::Card;

/// The least silence of the root, which speaks once a second, that counts as its death.
const SILENCE_MIN: Duration = Duration::from_secs(10);
/// How long to wait for the birth that is under way in one's place.
const LATER_WAIT: Duration = Duration::from_millis(100);
/// More cards than a rank has neighbours.
const NEIGHBOURS_MAX: usize = 128;

/// Where ranks meet.
#[derive(Clone, Debug)]
pub(crate) struct Rendezvous {
    pub(crate) secret: Secret,
    pub(crate) communicator: [u8; 16],
    pub(crate) addresses: Vec<SocketAddr>,
    /// The root may begin to listen later.
    pub(crate) patient: bool,
    /// By how many ids the ranks meet, and which of them this is.
    pub(crate) groups: u32,
    pub(crate) group: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Event {
    Order(Order),
    /// How the root was reached, for the log.
    Reached(String),
    /// Who the neighbours are, and what makes this birth differ from all others.
    Introduced {
        birth: Nonce,
        cards: Vec<Card>,
    },
    /// The ranks cannot go on, the root says.
    Told(Failure),
    /// The root is of no use.
    Failed(Error),
}

#[derive(Debug)]
enum Stage {
    Seeking(Box<Seeker>),
    Joining { connection: Attempt, address: SocketAddr, frames: Frames, since: Time, introduced: bool },
    Done,
}

/// The state of the dealings with one root.
#[derive(Debug)]
pub(crate) struct Audience {
    place: Rendezvous,
    card: Card,
    bound: Duration,
    stage: Stage,
    next_attempt: Attempt,
    last_heard: Time,
    progress: String,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    events: VecDeque<Event>,
}

impl Audience {
    /// Seeks the root, which gets `card` without what the layers above added. Attempts are numbered from `first`.
    pub(crate) fn new(
        now: Time,
        place: Rendezvous,
        card: &Card,
        bound: Duration,
        first: Attempt,
    ) -> Audience {
        let seeker = Self::seeker(now, &place, bound, first);
        Audience {
            place,
            card: Card { payload: Vec::new(), ..card.clone() },
            bound,
            stage: Stage::Seeking(Box::new(seeker)),
            next_attempt: first,
            last_heard: now,
            progress: String::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    fn seeker(now: Time, place: &Rendezvous, bound: Duration, first: Attempt) -> Seeker {
        let target = Target {
            secret: place.secret,
            door: place.communicator,
            addresses: place.addresses.clone(),
            patient: place.patient,
            early: false,
        };
        Seeker::new(now, target, bound, first)
    }

    /// The connection stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt, nonce: Nonce) {
        if let Stage::Seeking(seeker) = &mut self.stage {
            seeker.handle_connected(attempt, nonce);
        }
    }

    /// The connection could not be made, was closed, or broke.
    pub(crate) fn handle_closed(&mut self, now: Time, attempt: Attempt, obstacle: Obstacle) {
        match &mut self.stage {
            Stage::Seeking(seeker) => {
                seeker.handle_closed(now, attempt, obstacle);
                self.follow(now);
            }
            Stage::Joining { connection, address, introduced, .. } if *connection == attempt => {
                let how = match obstacle {
                    Obstacle::Refused => "refused".to_owned(),
                    Obstacle::Gone(text) | Obstacle::Other(text) => text,
                };
                let text = format!(
                    "the connection to the root at {address} ended ({how}); look at the log of the rank that made \
                     the unique id"
                );
                // Who knows its neighbours does not need the root.
                if !*introduced {
                    self.events.push_back(Event::Failed(Error::Remote(text)));
                }
                self.stage = Stage::Done;
            }
            _ => {}
        }
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, attempt: Attempt, bytes: &[u8]) {
        match &mut self.stage {
            Stage::Seeking(seeker) => {
                seeker.handle_input(now, attempt, bytes);
                self.follow(now);
            }
            Stage::Joining { connection, frames, .. } if *connection == attempt => {
                frames.push(bytes);
                self.last_heard = now;
                self.handle_frames(now);
            }
            _ => {}
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if let Stage::Seeking(seeker) = &mut self.stage {
            seeker.handle_timeout(now);
            return self.follow(now);
        }
        let Stage::Joining { address, since, introduced: false, .. } = &self.stage else { return };
        let silence = self.silence();
        let error = if now >= self.deadline(*since) {
            let heard = if self.progress.is_empty() { "nothing" } else { &self.progress };
            Error::Timeout(format!(
                "rank {}: the root at {address} did not answer within {}; last heard: {heard}",
                self.card.rank,
                seconds(self.bound)
            ))
        } else if now >= self.last_heard + silence {
            Error::Remote(format!(
                "the root at {address} is silent since {}; look at the log of the rank that made the unique id",
                seconds(silence)
            ))
        } else {
            return;
        };
        self.events.push_back(Event::Failed(error));
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.stage {
            Stage::Seeking(seeker) => seeker.poll_timeout(),
            Stage::Joining { since, introduced: false, .. } => {
                Some(self.deadline(*since).min(self.last_heard + self.silence()))
            }
            Stage::Joining { .. } | Stage::Done => None,
        }
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        let seeking = match &mut self.stage {
            Stage::Seeking(seeker) => seeker.poll_transmit(),
            _ => None,
        };
        seeking.or_else(|| self.transmits.pop_front())
    }

    /// What is to be done or known, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let seeking = match &mut self.stage {
            Stage::Seeking(seeker) => seeker.poll_order().map(Event::Order),
            _ => None,
        };
        seeking.or_else(|| self.events.pop_front())
    }

    /// Who was missing when the root last said so; empty if it did not.
    pub(crate) fn progress(&self) -> &str {
        &self.progress
    }

    /// Says it to the root, if it was reached.
    pub(crate) fn tell(&mut self, message: &Message) {
        if let Stage::Joining { connection, .. } = self.stage {
            self.transmits.push_back((connection, message.encode()));
        }
    }

    /// This rank has met the others.
    pub(crate) fn leave(&mut self) {
        self.tell(&Message::Leave);
        if let Stage::Joining { connection, .. } = std::mem::replace(&mut self.stage, Stage::Done) {
            self.events.push_back(Event::Order(Order::Close(connection)));
        }
    }

    fn follow(&mut self, now: Time) {
        let Stage::Seeking(seeker) = &mut self.stage else { return };
        let Some(outcome) = seeker.poll_outcome() else { return };
        let (tried, failed) = (seeker.tried(), seeker.failed());
        self.transmits.extend(std::iter::from_fn(|| seeker.poll_transmit()));
        self.events.extend(std::iter::from_fn(|| seeker.poll_order()).map(Event::Order));
        match outcome {
            Outcome::Found { attempt, address, proof, frames } => {
                self.next_attempt = attempt + 1;
                self.last_heard = now;
                let text = format!("rank {} reached the root at {address}{failed}", self.card.rank);
                self.events.push_back(Event::Reached(text));
                let (connection, since, introduced) = (attempt, now, false);
                self.stage = Stage::Joining { connection, address, frames, since, introduced };
                self.tell(&Message::Proof { proof });
                let bound_ms = u64::try_from(self.bound.as_millis()).unwrap_or(u64::MAX);
                let Rendezvous { groups, group, .. } = self.place;
                self.tell(&Message::Card { bound_ms, groups, group, card: self.card.clone() });
                self.handle_frames(now);
            }
            Outcome::Unreachable { in_time, after } => {
                self.stage = Stage::Done;
                let text = format!(
                    "rank {} of {} could not reach the root within {} ({tried}); look whether the process that \
                     made the unique id still runs, whether the id was used before, and whether \
                     SHOAL_SOCKET_IFNAME names the right network",
                    self.card.rank,
                    self.card.ranks,
                    seconds(after),
                );
                let error = if in_time { Error::Remote(text) } else { Error::Timeout(text) };
                self.events.push_back(Event::Failed(error));
            }
        }
    }

    fn handle_frames(&mut self, now: Time) {
        while let Stage::Joining { frames, address, .. } = &mut self.stage {
            let message = match frames.next(list_bytes_max(NEIGHBOURS_MAX)) {
                Ok(None) => return,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            match message {
                Ok(message) => self.handle_message(now, message),
                Err(Malformed(rule)) => {
                    let text = format!("the root at {address} sent what cannot be understood: {rule}");
                    return self.events.push_back(Event::Failed(Error::Remote(text)));
                }
            }
        }
    }

    fn handle_message(&mut self, now: Time, message: Message) {
        let Stage::Joining { connection, address, since, introduced, .. } = &mut self.stage else { return };
        match message {
            Message::Introduction { birth, cards } if !*introduced => {
                *introduced = true;
                self.events.push_back(Event::Introduced { birth, cards });
            }
            Message::Failed(failure) => self.events.push_back(Event::Told(failure)),
            Message::Later { .. } if !*introduced => {
                let (connection, since) = (*connection, *since);
                let left = self.deadline(since).saturating_sub(now);
                self.events.push_back(Event::Order(Order::Close(connection)));
                let seeker = Self::seeker(now + LATER_WAIT, &self.place, left, self.next_attempt);
                self.stage = Stage::Seeking(Box::new(seeker));
            }
            Message::Refused { text, .. } => {
                let text = format!("the root at {address} turned this rank away: {text}");
                self.events.push_back(Event::Failed(Error::Remote(text)));
            }
            Message::Progress { text } => self.progress = text,
            _ => {
                let error = Error::Internal("the root spoke out of turn".into());
                self.events.push_back(Event::Failed(error));
            }
        }
    }

    fn silence(&self) -> Duration {
        SILENCE_MIN.max(self.bound / 4)
    }

    /// The root speaks first when the bound is over, so that all hear the same; this is for when it does not.
    fn deadline(&self, since: Time) -> Time {
        since.saturating_add(self.bound + self.bound / 16 + Duration::from_millis(500))
    }
}
