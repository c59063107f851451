//! What is known of one line of a rank: to a peer and from it.
#![forbid(unsafe_code)]

use super::buffer::Buffer;
use super::flow::{Broken, Incoming, Outgoing};
use super::frame::{Header, Kind};
use crate::transport::{Head, Peer, Standing};

/// A line, in both directions.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) out: Outgoing,
    pub(super) into: Incoming<(Header, Buffer)>,
    /// What the peer said of itself, and how many pieces it sent before.
    left: Option<(Peer, u64)>,
    /// It wants to hear when all of these have come.
    wants_answer: bool,
    /// The peer has all that was sent before this rank left.
    pub(super) has_arrived: bool,
    /// The peer has heard of this rank.
    pub(super) is_known: bool,
    /// It was looked at in vain since somebody last asked after the peer.
    pub(super) is_awaited: bool,
    /// The round of progress after which it was last looked at in vain.
    pub(super) looked_at: u64,
    standing: Option<(Standing, u64)>,
    /// Why nothing comes or leaves any more.
    pub(super) fault: Option<String>,
}

/// What follows from a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// All that the peer sent before it left is here, and it wants to hear so.
    pub(super) answers: bool,
    /// The peer failed, in these words.
    pub(super) raised: Option<String>,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            out: Outgoing::default(),
            into: Incoming::default(),
            left: None,
            wants_answer: false,
            has_arrived: false,
            is_known: false,
            is_awaited: false,
            // No round is this one: the first look in vain makes progress only if nobody else did.
            looked_at: u64::MAX,
            standing: None,
            fault: None,
        }
    }
}

impl Line {
    /// Takes a message of the peer. What is not kept of it is returned.
    pub(super) fn handle(
        &mut self,
        header: &Header,
        buffer: Buffer,
        window_bytes: u64,
    ) -> Result<(Effect, Option<Buffer>), Broken> {
        self.out.handle_returned(header.returned)?;
        let mut effect = Effect::default();
        match header.kind {
            Kind::Packet | Kind::Piece => {
                let bytes = buffer.bytes();
                self.into.handle(header.sequence, bytes, (*header, buffer), window_bytes)?;
                effect.answers = self.takes_answer();
                return Ok((effect, None));
            }
            Kind::Credit | Kind::Watch => {}
            Kind::Raise => effect.raised = Some(String::from_utf8_lossy(buffer.data()).into_owned()),
            Kind::Stand => {
                let standing = Standing {
                    head: header.head,
                    waits_for: header.total,
                    batch: 0,
                    since_ns: 0,
                    said_ns: 0,
                };
                self.standing = Some((standing, header.sequence));
            }
            Kind::Leave => {
                let how = how_from(header.total).ok_or(Broken("left in an unknown way"))?;
                // Who aborts after it left has left.
                self.left.get_or_insert((how, header.sequence));
                self.wants_answer = how == Peer::Closed;
                effect.answers = self.takes_answer();
            }
            Kind::Arrived => self.has_arrived = true,
        }
        Ok((effect, Some(buffer)))
    }

    /// Whether it is now that the peer is to hear that everything came.
    fn takes_answer(&mut self) -> bool {
        let is_whole = self.left.is_some_and(|(_, sent)| self.into.arrived_count() >= sent);
        is_whole && std::mem::take(&mut self.wants_answer)
    }

    /// What the peer said of itself. That it left or aborted counts once all that it sent before has come: what it had
    /// finished is not taken back, and its process still sees to it.
    pub(super) fn state(&self) -> Peer {
        match self.left {
            Some((Peer::Closed | Peer::Aborted, sent)) if self.into.arrived_count() < sent => Peer::Alive,
            Some((how, _)) => how,
            None => Peer::Alive,
        }
    }

    /// Where the peer last said that it stands, once all that it sent before has come.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.standing.filter(|(_, sent)| self.into.arrived_count() >= *sent).map(|(standing, _)| standing)
    }

    /// How much memory it takes, with what came and was not received.
    pub(super) fn taken_bytes(&self) -> usize {
        size_of::<Line>() + self.into.held().map(|(_, buffer)| buffer.taken_bytes()).sum::<usize>()
    }

    /// Notes why it is over; the first reason counts, and none does for who left and whose messages have come.
    pub(super) fn fail(&mut self, why: &str) {
        if self.state() == Peer::Alive && self.fault.is_none() {
            self.fault = Some(why.to_owned());
        }
    }
}

