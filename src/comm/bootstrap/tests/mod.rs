//! The exchange as a whole: simulated with virtual time, and over real sockets.

mod hostile;
mod hosts;
mod kin;
mod lives;
mod processes;
mod simulation;
mod sockets;
mod terms;
mod world;

use super::id::Speaker;
use super::message::Message;
use crate::topology::{Card, DeviceKind};

/// Numbers that look random and are the same every time.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.below(256) as u8)
    }
}

/// How many of something a test does: `usual`, or `full` where the whole campaign is asked for.
pub(crate) fn campaign(usual: usize, full: usize) -> usize {
    let asked = crate::config::told_by_launcher("SHOAL_TEST_CAMPAIGN");
    if asked.is_some_and(|text| text == "full") { full } else { usual }
}

pub(crate) fn sample_card(rank: u32, ranks: u32) -> Card {
    Card {
        rank,
        ranks,
        library_version: Speaker::own().library,
        boot_id: "b007".into(),
        host_name: "host".into(),
        host_setting: "blue".into(),
        process: 100 + rank,
        process_namespace: 5,
        network_namespace: 6,
        user: 7,
        cores: 8,
        processors: "0-7".into(),
        device: DeviceKind::Host,
        token: [rank as u8; 16],
        listeners: vec!["10.0.0.1:1".parse().unwrap(), "[fe80::1%3]:2".parse().unwrap()],
        payload: rank.to_le_bytes().to_vec(),
    }
}

/// The first words of a rank.
pub(crate) fn hello(communicator: [u8; 16], nonce: [u8; 32]) -> Message {
    Message::Hello { speaker: Speaker::own(), communicator, early: false, nonce }
}
