//! A program from a seed.

use std::collections::HashMap;

use shoal::op::{DataType, Kind, Reduction};

use super::dice::Dice;
use super::program::{Action, Call, Collective, Group, Message, Program, Side, Values};

/// How large a program may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub ranks: [u32; 2],
    pub batch_count: usize,
    /// Of one batch.
    pub collective_count: usize,
    /// Of one batch.
    pub message_count: usize,
    /// The usual bound of a rank's buffer.
    pub buffer_bytes: usize,
    /// Of a thousand actions, how many may be larger than a mebibyte.
    pub huge_per_mille: usize,
    pub stream_count: u32,
    /// Whether ranks cut batches into groups; else each makes one group of all it calls.
    pub may_cut: bool,
}

impl Limits {
    /// For a simulation in one thread.
    pub const SIMULATED: Limits = Limits {
        ranks: [1, 9],
        batch_count: 4,
        collective_count: 5,
        message_count: 30,
        buffer_bytes: 24 << 10,
        huge_per_mille: 1,
        stream_count: 3,
        may_cut: true,
    };
    /// For the library itself.
    pub const REAL: Limits = Limits {
        ranks: [1, 9],
        batch_count: 5,
        collective_count: 6,
        message_count: 60,
        buffer_bytes: 160 << 10,
        huge_per_mille: 6,
        stream_count: 3,
        may_cut: true,
    };
}

impl Program {
    /// The program of a seed.
    pub fn random(seed: u64, limits: Limits) -> Program {
        let mut dice = Dice::new(seed);
        let ranks = dice.between(limits.ranks[0] as usize, limits.ranks[1] as usize) as u32;
        let comm_count = if dice.chance(30) { 2 } else { 1 };
        let stream_count =
            if dice.chance(50) { 0 } else { dice.below(limits.stream_count as usize + 1) as u32 };
        let mut program = Program {
            seed,
            ranks,
            comm_count,
            stream_count,
            actions: Vec::new(),
            scripts: vec![Vec::new(); ranks as usize],
        };
        for _ in 0..dice.between(1, limits.batch_count) {
            add_batch(&mut program, &mut dice, limits);
        }
        program
    }
}

/// Collectives, then messages, and how each rank groups them.
fn add_batch(program: &mut Program, dice: &mut Dice, limits: Limits) {
    let first = program.actions.len();
    let what = dice.below(10);
    if what < 7 {
        for _ in 0..dice.between(1, limits.collective_count) {
            let action = Action::Collective(collective(program, dice, limits));
            program.actions.push(action);
        }
    }
    if what >= 4 {
        add_messages(program, dice, limits);
    }
    for world in 0..program.ranks {
        let items = items_of(program, first, world);
        let cut_percent = if limits.may_cut { dice.pick(&[0, 0, 0, 10, 40, 100]) } else { 0 };
        cut_into_groups(program, world, items, cut_percent, dice);
    }
}

/// A count with a liking for the small, the odd, and the neighbours of powers of two.
fn count(dice: &mut Dice, most: usize) -> usize {
    let count = match dice.below(100) {
        0..5 => 0,
        5..45 => dice.between(1, 16),
        45..65 => dice.between(17, 300),
        65..82 => (1usize << dice.between(3, 14)) + dice.below(3) - 1,
        _ => dice.below(20_000),
    };
    count.min(most)
}

fn most_bytes(dice: &mut Dice, limits: Limits) -> (usize, bool) {
    let is_huge = dice.below(1000) < limits.huge_per_mille;
    (if is_huge { 3 << 20 } else { limits.buffer_bytes }, is_huge)
}

fn collective(program: &Program, dice: &mut Dice, limits: Limits) -> Collective {
    let kind = dice.pick(&Kind::ALL[..8]);
    let data_type = dice.pick(&DataType::ALL);
    let reductions = [
        Reduction::Sum,
        Reduction::Prod,
        Reduction::Max,
        Reduction::Min,
        Reduction::Avg,
        Reduction::PreMulSum,
    ];
    let slices = match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => 1,
        _ => program.ranks as usize,
    };
    let (most_bytes, is_huge) = most_bytes(dice, limits);
    let most = most_bytes / data_type.size_bytes() / slices;
    let count = if is_huge { most - dice.below(most / 2 + 1) } else { count(dice, most.max(2)) };
    Collective {
        comm: dice.below(program.comm_count as usize) as u32,
        kind,
        data_type,
        reduction: if kind.reduces() { dice.pick(&reductions) } else { Reduction::Sum },
        root: dice.below(program.ranks as usize) as u32,
        count,
        values: if program.ranks <= 64 && dice.chance(25) { Values::Rough } else { Values::Exact },
        seed: dice.next(),
    }
}

