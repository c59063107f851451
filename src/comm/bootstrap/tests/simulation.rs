//! The two state machines against one another in one thread, with virtual time: seeded delays, bytes cut
//! anywhere, lost ranks, duplicates, garbage.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Random, sample_card};
use crate::comm::bootstrap::member::{self, Member, Obstacle};
use crate::comm::bootstrap::message::Message;
use crate::comm::bootstrap::proof::Secret;
use crate::comm::bootstrap::root::{self, Root, Time};
use crate::error::{Error, Result};
use crate::topology::{Card, DeviceKind};

const BOUND: Duration = Duration::from_secs(120);
/// More events than any rendezvous of these tests needs.
const EVENTS_MAX: u64 = 5_000_000;

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

struct Node {
    member: Member,
    starts: Time,
    /// How many steps it takes before it leaves.
    steps: usize,
    /// It is not there any more, and nobody says so to the root but the closed connection.
    dies_after_joining: bool,
    joined: Option<Vec<Card>>,
    gathered: Vec<Vec<Vec<u8>>>,
    result: Option<Result<()>>,
}

struct World {
    now: Time,
    random: Random,
    root: Root,
    root_listens: bool,
    root_starts: Time,
    nodes: Vec<Node>,
    ends: BTreeMap<u64, End>,
    connections: BTreeMap<End, u64>,
    /// When the last thing sent each way arrives, so that order is kept.
    latest: BTreeMap<(u64, bool), Time>,
    next: u64,
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
}

