//! Batches of messages on all ranks, put into frames as the library does, proved right for every timing.

#[allow(dead_code, unreachable_pub)] // each test uses a part
mod common;

use common::corpus;
use common::dice::{Dice, mix};
use shoal::coalesce::{self, Limits, Message};
use shoal::schedule::check::{Post, check_messages};
use shoal::schedule::{Action, Plan};

/// Messages of random pairs, in an order of each rank's own that keeps that of each pair.
fn posts(dice: &mut Dice, ranks: usize) -> Vec<Vec<Post>> {
    let mut posts = vec![Vec::new(); ranks];
    for _ in 0..dice.below(80) {
        let (from, to) = (dice.below(ranks), dice.below(ranks));
        let bytes = if dice.chance(80) { dice.below(70) } else { dice.below(3000) };
        posts[from].push(Post { is_send: true, peer: to as u32, bytes });
        posts[to].push(Post { is_send: false, peer: from as u32, bytes });
    }
    posts
}

fn plan(posts: &[Post], rank: u32, limits: Limits) -> Plan {
    let message = |(post, buffer): (&Post, u32)| Message {
        is_send: post.is_send,
        peer: post.peer,
        bytes: post.bytes,
        buffer,
    };
    let messages: Vec<Message> = posts.iter().zip(0..).map(message).collect();
    coalesce::plan(&messages, rank, limits).expect("what a rank sends itself it receives")
}

#[test]
fn frames_are_proved_to_come_apart_in_order() {
    let mut frame_count = 0;
    for seed in corpus::plan("frames", 400, 20_000) {
        let mut dice = Dice::new(mix(seed, 0x6672616d6573));
        let ranks = dice.between(1, 9);
        let posts = posts(&mut dice, ranks);
        // Framing is the sender's choice alone: each rank has limits of its own.
        let plans: Vec<Plan> = (0..)
            .zip(&posts)
            .map(|(rank, posts)| {
                let message_bytes = dice.pick(&[0, 8, 64, 1024]);
                plan(posts, rank, Limits { message_bytes, frame_bytes: dice.pick(&[64, 300, 16384]) })
            })
            .collect();
        let is_frame = |step: &&shoal::schedule::Step| matches!(step.action, Action::SendFrame { .. });
        frame_count += plans.iter().flat_map(|plan| &plan.steps).filter(is_frame).count();
        if let Err(flaw) = check_messages(&posts, &plans) {
            panic!("seed {seed}: {flaw}");
        }
    }
    assert!(frame_count > 100, "{frame_count} frames only");
}
