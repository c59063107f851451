//! One rank of a run: races of candidates, turn by turn, until all are sure or the time is over.
//!
//! Every rank sees the same times, the slowest rank's, so all decide alike. A pass visits every race that goes on;
//! the time that is left is divided among them by weight. Turns of one race so lie far apart, and a bad minute of the
//! machine spoils none of them.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::journal::{Entry, Journal};
use super::points::{MeasuredPoint, measured};
use super::report::Regret;
use super::{Options, Setup};
use crate::cli::Failure;
use crate::cli::bench::check::Check;
use crate::cli::bench::contender::{Call, Contender, Request};
use crate::cli::bench::size;
use crate::cli::board::Seat;
use crate::cli::library::Communicator;
use crate::cli::machine::{self, Memory};
use crate::op::{Kind, Reduction};
use crate::tune;
use crate::tune::candidates::{candidates, in_pieces, stands_for};
use crate::tune::predict::call_of;
use crate::tune::race::Race;
use crate::tune::table::write::write;
use crate::tune::table::{Choice, Choices, Key, Row, Table, TypeClass};

/// A batch is at least so long, so that it can be timed.
const BATCH_US: f64 = 300.0;
const ITERATIONS_MAX: usize = 100_000;
/// Calls before the first that is timed: they make plans and wake the others.
const WARM_CALLS: usize = 2;
/// Turns of a first visit, whatever the time.
const TURNS_FIRST: usize = 4;

/// One point's race, and what running it takes.
struct Track {
    point: MeasuredPoint,
    race: Race,
    choices: Vec<Choice>,
    /// Calls of a batch; 0 before the first visit.
    iterations: usize,
}

/// One rank of a run.
pub(super) struct Session<'run> {
    seat: &'run Seat,
    contender: Communicator,
    options: &'run Options,
    setup: &'run Setup,
    source: Memory,
    target: Memory,
    started: Instant,
    /// Among which cores ranks are moved; empty where somebody else said where they run.
    cores: Vec<usize>,
}

