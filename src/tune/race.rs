//! A race of candidates at one size: who runs next, who is out, and when the ranking is sure. Pure: times come in.
//!
//! All who are left run once in each turn, in an order that rotates, and only times of the same turn are compared, so
//! that a slow minute of the machine hits all alike. At turns 4, 8, 16, ... those who are surely behind are out, and
//! of the worse half those who seem to be. The race is over when one is left, when those left are as good as equal,
//! or when whoever runs it has no more time.
#![forbid(unsafe_code)]

use super::table::{Choice, Sample};

/// No race is longer.
pub const TURNS_MAX: usize = 96;
/// The first look at who is behind.
const FIRST_RUNG: usize = 4;
/// Before so many turns nobody is as good as equal.
const EQUAL_AFTER: usize = 8;
/// Within this share two candidates are as good as equal.
const EQUAL: f64 = 0.02;
/// Of the worse half who seems to be so far behind is out.
const BEHIND: f64 = 0.10;

/// One candidate's times, turn by turn; it is out of the race behind its last.
#[derive(Clone, Debug)]
struct Runner {
    choice: Choice,
    times_us: Vec<f64>,
}

/// A race.
#[derive(Clone, Debug)]
pub struct Race {
    runners: Vec<Runner>,
    turns: usize,
    next_rung: usize,
    /// Who still runs, as places in `runners`.
    left: Vec<usize>,
    is_sure: bool,
}

impl Race {
    /// The race of `choices`.
    #[must_use]
    pub fn new(choices: &[Choice]) -> Race {
        let runners = choices.iter().map(|choice| Runner { choice: *choice, times_us: Vec::new() });
        Race {
            runners: runners.collect(),
            turns: 0,
            next_rung: FIRST_RUNG,
            left: (0..choices.len()).collect(),
            is_sure: false,
        }
    }

    /// Whether more turns would say more.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.is_sure && self.turns < TURNS_MAX && !self.left.is_empty()
    }

    /// Whether the ranking is sure.
    #[must_use]
    pub const fn is_sure(&self) -> bool {
        self.is_sure
    }

    /// How many turns there were.
    #[must_use]
    pub const fn turns(&self) -> usize {
        self.turns
    }

    /// Who runs in the next turn, in this order.
    #[must_use]
    pub fn poll_turn(&self) -> Vec<Choice> {
        let count = self.left.len();
        (0..count).map(|place| self.runners[self.left[(place + self.turns) % count]].choice).collect()
    }

    /// Takes the times of the turn that [`Self::poll_turn`] named, in the same order.
    pub fn handle_turn(&mut self, times_us: &[f64]) {
        let count = self.left.len();
        for (place, time_us) in times_us.iter().enumerate().take(count) {
            self.runners[self.left[(place + self.turns) % count]].times_us.push(time_us.max(1e-6));
        }
        self.turns += 1;
        let is_rung = self.turns >= self.next_rung;
        if is_rung {
            self.next_rung *= 2;
            self.drop_those_behind();
        }
        self.is_sure = self.left.len() == 1 && self.turns >= FIRST_RUNG || self.are_equal();
    }

    fn drop_those_behind(&mut self) {
        let Some(best) = self.best() else { return };
        let mut ranked: Vec<(usize, Gap)> =
            self.left.iter().map(|one| (*one, self.gap(*one, best))).collect();
        ranked.sort_by(|(_, one), (_, other)| one.middle.total_cmp(&other.middle));
        let half = ranked.len().div_ceil(2);
        let stays = |(place, (_, gap)): &(usize, &(usize, Gap))| {
            // A few turns that happen to agree prove little.
            let margin = if self.turns < EQUAL_AFTER { BEHIND } else { EQUAL };
            let is_surely_behind = gap.middle - gap.doubt > margin;
            let seems_behind = *place >= half && gap.middle > BEHIND;
            !is_surely_behind && !seems_behind
        };
        self.left = ranked.iter().enumerate().filter(stays).map(|(_, (one, _))| *one).collect();
        self.left.sort_unstable();
    }

    fn are_equal(&self) -> bool {
        let Some(best) = self.best() else { return false };
        let is_equal = |one: &usize| {
            let gap = self.gap(*one, best);
            gap.middle + gap.doubt < 1.5 * EQUAL
        };
        self.turns >= EQUAL_AFTER && self.left.iter().all(is_equal)
    }

    /// Who of those left is the fastest: by the median of its share of each turn's mean.
    fn best(&self) -> Option<usize> {
        let first = *self.left.first()?;
        let key = |one: &usize| self.gap(*one, first).middle;
        self.left.iter().copied().min_by(|one, other| key(one).total_cmp(&key(other)))
    }

    /// How far `one` is behind `other`, over the turns in which both ran.
    fn gap(&self, one: usize, other: usize) -> Gap {
        let pairs = self.runners[one].times_us.iter().zip(&self.runners[other].times_us);
        Gap::of(pairs.map(|(one, other)| (one / other).ln()).collect())
    }

    /// What is known of every candidate: the fastest by its own times, all others by how far they were behind it in
    /// the turns that they shared.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let Some(best) = self.best() else { return Vec::new() };
        let [low_us, median_us, high_us] = quartiles(&self.runners[best].times_us);
        let sample = |(place, runner): (usize, &Runner)| {
            if runner.times_us.is_empty() {
                return None;
            }
            let pairs = runner.times_us.iter().zip(&self.runners[best].times_us);
            let ratios: Vec<f64> = pairs.map(|(one, other)| one / other).collect();
            let [low, middle, high] = quartiles(&ratios);
            Some(if place == best {
                Sample { choice: runner.choice, median_us, low_us, high_us }
            } else {
                Sample {
                    choice: runner.choice,
                    median_us: middle * median_us,
                    low_us: low * median_us,
                    high_us: high * median_us,
                }
            })
        };
        self.runners.iter().enumerate().filter_map(sample).collect()
    }
}

