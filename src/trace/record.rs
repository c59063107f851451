//! The recorder: one record a batch, always on, in a ring of the newest.
//!
//! ```text
//! head:   | magic | version, record bytes | records | rank, ranks | ticks | ns of the same moment | 0 | 0 |
//! record: | number + 1 | shape | sequence | bytes | start | end | operations, kind, failed | lone messages before |
//! ```
//! All are words of eight bytes in one mapping (`system::slots`), so a reader of the memory alone, also after
//! the process's death, finds every whole record. Times are readings of the processor's counter.
//!
//! # What it costs, and how that was chosen
//! A reading of the counter takes 20 to 40 cycles, which is a tenth of the fastest call there is. So:
//! - Who waits reads the counter in place of the pause between two looks, which costs nothing: the first look in vain
//!   is the start, the last one the end. A small batch that never waited has one reading, as its start and
//!   its end: it took less than telling them apart would be worth.
//! - A batch of some size ([`LONG_BYTES`], [`LONG_COUNT`]) takes a reading before its first look and one after its last.
//! - What follows a batch in the queue starts with the reading that ended the batch before.
//! - A lone message that went the short way costs nothing: the next record says how many there were since the
//!   record before (the sequences of batches count them anyway) and their bytes. At every [`LONE_COUNT`]th sequence
//!   one record is written for the run of them that ends there.
//!
//! A record is eight stores to one line, in order. Nothing waits for them.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::system::clock;
use crate::system::slots::Slots;

/// A batch of so many bytes is timed from before its first look.
pub const LONG_BYTES: u64 = 4096;
/// And one of so many operations.
pub const LONG_COUNT: usize = 32;
/// At multiples of this sequence a run of lone messages gets a record.
pub const LONE_COUNT: u64 = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"shoalrec");
const VERSION: u64 = 1;
const RECORD_BYTES: u64 = 64;

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Operations with a plan.
    Batch = 0,
    /// One-sided calls.
    OneSided = 1,
    /// Nothing but the lone messages before it.
    Lone = 2,
}

/// What a batch is, as it was sealed: words of a record, made once for all batches of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    shape: u64,
    bytes: u64,
    /// Operations in the lower half, the kind above.
    what: u64,
}

impl Sealed {
    /// Of `operations` that count so many bytes. `shape` is the hash of their shapes; equal shapes have equal
    /// hashes, in every process.
    #[must_use]
    pub const fn new(kind: Kind, shape: u64, bytes: u64, operations: u32) -> Sealed {
        Sealed { shape, bytes, what: operations as u64 | (kind as u64) << KIND_BIT }
    }
}

const KIND_BIT: u32 = 32;
const FAILED: u64 = 1 << 40;

/// What is known of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it was.
    pub kind: Kind,
    /// The hash of the shapes of its operations.
    pub shape: u64,
    /// What they count, in bytes.
    pub bytes: u64,
    /// How many they are.
    pub operations: u32,
    /// Its number among the batches of the communicator, lone messages among them; the first is 1.
    pub sequence: u64,
    /// Ticks of the processor's counter.
    pub start_ticks: u64,
    /// When it was done.
    pub end_ticks: u64,
    /// Whether it was given up.
    pub has_failed: bool,
    /// Lone messages between the record before and this one.
    pub lone_count: u32,
    /// Their bytes.
    pub lone_bytes: u32,
}

impl Record {
    fn from_words([shape, sequence, bytes, start_ticks, end_ticks, what, lone]: [u64; 7]) -> Record {
        let kind = match what >> KIND_BIT & 0xff {
            0 => Kind::Batch,
            1 => Kind::OneSided,
            _ => Kind::Lone,
        };
        Record {
            kind,
            shape,
            bytes,
            operations: what as u32,
            sequence,
            start_ticks,
            end_ticks,
            has_failed: what & FAILED != 0,
            lone_count: (lone >> 32) as u32,
            lone_bytes: lone as u32,
        }
    }
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Soon after the last look at it, if there was one.
    ByLook,
    /// Just now.
    Now,
    /// It was given up.
    Failed,
}

/// Notes what one communicator does. It is told, and reads the clock; nobody asks it.
#[derive(Debug, Default)]
pub struct Recorder {
    /// `None`: nothing is noted.
    ring: Option<Slots>,
    written: u64,
    /// Of the record that was written last.
    sequence: u64,
    /// Bytes of all lone messages until then.
    lone_bytes: u64,
    /// When it ended.
    end_ticks: u64,
    /// When the batch under way started; 0 if nobody has looked yet.
    start_ticks: u64,
    /// The last look at it; 0 if there was none.
    look_ticks: u64,
    /// Whether the next batch of the queue was there when the one before ended.
    follows: bool,
}

