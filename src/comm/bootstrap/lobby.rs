//! Who connected to this process and has not said yet for whom: one listener serves all rendezvous here. Pure.
//!
//! The first words of a visitor name the communicator that it comes for. Where that is expected the visitor goes
//! on; where it is not, it waits if it says that it may be early, else it is turned away. All waits are short:
//! whoever is early comes again.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::message::{Message, STRANGER_BODY_BYTES_MAX};
use super::root::{ConnectionId, STRANGER_WAIT, Time};
use super::wire::{Frames, Malformed};

/// How long a visitor waits here that came before it was expected; shorter than it waits for an answer.
const EARLY_WAIT: Duration = Duration::from_secs(3);
/// How many may stand here; more are turned away and come back.
const VISITORS_MAX: usize = 4096;
/// What a visitor may say before it is answered.
const WORDS_BYTES_MAX: usize = 512;

/// What becomes of a visitor. It is not in the lobby any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is expected; `words` is all that it said.
    Enter { connection: ConnectionId, communicator: [u8; 16], words: Vec<u8> },
    /// Say this, then close.
    Refuse { connection: ConnectionId, message: Message },
}

#[derive(Debug)]
struct Visitor {
    words: Vec<u8>,
    /// Whom it comes for, once it said so.
    communicator: Option<[u8; 16]>,
    deadline: Time,
}

/// The state of one lobby.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    visitors: HashMap<ConnectionId, Visitor>,
    verdicts: VecDeque<Verdict>,
    refused_count: u64,
}

impl Lobby {
    /// Someone connected.
    pub(crate) fn handle_connected(&mut self, now: Time, connection: ConnectionId) {
        if self.visitors.len() >= VISITORS_MAX {
            return self.refuse(connection, "too many connect at once; come again", false);
        }
        let visitor = Visitor { words: Vec::new(), communicator: None, deadline: now + STRANGER_WAIT };
        self.visitors.insert(connection, visitor);
    }

    /// Bytes arrived. `expects` knows which communicators somebody here waits for.
    pub(crate) fn handle_input(
        &mut self,
        now: Time,
        connection: ConnectionId,
        bytes: &[u8],
        expects: impl Fn(&[u8; 16]) -> bool,
    ) {
        let Some(visitor) = self.visitors.get_mut(&connection) else { return };
        visitor.words.extend_from_slice(bytes);
        let mut frames = Frames::default();
        frames.push(&visitor.words);
        let too_much = visitor.words.len() > WORDS_BYTES_MAX;
        let message = match frames.next(STRANGER_BODY_BYTES_MAX) {
            Ok(None) if !too_much => return,
            Ok(Some(body)) if !too_much => Message::decode(body),
            _ => Err(Malformed("it says too much")),
        };
        match message {
            Ok(Message::Hello { communicator, .. }) if expects(&communicator) => {
                self.enter(connection, communicator);
            }
            Ok(Message::Hello { communicator, early: true, .. }) => {
                if visitor.communicator.replace(communicator).is_none() {
                    visitor.deadline = now + EARLY_WAIT;
                }
            }
            Ok(Message::Hello { .. }) => {
                let text = "the communicator is not born here (any more); a unique id serves once";
                self.refuse(connection, text, true);
            }
            _ => self.refuse(
                connection,
                "this is a meeting place of shoal, and that could not be understood",
                false,
            ),
        }
    }

    /// The other side closed, or the connection broke.
    pub(crate) fn handle_closed(&mut self, connection: ConnectionId) {
        if let Some(visitor) = self.visitors.remove(&connection) {
            // Who said properly whom it wants and left again is no stranger.
            self.refused_count += u64::from(visitor.communicator.is_none());
        }
    }

