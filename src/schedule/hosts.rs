//! Which ranks share a host, as all ranks know it.
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// The host of every rank, as numbers; equal numbers are one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hosts {
    /// By rank; empty: all ranks share one.
    host_of: Vec<u32>,
}

impl Hosts {
    /// All ranks, however many, share one host.
    #[must_use]
    pub const fn one() -> Hosts {
        Hosts { host_of: Vec::new() }
    }

    /// Rank `r` lies on host `host_of[r]`.
    #[must_use]
    pub fn of(host_of: Vec<u32>) -> Hosts {
        let is_one = host_of.windows(2).all(|pair| pair[0] == pair[1]);
        Hosts { host_of: if is_one { Vec::new() } else { host_of } }
    }

    /// Whether it speaks of that many ranks.
    #[must_use]
    pub fn fits(&self, ranks: u32) -> bool {
        self.host_of.is_empty() || self.host_of.len() == ranks as usize
    }

    /// The ranks of every host, ascending; hosts in the order of their lowest ranks.
    #[must_use]
    pub fn groups(&self, ranks: u32) -> Vec<Vec<u32>> {
        if self.host_of.is_empty() {
            return vec![(0..ranks).collect()];
        }
        let mut places = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (host, rank) in self.host_of.iter().zip(0..ranks) {
            let place = *places.entry(host).or_insert(groups.len());
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push(rank);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_in_the_order_of_their_lowest_ranks() {
        let hosts = Hosts::of(vec![7, 3, 7, 3, 9]);
        assert_eq!(hosts.groups(5), [vec![0, 2], vec![1, 3], vec![4]]);
        assert!(hosts.fits(5) && !hosts.fits(4));
    }

    #[test]
    fn one_host_has_any_number_of_ranks() {
        assert_eq!(Hosts::of(vec![4, 4, 4]), Hosts::one());
        assert_eq!(Hosts::one().groups(3), [vec![0, 1, 2]]);
        assert!(Hosts::one().fits(1000));
    }
}