impl Recorder {
    /// One that keeps the newest `count` records at least; with 0 it notes nothing.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn new(count: usize, rank: u32, ranks: u32) -> Result<Recorder> {
        if count == 0 {
            return Ok(Recorder::default());
        }
        let places = u64::from(rank) | u64::from(ranks) << 32;
        let (form, count) = (VERSION | RECORD_BYTES << 32, Slots::rounded(count));
        let head = [MAGIC, form, count as u64, places, clock::ticks(), clock::now_ns(), 0, 0];
        Ok(Recorder { ring: Some(Slots::new(count, head)?), ..Recorder::default() })
    }

    /// A batch starts that is looked at right away; `is_long` if it is worth a reading of its own.
    #[inline]
    pub fn begin(&mut self, is_long: bool) {
        self.look_ticks = 0;
        self.start_ticks = if is_long && self.ring.is_some() { clock::ticks() } else { 0 };
    }

    /// A look in vain, with a moment's rest: the line that is looked at is left to the peer that is writing it.
    #[inline]
    pub fn look(&mut self) {
        if self.ring.is_none() {
            return std::hint::spin_loop();
        }
        self.look_ticks = clock::ticks();
        if self.start_ticks == 0 {
            self.start_ticks = self.look_ticks;
        }
    }

    /// The front of a queue starts.
    #[inline]
    pub fn begin_queued(&mut self) {
        if self.ring.is_some() {
            self.start_ticks = if self.follows { self.end_ticks } else { clock::ticks() };
            self.look_ticks = 0;
        }
    }

    /// What comes next in the queue comes after a pause.
    #[inline]
    pub fn rest(&mut self) {
        self.follows = false;
    }

    /// The batch that was begun is done, as number `sequence`. `lone_bytes` is the sum over all lone messages so far.
    #[inline]
    pub fn end(&mut self, sealed: Sealed, sequence: u64, ended: Ended, lone_bytes: u64) {
        if self.ring.is_some() {
            let has_looked = ended == Ended::ByLook && self.look_ticks != 0;
            let end_ticks = if has_looked { self.look_ticks } else { clock::ticks() };
            let start_ticks = if self.start_ticks == 0 { end_ticks } else { self.start_ticks };
            let lone_count = sequence.wrapping_sub(self.sequence).wrapping_sub(1) as u32;
            self.follows = true;
            let failed = if ended == Ended::Failed { FAILED } else { 0 };
            let sealed = Sealed { what: sealed.what | failed, ..sealed };
            self.write(sealed, [sequence, start_ticks, end_ticks, lone_bytes], lone_count);
        }
    }

    /// Lone messages went the short way, the last of them as number `sequence`: time for a record of their run, which
    /// starts where the record before ended.
    #[cold]
    pub fn end_run(&mut self, sequence: u64, lone_bytes: u64) {
        if self.ring.is_some() {
            let end_ticks = clock::ticks();
            let start_ticks = if self.end_ticks == 0 { end_ticks } else { self.end_ticks };
            let sealed = Sealed::new(Kind::Lone, 0, 0, 0);
            let lone_count = sequence.wrapping_sub(self.sequence) as u32;
            self.write(sealed, [sequence, start_ticks, end_ticks, lone_bytes], lone_count);
        }
    }

    #[inline]
    fn write(
        &mut self,
        Sealed { shape, bytes, what }: Sealed,
        [sequence, start_ticks, end_ticks, lone_bytes]: [u64; 4],
        lone_count: u32,
    ) {
        let Some(ring) = &mut self.ring else { return };
        let run_bytes = lone_bytes.wrapping_sub(self.lone_bytes) as u32;
        let lone = u64::from(run_bytes) | u64::from(lone_count) << 32;
        (self.sequence, self.lone_bytes, self.end_ticks) = (sequence, lone_bytes, end_ticks);
        ring.write(self.written, [shape, sequence, bytes, start_ticks, end_ticks, what, lone]);
        self.written += 1;
    }

    /// How many records were written, whether they are still there or not.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The records that are still there, the oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let numbers = self.written.saturating_sub(ring.count())..self.written;
        numbers.filter_map(|number| ring.read(number)).map(Record::from_words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sealed = Sealed::new(Kind::Batch, 0x5ea1, 8, 1);

    fn recorder() -> Recorder {
        Recorder::new(8, 1, 2).unwrap()
    }

    #[test]
    fn a_record_says_what_it_was_told() {
        for kind in [Kind::Batch, Kind::OneSided, Kind::Lone] {
            for ended in [Ended::Now, Ended::Failed] {
                let mut recorder = recorder();
                recorder.end(Sealed::new(kind, u64::MAX, 1 << 40, u32::MAX), 64, ended, 63 * 4096);
                let [record] = recorder.records()[..] else { panic!("one record") };
                let Record { shape, bytes, operations, .. } = record;
                assert_eq!((record.kind, shape, bytes, operations), (kind, u64::MAX, 1 << 40, u32::MAX));
                assert_eq!(record.has_failed, ended == Ended::Failed);
                assert_eq!((record.sequence, record.lone_count, record.lone_bytes), (64, 63, 63 * 4096));
            }
        }
    }

    #[test]
    fn a_small_batch_that_never_waited_has_one_time() {
        let mut recorder = recorder();
        recorder.begin(false);
        recorder.end(SMALL, 1, Ended::ByLook, 0);
        let [record] = recorder.records()[..] else { panic!("one record") };
        assert_eq!((record.shape, record.bytes, record.sequence, record.lone_count), (0x5ea1, 8, 1, 0));
        assert!(record.start_ticks == record.end_ticks && record.end_ticks > 0);
    }

    #[test]
    fn looks_are_its_times_if_it_waited() {
        let mut recorder = recorder();
        recorder.begin(false);
        let before = clock::ticks();
        recorder.look();
        recorder.look();
        let after = clock::ticks();
        recorder.end(SMALL, 1, Ended::ByLook, 0);
        recorder.begin(true);
        recorder.look();
        recorder.end(SMALL, 2, Ended::Now, 0);
        let [waited, long] = recorder.records()[..] else { panic!("two records") };
        assert!(before <= waited.start_ticks && waited.start_ticks < waited.end_ticks);
        assert!(waited.end_ticks <= after && after <= long.start_ticks);
        assert!(long.start_ticks < long.end_ticks);
    }

    #[test]
    fn who_follows_in_a_queue_starts_when_the_one_before_ends() {
        let mut recorder = recorder();
        recorder.begin_queued();
        recorder.end(SMALL, 1, Ended::Now, 0);
        recorder.begin_queued();
        recorder.end(SMALL, 2, Ended::Failed, 0);
        recorder.rest();
        recorder.begin_queued();
        recorder.end(SMALL, 3, Ended::Now, 0);
        let [first, second, third] = recorder.records()[..] else { panic!("three records") };
        assert!(first.start_ticks < first.end_ticks && first.end_ticks == second.start_ticks);
        assert!(second.has_failed && !third.has_failed && second.end_ticks < third.start_ticks);
    }

    #[test]
    fn every_lone_message_is_in_one_record() {
        let mut recorder = recorder();
        let (mut lone_bytes, mut count) = (0, 0);
        for sequence in 1..=1000 {
            if sequence % 77 == 0 {
                recorder.begin(false);
                recorder.end(SMALL, sequence, Ended::ByLook, lone_bytes);
            } else {
                (lone_bytes, count) = (lone_bytes + sequence, count + 1);
                if sequence % LONE_COUNT == 0 {
                    recorder.end_run(sequence, lone_bytes);
                }
            }
            let last = recorder.records().last().copied();
            let [newest, written] = [recorder.records().len() as u64, recorder.written()];
            assert_eq!(newest, written.min(8));
            let Some(last) = last.filter(|last| last.sequence == sequence) else { continue };
            assert!(last.lone_count <= LONE_COUNT as u32);
            count -= i64::from(last.lone_count);
            assert_eq!((count, recorder.lone_bytes), (0, lone_bytes), "at {sequence}");
        }
    }

    #[test]
    fn switched_off_it_notes_nothing() {
        let mut recorder = Recorder::new(0, 0, 1).unwrap();
        recorder.begin(true);
        recorder.look();
        recorder.end(SMALL, 1, Ended::ByLook, 0);
        recorder.begin_queued();
        recorder.end_run(64, 100);
        assert_eq!((recorder.records(), recorder.written()), (Vec::new(), 0));
    }
}
