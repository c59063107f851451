//! A program on a simulated network: all ranks in one thread, in an order that a seed decides.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;

use shoal::coalesce::Limits;
use shoal::device::host::Host;
use shoal::engine::counts::Counter;
use shoal::engine::stream::{Launch, Stream};
use shoal::engine::{Engine, Facts, Poll};
use shoal::error::Error;
use shoal::op::{Address, Kind, Manner, Op, Shape};
use shoal::schedule::{Algorithm, Hosts};
use shoal::transport::Peer;
use shoal::transport::sim::{Network, SimTransport, Weather};

use super::dice::{Dice, mix};
use super::memory::{Placement, Pool};
use super::oracle::Oracle;
use super::program::{Action, Call, Program, Side};

/// Rounds after which a program counts as one that never ends.
const MOST_ROUNDS: u64 = 4_000_000;

/// What a run depends on beside the program.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub weather: Weather,
    pub limits: Limits,
    pub cores: u32,
    /// The algorithm that is wanted; empty for the table's choice.
    pub algorithm: &'static str,
    /// Whether ranks leave the communicator as soon as their script is done.
    pub leaves_early: bool,
    /// How many ranks share a host, as far as algorithms know.
    pub ranks_per_host: u32,
    /// Whether ranks are dealt to hosts in turns.
    pub is_dealt: bool,
    /// Whether reductions must have the same bits whatever the algorithm.
    pub is_deterministic: bool,
    pub trouble: Option<Trouble>,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Which rank of the first communicator.
    pub world: u32,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The rank's process ends after so many of its steps.
    Death(u64),
    /// The rank aborts its communicators after so many of its steps.
    Abort(u64),
    /// The rank calls something else in this action.
    Other(usize, Change),
}

/// How a call differs from what it should be.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Count(usize),
    Kind(Kind),
    Root(u32),
    Type(shoal::op::DataType),
    Reduction(shoal::op::Reduction),
}

impl Setup {
    /// The setup of a seed.
    pub fn random(seed: u64) -> Setup {
        let mut dice = Dice::new(mix(seed, 0x736b79));
        let eager_bytes = dice.pick(&[64, 96, 256, 1024, 4096, 16384]);
        Setup {
            seed,
            weather: Weather {
                delay_ns: dice.pick(&[0, 10, 1000, 100_000]),
                eager_bytes,
                line_bytes: eager_bytes * dice.pick(&[1, 1, 2, 8]),
                piece_bytes: dice.pick(&[64, 512, 4096, 65536]),
            },
            limits: Limits {
                message_bytes: dice.pick(&[8, 64, 256, 1024]),
                // May be more than a packet holds.
                frame_bytes: dice.between(64, 2 * eager_bytes),
            },
            cores: dice.pick(&[1, 64]),
            algorithm: if dice.chance(20) { "" } else { dice.pick(&Algorithm::ALL).name() },
            leaves_early: dice.chance(50),
            trouble: None,
            ranks_per_host: dice.pick(&[1, 2, 3, 4, 1000]),
            is_dealt: dice.chance(30),
            is_deterministic: dice.chance(10),
        }
    }

    /// Which ranks count as on one host: neighbours, or every so manieth.
    fn hosts(&self, ranks: u32) -> Hosts {
        let host_count = ranks.div_ceil(self.ranks_per_host);
        let host = |rank: u32| if self.is_dealt { rank % host_count } else { rank / self.ranks_per_host };
        Hosts::of((0..ranks).map(host).collect())
    }

    /// The same with every message a packet of its own.
    pub fn without_coalescing(&self) -> Setup {
        Setup { limits: Limits { message_bytes: 0, ..self.limits }, ..self.clone() }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub packet_count: u64,
    pub ends_at_ns: Vec<u64>,
    /// Of everything that was written to targets.
    pub digest: u64,
    /// Steps by rank of the first communicator.
    pub steps: Vec<u64>,
    /// What ended ranks early, by rank of the first communicator.
    pub errors: Vec<Option<Error>>,
}

/// One communicator's part of a group, under way.
struct Pending {
    comm: usize,
    number: u64,
    placements: Vec<Placement>,
    /// Whether the rank calls nothing more until it is done.
    is_waited_for: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    Done,
    Failed,
    Dead,
}

struct Actor {
    world: u32,
    engines: Vec<Engine<SimTransport, Host>>,
    streams: Vec<Arc<Stream>>,
    next_group: usize,
    pending: Vec<Pending>,
    life: Life,
    steps: u64,
    error: Option<Error>,
}

struct World<'a> {
    program: &'a Program,
    oracle: &'a Oracle<'a>,
    setup: &'a Setup,
    networks: Vec<Network>,
    actors: Vec<Actor>,
    dice: Dice,
    digest: u64,
    /// What every rank of an AllReduce must have.
    same: HashMap<usize, Vec<u8>>,
    /// Memory for calls that are not what they should be.
    spare: Vec<Vec<u128>>,
}