/// The address where nobody listens, and that of the root.
fn addresses() -> Vec<SocketAddr> {
    vec!["10.9.9.9:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()]
}

fn settings() -> member::Settings {
    member::Settings {
        secret: Secret([1; 32]),
        communicator: [2; 16],
        addresses: addresses(),
        patient: false,
        bound: BOUND,
    }
}

impl World {
    fn new(seed: u64) -> World {
        let secret = Secret([1; 32]);
        World {
            now: Time::ZERO,
            random: Random(seed),
            root: Root::new(root::Settings { secret, communicator: [2; 16], stay_after_failure: true }),
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
    fn with_ranks(seed: u64, ranks: u32, steps: usize) -> World {
        let mut world = World::new(seed);
        for rank in 0..ranks {
            world.add(settings(), sample_card(rank, ranks), steps);
        }
        world
    }

    fn add(&mut self, settings: member::Settings, card: Card, steps: usize) -> usize {
        let starts = self.now + Duration::from_micros(self.random.below(1_000_000) as u64);
        let member = Member::new(starts, settings, card);
        self.nodes.push(Node {
            member,
            starts,
            steps,
            dies_after_joining: false,
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
                if to_root { Happening::ToRoot { connection, bytes } } else { Happening::ToMember { connection, bytes } },
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
    fn stranger(&mut self) -> u64 {
        let connection = self.next;
        self.next += 1;
        let nonce = self.random.bytes();
        self.root.handle_connected(self.now, connection, nonce);
        connection
    }

    fn run(&mut self) {
        self.run_until(|_| false);
    }

    /// Until nothing is left to happen, or `enough` says so.
    fn run_until(&mut self, enough: impl Fn(&World) -> bool) {
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
            Happening::ToRoot { connection, bytes } => return self.root.handle_input(now, connection, &bytes),
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
        self.obey_member(node);
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

    fn obey_member(&mut self, node: usize) {
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
        if self.nodes[node].result.is_none() {
            if let Some(time) = self.nodes[node].member.poll_timeout() {
                let time = time.max(self.nodes[node].starts).max(self.now + Duration::from_micros(1));
                self.at(time, Happening::Wake(node));
            }
        }
    }

    /// The next step, or the end.
    fn go_on(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.dies_after_joining {
            node.result = Some(Ok(()));
            let ends: Vec<u64> = self.ends.iter().filter(|(_, end)| end.0 == index).map(|(id, _)| *id).collect();
            for connection in ends {
                self.ends.remove(&connection);
                let time = self.in_order(connection, true);
                self.at(time, Happening::RootClosed { connection });
            }
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

    fn error(&self, node: usize) -> &Error {
        match &self.nodes[node].result {
            Some(Err(error)) => error,
            other => panic!("node {node}: {other:?}"),
        }
    }

    fn assert_all_met(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.result, Some(Ok(())), "node {index}");
            let cards = node.joined.as_ref().expect("it joined");
            assert_eq!(cards.len(), self.nodes.len());
            assert!(cards.iter().zip(0..).all(|(card, rank)| card.rank == rank));
            for (step, parts) in node.gathered.iter().enumerate() {
                assert!(parts.iter().enumerate().all(|(rank, part)| *part == format!("{rank} at {step}").as_bytes()));
            }
            assert_eq!(node.gathered.len(), node.steps);
        }
    }
}

#[test]
fn all_counts_meet_in_any_order() {
    for ranks in (2..=16).chain([31, 64]) {
        for seed in 0..6 {
            let mut world = World::with_ranks(seed * 1000 + u64::from(ranks), ranks, 3);
            world.run();
            world.assert_all_met();
            assert!(world.root.is_finished());
            assert!(world.now < Duration::from_secs(3), "{:?}", world.now);
        }
    }
}

#[test]
fn a_thousand_ranks_meet() {
    let mut world = World::new(1);
    for rank in 0..1024 {
        world.add(settings(), Card { processors: String::new(), ..sample_card(rank, 1024) }, 0);
    }
    // A member is dropped from memory with its table as soon as it has it.
    for _ in 0..EVENTS_MAX {
        let mut last = world.nodes.iter().filter(|node| node.joined.is_some()).count();
        world.run_until(|world| {
            world.root.is_finished() || world.nodes.iter().filter(|node| node.joined.is_some()).take(last + 1).count() > last
        });
        if world.root.is_finished() {
            break;
        }
        for node in &mut world.nodes {
            if let Some(cards) = node.joined.as_mut().filter(|cards| !cards.is_empty()) {
                assert_eq!(cards.len(), 1024);
                *cards = Vec::new();
                last += 1;
            }
        }
    }
    assert!(world.nodes.iter().all(|node| node.result == Some(Ok(()))));
}

#[test]
fn who_is_missing_is_named_to_all_and_to_those_who_come_late() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for rank in [0, 1, 2, 4] {
            world.add(settings(), sample_card(rank, 8), 1);
        }
        world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
        assert!(world.now >= BOUND && world.now < BOUND + Duration::from_secs(3), "{:?}", world.now);
        for node in 0..4 {
            let Error::Timeout(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
            assert!(text.starts_with("ranks 3, 5-7 of 8 did not come within 120 s"), "{text}");
        }
        assert!(!world.root.is_finished());
        for rank in [3, 5, 6, 7] {
            world.add(settings(), sample_card(rank, 8), 1);
        }
        world.run();
        for node in 4..8 {
            assert!(world.error(node).to_string().starts_with("ranks 3, 5-7"), "{}", world.error(node));
        }
        // All eight know; there is nobody left to wait for.
        assert!(world.root.is_finished());
    }
}

#[test]
fn a_rank_that_goes_before_the_others_came_is_named_at_once() {
    let mut world = World::with_ranks(3, 2, 0);
    world.nodes.clear();
    world.queue.clear();
    for rank in 0..3 {
        world.add(settings(), sample_card(rank, 4), 0);
    }
    world.run_until(|world| world.now > Duration::from_secs(2));
    world.nodes[1].member.fail("no memory");
    world.obey_member(1);
    world.run_until(|world| world.now > Duration::from_secs(3));
    for node in [0, 2] {
        let Error::Remote(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
        assert_eq!(text, "rank 1 (process 101 on host): no memory");
    }
}

#[test]
fn a_rank_that_dies_between_steps_is_named() {
    for seed in 0..20 {
        let mut world = World::with_ranks(seed, 7, 2);
        world.nodes[5].dies_after_joining = true;
        world.run();
        for node in (0..7).filter(|node| *node != 5) {
            let text = world.error(node).to_string();
            assert!(text.starts_with("rank 5 (process 105 on host) went away"), "{text}");
            assert!(world.nodes[node].gathered.is_empty());
        }
        assert!(world.root.is_finished());
    }
}

#[test]
fn a_rank_that_does_not_take_a_step_is_named() {
    let mut world = World::with_ranks(4, 5, 1);
    // It joins, and then computes for ever.
    world.run_until(|world| world.nodes[2].joined.is_some() || world.nodes.iter().all(|n| n.joined.is_some()));
    let mut world = World::with_ranks(4, 5, 1);
    world.run_until(|world| world.root.poll_timeout().is_none() && world.now > Duration::ZERO);
    world.nodes[2].steps = 0;
    world.nodes[2].member.leave();
    world.run();
    assert!(world.nodes[0].result.is_some());
}

#[test]
fn ranks_that_were_started_differently_all_see_both() {
    let changes: [(fn(&mut Card), &str, &str); 5] = [
        (|card| card.ranks = 4, "one of 3 ranks", "one of 4"),
        (|card| card.rank = 0, "both rank 0 (process 100 on host)", "rank 0 (process 101 on host)"),
        (|card| card.library_version = 20_000, "version 2.0.0", "load the same"),
        (|card| card.device = DeviceKind::Cuda, "cuda", "host"),
        (|card| card.ranks = 7, "one of 3 ranks", "one of 7"),
    ];
    for (change, one, other) in changes {
        for seed in 0..10 {
            let mut world = World::new(seed);
            for rank in 0..3 {
                let mut card = sample_card(rank, 3);
                if rank == 1 {
                    change(&mut card);
                }
                world.add(settings(), card, 1);
            }
            world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
            for node in 0..3 {
                let Error::Mismatch(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
                assert!(text.contains(one) || text.contains(other), "{text}");
            }
            assert!(world.now < Duration::from_secs(3));
        }
    }
}

#[test]
fn strangers_disturb_nobody() {
    for seed in 0..30 {
        let mut world = World::with_ranks(seed, 8, 2);
        let mut random = Random(seed + 77);
        let mut strangers = 0;
        for turn in 1..6_u32 {
            world.run_until(|world| world.now > Duration::from_millis(u64::from(turn) * 100));
            for kind in 0..5 {
                let connection = world.stranger();
                strangers += 1;
                let garbage: Vec<u8> = (0..random.below(400)).map(|_| random.below(256) as u8).collect();
                let hello = Message::Hello { communicator: [2; 16], nonce: random.bytes() }.encode();
                let bytes = match kind {
                    0 => garbage,
                    1 => u32::MAX.to_le_bytes().to_vec(),
                    2 => [&hello[..], &Message::Proof { proof: random.bytes() }.encode()[..]].concat(),
                    3 => Message::Card { bound_ms: 1, card: sample_card(0, 1) }.encode().to_vec(),
                    // Half a hello, and then nothing.
                    _ => hello[..20].to_vec(),
                };
                world.root.handle_input(world.now, connection, &bytes);
            }
        }
        world.run();
        world.assert_all_met();
        assert!(world.root.is_finished());
        assert_eq!(world.root.refused(), strangers);
    }
}

#[test]
fn the_wrong_secret_the_wrong_communicator_and_the_wrong_place_end_by_the_bound() {
    for (change, expected) in [
        ((|settings| settings.secret = Secret([9; 32])) as fn(&mut member::Settings), "does not know the secret"),
        (|settings| settings.communicator = [9; 16], "another communicator meets"),
    ] {
        let mut world = World::new(8);
        let mut own = member::Settings { bound: Duration::from_secs(3), ..settings() };
        change(&mut own);
        world.add(own, sample_card(1, 2), 0);
        world.run();
        let text = world.error(0).to_string();
        assert!(text.contains(expected) && text.contains("10.9.9.9:1: nobody listens"), "{text}");
        assert!(world.now < Duration::from_secs(10));
    }
}

#[test]
fn nobody_listening_is_believed_soon_unless_the_root_may_come_later() {
    let mut world = World::new(9);
    world.root_listens = false;
    world.add(settings(), sample_card(1, 2), 0);
    world.run();
    assert!(matches!(world.error(0), Error::Remote(text) if text.contains("nobody listens")));
    assert!(world.now < Duration::from_secs(6), "{:?}", world.now);

    let mut world = World::new(10);
    world.root_starts = Duration::from_secs(60);
    for rank in 0..3 {
        world.add(member::Settings { patient: true, ..settings() }, sample_card(rank, 3), 1);
    }
    world.run();
    world.assert_all_met();
}

#[test]
fn a_silent_root_is_noticed() {
    let mut world = World::with_ranks(11, 1, 0);
    world.nodes.clear();
    world.queue.clear();
    world.add(settings(), sample_card(0, 2), 0);
    world.run_until(|world| world.now > Duration::from_millis(1900));
    // From here on nothing that the root says arrives.
    let mut now = world.now;
    while let Some(due) = world.nodes[0].member.poll_timeout() {
        now = now.max(due);
        world.nodes[0].member.handle_timeout(now);
    }
    let failed = std::iter::from_fn(|| world.nodes[0].member.poll_event())
        .find_map(|event| if let member::Event::Failed(error) = event { Some(error) } else { None });
    assert!(matches!(failed, Some(Error::Remote(text)) if text.contains("silent")));
    assert!(now < Duration::from_secs(40));
}

#[test]
fn members_survive_any_bytes() {
    let mut random = Random(12);
    for _ in 0..2000 {
        let mut member = Member::new(Time::ZERO, settings(), sample_card(0, 2));
        member.handle_timeout(Time::ZERO);
        member.handle_connected(Time::ZERO, 0, random.bytes());
        for _ in 0..3 {
            let mut bytes: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
            if bytes.len() > 5 {
                let length = (bytes.len() - 4) as u32;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                bytes[4] %= 14;
            }
            member.handle_input(Time::ZERO, 0, &bytes);
        }
        assert!(!matches!(member.poll_event(), Some(member::Event::Joined(_))));
    }
}