/// How far one is behind another, as the logarithm of the ratio, and how much that may be off.
#[derive(Clone, Copy, Debug)]
struct Gap {
    middle: f64,
    doubt: f64,
}

impl Gap {
    fn of(mut logs: Vec<f64>) -> Gap {
        if logs.is_empty() {
            return Gap { middle: 0.0, doubt: f64::INFINITY };
        }
        let count = logs.len() as f64;
        let middle = middle(&mut logs);
        let mut off: Vec<f64> = logs.iter().map(|log| (log - middle).abs()).collect();
        let all_alike = off.iter().all(|off| *off == 0.0);
        // The median's error from the median deviation, as for normal errors, twice. A few turns that happen to
        // agree are no proof.
        let spread = if all_alike { 0.0 } else { self::middle(&mut off).max(0.005) };
        Gap { middle, doubt: 2.0 * 1.86 * spread / count.sqrt() }
    }
}

/// The middle value; sorts.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[at],
        _ => f64::midpoint(values[at - 1], values[at]),
    }
}

/// The lower quartile, the median and the upper quartile.
#[must_use]
pub fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    let median = middle(&mut sorted);
    let count = sorted.len();
    if count == 0 {
        return [0.0; 3];
    }
    [sorted[count / 4].min(median), median, sorted[(3 * count / 4).min(count - 1)].max(median)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Algorithm;

    fn choices(count: usize) -> Vec<Choice> {
        Algorithm::ALL[..count].iter().copied().map(Choice::usual).collect()
    }

    /// Runs the race over candidates with these true times, on a machine of changing pace; says who won and after
    /// how many single runs.
    fn run(truth: &[f64], noise: f64, seed: u64) -> (Race, usize) {
        let all = choices(truth.len());
        let mut race = Race::new(&all);
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        let mut runs = 0;
        while race.goes_on() {
            let pace = if random() < 0.4 { 4.0 } else { 1.0 };
            let turn = race.poll_turn();
            runs += turn.len();
            let time = |choice: &Choice| {
                let place = all.iter().position(|known| known == choice).unwrap();
                pace * truth[place]
            };
            let times: Vec<f64> =
                turn.iter().map(time).map(|us| us * (1.0 + noise * (random() - 0.5))).collect();
            race.handle_turn(&times);
        }
        (race, runs)
    }

    #[test]
    fn the_fastest_wins_on_a_machine_that_changes_its_pace() {
        let truth = [3.0, 1.2, 1.0, 5.0, 1.1, 9.0, 1.05];
        let mut wins = 0;
        for seed in 0..50 {
            let (race, _) = run(&truth, 0.10, seed);
            let samples = race.samples();
            let best = samples.iter().min_by(|a, b| a.median_us.total_cmp(&b.median_us)).unwrap();
            let place = choices(7).iter().position(|choice| *choice == best.choice).unwrap();
            assert!(truth[place] <= 1.05, "seed {seed}: {samples:?}");
            wins += usize::from(place == 2);
            // Times of candidates that left early are those of the same machine.
            let slow = samples.iter().find(|sample| sample.choice == choices(7)[3]).unwrap();
            let ratio = slow.median_us / best.median_us;
            assert!((4.5..5.5).contains(&ratio), "seed {seed}: {ratio}");
            assert!(samples.iter().all(|s| s.low_us <= s.median_us && s.median_us <= s.high_us));
        }
        assert!(wins >= 45, "{wins} of 50");
    }

    #[test]
    fn losers_leave_early() {
        let (race, runs) = run(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0.05, 7);
        assert!(race.is_sure() && runs <= 8 * FIRST_RUNG + 2, "{runs}");
    }

    #[test]
    fn equals_do_not_run_for_ever() {
        let (race, _) = run(&[1.0, 1.0, 1.0], 0.01, 3);
        assert!(race.is_sure() && race.turns() <= 24, "{}", race.turns());
        let (race, _) = run(&[1.0, 1.0], 2.0, 3);
        assert!(race.turns() <= TURNS_MAX);
    }

    #[test]
    fn without_candidates_there_is_no_race() {
        assert!(!Race::new(&[]).goes_on());
        assert_eq!(Race::new(&[]).samples(), []);
        assert_eq!(quartiles(&[4.0, 1.0, 2.0, 3.0, 5.0]), [2.0, 3.0, 4.0]);
    }
}
