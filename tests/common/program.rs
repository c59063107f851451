//! What the ranks of a program call.
//!
//! A program is a list of *actions* (collectives and messages) in one global order, and a *script* per rank:
//! the groups that the rank calls, one after the other. Every rank cuts the global order into groups at
//! places of its own, and lists the calls of a group in an order of its own, as far as the interface leaves
//! that free.
//!
//! Why no program can deadlock, even where nothing is buffered: in every group collectives come before
//! messages, and in the global order of a batch too. So of all unfinished actions the first in the global
//! order is one that each of its ranks has started, with nothing before it in its way.

use shoal::op::{DataType, Kind, Reduction};

use super::dice::{Dice, mix};

/// A program for `ranks` ranks.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub ranks: u32,
    /// Communicators over the same ranks: the second numbers them in reverse.
    pub comm_count: u32,
    pub stream_count: u32,
    pub actions: Vec<Action>,
    /// By rank of the first communicator.
    pub scripts: Vec<Vec<Group>>,
}

/// Calls that one rank makes together; a group of one call is made alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub calls: Vec<Call>,
}

/// One call of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index into [`Program::actions`].
    pub action: usize,
    pub side: Side,
    /// 0 is the NULL stream.
    pub stream: u32,
}

/// What a rank does in an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Its part of a collective.
    Member,
    Sender,
    Receiver,
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    Collective(Collective),
    Message(Message),
}

#[derive(Clone, Copy, Debug)]
pub struct Collective {
    pub comm: u32,
    pub kind: Kind,
    /// Of reductions on every rank; movers may name another of equal bytes.
    pub data_type: DataType,
    pub reduction: Reduction,
    /// A rank of the communicator.
    pub root: u32,
    pub count: usize,
    pub values: Values,
    pub seed: u64,
}

/// What the elements of a reduction are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Such that every order gives the same bits.
    Exact,
    /// Floats whose sums round.
    Rough,
}

#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub comm: u32,
    /// A rank of the communicator.
    pub sender: u32,
    /// A rank of the communicator.
    pub receiver: u32,
    pub bytes: usize,
    pub seed: u64,
}

/// What may differ from rank to rank in one action.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// The type that the rank names.
    pub data_type: DataType,
    pub is_in_place: bool,
    /// Whether a buffer that has no meaning on this rank is NULL.
    pub idle_is_null: bool,
    /// Whether the scalar of a PreMulSum lies in memory until the operation runs.
    pub scalar_is_pointer: bool,
    /// How many elements off the buffers lie from the start of a page.
    pub shift: usize,
}

impl Program {
    /// The rank of `world` (a rank of the first communicator) in `comm`; its own inverse.
    pub fn rank_in(&self, comm: u32, world: u32) -> u32 {
        if comm == 0 { world } else { self.ranks - 1 - world }
    }

    pub fn call_count(&self) -> usize {
        self.scripts.iter().flatten().map(|group| group.calls.len()).sum()
    }
}

impl Action {
    pub fn comm(&self) -> u32 {
        match self {
            Action::Collective(collective) => collective.comm,
            Action::Message(message) => message.comm,
        }
    }

    pub fn seed(&self) -> u64 {
        match self {
            Action::Collective(collective) => collective.seed,
            Action::Message(message) => message.seed,
        }
    }

    /// The kind of call that a side of the action makes.
    pub fn kind(&self, side: Side) -> Kind {
        match (self, side) {
            (Action::Collective(collective), _) => collective.kind,
            (Action::Message(_), Side::Sender) => Kind::Send,
            (Action::Message(_), _) => Kind::Recv,
        }
    }

    /// The root or the peer that a side of the action names.
    pub fn peer(&self, side: Side) -> u32 {
        match (self, side) {
            (Action::Collective(collective), _) if collective.kind.has_root() => collective.root,
            (Action::Collective(_), _) => 0,
            (Action::Message(message), Side::Sender) => message.receiver,
            (Action::Message(message), _) => message.sender,
        }
    }

    /// The bytes that the count of a call makes.
    pub fn count_bytes(&self) -> usize {
        match self {
            Action::Collective(collective) => collective.count * collective.data_type.size_bytes(),
            Action::Message(message) => message.bytes,
        }
    }

    /// What `rank` (of the communicator) does its own way.
    pub fn detail(&self, rank: u32, side: Side) -> Detail {
        let mut dice = Dice::new(mix(self.seed(), u64::from(rank) * 4 + side as u64));
        let bytes = self.count_bytes();
        let data_type = match self {
            Action::Collective(collective) if collective.kind.reduces() || dice.chance(60) => {
                collective.data_type
            }
            _ => loop {
                let candidate = dice.pick(&DataType::ALL);
                if bytes.is_multiple_of(candidate.size_bytes()) {
                    break candidate;
                }
            },
        };
        Detail {
            data_type,
            is_in_place: dice.chance(35),
            idle_is_null: dice.chance(50),
            scalar_is_pointer: dice.chance(50),
            shift: if dice.chance(50) { 0 } else { dice.below(40) },
        }
    }
}