impl<'run> Session<'run> {
    pub(super) fn new(
        seat: &'run Seat,
        contender: Communicator,
        options: &'run Options,
        setup: &'run Setup,
        moves: bool,
    ) -> Result<Session<'run>, Failure> {
        let mut session = Session {
            seat,
            contender,
            options,
            setup,
            source: Memory::heap(0),
            target: Memory::heap(0),
            started: Instant::now(),
            cores: if moves { machine::allowed_cores() } else { Vec::new() },
        };
        let sizes = setup.points.all.iter().map(|point| session.request(point).buffer_bytes());
        let (read, written) = sizes.fold((0, 0), |(r, w), (read, written)| (r.max(read), w.max(written)));
        (session.source, session.target) = (Memory::heap(read), Memory::heap(written.max(read)));
        Ok(session)
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        self.contender.finish()
    }

    fn request(&self, point: &MeasuredPoint) -> Request {
        Request {
            operation: measured(point.operation),
            data_type: self.options.data_type,
            reduction: Reduction::Sum,
            root: 0,
            count: point.count,
            messages: 1,
            tensor: 0,
            mask_bytes: 0,
            rank: self.seat.rank(),
            ranks: self.seat.ranks(),
        }
    }

    /// What is left of the budget, the same on all ranks.
    fn left_us(&self) -> Result<f64, Failure> {
        let passed_us = self.seat.largest(self.started.elapsed().as_micros() as f64)?;
        Ok(self.options.budget.as_micros() as f64 - passed_us)
    }

    /// Runs the races that the journal does not know to be sure, and rank 0 adds to it what comes of them.
    pub(super) fn races(&mut self, journal: &Path, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let known = Journal::read(journal)?;
        // Nobody adds to the journal before all have read it.
        self.seat.barrier()?;
        let mut file = if self.seat.rank() == 0 {
            let opened = OpenOptions::new().append(true).open(journal);
            Some(opened.map_err(|cause| Failure(format!("cannot add to {}: {cause}", journal.display())))?)
        } else {
            None
        };
        let mut open: Vec<MeasuredPoint> =
            self.setup.points.all.iter().copied().filter(|point| !known.is_sure(point)).collect();
        // First what an earlier run knows least of.
        open.sort_by_key(|point| known.entry(point).map_or(0, |entry| entry.turns));
        let mut tracks: Vec<Track> = open.into_iter().map(|point| self.track(point, &[])).collect();
        self.passes(&mut tracks, say, &mut |track| {
            let Some(file) = &mut file else { return Ok(()) };
            let line = Entry::of(&track.point, &track.race).line();
            file.write_all(line.as_bytes()).map_err(Failure::from)
        })
    }

    /// How far the judged table's choices are from the best: races in which they run twice.
    pub(super) fn regrets(&mut self, say: &mut dyn FnMut(&str)) -> Result<Vec<Regret>, Failure> {
        let tables = tune::layers(self.setup.judged.as_ref());
        let choices = Choices::of(&tables, &self.setup.site);
        let types = TypeClass::of(self.options.data_type);
        let mut tracks = Vec::new();
        for point in &self.setup.points.all {
            let found = choices.find(point.operation, point.bytes, types);
            let chosen =
                found.map_or(Choice::usual(crate::schedule::Algorithm::Exchange), |found| found.choice);
            tracks.push(self.track(*point, &[chosen]));
        }
        self.passes(&mut tracks, say, &mut |_| Ok(()))?;
        Ok(tracks.iter().filter_map(|track| Regret::of(&track.point, &track.race)).collect())
    }

    /// The race at a point. The first of the `judged` choices runs at the first and at the last place.
    fn track(&self, point: MeasuredPoint, judged: &[Choice]) -> Track {
        let ranks = self.setup.site.ranks;
        let call = call_of(point.operation, point.bytes, self.options.data_type, ranks);
        let hosts = &self.setup.hosts;
        let built_in = Choices::of(&tune::layers(None), &self.setup.site);
        let types = TypeClass::of(self.options.data_type);
        let usual = built_in.find(point.operation, point.bytes, types).map(|found| found.choice);
        let must: Vec<_> = usual.iter().chain(judged).map(|choice| choice.algorithm).collect();
        let mut choices = candidates(&call, hosts, &must);
        choices.extend(in_pieces(&choices, &self.options.pieces, &call, hosts));
        if let Some(judged) = judged.first() {
            let judged = stands_for(*judged, &choices, &call, hosts);
            choices.retain(|choice| *choice != judged);
            choices.insert(0, judged);
            choices.push(judged);
        }
        Track { point, race: Race::new(&choices), choices, iterations: 0 }
    }

    /// Visits the races until all are over or the time is.
    fn passes(
        &mut self,
        tracks: &mut [Track],
        say: &mut dyn FnMut(&str),
        done: &mut dyn FnMut(&Track) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let going: Vec<usize> = (0..tracks.len()).filter(|at| tracks[*at].race.goes_on()).collect();
            let mut weight: f64 = going.iter().map(|at| tracks[*at].point.weight).sum();
            if going.is_empty() {
                return Ok(());
            }
            for (place, at) in going.iter().copied().enumerate() {
                let left_us = self.left_us()?;
                if left_us <= 0.0 {
                    return Ok(());
                }
                let track = &mut tracks[at];
                let share_us = left_us * track.point.weight / weight;
                weight -= track.point.weight;
                self.visit(track, share_us)?;
                done(track)?;
                say(&progress(track, place + 1, going.len(), left_us / 1e6));
            }
        }
    }

    /// Turns of one race for about so long.
    fn visit(&mut self, track: &mut Track, share_us: f64) -> Result<(), Failure> {
        let request = self.request(&track.point);
        let began = Instant::now();
        if track.iterations == 0 {
            self.prepare(track, request)?;
        }
        let mut turns = 0;
        while track.race.goes_on() {
            let passed_us = self.seat.largest(began.elapsed().as_micros() as f64)?;
            let at_least = if track.race.turns() < TURNS_FIRST { TURNS_FIRST } else { 1 };
            if passed_us >= share_us && turns >= at_least {
                return Ok(());
            }
            self.shuffle(track.race.turns())?;
            let mut times_us = Vec::new();
            for choice in track.race.poll_turn() {
                self.use_choice(track.point.operation, choice)?;
                // A call that fills a batch is long enough to warm up within itself.
                self.batch(request, if track.iterations == 1 { 1 } else { WARM_CALLS })?;
                times_us.push(self.batch(request, track.iterations)?);
            }
            track.race.handle_turn(&times_us);
            self.seat.tick();
            turns += 1;
        }
        Ok(())
    }

    /// Puts ranks that share cores elsewhere before a turn, and lets them go. Who is together on a core makes some
    /// candidates fast and others slow, and the system leaves that as it is for a whole run; a table is for all runs.
    fn shuffle(&self, turn: usize) -> Result<(), Failure> {
        let cores = &self.cores;
        if cores.len() < 2 || self.seat.ranks() <= cores.len() {
            return Ok(());
        }
        let failed = |error| Failure(format!("cannot move a rank to another core: {error}"));
        let core = cores[place(self.seat.rank(), self.seat.ranks(), turn) % cores.len()];
        machine::pin(core).map_err(failed)?;
        self.seat.barrier()?;
        machine::pin_to(cores).map_err(failed)
    }

    /// Before the first turn: every candidate gives the right result, and a batch is long enough.
    fn prepare(&mut self, track: &mut Track, request: Request) -> Result<(), Failure> {
        for choice in &track.choices {
            self.use_choice(track.point.operation, *choice)?;
            let check = Check::new(request, 1);
            check.fill(self.source.as_mut_slice(), self.target.as_mut_slice());
            self.seat.barrier()?;
            self.contender.run(&Call::out_of_place(request, &self.source, &self.target))?;
            self.seat.barrier()?;
            let wrong = self.seat.sum(check.wrong(self.target.as_slice()))?;
            if wrong > 0 {
                let (name, bytes) = (request.operation.name(), track.point.bytes);
                return Err(Failure(format!("{choice}: {wrong} wrong elements of {name} of {bytes} bytes")));
            }
            self.seat.tick();
        }
        let mut iterations = 1;
        while iterations < ITERATIONS_MAX && self.batch(request, iterations)? * (iterations as f64) < BATCH_US
        {
            iterations *= 2;
        }
        track.iterations = iterations;
        Ok(())
    }

    fn use_choice(&mut self, operation: Kind, choice: Choice) -> Result<(), Failure> {
        let row = Row { line: 0, run: String::new(), key: Key::any(operation), choice, points: Vec::new() };
        self.contender.set_table(&write(&Table { rows: vec![row], ..Table::default() }))
    }

    /// The slowest rank's time of one of so many calls, in microseconds.
    fn batch(&mut self, request: Request, iterations: usize) -> Result<f64, Failure> {
        let call = Call::out_of_place(request, &self.source, &self.target);
        self.seat.barrier()?;
        let start = Instant::now();
        for _ in 0..iterations {
            self.contender.run(&call)?;
        }
        Ok(self.seat.largest(start.elapsed().as_nanos() as f64 / 1e3)? / iterations as f64)
    }
}

