//! What packing gains, measured in the job itself: with `SHOAL_ALTERNATE` blocks of batches leave in frames and message
//! by message in turn. Pure.
//!
//! Two definitions with the same operations and different numbers of packets are one batch in both ways. Their blocks
//! follow each other closely, so of each block and the next the ratio of mean times counts: of all ratios the median, with
//! an interval that misses the true one in at most one of twenty cases, as far as there are blocks enough.
#![forbid(unsafe_code)]

use super::file::{Batch, Definition, Operation};
use crate::op::Kind;

/// So many definitions are looked at; more are no blocks of a few steps.
const CANDIDATES_LIMIT: usize = 4096;

/// A gain: how many times faster, and between what it surely lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    /// The median ratio.
    pub ratio: f64,
    /// It is surely above this.
    pub low: f64,
    /// And below this.
    pub high: f64,
    /// The share of cases in which the interval holds the truth.
    pub sure: f64,
}

impl Gain {
    /// The gain that ratios speak of; `None` of none.
    #[must_use]
    pub fn of(ratios: &[f64]) -> Option<Gain> {
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        let last = *sorted.last()?;
        let ratio =
            if count % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        // The chance that at most `cut` of so many lie on one side of the true median, and how many may be cut off.
        let mut cut = 0;
        let (mut one, mut tail) = (0.5_f64.powi(count as i32), 0.5_f64.powi(count as i32));
        while cut + 1 < middle {
            let next = one * (count - cut) as f64 / (cut + 1) as f64;
            if 2.0 * (tail + next) > 0.05 {
                break;
            }
            (one, tail, cut) = (next, tail + next, cut + 1);
        }
        let (low, high) = (sorted[cut], sorted.get(count - 1 - cut).copied().unwrap_or(last));
        Some(Gain { ratio, low, high, sure: (1.0 - 2.0 * tail).max(0.0) })
    }
}

/// One kind of batch in both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Messages that it sends.
    pub messages: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Packets in which they leave together.
    pub packets: u32,
    /// What a batch takes in frames.
    pub packed_ns: f64,
    /// What it takes message by message.
    pub apart_ns: f64,
    /// How many times longer the latter is.
    pub gain: Gain,
    /// Batches of both kinds.
    pub batches: u64,
}

#[derive(Debug, Default)]
struct Candidate {
    operations: Vec<Operation>,
    messages: u32,
    packets: u32,
    /// Whether the block that is open leaves in frames; its batches and their time.
    is_packed: bool,
    open: (u64, u64),
    /// The mean of the block before.
    before: Option<f64>,
    ratios: Vec<f64>,
    /// Batches and their time: message by message, in frames.
    sums: [(u64, u64); 2],
}

impl Candidate {
    fn note(&mut self, is_packed: bool, ticks: u64) {
        if is_packed != self.is_packed {
            self.close();
            self.is_packed = is_packed;
        }
        let sum = &mut self.sums[usize::from(is_packed)];
        for (count, time) in [&mut self.open, sum] {
            *count += 1;
            *time = time.saturating_add(ticks);
        }
    }

    fn close(&mut self) {
        let (count, ticks) = std::mem::take(&mut self.open);
        if count == 0 {
            return;
        }
        let mean = ticks as f64 / count as f64;
        let (packed, apart) =
            if self.is_packed { (Some(mean), self.before) } else { (self.before, Some(mean)) };
        if let (Some(packed), Some(apart)) = (packed, apart)
            && packed > 0.0
        {
            self.ratios.push(apart / packed);
        }
        self.before = Some(mean);
    }
}

/// What a trace says of it, batch by batch.
#[derive(Debug, Default)]
pub(super) struct Alternation {
    candidates: Vec<Candidate>,
    /// By the place of the definition: the candidate, and whether this one leaves in frames.
    places: Vec<Option<(usize, bool)>>,
}

impl Alternation {
    /// A batch of the trace.
    pub(super) fn note(&mut self, definitions: &[Definition], batch: &Batch) {
        let place = batch.definition as usize;
        while self.places.len() <= place {
            let known = definitions.get(self.places.len()).and_then(|definition| self.candidate(definition));
            self.places.push(known);
        }
        if let Some((candidate, is_packed)) = self.places[place]
            && !batch.has_failed
        {
            self.candidates[candidate].note(is_packed, batch.duration_ticks);
        }
    }

