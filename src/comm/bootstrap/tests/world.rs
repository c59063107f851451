//! Roots and ranks in one thread, with virtual time: seeded delays, bytes cut anywhere, a lobby for every rank.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use super::terms::{Terms, addresses, terms};
use super::{Random, sample_card};
use crate::comm::bootstrap::id::Speaker;
use crate::comm::bootstrap::lobby::{Lobby, Verdict};
use crate::comm::bootstrap::member::{self, Member, Obstacle};
use crate::comm::bootstrap::proof::Secret;
use crate::comm::bootstrap::root::{self, Root, Time};
use crate::error::{Error, Result};
use crate::topology::Card;

/// More events than any rendezvous of these tests needs.
pub(super) const EVENTS_MAX: u64 = 5_000_000;

/// Whom a connection ends at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Root(usize),
    /// A node, which calls the connection by this number, once it has one.
    Node(usize, Option<u64>),
    Nobody,
}

#[derive(Debug, Clone)]
enum Happening {
    Wake(usize),
    Connected { wire: u64 },
    Refused { node: usize, attempt: u64 },
    Bytes { wire: u64, to: usize, bytes: Vec<u8> },
    Closed { wire: u64, to: usize },
}

/// What crossed the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

pub(super) struct Node {
    pub(super) member: Member,
    lobby: Lobby,
    doors: Vec<[u8; 16]>,
    starts: Time,
    /// When it is woken next.
    armed: Option<Time>,
    /// How many steps it takes.
    pub(super) steps: usize,
    /// It is not there any more, and nobody says so but the closed connections.
    pub(super) dies_after_joining: bool,
    /// It takes no step, and says nothing.
    pub(super) stalls: bool,
    pub(super) is_dead: bool,
    /// The version that it says it has, in place of its own.
    pub(super) speaker: Option<Speaker>,
    pub(super) joined: Option<Vec<Card>>,
    pub(super) gathered: Vec<Vec<Vec<u8>>>,
    pub(super) result: Option<Result<()>>,
    pub(super) sent: Traffic,
    /// With how many ranks and roots it ever had a connection.
    pub(super) wires: usize,
}

pub(super) struct World {
    pub(super) now: Time,
    /// When the last rank had its result.
    pub(super) settled: Time,
    random: Random,
    /// One of so many frames is spoiled on its way; none if 0.
    pub(super) noise: usize,
    pub(super) root: Root,
    /// Those of the other ids.
    pub(super) others: Vec<Root>,
    pub(super) root_listens: bool,
    pub(super) root_starts: Time,
    pub(super) root_sent: Traffic,
    pub(super) nodes: Vec<Node>,
    /// Who made the connection, and who was connected to.
    wires: BTreeMap<u64, [End; 2]>,
    names: BTreeMap<(usize, u64), (u64, usize)>,
    /// When the last thing sent each way arrives, so that order is kept.
    latest: BTreeMap<(u64, usize), Time>,
    next: u64,
    pub(super) event_count: u64,
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
}

/// Where a node listens.
fn address_of(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 7, (node / 256) as u8, (node % 256) as u8], 1))
}

