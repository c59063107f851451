//! The canary: how far apart two cores are right now, as nanoseconds for a cache line to go there and back.
//!
//! Virtual machines move between states of which one is several times slower for small messages. A figure
//! without its state says little, and figures of different states are not compared.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::bench::statistics::median;
use super::machine;

const ROUNDS: u64 = 20_000;
const REPEATS: usize = 5;

/// How far the cores are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// They share a cache: up to 120 ns.
    Near,
    /// Neither: a busy machine, or one that changed its state meanwhile.
    Between,
    /// They do not: 240 to 500 ns.
    Far,
}

impl State {
    /// The state behind a time there and back.
    #[must_use]
    pub fn of(line_ns: f64) -> State {
        match line_ns {
            ns if ns <= 120.0 => State::Near,
            // Beyond that somebody else was on one of the cores.
            ns if (240.0..500.0).contains(&ns) => State::Far,
            _ => State::Between,
        }
    }

    /// The state that both times agree on, else between.
    #[must_use]
    pub fn of_both(line_ns: [f64; 2]) -> State {
        let [before, after] = line_ns.map(State::of);
        if before == after { before } else { State::Between }
    }

    /// As it is printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Near => "near",
            State::Between => "between",
            State::Far => "far",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Bounces a line between the first two cores that this process may use; `None` if it has but one.
#[must_use]
pub fn measure() -> Option<f64> {
    let cores = machine::allowed_cores();
    let (&here, &there) = (cores.first()?, cores.get(1)?);
    let line = Line(AtomicU64::new(0));
    let total = REPEATS as u64 * ROUNDS;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = machine::pin(there);
            (0..total).try_for_each(|round| {
                await_value(&line.0, 2 * round + 1)?;
                line.0.store(2 * round + 2, Ordering::Release);
                Some(())
            })
        });
        // A thread of its own, so that the caller's affinity stays.
        scope
            .spawn(|| {
                let _ = machine::pin(here);
                let mut samples = Vec::with_capacity(REPEATS);
                for repeat in 0..REPEATS as u64 {
                    let start = Instant::now();
                    for round in repeat * ROUNDS..(repeat + 1) * ROUNDS {
                        line.0.store(2 * round + 1, Ordering::Release);
                        await_value(&line.0, 2 * round + 2)?;
                    }
                    samples.push(start.elapsed().as_nanos() as f64 / ROUNDS as f64);
                }
                median(&samples)
            })
            .join()
            .unwrap_or(None)
    })
}

/// Spins until the word has the value; gives up after a second.
pub(crate) fn await_value(word: &AtomicU64, value: u64) -> Option<()> {
    let mut start = None;
    loop {
        for _ in 0..100_000 {
            if word.load(Ordering::Acquire) == value {
                return Some(());
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(1) {
            return None;
        }
    }
}

/// The canary as one line of text.
#[must_use]
pub fn describe(line_ns: Option<f64>) -> String {
    match line_ns {
        Some(ns) => format!("canary {ns:.0} ns there and back, {}", State::of(ns)),
        None => "canary: needs two cores".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        for (ns, state) in [
            (61.0, State::Near),
            (90.0, State::Near),
            (180.0, State::Between),
            (300.0, State::Far),
            (2000.0, State::Between),
        ] {
            assert_eq!(State::of(ns), state);
        }
        assert_eq!(State::of_both([70.0, 80.0]), State::Near);
        assert_eq!(State::of_both([70.0, 310.0]), State::Between);
        assert_eq!(State::of_both([345.0, 310.0]), State::Far);
    }
}
