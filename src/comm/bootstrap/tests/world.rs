//! A root and its members in one thread, with virtual time: seeded delays, and bytes cut anywhere.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Random, sample_card};
use crate::comm::bootstrap::member::{self, Member, Obstacle};
use crate::comm::bootstrap::message::Naming;
use crate::comm::bootstrap::proof::Secret;
use crate::comm::bootstrap::root::{self, Root, Time};
use crate::error::{Error, Result};
use crate::topology::Card;

pub(super) const BOUND: Duration = Duration::from_secs(120);
/// More events than any rendezvous of these tests needs.
pub(super) const EVENTS_MAX: u64 = 5_000_000;

#[derive(Debug, Clone)]
enum Happening {
    Wake(usize),
    Connected { node: usize, attempt: u64 },
    Refused { node: usize, attempt: u64 },
    ToRoot { connection: u64, bytes: Vec<u8> },
    RootClosed { connection: u64 },
    ToMember { connection: u64, bytes: Vec<u8> },
    MemberClosed { connection: u64 },
}

/// Who is at the member's end of a connection.
type End = (usize, u64);

pub(super) struct Node {
    pub(super) member: Member,
    starts: Time,
    /// How many steps it takes before it leaves.
    pub(super) steps: usize,
    /// It is not there any more, and nobody says so to the root but the closed connection.
    pub(super) dies_after_joining: bool,
    /// It takes no step, and says nothing.
    pub(super) stalls: bool,
    pub(super) joined: Option<Vec<Card>>,
    pub(super) gathered: Vec<Vec<Vec<u8>>>,
    pub(super) result: Option<Result<()>>,
}

pub(super) struct World {
    pub(super) now: Time,
    /// When the last rank had its result.
    pub(super) settled: Time,
    random: Random,
    pub(super) root: Root,
    pub(super) root_listens: bool,
    pub(super) root_starts: Time,
    pub(super) nodes: Vec<Node>,
    ends: BTreeMap<u64, End>,
    connections: BTreeMap<End, u64>,
    /// When the last thing sent each way arrives, so that order is kept.
    latest: BTreeMap<(u64, bool), Time>,
    next: u64,
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
}

