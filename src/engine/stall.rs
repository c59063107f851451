//! Long waits: each rank says where it stands, looks where those stand that it waits for, and after the soft bound
//! gets a verdict on who is missing ([`crate::trace::verdict`]), from what all have said and noted where others see it.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::{Engine, Poll};
use crate::coalesce::head;
use crate::device::Device;
use crate::error::Error;
use crate::op::Head;
use crate::system::clock;
use crate::system::process::{self, State};
use crate::system::slots::Slots;
use crate::trace::record::{self, Record};
use crate::trace::verdict::{self, Case, Doing, Life, Seat};
use crate::transport::{Peer, Standing, Transport};

/// Who waits says so again and again; what was said longer ago no longer holds.
const SAID_NS: u64 = 2_000_000_000;

/// What can be seen of a rank from outside.
#[derive(Debug)]
pub struct Sighting {
    /// Which rank.
    pub rank: u32,
    /// Whether it takes part.
    pub peer: Peer,
    /// The number of its process here.
    pub process: Option<i32>,
    /// Where it said that it stands.
    pub standing: Option<Standing>,
    /// What it notes.
    pub records: Option<Slots>,
}

impl Sighting {
    /// What follows from it, for whoever asks about the collective of that number, if about any.
    #[must_use]
    pub fn seat(&self, asked: Option<u32>) -> Seat {
        let life = match (self.peer, self.process.map(process::state)) {
            (Peer::Dead, _) => Life::Gone,
            (Peer::Closed | Peer::Aborted | Peer::Revoked, _) => Life::Left,
            (Peer::Alive, Some(State::Stopped)) => Life::Stopped,
            (Peer::Alive, None) if self.records.is_none() => Life::Far,
            (Peer::Alive, _) => Life::Runs,
        };
        let newest = self.records.as_ref().and_then(Slots::newest);
        let last = newest.zip(self.records.as_ref()).and_then(|(number, records)| records.read(number));
        let last = last.map(Record::from_words);
        let standing = self.current_standing(last.as_ref(), life);
        // Who has ended it, or stands in one behind it.
        let ended = last.as_ref().map(|last| last.collectives);
        let stands = standing.map(|standing| standing.head).filter(|head| head::is_collective(*head));
        let beyond = [ended, stands.map(head::sequence)];
        let is_beyond =
            |asked: u32| beyond.into_iter().flatten().any(|at| (at.wrapping_sub(asked) as i32) > 0);
        let doing = match standing {
            _ if asked.is_some_and(is_beyond) => Doing::Passed,
            Some(standing) => doing(&standing, asked),
            None if self.records.is_some() => Doing::Away,
            None => Doing::Unknown,
        };
        let last = last
            .zip(self.records.as_ref())
            .map(|(last, records)| (name(&last), record::age_ns(records, &last) / 100_000_000));
        Seat { rank: self.rank, process: self.process, life, doing, last }
    }

    /// What it said, if it still stands there as far as can be seen.
    fn current_standing(&self, last: Option<&Record>, life: Life) -> Option<Standing> {
        let now_ns = clock::now_ns();
        self.standing.filter(|standing| {
            let is_fresh = now_ns.saturating_sub(standing.said_ns) < SAID_NS;
            match standing {
                Standing { said_ns: 0, .. } => true,
                Standing { batch: 0, .. } => is_fresh || matches!(life, Life::Stopped | Life::Gone),
                Standing { batch, .. } => last.map_or(is_fresh, |last| last.sequence < *batch),
            }
        })
    }
}

fn doing(standing: &Standing, asked: Option<u32>) -> Doing {
    let what = head::name(standing.head);
    if head::is_elsewhere(standing.head) {
        return Doing::WaitsElsewhere(what);
    }
    let is_same = head::is_collective(standing.head) && asked == Some(head::sequence(standing.head));
    let waits_for = (0..u64::BITS).filter(|rank| standing.waits_for >> rank & 1 == 1).collect();
    let for_s =
        (standing.since_ns > 0).then(|| clock::now_ns().saturating_sub(standing.since_ns) / 1_000_000_000);
    Doing::Waits { what, is_same, waits_for, for_s }
}

