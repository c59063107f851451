//! The harness's own meeting place: a page of shared words over which ranks wait for one another, agree on
//! numbers and hand over the unique id, without a call into the library that is measured. The same board
//! serves every contender, so the time between measurements is the same for all.
//!
//! Every word that two ranks touch sits on a line pair of its own. A wait sees at once when another rank has
//! failed, and is bounded by the patience of the run.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Failure;
use super::machine::SharedMap;

/// The most ranks of one board.
pub(crate) const RANKS_MAX: usize = 1024;

const WORDS_PER_LINE: usize = 16;
const LINE_READY: usize = 0;
const LINE_ATTACHED: usize = 1;
const LINE_FAILED: usize = 2;
const LINE_PROGRESS: usize = 3;
const LINE_ARRIVED: usize = 4;
const LINE_GENERATION: usize = 5;
const LINE_PING: usize = 6;
const LINE_PONG: usize = 7;
const LINE_ID: usize = 8;
const LINE_ID_READY: usize = 9;
/// Head and tail of the ring from rank 0, then of the ring to it.
const LINE_RINGS: usize = 10;
const LINE_SLOTS: usize = 16;
const WORDS: usize = (LINE_SLOTS + RANKS_MAX) * WORDS_PER_LINE;
const RINGS_START_BYTES: usize = WORDS * 8;
/// The bytes of each of the two rings of the floor measurement.
pub(crate) const RING_BYTES: usize = 256 * 1024;
const BOARD_BYTES: usize = RINGS_START_BYTES + 2 * RING_BYTES;
const MAGIC: u64 = 0x73_686f_616c_3031;

/// The shared words.
pub(crate) struct Board {
    map: SharedMap,
}

impl Board {
    /// A new board without a name.
    ///
    /// # Errors
    /// The system has no memory to share.
    pub(crate) fn create() -> Result<Arc<Board>, Failure> {
        let map = SharedMap::create(BOARD_BYTES)
            .map_err(|error| Failure(format!("no shared memory for the ranks to meet in: {error}")))?;
        let board = Board { map };
        board.line(LINE_READY).store(MAGIC, Ordering::Release);
        Ok(Arc::new(board))
    }

    /// The board that a parent made.
    ///
    /// # Errors
    /// It is gone or is no board.
    pub(crate) fn open(path: &Path) -> Result<Arc<Board>, Failure> {
        let opened = File::options().read(true).write(true).open(path);
        let map = opened.and_then(|file| SharedMap::map(file, BOARD_BYTES));
        let map =
            map.map_err(|error| Failure(format!("cannot join the ranks at {}: {error}", path.display())))?;
        let board = Board { map };
        if board.line(LINE_READY).load(Ordering::Acquire) != MAGIC {
            return Err(Failure(format!("{} is no meeting place of this command", path.display())));
        }
        Ok(Arc::new(board))
    }

