//! Those who come to a rank's door, until they have proved that they are ranks under it. Pure.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::message::{Message, STRANGER_BODY_BYTES_MAX};
use super::proof::{Handshake, Nonce, Secret, Side};
use super::root::{STRANGER_WAIT, Time};
use super::seek::{Attempt, Order};
use super::wire::Frames;

/// How many may be on their way to prove who they are.
const GUESTS_MAX: usize = 256;

#[derive(Debug)]
enum Stage {
    Silent(Nonce),
    Challenged(Handshake),
    Proven,
}

#[derive(Debug)]
struct Guest {
    stage: Stage,
    frames: Frames,
    deadline: Time,
}

/// A guest that knows the secret, and which rank it says it is. What came behind that is in `frames`.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) connection: Attempt,
    pub(crate) rank: u32,
    pub(crate) frames: Frames,
}

/// The state of one door.
#[derive(Debug)]
pub(crate) struct Guests {
    secret: Secret,
    door: [u8; 16],
    guests: HashMap<Attempt, Guest>,
    transmits: VecDeque<(Attempt, Arc<[u8]>)>,
    orders: VecDeque<Order>,
}

impl Guests {
    /// Nobody came yet.
    pub(crate) fn new(secret: Secret, door: [u8; 16]) -> Guests {
        let (transmits, orders) = (VecDeque::new(), VecDeque::new());
        Guests { secret, door, guests: HashMap::new(), transmits, orders }
    }

    /// What the listener of this process knows the rank by.
    pub(crate) fn door(&self) -> [u8; 16] {
        self.door
    }

    /// Someone came, who is called `id` from now on. `nonce` is fresh.
    pub(crate) fn handle_arrival(&mut self, now: Time, id: Attempt, nonce: Nonce) {
        if self.guests.len() < GUESTS_MAX {
            let (stage, deadline) = (Stage::Silent(nonce), now + STRANGER_WAIT);
            self.guests.insert(id, Guest { stage, frames: Frames::default(), deadline });
        } else {
            self.orders.push_back(Order::Close(id));
        }
    }

    /// Whether it is one of them.
    pub(crate) fn holds(&self, id: Attempt) -> bool {
        self.guests.contains_key(&id)
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, id: Attempt, bytes: &[u8]) -> Option<Proven> {
        self.guests.get_mut(&id)?.frames.push(bytes);
        while let Some(guest) = self.guests.get_mut(&id) {
            let message = match guest.frames.next(STRANGER_BODY_BYTES_MAX) {
                Ok(None) => return None,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            match (&guest.stage, message) {
                (Stage::Silent(nonce), Ok(Message::Hello { communicator, nonce: theirs, .. }))
                    if communicator == self.door =>
                {
                    let nonce = *nonce;
                    let handshake = Handshake { communicator, member_nonce: theirs, root_nonce: nonce };
                    guest.stage = Stage::Challenged(handshake);
                    let proof = handshake.proof(&self.secret, Side::Root);
                    self.transmits.push_back((id, Message::Challenge { nonce, proof }.encode()));
                }
                (Stage::Challenged(handshake), Ok(Message::Proof { proof }))
                    if handshake.accepts(&self.secret, Side::Member, &proof) =>
                {
                    guest.stage = Stage::Proven;
                }
                (Stage::Proven, Ok(Message::Attach { rank })) => {
                    let frames = self.guests.remove(&id)?.frames;
                    return Some(Proven { connection: id, rank, frames });
                }
                _ => self.turn_away(id),
            }
        }
        None
    }

    /// The other side closed, or the connection broke.
    pub(crate) fn handle_closed(&mut self, id: Attempt) {
        self.guests.remove(&id);
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        let late: Vec<Attempt> =
            self.guests.iter().filter(|(_, guest)| guest.deadline <= now).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.turn_away(id));
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.guests.values().map(|guest| guest.deadline).min()
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Attempt, Arc<[u8]>)> {
        self.transmits.pop_front()
    }

    /// What to do, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Says it to all who know already that they are in the right place.
    pub(crate) fn tell(&mut self, message: &Message) {
        let bytes = message.encode();
        let mut told: Vec<Attempt> = self
            .guests
            .iter()
            .filter(|(_, guest)| !matches!(guest.stage, Stage::Silent(_)))
            .map(|(id, _)| *id)
            .collect();
        told.sort_unstable();
        self.transmits.extend(told.into_iter().map(|id| (id, bytes.clone())));
    }

    /// One that has no business here.
    pub(crate) fn turn_away(&mut self, id: Attempt) {
        self.guests.remove(&id);
        let text = "the rank there does not know you".to_owned();
        self.transmits.push_back((id, Message::Refused { gone: false, text }.encode()));
        self.orders.push_back(Order::Close(id));
    }
}
