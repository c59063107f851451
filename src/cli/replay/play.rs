//! One player: its communicators, its lanes, its rounds.
//!
//! Lanes of a player meet before every round, and the last to come meets the other players. The first round, where
//! results are checked, is not timed; the others give what they take as it lies in memory.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::classes::{self, Class};
use super::lanes::{self, Lane};
use super::layout::{self, Placed, Progress};
use super::script::Script;
use crate::cli::Failure;
use crate::cli::bench::Report;
use crate::cli::bench::contender::Contender;
use crate::cli::bench::row::Row;
use crate::cli::board::Seat;
use crate::cli::library::{Communicator, Library, UniqueId};
use crate::cli::machine::Memory;

/// How often a lane says that it lives.
const SIGN: Duration = Duration::from_millis(20);

/// How it is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Rounds that are timed.
    pub(super) rounds: usize,
    /// Whether a first round is checked.
    pub(super) checks: bool,
    /// Whether batches begin no sooner than they did.
    pub(super) keeps_gaps: bool,
}

/// What a lane measured: nanoseconds of each class, one for each round; and elements that were wrong.
#[derive(Default)]
struct Found {
    times_ns: BTreeMap<Class, Vec<u64>>,
    whole_ns: Vec<u64>,
    wrong: u64,
}

/// What lanes of a player share.
struct Stage<'run> {
    script: &'run Script,
    seat: &'run Seat,
    player: usize,
    manner: Manner,
    library: &'run Arc<Library>,
    ids: &'run [Option<UniqueId>],
    lanes: &'run [Lane],
    /// How many batches each lane has done in this round.
    done: Vec<AtomicU64>,
    arrived: AtomicU64,
    round: AtomicU64,
    has_failed: AtomicBool,
}

/// Plays; rank 0 reports a row for each class and round.
pub(super) fn play(
    script: &Script,
    seat: &Seat,
    manner: Manner,
    library: &Arc<Library>,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let ids = share_ids(script, seat, library)?;
    let lanes = lanes::lanes(script, seat.rank());
    let stage = Stage {
        script,
        seat,
        player: seat.rank(),
        manner,
        library,
        ids: &ids,
        lanes: &lanes,
        done: lanes.iter().map(|_| AtomicU64::new(0)).collect(),
        arrived: AtomicU64::new(0),
        round: AtomicU64::new(0),
        has_failed: AtomicBool::new(false),
    };
    let found = match lanes.len() {
        1 => vec![stage.lane(0)?],
        count => {
            let outcomes = std::thread::scope(|scope| {
                let stage = &stage;
                let threads: Vec<_> =
                    (0..count).map(|lane| scope.spawn(move || stage.guarded(lane))).collect();
                threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
            });
            let panicked = |_| Failure("a lane panicked".into());
            outcomes.into_iter().map(|outcome| outcome.map_err(panicked)?).collect::<Result<Vec<_>, _>>()?
        }
    };
    tell(script, seat, manner, library, &found, report)
}

/// The unique id of every communicator in which this player has a part.
fn share_ids(script: &Script, seat: &Seat, library: &Library) -> Result<Vec<Option<UniqueId>>, Failure> {
    let share = |group: &super::script::Group| {
        let first = group.members.first().map_or(0, |member| member.player);
        let mine = if first == seat.rank() { library.unique_id()?.0.to_vec() } else { Vec::new() };
        let all = seat.share_bytes(&mine)?;
        let id = all.get(first).and_then(|bytes| <[u8; 128]>::try_from(bytes.as_slice()).ok());
        Ok(id.map(UniqueId))
    };
    script.groups.iter().map(share).collect()
}

/// One communicator of a lane, joined.
struct Part {
    group: usize,
    rank: u32,
    communicator: Communicator,
    /// Its definitions, with places.
    placed: Vec<Vec<Placed>>,
    classes: Vec<Class>,
    progress: Progress,
}

