//! What the simulator knows of a machine: links between ranks by where the ranks are, and what a core does.
//!
//! Ranks fill hosts in their order, hosts fill islands. Two ranks talk over [`Machine::local`] on one host, over
//! [`Machine::rail`] between hosts of one island, over [`Machine::spine`] between islands. A host has some rails,
//! each a port in either direction that its ranks share in turns; an island has one port up and one down, as fast as
//! all rails of its hosts together, divided by the oversubscription.
#![forbid(unsafe_code)]

use crate::schedule::Hosts;

/// How a packet gets from one rank to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// From the moment that a byte leaves to the moment that it can be read (L).
    pub latency_ns: f64,
    /// What a packet costs the sender's core (o), whatever its length.
    pub send_ns: f64,
    /// What a packet costs the receiver's core (o).
    pub receive_ns: f64,
    /// The least time between packets of one port (g).
    pub gap_ns: f64,
    /// What a port carries (1/G); 0: there is no port, cores move the bytes.
    pub port_bytes_per_ns: f64,
    /// What the sender's core moves; 0: the port fetches the bytes by itself.
    pub send_bytes_per_ns: f64,
    /// What the receiver's core moves; 0: the port puts the bytes where they belong.
    pub receive_bytes_per_ns: f64,
    /// How much may be unread between two ranks until the sender waits; 0: as much as comes.
    pub window_bytes: f64,
}

/// What a core does beside packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Core {
    /// What a call costs before its first step.
    pub call_ns: f64,
    /// What a local step costs, whatever its length.
    pub step_ns: f64,
    /// What a message costs that shares a frame, at either end.
    pub message_ns: f64,
    /// Copies from memory to memory.
    pub copy_bytes_per_ns: f64,
    /// Combining two operands, also where one of them comes in a packet and is moved on the way.
    pub reduce_bytes_per_ns: f64,
    /// What it costs that another rank of the same core goes on.
    pub switch_ns: f64,
    /// How long a rank waits awake until it sleeps; 0: for ever.
    pub patience_ns: f64,
    /// How long it takes to wake one that sleeps.
    pub wake_ns: f64,
    /// Above so many bytes of a rank's buffers, what a core moves slows down; 0: never.
    pub cache_bytes: f64,
    /// How many times slower.
    pub beyond_cache: f64,
}

/// Links, cores, and how they are laid out.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// How many ranks share a host; 0: all.
    pub ranks_per_host: u32,
    /// How many cores the ranks of a host share in turns; 0: each has its own.
    pub cores_per_host: u32,
    /// How many rails a host has.
    pub rails: u32,
    /// How many hosts make an island; 0: all.
    pub hosts_per_island: u32,
    /// How many times more the hosts of an island can send than the island's port up carries.
    pub oversubscription: f64,
    /// Within a host.
    pub local: Link,
    /// Between hosts of one island.
    pub rail: Link,
    /// Between islands.
    pub spine: Link,
    /// The cores.
    pub core: Core,
}

/// The machine when none is described: cores and their memory as fitted to what was measured
/// (`docs/regions/measured.txt`), a network as data sheets have it.
impl Default for Machine {
    fn default() -> Machine {
        Machine {
            ranks_per_host: 8,
            cores_per_host: 0,
            rails: 1,
            hosts_per_island: 32,
            oversubscription: 2.0,
            local: Link {
                latency_ns: 40.0,
                send_ns: 105.0,
                receive_ns: 115.0,
                gap_ns: 0.0,
                port_bytes_per_ns: 0.0,
                send_bytes_per_ns: 17.0,
                receive_bytes_per_ns: 67.0,
                window_bytes: 131_072.0,
            },
            rail: Link {
                latency_ns: 1500.0,
                send_ns: 150.0,
                receive_ns: 150.0,
                gap_ns: 50.0,
                port_bytes_per_ns: 25.0,
                send_bytes_per_ns: 0.0,
                receive_bytes_per_ns: 0.0,
                window_bytes: 0.0,
            },
            spine: Link {
                latency_ns: 3000.0,
                send_ns: 150.0,
                receive_ns: 150.0,
                gap_ns: 50.0,
                port_bytes_per_ns: 25.0,
                send_bytes_per_ns: 0.0,
                receive_bytes_per_ns: 0.0,
                window_bytes: 0.0,
            },
            core: Core {
                call_ns: 35.0,
                step_ns: 2.0,
                message_ns: 5.0,
                copy_bytes_per_ns: 22.0,
                reduce_bytes_per_ns: 28.0,
                switch_ns: 1700.0,
                patience_ns: 0.0,
                wake_ns: 0.0,
                cache_bytes: 1_310_000.0,
                beyond_cache: 1.26,
            },
        }
    }
}

/// Which link two ranks talk over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On one host.
    Local,
    /// Between hosts of one island.
    Rail,
    /// Between islands.
    Spine,
}

