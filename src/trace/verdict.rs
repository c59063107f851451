//! The verdict on a long wait: who is missing, and what each of them is doing instead. Pure: `engine::stall` and
//! `shoal doctor --job` gather what is known of every rank, here it becomes one sentence.
//!
//! # How it is found
//! Of a collective all ranks should have come: those that stand in it, or have gone past it, have; the others are
//! missing. Of anything else only those are looked at for whom somebody waits, from the rank that asks on: who waits
//! for others passes the question on to them. At the end of every chain stands a rank that waits for nobody, or the
//! chain bites its own tail; either is the cause, or the nearest to it that can be seen from here.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// How the process of a rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// As far as is known it runs.
    #[default]
    Runs,
    /// It is stopped: by a signal, or a debugger.
    Stopped,
    /// It is gone.
    Gone,
    /// It left the communicator.
    Left,
    /// It is on another host.
    Far,
}

/// What a rank does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// It waits in this communicator.
    Waits {
        /// The operation, in words.
        what: String,
        /// Whether it is the collective that is asked about.
        is_same: bool,
        /// For whom.
        waits_for: Vec<u32>,
        /// How long, if that is known.
        for_s: Option<u64>,
    },
    /// It waits in another communicator.
    WaitsElsewhere(String),
    /// It has done its part of the collective that is asked about.
    Passed,
    /// It is in no call of this communicator that waits.
    Away,
    /// Nothing is known of it.
    #[default]
    Unknown,
}

/// What is known of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Which rank.
    pub rank: u32,
    /// Its process, by its number here.
    pub process: Option<i32>,
    /// How that is.
    pub life: Life,
    /// What it does.
    pub doing: Doing,
    /// What it did last, in words, and how many tenths of a second ago.
    pub last: Option<(String, u64)>,
}

/// A wait, as the rank sees it that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Who waits.
    pub rank: u32,
    /// The operation, in words.
    pub what: String,
    /// Whether all ranks have to come.
    pub is_collective: bool,
    /// For how long it has waited.
    pub waited_s: u64,
    /// For whom.
    pub waits_for: Vec<u32>,
    /// All ranks, in their order; its own seat among them.
    pub seats: Vec<Seat>,
}

/// Of so many ranks is told what each does.
const TOLD_COUNT: usize = 8;

/// The sentence.
#[must_use]
pub fn tell(case: &Case) -> String {
    let Case { rank, what, waited_s, seats, .. } = case;
    let mut text = format!("rank {rank} of {} has waited {waited_s} s in {what}", seats.len());
    if case.waits_for.is_empty() {
        text += ", for earlier work of its streams";
        return text;
    }
    let missing = missing(case);
    if case.is_collective {
        let arrived = seats.iter().filter(|seat| seat.rank == *rank || has_arrived(seat));
        let _ = write!(text, "; arrived: {}", list(arrived.map(|seat| seat.rank)));
    }
    let told: Vec<String> = missing.iter().take(TOLD_COUNT).map(|seat| describe(seat)).collect();
    if !told.is_empty() {
        let _ = write!(
            text,
            "; {}: {}",
            if case.is_collective { "missing" } else { "it waits for" },
            told.join("; ")
        );
        if missing.len() > told.len() {
            let _ = write!(text, "; and {}", list(missing[told.len()..].iter().map(|seat| seat.rank)));
        }
    }
    match circle(case) {
        Some(circle) => {
            let ranks: Vec<String> = circle.iter().map(u32::to_string).collect();
            let _ = write!(text, "; they wait for one another in a circle: {}", ranks.join(" -> "));
        }
        None if told.is_empty() => text += "; nobody is missing: it is slow, or stuck on its way",
        None => {}
    }
    text
}

/// Whether the rank has come to the collective that is asked about, and can go on in it.
fn has_arrived(seat: &Seat) -> bool {
    let has_come = matches!(seat.doing, Doing::Passed | Doing::Waits { is_same: true, .. });
    has_come && !matches!(seat.life, Life::Stopped | Life::Gone)
}

/// Those of whom the verdict tells, in the order of the chains that lead to them.
fn missing(case: &Case) -> Vec<&Seat> {
    let is_missing = |seat: &&Seat| seat.rank != case.rank && !has_arrived(seat);
    let mut found: Vec<&Seat> = Vec::new();
    if case.is_collective {
        found.extend(case.seats.iter().filter(is_missing));
    } else {
        found.extend(case.waits_for.iter().filter_map(|rank| seat(case, *rank)).filter(is_missing));
    }
    // Whoever these wait for belongs to the answer.
    let mut place = 0;
    while let Some(Doing::Waits { waits_for, .. }) = found.get(place).map(|seat| &seat.doing) {
        for next in waits_for.iter().filter_map(|rank| seat(case, *rank)) {
            if next.rank != case.rank && !found.iter().any(|known| known.rank == next.rank) {
                found.push(next);
            }
        }
        place += 1;
        // Ranks that wait for nobody are skipped over, not stopped at.
        while found.get(place).is_some_and(|seat| !matches!(seat.doing, Doing::Waits { .. })) {
            place += 1;
        }
    }
    found
}

