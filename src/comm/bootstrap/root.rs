//! The root's side of the exchange: who came, who is missing, and who is whose neighbour. Pure: the driver passes
//! in what arrived and what time it is, and carries out what the root asks for.
//!
//! ```text
//! connection:  Silent --Hello--> Challenged --Proof--> Proven --Card--> Member
//!                 '-------------------'-----------------'--> refused, counted; nobody else notices
//! root:        Gathering --all came, are introduced--> Watching --all left, having met--> finished
//!                  '--------------------------------------'--> Failed: every member is told the same, late ones too
//! ```
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::agreement;
use super::id::Speaker;
use super::message::{
    Failure, FailureKind, MEMBER_BODY_BYTES_MAX, Message, Naming, RANKS_MAX, STRANGER_BODY_BYTES_MAX,
    name_ranks, seconds,
};
use super::proof::{Handshake, Nonce, Secret, Side};
use super::tree::Shape;
use super::wire::{Frames, Malformed};
use crate::topology::Card;

/// A time, counted from any moment that the driver likes.
pub(crate) type Time = Duration;
/// A connection, as the driver numbers them; numbers are not used again.
pub(crate) type ConnectionId = u64;

/// How long someone may take to prove who they are.
pub(crate) const STRANGER_WAIT: Duration = Duration::from_secs(5);
/// How often those who wait hear who is missing.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long ranks that disagree wait for the others, so that these hear of it too: ranks of a job start at about the
/// same time.
const DISAGREEMENT_WAIT: Duration = Duration::from_secs(2);
/// How many may be on their way to prove who they are; more are turned away and come back.
const STRANGERS_MAX: usize = 4096;

/// How someone went who took leave.
const LEFT: &str = "left";

/// A frame to send.
#[derive(Clone, Debug)]
pub(crate) struct Transmit {
    pub(crate) connection: ConnectionId,
    pub(crate) bytes: Arc<[u8]>,
    /// It is only worth sending if nothing else waits to be sent there.
    pub(crate) optional: bool,
}

/// What the driver is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Send what is queued, then close; nothing more is said about this connection.
    Close(ConnectionId),
    /// Nobody else is expected.
    StopListening,
}

/// What a root is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) secret: Secret,
    pub(crate) communicator: [u8; 16],
    /// It meets at an address that was set by hand, where one birth follows another: after a failure the
    /// address is freed rather than the late are told, and who comes a second time waits for the next birth.
    pub(crate) by_hand: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Silent {
        nonce: Nonce,
    },
    Challenged(Handshake, Speaker),
    Proven,
    Member {
        rank: u32,
    },
    /// It does not fit the others, and is told so together with them.
    Misfit,
}

impl Stage {
    fn has_proved(self) -> bool {
        matches!(self, Stage::Member { .. } | Stage::Misfit)
    }
}

#[derive(Debug)]
struct Connection {
    frames: Frames,
    stage: Stage,
}

/// A rank that came.
#[derive(Debug)]
struct Entry {
    card: Card,
    connection: ConnectionId,
}

#[derive(Debug)]
enum Phase {
    /// Waits for the cards; with the first comes the end of the wait, and how long it was.
    Gathering { end: Option<(Time, Duration)> },
    /// All came and know their neighbours. Until they have met, whoever is lost is told to all.
    Watching,
    /// `told` are the ranks that know.
    Failed { failure: Failure, told: HashSet<u32>, stay: bool },
}

/// The state of one rendezvous.
#[derive(Debug)]
pub(crate) struct Root {
    settings: Settings,
    phase: Phase,
    connections: HashMap<ConnectionId, Connection>,
    /// Connections that proved nothing yet, by when they must have. Ascending, since all get the same time.
    strangers: VecDeque<(Time, ConnectionId)>,
    /// By rank; sized by the first card.
    members: Vec<Option<Entry>>,
    came: u32,
    /// By how many ids the ranks meet, and which of them this root serves; known with the first card.
    circle: (u32, u32),
    /// Who meets here.
    expected: Vec<u32>,
    /// The nonce of the last connection, which nobody could foresee; makes this birth differ from all others.
    last_nonce: Nonce,
    /// Who came and does not fit.
    misfits: Vec<ConnectionId>,
    /// What is wrong with them, and when all are told at the latest.
    verdict: Option<(Time, Failure)>,
    /// Who came a second time, for another birth at this address.
    twice: Option<String>,
    next_progress: Option<Time>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    listening: bool,
    /// The system had no room for a connection.
    had_no_room: bool,
    refused: u64,
    turned_away: u64,
}