    /// `communicator` is expected from now on.
    pub(crate) fn expect(&mut self, communicator: [u8; 16]) {
        let mut waiting: Vec<ConnectionId> = self
            .visitors
            .iter()
            .filter(|(_, visitor)| visitor.communicator == Some(communicator))
            .map(|(connection, _)| *connection)
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().for_each(|connection| self.enter(connection, communicator));
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        let mut late: Vec<ConnectionId> = self
            .visitors
            .iter()
            .filter(|(_, visitor)| visitor.deadline <= now)
            .map(|(connection, _)| *connection)
            .collect();
        late.sort_unstable();
        for connection in late {
            let early = self.visitors[&connection].communicator.is_some();
            let text = if early {
                "nobody there has come to this yet"
            } else {
                "nothing that says whom you want came in time"
            };
            self.refuse(connection, text, false);
            // An early one is no stranger.
            self.refused_count -= u64::from(early);
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.visitors.values().map(|visitor| visitor.deadline).min()
    }

    /// What became of a visitor.
    pub(crate) fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// How many were turned away that had no business here.
    pub(crate) fn refused_count(&self) -> u64 {
        self.refused_count
    }

    fn enter(&mut self, connection: ConnectionId, communicator: [u8; 16]) {
        if let Some(visitor) = self.visitors.remove(&connection) {
            self.verdicts.push_back(Verdict::Enter { connection, communicator, words: visitor.words });
        }
    }

    fn refuse(&mut self, connection: ConnectionId, text: &str, gone: bool) {
        self.visitors.remove(&connection);
        self.refused_count += 1;
        let message = Message::Refused { gone, text: text.to_owned() };
        self.verdicts.push_back(Verdict::Refuse { connection, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::bootstrap::id::Speaker;
    use crate::comm::bootstrap::tests::Random;

    const HERE: [u8; 16] = [1; 16];
    const THERE: [u8; 16] = [2; 16];

    fn hello(communicator: [u8; 16], early: bool) -> Vec<u8> {
        Message::Hello { speaker: Speaker::own(), communicator, early, nonce: [3; 32] }.encode().to_vec()
    }

    fn refusal(lobby: &mut Lobby) -> (bool, String) {
        match lobby.poll_verdict() {
            Some(Verdict::Refuse { message: Message::Refused { gone, text }, .. }) => (gone, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_expected_enters_however_its_words_are_cut() {
        for cut in 0..40 {
            let mut lobby = Lobby::default();
            lobby.handle_connected(Time::ZERO, 7);
            let words = hello(HERE, false);
            lobby.handle_input(Time::ZERO, 7, &words[..cut], |id| *id == HERE);
            assert_eq!(lobby.poll_verdict(), None);
            lobby.handle_input(Time::ZERO, 7, &words[cut..], |id| *id == HERE);
            let entered = Verdict::Enter { connection: 7, communicator: HERE, words };
            assert_eq!(lobby.poll_verdict(), Some(entered));
        }
    }

    #[test]
    fn the_early_wait_and_the_late_are_told_so() {
        let mut lobby = Lobby::default();
        for (connection, early) in [(1, true), (2, false), (3, true)] {
            lobby.handle_connected(Time::ZERO, connection);
            lobby.handle_input(Time::ZERO, connection, &hello(THERE, early), |id| *id == HERE);
        }
        let (gone, text) = refusal(&mut lobby);
        assert!(gone && text.contains("serves once"), "{text}");
        lobby.handle_closed(3);
        lobby.expect(THERE);
        assert!(matches!(lobby.poll_verdict(), Some(Verdict::Enter { connection: 1, .. })));
        assert_eq!(lobby.poll_verdict(), None);
        assert_eq!(lobby.refused_count(), 1);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut lobby = Lobby::default();
        lobby.handle_connected(Time::ZERO, 1);
        lobby.handle_connected(Time::ZERO, 2);
        lobby.handle_input(Time::ZERO, 1, &hello(THERE, true), |_| false);
        while let Some(due) = lobby.poll_timeout() {
            lobby.handle_timeout(due);
        }
        let (gone, text) = refusal(&mut lobby);
        assert!(!gone && text.contains("yet"), "{text}");
        assert!(refusal(&mut lobby).1.contains("in time"));
        assert_eq!(lobby.refused_count(), 1);
    }

    #[test]
    fn crowds_and_garbage_are_turned_away() {
        let mut lobby = Lobby::default();
        let mut random = Random(4);
        for connection in 0..2 * VISITORS_MAX as u64 {
            lobby.handle_connected(Time::ZERO, connection);
        }
        for connection in 0..VISITORS_MAX as u64 {
            let mut bytes: Vec<u8> = (0..600).map(|_| random.below(256) as u8).collect();
            bytes[..4].copy_from_slice(&(random.below(300) as u32).to_le_bytes());
            lobby.handle_input(Time::ZERO, connection, &bytes, |_| true);
        }
        assert_eq!(lobby.refused_count(), 2 * VISITORS_MAX as u64);
    }
}
