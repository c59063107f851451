//! Planted hangs on a simulated network, by the thousand: one rank does not come to an operation, and whoever waits
//! in the end names that rank, and the operation that it waits in. `SHOAL_TEST_CAMPAIGN=full` runs many more.

#[allow(dead_code, unreachable_pub)] // each test uses a part
mod common;

use std::time::Duration;

use common::corpus;
use common::dice::Dice;
use shoal::coalesce::Limits;
use shoal::device::host::Host;
use shoal::engine::{Engine, Facts, Poll};
use shoal::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};
use shoal::transport::sim::{Network, SimTransport, Weather};

const BUFFER_BYTES: usize = 64 << 10;

/// What a rank calls in a step.
type Calls = Vec<Op>;

struct Rank {
    engine: Engine<SimTransport, Host>,
    script: Vec<Calls>,
    next: usize,
    buffers: [Vec<u8>; 2],
}

fn facts(rank: u32, ranks: u32) -> Facts {
    Facts {
        rank,
        ranks,
        limits: Limits { message_bytes: 1024, frame_bytes: 2048 },
        tune: shoal::tune::Facts {
            ranks,
            ranks_per_host: ranks,
            cores: 64,
            hosts: shoal::schedule::Hosts::one(),
            is_deterministic: false,
            choices: shoal::tune::table::Choices::default(),
        }
        .with_table(None),
        algorithm: String::new(),
    }
}

impl Rank {
    fn new(network: &Network, rank: u32, ranks: u32) -> Rank {
        let mut engine = Engine::new(network.join(rank), Host, facts(rank, ranks));
        engine.record(16).expect("a page");
        let buffers = [vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]];
        Rank { engine, script: Vec::new(), next: 0, buffers }
    }

    fn op(&mut self, kind: Kind, peer: u32, count: usize) -> Op {
        let data_type = DataType::Int32;
        let [source, target] =
            self.buffers.each_mut().map(|buffer| Address(buffer.as_mut_ptr().expose_provenance()));
        let shape = Shape { count, peer, kind, data_type, reduction: Reduction::Sum, manner: Manner::PLAIN };
        Op { shape, source, target, scalar: Scalar::None }
    }

    /// Calls the next step once the one before is done; whether anything moved.
    fn step(&mut self, until: usize) -> bool {
        if self.engine.progress().is_some() {
            return self.engine.poll() == Poll::Moved;
        }
        if self.next >= until.min(self.script.len()) {
            return false;
        }
        let ops = &self.script[self.next];
        if !ops.is_empty() {
            let plan = self.engine.prepare(ops).expect("it can be run");
            self.engine.run(ops, plan, 1);
        }
        self.next += 1;
        true
    }
}

/// Random steps that every rank makes its part of, and at the end a collective of all.
fn scripts(ranks: &mut [Rank], steps: usize, dice: &mut Dice) {
    let count = ranks.len();
    for step in 0..=steps {
        let kind = if step == steps { Kind::AllReduce } else { dice.pick(&Kind::ALL[..9]) };
        let (root, elements) = (dice.below(count) as u32, 1 + dice.below(400));
        let stride = 1 + dice.below(count - 1);
        for (place, rank) in ranks.iter_mut().enumerate() {
            let calls = match kind {
                // A circle, or several.
                Kind::Send => {
                    let [to, from] =
                        [place + stride, place + count - stride].map(|peer| (peer % count) as u32);
                    vec![rank.op(Kind::Send, to, elements), rank.op(Kind::Recv, from, elements)]
                }
                kind => vec![rank.op(kind, root, elements)],
            };
            rank.script.push(calls);
        }
    }
}

fn hang(seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let count = dice.between(2, 8);
    let weather = Weather { delay_ns: 1000, eager_bytes: 4096, line_bytes: 16384, piece_bytes: 1024 };
    let network = Network::new(count as u32, weather, seed);
    let mut ranks: Vec<Rank> =
        (0..count).map(|rank| Rank::new(&network, rank as u32, count as u32)).collect();
    let steps = dice.below(6);
    scripts(&mut ranks, steps, &mut dice);
    let (victim, stops_at) = (dice.below(count), dice.below(steps + 1));
    let mut quiet_rounds = 0;
    for _ in 0..100_000 {
        let mut has_moved = false;
        for (place, rank) in ranks.iter_mut().enumerate() {
            has_moved |= rank.step(if place == victim { stops_at } else { usize::MAX });
        }
        has_moved |= network.advance();
        quiet_rounds = if has_moved { 0 } else { quiet_rounds + 1 };
        if quiet_rounds > 3 {
            break;
        }
    }
    if quiet_rounds <= 3 {
        return Err(format!("seed {seed}: it never comes to rest"));
    }
    ranks.iter_mut().for_each(|rank| rank.engine.check_peers());
    let mut waiting_count = 0;
    for (place, rank) in ranks.iter_mut().enumerate() {
        if rank.engine.progress().is_none() {
            continue;
        }
        waiting_count += 1;
        let current = rank.engine.current();
        let verdict = rank.engine.verdict(Duration::from_secs(10));
        let named = verdict.split_once("missing: ").or_else(|| verdict.split_once("it waits for: "));
        let starts = format!("rank {place} of {count} has waited 10 s in {current}");
        let victim_is_named =
            named.is_some_and(|(_, rest)| rest.contains(&format!("rank {victim} waits in no call")));
        // Nobody else is said to be in no call.
        let others = verdict.matches("waits in no call").count();
        if !verdict.starts_with(&starts) || !victim_is_named || others != 1 {
            return Err(format!(
                "seed {seed}: rank {victim} of {count} stopped at {stops_at} of {steps}: {verdict}"
            ));
        }
    }
    if waiting_count == 0 {
        return Err(format!("seed {seed}: nobody waits, though all have to come to the last operation"));
    }
    Ok(())
}

#[test]
fn whoever_waits_names_the_rank_that_is_missing() {
    let problems: Vec<String> =
        corpus::plan("hangs", 300, 20_000).into_iter().filter_map(|seed| hang(seed).err()).collect();
    assert!(
        problems.is_empty(),
        "{} problems: {}",
        problems.len(),
        problems[..problems.len().min(3)].join("\n")
    );
}