    /// Meets ranks that a launcher started, at a path that all of them derive. Rank 0 makes the file and
    /// removes its name once all have come.
    ///
    /// # Errors
    /// Who did not come in time.
    pub(crate) fn meet(
        path: &Path,
        rank: usize,
        ranks: usize,
        patience: Duration,
    ) -> Result<Arc<Board>, Failure> {
        let start = Instant::now();
        if rank == 0 {
            let part = path.with_extension("part");
            let refused = |error| Failure(format!("cannot make {}: {error}", path.display()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
            let file = file.map_err(refused)?;
            file.set_len(BOARD_BYTES as u64).map_err(refused)?;
            let board = Board { map: SharedMap::map(file, BOARD_BYTES).map_err(refused)? };
            board.line(LINE_READY).store(MAGIC, Ordering::Release);
            // The name appears with the contents complete.
            std::fs::rename(&part, path).map_err(refused)?;
            board.line(LINE_ATTACHED).fetch_add(1, Ordering::AcqRel);
            while (board.line(LINE_ATTACHED).load(Ordering::Acquire) as usize) < ranks {
                if start.elapsed() > patience {
                    let _ = std::fs::remove_file(path);
                    let came = board.line(LINE_ATTACHED).load(Ordering::Acquire);
                    return Err(Failure(format!("{came} of {ranks} ranks came; all must be on one machine")));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = std::fs::remove_file(path);
            return Ok(Arc::new(board));
        }
        loop {
            if path.exists()
                && let Ok(board) = Board::open(path)
            {
                board.line(LINE_ATTACHED).fetch_add(1, Ordering::AcqRel);
                return Ok(board);
            }
            if start.elapsed() > patience {
                return Err(Failure(format!(
                    "rank 0 did not come to {}; is it on this machine?",
                    path.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Where child processes find it.
    pub(crate) fn path(&self) -> String {
        self.map.path()
    }

    /// Tells every waiting rank that `rank` is out. The first to fail is the one that is named.
    pub(crate) fn fail(&self, rank: usize) {
        let word = self.line(LINE_FAILED);
        let _ = word.compare_exchange(0, rank as u64 + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Who failed first.
    pub(crate) fn failed(&self) -> Option<usize> {
        (self.line(LINE_FAILED).load(Ordering::Acquire) as usize).checked_sub(1)
    }

    /// A number that grows while the ranks get somewhere.
    pub(crate) fn progress(&self) -> u64 {
        self.line(LINE_PROGRESS).load(Ordering::Relaxed)
    }

    fn line(&self, line: usize) -> &AtomicU64 {
        &self.words()[line * WORDS_PER_LINE]
    }

    fn words(&self) -> &[AtomicU64] {
        self.map.words(WORDS)
    }
}

/// One rank's place at the board.
pub(crate) struct Seat {
    board: Arc<Board>,
    rank: usize,
    ranks: usize,
    patience: Duration,
    /// How often a wait looks before it gives its core away.
    spins: u32,
}

impl Seat {
    /// Takes the place of `rank`. `crowded` says that ranks share cores.
    pub(crate) fn take(
        board: Arc<Board>,
        rank: usize,
        ranks: usize,
        patience: Duration,
        crowded: bool,
    ) -> Seat {
        Seat { board, rank, ranks, patience, spins: if crowded { 20 } else { 20_000 } }
    }

    /// This rank.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub(crate) fn ranks(&self) -> usize {
        self.ranks
    }

    /// The board itself.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Counts a step, so that the watchdog sees life.
    pub(crate) fn tick(&self) {
        self.board.line(LINE_PROGRESS).fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until `done`.
    fn wait(&self, mut done: impl FnMut() -> bool) -> Result<(), Failure> {
        for _ in 0..self.spins {
            if done() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if done() {
                    return Ok(());
                }
                std::thread::yield_now();
            }
            if let Some(rank) = self.board.failed() {
                return Err(Failure(format!("rank {rank} failed, so rank {} stops", self.rank)));
            }
            if start.elapsed() > self.patience {
                let rank = self.rank;
                return Err(Failure(format!(
                    "rank {rank} waited {} s for the others",
                    self.patience.as_secs()
                )));
            }
        }
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// Another rank failed, or does not come.
    pub(crate) fn barrier(&self) -> Result<(), Failure> {
        let (arrived, generation) = (self.board.line(LINE_ARRIVED), self.board.line(LINE_GENERATION));
        let current = generation.load(Ordering::Acquire);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.ranks as u64 {
            arrived.store(0, Ordering::Relaxed);
            // Publishes the reset and everything that the ranks wrote before they came.
            generation.store(current + 1, Ordering::Release);
            return Ok(());
        }
        self.wait(|| generation.load(Ordering::Acquire) != current)
    }

    /// Every rank's number, on every rank.
    ///
    /// # Errors
    /// As the barrier's.
    pub(crate) fn gather(&self, mine: u64) -> Result<Vec<u64>, Failure> {
        self.board.line(LINE_SLOTS + self.rank).store(mine, Ordering::Release);
        self.barrier()?;
        let slot = |rank| self.board.line(LINE_SLOTS + rank).load(Ordering::Acquire);
        let all = (0..self.ranks).map(slot).collect();
        // Nobody writes the next number before all have read this one.
        self.barrier()?;
        Ok(all)
    }

    /// The largest of all ranks' numbers.
    ///
    /// # Errors
    /// As the barrier's.
    pub(crate) fn largest(&self, mine: f64) -> Result<f64, Failure> {
        let all = self.gather(mine.to_bits())?;
        Ok(all.into_iter().map(f64::from_bits).fold(f64::NEG_INFINITY, f64::max))
    }

    /// The sum of all ranks' numbers.
    ///
    /// # Errors
    /// As the barrier's.
    pub(crate) fn sum(&self, mine: u64) -> Result<u64, Failure> {
        Ok(self.gather(mine)?.into_iter().sum())
    }

    /// Every rank's bytes, on every rank. Slow, and made for addresses.
    ///
    /// # Errors
    /// As the barrier's.
    pub(crate) fn share_bytes(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        let lengths = self.gather(mine.len() as u64)?;
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); self.ranks];
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        for start in (0..longest).step_by(8) {
            let mut word = [0; 8];
            let rest = mine.get(start..).unwrap_or_default();
            let count = rest.len().min(8);
            word[..count].copy_from_slice(&rest[..count]);
            for (bytes, word) in all.iter_mut().zip(self.gather(u64::from_le_bytes(word))?) {
                bytes.extend(word.to_le_bytes());
            }
        }
        for (bytes, length) in all.iter_mut().zip(lengths) {
            bytes.truncate(length as usize);
        }
        Ok(all)
    }

    /// Rank 0's unique id, on every rank.
    ///
    /// # Errors
    /// Rank 0 has none, or does not come.
    pub(crate) fn share_id(
        &self,
        make: impl FnOnce() -> Result<[u8; 128], Failure>,
    ) -> Result<[u8; 128], Failure> {
        let words = &self.board.words()[LINE_ID * WORDS_PER_LINE..][..WORDS_PER_LINE];
        let ready = self.board.line(LINE_ID_READY);
        let mut id = [0; 128];
        if self.rank == 0 {
            id = make()?;
            for (word, bytes) in words.iter().zip(id.chunks_exact(8)) {
                word.store(u64::from_le_bytes(bytes.try_into().expect("8 bytes")), Ordering::Relaxed);
            }
            // Publishes the id.
            ready.store(1, Ordering::Release);
        } else {
            self.wait(|| ready.load(Ordering::Acquire) == 1)?;
            for (word, bytes) in words.iter().zip(id.chunks_exact_mut(8)) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
        }
        Ok(id)
    }

    /// The two words of the line exchange.
    pub(crate) fn ping_pong(&self) -> (&AtomicU64, &AtomicU64) {
        (self.board.line(LINE_PING), self.board.line(LINE_PONG))
    }

    /// Head and tail of the ring from rank 0 (`false`) or to it.
    pub(crate) fn ring_indices(&self, towards_zero: bool) -> (&AtomicU64, &AtomicU64) {
        let first = LINE_RINGS + 2 * usize::from(towards_zero);
        (self.board.line(first), self.board.line(first + 1))
    }

    /// Copies into a ring.
    pub(crate) fn ring_in(&self, towards_zero: bool, offset: usize, source: &[u8]) {
        let start = RINGS_START_BYTES + usize::from(towards_zero) * RING_BYTES;
        self.board.map.copy_in(start + offset, source);
    }

    /// Copies out of a ring.
    pub(crate) fn ring_out(&self, towards_zero: bool, offset: usize, target: &mut [u8]) {
        let start = RINGS_START_BYTES + usize::from(towards_zero) * RING_BYTES;
        self.board.map.copy_out(start + offset, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(ranks: usize, patience: Duration) -> Vec<Seat> {
        let board = Board::create().unwrap();
        (0..ranks).map(|rank| Seat::take(Arc::clone(&board), rank, ranks, patience, true)).collect()
    }

    #[test]
    fn ranks_agree() {
        std::thread::scope(|scope| {
            for seat in seats(5, Duration::from_secs(20)) {
                scope.spawn(move || {
                    for round in 0..50 {
                        assert_eq!(seat.sum(seat.rank() as u64 + round).unwrap(), 10 + 5 * round);
                        assert_eq!(seat.largest(seat.rank() as f64 / 2.0).unwrap(), 2.0);
                        let all = seat.gather(round * 7 + seat.rank() as u64).unwrap();
                        assert_eq!(all, (0..5).map(|rank| round * 7 + rank).collect::<Vec<_>>());
                    }
                    let mine = vec![seat.rank() as u8; 3 + 7 * seat.rank()];
                    let all = seat.share_bytes(&mine).unwrap();
                    assert!(
                        all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![rank as u8; 3 + 7 * rank])
                    );
                    assert_eq!(seat.share_id(|| Ok([9; 128])).unwrap(), [9; 128]);
                });
            }
        });
    }

    #[test]
    fn the_failure_of_one_frees_the_others() {
        let mut seats = seats(2, Duration::from_secs(20));
        let other = seats.pop().unwrap();
        other.board().fail(1);
        other.board().fail(0);
        assert!(seats[0].barrier().unwrap_err().0.contains("rank 1 failed"));
    }

    #[test]
    fn patience_ends() {
        let seats = seats(2, Duration::from_millis(20));
        assert!(seats[0].barrier().unwrap_err().0.contains("waited"));
    }

    #[test]
    fn launched_ranks_meet_and_leave_no_name() {
        let path = std::env::temp_dir().join(format!("shoal-board-test-{}", std::process::id()));
        let long = Duration::from_secs(20);
        std::thread::scope(|scope| {
            for rank in 0..3 {
                let path = &path;
                scope.spawn(move || {
                    let board = Board::meet(path, rank, 3, long).unwrap();
                    let seat = Seat::take(board, rank, 3, long, true);
                    assert_eq!(seat.sum(1).unwrap(), 3);
                });
            }
        });
        assert!(!path.exists());
        let missing = Board::meet(&path, 1, 2, Duration::from_millis(10));
        assert!(missing.err().unwrap().0.contains("rank 0 did not come"));
    }

    #[test]
    fn a_child_finds_the_board_by_its_path() {
        let board = Board::create().unwrap();
        let other = Board::open(Path::new(&board.path())).unwrap();
        other.fail(3);
        assert_eq!(board.failed(), Some(3));
        assert!(Board::open(Path::new("/dev/null")).is_err());
    }
}