/// Runs the program to its end.
///
/// # Errors
/// A hang or a wrong result, with all that is needed to see why.
pub fn run(program: &Program, oracle: &Oracle, setup: &Setup) -> Result<Report, String> {
    let mut world = World::new(program, oracle, setup);
    world.run().map_err(|problem| {
        format!("seed {}: {problem}\n{setup:?}\n{} ranks\n{}", program.seed, program.ranks, world.describe())
    })?;
    if setup.trouble.is_none() {
        world.check_counters().map_err(|problem| format!("seed {}: {problem}\n{setup:?}", program.seed))?;
    }
    Ok(Report {
        packet_count: world.networks.iter().map(Network::packet_count).sum(),
        ends_at_ns: world.networks.iter().map(Network::now_ns).collect(),
        digest: world.digest,
        steps: world.actors.iter().map(|actor| actor.steps).collect(),
        errors: world.actors.iter().map(|actor| actor.error.clone()).collect(),
    })
}

impl<'a> World<'a> {
    fn new(program: &'a Program, oracle: &'a Oracle<'a>, setup: &'a Setup) -> World<'a> {
        let network = |comm| Network::new(program.ranks, setup.weather, mix(setup.seed, u64::from(comm)));
        let networks: Vec<Network> = (0..program.comm_count).map(network).collect();
        let actor = |world| Actor {
            world,
            engines: (0..program.comm_count)
                .map(|comm| {
                    let rank = program.rank_in(comm, world);
                    let transport = networks[comm as usize].join(rank);
                    let mut engine = Engine::new(transport, Host, facts(program, setup, rank));
                    engine.record(16).expect("a page");
                    engine
                })
                .collect(),
            streams: (0..program.stream_count).map(|_| Arc::default()).collect(),
            next_group: 0,
            pending: Vec::new(),
            life: Life::Running,
            steps: 0,
            error: None,
        };
        World {
            program,
            oracle,
            setup,
            actors: (0..program.ranks).map(actor).collect(),
            networks,
            dice: Dice::new(mix(setup.seed, 0x776f726c64)),
            digest: 0,
            same: HashMap::new(),
            spare: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut order: Vec<usize> = (0..self.actors.len()).collect();
        let mut stuck_rounds = 0;
        for _ in 0..MOST_ROUNDS {
            self.dice.shuffle(&mut order);
            let skip_percent = self.dice.pick(&[0, 0, 40]);
            let mut is_stuck = true;
            for place in &order {
                if self.actors[*place].life != Life::Running {
                    continue;
                }
                if self.dice.chance(skip_percent) {
                    is_stuck = false;
                } else {
                    is_stuck &= !self.step(*place)?;
                }
            }
            if self.actors.iter().all(|actor| actor.life != Life::Running) {
                return Ok(());
            }
            // A rank that saw a packet may let its sender move, which was asked before: one round is no proof.
            stuck_rounds = if !is_stuck || self.advance() { 0 } else { stuck_rounds + 1 };
            // Ranks say where they wait when they look around, and see it at the next look.
            if stuck_rounds > 2 && !self.look_around()? && !self.look_around()? {
                return Err("hang: no rank can move and nothing is under way".into());
            }
            if !is_stuck && self.dice.chance(20) {
                self.advance();
            }
            // Asking too early does no harm.
            if self.dice.chance(3) {
                self.look_around()?;
            }
        }
        Err(format!("no end after {MOST_ROUNDS} rounds"))
    }

    /// Lets some packets arrive; whether any was under way.
    fn advance(&mut self) -> bool {
        let mut has_any = false;
        for _ in 0..=self.dice.below(self.actors.len()) {
            has_any |= self.networks.iter().fold(false, |any, network| network.advance() | any);
        }
        has_any
    }

