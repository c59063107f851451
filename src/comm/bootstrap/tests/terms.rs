//! What the ranks of a simulated birth are told.

use std::net::SocketAddr;
use std::time::Duration;

use crate::comm::bootstrap::audience::Rendezvous;
use crate::comm::bootstrap::interfaces::Links;
use crate::comm::bootstrap::member::{self, Member};
use crate::comm::bootstrap::message::Naming;
use crate::comm::bootstrap::proof::Secret;
use crate::comm::bootstrap::root::Time;
use crate::comm::bootstrap::tree::Shape;
use crate::topology::Card;

pub(super) const BOUND: Duration = Duration::from_secs(120);

/// The address where nobody listens, and that of the root.
pub(super) fn addresses() -> Vec<SocketAddr> {
    vec!["10.9.9.9:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()]
}

/// What a rank is told.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) secret: Secret,
    pub(super) communicator: [u8; 16],
    pub(super) patient: bool,
    pub(super) bound: Duration,
}

pub(super) fn terms() -> Terms {
    Terms { secret: Secret([1; 32]), communicator: [2; 16], patient: false, bound: BOUND }
}

impl Terms {
    pub(super) fn settings(self, groups: u32) -> member::Settings {
        let Terms { secret, communicator, bound, .. } = self;
        let (naming, links) = (Naming::default(), Links::default());
        member::Settings { secret, communicator, groups, bound, naming, links }
    }

    /// Where those of `group` meet.
    fn place(self, groups: u32, group: u32) -> Rendezvous {
        let Terms { secret, communicator, patient, .. } = self;
        let mut addresses = addresses();
        addresses[1] = SocketAddr::from(([10, 0, 0, 1 + group as u8], 1));
        Rendezvous { secret, communicator, addresses, patient, groups, group }
    }

    pub(super) fn member(self, now: Time, card: Card, groups: u32) -> Member {
        let shape = Shape { ranks: card.ranks, groups };
        // A rank with a wrong number is the root's to refuse.
        let own = if card.rank < card.ranks { shape.group_of(card.rank) } else { 0 };
        let second = (own > 0 && shape.leads(card.rank)).then_some(0);
        let places = std::iter::once(own).chain(second).map(|group| self.place(groups, group)).collect();
        Member::new(now, self.settings(groups), card, places)
    }
}