/// How a rank left, on the way.
pub(super) const fn how_to(how: Peer) -> u64 {
    match how {
        Peer::Alive | Peer::Closed => 1,
        Peer::Aborted | Peer::Dead => 2,
        Peer::Revoked => 3,
    }
}

const fn how_from(word: u64) -> Option<Peer> {
    match word {
        1 => Some(Peer::Closed),
        2 => Some(Peer::Aborted),
        3 => Some(Peer::Revoked),
        _ => None,
    }
}

/// No head: of words about the line.
pub(super) const NO_HEAD: Head = Head { what: 0, which: 0 };

#[cfg(test)]
mod tests {
    use super::super::buffer::Pool;
    use super::*;

    fn header(kind: Kind, sequence: u64, total: u64) -> Header {
        Header { kind, source: 0, target: 1, key: 1, sequence, returned: 0, head: NO_HEAD, total }
    }

    #[test]
    fn who_leaves_or_aborts_has_done_so_once_all_has_come() {
        for how in [Peer::Closed, Peer::Aborted] {
            let (mut line, mut pool) = (Line::default(), Pool::default());
            let mut handle = |line: &mut Line, header| {
                line.handle(&header, pool.take(0), 1 << 20).expect("in order").0.answers
            };
            assert!(!handle(&mut line, header(Kind::Stand, 1, 5)));
            assert!(!handle(&mut line, header(Kind::Leave, 2, how_to(how))));
            assert_eq!((line.state(), line.standing()), (Peer::Alive, None));
            assert!(!handle(&mut line, header(Kind::Packet, 1, 0)));
            // Who left in good order waits for an answer.
            assert_eq!(handle(&mut line, header(Kind::Packet, 0, 0)), how == Peer::Closed);
            let waits_for = line.standing().map(|standing| standing.waits_for);
            assert_eq!((line.state(), waits_for), (how, Some(5)));
            line.fail("its connection closed");
            assert_eq!(line.fault, None);
            assert!(line.handle(&header(Kind::Leave, 0, 9), pool.take(0), 1).is_err());
        }
    }

    #[test]
    fn what_cannot_come_any_more_is_a_fault_though_the_peer_left() {
        let (mut line, mut pool) = (Line::default(), Pool::default());
        let leave = header(Kind::Leave, 1, how_to(Peer::Aborted));
        assert!(line.handle(&leave, pool.take(0), 1).is_ok());
        line.fail("its connection closed");
        assert!(line.fault.is_some());
    }

    #[test]
    fn garbage_is_refused_without_a_panic_and_keeps_within_the_window() {
        use crate::transport::sim::Dice;
        const WINDOW_BYTES: u64 = 4096;
        for seed in 0..300 {
            let (mut dice, mut pool, mut line) = (Dice::new(seed), Pool::default(), Line::default());
            let mut kept_bytes = 0;
            for _ in 0..200 {
                let mut bytes: Vec<u8> = header(Kind::Packet, 0, 0).encode().to_vec();
                // Small numbers in some places, so that it comes through; anything in others.
                for at in [4, 32, 33, 40, 47, 64, 71] {
                    if dice.below(3) == 0 {
                        let bound = if dice.below(8) == 0 { 256 } else { 10 };
                        bytes[at] = dice.below(bound) as u8;
                    }
                }
                let Some(header) = Header::decode(&bytes) else { continue };
                let size = dice.below(2000) as usize;
                let mut buffer = pool.take(size);
                buffer.data_mut().fill(0xff);
                let is_kept = matches!(header.kind, Kind::Packet | Kind::Piece);
                if line.handle(&header, buffer, WINDOW_BYTES).is_ok() && is_kept {
                    kept_bytes += size as u64;
                    assert!(kept_bytes <= WINDOW_BYTES, "seed {seed}: nobody has read anything");
                }
                let _ = (line.state(), line.standing());
            }
        }
    }
}