    fn candidate(&mut self, definition: &Definition) -> Option<(usize, bool)> {
        let sent = definition.operations.iter().filter(|one| one.kind == Kind::Send).count() as u32;
        if sent < 2 {
            return None;
        }
        let is_packed = definition.frames < sent;
        let known = self.candidates.iter().position(|one| one.operations == definition.operations);
        let place = match known {
            Some(place) => place,
            None if self.candidates.len() < CANDIDATES_LIMIT => {
                let operations = definition.operations.clone();
                self.candidates.push(Candidate {
                    operations,
                    messages: sent,
                    packets: sent,
                    is_packed,
                    ..Candidate::default()
                });
                self.candidates.len() - 1
            }
            None => return None,
        };
        let its = &mut self.candidates[place];
        its.packets = its.packets.min(definition.frames);
        Some((place, is_packed))
    }

    /// What came in both ways, of so long ticks.
    pub(super) fn finish(self, tick_ns: f64) -> impl Iterator<Item = Measured> {
        self.candidates.into_iter().filter_map(move |mut one| {
            one.close();
            let mean_ns = |(count, ticks): (u64, u64)| ticks as f64 * tick_ns / count.max(1) as f64;
            let sent = one.operations.iter().filter(|operation| operation.kind == Kind::Send);
            Some(Measured {
                messages: one.messages,
                bytes: sent.map(Operation::bytes).fold(0, u64::saturating_add),
                packets: one.packets,
                packed_ns: mean_ns(one.sums[1]),
                apart_ns: mean_ns(one.sums[0]),
                gain: Gain::of(&one.ratios)?,
                batches: one.sums[0].0 + one.sums[1].0,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Reduction};

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut state = 5_u64;
        let mut dice = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for turns in [6, 12, 25] {
            let (mut held, mut sure) = (0, 0.0);
            for _ in 0..2000 {
                // The true median is 1.
                let ratios: Vec<f64> = (0..turns).map(|_| (3.0 * (dice() - 0.5)).exp()).collect();
                let gain = Gain::of(&ratios).unwrap();
                held += i32::from(gain.low <= 1.0 && 1.0 <= gain.high);
                sure = gain.sure;
            }
            assert!(
                sure >= 0.95 && (f64::from(held) / 2000.0 - sure).abs() < 0.015,
                "{turns}: {held} {sure}"
            );
        }
        let few = Gain::of(&[1.0, 2.0]).unwrap();
        assert_eq!((few.ratio, few.low, few.high, few.sure), (1.5, 1.0, 2.0, 0.5));
        assert_eq!(Gain::of(&[2.0]).unwrap().sure, 0.0);
        assert_eq!(Gain::of(&[]), None);
        let many: Vec<f64> = (0..5000).map(f64::from).collect();
        assert!(Gain::of(&many).is_some_and(|gain| gain.low <= gain.ratio && gain.ratio <= gain.high));
    }

    #[test]
    fn blocks_in_both_ways_are_compared_with_their_neighbours() {
        let send = Operation {
            kind: Kind::Send,
            data_type: DataType::Int8,
            reduction: Reduction::Sum,
            peer: 1,
            in_place: false,
            count: 10,
            algorithm: 0,
        };
        let definition = |frames| Definition { operations: vec![send; 4], frames, is_one_sided: false };
        let definitions =
            [definition(1), Definition { operations: vec![send], ..definition(1) }, definition(4)];
        let mut alternation = Alternation::default();
        for block in 0..40_u64 {
            // The machine is slower in some minutes.
            let pace = if block % 16 < 8 { 1 } else { 5 };
            for number in 0..10 {
                let definition = if block % 2 == 0 { 0 } else { 2 };
                let duration_ticks = pace * if definition == 0 { 100 } else { 130 } + number;
                alternation.note(&definitions, &Batch { definition, duration_ticks, ..Batch::default() });
                alternation
                    .note(&definitions, &Batch { definition: 1, duration_ticks: 7, ..Batch::default() });
            }
        }
        let all: Vec<Measured> = alternation.finish(2.0).collect();
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.messages, one.bytes, one.packets, one.batches), (4, 40, 1, 400));
        assert!((one.gain.ratio - 1.29).abs() < 0.02 && one.gain.sure > 0.95, "{one:?}");
        assert!(one.packed_ns < one.apart_ns);
    }
}