    /// What long waits do: asks who still takes part. Whether that ended anything.
    fn look_around(&mut self) -> Result<bool, String> {
        let mut has_ended = false;
        for place in 0..self.actors.len() {
            let actor = &mut self.actors[place];
            if actor.life == Life::Running {
                actor.engines.iter_mut().for_each(Engine::check_peers);
                has_ended |= self.retire(place)?;
            }
        }
        Ok(has_ended)
    }

    /// A rank calls what it may, and polls; whether anything happened.
    fn step(&mut self, place: usize) -> Result<bool, String> {
        self.actors[place].steps += 1;
        if self.meets_trouble(place) {
            return Ok(true);
        }
        let mut has_moved = false;
        let actor = &self.actors[place];
        let script = &self.program.scripts[place];
        let is_free = actor.pending.iter().all(|pending| !pending.is_waited_for);
        if is_free && actor.next_group < script.len() && self.dice.chance(70) {
            self.issue(place)?;
            has_moved = true;
        }
        let actor = &mut self.actors[place];
        for engine in &mut actor.engines {
            for _ in 0..self.dice.between(1, 3) {
                has_moved |= engine.poll() == Poll::Moved;
            }
        }
        has_moved |= self.retire(place)?;
        let actor = &mut self.actors[place];
        let has_more = actor.next_group < script.len();
        if actor.life == Life::Running && !has_more && actor.pending.is_empty() {
            actor.life = Life::Done;
            if self.setup.leaves_early {
                let reason = Error::Aborted("the program is over".into());
                actor.engines.iter_mut().for_each(|engine| engine.end(Peer::Closed, reason.clone()));
            }
        }
        // Whoever may call more has not got stuck.
        let may_call = has_more && actor.pending.iter().all(|pending| !pending.is_waited_for);
        Ok(has_moved || actor.life != Life::Running || may_call)
    }

    fn meets_trouble(&mut self, place: usize) -> bool {
        let Some(trouble) = self.setup.trouble.filter(|trouble| trouble.world as usize == place) else {
            return false;
        };
        let actor = &mut self.actors[place];
        match trouble.what {
            What::Death(at) if at == actor.steps => {
                actor.life = Life::Dead;
                for (comm, network) in self.networks.iter().enumerate() {
                    network.kill(self.program.rank_in(comm as u32, trouble.world));
                }
                true
            }
            What::Abort(at) if at == actor.steps => {
                actor.give_up(Error::Aborted("the program aborts".into()));
                true
            }
            _ => false,
        }
    }

    /// The next group of a rank's script.
    fn issue(&mut self, place: usize) -> Result<(), String> {
        let world = place as u32;
        let group = &self.program.scripts[place][self.actors[place].next_group];
        let is_waited_for = group.calls.iter().any(|call| call.stream == 0);
        let mut baskets: Vec<(usize, Vec<Placement>, Vec<Op>)> = Vec::new();
        for call in &group.calls {
            let comm = self.program.actions[call.action].comm() as usize;
            let placement = Placement::new(self.program, self.oracle, *call, world, Pool::ORDINARY);
            let op = self.altered(placement.op(), *call, world);
            match baskets.iter_mut().find(|basket| basket.0 == comm) {
                Some((_, placements, ops)) => {
                    placements.push(placement);
                    ops.push(op);
                }
                None => baskets.push((comm, vec![placement], vec![op])),
            }
        }
        let actor = &mut self.actors[place];
        actor.next_group += 1;
        for (comm, _, ops) in &baskets {
            if let Err(error) = actor.engines[*comm].prepare(ops) {
                if self.setup.trouble.is_none() {
                    return Err(format!("rank {world} cannot call a group: {error}"));
                }
                actor.give_up(error);
                return Ok(());
            }
        }
        let launch = actor.launch(&group.calls, baskets.len());
        for (comm, placements, ops) in baskets {
            let engine = &mut actor.engines[comm];
            let plan = engine.prepare(&ops).map_err(|error| error.to_string())?;
            let number = engine.submit(&ops, plan, launch.clone());
            actor.pending.push(Pending { comm, number, placements, is_waited_for });
        }
        Ok(())
    }