impl Stage<'_> {
    /// A lane on a thread of its own. If it fails, the others might wait for it for ever, so the process ends.
    fn guarded(&self, lane: usize) -> Result<Found, Failure> {
        let outcome = self.lane(lane);
        if let Err(failure) = &outcome
            && !self.has_failed.swap(true, Ordering::AcqRel)
        {
            self.seat.board().fail(self.player);
            if self.seat.board().failed() == Some(self.player) {
                eprintln!("shoal: rank {}: {failure}", self.player);
            }
            std::process::exit(1);
        }
        outcome
    }

    fn lane(&self, number: usize) -> Result<Found, Failure> {
        let lane = &self.lanes[number];
        let (mut parts, bytes) = self.join(lane)?;
        let mut memory = Memory::heap(bytes);
        let mut found = Found::default();
        if self.manner.checks {
            found.wrong = self.play(number, &mut parts, &mut memory, None)?;
            // What reductions left behind may be slow to add.
            memory.as_mut_slice().fill(0);
        }
        for _ in 0..self.manner.rounds {
            self.play(number, &mut parts, &mut memory, Some(&mut found))?;
        }
        self.meet()?;
        parts.into_iter().try_for_each(|part| part.communicator.finish())?;
        Ok(found)
    }

    /// Joins the communicators of a lane, and says how much memory its largest batch takes.
    fn join(&self, lane: &Lane) -> Result<(Vec<Part>, usize), Failure> {
        let mut groups: Vec<usize> = lane.turns.iter().map(|(group, _)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let mut most = 0;
        let mut parts = Vec::new();
        for group in groups {
            let members = &self.script.groups[group].members;
            let place = members.iter().position(|member| member.player == self.player);
            let (rank, id) =
                place.zip(self.ids[group]).ok_or_else(|| Failure("a rank without a place".into()))?;
            let communicator = Communicator::join(Arc::clone(self.library), id, rank, members.len())?;
            let member = &members[rank];
            let mut placed = Vec::new();
            for operations in &member.definitions {
                let (places, bytes) = layout::place(operations, rank, members.len());
                most = most.max(bytes);
                placed.push(places);
            }
            let classes = member.definitions.iter().map(|operations| Class::of(operations)).collect();
            let (rank, progress) = (rank as u32, Progress::default());
            parts.push(Part { group, rank, communicator, placed, classes, progress });
        }
        Ok((parts, most))
    }

    /// One round of a lane: timed, or checked; how many elements were wrong.
    fn play(
        &self,
        number: usize,
        parts: &mut [Part],
        memory: &mut Memory,
        mut found: Option<&mut Found>,
    ) -> Result<u64, Failure> {
        let lane = &self.lanes[number];
        self.done[number].store(0, Ordering::Relaxed);
        self.meet()?;
        let (start, first_ns) = (Instant::now(), self.first_ns());
        let (mut needs, mut wrong, mut sign) = (lane.needs.iter().peekable(), 0, start);
        let mut times_ns: BTreeMap<Class, u64> = BTreeMap::new();
        for (turn, (group, place)) in lane.turns.iter().enumerate() {
            while let Some(need) = needs.next_if(|need| need.turn == turn) {
                self.wait(|| self.done[need.lane].load(Ordering::Acquire) >= need.count as u64)?;
            }
            let part = parts.iter_mut().find(|part| part.group == *group);
            let part = part.ok_or_else(|| Failure("a batch without a communicator".into()))?;
            let batch = self.script.groups[*group].members[part.rank as usize].batches[*place];
            if self.manner.keeps_gaps && found.is_some() {
                let due = start + Duration::from_nanos(batch.start_ns.saturating_sub(first_ns));
                self.rest_until(due, &mut sign);
            }
            let placed = &part.placed[batch.definition as usize];
            let seeds = if found.is_none() { part.progress.seeds(placed, part.rank) } else { Vec::new() };
            if found.is_none() {
                layout::fill(placed, &seeds, memory.as_mut_slice());
            }
            let began = Instant::now();
            part.communicator.run_batch(placed, memory)?;
            let ended = Instant::now();
            if found.is_none() {
                wrong += layout::wrong(placed, &seeds, memory.as_slice());
            }
            *times_ns.entry(part.classes[batch.definition as usize]).or_default() +=
                (ended - began).as_nanos() as u64;
            self.done[number].store(turn as u64 + 1, Ordering::Release);
            if ended - sign > SIGN {
                sign = ended;
                self.seat.tick();
            }
        }
        if let Some(found) = &mut found {
            found.whole_ns.push(start.elapsed().as_nanos() as u64);
            times_ns.into_iter().for_each(|(class, ns)| found.times_ns.entry(class).or_default().push(ns));
        }
        Ok(wrong)
    }

    /// When the first batch of all began.
    fn first_ns(&self) -> u64 {
        let members = self.script.groups.iter().flat_map(|group| &group.members);
        members.filter_map(|member| member.batches.first()).map(|batch| batch.start_ns).min().unwrap_or(0)
    }

    fn rest_until(&self, due: Instant, sign: &mut Instant) {
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            // A sleep may take a little longer than asked.
            if left > Duration::from_micros(200) {
                std::thread::sleep((left - Duration::from_micros(150)).min(SIGN));
            } else {
                std::hint::spin_loop();
            }
            if sign.elapsed() > SIGN {
                *sign = Instant::now();
                self.seat.tick();
            }
        }
    }

    /// Waits for the lanes of this player, of which the last waits for the other players.
    fn meet(&self) -> Result<(), Failure> {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.lanes.len() as u64 {
            self.arrived.store(0, Ordering::Relaxed);
            self.seat.barrier()?;
            self.seat.tick();
            self.round.store(round + 1, Ordering::Release);
            return Ok(());
        }
        self.wait(|| self.round.load(Ordering::Acquire) != round)
    }

    fn wait(&self, is_done: impl Fn() -> bool) -> Result<(), Failure> {
        let mut looks = 0_u32;
        while !is_done() {
            looks = looks.wrapping_add(1);
            if self.has_failed.load(Ordering::Relaxed) || self.seat.board().failed().is_some() {
                return Err(Failure("another lane or rank failed".into()));
            }
            // Who waits too long is ended by the process that watches all.
            if looks.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        Ok(())
    }
}