fn add_messages(program: &mut Program, dice: &mut Dice, limits: Limits) {
    let ranks = program.ranks as usize;
    let style = dice.below(4);
    let total = dice.between(1, limits.message_count);
    let fixed = [dice.below(ranks), dice.below(ranks)];
    for _ in 0..total {
        let [sender, receiver] = match style {
            // One pair, one direction.
            0 => fixed,
            // One pair, both directions.
            1 if dice.chance(50) => [fixed[1], fixed[0]],
            1 => fixed,
            // Around a ring.
            2 => {
                let sender = dice.below(ranks);
                [sender, (sender + 1) % ranks]
            }
            _ => [dice.below(ranks), dice.below(ranks)],
        };
        let (most, is_huge) = most_bytes(dice, limits);
        let bytes = match dice.below(10) {
            _ if is_huge => most - dice.below(most / 2),
            0..6 => dice.below(65),
            6..8 => dice.below(1500),
            _ => count(dice, most),
        };
        let comm = dice.below(program.comm_count as usize) as u32;
        let [sender, receiver] = [sender as u32, receiver as u32];
        program.actions.push(Action::Message(Message { comm, sender, receiver, bytes, seed: dice.next() }));
    }
}

/// The calls of `world` in the actions from `first` on, in the global order. What is in one item must be in
/// one group: a message to oneself.
fn items_of(program: &Program, first: usize, world: u32) -> Vec<Vec<Call>> {
    let mut items = Vec::new();
    for (action, what) in program.actions.iter().enumerate().skip(first) {
        let call = |side| Call { action, side, stream: 0 };
        let mut item = Vec::new();
        match what {
            Action::Collective(_) => item.push(call(Side::Member)),
            Action::Message(message) => {
                let rank = program.rank_in(message.comm, world);
                if message.sender == rank {
                    item.push(call(Side::Sender));
                }
                if message.receiver == rank {
                    item.push(call(Side::Receiver));
                }
            }
        }
        if !item.is_empty() {
            items.push(item);
        }
    }
    items
}

fn cut_into_groups(
    program: &mut Program,
    world: u32,
    items: Vec<Vec<Call>>,
    cut_percent: usize,
    dice: &mut Dice,
) {
    let mut groups: Vec<Vec<Call>> = Vec::new();
    for item in items {
        match groups.last_mut() {
            Some(group) if !dice.chance(cut_percent) => group.extend(item),
            _ => groups.push(item),
        }
    }
    for mut calls in groups {
        choose_streams(&mut calls, program.stream_count, dice);
        shuffle_calls(program, &mut calls, dice);
        program.scripts[world as usize].push(Group { calls });
    }
}

fn choose_streams(calls: &mut [Call], stream_count: u32, dice: &mut Dice) {
    let style = dice.below(4);
    let one = dice.below(stream_count as usize + 1) as u32;
    for call in calls {
        call.stream = match style {
            0 => 0,
            1 => dice.below(stream_count as usize + 1) as u32,
            _ => one,
        };
    }
}

/// Another order of a group's calls that means the same: collectives of a communicator keep theirs, and so do
/// the messages of an ordered pair.
fn shuffle_calls(program: &Program, calls: &mut Vec<Call>, dice: &mut Dice) {
    let key = |call: &Call| {
        let action = &program.actions[call.action];
        let peer = if call.side == Side::Member { 0 } else { action.peer(call.side) };
        (action.comm(), call.side, peer)
    };
    let mut waiting: HashMap<_, Vec<Call>> = HashMap::new();
    for call in calls.iter().rev() {
        waiting.entry(key(call)).or_default().push(*call);
    }
    let mut places: Vec<_> = calls.iter().map(key).collect();
    if dice.chance(60) {
        dice.shuffle(&mut places);
    }
    *calls = places.iter().filter_map(|place| waiting.get_mut(place)?.pop()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_rank_calls_its_part_in_order() {
        for seed in 0..300 {
            let program = Program::random(seed, Limits::SIMULATED);
            let mut sides = 0;
            for (world, script) in program.scripts.iter().enumerate() {
                let mut last: BTreeMap<_, usize> = BTreeMap::new();
                for call in script.iter().flat_map(|group| &group.calls) {
                    let action = &program.actions[call.action];
                    let rank = program.rank_in(action.comm(), world as u32);
                    if let Action::Message(message) = action {
                        let mine = if call.side == Side::Sender { message.sender } else { message.receiver };
                        assert_eq!(mine, rank);
                    }
                    let peer = if call.side == Side::Member { 0 } else { action.peer(call.side) };
                    let before = last.insert((action.comm(), call.side as u8, peer), call.action);
                    assert!(before.is_none_or(|before| before < call.action), "seed {seed}");
                    sides += 1;
                }
            }
            let expected: usize = program
                .actions
                .iter()
                .map(|action| if matches!(action, Action::Message(_)) { 2 } else { program.ranks as usize })
                .sum();
            assert_eq!(sides, expected, "seed {seed}");
        }
    }

    #[test]
    fn a_message_to_oneself_stays_in_one_group() {
        for seed in 0..300 {
            let program = Program::random(seed, Limits::SIMULATED);
            for group in program.scripts.iter().flatten() {
                for call in &group.calls {
                    let Action::Message(message) = program.actions[call.action] else { continue };
                    let sides = group.calls.iter().filter(|other| other.action == call.action).count();
                    assert_eq!(sides, if message.sender == message.receiver { 2 } else { 1 });
                }
            }
        }
    }
}
