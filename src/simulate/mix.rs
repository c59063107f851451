//! Lists of calls as training jobs make them, and what they take all together.
//!
//! ```text
//! CALLS OPERATION RANKS STRIDE BYTES[+BYTES...]     a line; a hash begins a remark
//! ```
//! *Operation*: a collective in small letters; or `send`, a group of messages from one rank to the next of the group;
//! or `exchange`, in which everyone sends everyone such messages. *Stride*: how far apart the ranks of the group are;
//! with tensor parallelism of 8, groups of data parallelism have every eighth rank. *Bytes*: of the vector for
//! allreduce, reduce and broadcast, of all blocks together for other collectives, of each message otherwise.
//!
//! The order of the calls is not kept: each is simulated by itself.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::regions::{self, race};
use super::{Folding, Machine, Refusal, batches};
use crate::coalesce::{Limits, Message};
use crate::op::Kind;
use crate::schedule::{Algorithm, Call};

/// The lists that come with the command: a name, what it is, the list.
pub const MIXES: [(&str, &str, &str); 7] = [
    ("gpt13b-tp8", "GPT 13B, tensor parallel 8, 128 ranks, a step", include_str!("mixes/gpt13b-tp8.txt")),
    ("gpt13b-tp8-sp", "the same with sequence parallelism", include_str!("mixes/gpt13b-tp8-sp.txt")),
    ("llama7b-zero2", "Llama 7B, ZeRO-2, 128 ranks", include_str!("mixes/llama7b-zero2.txt")),
    ("llama7b-zero3", "Llama 7B, ZeRO-3, 128 ranks", include_str!("mixes/llama7b-zero3.txt")),
    ("llama7b-tp2", "Llama 7B, tensor parallel 2, 128 ranks", include_str!("mixes/llama7b-tp2.txt")),
    (
        "gpt13b-pipeline",
        "the stage boundaries of GPT 13B in 4 stages",
        include_str!("mixes/gpt13b-pipeline.txt"),
    ),
    ("moe-decode", "experts on 64 ranks, one token each", include_str!("mixes/moe-decode.txt")),
];

/// What a line calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A collective of so many bytes.
    Collective(Kind, u64),
    /// A group of messages from a rank to the next.
    Send(Vec<u64>),
    /// A group of messages from everyone to everyone.
    Exchange(Vec<u64>),
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// How many times.
    pub calls: u64,
    /// What.
    pub what: What,
    /// By how many ranks.
    pub ranks: u32,
    /// How far apart.
    pub stride: u32,
}

/// Reads a list.
///
/// # Errors
/// The line, what stands there, and what was expected.
pub fn read(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if !words.is_empty() {
            lines.push(read_line(&words).map_err(|error| format!("line {number}: {error}"))?);
        }
    }
    if lines.is_empty() {
        return Err("holds no calls".into());
    }
    Ok(lines)
}

fn read_line(words: &[&str]) -> Result<Line, String> {
    let &[calls, operation, ranks, stride, bytes] = words else {
        return Err(format!("expected CALLS OPERATION RANKS STRIDE BYTES, not {:?}", words.join(" ")));
    };
    let number = |name: &str, text: &str, most: u64| {
        let number = text.parse::<u64>().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| format!("{name} is {text:?}, expected a whole number from 1 to {most}"))
    };
    let most_ranks = 1 << 20;
    let sizes = bytes.split('+').map(|size| number("BYTES", size, 1 << 40));
    let sizes = sizes.collect::<Result<Vec<u64>, String>>()?;
    let what = match operation {
        "send" => What::Send(sizes),
        "exchange" => What::Exchange(sizes),
        _ => What::Collective(kind(operation)?, *sizes.first().unwrap_or(&0)),
    };
    let is_one = !bytes.contains('+');
    if !is_one && matches!(what, What::Collective(..)) {
        return Err(format!("BYTES is {bytes:?}, but {operation} is one call: expected one number"));
    }
    Ok(Line {
        calls: number("CALLS", calls, 1 << 40)?,
        what,
        ranks: number("RANKS", ranks, most_ranks)? as u32,
        stride: number("STRIDE", stride, most_ranks)? as u32,
    })
}