/// Of every class and round the time of the slowest player; and how much was wrong on all of them.
fn tell(
    script: &Script,
    seat: &Seat,
    manner: Manner,
    library: &Library,
    found: &[Found],
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let wrong = seat.sum(found.iter().map(|lane| lane.wrong).sum())?;
    let wrong = manner.checks.then_some(wrong);
    let library = format!("{}", library.version());
    let mut tell = |what: &str, end: u64, [batches, calls, _]: [u64; 3], times_ns: &[u64]| {
        for round in 0..manner.rounds {
            let mine = times_ns.get(round).copied().unwrap_or(0) as f64;
            let row = Row {
                library: library.clone(),
                op: what.to_owned(),
                bytes: end as usize,
                ranks: seat.ranks(),
                iterations: batches as usize,
                count: calls as usize,
                time_us: seat.largest(mine)? / 1e3,
                wrong,
                ..Row::default()
            };
            if seat.rank() == 0 {
                report(Report::Row(Box::new(row)));
            }
        }
        Ok::<(), Failure>(())
    };
    for (class, counts) in classes::classes(script) {
        let mut sums = vec![0; manner.rounds];
        for lane in found {
            let times = lane.times_ns.get(&class).into_iter().flatten();
            sums.iter_mut().zip(times).for_each(|(sum, ns)| *sum += ns);
        }
        tell(class.what, class.end_bytes, counts, &sums)?;
    }
    let whole: Vec<u64> = (0..manner.rounds)
        .map(|round| found.iter().filter_map(|lane| lane.whole_ns.get(round)).max().copied().unwrap_or(0))
        .collect();
    let all = classes::classes(script)
        .values()
        .fold([0; 3], |sum, one| [0, 1, 2].map(|place| sum[place] + one[place]));
    tell(super::compare::WHOLE, 0, all, &whole)
}
