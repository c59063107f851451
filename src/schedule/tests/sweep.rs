//! Every algorithm for every number of ranks up to 130: every root, odd sizes, several shapes of hosts; a share
//! of it, or all of it with `SHOAL_TEST_CAMPAIGN=full`.

use super::{Case, InPlace, REDUCTIONS, SHAPES, is_full_campaign, shapes_of};
use crate::op::{Kind, Reduction};
use crate::schedule::naive::Random;
use crate::schedule::{Algorithm, Call};

const MOST_RANKS: u32 = 130;
/// What a piece may hold: little, so that data goes in many pieces and parts; or all.
const PIECES: [usize; 3] = [64, 512, 1 << 20];

/// Counts that do not fit: none, fewer than ranks, primes.
fn odd_counts(ranks: u32) -> [usize; 6] {
    let ranks = ranks as usize;
    [0, 1, ranks - 1, ranks + 1, 13, 131]
}

fn case(random: &mut Random, algorithm: Algorithm, kind: Kind, ranks: u32) -> Case {
    let (reduction, data_type) = random.pick(&REDUCTIONS);
    let call = Call {
        kind,
        data_type,
        reduction: if kind.reduces() { reduction } else { Reduction::Sum },
        root: if kind.has_root() { random.below(ranks as usize) as u32 } else { 0 },
        count: random.pick(&odd_counts(ranks)),
        ranks,
        in_place: false,
    };
    let in_place = random.pick(&[InPlace::None, InPlace::All, InPlace::Some]);
    // Of many ranks, few pieces: there are messages enough.
    let piece_bytes = if ranks > 40 { 1 << 20 } else { random.pick(&PIECES) };
    Case { algorithm, call, in_place, piece_bytes, shape: random.pick(&SHAPES) }
}

fn forms() -> impl Iterator<Item = (Algorithm, Kind)> {
    let kinds = |algorithm: Algorithm| {
        Kind::ALL.into_iter().filter(move |&kind| algorithm.serves(kind)).map(move |kind| (algorithm, kind))
    };
    Algorithm::ALL.into_iter().flat_map(kinds)
}

/// Every number of ranks has some cases, and every form has some numbers of ranks.
#[test]
fn every_number_of_ranks_is_proved() {
    let forms: Vec<_> = forms().collect();
    let mut random = Random(11);
    for ranks in 1..=MOST_RANKS {
        let share =
            if is_full_campaign() { forms.len() } else { 1 + (400 / ranks as usize).min(forms.len()) };
        for number in 0..share {
            let (algorithm, kind) = forms[(number * 7 + ranks as usize * 5) % forms.len()];
            for _ in 0..if is_full_campaign() { 2 } else { 1 } {
                case(&mut random, algorithm, kind, ranks).prove();
            }
        }
    }
}

/// Every root: of all numbers of ranks, or of some.
#[test]
fn every_root_is_proved() {
    let mut random = Random(12);
    let step = if is_full_campaign() { 1 } else { 13 };
    for ranks in (2..=MOST_RANKS).step_by(step) {
        for (algorithm, kind) in forms().filter(|(_, kind)| kind.has_root()) {
            let shapes = shapes_of(algorithm);
            for root in 0..ranks {
                let case = case(&mut random, algorithm, kind, ranks);
                // Few elements: who sends to whom is what depends on the root.
                let call = Call { root, count: 1 + (root as usize + ranks as usize) % 5, ..case.call };
                Case { call, piece_bytes: 1 << 20, shape: shapes[root as usize % shapes.len()], ..case }
                    .prove();
            }
        }
    }
}