/// The collective of that name, in letters of either case.
///
/// # Errors
/// What was expected.
pub fn kind(name: &str) -> Result<Kind, String> {
    let collectives = || Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point());
    collectives().find(|kind| kind.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<String> = collectives().map(|kind| kind.name().to_lowercase()).collect();
        format!("{name:?} is no operation: expected one of {}", known.join(", "))
    })
}

/// The machine as ranks see it of which only every so many belong to a group, while all others do the same.
#[must_use]
pub fn spread(machine: &Machine, stride: u32) -> Machine {
    if stride <= 1 || machine.ranks_per_host == 0 {
        return machine.clone();
    }
    let near = stride.min(machine.ranks_per_host);
    Machine {
        ranks_per_host: (machine.ranks_per_host / near).max(1),
        rails: (machine.rails / near).max(1),
        // Groups that skip whole hosts find fewer of theirs in an island.
        hosts_per_island: match machine.hosts_per_island {
            0 => 0,
            hosts => (hosts / (stride / near).max(1)).max(1),
        },
        ..machine.clone()
    }
}

/// What a list takes, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// By the choice that `choose` makes.
    pub chosen_ns: f64,
    /// By the fastest for each call.
    pub fastest_ns: f64,
    /// By one algorithm wherever it has a form, else by the choice; and whether parts are bounds only.
    pub alone: Vec<(Algorithm, f64, bool)>,
    /// The groups of messages among these, each message a packet of its own.
    pub messages_apart_ns: f64,
    /// The same in frames, as far as `limits` let them.
    pub messages_together_ns: f64,
    /// How many calls, and how many groups of messages among them.
    pub calls: u64,
    /// How many groups of messages.
    pub groups: u64,
}

/// How many times slower than the fastest a candidate may surely be and still be simulated.
const MARGIN: f64 = 2.0;

/// What the calls of a list take one after the other, by algorithm.
///
/// # Errors
/// The line that cannot be simulated, and why.
pub fn total(
    machine: &Machine,
    lines: &[Line],
    choose: &dyn Fn(&Machine, &Call) -> Algorithm,
    limits: Limits,
) -> Result<Total, String> {
    let mut total = Total::default();
    let mut alone: HashMap<Algorithm, (f64, bool)> =
        Algorithm::ALL.into_iter().map(|algorithm| (algorithm, (0.0, false))).collect();
    for line in lines {
        let machine = spread(machine, line.stride);
        let calls = line.calls as f64;
        total.calls += line.calls;
        let (sizes, everyone) = match &line.what {
            What::Collective(kind, bytes) => {
                let call = regions::call(*kind, line.ranks, (*bytes).max(4 * u64::from(line.ranks)));
                let call = call.ok_or_else(|| format!("{line:?} names no call"))?;
                let chosen = choose(&machine, &call);
                let entries = race(&machine, &call, Some(chosen), &Folding::WherePossible, MARGIN);
                let of = |algorithm| entries.iter().find(|entry| entry.algorithm == algorithm);
                let (Some(usual), Some(first)) = (of(chosen), entries.first()) else {
                    return Err(format!("{line:?} has no algorithm"));
                };
                total.chosen_ns += calls * usual.time_ns();
                total.fastest_ns += calls * first.time_ns();
                for (algorithm, (sum, is_bound)) in &mut alone {
                    let entry = of(*algorithm).unwrap_or(usual);
                    *sum += calls * entry.time_ns();
                    *is_bound |= !entry.is_simulated();
                }
                continue;
            }
            What::Send(sizes) => (sizes, false),
            What::Exchange(sizes) => (sizes, true),
        };
        let apart = Limits { message_bytes: 0, ..limits };
        let times = [limits, apart].map(|limits| group_ns(&machine, line.ranks, sizes, everyone, limits));
        let [together, apart] = times;
        let explain = |refusal: Refusal| format!("{line:?}: {refusal}");
        let (together, apart) = (together.map_err(explain)? * calls, apart.map_err(explain)? * calls);
        total.groups += line.calls;
        total.messages_together_ns += together;
        total.messages_apart_ns += apart;
        total.chosen_ns += together;
        total.fastest_ns += together;
        alone.values_mut().for_each(|(sum, _)| *sum += together);
    }
    total.alone = alone.into_iter().map(|(algorithm, (sum, bound))| (algorithm, sum, bound)).collect();
    total.alone.sort_by(|one, other| one.1.total_cmp(&other.1));
    Ok(total)
}