/// What a record is of, in words.
#[must_use]
pub fn name(record: &Record) -> String {
    let ended = if record.has_failed { ", which failed" } else { "" };
    if record.kind == record::Kind::Lone {
        return format!("{} small messages", record.lone_count);
    }
    let is_collective = head::is_collective(record.head);
    let number = if is_collective { record.collectives.wrapping_sub(1) } else { 0 };
    format!("{}{ended}", head::name(head::numbered(record.head, number)))
}

impl<T: Transport, D: Device> Engine<T, D> {
    /// How far it has come, as a pair that differs if anything moved in between; `None` if nothing is under way.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        (!self.queue.is_empty() && self.failure.is_none()).then_some((self.completed, self.move_count))
    }

    /// The verdict on the wait that has lasted so long.
    pub fn verdict(&mut self, waited: Duration) -> String {
        let asked = self.own_collective().map(head::sequence);
        let waits_for = self.waited_for();
        let own = self.hands.rank;
        let mut seat = |rank: u32| {
            if rank == own {
                return Seat { rank, ..Seat::default() };
            }
            let transport = &mut self.hands.transport;
            let (peer, process) = (transport.peer(rank), transport.process(rank));
            let (standing, records) = (transport.standing(rank), transport.records(rank));
            Sighting { rank, peer, process, standing, records }.seat(asked)
        };
        let seats = (0..self.hands.ranks).map(&mut seat).collect();
        let (what, is_collective) = (self.current(), asked.is_some());
        verdict::tell(&Case { rank: own, what, is_collective, waited_s: waited.as_secs(), waits_for, seats })
    }

    /// The head of the collective that is under way, numbered.
    fn own_collective(&self) -> Option<Head> {
        match self.running() {
            Some((part, true)) => self.run.stands_at(part),
            _ => None,
        }
    }

    /// What is under way, by its head; `None` if nothing has begun.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        if self.one_sided().is_some() {
            return Some(head::ONE_SIDED_CALLS);
        }
        let (_, is_begun) = self.running()?;
        let job = self.queue.front().filter(|_| is_begun)?;
        Some(self.own_collective().unwrap_or_else(|| head::of_batch(&job.ops)))
    }

    /// Says that this rank waits for what `head` is called on another communicator, and not here.
    pub fn stand_elsewhere(&mut self, head: Head) {
        if self.queue.is_empty() && self.failure.is_none() {
            let head = head::elsewhere(head);
            self.hands.transport.stand(Standing { head, waits_for: 0, batch: 0, since_ns: 0, said_ns: 0 });
        }
    }

    /// Ranks that wait for one another in different calls send nothing by which they would notice. So each
    /// says where it stands, and looks where those stand that it waits for.
    pub(super) fn compare_standings(&mut self) {
        let waited_for = self.waited_for();
        let bit = |rank: u32| 1_u64.checked_shl(rank).unwrap_or(0);
        let Some(current) = self.head() else { return };
        let waits_for = waited_for.iter().fold(0, |bits, peer| bits | bit(*peer));
        let batch = self.completed + 1;
        self.hands.transport.stand(Standing { head: current, waits_for, batch, since_ns: 0, said_ns: 0 });
        if self.one_sided().is_some() {
            return;
        }
        let own = self.own_collective();
        for peer in waited_for {
            let Some(theirs) = self.hands.transport.standing(peer) else { continue };
            if !head::is_collective(theirs.head) {
                continue;
            }
            let number = head::sequence(theirs.head);
            let disagree = match own {
                Some(own) => number == head::sequence(own) && theirs.head != own,
                // The peer waits for this rank in a collective that this rank has not begun, and this rank
                // waits for the peer, which can do nothing else before.
                None => number == self.hands.collective_count && theirs.waits_for & bit(self.hands.rank) != 0,
            };
            if disagree && own.is_none() && self.poll() != Poll::Waiting {
                // It goes on, and stands elsewhere now.
                return;
            }
            if disagree {
                self.fail(Error::Mismatch(format!(
                    "ranks disagree: rank {} is in {}; rank {peer} is in {}; make both call the same \
                     operations in the same order with the same sizes",
                    self.hands.rank,
                    self.current(),
                    head::describe(theirs.head)
                )));
                return;
            }
        }
    }
}
