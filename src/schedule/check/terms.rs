//! What bytes mean: terms over the ranks' data. Equal terms have equal numbers.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::memory::{Part, push_part};
use crate::op::Reduction;
use crate::schedule::Call;

/// The number of a term.
pub(super) type TermId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Term {
    /// A rank's own data.
    Own(u32),
    Combined(TermId, TermId),
    Scaled(TermId),
    Divided(TermId),
}

/// What is asked of a term again and again.
#[derive(Clone, Debug)]
struct Facts {
    term: Term,
    /// Whose data it has, one bit per rank.
    ranks: Vec<u64>,
    is_scaled: bool,
    is_divided: bool,
}

/// All terms met so far.
#[derive(Debug)]
pub(super) struct Terms {
    words: usize,
    rank_count: usize,
    facts: Vec<Facts>,
    numbers: HashMap<Term, TermId>,
}

impl Terms {
    pub(super) fn new(rank_count: usize) -> Terms {
        let words = rank_count.div_ceil(64);
        Terms { words, rank_count, facts: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, term: Term, facts: impl FnOnce(&[Facts]) -> Facts) -> TermId {
        *self.numbers.entry(term).or_insert_with(|| {
            let facts = facts(&self.facts);
            self.facts.push(facts);
            self.facts.len() as TermId - 1
        })
    }

    /// The data of `rank`.
    pub(super) fn own(&mut self, rank: u32) -> TermId {
        let mut ranks = vec![0; self.words];
        ranks[rank as usize / 64] = 1 << (rank % 64);
        let term = Term::Own(rank);
        self.number(term, |_| Facts { term, ranks, is_scaled: false, is_divided: false })
    }

    pub(super) fn scale(&mut self, id: TermId) -> Result<TermId, String> {
        if !matches!(self.facts[id as usize].term, Term::Own(_)) {
            return Err("scales what is no rank's own data".into());
        }
        let term = Term::Scaled(id);
        Ok(self.number(term, |all| Facts { term, is_scaled: true, ..all[id as usize].clone() }))
    }

    pub(super) fn divide(&mut self, id: TermId) -> Result<TermId, String> {
        if self.facts[id as usize].is_divided {
            return Err("divides twice".into());
        }
        let term = Term::Divided(id);
        Ok(self.number(term, |all| Facts { term, is_divided: true, ..all[id as usize].clone() }))
    }

    fn combine_two(&mut self, left: TermId, right: TermId) -> Result<TermId, String> {
        let term = Term::Combined(left, right);
        if let Some(&id) = self.numbers.get(&term) {
            return Ok(id);
        }
        let (a, b) = (&self.facts[left as usize], &self.facts[right as usize]);
        if a.ranks.iter().zip(&b.ranks).any(|(a, b)| a & b != 0) {
            return Err("counts a rank's data twice".into());
        }
        if a.is_scaled != b.is_scaled || a.is_divided || b.is_divided {
            return Err("combines what is scaled or divided with what is not".into());
        }
        let ranks = a.ranks.iter().zip(&b.ranks).map(|(a, b)| a | b).collect();
        let facts = Facts { term, ranks, is_scaled: a.is_scaled, is_divided: false };
        Ok(self.number(term, |_| facts))
    }

    /// Part by part; both must be of the same elements.
    pub(super) fn combine(&mut self, left: &[Part], right: &[Part]) -> Result<Vec<Part>, String> {
        let mut result = Vec::new();
        let (mut left, mut right) = (left.iter().copied(), right.iter().copied());
        let (mut a, mut b) = (left.next(), right.next());
        while let (Some(x), Some(y)) = (a, b) {
            if x.origin != y.origin {
                return Err("combines different elements".into());
            }
            let bytes = x.bytes.min(y.bytes);
            let term = self.combine_two(x.term, y.term)?;
            push_part(&mut result, Part { bytes, term, origin: x.origin });
            a = x.behind(bytes).or_else(|| left.next());
            b = y.behind(bytes).or_else(|| right.next());
        }
        Ok(result)
    }

    /// `change` of every part.
    pub(super) fn map(
        &mut self,
        parts: Vec<Part>,
        change: impl Fn(&mut Terms, TermId) -> Result<TermId, String>,
    ) -> Result<Vec<Part>, String> {
        parts.into_iter().map(|part| Ok(Part { term: change(self, part.term)?, ..part })).collect()
    }

    /// Whether the term is the data of `from`.
    pub(super) fn verify_own(&self, id: TermId, from: u32) -> Result<(), String> {
        let is_own = self.facts[id as usize].term == Term::Own(from);
        if is_own { Ok(()) } else { Err(format!("a result is not the data of rank {from}")) }
    }

    /// Whether the term is the data of `from`, or without it everyone's, reduced as `call` says.
    pub(super) fn verify(&self, call: &Call, id: TermId, from: Option<u32>) -> Result<(), String> {
        let facts = &self.facts[id as usize];
        if let Some(from) = from {
            return self.verify_own(id, from);
        }
        let count: u32 = facts.ranks.iter().map(|word| word.count_ones()).sum();
        if count as usize != self.rank_count {
            return Err(format!("a result has the data of {count} ranks only"));
        }
        // The average of one rank's data is that data.
        let is_average_of_one = self.rank_count == 1 && call.reduction == Reduction::Avg;
        if !is_average_of_one && (facts.is_scaled != call.scales() || facts.is_divided != call.divides()) {
            return Err("a result is not scaled or divided as its operator says".into());
        }
        Ok(())
    }
}