fn seat(case: &Case, rank: u32) -> Option<&Seat> {
    case.seats.get(rank as usize).filter(|seat| seat.rank == rank)
}

/// The shortest way from the rank that asks back to itself.
fn circle(case: &Case) -> Option<Vec<u32>> {
    let waits_for = |rank: u32| match seat(case, rank).map(|seat| &seat.doing) {
        _ if rank == case.rank => case.waits_for.as_slice(),
        Some(Doing::Waits { waits_for, .. }) => waits_for.as_slice(),
        _ => &[],
    };
    let mut from: Vec<Option<u32>> = vec![None; case.seats.len()];
    let mut front = vec![case.rank];
    let mut place = 0;
    while let Some(rank) = front.get(place).copied() {
        place += 1;
        for next in waits_for(rank).iter().copied().filter(|next| seat(case, *next).is_some()) {
            if next == case.rank {
                // Two ranks of a collective wait for each other while a third is missing: that is no circle.
                let mut way = vec![next, rank];
                while let Some(before) = from[*way.last()? as usize] {
                    way.push(before);
                }
                way.reverse();
                let is_all_arrived = way
                    .iter()
                    .filter_map(|rank| seat(case, *rank))
                    .all(|seat| seat.rank == case.rank || has_arrived(seat));
                return (!(case.is_collective && is_all_arrived)).then_some(way);
            }
            if from[next as usize].is_none() {
                from[next as usize] = Some(rank);
                front.push(next);
            }
        }
    }
    None
}

/// A rank, and what it does.
#[must_use]
pub fn describe(seat: &Seat) -> String {
    let mut text = format!("rank {}", seat.rank);
    if let Some(process) = seat.process.filter(|_| seat.life != Life::Gone) {
        let _ = write!(text, " (process {process})");
    }
    match seat.life {
        Life::Stopped => text += " is stopped, by a signal or a debugger",
        Life::Gone => text += " is gone: its process ended",
        Life::Left => text += " has left the communicator",
        Life::Runs | Life::Far => {}
    }
    let joint = if matches!(seat.life, Life::Runs | Life::Far) { "" } else { "," };
    match &seat.doing {
        Doing::Waits { what, waits_for, for_s, .. } => {
            let _ = write!(text, "{joint} waits");
            if let Some(seconds) = for_s {
                let _ = write!(text, " {seconds} s");
            }
            let _ = write!(text, " in {what}");
            if !waits_for.is_empty() {
                let _ = write!(text, " for {}", list(waits_for.iter().copied()));
            }
        }
        Doing::WaitsElsewhere(what) => {
            let _ = write!(text, "{joint} waits on another communicator, in {what}");
        }
        Doing::Passed => {
            let _ = write!(text, "{joint} has done its part");
        }
        Doing::Away if seat.life == Life::Runs => text += " waits in no call of this communicator",
        Doing::Unknown if seat.life == Life::Far => text += " is on another host and said nothing",
        Doing::Unknown if seat.life == Life::Runs => text += " said nothing",
        Doing::Away | Doing::Unknown => {}
    }
    match &seat.last {
        Some((last, tenths)) => {
            let _ = write!(text, "; its last was {last}, {}.{} s ago", tenths / 10, tenths % 10);
        }
        None if seat.doing == Doing::Away => text += "; it has done nothing here yet",
        None => {}
    }
    text
}

