//! What is said at the door of a rank that gave up before all that stand under it had come. Pure.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::guests::Guests;
use super::message::{Failure, Message};
use super::proof::{Nonce, Secret};
use super::root::Time;
use super::seek::{Attempt, Order};

/// What a rank leaves behind.
#[derive(Clone, Debug)]
pub(crate) struct Legacy {
    pub(crate) secret: Secret,
    pub(crate) door: [u8; 16],
    pub(crate) failure: Failure,
}

/// The state of one epitaph.
#[derive(Debug)]
pub(crate) struct Epitaph {
    guests: Guests,
    failure: Failure,
    until: Time,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    orders: VecDeque<Order>,
}

impl Epitaph {
    /// Said until `until`.
    pub(crate) fn new(legacy: Legacy, until: Time) -> Epitaph {
        let Legacy { secret, door, failure } = legacy;
        let (transmits, orders) = (VecDeque::new(), VecDeque::new());
        Epitaph { guests: Guests::new(secret, door), failure, until, transmits, orders }
    }

    /// Someone came, and said `words`. `nonce` is fresh.
    pub(crate) fn handle_arrival(&mut self, now: Time, id: Attempt, nonce: Nonce, words: &[u8]) {
        self.guests.handle_arrival(now, id, nonce);
        self.handle_input(id, words);
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, id: Attempt, bytes: &[u8]) {
        if let Some(proven) = self.guests.handle_input(id, bytes) {
            let message = Message::Failed(self.failure.clone());
            self.transmits.push_back((proven.connection, message.encode()));
            self.orders.push_back(Order::Close(proven.connection));
        }
    }

    /// The other side closed, or the connection broke.
    pub(crate) fn handle_closed(&mut self, id: Attempt) {
        self.guests.handle_closed(id);
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        self.guests.handle_timeout(now);
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Time {
        self.guests.poll_timeout().map_or(self.until, |due| due.min(self.until))
    }

    /// Whether nobody will come any more.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        self.until <= now
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        self.guests.poll_transmit().or_else(|| self.transmits.pop_front())
    }

    /// Whom to close, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_close(&mut self) -> Option<Attempt> {
        match self.guests.poll_order().or_else(|| self.orders.pop_front())? {
            Order::Close(id) | Order::Connect(id, _) => Some(id),
        }
    }
}
