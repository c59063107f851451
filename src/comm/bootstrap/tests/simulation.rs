//! The two state machines against one another: any order, lost ranks, duplicates, garbage.

use std::time::Duration;

use super::terms::{BOUND, Terms, terms};
use super::world::{EVENTS_MAX, Node, World};
use super::{Random, campaign, hello, sample_card};
use crate::comm::bootstrap::id::Speaker;
use crate::comm::bootstrap::member;
use crate::comm::bootstrap::message::Message;
use crate::comm::bootstrap::proof::Secret;
use crate::comm::bootstrap::root::Root;
use crate::error::Error;
use crate::topology::{Card, DeviceKind};

#[test]
fn all_counts_meet_in_any_order() {
    for ranks in (2..=16).chain([31, 64]) {
        for seed in 0..6 {
            let mut world = World::with_ranks(seed * 1000 + u64::from(ranks), ranks, 3);
            world.run();
            world.assert_all_met();
            assert!(world.root.is_finished());
            assert!(world.settled < Duration::from_secs(3), "{:?}", world.settled);
        }
    }
}

#[test]
fn a_thousand_ranks_meet() {
    let mut world = World::new(1);
    for rank in 0..1024 {
        world.add(terms(), Card { processors: String::new(), ..sample_card(rank, 1024) }, 0);
    }
    meet_and_forget(&mut world, 1024);
}

#[test]
fn a_thousand_ranks_meet_again() {
    let all: Vec<u32> = (0..1024).collect();
    let mut world = World::with_kin(2, 1024, &all, 0);
    world.root_listens = false;
    meet_and_forget(&mut world, 1024);
}

fn meet_and_forget(world: &mut World, ranks: usize) {
    // Its table is dropped from memory as soon as it has it.
    for _ in 0..EVENTS_MAX {
        let seen = world.event_count;
        world.run_until(|world| world.event_count >= seen + 64);
        for node in &mut world.nodes {
            if let Some(cards) = node.joined.as_mut().filter(|cards| !cards.is_empty()) {
                assert_eq!(cards.len(), ranks);
                *cards = Vec::new();
            }
        }
        if world.event_count == seen {
            break;
        }
    }
    assert!(world.nodes.iter().all(|node| node.result == Some(Ok(()))));
}

#[test]
fn who_is_missing_is_named_to_all_and_to_those_who_come_late() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for rank in [0, 1, 2, 4] {
            world.add(terms(), sample_card(rank, 8), 1);
        }
        world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
        assert!(world.now >= BOUND && world.now < BOUND + Duration::from_secs(3), "{:?}", world.now);
        for node in 0..4 {
            let Error::Timeout(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
            assert!(text.starts_with("ranks 3, 5-7 of 8 did not come within 120 s"), "{text}");
        }
        assert!(!world.root.is_finished());
        for rank in [3, 5, 6, 7] {
            world.add(terms(), sample_card(rank, 8), 1);
        }
        world.run();
        for node in 4..8 {
            assert!(world.error(node).to_string().starts_with("ranks 3, 5-7"), "{}", world.error(node));
        }
        // All eight know; there is nobody left to wait for.
        assert!(world.root.is_finished());
    }
}

