//! Programs of three ranks with a few operations each: at random, or all there are.

use std::sync::atomic::{AtomicU64, Ordering};

use shoal::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};

use super::dice::Dice;

pub const RANKS: u32 = 3;
/// Messages of two lengths: one that shares frames, one that is announced and fetched.
pub const SMALL_BYTES: usize = 24;
pub const LONG_BYTES: usize = 100;
/// Of every buffer.
const WORDS: usize = 16;

/// One operation of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Send { to: u32, bytes: usize },
    Recv { from: u32, bytes: usize },
    Collective(Kind, Place),
}

/// Where a collective's buffers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Apart from all others.
    Own,
    /// It reads what the operation before it writes.
    ReadsLast,
    /// It writes what the operation before it reads.
    WritesLast,
}

/// What passes a line, as either end counts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Message(usize),
    Collective(Kind),
}

/// By rank: groups of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program(pub [Vec<Vec<Call>>; RANKS as usize]);

const COLLECTIVES: [Kind; 3] = [Kind::AllReduce, Kind::Broadcast, Kind::AllGather];
/// What [`Program::of_collectives`] calls.
const MORE_COLLECTIVES: [Kind; 5] =
    [Kind::AllReduce, Kind::Broadcast, Kind::AllGather, Kind::ReduceScatter, Kind::Reduce];

impl Program {
    pub fn groups(&self, rank: usize) -> &[Vec<Call>] {
        &self.0[rank]
    }

    /// At most `most` operations on each rank, in an order of its own, in groups of its own.
    pub fn random(dice: &mut Dice, most: usize) -> Program {
        loop {
            let mut lists: [Vec<Call>; RANKS as usize] = Default::default();
            for _ in 0..dice.between(2, 2 * most) {
                if dice.chance(20) && lists.iter().all(|list| list.len() < most) {
                    let kind = dice.pick(&COLLECTIVES);
                    lists.iter_mut().for_each(|list| list.push(Call::Collective(kind, Place::Own)));
                    continue;
                }
                let from = dice.below(RANKS as usize);
                let to = (from + dice.between(1, 2)) % RANKS as usize;
                let bytes = dice.pick(&[SMALL_BYTES, SMALL_BYTES, LONG_BYTES]);
                for _ in 0..dice.pick(&[1, 1, 2]) {
                    if lists[from].len() < most && lists[to].len() < most {
                        lists[from].push(Call::Send { to: to as u32, bytes });
                        lists[to].push(Call::Recv { from: from as u32, bytes });
                    }
                }
            }
            for list in &mut lists {
                for _ in 0..dice.below(4) {
                    let place = dice.below(list.len().max(2) - 1);
                    if place + 1 < list.len() {
                        list.swap(place, place + 1);
                    }
                }
            }
            let program = Program(lists.map(|list| group(&list, |_| dice.chance(50))));
            if program.is_sound() {
                return program;
            }
        }
    }

    /// At most `most` collectives, some of which touch what the one before them does, and on some ranks a message
    /// among them; in groups of each rank's own.
    pub fn of_collectives(dice: &mut Dice, most: usize) -> Program {
        loop {
            let mut lists: [Vec<Call>; RANKS as usize] = Default::default();
            for _ in 0..dice.between(2, most) {
                let kind = dice.pick(&MORE_COLLECTIVES);
                for list in &mut lists {
                    let place =
                        dice.pick(&[Place::Own, Place::Own, Place::Own, Place::ReadsLast, Place::WritesLast]);
                    list.push(Call::Collective(kind, place));
                }
            }
            if dice.chance(50) {
                let from = dice.below(RANKS as usize);
                let to = (from + dice.between(1, 2)) % RANKS as usize;
                let bytes = SMALL_BYTES;
                let [at, other] = [from, to].map(|rank| dice.below(lists[rank].len() + 1));
                lists[from].insert(at, Call::Send { to: to as u32, bytes });
                lists[to].insert(other, Call::Recv { from: from as u32, bytes });
            }
            let program = Program(lists.map(|list| group(&list, |_| dice.chance(30))));
            if program.is_sound() {
                return program;
            }
        }
    }

    /// All programs of at most two operations a rank.
    pub fn all_of_two() -> impl Iterator<Item = Program> {
        let choices = |rank: u32| -> Vec<Vec<Vec<Call>>> {
            let others = (0..RANKS).filter(move |other| *other != rank);
            let messages = others.flat_map(|peer| {
                [SMALL_BYTES, LONG_BYTES]
                    .into_iter()
                    .flat_map(move |bytes| [Call::Send { to: peer, bytes }, Call::Recv { from: peer, bytes }])
            });
            let calls: Vec<Call> =
                messages.chain(COLLECTIVES.map(|kind| Call::Collective(kind, Place::Own))).collect();
            let mut all = vec![Vec::new()];
            all.extend(calls.iter().map(|call| vec![vec![*call]]));
            for first in &calls {
                all.extend(
                    calls
                        .iter()
                        .flat_map(|second| [vec![vec![*first, *second]], vec![vec![*first], vec![*second]]]),
                );
            }
            all
        };
        let [first, second, third] = [0, 1, 2].map(choices);
        let pairs =
            first.into_iter().flat_map(move |a| second.clone().into_iter().map(move |b| (a.clone(), b)));
        pairs
            .filter(|(a, b)| Program([a.clone(), b.clone(), Vec::new()]).agree(0, 1))
            .flat_map(move |(a, b)| {
                third.clone().into_iter().map(move |c| Program([a.clone(), b.clone(), c]))
            })
            .filter(|program| program.is_sound() && program.0.iter().any(|groups| !groups.is_empty()))
    }