    /// The call, changed if this is the one that is to be.
    fn altered(&mut self, op: Op, call: Call, world: u32) -> Op {
        let Some(Trouble { world: who, what: What::Other(action, change) }) = self.setup.trouble else {
            return op;
        };
        if who != world || action != call.action {
            return op;
        }
        let mut op = op;
        // Counts are those of the action's own type, and of bytes for messages.
        op.shape.data_type = match &self.program.actions[action] {
            Action::Collective(collective) => collective.data_type,
            Action::Message(_) => shoal::op::DataType::Uint8,
        };
        op.shape.count = self.program.actions[action].count_bytes() / op.shape.data_type.size_bytes();
        match change {
            Change::Count(count) => op.shape.count = count,
            Change::Kind(kind) => op.shape.kind = kind,
            Change::Root(root) => op.shape.peer = root,
            Change::Type(data_type) => op.shape.data_type = data_type,
            Change::Reduction(reduction) => op.shape.reduction = reduction,
        }
        let most_bytes = (op.shape.count + 1) * 8 * self.program.ranks as usize;
        for address in [&mut op.source, &mut op.target] {
            let mut memory = vec![0u128; most_bytes / 16 + 1];
            *address = Address(memory.as_mut_ptr().expose_provenance());
            self.spare.push(memory);
        }
        op.shape = Shape { manner: Manner::PLAIN, ..op.shape }.wishing(op.shape.manner.wish());
        op
    }

    /// Checks what is done; whether anything was.
    fn retire(&mut self, place: usize) -> Result<bool, String> {
        let actor = &mut self.actors[place];
        if let Some(error) = actor.engines.iter().find_map(|engine| engine.failure()).cloned() {
            if self.setup.trouble.is_none() {
                return Err(format!("rank {place} failed: {error}"));
            }
            actor.give_up(error);
            return Ok(true);
        }
        let engines = &actor.engines;
        let done: Vec<Pending> = actor
            .pending
            .extract_if(.., |pending| engines[pending.comm].completed() >= pending.number)
            .collect();
        let has_any = !done.is_empty();
        for mut placement in done.into_iter().flat_map(|pending| pending.placements) {
            self.check(place, &mut placement)?;
        }
        Ok(has_any)
    }

