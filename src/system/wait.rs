//! The one way to wait: look again at once, then let others run, then sleep.

use std::time::Duration;

use super::clock::now_ns;

/// How often to look before others are let run, where every rank has a core of its own.
pub const SPINS_WITH_OWN_CORE: u32 = 4000;
/// How long others are let run before the waiter sleeps.
const YIELD_NS: u64 = 1_500_000;
/// The first sleep's bound. A wake that got lost costs at most this.
const FIRST_SLEEP: Duration = Duration::from_millis(10);
/// The bound on every later sleep.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// How often a wait looks before it yields, with `ranks` on this machine that may use `cores` together: a rank
/// that spins while another one needs the core only delays what it waits for. (What this process alone may use
/// says little: launchers pin each rank to one core.)
#[must_use]
pub fn spin_limit(setting: Option<u32>, ranks: usize, cores: usize) -> u32 {
    setting.unwrap_or(if ranks <= cores { SPINS_WITH_OWN_CORE } else { 0 })
}

/// What a waiter should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Look again.
    Again,
    /// Sleep, at most this long, then look again.
    Sleep(Duration),
}

/// One wait.
#[derive(Clone, Debug)]
pub struct Waiter {
    spin_limit: u32,
    spins: u32,
    yielding_since_ns: Option<u64>,
    sleep: Duration,
}

impl Waiter {
    /// A wait that looks `spin_limit` times before it lets others run.
    #[must_use]
    pub const fn new(spin_limit: u32) -> Waiter {
        Waiter { spin_limit, spins: 0, yielding_since_ns: None, sleep: FIRST_SLEEP }
    }

    /// Something happened: the wait starts anew.
    pub const fn reset(&mut self) {
        self.spins = 0;
        self.yielding_since_ns = None;
        self.sleep = FIRST_SLEEP;
    }

    /// Nothing has happened yet: waits a moment, or says that it is time to sleep (which is the caller's to
    /// do, since only it knows on what).
    pub fn pause(&mut self) -> Pause {
        if self.spins < self.spin_limit {
            self.spins += 1;
            std::hint::spin_loop();
            return Pause::Again;
        }
        let now = now_ns();
        let since = *self.yielding_since_ns.get_or_insert(now);
        if now.saturating_sub(since) < YIELD_NS {
            std::thread::yield_now();
            return Pause::Again;
        }
        let sleep = self.sleep;
        self.sleep = (sleep * 2).min(LONGEST_SLEEP);
        Pause::Sleep(sleep)
    }

    /// Whether the wait has come so far that a look at whether the peer still lives is worth its price.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.yielding_since_ns.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_then_yields_then_sleeps_longer_and_longer() {
        let mut waiter = Waiter::new(3);
        assert_eq!([waiter.pause(), waiter.pause(), waiter.pause()], [Pause::Again; 3]);
        assert!(!waiter.is_long());
        let mut sleeps = Vec::new();
        while sleeps.len() < 6 {
            if let Pause::Sleep(time) = waiter.pause() {
                sleeps.push(time.as_millis());
            }
        }
        assert_eq!(sleeps, [10, 20, 40, 80, 100, 100]);
        assert!(waiter.is_long());
        waiter.reset();
        assert_eq!(waiter.pause(), Pause::Again);
    }

    #[test]
    fn too_many_ranks_do_not_spin() {
        assert_eq!(spin_limit(None, 3, 2), 0);
        assert_eq!(spin_limit(None, 2, 2), SPINS_WITH_OWN_CORE);
        assert_eq!(spin_limit(Some(7), 3, 2), 7);
    }
}
