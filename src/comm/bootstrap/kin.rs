//! Ranks of a communicator that meet again, for a child of it.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::member::{self, Member};
use super::message::Naming;
use super::porch::Porch;
use super::proof::{derived_communicator, derived_secret};
use super::root::Time;
use super::session::Session;
use super::{bound, place, random};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::topology::{Card, probe};

/// What a rank keeps of a birth, so that children of the communicator can be born. Cheap to clone. As long as
/// one is kept, its process can be reached by the other ranks.
#[derive(Clone)]
pub struct Kin {
    key: [u8; 32],
    /// Of all ranks, without what the layers above added.
    cards: Arc<[Card]>,
    rank: u32,
    /// A single rank has nobody to be reached by.
    porch: Option<Arc<Porch>>,
    process: u32,
}

impl fmt::Debug for Kin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kin(rank {} of {})", self.rank, self.cards.len())
    }
}

impl Kin {
    pub(super) fn new(key: [u8; 32], cards: &[Card], rank: u32, porch: Option<Arc<Porch>>) -> Kin {
        let cards = cards.iter().map(|card| Card { payload: Vec::new(), ..card.clone() }).collect();
        Kin { key, cards, rank, porch, process: std::process::id() }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// What every rank said of itself, by rank.
    #[must_use]
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }

    fn check(&self, members: &[u32]) -> Result<()> {
        let mut ascending = members.to_vec();
        ascending.sort_unstable();
        let differ = ascending.windows(2).all(|pair| pair[0] < pair[1]);
        let known = ascending.last().is_some_and(|last| (*last as usize) < self.cards.len());
        if !differ || !known || !members.contains(&self.rank) {
            return Err(Error::Internal(format!(
                "rank {} of {} cannot meet {members:?} again",
                self.rank,
                self.cards.len()
            )));
        }
        let inherited =
            self.process != std::process::id() || self.porch.as_ref().is_some_and(|p| !p.is_ours());
        if inherited {
            return Err(Error::usage(
                "ncclCommSplit",
                "this process is a child of the one in which the communicator was made",
                "make communicators in the process that uses them",
            ));
        }
        Ok(())
    }
}

impl Session {
    /// Meets some ranks of the parent again. `members` are the parent's ranks that take part, in the order of
    /// their new ranks, this one among them. Every member calls it with the same `members` and `purpose`: bytes
    /// that all of them compute alike, and for no other child of this parent with these members. Ranks that are no
    /// members may be dead.
    ///
    /// # Errors
    /// Who did not come in time, by the parent's numbers; a rank gave up or is gone; `abort` was set.
    pub fn derive(
        config: &Config,
        kin: &Kin,
        members: &[u32],
        purpose: &[u8],
        abort: Arc<AtomicBool>,
    ) -> Result<Session> {
        kin.check(members)?;
        let count = |length: usize| u32::try_from(length).expect("ranks are counted in 32 bits");
        let position = members.iter().take_while(|member| **member != kin.rank).count();
        let own = &kin.cards[kin.rank as usize];
        let naming = Naming { parent: Some((members.into(), count(kin.cards.len()))) };
        let settings = member::Settings {
            secret: derived_secret(&kin.key, members, purpose),
            communicator: derived_communicator(&kin.key, members, purpose),
            addresses: Vec::new(),
            patient: false,
            bound: bound(config),
            naming,
            links: place::links(config)?,
        };
        let mut card = Card {
            rank: count(position),
            ranks: count(members.len()),
            library_version: own.library_version,
            token: random()?,
            ..probe::local_card(&config.host_id, own.device)
        };
        let Some(porch) = kin.porch.as_ref().filter(|_| members.len() > 1) else {
            return Ok(Session::alone(&settings, card));
        };
        card.listeners = porch.addresses().to_vec();
        let rank = card.rank;
        let known: Vec<Card> = members.iter().map(|member| kin.cards[*member as usize].clone()).collect();
        let member = Member::derived(Time::ZERO, settings.clone(), card, &known);
        Session::meet(&settings, rank, member, Arc::clone(porch), abort)
    }
}
