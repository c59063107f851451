//! Hosts and what connects them.
//!
//! Every rank states the facts of its place on a [`Card`]; when all cards are known, each rank derives the
//! same [`Topology`] from them. [`probe`] is the thin part that asks the system for this rank's facts.
//!
//! ```
//! use shoal::topology::{Card, Topology};
//! let card = |rank, boot: &str| Card { rank, ranks: 3, boot_id: boot.into(), ..Card::default() };
//! let topology = Topology::from_cards(2, &[card(0, "red"), card(1, "blue"), card(2, "red")]);
//! assert_eq!(topology.local_ranks(), [0, 2]);
//! assert_eq!((topology.leader(), topology.local_index()), (0, 1));
//! assert_eq!(topology.hosts().len(), 2);
//! ```
#![forbid(unsafe_code)]

pub mod probe;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;

/// What executes a rank's work; all ranks of a communicator have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceKind {
    /// Memory of the host.
    #[default]
    Host,
    /// Memory of a CUDA device.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DeviceKind::Host => "host",
            DeviceKind::Cuda => "cuda",
        })
    }
}

/// What one rank says of itself at birth.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Card {
    /// Which rank it is.
    pub rank: u32,
    /// How many ranks it was told there are.
    pub ranks: u32,
    /// The version of this library that it runs.
    pub library_version: u32,
    /// Identifies one boot of one machine; empty where the system does not tell.
    pub boot_id: String,
    /// The host's name, for people, and in place of an unknown boot id.
    pub host_name: String,
    /// The setting that makes ranks on one machine count as different hosts.
    pub host_setting: String,
    /// The process, as itself sees its number.
    pub process: u32,
    /// The inode of its process namespace; 0 if unknown.
    pub process_namespace: u64,
    /// The inode of its network namespace; 0 if unknown.
    pub network_namespace: u64,
    /// Its effective user.
    pub user: u32,
    /// How many processors it can keep busy, quotas included.
    pub cores: u32,
    /// The processors it may run on, as the system lists them (`0-3,8`); empty if unknown.
    pub processors: String,
    /// What executes its work.
    pub device: DeviceKind,
    /// Random; two ranks with the same token and process number are in one process.
    pub token: [u8; 16],
    /// Where its process may be reached by those that know the communicator's key.
    pub listeners: Vec<SocketAddr>,
    /// What the layers above want every rank to know.
    pub payload: Vec<u8>,
}

impl Card {
    /// The rank with the place where it runs, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let host = if self.host_name.is_empty() { "an unnamed host" } else { &self.host_name };
        format!("rank {} (process {} on {host})", self.rank, self.process)
    }

    /// What ranks on one host have in common, and ranks on different hosts do not.
    fn host_key(&self) -> (&str, &str, &str) {
        let name = if self.boot_id.is_empty() { self.host_name.as_str() } else { "" };
        (&self.boot_id, name, &self.host_setting)
    }
}

/// A machine, or what counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, as its lowest rank knows it.
    pub name: String,
    /// Its ranks, ascending.
    pub ranks: Vec<u32>,
    /// How many processors all of its ranks together can keep busy.
    pub cores: u32,
}

/// Which ranks are where, seen from one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    rank: u32,
    hosts: Vec<Host>,
    /// By rank: the host's index, and the rank's index among the ranks there.
    places: Vec<(usize, usize)>,
}

impl Topology {
    /// Derives it from the cards of all ranks, `cards[r]` being rank r's; seen from `rank`.
    ///
    /// # Panics
    /// There is no card of `rank`.
    #[must_use]
    pub fn from_cards(rank: u32, cards: &[Card]) -> Topology {
        assert!((rank as usize) < cards.len(), "a rank has a card of its own");
        let mut groups: Vec<Vec<&Card>> = Vec::new();
        let mut group_of = HashMap::new();
        let mut places = Vec::with_capacity(cards.len());
        for card in cards {
            let group = *group_of.entry(card.host_key()).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            places.push((group, groups[group].len()));
            groups[group].push(card);
        }
        let mut hosts: Vec<Host> = groups
            .iter()
            .map(|group| Host {
                name: group[0].host_name.clone(),
                ranks: Vec::with_capacity(group.len()),
                cores: cores_together(group),
            })
            .collect();
        for (rank, (host, _)) in places.iter().enumerate() {
            hosts[*host].ranks.push(u32::try_from(rank).expect("ranks are counted in 32 bits"));
        }
        Topology { rank, hosts, places }
    }

    /// The hosts, in the order of their lowest ranks.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// How many ranks there are.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        u32::try_from(self.places.len()).expect("ranks are counted in 32 bits")
    }

    /// The index of the host of `rank`, which exists.
    #[must_use]
    pub fn host_of(&self, rank: u32) -> usize {
        self.places[rank as usize].0
    }

    /// This rank's host.
    #[must_use]
    pub fn local_host(&self) -> &Host {
        &self.hosts[self.host_of(self.rank)]
    }

    /// The ranks on this host, this one among them, ascending.
    #[must_use]
    pub fn local_ranks(&self) -> &[u32] {
        &self.local_host().ranks
    }

    /// The rank that acts for this host where one has to: its lowest.
    #[must_use]
    pub fn leader(&self) -> u32 {
        self.local_ranks()[0]
    }

    /// Where this rank stands among the ranks of its host.
    #[must_use]
    pub fn local_index(&self) -> usize {
        self.places[self.rank as usize].1
    }

    /// Whether `rank`, which exists, is on this host.
    #[must_use]
    pub fn is_local(&self, rank: u32) -> bool {
        self.host_of(rank) == self.host_of(self.rank)
    }

    /// How many processors the ranks of this host together can keep busy.
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.local_host().cores
    }
}