fn node_at(address: &SocketAddr) -> Option<usize> {
    match address.ip() {
        std::net::IpAddr::V4(v4) if v4.octets()[..2] == [10, 7] => {
            Some(usize::from(v4.octets()[2]) * 256 + usize::from(v4.octets()[3]))
        }
        _ => None,
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let secret = Secret([1; 32]);
        World {
            now: Time::ZERO,
            settled: Time::ZERO,
            random: Random(seed),
            noise: 0,
            root: Root::new(root::Settings { secret, communicator: [2; 16], by_hand: false }),
            others: Vec::new(),
            root_listens: true,
            root_starts: Time::ZERO,
            root_sent: Traffic::default(),
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            names: BTreeMap::new(),
            latest: BTreeMap::new(),
            next: 0,
            event_count: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
        }
    }

    /// At an address that was set by hand.
    pub(super) fn by_hand(seed: u64) -> World {
        let settings = root::Settings { secret: Secret([1; 32]), communicator: [2; 16], by_hand: true };
        World { root: Root::new(settings), ..World::new(seed) }
    }

    /// Ranks `0..ranks` that start within a second and take `steps` steps.
    pub(super) fn with_ranks(seed: u64, ranks: u32, steps: usize) -> World {
        let mut world = World::new(seed);
        for rank in 0..ranks {
            world.add(terms(), sample_card(rank, ranks), steps);
        }
        world
    }

    /// The same by so many ids.
    pub(super) fn with_ids(seed: u64, ranks: u32, groups: u32, steps: usize) -> World {
        let mut world = World::new(seed);
        let settings = root::Settings { secret: Secret([1; 32]), communicator: [2; 16], by_hand: false };
        world.others = (1..groups).map(|_| Root::new(settings.clone())).collect();
        for rank in 0..ranks {
            world.add(terms(), sample_card(rank, ranks), steps);
        }
        world
    }

    /// Those of `ranks` that are in `present` meet again.
    pub(super) fn with_kin(seed: u64, ranks: u32, present: &[u32], steps: usize) -> World {
        let mut world = World::new(seed);
        let known: Vec<Card> = (0..ranks).map(|rank| listening(sample_card(rank, ranks))).collect();
        for rank in 0..ranks {
            let starts = world.start_time();
            let card = known[rank as usize].clone();
            let member = Member::derived(starts, terms().settings(1), card, &known);
            world.push(member, starts, steps);
            if !present.contains(&rank) {
                let node = world.nodes.last_mut().expect("just added");
                (node.is_dead, node.result) = (true, Some(Ok(())));
            }
        }
        world
    }

    pub(super) fn add(&mut self, terms: Terms, card: Card, steps: usize) -> usize {
        let starts = self.start_time();
        let card = Card { listeners: vec![address_of(self.nodes.len())], ..card };
        let groups = 1 + self.others.len() as u32;
        self.push(terms.member(starts, card, groups), starts, steps)
    }

    fn start_time(&mut self) -> Time {
        self.now + Duration::from_micros(self.random.below(1_000_000) as u64)
    }

    fn push(&mut self, member: Member, starts: Time, steps: usize) -> usize {
        self.nodes.push(Node {
            member,
            lobby: Lobby::default(),
            doors: Vec::new(),
            starts,
            armed: None,
            steps,
            dies_after_joining: false,
            stalls: false,
            is_dead: false,
            speaker: None,
            joined: None,
            gathered: Vec::new(),
            result: None,
            sent: Traffic::default(),
            wires: 0,
        });
        let node = self.nodes.len() - 1;
        self.at(starts, Happening::Wake(node));
        node
    }

    fn at(&mut self, time: Time, happening: Happening) {
        let index = self.happenings.len();
        self.happenings.push(Some(happening));
        self.queue.push(std::cmp::Reverse((time, index as u64, index)));
    }

    fn arm(&mut self, node: usize, time: Time) {
        let time = time.max(self.now + Duration::from_micros(1));
        if self.nodes[node].armed.is_none_or(|armed| time < armed) {
            self.nodes[node].armed = Some(time);
            self.at(time, Happening::Wake(node));
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(10 + self.random.below(3000) as u64)
    }

    /// Cuts bytes anywhere and keeps their order.
    fn carry(&mut self, wire: u64, to: usize, bytes: &[u8]) {
        let spoiled = (self.noise > 0 && self.random.below(self.noise) == 0)
            .then(|| super::hostile::spoil(&mut self.random, bytes));
        let mut rest = spoiled.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            let whole = self.random.below(2) == 0 || rest.len() > 10_000;
            let count = if whole { rest.len() } else { 1 + self.random.below(rest.len()) };
            let (part, after) = rest.split_at(count);
            rest = after;
            let bytes = part.to_vec();
            let time = self.in_order(wire, to);
            self.at(time, Happening::Bytes { wire, to, bytes });
        }
    }

    fn in_order(&mut self, wire: u64, to: usize) -> Time {
        let soon = self.now + self.delay();
        let latest = self.latest.entry((wire, to)).or_default();
        *latest = (*latest).max(soon);
        *latest
    }

    /// A connection to the root that no member machine speaks on.
    pub(super) fn stranger(&mut self) -> u64 {
        let wire = self.next;
        self.next += 1;
        let nonce = self.random.bytes();
        self.wires.insert(wire, [End::Nobody, End::Root(0)]);
        self.root.handle_connected(self.now, wire, nonce);
        wire
    }

    pub(super) fn run(&mut self) {
        self.run_until(|_| false);
    }
    /// Until nothing is left to happen, or `enough` says so.
    pub(super) fn run_until(&mut self, enough: impl Fn(&World) -> bool) {
        for _ in 0..EVENTS_MAX {
            if enough(self) {
                return;
            }
            let due = self.queue.peek().map(|std::cmp::Reverse((time, _, _))| *time);
            let roots = std::iter::once(&self.root).chain(&self.others).filter(|root| !root.is_finished());
            let root_due = roots.filter_map(Root::poll_timeout).min();
            let Some(time) = [due, root_due].into_iter().flatten().min() else { return };
            self.now = self.now.max(time);
            self.event_count += 1;
            if due != Some(time) {
                (0..=self.others.len()).for_each(|index| self.root_at(index).handle_timeout(time));
            } else if let Some(std::cmp::Reverse((_, _, index))) = self.queue.pop() {
                let happening = self.happenings[index].take().expect("each happens once");
                self.happen(happening);
            }
            self.obey_roots();
        }
        panic!("it never ends");
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Wake(node) => {
                self.nodes[node].armed.take_if(|armed| *armed <= now);
                self.nodes[node].lobby.handle_timeout(now);
                if self.nodes[node].result.is_none() {
                    self.nodes[node].member.handle_timeout(now);
                }
                self.obey_node(node);
            }
            Happening::Connected { wire } => {
                let Some([from, to]) = self.wires.get(&wire).copied() else { return };
                match to {
                    End::Root(index) => {
                        let nonce = self.random.bytes();
                        self.root_at(index).handle_connected(now, wire, nonce);
                    }
                    End::Node(node, _) => self.nodes[node].lobby.handle_connected(now, wire),
                    End::Nobody => {}
                }
                if let End::Node(node, Some(attempt)) = from {
                    let nonce = self.random.bytes();
                    self.nodes[node].member.handle_connected(attempt, nonce);
                    self.obey_node(node);
                }
            }
            Happening::Refused { node, attempt } => {
                self.nodes[node].member.handle_closed(now, attempt, Obstacle::Refused);
                self.obey_node(node);
            }
            Happening::Bytes { wire, to, bytes } => self.deliver(wire, to, &bytes),
            Happening::Closed { wire, to } => {
                let Some(ends) = self.wires.get_mut(&wire) else { return };
                match std::mem::replace(&mut ends[to], End::Nobody) {
                    End::Root(index) => self.root_at(index).handle_closed(wire),
                    End::Node(node, Some(attempt)) => {
                        let obstacle = Obstacle::Other("closed".into());
                        self.nodes[node].member.handle_closed(now, attempt, obstacle);
                        self.obey_node(node);
                    }
                    End::Node(node, None) => self.nodes[node].lobby.handle_closed(wire),
                    End::Nobody => {}
                }
            }
        }
    }

    fn deliver(&mut self, wire: u64, to: usize, bytes: &[u8]) {
        let now = self.now;
        match self.wires.get(&wire).map_or(End::Nobody, |ends| ends[to]) {
            End::Root(index) => self.root_at(index).handle_input(now, wire, bytes),
            End::Node(node, Some(attempt)) => {
                self.nodes[node].member.handle_input(now, attempt, bytes);
                self.obey_node(node);
            }
            End::Node(node, None) => {
                let Node { lobby, doors, .. } = &mut self.nodes[node];
                lobby.handle_input(now, wire, bytes, |door| doors.contains(door));
                self.obey_node(node);
            }
            End::Nobody => {}
        }
    }

    fn root_at(&mut self, index: usize) -> &mut Root {
        if index == 0 { &mut self.root } else { &mut self.others[index - 1] }
    }

    fn obey_roots(&mut self) {
        for index in 0..=self.others.len() {
            while let Some(transmit) = self.root_at(index).poll_transmit() {
                self.root_sent.frames += 1;
                self.root_sent.bytes += transmit.bytes.len() as u64;
                self.carry(transmit.connection, 0, &transmit.bytes);
            }
            while let Some(event) = self.root_at(index).poll_event() {
                match event {
                    root::Event::StopListening => self.root_listens &= index > 0,
                    root::Event::Close(wire) => self.close(wire, 1),
                }
            }
        }
    }

    /// `end` of the wire closes its side.
    fn close(&mut self, wire: u64, end: usize) {
        if let Some(ends) = self.wires.get_mut(&wire) {
            ends[end] = End::Nobody;
            let time = self.in_order(wire, 1 - end);
            self.at(time, Happening::Closed { wire, to: 1 - end });
        }
    }

    /// Lobby and member of a node.
    pub(super) fn obey_node(&mut self, node: usize) {
        if self.nodes[node].is_dead {
            return;
        }
        let had_result = self.nodes[node].result.is_some();
        while let Some(verdict) = self.nodes[node].lobby.poll_verdict() {
            match verdict {
                Verdict::Refuse { connection, message } => {
                    self.carry(connection, 0, &message.encode());
                    self.close(connection, 1);
                }
                Verdict::Enter { connection, words, .. } => {
                    let (nonce, now) = (self.random.bytes(), self.now);
                    match self.nodes[node].member.handle_visitor(now, nonce, &words) {
                        Some(attempt) => self.name(node, attempt, connection, 1),
                        None => self.close(connection, 1),
                    }
                }
            }
        }
        self.obey_member(node);
        if !had_result && self.nodes[node].result.is_some() {
            self.settled = self.now;
        }
        if let Some(time) = self.nodes[node].lobby.poll_timeout() {
            self.arm(node, time);
        }
    }

    fn name(&mut self, node: usize, attempt: u64, wire: u64, end: usize) {
        self.names.insert((node, attempt), (wire, end));
        if let Some(ends) = self.wires.get_mut(&wire) {
            ends[end] = End::Node(node, Some(attempt));
        }
        self.nodes[node].wires += 1;
    }

    fn obey_member(&mut self, node: usize) {
        loop {
            while let Some((attempt, bytes)) = self.nodes[node].member.poll_transmit() {
                self.nodes[node].sent.frames += 1;
                self.nodes[node].sent.bytes += bytes.len() as u64;
                let bytes = self.nodes[node]
                    .speaker
                    .map_or(bytes.to_vec(), |speaker| super::hostile::speaking(speaker, &bytes));
                if let Some((wire, end)) = self.names.get(&(node, attempt)).copied() {
                    self.carry(wire, 1 - end, &bytes);
                }
            }
            let Some(event) = self.nodes[node].member.poll_event() else { break };
            match event {
                member::Event::Connect(attempt, address) => self.connect(node, attempt, address),
                member::Event::Reached(_) => {}
                member::Event::Close(attempt) => self.hang_up(node, attempt),
                member::Event::Expect(door) => {
                    self.nodes[node].doors.push(door);
                    self.nodes[node].lobby.expect(door);
                    self.at(self.now, Happening::Wake(node));
                }
                member::Event::Joined(cards) => {
                    self.nodes[node].joined = Some(cards);
                    self.go_on(node);
                }
                member::Event::Gathered(parts) => {
                    self.nodes[node].gathered.push(parts);
                    self.go_on(node);
                }
                member::Event::Failed(error) => {
                    self.nodes[node].result.get_or_insert(Err(error));
                    self.hang_up_all(node);
                }
            }
        }
        if self.nodes[node].result.is_some() {
            return;
        }
        if let Some(time) = self.nodes[node].member.poll_timeout() {
            self.arm(node, time.max(self.nodes[node].starts));
        }
    }

    /// The next step, or the end.
    fn go_on(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.dies_after_joining {
            self.kill(index);
        } else if node.stalls {
        } else if node.gathered.len() < node.steps {
            let bytes = format!("{index} at {}", node.gathered.len());
            node.member.contribute(now, bytes.as_bytes());
        } else {
            node.member.leave();
            node.result = Some(Ok(()));
            while let Some((attempt, bytes)) = self.nodes[index].member.poll_transmit() {
                if let Some((wire, end)) = self.names.get(&(index, attempt)).copied() {
                    self.carry(wire, 1 - end, &bytes);
                }
            }
            self.hang_up_all(index);
        }
    }

    /// It is not there any more.
    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].result.get_or_insert(Ok(()));
        self.nodes[index].is_dead = true;
        self.hang_up_all(index);
    }

    /// It cannot go on, and says so.
    pub(super) fn give_up(&mut self, index: usize) {
        self.nodes[index].member.fail("it was aborted");
        self.nodes[index].result = Some(Ok(()));
        self.obey_node(index);
        self.hang_up_all(index);
    }

    pub(super) fn hang_up_all(&mut self, index: usize) {
        let own: Vec<(u64, usize)> = self
            .wires
            .iter()
            .flat_map(|(wire, ends)| [(*wire, ends[0], 0), (*wire, ends[1], 1)])
            .filter(|(_, end, _)| matches!(end, End::Node(node, _) if *node == index))
            .map(|(wire, _, end)| (wire, end))
            .collect();
        own.into_iter().for_each(|(wire, end)| self.close(wire, end));
    }

    fn connect(&mut self, node: usize, attempt: u64, address: SocketAddr) {
        let time = self.now + self.delay();
        let peer = node_at(&address);
        let is_there = match peer {
            Some(peer) => self.nodes.get(peer).is_some_and(|node| !node.is_dead && node.starts <= time),
            None if address == addresses()[1] => self.root_listens && self.root_starts <= time,
            None => (2..2 + self.others.len())
                .any(|last| address.ip() == std::net::IpAddr::from([10, 0, 0, last as u8])),
        };
        if !is_there {
            return self.at(time, Happening::Refused { node, attempt });
        }
        let wire = self.next;
        self.next += 1;
        let root = || match address.ip() {
            std::net::IpAddr::V4(v4) => End::Root(usize::from(v4.octets()[3]) - 1),
            std::net::IpAddr::V6(_) => End::Nobody,
        };
        let to = peer.map_or_else(root, |peer| End::Node(peer, None));
        self.wires.insert(wire, [End::Nobody, to]);
        self.name(node, attempt, wire, 0);
        self.at(time, Happening::Connected { wire });
    }

    fn hang_up(&mut self, node: usize, attempt: u64) {
        let named = self.names.get(&(node, attempt)).copied();
        named.into_iter().for_each(|(wire, end)| self.close(wire, end));
    }

    pub(super) fn error(&self, node: usize) -> &Error {
        match &self.nodes[node].result {
            Some(Err(error)) => error,
            other => panic!("node {node}: {other:?}"),
        }
    }

    pub(super) fn assert_all_met(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.result, Some(Ok(())), "node {index}");
            let cards = node.joined.as_ref().expect("it joined");
            assert_eq!(cards.len(), self.nodes.len());
            assert!(cards.iter().zip(0..).all(|(card, rank)| card.rank == rank));
            for (step, parts) in node.gathered.iter().enumerate() {
                assert!(
                    parts
                        .iter()
                        .enumerate()
                        .all(|(rank, part)| *part == format!("{rank} at {step}").as_bytes())
                );
            }
            assert_eq!(node.gathered.len(), node.steps);
        }
    }
}

/// With the address that the node of its rank has.
fn listening(card: Card) -> Card {
    Card { listeners: vec![address_of(card.rank as usize)], ..card }
}