    fn check(&mut self, place: usize, placement: &mut Placement) -> Result<(), String> {
        let call = placement.call();
        let action = self.program.actions[call.action];
        if let Some(Trouble { world, what: What::Other(changed, _) }) = self.setup.trouble
            && world as usize == place
            && changed == call.action
        {
            return Ok(());
        }
        placement.verify(self.oracle).map_err(|problem| {
            format!("rank {place}, {:?} of action {} {action:?}: {problem}", call.side, call.action)
        })?;
        let target = placement.target();
        let place_of_call = mix(call.action as u64, place as u64 * 4 + call.side as u64);
        self.digest ^= target.iter().fold(place_of_call, |digest, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
        });
        if matches!(action, Action::Collective(c) if c.kind == Kind::AllReduce) {
            let same = self.same.entry(call.action).or_insert_with(|| target.clone());
            if *same != target {
                return Err(format!("ranks have different bits of AllReduce, action {}", call.action));
            }
        }
        placement.spoil();
        Ok(())
    }

    /// What went in came out, and each frame left for one reason.
    fn check_counters(&self) -> Result<(), String> {
        for (comm, network) in self.networks.iter().enumerate() {
            let engines = self.actors.iter().map(|actor| &actor.engines[comm]);
            let counters: Vec<Counter> = engines.flat_map(|engine| engine.counters()).collect();
            let sum = |name: &CStr| -> u64 {
                counters.iter().filter(|counter| counter.name == name).map(|counter| counter.value).sum()
            };
            let reasons = [c"frames_sealed", c"frames_full", c"frames_long", c"frames_held"];
            let equal = [
                ("messages", sum(c"messages"), sum(c"received_messages")),
                ("bytes", sum(c"message_bytes"), sum(c"received_message_bytes")),
                ("frames", sum(c"frames"), sum(c"received_frames")),
                ("reasons", sum(c"frames"), reasons.map(sum).iter().sum()),
                ("records", sum(c"records"), sum(c"batches")),
                ("packets", network.packet_count(), sum(c"frames") + sum(c"collective_packets")),
            ];
            for (what, one, other) in equal {
                if one != other {
                    return Err(format!("communicator {comm} counts {what}: {one} and {other}"));
                }
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let describe = |actor: &Actor| {
            let engines: Vec<String> = actor
                .engines
                .iter()
                .map(|engine| format!("in {} waiting for {:?}", engine.current(), engine.waited_for()))
                .collect();
            format!(
                "rank {} {:?}, group {} of {}: {}",
                actor.world,
                actor.life,
                actor.next_group,
                self.program.scripts[actor.world as usize].len(),
                engines.join("; ")
            )
        };
        self.actors.iter().take(80).map(describe).collect::<Vec<_>>().join("\n")
    }
}

impl Actor {
    /// What a job does with an error: it aborts all its communicators and ends.
    fn give_up(&mut self, error: Error) {
        for engine in &mut self.engines {
            engine.end(Peer::Aborted, Error::Aborted(format!("rank {} gave up", self.world)));
        }
        self.life = Life::Failed;
        self.error.get_or_insert(error);
    }

    fn launch(&self, calls: &[Call], batches: usize) -> Option<Arc<Launch>> {
        let mut streams: Vec<u32> =
            calls.iter().map(|call| call.stream).filter(|stream| *stream > 0).collect();
        streams.sort_unstable();
        streams.dedup();
        let named: Vec<Arc<Stream>> =
            streams.iter().map(|stream| Arc::clone(&self.streams[*stream as usize - 1])).collect();
        (!named.is_empty()).then(|| Arc::new(Launch::new(named, batches as u32)))
    }
}

/// What a rank knows of itself and its surroundings.
fn facts(program: &Program, setup: &Setup, rank: u32) -> Facts {
    Facts {
        rank,
        ranks: program.ranks,
        limits: setup.limits,
        tune: shoal::tune::Facts {
            ranks: program.ranks,
            ranks_per_host: program.ranks,
            cores: setup.cores,
            hosts: setup.hosts(program.ranks),
            is_deterministic: setup.is_deterministic,
            choices: shoal::tune::table::Choices::default(),
        }
        .with_table(None),
        algorithm: setup.algorithm.to_owned(),
    }
}

/// A change that makes a call of `action` another one, if there is one to choose.
pub fn change_of(program: &Program, action: usize, dice: &mut Dice) -> Option<Change> {
    use shoal::op::{DataType, Reduction};
    let collective = match program.actions[action] {
        Action::Collective(collective) => collective,
        Action::Message(message) => {
            let count = if dice.chance(50) { message.bytes + 1 } else { message.bytes / 2 };
            let is_other = message.sender != message.receiver && message.bytes > 0;
            return Some(Change::Count(count)).filter(|_| is_other);
        }
    };
    let change = match dice.below(5) {
        0 => Change::Count(dice.pick(&[collective.count + 1, collective.count / 2 + 1])),
        1 => Change::Kind(dice.pick(&Kind::ALL[..8])),
        2 => Change::Root(dice.below(program.ranks as usize) as u32),
        3 => Change::Type(dice.pick(&DataType::ALL)),
        _ => Change::Reduction(dice.pick(&[Reduction::Sum, Reduction::Max, Reduction::Avg])),
    };
    let is_other = match change {
        Change::Count(count) => count != collective.count,
        Change::Kind(kind) => kind != collective.kind,
        Change::Root(root) => collective.kind.has_root() && root != collective.root,
        Change::Type(data_type) if collective.kind.reduces() => data_type != collective.data_type,
        Change::Type(data_type) => data_type.size_bytes() != collective.data_type.size_bytes(),
        Change::Reduction(reduction) => collective.kind.reduces() && reduction != collective.reduction,
    };
    Some(change).filter(|_| is_other && collective.count > 0 && program.ranks > 1)
}

/// The ranks of the first communicator that take part in an action.
pub fn members(program: &Program, action: usize) -> Vec<(u32, Side)> {
    match program.actions[action] {
        Action::Collective(_) => (0..program.ranks).map(|world| (world, Side::Member)).collect(),
        Action::Message(message) => [(message.sender, Side::Sender), (message.receiver, Side::Receiver)]
            .map(|(rank, side)| (program.rank_in(message.comm, rank), side))
            .to_vec(),
    }
}