/// Ranks, in their order, runs of them as such.
#[must_use]
pub fn list(ranks: impl Iterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(rank) => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let words: Vec<String> = runs
        .iter()
        .map(|(first, last)| match last - first {
            0 => format!("{first}"),
            1 => format!("{first}, {last}"),
            _ => format!("{first} to {last}"),
        })
        .collect();
    let is_one = matches!(runs[..], [(first, last)] if first == last);
    match words.len() {
        0 => "nobody".into(),
        _ if is_one => format!("rank {}", words[0]),
        _ => format!("ranks {}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(rank: u32, is_same: bool, waits_for: &[u32]) -> Seat {
        let what = if is_same { "the sum" } else { "Recv of 8 bytes from rank 0" }.into();
        let doing = Doing::Waits { what, is_same, waits_for: waits_for.into(), for_s: Some(3) };
        Seat { rank, doing, ..Seat::default() }
    }

    fn away(rank: u32, life: Life) -> Seat {
        let last = Some(("Broadcast of 8 bytes".into(), 123));
        Seat { rank, process: Some(70), life, doing: Doing::Away, last }
    }

    fn case(is_collective: bool, waits_for: &[u32], others: Vec<Seat>) -> Case {
        let mut seats = vec![Seat { doing: Doing::Passed, ..Seat::default() }];
        seats.extend(others);
        Case {
            rank: 0,
            what: "the sum".into(),
            is_collective,
            waited_s: 10,
            waits_for: waits_for.into(),
            seats,
        }
    }

    #[test]
    fn who_is_missing_from_a_collective_is_named_with_what_it_does() {
        let text =
            tell(&case(true, &[1], vec![waits(1, true, &[2]), away(2, Life::Runs), waits(3, true, &[2])]));
        assert_eq!(
            text,
            "rank 0 of 4 has waited 10 s in the sum; arrived: ranks 0, 1, 3; missing: rank 2 (process 70) waits in \
             no call of this communicator; its last was Broadcast of 8 bytes, 12.3 s ago"
        );
    }

    #[test]
    fn who_is_stopped_or_gone_is_told_even_if_it_had_arrived() {
        let mut stopped = waits(1, true, &[0]);
        stopped.life = Life::Stopped;
        let text = tell(&case(true, &[1], vec![stopped]));
        assert!(text.contains("arrived: rank 0; missing: rank 1 is stopped, by a signal"), "{text}");
        let text = tell(&case(true, &[1], vec![away(1, Life::Gone)]));
        assert!(
            text.contains("missing: rank 1 is gone: its process ended; its last was Broadcast"),
            "{text}"
        );
    }

    #[test]
    fn chains_are_followed_to_their_end() {
        let seats = vec![waits(1, false, &[3]), away(2, Life::Runs), waits(3, false, &[2])];
        let text = tell(&case(false, &[1], seats));
        let places: Vec<_> =
            ["it waits for: rank 1 waits 3 s in Recv", "; rank 3 waits", "; rank 2 (process 70) waits in no"]
                .iter()
                .map(|words| text.find(words).unwrap_or_else(|| panic!("{words}: {text}")))
                .collect();
        assert!(places.is_sorted() && !text.contains("circle"), "{text}");
    }

    #[test]
    fn circles_are_shown() {
        let seats = vec![waits(1, false, &[2]), waits(2, false, &[0])];
        let text = tell(&case(false, &[1], seats));
        assert!(text.ends_with("in a circle: 0 -> 1 -> 2 -> 0"), "{text}");
        // All wait in the same collective, in which each waits for the next.
        let seats = vec![waits(1, true, &[2]), waits(2, true, &[0])];
        let text = tell(&case(true, &[1], seats));
        assert!(
            text.ends_with("arrived: ranks 0 to 2; nobody is missing: it is slow, or stuck on its way"),
            "{text}"
        );
    }

    #[test]
    fn who_waits_elsewhere_is_no_riddle() {
        let mut seat = away(1, Life::Runs);
        seat.doing = Doing::WaitsElsewhere("AllGather of 8 bytes, collective number 4".into());
        let text = tell(&case(true, &[1], vec![seat]));
        assert!(
            text.contains("rank 1 (process 70) waits on another communicator, in AllGather of 8 bytes"),
            "{text}"
        );
    }

    #[test]
    fn lists_are_short() {
        assert_eq!(list([3].into_iter()), "rank 3");
        assert_eq!(list([0, 1].into_iter()), "ranks 0, 1");
        assert_eq!(list([0, 1, 2, 7, 9, 10, 11].into_iter()), "ranks 0 to 2, 7, 9 to 11");
        assert_eq!(list([].into_iter()), "nobody");
        let many = tell(&case(true, &[1], (1..100).map(|rank| away(rank, Life::Runs)).collect()));
        assert!(many.ends_with("; and ranks 9 to 99"), "{many}");
        assert!(many.len() < 1500);
    }

    #[test]
    fn whatever_ranks_say_of_one_another_the_verdict_ends() {
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        for _ in 0..3000 {
            let ranks = 2 + next(7) as u32;
            let seats: Vec<Seat> = (1..ranks)
                .map(|rank| match next(4) {
                    0 => away(
                        rank,
                        [Life::Runs, Life::Stopped, Life::Gone, Life::Left, Life::Far][next(5) as usize],
                    ),
                    kind => {
                        let peers: Vec<u32> = (0..next(3)).map(|_| next(12) as u32).collect();
                        waits(rank, kind == 1, &peers)
                    }
                })
                .collect();
            let asked = [next(12) as u32, next(12) as u32];
            let text = tell(&case(next(2) == 0, &asked, seats));
            assert!(text.starts_with("rank 0 of") && text.len() < 3000, "{text}");
        }
    }
}