impl Root {
    pub(crate) fn new(settings: Settings) -> Root {
        Root {
            settings,
            phase: Phase::Gathering { end: None },
            connections: HashMap::new(),
            strangers: VecDeque::new(),
            members: Vec::new(),
            came: 0,
            circle: (1, 0),
            expected: Vec::new(),
            last_nonce: [0; 32],
            misfits: Vec::new(),
            verdict: None,
            twice: None,
            next_progress: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            listening: true,
            had_no_room: false,
            refused: 0,
            turned_away: 0,
        }
    }

    /// So many were turned away at the door before they said for whom they came.
    pub(crate) fn handle_strangers(&mut self, count: u64) {
        self.turned_away = count;
    }

    /// How many connections were turned away here.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_finished(&self) -> bool {
        !self.listening && self.connections.is_empty()
    }

    /// Someone connected. `nonce` is fresh.
    pub(crate) fn handle_connected(&mut self, now: Time, connection: ConnectionId, nonce: Nonce) {
        if !self.listening || self.connections.len() >= self.came as usize + STRANGERS_MAX {
            self.refused += 1;
            self.events.push_back(Event::Close(connection));
            return;
        }
        self.last_nonce = nonce;
        let stage = Stage::Silent { nonce };
        self.connections.insert(connection, Connection { frames: Frames::default(), stage });
        self.strangers.push_back((now + STRANGER_WAIT, connection));
    }

    /// Someone wanted to connect, and the system had no room.
    pub(crate) fn handle_no_room(&mut self) {
        self.had_no_room = true;
    }

    /// Bytes arrived.
    pub(crate) fn handle_input(&mut self, now: Time, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|c| !matches!(c.stage, Stage::Misfit))
        {
            connection.frames.push(bytes);
        }
        // What is handled may end the connection, so it is looked up for every message.
        while let Some(connection) = self.connections.get_mut(&id) {
            let body_bytes_max = match connection.stage {
                Stage::Silent { .. } | Stage::Challenged(..) => STRANGER_BODY_BYTES_MAX,
                Stage::Proven | Stage::Member { .. } => MEMBER_BODY_BYTES_MAX,
                Stage::Misfit => return,
            };
            let message = match connection.frames.next(body_bytes_max) {
                Ok(None) => return,
                Ok(Some(body)) => Message::decode(body),
                Err(malformed) => Err(malformed),
            };
            let stage = connection.stage;
            match message {
                Ok(message) => self.handle_message(now, id, stage, message),
                Err(Malformed(_)) => self.offend(id, stage),
            }
        }
    }

    /// The other side closed, or the connection broke.
    pub(crate) fn handle_closed(&mut self, id: ConnectionId) {
        match self.connections.remove(&id).map(|connection| connection.stage) {
            Some(Stage::Member { rank }) => self.depart(rank, "went away"),
            Some(Stage::Misfit) => {}
            Some(_) => self.refused += 1,
            None => {}
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        while let Some((deadline, id)) = self.strangers.front().copied() {
            let proving = self.connections.get(&id).is_some_and(|c| !c.stage.has_proved());
            if proving && deadline > now {
                break;
            }
            self.strangers.pop_front();
            if proving {
                self.refuse(id, "nothing that proves who you are came in time");
            }
        }
        if let Some((_, failure)) = self.verdict.take_if(|(due, _)| *due <= now) {
            self.fail(None, failure);
        }
        match &self.phase {
            Phase::Gathering { end: Some((end, bound)) } if *end <= now => {
                let missing = name_ranks(&self.missing(), self.ranks());
                let files = if self.had_no_room {
                    "; the process that made the id could not open enough files for all ranks (ulimit -n)"
                } else {
                    ""
                };
                let twice = self.twice.as_ref().map(|twice| format!("; {twice}")).unwrap_or_default();
                let refused = match self.refused + self.turned_away {
                    0 => String::new(),
                    count => {
                        format!("; {count} connections were turned away, which did not prove to be ranks")
                    }
                };
                let text = format!(
                    "{missing} did not come within {}; {} (SHOAL_INIT_TIMEOUT sets the bound){files}{twice}{refused}",
                    seconds(*bound),
                    Naming::default().advice()
                );
                self.fail(None, Failure::new(FailureKind::Timeout, text));
            }
            _ => {}
        }
        if self.next_progress.is_some_and(|next| next <= now) {
            self.next_progress = Some(now + PROGRESS_EVERY);
            self.tell_progress();
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let end = match &self.phase {
            Phase::Gathering { end } => end.map(|(end, _)| end),
            Phase::Watching | Phase::Failed { .. } => None,
        };
        let stranger = self.strangers.front().map(|(deadline, _)| *deadline);
        let verdict = self.verdict.as_ref().map(|(due, _)| *due);
        [end, stranger, verdict, self.next_progress].into_iter().flatten().min()
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What is to be done, after all frames were taken by [`Self::poll_transmit`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn handle_message(&mut self, now: Time, id: ConnectionId, stage: Stage, message: Message) {
        match (stage, message) {
            (Stage::Silent { nonce }, Message::Hello { speaker, communicator, nonce: member_nonce, .. }) => {
                if communicator != self.settings.communicator {
                    return self.refuse(id, "another communicator meets at this address");
                }
                let handshake = Handshake { communicator, member_nonce, root_nonce: nonce };
                self.set_stage(id, Stage::Challenged(handshake, speaker));
                let proof = handshake.proof(&self.settings.secret, Side::Root);
                self.send(id, &Message::Challenge { nonce, proof });
            }
            (Stage::Challenged(handshake, speaker), Message::Proof { proof }) => {
                if !handshake.accepts(&self.settings.secret, Side::Member, &proof) {
                    return self.refuse(id, "the proof is wrong");
                }
                if speaker.is_foreign() {
                    return self.handle_misfit(now, id, agreement::foreign(speaker));
                }
                self.set_stage(id, Stage::Proven);
            }
            (Stage::Proven, Message::Card { bound_ms, groups, group, card }) => {
                self.handle_card(now, id, Duration::from_millis(bound_ms), (groups, group), card);
            }
            (Stage::Member { rank }, Message::Fail { text }) => {
                let text = format!("{}: {text}", self.describe(rank));
                self.fail(Some(rank), Failure::new(FailureKind::Remote, text));
            }
            (Stage::Member { rank }, Message::Failed(failure)) => self.fail(Some(rank), failure),
            (Stage::Member { rank }, Message::Leave) => {
                self.connections.remove(&id);
                self.events.push_back(Event::Close(id));
                self.depart(rank, LEFT);
            }
            (stage, _) => self.offend(id, stage),
        }
    }

    /// One that does not fit the others hears the same as they, as soon as all have come or had the time to.
    fn handle_misfit(&mut self, now: Time, id: ConnectionId, failure: Failure) {
        self.set_stage(id, Stage::Misfit);
        self.misfits.push(id);
        match &self.phase {
            Phase::Gathering { .. } => {
                self.verdict.get_or_insert((now + DISAGREEMENT_WAIT, failure));
                self.judge_if_all_came();
            }
            Phase::Watching => self.fail(None, failure),
            Phase::Failed { failure, .. } => {
                let failed = Message::Failed(failure.clone());
                self.tell_misfits(&failed);
                self.leave_if_all_know();
            }
        }
    }

    fn judge_if_all_came(&mut self) {
        let have_come = self.came as usize + self.misfits.len();
        if !self.expected.is_empty()
            && have_come >= self.expected.len()
            && let Some((_, failure)) = self.verdict.take()
        {
            self.fail(None, failure);
        }
    }

    fn tell_misfits(&mut self, message: &Message) {
        for id in self.misfits.clone() {
            if self.connections.contains_key(&id) {
                self.send(id, message);
                self.drop_connection(id);
            }
        }
    }

    /// Whoever comes late is told what went wrong. When nobody is left to come, there is nothing left to do.
    fn leave_if_all_know(&mut self) {
        if let Phase::Failed { told, stay, .. } = &self.phase
            && (!stay || !self.expected.is_empty() && told.len() + self.misfits.len() >= self.expected.len())
        {
            self.stop_listening();
        }
    }

    fn handle_card(&mut self, now: Time, id: ConnectionId, bound: Duration, circle: (u32, u32), card: Card) {
        let rank = card.rank;
        if card.ranks == 0 || card.ranks > RANKS_MAX || rank >= card.ranks {
            return self.refuse(id, &format!("there cannot be a rank {rank} of {}", card.ranks));
        }
        let (groups, group) = circle;
        let shape = Shape { ranks: card.ranks, groups };
        let fits = group < groups && groups <= card.ranks;
        if !fits || !shape.meets(group, rank) {
            return self.refuse(id, &format!("rank {rank} of {} does not meet here", card.ranks));
        }
        if self.expected.is_empty() {
            self.expected = shape.expected(group);
        }
        if let Phase::Failed { failure, told, .. } = &mut self.phase {
            told.insert(rank);
            let failed = Message::Failed(failure.clone());
            self.send(id, &failed);
            self.drop_connection(id);
            return self.leave_if_all_know();
        }
        if self.settings.by_hand
            && let Some(Some(first)) = self.members.get(rank as usize)
            && first.card.ranks == card.ranks
        {
            let text = format!(
                "{} came while the birth of {} was under way",
                card.describe(),
                first.card.describe()
            );
            self.send(id, &Message::Later { text: text.clone() });
            self.twice = Some(text);
            return self.drop_connection(id);
        }
        if let Err(failure) = self.check(&card, circle) {
            return self.handle_misfit(now, id, failure);
        }
        if self.members.is_empty() {
            self.members.resize_with(card.ranks as usize, || None);
            self.circle = circle;
            self.next_progress = Some(now + PROGRESS_EVERY);
        }
        if let Phase::Gathering { end } = &mut self.phase {
            let mine = (now.saturating_add(bound), bound);
            *end = Some(end.map_or(mine, |end| end.min(mine)));
        }
        self.members[rank as usize] = Some(Entry { card, connection: id });
        self.came += 1;
        self.set_stage(id, Stage::Member { rank });
        if self.verdict.is_some() {
            self.judge_if_all_came();
        } else if self.came as usize == self.expected.len() {
            self.introduce();
        }
    }

    /// Whether the ranks that came and this one were started alike.
    fn check(&self, card: &Card, circle: (u32, u32)) -> Result<(), Failure> {
        if !matches!(self.phase, Phase::Gathering { .. }) {
            let text = format!("{} came after all ranks had come; a unique id serves once", card.describe());
            return Err(Failure::new(FailureKind::Mismatch, text));
        }
        let Some(first) = self.members.iter().flatten().next() else { return Ok(()) };
        let taken = self.members.get(card.rank as usize).and_then(Option::as_ref);
        agreement::check((&first.card, self.circle), (card, circle), taken.map(|entry| &entry.card))
    }

    /// Tells every rank who its neighbours are.
    fn introduce(&mut self) {
        // The address is free again before anyone hears that the birth is over, so that the next communicator
        // may meet there.
        self.stop_listening();
        let shape = Shape { ranks: self.ranks(), groups: self.circle.0 };
        for rank in self.expected.clone() {
            // Those who meet at another root are introduced there.
            let under = shape.children(rank).into_iter().map(|under| under.start);
            let neighbours = shape.parent(rank).into_iter().chain([rank]).chain(under);
            let entry = |of: u32| self.members[of as usize].as_ref();
            let cards = neighbours.filter_map(|of| entry(of).map(|entry| entry.card.clone())).collect();
            if let Some(connection) = entry(rank).map(|entry| entry.connection) {
                self.send(connection, &Message::Introduction { birth: self.last_nonce, cards });
            }
        }
        self.phase = Phase::Watching;
        self.next_progress = None;
    }

    /// A member's connection is gone.
    fn depart(&mut self, rank: u32, how: &'static str) {
        let has_met = matches!(self.phase, Phase::Watching) && how == LEFT;
        if has_met || matches!(self.phase, Phase::Failed { .. }) {
            return;
        }
        let text = format!("{} {how} before all ranks had met; look at its log", self.describe(rank));
        self.fail(None, Failure::new(FailureKind::Remote, text));
    }

    /// Ends the rendezvous for everyone. `origin` knows already.
    fn fail(&mut self, origin: Option<u32>, failure: Failure) {
        let gathering = matches!(self.phase, Phase::Gathering { .. });
        // Who leaves because of a disagreement is not its cause.
        let failure = self.verdict.take().map_or(failure, |(_, first)| first);
        let failed = Message::Failed(failure.clone());
        self.broadcast(&failed, false, |rank| Some(rank) != origin);
        self.tell_misfits(&failed);
        let told: HashSet<u32> = self.members.iter().flatten().map(|entry| entry.card.rank).collect();
        for entry in self.members.iter().flatten() {
            if self.connections.remove(&entry.connection).is_some() {
                self.events.push_back(Event::Close(entry.connection));
            }
        }
        let stay = gathering && !self.settings.by_hand;
        self.phase = Phase::Failed { failure, told, stay };
        self.next_progress = None;
        self.leave_if_all_know();
    }

    /// Something that no member says. Of a stranger nobody hears; a member fails all.
    fn offend(&mut self, id: ConnectionId, stage: Stage) {
        match stage {
            Stage::Member { rank } => {
                let text = format!("{} sent what cannot be understood", self.describe(rank));
                self.fail(None, Failure::new(FailureKind::Remote, text));
            }
            _ => self.refuse(id, "this is a meeting place of shoal, and that could not be understood"),
        }
    }

    fn refuse(&mut self, id: ConnectionId, text: &str) {
        self.refused += 1;
        self.send(id, &Message::Refused { gone: false, text: text.to_owned() });
        self.drop_connection(id);
    }

    /// All ranks have come; at an address that was set by hand another birth follows.
    fn refuse_late(&mut self, id: ConnectionId) {
        let text = "all ranks of the birth that was under way have come".to_owned();
        if self.settings.by_hand {
            self.send(id, &Message::Later { text });
            self.drop_connection(id);
        } else {
            self.refuse(id, &text);
        }
    }

    fn drop_connection(&mut self, id: ConnectionId) {
        if self.connections.remove(&id).is_some() {
            self.events.push_back(Event::Close(id));
        }
    }

    /// Whoever has not proved who they are by now is too late.
    fn stop_listening(&mut self) {
        if !std::mem::replace(&mut self.listening, false) {
            return;
        }
        self.events.push_back(Event::StopListening);
        for (_, id) in std::mem::take(&mut self.strangers) {
            if self.connections.get(&id).is_some_and(|c| !c.stage.has_proved()) {
                self.refuse_late(id);
            }
        }
    }

    fn tell_progress(&mut self) {
        let missing = name_ranks(&self.missing(), self.ranks());
        let message = Message::Progress { text: format!("waiting for {missing}") };
        self.broadcast(&message, true, |_| true);
    }

    /// One frame, shared by all who get it.
    fn broadcast(&mut self, message: &Message, optional: bool, to: impl Fn(u32) -> bool) {
        let bytes = message.encode();
        for entry in self.members.iter().flatten() {
            if self.connections.contains_key(&entry.connection) && to(entry.card.rank) {
                let (connection, bytes) = (entry.connection, bytes.clone());
                self.transmits.push_back(Transmit { connection, bytes, optional });
            }
        }
    }

    fn send(&mut self, connection: ConnectionId, message: &Message) {
        self.transmits.push_back(Transmit { connection, bytes: message.encode(), optional: false });
    }

    fn set_stage(&mut self, id: ConnectionId, stage: Stage) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = stage;
        }
    }

    fn ranks(&self) -> u32 {
        u32::try_from(self.members.len()).expect("ranks are counted in 32 bits")
    }

    /// Those that the others wait for.
    fn missing(&self) -> Vec<u32> {
        let missing = |rank: &&u32| self.members[**rank as usize].is_none();
        self.expected.iter().filter(missing).copied().collect()
    }

    fn describe(&self, rank: u32) -> String {
        self.members[rank as usize]
            .as_ref()
            .map_or_else(|| format!("rank {rank}"), |entry| entry.card.describe())
    }
}
