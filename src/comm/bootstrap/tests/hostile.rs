//! Spoiled frames, and those who know the secret and say what makes no sense: whatever happens, nobody panics,
//! and all have a result when the time is over.

use std::time::Duration;

use super::terms::{BOUND, terms};
use super::world::World;
use super::{Random, campaign, hello, sample_card};
use crate::comm::bootstrap::guests::Guests;
use crate::comm::bootstrap::id::Speaker;
use crate::comm::bootstrap::member;
use crate::comm::bootstrap::message::Message;
use crate::comm::bootstrap::message::tests::samples;
use crate::comm::bootstrap::proof::{Handshake, Secret, Side};
use crate::comm::bootstrap::root::{self, Root, Time};

/// The frame with a fault: bits turned over, an end cut off, sent twice, or another message in its place.
pub(super) fn spoil(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    match random.below(5) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => bytes.extend_from_slice(frame),
        2 => {
            let samples = samples();
            bytes = samples[random.below(samples.len())].encode().to_vec();
        }
        // The length stays as it was, so that what is inside is looked at.
        3 => {
            let at = 4.min(bytes.len() - 1) + random.below(bytes.len().saturating_sub(4));
            bytes[at] = random.below(256) as u8;
        }
        _ => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
    }
    bytes
}

/// The frame as a rank of that version would say it, if it is one that every version understands.
pub(super) fn speaking(speaker: Speaker, frame: &[u8]) -> Vec<u8> {
    match Message::decode(&frame[4..]) {
        Ok(Message::Hello { communicator, early, nonce, .. }) => {
            Message::Hello { speaker, communicator, early, nonce }.encode().to_vec()
        }
        Ok(Message::Challenge { .. } | Message::Proof { .. }) => frame.to_vec(),
        _ => vec![3, 0, 0, 0, 200, 1, 2],
    }
}

#[test]
fn births_end_however_the_network_spoils_frames() {
    let (mut met_count, mut failed_count) = (0, 0);
    for seed in 0..campaign(150, 20_000) as u64 {
        let mut random = Random(seed);
        let ranks = 2 + random.below(12) as u32;
        let all: Vec<u32> = (0..ranks).collect();
        let mut world = match seed % 3 {
            0 => World::with_kin(seed, ranks, &all, 2),
            _ => World::with_ranks(seed, ranks, 2),
        };
        world.noise = [5, 40, 300][random.below(3)];
        world.run();
        for (index, node) in world.nodes.iter().enumerate() {
            match node.result {
                Some(Ok(())) => met_count += 1,
                Some(Err(_)) => failed_count += 1,
                None => panic!("seed {seed}: node {index} has no result"),
            }
        }
        // Three steps, each within its bound.
        assert!(world.settled < 4 * BOUND + Duration::from_secs(20), "{:?}", world.settled);
    }
    assert!(met_count > 0 && failed_count > 0);
}

#[test]
fn proven_members_may_say_anything_to_the_root() {
    let (secret, communicator) = (Secret([1; 32]), [2; 16]);
    let samples = samples();
    for seed in 0..campaign(3000, 200_000) as u64 {
        let mut random = Random(seed);
        let mut root = Root::new(root::Settings { secret, communicator, by_hand: seed % 2 == 0 });
        let mut now = Time::ZERO;
        for connection in 0..3 {
            root.handle_connected(now, connection, [connection as u8; 32]);
            let hello = hello(communicator, [9; 32]);
            root.handle_input(now, connection, &hello.encode());
            let handshake =
                Handshake { communicator, member_nonce: [9; 32], root_nonce: [connection as u8; 32] };
            let proof = handshake.proof(&secret, Side::Member);
            root.handle_input(now, connection, &Message::Proof { proof }.encode());
            let card = sample_card(random.below(3) as u32, 3);
            root.handle_input(
                now,
                connection,
                &Message::Card { bound_ms: 500, groups: 1, group: 0, card }.encode(),
            );
        }
        for _ in 0..random.below(12) {
            let message = samples[random.below(samples.len())].encode();
            let bytes = if random.below(2) == 0 { message.to_vec() } else { spoil(&mut random, &message) };
            root.handle_input(now, random.below(3) as u64, &bytes);
            now += Duration::from_millis(random.below(300) as u64);
            root.handle_timeout(now);
        }
        for connection in 0..3 {
            root.handle_closed(connection);
        }
        while root.poll_transmit().is_some() || root.poll_event().is_some() {}
    }
}

#[test]
fn members_survive_any_bytes() {
    let mut random = Random(12);
    let samples = samples();
    for _ in 0..campaign(3000, 200_000) {
        let mut member = terms().member(Time::ZERO, sample_card(0, 2), 1);
        member.handle_timeout(Time::ZERO);
        member.handle_connected(0, random.bytes());
        for _ in 0..4 {
            let message = samples[random.below(samples.len())].encode();
            member.handle_input(Time::ZERO, 0, &spoil(&mut random, &message));
        }
        assert!(!matches!(member.poll_event(), Some(member::Event::Joined(_))));
    }
}

#[test]
fn guests_prove_themselves_or_go() {
    let mut random = Random(14);
    let samples = samples();
    let mut guests = Guests::new(Secret([1; 32]), [2; 16]);
    for id in 0..campaign(5000, 200_000) as u64 {
        guests.handle_arrival(Time::ZERO, id, random.bytes());
        for _ in 0..4 {
            let message = samples[random.below(samples.len())].encode();
            assert!(guests.handle_input(id, &spoil(&mut random, &message)).is_none());
        }
        guests.handle_timeout(Time::from_secs(60));
        assert!(!guests.holds(id));
    }
}
