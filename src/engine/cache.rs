//! Plans already made, by the shape of their batch. A training job repeats a few shapes a million times.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::compile::{BatchPlan, Facts, compile};
use crate::error::Result;
use crate::op::{Op, Shape};

/// Plans kept before all are forgotten: a bound for jobs whose shapes never repeat.
const KEPT_COUNT: usize = 4096;

/// A plan of the cache, valid while a batch that uses it is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanId(u32);

impl PlanId {
    /// Of a batch that needs none.
    pub(super) const NONE: PlanId = PlanId(u32::MAX);
}

/// The plans of one communicator.
#[derive(Debug)]
pub(super) struct Cache {
    facts: Facts,
    plans: Vec<BatchPlan>,
    /// By hash; the next plan of the same hash is in `next`.
    by_hash: HashMap<u64, u32, std::hash::BuildHasherDefault<Identity>>,
    next: Vec<Option<u32>>,
    last: u32,
    pub(super) made_count: u64,
    pub(super) found_count: u64,
    /// Whether every batch is timed from its beginning.
    pub(super) is_traced: bool,
    /// Plans of messages in frames and message by message, in turn.
    alternation: Option<Box<Alternation>>,
}

/// What [`Cache`] has for the blocks of batches in between.
#[derive(Debug, Default)]
struct Alternation {
    /// Batches of a block.
    every: u64,
    /// Of this block so far.
    count: u64,
    message_bytes: usize,
    plans: Vec<BatchPlan>,
    by_hash: HashMap<u64, u32, std::hash::BuildHasherDefault<Identity>>,
    next: Vec<Option<u32>>,
}

impl Cache {
    pub(super) fn new(facts: Facts) -> Cache {
        Cache {
            facts,
            plans: Vec::new(),
            by_hash: HashMap::default(),
            next: Vec::new(),
            last: 0,
            made_count: 0,
            found_count: 0,
            is_traced: false,
            alternation: None,
        }
    }

    /// From now on blocks of so many batches leave in frames and message by message, in turn. Who receives need not
    /// know: framing is the sender's choice alone.
    pub(super) fn alternate(&mut self, every: u64) {
        self.forget();
        self.alternation = Some(Box::new(Alternation { every, ..Alternation::default() }));
    }

    /// The next batch: perhaps that of another block. No plan is in use then.
    fn turn(&mut self) {
        let Some(other) = &mut self.alternation else { return };
        if other.count >= other.every {
            other.count = 0;
            std::mem::swap(&mut other.message_bytes, &mut self.facts.limits.message_bytes);
            std::mem::swap(&mut other.plans, &mut self.plans);
            std::mem::swap(&mut other.by_hash, &mut self.by_hash);
            std::mem::swap(&mut other.next, &mut self.next);
        }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    #[inline]
    pub(super) fn get(&self, id: PlanId) -> &BatchPlan {
        &self.plans[id.0 as usize]
    }

    /// The plan of the batch, made if it is new. Old ones may be forgotten only when none is in use.
    #[inline]
    pub(super) fn find(&mut self, ops: &[Op], may_forget: bool) -> Result<PlanId> {
        if self.is_plan_of(self.last, ops) {
            self.found_count += 1;
            return Ok(PlanId(self.last));
        }
        self.find_by_hash(ops, may_forget)
    }

    /// From now on other facts hold; old plans are forgotten, none of which is in use.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts);
        self.forget();
    }

    /// Forgets all plans, none of which is in use.
    pub(super) fn forget(&mut self) {
        (self.plans, self.next) = (Vec::new(), Vec::new());
        self.by_hash.clear();
        if let Some(other) = &mut self.alternation {
            (other.plans, other.next) = (Vec::new(), Vec::new());
            other.by_hash.clear();
        }
    }

    #[inline]
    fn is_plan_of(&self, index: u32, ops: &[Op]) -> bool {
        let Some(plan) = self.plans.get(index as usize) else { return false };
        plan.shapes.len() == ops.len() && plan.shapes.iter().zip(ops).all(|(shape, op)| *shape == op.shape)
    }

    /// Where blocks take turns, the way of every batch, since none is the last one's then.
    fn find_by_hash(&mut self, ops: &[Op], may_forget: bool) -> Result<PlanId> {
        if may_forget {
            self.turn();
        }
        let found = self.look_up(ops, may_forget)?;
        if let Some(other) = &mut self.alternation {
            other.count += 1;
            self.last = u32::MAX;
        }
        Ok(found)
    }

    fn look_up(&mut self, ops: &[Op], may_forget: bool) -> Result<PlanId> {
        let hash = ops.iter().fold(ops.len() as u64, |hash, op| mix(hash, &op.shape));
        let mut candidate = self.by_hash.get(&hash).copied();
        while let Some(index) = candidate {
            if self.is_plan_of(index, ops) {
                self.last = index;
                self.found_count += 1;
                return Ok(PlanId(index));
            }
            candidate = self.next[index as usize];
        }
        if self.plans.len() >= KEPT_COUNT && may_forget {
            self.forget();
        }
        let mut plan = compile(ops, &self.facts)?;
        plan.is_long |= self.is_traced;
        let index = self.plans.len() as u32;
        self.plans.push(plan);
        self.made_count += 1;
        self.next.push(self.by_hash.insert(hash, index));
        self.last = index;
        Ok(PlanId(index))
    }
}

/// A number that differs for nearly all different shapes.
#[inline]
fn mix(before: u64, shape: &Shape) -> u64 {
    let mixed = (before ^ shape.small()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (mixed ^ shape.count as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
