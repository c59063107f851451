//! One-sided calls: puts, signals, and waits for signals.
//!
//! The calls of a batch stand in their order. A call goes on when no call before it that shares a context with
//! it is unfinished; calls of different contexts pass each other, as the interface has it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use super::act::Hands;
use super::run::Advance;
use crate::device::Device;
use crate::error::Result;
use crate::op::Address;
use crate::transport::Transport;
use crate::transport::shm::Reach;
pub use crate::transport::shm::{CONTEXTS, SIGNALS};

/// A signal of a peer: its number among those of all contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal {
    /// To whom it goes, or from whom it comes.
    pub peer: u32,
    /// `context * SIGNALS + number`
    pub index: u32,
}

impl Signal {
    const fn context(self) -> u32 {
        self.index / SIGNALS
    }
}

/// Signals that are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Which.
    pub signal: Signal,
    /// How many of them.
    pub count: u64,
}

/// One call, checked.
#[derive(Clone, Debug)]
pub enum OneSided {
    /// Bytes into a window of a peer, and then a signal.
    Put {
        /// The way to the window.
        reach: Arc<Reach>,
        /// Where in the window.
        offset: usize,
        /// What.
        source: Address,
        /// How much.
        bytes: usize,
        /// To whom, and the signal behind it.
        signal: Signal,
    },
    /// A signal.
    Signal(Signal),
    /// Waits until all have come.
    Wait(Vec<Awaited>),
}

impl OneSided {
    /// A bit for each context that it belongs to.
    fn contexts(&self) -> u32 {
        match self {
            OneSided::Put { signal, .. } | OneSided::Signal(signal) => 1 << signal.context(),
            OneSided::Wait(list) => list.iter().fold(0, |bits, awaited| bits | 1 << awaited.signal.context()),
        }
    }
}

/// A call, and how far it came.
#[derive(Debug)]
struct Open {
    call: OneSided,
    contexts: u32,
    /// Of a put: bytes written. Of a wait: how many of its signals, from the first on, have come.
    done: usize,
}

/// The signals that waits have used up, by signal.
pub(super) type Used = HashMap<Signal, u64>;

/// A batch of one-sided calls on its way.
#[derive(Debug, Default)]
pub(super) struct Run {
    open: Vec<Open>,
}

impl Run {
    pub(super) fn new(calls: Vec<OneSided>) -> Run {
        let open = |call: OneSided| Open { contexts: call.contexts(), call, done: 0 };
        Run { open: calls.into_iter().map(open).collect() }
    }

    /// Moves every call along that may go on.
    pub(super) fn advance<T: Transport, D: Device>(
        &mut self,
        hands: &mut Hands<T, D>,
        used: &mut Used,
    ) -> Result<Advance> {
        let mut taken_contexts = 0;
        let mut has_moved = false;
        let mut place = 0;
        while let Some(open) = self.open.get_mut(place) {
            let may_go_on = open.contexts & taken_contexts == 0;
            let before = open.done;
            if may_go_on && open.advance(hands, used)? {
                has_moved = true;
                self.open.remove(place);
                continue;
            }
            has_moved |= open.done > before;
            taken_contexts |= open.contexts;
            place += 1;
        }
        Ok(match (self.open.is_empty(), has_moved) {
            (true, _) => Advance::Done,
            (_, true) => Advance::Moved,
            (_, false) => Advance::Waiting,
        })
    }

    /// The peers whose signals are missing.
    pub(super) fn waited_for(&self) -> Vec<u32> {
        let mut peers = Vec::new();
        for open in &self.open {
            if let OneSided::Wait(list) = &open.call {
                peers.extend(list[open.done..].iter().map(|awaited| awaited.signal.peer));
            }
        }
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// What is unfinished, as a person reads it.
    pub(super) fn describe(&self) -> String {
        let Some(first) = self.open.first() else { return "one-sided calls".into() };
        let more = match self.open.len() - 1 {
            0 => String::new(),
            count => format!(" (the first of a group; {count} more)"),
        };
        match &first.call {
            OneSided::Put { bytes, signal, .. } => {
                format!("PutSignal of {bytes} bytes to rank {}{more}", signal.peer)
            }
            OneSided::Signal(signal) => format!("Signal to rank {}{more}", signal.peer),
            OneSided::Wait(list) => {
                let signals: Vec<String> = list[first.done..].iter().map(describe_awaited).collect();
                format!("WaitSignal for {}{more}", signals.join(", "))
            }
        }
    }
}

fn describe_awaited(awaited: &Awaited) -> String {
    let Awaited { signal, count } = awaited;
    let (context, number) = (signal.context(), signal.index % SIGNALS);
    format!("{count} of signal {number} in context {context} from rank {}", signal.peer)
}

impl Open {
    /// As far as it goes now; whether it is done.
    fn advance<T: Transport, D: Device>(&mut self, hands: &mut Hands<T, D>, used: &mut Used) -> Result<bool> {
        match &self.call {
            OneSided::Put { reach, offset, source, bytes, signal } => {
                if self.done < *bytes {
                    let (at, from) = (offset + self.done, source.add(self.done));
                    self.done += hands.put(signal.peer, reach, at, from, bytes - self.done)?;
                }
                if self.done < *bytes {
                    return Ok(false);
                }
                hands.transport.signal(signal.peer, signal.index)?;
            }
            OneSided::Signal(signal) => hands.transport.signal(signal.peer, signal.index)?,
            OneSided::Wait(list) => {
                while let Some(Awaited { signal, count }) = list.get(self.done) {
                    let come = hands.transport.signals(signal.peer, signal.index)?;
                    let used = used.entry(*signal).or_default();
                    if come.wrapping_sub(*used) < *count {
                        return Ok(false);
                    }
                    *used = used.wrapping_add(*count);
                    self.done += 1;
                }
            }
        }
        Ok(true)
    }
}