/// How many groups in a row are simulated for one.
const GROUPS: u32 = 8;

fn group_ns(
    machine: &Machine,
    ranks: u32,
    sizes: &[u64],
    everyone: bool,
    limits: Limits,
) -> Result<f64, Refusal> {
    let list = |rank: u32| {
        let mut messages = Vec::new();
        for (is_send, peer) in
            [true, false].into_iter().flat_map(|way| (0..ranks).map(move |peer| (way, peer)))
        {
            let is_theirs = if is_send { (rank, peer) } else { (peer, rank) } == (0, 1);
            if peer != rank && (everyone || is_theirs) {
                for &bytes in sizes {
                    let buffer = messages.len() as u32;
                    messages.push(Message { is_send, peer, bytes: bytes as usize, buffer });
                }
            }
        }
        messages
    };
    batches(machine, ranks, &list, limits, GROUPS).map(|outcome| outcome.time_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_that_comes_along_can_be_read() {
        for (name, _, text) in MIXES {
            let lines = read(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(lines.iter().all(|line| line.calls > 0), "{name}");
        }
    }

    #[test]
    fn errors_name_the_line_and_what_was_expected() {
        for (text, words) in [
            ("# nothing", "holds no calls"),
            ("1 allreduce 8 1", "line 1: expected CALLS OPERATION"),
            ("\n0 allreduce 8 1 8", "line 2: CALLS is \"0\""),
            ("1 reduction 8 1 8", "\"reduction\" is no operation: expected one of allreduce"),
            ("1 allreduce 8 1 8+8", "expected one number"),
            ("1 send 2 1 8+x", "BYTES is \"x\""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_sum_is_that_of_its_calls_and_frames_help_small_messages() {
        let machine = Machine { ranks_per_host: 4, ..Machine::default() };
        let lines = read("3 allreduce 8 1 65536\n2 send 2 4 72+64+64").unwrap();
        let limits = Limits { message_bytes: 1024, frame_bytes: 16384 };
        let total = total(&machine, &lines, &|_, _| Algorithm::Ring, limits).unwrap();
        let call = regions::call(Kind::AllReduce, 8, 65536).unwrap();
        let one = super::super::collective(&machine, &call, Algorithm::Ring, &Folding::Never).unwrap();
        assert!((total.chosen_ns - 3.0 * one.time_ns - total.messages_together_ns).abs() < 1.0);
        assert!(total.fastest_ns <= total.chosen_ns && (total.calls, total.groups) == (5, 2));
        assert!(total.messages_together_ns < total.messages_apart_ns);
        let ring = total.alone.iter().find(|(algorithm, ..)| *algorithm == Algorithm::Ring).unwrap();
        assert!((ring.1 - total.chosen_ns).abs() < 1.0);
    }

    #[test]
    fn groups_of_every_eighth_rank_lie_on_hosts_of_their_own() {
        let machine = Machine { ranks_per_host: 8, rails: 4, hosts_per_island: 32, ..Machine::default() };
        let spread_out = spread(&machine, 8);
        assert_eq!((spread_out.ranks_per_host, spread_out.rails, spread_out.hosts_per_island), (1, 1, 32));
        assert_eq!(spread(&machine, 16).hosts_per_island, 16);
        assert_eq!(spread(&machine, 1), machine);
    }
}