/// Ranks that may run on the same processors share what they can keep busy; ranks that are pinned apart add
/// up, but never beyond the processors that any of them may use.
fn cores_together(cards: &[&Card]) -> u32 {
    let mut groups: BTreeMap<&str, u32> = BTreeMap::new();
    for card in cards {
        let most = groups.entry(card.processors.as_str()).or_default();
        *most = (*most).max(card.cores.max(1));
    }
    let sum = groups.values().fold(0_u32, |sum, cores| sum.saturating_add(*cores));
    let mut union = BTreeSet::new();
    for list in groups.keys() {
        match parse_processors(list) {
            Some(processors) => union.extend(processors),
            None => return sum,
        }
    }
    sum.min(u32::try_from(union.len()).unwrap_or(u32::MAX)).max(1)
}

/// The numbers of a list like `0-3,8`; `None` if it is none, or names more processors than machines have.
fn parse_processors(list: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 1 << 16;
    let mut processors = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST || processors.len() >= MOST as usize {
            return None;
        }
        processors.extend(first..=last);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(rank: u32, boot_id: &str, host_name: &str, setting: &str) -> Card {
        Card {
            rank,
            boot_id: boot_id.into(),
            host_name: host_name.into(),
            host_setting: setting.into(),
            cores: 4,
            ..Card::default()
        }
    }

    #[test]
    fn boot_id_and_setting_decide_and_names_do_not() {
        let cards = [
            card(0, "b", "x", ""),
            card(1, "b", "y", ""),
            card(2, "b", "x", "1"),
            card(3, "c", "x", ""),
            card(4, "b", "x", "1"),
        ];
        let topology = Topology::from_cards(4, &cards);
        let ranks: Vec<_> = topology.hosts().iter().map(|host| host.ranks.clone()).collect();
        assert_eq!(ranks, [vec![0, 1], vec![2, 4], vec![3]]);
        assert_eq!(topology.local_ranks(), [2, 4]);
        assert_eq!((topology.leader(), topology.local_index(), topology.host_of(3)), (2, 1, 2));
        assert!(topology.is_local(2) && !topology.is_local(0));
    }

    #[test]
    fn names_stand_in_for_unknown_boot_ids() {
        let cards = [card(0, "", "x", ""), card(1, "", "y", ""), card(2, "", "x", "")];
        assert_eq!(Topology::from_cards(1, &cards).hosts().len(), 2);
    }

    #[test]
    fn agrees_with_comparing_all_pairs() {
        let mut state = 7_u64;
        for _ in 0..500 {
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let count = u32::try_from(1 + next(12)).unwrap();
            let cards: Vec<Card> = (0..count)
                .map(|rank| {
                    card(
                        rank,
                        ["", "a", "b"][next(3) as usize],
                        ["x", "y"][next(2) as usize],
                        ["", "1"][next(2) as usize],
                    )
                })
                .collect();
            for own in 0..count {
                let topology = Topology::from_cards(own, &cards);
                let mine = &cards[own as usize];
                let expected: Vec<u32> = (0..count)
                    .filter(|other| {
                        let other = &cards[*other as usize];
                        other.boot_id == mine.boot_id
                            && other.host_setting == mine.host_setting
                            && (!mine.boot_id.is_empty() || other.host_name == mine.host_name)
                    })
                    .collect();
                assert_eq!(topology.local_ranks(), expected);
                assert_eq!(topology.local_ranks()[topology.local_index()], own);
                assert_eq!(
                    topology.hosts().iter().map(|host| host.ranks.len()).sum::<usize>(),
                    count as usize
                );
            }
        }
    }

    #[test]
    fn cores_add_up_only_where_ranks_are_pinned_apart() {
        let cores = |facts: &[(u32, &str)]| {
            let cards: Vec<Card> = facts
                .iter()
                .map(|(cores, list)| Card { cores: *cores, processors: (*list).into(), ..Card::default() })
                .collect();
            Topology::from_cards(0, &cards).cores()
        };
        assert_eq!(cores(&[(4, "0-3"), (4, "0-3")]), 4);
        assert_eq!(cores(&[(1, "0"), (1, "1"), (1, "2")]), 3);
        assert_eq!(cores(&[(2, "0-63"), (2, "0-63")]), 2);
        assert_eq!(cores(&[(2, "0,1"), (2, "1-2")]), 3);
        assert_eq!(cores(&[(2, ""), (3, "")]), 3);
        assert_eq!(cores(&[(0, "nonsense")]), 1);
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_processors("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        for bad in ["", "3-1", "a", "1-", "0-4294967295", "-1"] {
            assert_eq!(parse_processors(bad), None, "{bad}");
        }
    }
}