/// The address where nobody listens, and that of the root.
pub(super) fn addresses() -> Vec<SocketAddr> {
    vec!["10.9.9.9:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()]
}

pub(super) fn settings() -> member::Settings {
    member::Settings {
        secret: Secret([1; 32]),
        communicator: [2; 16],
        addresses: addresses(),
        patient: false,
        early: false,
        bound: BOUND,
        naming: Naming::default(),
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let secret = Secret([1; 32]);
        World {
            now: Time::ZERO,
            settled: Time::ZERO,
            random: Random(seed),
            root: Root::new(root::Settings {
                secret,
                communicator: [2; 16],
                stay_after_failure: true,
                naming: Naming::default(),
            }),
            root_listens: true,
            root_starts: Time::ZERO,
            nodes: Vec::new(),
            ends: BTreeMap::new(),
            connections: BTreeMap::new(),
            latest: BTreeMap::new(),
            next: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
        }
    }

    /// Ranks `0..ranks` that start within a second and take `steps` steps.
    pub(super) fn with_ranks(seed: u64, ranks: u32, steps: usize) -> World {
        let mut world = World::new(seed);
        for rank in 0..ranks {
            world.add(settings(), sample_card(rank, ranks), steps);
        }
        world
    }

    pub(super) fn add(&mut self, settings: member::Settings, card: Card, steps: usize) -> usize {
        let starts = self.now + Duration::from_micros(self.random.below(1_000_000) as u64);
        let member = Member::new(starts, settings, card);
        self.nodes.push(Node {
            member,
            starts,
            steps,
            dies_after_joining: false,
            stalls: false,
            joined: None,
            gathered: Vec::new(),
            result: None,
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

    fn delay(&mut self) -> Duration {
        Duration::from_micros(10 + self.random.below(3000) as u64)
    }

    /// Cuts bytes anywhere and keeps their order.
    fn carry(&mut self, connection: u64, to_root: bool, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let whole = self.random.below(2) == 0 || rest.len() > 100_000;
            let count = if whole { rest.len() } else { 1 + self.random.below(rest.len()) };
            let (part, after) = rest.split_at(count);
            rest = after;
            let bytes = part.to_vec();
            let time = self.in_order(connection, to_root);
            self.at(
                time,
                if to_root {
                    Happening::ToRoot { connection, bytes }
                } else {
                    Happening::ToMember { connection, bytes }
                },
            );
        }
    }

    fn in_order(&mut self, connection: u64, to_root: bool) -> Time {
        let soon = self.now + self.delay();
        let latest = self.latest.entry((connection, to_root)).or_default();
        *latest = (*latest).max(soon);
        *latest
    }

    /// A connection that no member machine speaks on.
    pub(super) fn stranger(&mut self) -> u64 {
        let connection = self.next;
        self.next += 1;
        let nonce = self.random.bytes();
        self.root.handle_connected(self.now, connection, nonce);
        connection
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
            let root_due = self.root.poll_timeout().filter(|_| !self.root.is_finished());
            let Some(time) = [due, root_due].into_iter().flatten().min() else { return };
            self.now = self.now.max(time);
            if due != Some(time) {
                self.root.handle_timeout(self.now);
            } else if let Some(std::cmp::Reverse((_, _, index))) = self.queue.pop() {
                let happening = self.happenings[index].take().expect("each happens once");
                self.happen(happening);
            }
            self.obey_root();
        }
        panic!("it never ends");
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        let node = match happening {
            Happening::Wake(node) => {
                if self.nodes[node].result.is_none() {
                    self.nodes[node].member.handle_timeout(now);
                }
                node
            }
            Happening::Connected { node, attempt } => {
                let nonce = self.random.bytes();
                let connection = self.connections[&(node, attempt)];
                let root_nonce = self.random.bytes();
                self.root.handle_connected(now, connection, root_nonce);
                self.nodes[node].member.handle_connected(now, attempt, nonce);
                node
            }
            Happening::Refused { node, attempt } => {
                self.nodes[node].member.handle_closed(now, attempt, Obstacle::Refused);
                node
            }
            Happening::ToRoot { connection, bytes } => {
                return self.root.handle_input(now, connection, &bytes);
            }
            Happening::RootClosed { connection } => return self.root.handle_closed(connection),
            Happening::ToMember { connection, bytes } => {
                let Some((node, attempt)) = self.ends.get(&connection).copied() else { return };
                self.nodes[node].member.handle_input(now, attempt, &bytes);
                node
            }
            Happening::MemberClosed { connection } => {
                let Some((node, attempt)) = self.ends.remove(&connection) else { return };
                self.nodes[node].member.handle_closed(now, attempt, Obstacle::Other("closed".into()));
                node
            }
        };
        let had_result = self.nodes[node].result.is_some();
        self.obey_member(node);
        if !had_result && self.nodes[node].result.is_some() {
            self.settled = now;
        }
    }

    fn obey_root(&mut self) {
        while let Some(transmit) = self.root.poll_transmit() {
            let bytes = transmit.bytes.clone();
            self.carry(transmit.connection, false, &bytes);
        }
        while let Some(event) = self.root.poll_event() {
            match event {
                root::Event::StopListening => self.root_listens = false,
                root::Event::Close(connection) => {
                    let time = self.in_order(connection, false);
                    self.at(time, Happening::MemberClosed { connection });
                }
            }
        }
    }

    pub(super) fn obey_member(&mut self, node: usize) {
        loop {
            while let Some((attempt, bytes)) = self.nodes[node].member.poll_transmit() {
                if let Some(connection) = self.connections.get(&(node, attempt)).copied() {
                    self.carry(connection, true, &bytes);
                }
            }
            let Some(event) = self.nodes[node].member.poll_event() else { break };
            match event {
                member::Event::Connect(attempt, address) => self.connect(node, attempt, address),
                member::Event::Close(attempt) => self.hang_up(node, attempt),
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
                }
            }
        }
        if self.nodes[node].result.is_some() {
            return;
        }
        if let Some(time) = self.nodes[node].member.poll_timeout() {
            let time = time.max(self.nodes[node].starts).max(self.now + Duration::from_micros(1));
            self.at(time, Happening::Wake(node));
        }
    }

    /// The next step, or the end.
    fn go_on(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.dies_after_joining {
            node.result = Some(Ok(()));
            let ends: Vec<u64> =
                self.ends.iter().filter(|(_, end)| end.0 == index).map(|(id, _)| *id).collect();
            for connection in ends {
                self.ends.remove(&connection);
                let time = self.in_order(connection, true);
                self.at(time, Happening::RootClosed { connection });
            }
        } else if node.stalls {
        } else if node.gathered.len() < node.steps {
            let bytes = format!("{index} at {}", node.gathered.len());
            node.member.contribute(now, bytes.as_bytes());
        } else {
            node.member.leave();
            node.result = Some(Ok(()));
        }
    }

    fn connect(&mut self, node: usize, attempt: u64, address: SocketAddr) {
        let time = self.now + self.delay();
        let listens = self.root_listens && self.root_starts <= time;
        if address == addresses()[0] || !listens {
            return self.at(time, Happening::Refused { node, attempt });
        }
        let connection = self.next;
        self.next += 1;
        self.ends.insert(connection, (node, attempt));
        self.connections.insert((node, attempt), connection);
        self.at(time, Happening::Connected { node, attempt });
    }

    fn hang_up(&mut self, node: usize, attempt: u64) {
        let Some(connection) = self.connections.get(&(node, attempt)).copied() else { return };
        self.ends.remove(&connection);
        let time = self.in_order(connection, true);
        self.at(time, Happening::RootClosed { connection });
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