/// Where a rank stands in the order of a turn, in which all ranks are in some random order.
fn place(rank: usize, ranks: usize, turn: usize) -> usize {
    let key = |rank: usize| {
        let mixed = (rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (turn as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 29), rank)
    };
    (0..ranks).filter(|other| key(*other) < key(rank)).count()
}

/// Where a race stands, in one line.
fn progress(track: &Track, place: usize, count: usize, left_seconds: f64) -> String {
    let samples = track.race.samples();
    let best = samples.iter().min_by(|one, other| one.median_us.total_cmp(&other.median_us));
    let best = best.map_or(String::new(), |best| format!("{} {:.3} us", best.choice, best.median_us));
    let operation = tune::table::operation_name(track.point.operation);
    let size = size::display(track.point.bytes as usize);
    let sure = if track.race.is_sure() { "" } else { " (not sure yet)" };
    format!("{place}/{count} {operation} {size}: {best}{sure}, {:.0} s left", left_seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_has_an_order_of_its_own() {
        let order = |turn| (0..8).map(|rank| place(rank, 8, turn)).collect::<Vec<_>>();
        let mut together = 0;
        for turn in 0..100 {
            let mut sorted = order(turn);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..8).collect::<Vec<_>>());
            together += usize::from(order(turn)[0] % 2 == order(turn)[1] % 2);
        }
        // Of seven others three are on the same of two cores.
        assert!((30..57).contains(&together), "{together}");
    }
}
