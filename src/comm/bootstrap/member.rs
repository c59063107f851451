//! A rank's side of the exchange: has audiences with the roots that it needs, then takes its place in the tree of
//! ranks. Pure: the driver passes in what arrived and what time it is.
//!
//! ```text
//! birth:   audiences --all introduced--> Standing --all cards--> met
//! child:            (neighbours known)   Standing --all cards--> met
//! met:     <--Contribute / Gathered--> any number of steps
//! ```
//! Until all have met the roots listen too: whoever fails or dies before is told to all at once. Where ranks meet
//! by several ids, the leader of a group has an audience with the root of its group and one with the first root,
//! and so what one root says comes to all.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::audience::{self, Audience, Rendezvous};
use super::branch::{self, Branch, FIRST_UP};
use super::epitaph::Legacy;
use super::interfaces::{Links, tried};
use super::message::{Failure, Message, Naming, card_bytes, card_from_bytes};
use super::proof::{Nonce, Secret, birth_secret};
use super::root::Time;
use super::seek::Order;
pub(crate) use super::seek::{Attempt, Obstacle};
use super::tree::Shape;
use crate::error::Error;
use crate::topology::Card;

/// Attempts to reach the second root are numbered from here.
const FIRST_SECOND: Attempt = 1 << 31;

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
    /// What all ranks know and nobody else.
    pub(crate) secret: Secret,
    pub(crate) communicator: [u8; 16],
    /// By how many ids the ranks meet.
    pub(crate) groups: u32,
    /// How long to wait for the others.
    pub(crate) bound: Duration,
    pub(crate) naming: Naming,
    /// Which of others' addresses are tried from here, and how.
    pub(crate) links: Links,
}

/// The state of one member.
#[derive(Debug)]
pub(crate) struct Member {
    settings: Settings,
    card: Card,
    audiences: Vec<Audience>,
    /// Whom the roots introduced, and how many of them did.
    known: Vec<Card>,
    introductions: usize,
    branch: Option<Branch>,
    met: bool,
    over: Option<Error>,
    events: VecDeque<Event>,
}

impl Member {
    /// One that has ids: that of its group, and if it is another group's leader that of the first.
    pub(crate) fn new(now: Time, settings: Settings, card: Card, places: Vec<Rendezvous>) -> Member {
        let bound = settings.bound;
        let audiences = places
            .into_iter()
            .zip([0, FIRST_SECOND])
            .map(|(place, first)| Audience::new(now, place, &card, bound, first))
            .collect();
        Self::with(settings, card, audiences)
    }

    /// One that knows all others: `cards` of the parent by the new ranks.
    pub(crate) fn derived(now: Time, settings: Settings, card: Card, cards: &[Card]) -> Member {
        let mut member = Self::with(settings, card, Vec::new());
        let secret = member.settings.secret;
        member.stand(now, secret, |rank| cards.get(rank as usize));
        member
    }

    fn with(settings: Settings, card: Card, audiences: Vec<Audience>) -> Member {
        Member {
            settings,
            card,
            audiences,
            known: Vec::new(),
            introductions: 0,
            branch: None,
            met: false,
            over: None,
            events: VecDeque::new(),
        }
    }

