//! `shoal doctor --job`: a running job asked from outside, by its shared memory: who waits for whom. Nobody of the job
//! answers or is held up, so it also works where all are stopped.

use std::fmt::Write;

use serde::Serialize;

use super::{Failure, Format};
use crate::coalesce::head;
use crate::config::Config;
use crate::engine::stall::Sighting;
use crate::system::process;
use crate::trace::verdict::{self, Case, Doing, Seat};
use crate::transport::Peer;
use crate::transport::shm::Witness;

/// What is seen of a communicator.
#[derive(Debug, Serialize)]
struct Picture {
    /// Its number, for all who see it.
    id: String,
    /// What each rank does.
    ranks: Vec<Line>,
    /// Who failed first, and why.
    failure: Option<String>,
    /// The verdict on the longest wait.
    verdict: Option<String>,
    /// How long that has lasted.
    waited_s: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    rank: u32,
    process: Option<i32>,
    says: String,
}

/// Looks at the processes and all that descend from them; `Ok(false)` if somebody waits for longer than the soft bound.
///
/// # Errors
/// There is no such process, it may not be looked at, or none of them has a communicator.
pub(super) fn run(numbers: &[u32], format: Format) -> Result<bool, Failure> {
    let mut witnesses: Vec<Witness> = Vec::new();
    let mut refusals = Vec::new();
    for number in numbers {
        for process in process::family(i32::try_from(*number).unwrap_or(i32::MAX)) {
            match Witness::of(process) {
                Ok(found) => witnesses.extend(found),
                Err(cause) => refusals.push(format!("process {process}: {cause}")),
            }
        }
    }
    witnesses.sort_by_key(Witness::id);
    witnesses.dedup_by_key(|witness| witness.id());
    if witnesses.is_empty() {
        let why = match refusals.first() {
            Some(refusal) => format!("{refusal}; ask as the user of the job, or as root, in its namespace"),
            None => "none of its processes has a communicator now".into(),
        };
        return Err(Failure(format!("the job shows nothing: {why}")));
    }
    let pictures = witnesses.iter().map(look).collect::<Result<Vec<_>, Failure>>()?;
    let text = match format {
        Format::Text => pictures.iter().map(draw).collect(),
        Format::Json => {
            let json = serde_json::json!({ "communicators": pictures });
            serde_json::to_string_pretty(&json).map_err(|error| Failure(error.to_string()))? + "\n"
        }
    };
    crate::cli::print(&text)?;
    let bound_s = Config::get().stall.map_or(10, |bound| bound.as_secs());
    Ok(pictures.iter().all(|picture| picture.verdict.is_none() || picture.waited_s < bound_s))
}

fn look(witness: &Witness) -> Result<Picture, Failure> {
    let sightings = (0..witness.ranks()).map(|rank| {
        let records = witness.records(rank).map_err(|error| Failure(error.to_string()))?;
        let (peer, process) = (witness.peer(rank), witness.process(rank));
        let standing = witness.standing(rank);
        // Who never came here is on another host.
        let records = records.filter(|_| peer.is_some());
        Ok(Sighting { rank, peer: peer.unwrap_or(Peer::Alive), process, standing, records })
    });
    let sightings = sightings.collect::<Result<Vec<_>, Failure>>()?;
    let waits = |sighting: &&Sighting| matches!(sighting.seat(None).doing, Doing::Waits { .. });
    let since = |sighting: &&Sighting| sighting.standing.map_or(u64::MAX, |standing| standing.since_ns);
    // Who has waited for longest asks.
    let asks = sightings.iter().filter(waits).min_by_key(since);
    let asked = asks.and_then(|sighting| sighting.standing).map(|standing| standing.head);
    let asked = asked.filter(|head| head::is_collective(*head)).map(head::sequence);
    let seats: Vec<Seat> = sightings.iter().map(|sighting| sighting.seat(asked)).collect();
    let case = asks.and_then(|sighting| case(sighting.rank, asked.is_some(), &seats));
    Ok(Picture {
        id: format!("{:032x}", witness.id()),
        ranks: seats
            .iter()
            .map(|seat| Line { rank: seat.rank, process: seat.process, says: verdict::describe(seat) })
            .collect(),
        failure: witness.raised().map(|(rank, text)| format!("rank {rank} reported: {text}")),
        waited_s: case.as_ref().map_or(0, |case| case.waited_s),
        verdict: case.as_ref().map(verdict::tell),
    })
}

fn case(rank: u32, is_collective: bool, seats: &[Seat]) -> Option<Case> {
    match &seats.get(rank as usize)?.doing {
        Doing::Waits { what, waits_for, for_s, .. } => Some(Case {
            rank,
            what: what.clone(),
            is_collective,
            waited_s: for_s.unwrap_or(0),
            waits_for: waits_for.clone(),
            seats: seats.to_vec(),
        }),
        _ => None,
    }
}

fn draw(picture: &Picture) -> String {
    let mut text = format!("communicator {}: {} ranks\n", picture.id, picture.ranks.len());
    for line in &picture.ranks {
        let _ = writeln!(text, "  {}", line.says);
    }
    if let Some(failure) = &picture.failure {
        let _ = writeln!(text, "  it failed: {failure}");
    }
    let verdict = picture.verdict.as_deref().unwrap_or("nobody waits for long");
    let _ = writeln!(text, "  => {verdict}");
    text
}