impl Machine {
    /// The host of a rank.
    #[must_use]
    pub const fn host(&self, rank: u32) -> u32 {
        match self.ranks_per_host {
            0 => 0,
            each => rank / each,
        }
    }

    /// The island of a rank.
    #[must_use]
    pub const fn island(&self, rank: u32) -> u32 {
        match self.hosts_per_island {
            0 => 0,
            each => self.host(rank) / each,
        }
    }

    /// The link between two ranks.
    #[must_use]
    pub const fn class(&self, one: u32, other: u32) -> Class {
        if self.host(one) == self.host(other) {
            Class::Local
        } else if self.island(one) == self.island(other) {
            Class::Rail
        } else {
            Class::Spine
        }
    }

    /// The link of a class.
    #[must_use]
    pub const fn link(&self, class: Class) -> &Link {
        match class {
            Class::Local => &self.local,
            Class::Rail => &self.rail,
            Class::Spine => &self.spine,
        }
    }

    const fn place(&self, rank: u32) -> u32 {
        match self.ranks_per_host {
            0 => rank,
            each => rank % each,
        }
    }

    /// The number of the core that runs a rank; cores are numbered host by host.
    #[must_use]
    pub const fn core_of(&self, rank: u32) -> u32 {
        match self.cores_per_host {
            0 => rank,
            cores => self.host(rank) * cores + self.place(rank) % cores,
        }
    }

    /// The number of the rail that a rank uses; rails are numbered host by host.
    #[must_use]
    pub const fn rail_of(&self, rank: u32) -> u32 {
        match self.rails {
            0 => self.host(rank),
            rails => self.host(rank) * rails + self.place(rank) % rails,
        }
    }

    /// What an island's port carries either way.
    #[must_use]
    pub fn island_bytes_per_ns(&self) -> f64 {
        f64::from(self.hosts_per_island) * f64::from(self.rails.max(1)) * self.spine.port_bytes_per_ns
            / self.oversubscription
    }

    /// Which of `ranks` ranks share a host.
    #[must_use]
    pub fn hosts(&self, ranks: u32) -> Hosts {
        if self.ranks_per_host == 0 || ranks <= self.ranks_per_host {
            return Hosts::one();
        }
        Hosts::of((0..ranks).map(|rank| self.host(rank)).collect())
    }

    /// How many ranks further on everything looks the same; `None` if that is never before the last of them.
    #[must_use]
    pub fn period(&self, ranks: u32) -> Option<u32> {
        let is_one_host = self.ranks_per_host == 0 || ranks <= self.ranks_per_host;
        let is_one_island =
            is_one_host || self.hosts_per_island == 0 || self.host(ranks - 1) < self.hosts_per_island;
        let period = match (is_one_host, is_one_island) {
            (true, _) if self.cores_per_host == 0 => 1,
            // Cores that are shared unevenly are not alike.
            (true, _) => return None,
            (false, true) => self.ranks_per_host,
            (false, false) => self.ranks_per_host * self.hosts_per_island,
        };
        (ranks.is_multiple_of(period) && period < ranks).then_some(period)
    }
}

/// Picoseconds: times are whole numbers, so that equal ranks stay equal.
#[must_use]
pub fn picoseconds(ns: f64) -> u64 {
    (ns * 1000.0).round() as u64
}

/// How long `bytes` take at a rate; nothing where there is none.
#[must_use]
pub fn at_rate(bytes: u64, bytes_per_ns: f64) -> u64 {
    if bytes_per_ns > 0.0 { picoseconds(bytes as f64 / bytes_per_ns) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fill_hosts_and_hosts_fill_islands() {
        let machine = Machine { ranks_per_host: 4, hosts_per_island: 2, rails: 2, ..Machine::default() };
        assert_eq!(machine.class(0, 3), Class::Local);
        assert_eq!(machine.class(0, 4), Class::Rail);
        assert_eq!(machine.class(0, 8), Class::Spine);
        assert_eq!((machine.rail_of(4), machine.rail_of(7), machine.core_of(9)), (2, 3, 9));
        assert_eq!(machine.hosts(6).groups(6), [vec![0, 1, 2, 3], vec![4, 5]]);
        assert_eq!(machine.hosts(4), Hosts::one());
    }

    #[test]
    fn what_repeats_is_a_rank_a_host_or_an_island() {
        let machine = Machine { ranks_per_host: 4, hosts_per_island: 2, ..Machine::default() };
        assert_eq!(machine.period(4), Some(1));
        assert_eq!(machine.period(8), Some(4));
        assert_eq!(machine.period(6), None);
        assert_eq!((machine.period(24), machine.period(20)), (Some(8), None));
        assert_eq!(Machine { cores_per_host: 2, ..machine }.period(4), None);
    }

    #[test]
    fn times_are_whole_picoseconds() {
        assert_eq!((picoseconds(1.5), at_rate(1000, 10.0), at_rate(7, 0.0)), (1500, 100_000, 0));
    }
}