#[test]
fn a_rank_that_goes_before_the_others_came_is_named_at_once() {
    let mut world = World::new(3);
    for rank in 0..3 {
        world.add(terms(), sample_card(rank, 4), 0);
    }
    world.run_until(|world| world.now > Duration::from_secs(2));
    world.nodes[1].member.fail("no memory");
    world.obey_node(1);
    world.run_until(|world| world.now > Duration::from_secs(3));
    for node in [0, 2] {
        let Error::Remote(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
        assert_eq!(text, "rank 1 (process 101 on host): no memory");
    }
}

#[test]
fn a_rank_that_dies_between_steps_is_named() {
    for seed in 0..20 {
        let mut world = World::with_ranks(seed, 7, 2);
        world.nodes[5].dies_after_joining = true;
        world.run();
        for node in (0..7).filter(|node| *node != 5) {
            let text = world.error(node).to_string();
            assert!(text.starts_with("rank 5 (process 105 on host) went away"), "{text}");
            assert!(world.nodes[node].gathered.is_empty());
        }
        assert!(world.root.is_finished());
    }
}

#[test]
fn a_rank_that_does_not_take_a_step_is_named() {
    let mut world = World::with_ranks(4, 5, 1);
    world.nodes[2].stalls = true;
    world.run();
    for node in [0, 1, 3, 4] {
        let Error::Timeout(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
        assert!(text.starts_with("rank 2 of 5 did not come to step 0 of the birth within 120 s"), "{text}");
    }
    assert!(world.settled < BOUND + Duration::from_secs(3));
    // It hears of it when it comes at last.
    let now = world.now;
    world.nodes[2].member.contribute(now, b"late");
    world.obey_node(2);
    assert!(world.error(2).to_string().starts_with("rank 2 of 5 did not come"));
}

#[test]
fn ranks_that_were_started_differently_all_see_both() {
    type Change = fn(&mut Card);
    let changes: [(Change, &str, &str); 5] = [
        (|card| card.ranks = 4, "one of 3 ranks", "one of 4"),
        (|card| card.rank = 0, "both rank 0 (process 100 on host)", "rank 0 (process 101 on host)"),
        (|card| card.library_version = 20_000, "version 2.0.0", "load the same"),
        (|card| card.device = DeviceKind::Cuda, "cuda", "host"),
        (|card| card.ranks = 7, "one of 3 ranks", "one of 7"),
    ];
    for (change, one, other) in changes {
        for seed in 0..10 {
            let mut world = World::new(seed);
            for rank in 0..3 {
                let mut card = sample_card(rank, 3);
                if rank == 1 {
                    change(&mut card);
                }
                world.add(terms(), card, 1);
            }
            world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
            for node in 0..3 {
                let Error::Mismatch(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
                assert!(text.contains(one) || text.contains(other), "{text}");
            }
            assert!(world.now < Duration::from_secs(3));
        }
    }
}

/// One that speaks another protocol proves that it knows the secret, and then all hear which versions met.
#[test]
fn ranks_of_other_protocols_are_told_to_all() {
    for (seed, by_hand) in (0..40).map(|seed| (seed, seed % 4 == 0)) {
        let mut world = if by_hand { World::by_hand(seed) } else { World::new(seed) };
        let foreign: Vec<u32> = if seed % 2 == 0 { vec![2] } else { vec![1, 3] };
        for rank in 0..4 {
            world.add(terms(), sample_card(rank, 4), 1);
            if foreign.contains(&rank) {
                world.nodes[rank as usize].speaker = Some(Speaker { protocol: 99, library: 70_000 });
            }
        }
        world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
        for node in 0..4 {
            let Error::Mismatch(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
            let own = Speaker::own().to_string();
            assert!(
                text.contains("version 7.0.0 of the library (protocol 99)") && text.contains(&own),
                "{text}"
            );
        }
        assert!(world.settled < Duration::from_secs(6), "{:?}", world.settled);
        world.run();
        assert!(world.root.is_finished());
    }
    // Who does not know the secret is turned away, whatever it speaks.
    let mut world = World::with_ranks(1, 3, 1);
    world.add(Terms { secret: Secret([9; 32]), bound: BOUND / 10, ..terms() }, sample_card(2, 3), 0);
    world.nodes[3].speaker = Some(Speaker { protocol: 99, library: 70_000 });
    world.run_until(|world| world.nodes.iter().all(|node| node.result.is_some()));
    assert!(
        world.nodes[..3].iter().all(|node| node.result == Some(Ok(())))
            && world.nodes[3].result != Some(Ok(()))
    );
}

#[test]
fn births_at_one_address_do_not_mix() {
    for seed in 0..20 {
        let mut world = World::by_hand(seed);
        for rank in [0, 1, 1, 2, 2] {
            world.add(Terms { patient: true, ..terms() }, sample_card(rank, 3), 1);
        }
        world.run();
        let met: Vec<&Node> = world.nodes.iter().filter(|node| node.result == Some(Ok(()))).collect();
        assert_eq!(met.len(), 3);
        for (node, rank) in world.nodes.iter().zip([0, 1, 1, 2, 2]) {
            match &node.result {
                Some(Ok(())) => {
                    let cards = node.joined.as_ref().unwrap();
                    assert!(cards.iter().zip(0..).all(|(card, rank)| card.rank == rank));
                    // The same set on all of them.
                    assert_eq!(node.joined, met[0].joined);
                }
                // Its birth never came.
                Some(Err(Error::Timeout(text))) => {
                    assert!(rank > 0 && text.contains("could not reach"), "{text}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // Whoever is missing is named together with who came twice.
    let mut world = World::by_hand(3);
    for rank in [0, 1, 1] {
        world.add(Terms { patient: true, ..terms() }, sample_card(rank, 3), 1);
    }
    world.run();
    let text = world.error(0).to_string();
    assert!(
        text.starts_with("rank 2 of 3 did not come") && text.contains("while the birth of rank 1"),
        "{text}"
    );
}

#[test]
fn strangers_disturb_nobody() {
    for seed in 0..30 {
        let mut world = World::with_ranks(seed, 8, 2);
        let mut random = Random(seed + 77);
        let mut strangers = 0;
        for turn in 1..6_u32 {
            world.run_until(|world| world.now > Duration::from_millis(u64::from(turn) * 100));
            for kind in 0..5 {
                let connection = world.stranger();
                strangers += 1;
                let garbage: Vec<u8> = (0..random.below(400)).map(|_| random.below(256) as u8).collect();
                let hello = hello([2; 16], random.bytes()).encode();
                let bytes = match kind {
                    0 => garbage,
                    1 => u32::MAX.to_le_bytes().to_vec(),
                    2 => [&hello[..], &Message::Proof { proof: random.bytes() }.encode()[..]].concat(),
                    3 => Message::Card { bound_ms: 1, groups: 1, group: 0, card: sample_card(0, 1) }
                        .encode()
                        .to_vec(),
                    // Half a hello, and then nothing.
                    _ => hello[..20].to_vec(),
                };
                world.root.handle_input(world.now, connection, &bytes);
            }
        }
        world.run();
        world.assert_all_met();
        assert!(world.root.is_finished());
        assert_eq!(world.root.refused(), strangers);
    }
}

#[test]
fn the_wrong_secret_the_wrong_communicator_and_the_wrong_place_end_by_the_bound() {
    for (change, expected) in [
        ((|terms| terms.secret = Secret([9; 32])) as fn(&mut Terms), "does not know the secret"),
        (|terms| terms.communicator = [9; 16], "another communicator meets"),
    ] {
        let mut world = World::new(8);
        let mut own = Terms { bound: Duration::from_secs(3), ..terms() };
        change(&mut own);
        world.add(own, sample_card(1, 2), 0);
        world.run();
        let text = world.error(0).to_string();
        assert!(text.contains(expected) && text.contains("10.9.9.9:1: nobody listens"), "{text}");
        assert!(world.settled < Duration::from_secs(10));
    }
}

#[test]
fn nobody_listening_is_believed_soon_unless_the_root_may_come_later() {
    let mut world = World::new(9);
    world.root_listens = false;
    world.add(terms(), sample_card(1, 2), 0);
    world.run();
    assert!(matches!(world.error(0), Error::Remote(text) if text.contains("nobody listens")));
    assert!(world.settled < Duration::from_secs(6), "{:?}", world.settled);

    let mut world = World::new(10);
    world.root_starts = Duration::from_secs(60);
    for rank in 0..3 {
        world.add(Terms { patient: true, ..terms() }, sample_card(rank, 3), 1);
    }
    world.run();
    world.assert_all_met();
}

#[test]
fn a_silent_root_is_noticed() {
    let mut world = World::new(11);
    world.add(terms(), sample_card(0, 2), 0);
    world.run_until(|world| world.now > Duration::from_millis(1900));
    // From here on nothing that the root says arrives.
    let mut now = world.now;
    while let Some(due) = world.nodes[0].member.poll_timeout() {
        now = now.max(due);
        world.nodes[0].member.handle_timeout(now);
    }
    let failed = std::iter::from_fn(|| world.nodes[0].member.poll_event())
        .find_map(|event| if let member::Event::Failed(error) = event { Some(error) } else { None });
    assert!(matches!(failed, Some(Error::Remote(text)) if text.contains("silent")));
    assert!(now < Duration::from_secs(40));
}

#[test]
fn any_members_meet_again() {
    for ranks in (2..=18).chain([40, 64]) {
        for seed in 0..4 {
            let all: Vec<u32> = (0..ranks).collect();
            let mut world = World::with_kin(seed * 500 + u64::from(ranks), ranks, &all, 3);
            world.run();
            world.assert_all_met();
        }
    }
}

/// Who is missing is named by every one that can know; nobody waits longer than the bound.
#[test]
fn whoever_does_not_meet_again_is_named() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let ranks = 2 + random.below(40) as u32;
        let present: Vec<u32> = (0..ranks).filter(|_| random.below(8) > 0).collect();
        let mut world = World::with_kin(seed, ranks, &present, 1);
        world.run();
        let missing = ranks as usize - present.len();
        for rank in present {
            if missing == 0 {
                assert_eq!(world.nodes[rank as usize].result, Some(Ok(())));
                continue;
            }
            // Who stands under a dead rank finds nobody there; the others wait to the end.
            assert!(matches!(world.error(rank as usize), Error::Timeout(_) | Error::Remote(_)));
        }
        assert!(world.settled < BOUND + Duration::from_secs(3), "{:?}", world.settled);
    }
}

#[test]
fn stalled_ranks_are_named_wherever_they_stand() {
    for seed in 0..40 {
        let mut random = Random(seed + 5);
        let ranks = 3 + random.below(60) as u32;
        let mut world = World::with_ranks(seed, ranks, 1);
        let stalled = random.below(ranks as usize);
        world.nodes[stalled].stalls = true;
        world.run();
        for node in (0..ranks as usize).filter(|node| *node != stalled) {
            let Error::Timeout(text) = world.error(node) else { panic!("{:?}", world.error(node)) };
            assert!(text.starts_with(&format!("rank {stalled} of {ranks} did not come to step 0")), "{text}");
        }
    }
}

/// Lost or given up at any moment of a birth: nobody hangs, and whoever does not finish says why.
#[test]
fn ranks_are_lost_at_every_moment() {
    let mut hit_count = 0;
    for (ranks, kin) in [(3, false), (9, false), (9, true), (22, false)] {
        let all: Vec<u32> = (0..ranks).collect();
        let world_of = |seed| {
            if kin { World::with_kin(seed, ranks, &all, 2) } else { World::with_ranks(seed, ranks, 2) }
        };
        let mut whole = world_of(7);
        whole.run();
        whole.assert_all_met();
        let moments = whole.event_count;
        for moment in (0..moments).step_by(1 + moments as usize / campaign(120, 6000)) {
            for aborts in [false, true] {
                let mut world = world_of(7);
                world.run_until(|world| world.event_count >= moment);
                let lost = Random(moment).below(ranks as usize);
                if world.nodes[lost].result.is_some() {
                    continue;
                }
                if aborts {
                    world.give_up(lost);
                } else {
                    world.kill(lost);
                }
                let when = world.now;
                world.run();
                for node in (0..ranks as usize).filter(|node| *node != lost) {
                    match &world.nodes[node].result {
                        Some(Ok(())) => {}
                        Some(Err(Error::Remote(text) | Error::Timeout(text))) => {
                            assert!(
                                text.contains(&format!("rank {lost} ")),
                                "{ranks} {kin} {moment} {aborts} {lost} {node}: {text}"
                            );
                            hit_count += 1;
                        }
                        other => panic!("{other:?} of {node} when {lost} was lost at {when:?}"),
                    }
                }
                assert!(world.settled <= when + BOUND + Duration::from_secs(10));
            }
        }
    }
    assert!(hit_count > 1000);
}

/// What a star would send is computed; what the tree sends is counted.
#[test]
fn nobody_handles_more_than_its_share() {
    for ranks in [16_u32, 64, 256] {
        let mut world = World::with_ranks(1, ranks, 0);
        world.run();
        world.assert_all_met();
        let card_bytes = 4 + crate::comm::bootstrap::message::card_bytes(&sample_card(0, ranks)).len() as u64;
        let (n, log) = (u64::from(ranks), u64::from(ranks.ilog2()));
        let star = n * n * card_bytes;
        let most = world.nodes.iter().map(|node| node.sent.bytes).max().unwrap_or_default();
        let wires = world.nodes.iter().map(|node| node.wires).max().unwrap_or_default() as u64;
        println!(
            "{ranks} ranks: root sends {} frames, {} bytes (a star {star}); a rank at most {most} bytes, {wires} wires",
            world.root_sent.frames, world.root_sent.bytes
        );
        assert!(world.root_sent.frames <= 4 * n && world.root_sent.bytes <= 6 * n * (card_bytes + 200));
        assert!(most <= 3 * log * n * card_bytes && wires <= 4 + 3 * log / 2 + 3);
        assert!(ranks < 64 || most + world.root_sent.bytes < star / 2);
    }
}

#[test]
fn ranks_meet_by_several_ids() {
    for ranks in [2_u32, 3, 7, 16, 33, 64] {
        for groups in [2, 3, 5, 16, ranks] {
            if groups <= ranks {
                let mut world = World::with_ids(u64::from(ranks * 100 + groups), ranks, groups, 2);
                world.run();
                world.assert_all_met();
                assert!(world.root.is_finished() && world.others.iter().all(Root::is_finished));
            }
        }
    }
}

/// Lost at any moment: the roots and the leaders tell each other.
#[test]
fn whoever_is_lost_among_several_ids_is_named_to_all() {
    for seed in 0..campaign(150, 5000) as u64 {
        let mut random = Random(seed);
        let ranks = 4 + random.below(20) as u32;
        let groups = 2 + random.below(3) as u32;
        let mut world = World::with_ids(seed, ranks, groups, 1);
        let moment = random.below(60 * ranks as usize) as u64;
        world.run_until(|world| world.event_count >= moment);
        let lost = random.below(ranks as usize);
        if world.nodes[lost].result.is_some() {
            continue;
        }
        world.kill(lost);
        let when = world.now;
        world.run();
        for node in (0..ranks as usize).filter(|node| *node != lost) {
            match &world.nodes[node].result {
                Some(Ok(())) => {}
                Some(Err(Error::Remote(text) | Error::Timeout(text))) => {
                    // A leader that hears of it before it reached both roots is itself named by the other.
                    let named = text.contains(&format!("rank {lost} ")) || text.contains("did not come");
                    assert!(named, "{seed}: {lost} was lost, {node} says {text}");
                }
                other => panic!("{seed}: {other:?}"),
            }
        }
        assert!(world.settled <= when + BOUND + Duration::from_secs(10));
    }
}
