//! A process's share of a program on the library itself: some of its ranks, as threads or in one thread.

use std::ffi::c_int;
use std::path::Path;
use std::time::{Duration, Instant};

use super::dice::{Dice, mix};
use super::library::{self, Comm, Stream, UniqueId};
use super::memory::{Placement, Pool};
use super::oracle::Oracle;
use super::program::{Action, Group, Program, Side};

/// How a process runs its ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A thread each.
    Threads,
    /// One thread calls for all, on streams, one rank after the other.
    OneThread,
    /// One thread calls for all in one group. For programs of one uncut batch.
    OneGroup,
}

/// Where processes of a run leave what they tell each other.
pub struct Board<'a> {
    pub folder: &'a Path,
    pub process: u32,
    /// Whether the process is killed in the middle of its script.
    pub dies: bool,
}

impl Board<'_> {
    /// The ids of a program's communicators, made by process 0.
    fn ids(&self, program: &Program) -> Result<Vec<UniqueId>, String> {
        let place = self.folder.join(format!("{}.id", program.seed));
        if self.process == 0 {
            let ids: Vec<UniqueId> =
                (0..program.comm_count).map(|_| library::unique_id()).collect::<Result<_, _>>()?;
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
            let draft = place.with_extension("draft");
            std::fs::write(&draft, bytes).map_err(|error| error.to_string())?;
            std::fs::rename(&draft, &place).map_err(|error| error.to_string())?;
            return Ok(ids);
        }
        let started = Instant::now();
        loop {
            if let Ok(bytes) = std::fs::read(&place) {
                let id = |chunk: &[u8]| UniqueId(chunk.try_into().expect("an id"));
                return Ok(bytes.chunks_exact(128).map(id).collect());
            }
            if started.elapsed() > Duration::from_secs(60) {
                return Err("process 0 never wrote the ids".into());
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

/// Runs the ranks `worlds` of the program. The digest is one that every rank of the program must have.
pub fn run(program: &Program, worlds: &[u32], form: Form, board: &Board) -> Result<u64, String> {
    let ids = board.ids(program)?;
    let digests: Vec<u64> = match form {
        Form::Threads => std::thread::scope(|scope| {
            let threads: Vec<_> = worlds
                .iter()
                .map(|world| {
                    let ids = &ids;
                    scope.spawn(move || run_rank(program, *world, ids, board.dies))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<_>| thread.join().expect("no panic");
            threads.into_iter().map(join).collect::<Result<_, String>>()
        })?,
        Form::OneThread | Form::OneGroup => run_all(program, worlds, form, &ids)?,
    };
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err("ranks have different bits of an AllReduce".into());
    }
    Ok(digests.first().copied().unwrap_or_default())
}

/// One rank: its communicators, its streams, and what is under way.
struct Rank<'a> {
    program: &'a Program,
    oracle: &'a Oracle<'a>,
    world: u32,
    comms: Vec<Comm>,
    streams: Vec<Stream>,
    pool: Pool,
    next_group: usize,
    pending: Vec<Placement>,
    dice: Dice,
    digest: u64,
}

fn run_rank(program: &Program, world: u32, ids: &[UniqueId], dies: bool) -> Result<u64, String> {
    let oracle = Oracle::new(program);
    let mut rank = Rank::new(program, &oracle, world)?;
    for (comm, id) in ids.iter().enumerate() {
        let place = program.rank_in(comm as u32, world);
        // SAFETY: no group is open.
        unsafe { rank.comms[comm].init(program.ranks, *id, place) }.map_err(|text| rank.tell(&text))?;
    }
    while rank.has_more() {
        if dies && rank.next_group * 2 >= program.scripts[world as usize].len() {
            // SAFETY: it has no precondition; nothing of this process runs afterwards.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        rank.next(false).and_then(|()| rank.perhaps_synchronize()).map_err(|text| rank.tell(&text))?;
    }
    rank.synchronize().map_err(|text| rank.tell(&text))?;
    rank.close().map_err(|text| rank.tell(&text))
}

/// One thread for several ranks: nothing may wait before all have called.
fn run_all(program: &Program, worlds: &[u32], form: Form, ids: &[UniqueId]) -> Result<Vec<u64>, String> {
    let oracle = Oracle::new(program);
    let mut ranks: Vec<Rank> =
        worlds.iter().map(|world| Rank::new(program, &oracle, *world)).collect::<Result<_, _>>()?;
    library::group_start()?;
    for rank in &mut ranks {
        for (comm, id) in ids.iter().enumerate() {
            let place = program.rank_in(comm as u32, rank.world);
            // SAFETY: the list of handles stays where it is.
            unsafe { rank.comms[comm].init(program.ranks, *id, place) }?;
        }
    }
    library::group_end()?;
    if form == Form::OneGroup {
        library::group_start()?;
    }
    while ranks.iter().any(Rank::has_more) {
        for rank in ranks.iter_mut().filter(|rank| rank.has_more()) {
            rank.next(true).map_err(|text| rank.tell(&text))?;
        }
    }
    if form == Form::OneGroup {
        library::group_end()?;
    }
    for rank in &mut ranks {
        rank.synchronize().map_err(|text| rank.tell(&text))?;
    }
    // The ranks of one thread leave in a group too, as some programs do.
    library::group_start()?;
    let digests = ranks.iter_mut().map(Rank::close).collect::<Result<_, _>>();
    library::group_end()?;
    digests
}

impl<'a> Rank<'a> {
    fn new(program: &'a Program, oracle: &'a Oracle<'a>, world: u32) -> Result<Rank<'a>, String> {
        let mut dice = Dice::new(mix(program.seed, u64::from(world) + 0x72616e6b));
        // The first stream is for programs that must not wait where the script says NULL.
        let streams: Result<Vec<Stream>, String> =
            (0..=program.stream_count).map(|_| Stream::create()).collect();
        Ok(Rank {
            program,
            oracle,
            world,
            comms: vec![Comm::NULL; program.comm_count as usize],
            streams: streams?,
            pool: if dice.chance(40) { library::MAPPED } else { Pool::ORDINARY },
            next_group: 0,
            pending: Vec::new(),
            dice,
            digest: 0,
        })
    }

    fn has_more(&self) -> bool {
        self.next_group < self.program.scripts[self.world as usize].len()
    }

    fn tell(&self, text: &str) -> String {
        format!("rank {} (group {}): {text}", self.world, self.next_group)
    }

    /// Calls the next group. If it must not wait, its NULL stream is another one.
    fn next(&mut self, must_not_wait: bool) -> Result<(), String> {
        let program = self.program;
        let group: &Group = &program.scripts[self.world as usize][self.next_group];
        let is_grouped = group.calls.len() > 1 || self.dice.chance(20);
        let mut operators: Vec<(Comm, c_int)> = Vec::new();
        let mut made: Vec<Placement> = Vec::new();
        for call in &group.calls {
            let placement = Placement::new(program, self.oracle, *call, self.world, self.pool);
            let comm = self.comms[program.actions[call.action].comm() as usize];
            // SAFETY: the placement lives until the operation ran.
            operators.push((comm, unsafe { comm.operator(&placement.op()) }?));
            made.push(placement);
        }
        if is_grouped {
            library::group_start()?;
        }
        for (placement, (comm, operator)) in made.iter().zip(&operators) {
            let stream = match placement.call().stream {
                0 if !must_not_wait => Stream::NULL,
                stream => self.streams[stream as usize],
            };
            // SAFETY: the placement lives until the operation ran.
            unsafe { comm.call(&placement.op(), *operator, stream) }?;
        }
        if is_grouped {
            library::group_end()?;
        }
        for (comm, operator) in operators {
            comm.destroy_operator(operator)?;
        }
        let is_done = !must_not_wait && group.calls.iter().any(|call| call.stream == 0);
        if is_done {
            self.verify(made)?;
        } else {
            self.pending.extend(made);
        }
        self.next_group += 1;
        Ok(())
    }

    fn perhaps_synchronize(&mut self) -> Result<(), String> {
        if self.dice.chance(20) { self.synchronize() } else { Ok(()) }
    }

    /// Waits for all streams, in one of the ways to wait.
    fn synchronize(&mut self) -> Result<(), String> {
        for stream in &self.streams {
            if self.dice.chance(30) {
                while !stream.is_done()? {
                    std::thread::yield_now();
                }
            }
            stream.synchronize()?;
        }
        let pending = std::mem::take(&mut self.pending);
        self.verify(pending)
    }

    fn verify(&mut self, done: Vec<Placement>) -> Result<(), String> {
        for mut placement in done {
            let call = placement.call();
            let action = &self.program.actions[call.action];
            placement.verify(self.oracle).map_err(|problem| {
                format!("{:?} of action {} {action:?}: {problem}", call.side, call.action)
            })?;
            if matches!(action, Action::Collective(c) if c.kind == shoal::op::Kind::AllReduce) {
                let start = mix(call.action as u64, Side::Member as u64);
                self.digest ^= placement.target().iter().fold(start, |digest, byte| {
                    (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
                });
            }
            placement.spoil();
        }
        Ok(())
    }

    fn close(&mut self) -> Result<u64, String> {
        for comm in &self.comms {
            if self.dice.chance(40) {
                comm.finalize()?;
            }
            comm.destroy()?;
        }
        for stream in &self.streams {
            stream.destroy()?;
        }
        Ok(self.digest)
    }
}