    /// The connection stands. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, attempt: Attempt, nonce: Nonce) {
        if let Some(audience) = self.audience(attempt) {
            audience.handle_connected(attempt, nonce);
        } else if let Some(branch) = &mut self.branch {
            branch.handle_connected(attempt, nonce);
        }
    }

    /// Someone came to this rank's door, and said `words`. `nonce` is fresh. Says as what it is known.
    pub(crate) fn handle_visitor(&mut self, now: Time, nonce: Nonce, words: &[u8]) -> Option<Attempt> {
        let id = self.branch.as_mut()?.handle_visitor(now, nonce, words);
        self.follow(now);
        Some(id)
    }

    /// The connection could not be made, was closed, or broke.
    pub(crate) fn handle_closed(&mut self, now: Time, attempt: Attempt, obstacle: Obstacle) {
        if let Some(audience) = self.audience(attempt) {
            audience.handle_closed(now, attempt, obstacle);
        } else if let Some(branch) = &mut self.branch {
            branch.handle_closed(now, attempt, obstacle);
        }
        self.follow(now);
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, attempt: Attempt, bytes: &[u8]) {
        if let Some(audience) = self.audience(attempt) {
            audience.handle_input(now, attempt, bytes);
        } else if let Some(branch) = &mut self.branch {
            branch.handle_input(now, attempt, bytes);
        }
        self.follow(now);
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        self.audiences.iter_mut().for_each(|audience| audience.handle_timeout(now));
        if let Some(branch) = &mut self.branch {
            branch.handle_timeout(now);
        }
        self.follow(now);
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        if self.over.is_some() {
            return None;
        }
        let audiences = self.audiences.iter().filter_map(Audience::poll_timeout);
        audiences.chain(self.branch.as_ref().and_then(Branch::poll_timeout)).min()
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        let of_audience = self.audiences.iter_mut().find_map(Audience::poll_transmit);
        of_audience.or_else(|| self.branch.as_mut().and_then(Branch::poll_transmit))
    }

    /// What is to be done or known, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Hands in this rank's part of the next step; `Gathered` or `Failed` follows.
    pub(crate) fn contribute(&mut self, now: Time, bytes: &[u8]) {
        match (&self.over, &mut self.branch) {
            (Some(error), _) => self.events.push_back(Event::Failed(error.clone())),
            (None, Some(branch)) => {
                branch.contribute(now, bytes.to_vec());
                self.follow(now);
            }
            (None, None) => self.finish(Error::Internal("a step of the birth before it began".into())),
        }
    }

    /// Tells all others that this rank cannot go on.
    pub(crate) fn fail(&mut self, text: &str) {
        if self.over.is_some() {
            return;
        }
        self.tell_roots(&Message::Fail { text: text.to_owned() });
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
        self.tell_roots(&Message::Leave);
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
            None => self.audiences.first().map(|audience| audience.progress().to_owned()).unwrap_or_default(),
        }
    }

    fn audience(&mut self, attempt: Attempt) -> Option<&mut Audience> {
        if attempt >= FIRST_UP {
            return None;
        }
        self.audiences.get_mut(usize::from(attempt >= FIRST_SECOND))
    }

    fn tell_roots(&mut self, message: &Message) {
        self.audiences.iter_mut().for_each(|audience| audience.tell(message));
    }

    /// Takes up what audiences and branch have to say.
    fn follow(&mut self, now: Time) {
        for index in 0..self.audiences.len() {
            while let Some(event) = self.audiences[index].poll_event() {
                self.handle_audience(now, event);
            }
        }
        while let Some(event) = self.branch.as_mut().and_then(Branch::poll_event) {
            match event {
                branch::Event::Reached(text) => self.events.push_back(Event::Reached(text)),
                branch::Event::Order(order) => self.order(order),
                branch::Event::Gathered(parts) if self.met => self.events.push_back(Event::Gathered(parts)),
                branch::Event::Gathered(parts) => self.meet(now, &parts),
                branch::Event::Failed(error) => self.finish(error),
            }
        }
    }

    fn handle_audience(&mut self, now: Time, event: audience::Event) {
        match event {
            audience::Event::Order(order) => self.order(order),
            audience::Event::Reached(text) => self.events.push_back(Event::Reached(text)),
            audience::Event::Failed(error) => self.finish(error),
            audience::Event::Told(failure) => {
                if let Some(branch) = &mut self.branch {
                    branch.take_over(&failure);
                }
                self.finish(failure.into_error());
            }
            audience::Event::Introduced { birth, cards } => {
                self.introductions += 1;
                self.known.extend(cards);
                if self.introductions < self.audiences.len() || self.over.is_some() {
                    return;
                }
                let known = std::mem::take(&mut self.known);
                // Several roots made several numbers; the ids differ for every birth as well.
                let birth = if self.settings.groups > 1 { [0; 32] } else { birth };
                let secret = birth_secret(&self.settings.secret, &birth);
                self.stand(now, secret, |rank| known.iter().find(|card| card.rank == rank));
            }
        }
    }

    fn order(&mut self, order: Order) {
        self.events.push_back(match order {
            Order::Connect(attempt, address) => Event::Connect(attempt, address),
            Order::Close(attempt) => Event::Close(attempt),
        });
    }

    /// Takes the place in the tree, and hands in the card as the first step.
    fn stand<'a>(&mut self, now: Time, secret: Secret, card_of: impl Fn(u32) -> Option<&'a Card>) {
        let Card { rank, ranks, .. } = self.card;
        let settings = branch::Settings {
            secret,
            rank,
            shape: Shape { ranks, groups: self.settings.groups },
            bound: self.settings.bound,
            naming: self.settings.naming.clone(),
            is_watched: !self.audiences.is_empty(),
        };
        let links = &self.settings.links;
        match Branch::new(now, settings, card_of, |card| tried(&card.listeners, links)) {
            Ok(mut branch) => {
                self.events.push_back(Event::Expect(branch.door()));
                branch.contribute(now, card_bytes(&self.card));
                branch.handle_timeout(now);
                self.branch = Some(branch);
                self.follow(now);
            }
            Err(error) => self.finish(error),
        }
    }

    /// All cards are there.
    fn meet(&mut self, now: Time, parts: &[Vec<u8>]) {
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
        self.audiences.iter_mut().for_each(Audience::leave);
        self.follow(now);
        self.events.push_back(Event::Joined(cards));
    }

    fn finish(&mut self, error: Error) {
        if self.over.is_some() {
            return;
        }
        // All roots that know this rank hear of it, and so all ranks that they know.
        self.tell_roots(&Message::Failed(Failure::from_error(&error)));
        self.events.push_back(Event::Failed(error.clone()));
        self.over = Some(error);
    }
}