    /// Whether both ends of each line count on the same, so that no rank is told that it disagrees.
    fn is_sound(&self) -> bool {
        (0..RANKS).all(|a| (0..a).all(|b| self.agree(a, b)))
    }

    fn agree(&self, a: u32, b: u32) -> bool {
        self.passing(a, a, b) == self.passing(b, a, b) && self.passing(a, b, a) == self.passing(b, b, a)
    }

    /// What `rank` counts on to pass the line: in a group collectives come first.
    fn passing(&self, rank: u32, from: u32, to: u32) -> Vec<Passing> {
        let of_group = |group: &Vec<Call>| {
            let collectives = group.iter().filter_map(|call| match call {
                Call::Collective(kind, _) => Some(Passing::Collective(*kind)),
                _ => None,
            });
            let messages = group.iter().filter_map(|call| match *call {
                Call::Send { to: peer, bytes } if rank == from && peer == to => Some(Passing::Message(bytes)),
                Call::Recv { from: peer, bytes } if rank == to && peer == from => {
                    Some(Passing::Message(bytes))
                }
                _ => None,
            });
            collectives.chain(messages).collect::<Vec<_>>()
        };
        self.0[rank as usize].iter().flat_map(of_group).collect()
    }

    pub fn operation_count(&self) -> usize {
        self.0.iter().flatten().map(Vec::len).sum()
    }
}

fn group(calls: &[Call], mut ends: impl FnMut(usize) -> bool) -> Vec<Vec<Call>> {
    let mut groups: Vec<Vec<Call>> = Vec::new();
    let mut is_open = false;
    for (place, call) in calls.iter().enumerate() {
        match groups.last_mut().filter(|_| is_open) {
            Some(group) => group.push(*call),
            None => groups.push(vec![*call]),
        }
        is_open = !ends(place);
    }
    groups
}

type Buffer = [AtomicU64; WORDS];

/// A source and a target for every operation, in the same places for every run.
pub struct Memory {
    /// By rank and place.
    buffers: Vec<Vec<[Box<Buffer>; 2]>>,
}

impl Memory {
    pub fn new(program: &Program) -> Memory {
        let buffers = |groups: &Vec<Vec<Call>>| -> Vec<[Box<Buffer>; 2]> {
            let count = groups.iter().map(Vec::len).sum();
            (0..count).map(|_| [(); 2].map(|()| Box::new(Buffer::default()))).collect()
        };
        Memory { buffers: program.0.iter().map(buffers).collect() }
    }

    /// Before a run: sources as they are always, targets empty.
    pub fn reset(&self) {
        for (rank, places) in self.buffers.iter().enumerate() {
            for (place, [source, target]) in places.iter().enumerate() {
                for (number, (from, into)) in source.iter().zip(target.iter()).enumerate() {
                    let float = ((rank * 8 + place + 1) * 4 + number % 3) as f32;
                    let bits = u64::from(float.to_bits());
                    from.store(bits | bits << 32, Ordering::Relaxed);
                    into.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// The operation of `rank` at that place of its list.
    pub fn op(&self, rank: usize, place: usize, call: Call) -> Op {
        let at = |place: usize| {
            self.buffers[rank][place].each_ref().map(|buffer| {
                let start: *const AtomicU64 = buffer.as_ptr();
                Address(start.expose_provenance())
            })
        };
        let ([source, target], [last_source, last_target]) = (at(place), at(place.saturating_sub(1)));
        let (source, target) = match call {
            Call::Collective(_, Place::ReadsLast) if place > 0 => (last_target, target),
            Call::Collective(_, Place::WritesLast) if place > 0 => (source, last_source),
            _ => (source, target),
        };
        let shape = |kind, peer, data_type: DataType, bytes: usize| Shape {
            count: bytes / data_type.size_bytes(),
            peer,
            kind,
            data_type,
            reduction: Reduction::Sum,
            manner: Manner::PLAIN,
        };
        let shape = match call {
            Call::Send { to, bytes } => shape(Kind::Send, to, DataType::Uint8, bytes),
            Call::Recv { from, bytes } => shape(Kind::Recv, from, DataType::Uint8, bytes),
            Call::Collective(kind, _) => shape(kind, 0, DataType::Float32, 8),
        };
        Op { shape, source, target, scalar: Scalar::None }
    }

    /// What all buffers hold that may have been written.
    pub fn targets(&self) -> Vec<u64> {
        let targets = self.buffers.iter().flatten().flatten().flat_map(|buffer| buffer.iter());
        targets.map(|word| word.load(Ordering::Relaxed)).collect()
    }
}
