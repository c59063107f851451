//! The recorder: one record a batch, always on, in a ring of the newest.
//!
//! ```text
//! head:   | magic | version, record bytes | records | rank, ranks | ticks | ns of the same moment | 0 | 0 |
//! record: | number + 1 | what | collectives so far, root or peer | sequence | bytes | start | end | the rest |
//! rest:   bits 0..24 operations | 24..28 kind | 28 failed | 29..37 lone messages before | 37..64 their bytes
//! ```
//! All are words of eight bytes in one mapping (`system::slots`), so a reader of the memory alone, also after
//! the process's death, finds every whole record. It is the memory that the ranks of a host share, where there is
//! some: whoever waits in vain reads there what others did last (`engine::stall`), and so does `shoal doctor --job`.
//! Times are readings of the processor's counter. What a batch was is a head as of packets (`coalesce::head`).
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
use crate::op::Head;
use crate::system::clock;
use crate::system::slots::Slots;
use crate::trace::tracer::{Done, Tracer};

/// A batch of so many bytes is timed from before its first look.
pub const LONG_BYTES: u64 = 4096;
/// And one of so many operations.
pub const LONG_COUNT: usize = 32;
/// At multiples of this sequence a run of lone messages gets a record.
pub const LONE_COUNT: u64 = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"shoalrec");
const VERSION: u64 = 2;
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
    head: Head,
    bytes: u64,
    /// Operations and kind.
    rest: u64,
}

impl Sealed {
    /// Of `operations` (as many as can be told) that count so many bytes, and are what `head` says.
    #[must_use]
    pub const fn new(kind: Kind, head: Head, bytes: u64, operations: u64) -> Sealed {
        let operations = if operations > OPERATIONS { OPERATIONS } else { operations };
        Sealed { head, bytes, rest: operations | (kind as u64) << KIND_BIT }
    }
}

const OPERATIONS: u64 = (1 << KIND_BIT) - 1;
const KIND_BIT: u32 = 24;
const FAILED: u64 = 1 << 28;
const LONE_BIT: u32 = 29;
const LONE_BYTES_BIT: u32 = 37;
// Between two records lie at most so many lone messages of a page each.
const _: () =
    assert!(LONE_COUNT < 1 << (LONE_BYTES_BIT - LONE_BIT) && LONE_COUNT << 12 < 1 << (64 - LONE_BYTES_BIT));

/// What is known of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it was.
    pub kind: Kind,
    /// What it was, as [`Sealed`] was told.
    pub head: Head,
    /// How many collectives the communicator had begun by its end.
    pub collectives: u32,
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
    /// As it lies in the memory of whichever rank wrote it.
    #[must_use]
    pub fn from_words([what, which, sequence, bytes, start_ticks, end_ticks, rest]: [u64; 7]) -> Record {
        let kind = match rest >> KIND_BIT & 0xf {
            0 => Kind::Batch,
            1 => Kind::OneSided,
            _ => Kind::Lone,
        };
        Record {
            kind,
            head: Head { what, which: which >> 32 << 32 },
            collectives: which as u32,
            bytes,
            operations: (rest & OPERATIONS) as u32,
            sequence,
            start_ticks,
            end_ticks,
            has_failed: rest & FAILED != 0,
            lone_count: (rest >> LONE_BIT) as u8 as u32,
            lone_bytes: (rest >> LONE_BYTES_BIT) as u32,
        }
    }
}

/// How long ago the batch of a record ended, by the head of its ring and the time now.
#[must_use]
pub fn age_ns(ring: &Slots, record: &Record) -> u64 {
    let [_, _, _, _, ticks, ns, ..] = ring.head();
    let (now_ticks, now_ns) = (clock::ticks(), clock::now_ns());
    let age_ticks = now_ticks.saturating_sub(record.end_ticks);
    let (span_ticks, span_ns) = (now_ticks.saturating_sub(ticks), now_ns.saturating_sub(ns));
    if span_ticks == 0 {
        0
    } else {
        (u128::from(age_ticks) * u128::from(span_ns) / u128::from(span_ticks)) as u64
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

/// What the communicator has counted until a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoFar {
    /// Bytes of all lone messages.
    pub lone_bytes: u64,
    /// Collectives that were begun.
    pub collectives: u32,
}

/// Notes what one communicator does. It is told, and reads the clock; nobody asks it.
#[derive(Debug, Default)]
pub struct Recorder {
    /// `None`: nothing is noted.
    ring: Option<Slots>,
    /// Whether others see the ring.
    is_shared: bool,
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
    /// What keeps everything, if something does.
    tracer: Option<Box<Tracer>>,
    /// For how long nothing has moved since the batch under way began; only for the tracer.
    waited_ticks: u64,
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
        let own = Recorder::over(Slots::new(count)?, rank, ranks);
        Ok(Recorder { is_shared: false, ..own })
    }

    /// One that writes to a ring that others see.
    #[must_use]
    pub fn over(mut ring: Slots, rank: u32, ranks: u32) -> Recorder {
        let places = u64::from(rank) | u64::from(ranks) << 32;
        let (form, count) = (VERSION | RECORD_BYTES << 32, ring.count());
        ring.begin([MAGIC, form, count, places, clock::ticks(), clock::now_ns(), 0, 0]);
        Recorder { ring: Some(ring), is_shared: true, ..Recorder::default() }
    }

    /// From now on everything is kept as well; to be told by [`Self::note`] behind each [`Self::end`].
    pub fn trace_by(&mut self, tracer: Tracer) {
        self.tracer = Some(Box::new(tracer));
    }

    /// Whether everything is kept.
    #[must_use]
    #[inline]
    pub fn is_tracing(&self) -> bool {
        self.tracer.is_some()
    }

    /// What keeps everything, if something does.
    pub fn tracer(&mut self) -> Option<&mut Tracer> {
        self.tracer.as_deref_mut()
    }

    /// Keeps the batch that ended last: what it was by its id, if there was room to say it.
    pub fn note(&mut self, id: Option<u32>, sequence: u64, stream: u16, has_failed: bool) {
        let (start_ticks, end_ticks, waited_ticks) = (self.start_ticks, self.end_ticks, self.waited_ticks);
        if let Some(tracer) = &mut self.tracer {
            // Of a batch that was given up before it began no start is known.
            let start_ticks = if start_ticks == 0 { end_ticks } else { start_ticks };
            tracer.write(id, &Done { sequence, start_ticks, end_ticks, waited_ticks, stream, has_failed });
        }
    }

    /// Lets go of memory that is shared and of the trace; nothing is noted from now on.
    pub fn leave(&mut self) {
        self.tracer = None;
        if self.is_shared {
            self.ring = None;
        }
    }

    /// A batch starts that is looked at right away; `is_long` if it is worth a reading of its own.
    #[inline]
    pub fn begin(&mut self, is_long: bool) {
        self.look_ticks = 0;
        self.start_ticks = 0;
        if is_long && self.ring.is_some() {
            self.start_ticks = clock::ticks();
            self.waited_ticks = 0;
        }
    }

    /// A look in vain, or at what is not done yet, with a moment's rest: the line that is looked at is left to the peer
    /// that is writing it. `is_waiting`: nothing moved.
    #[inline]
    pub fn look(&mut self, is_waiting: bool) {
        if self.ring.is_none() {
            return std::hint::spin_loop();
        }
        let before = self.look_ticks.max(self.start_ticks);
        self.look_ticks = clock::ticks();
        if self.start_ticks == 0 {
            self.start_ticks = self.look_ticks;
        } else if is_waiting {
            self.waited_ticks += self.look_ticks.saturating_sub(before);
        }
    }

    /// A look at the front of a queue, for the trace.
    #[inline]
    pub fn look_queued(&mut self, is_waiting: bool) {
        if self.is_tracing() {
            self.look(is_waiting);
        }
    }

    /// The front of a queue starts.
    #[inline]
    pub fn begin_queued(&mut self) {
        if self.ring.is_some() {
            self.start_ticks = if self.follows { self.end_ticks } else { clock::ticks() };
            self.look_ticks = 0;
            self.waited_ticks = 0;
        }
    }

    /// What comes next in the queue comes after a pause.
    #[inline]
    pub fn rest(&mut self) {
        self.follows = false;
    }

    /// The batch that was begun is done, as number `sequence`.
    #[inline]
    pub fn end(&mut self, sealed: Sealed, sequence: u64, ended: Ended, so_far: SoFar) {
        if self.ring.is_some() {
            let has_looked = ended == Ended::ByLook && self.look_ticks != 0;
            let end_ticks = if has_looked { self.look_ticks } else { clock::ticks() };
            let start_ticks = if self.start_ticks == 0 { end_ticks } else { self.start_ticks };
            let lone_count = sequence.wrapping_sub(self.sequence).wrapping_sub(1) as u32;
            self.follows = true;
            let failed = if ended == Ended::Failed { FAILED } else { 0 };
            let sealed = Sealed { rest: sealed.rest | failed, ..sealed };
            self.write(sealed, [sequence, start_ticks, end_ticks], lone_count, so_far);
        }
    }

    /// Lone messages went the short way, the last of them as number `sequence`: time for a record of their run, which
    /// starts where the record before ended.
    #[cold]
    pub fn end_run(&mut self, sequence: u64, so_far: SoFar) {
        if self.ring.is_some() {
            let end_ticks = clock::ticks();
            let start_ticks = if self.end_ticks == 0 { end_ticks } else { self.end_ticks };
            let sealed = Sealed::new(Kind::Lone, Head { what: 0, which: 0 }, 0, 0);
            let lone_count = sequence.wrapping_sub(self.sequence) as u32;
            self.write(sealed, [sequence, start_ticks, end_ticks], lone_count, so_far);
        }
    }

    #[inline]
    fn write(
        &mut self,
        Sealed { head, bytes, rest }: Sealed,
        [sequence, start_ticks, end_ticks]: [u64; 3],
        lone_count: u32,
        so_far: SoFar,
    ) {
        let Some(ring) = &mut self.ring else { return };
        let run_bytes = so_far.lone_bytes.wrapping_sub(self.lone_bytes);
        let rest = rest | u64::from(lone_count as u8) << LONE_BIT | run_bytes << LONE_BYTES_BIT;
        let which = head.which | u64::from(so_far.collectives);
        (self.sequence, self.lone_bytes, self.end_ticks) = (sequence, so_far.lone_bytes, end_ticks);
        ring.write(self.written, [head.what, which, sequence, bytes, start_ticks, end_ticks, rest]);
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

    const HEAD: Head = Head { what: 0x5ea1, which: 3 << 32 };
    const SMALL: Sealed = Sealed::new(Kind::Batch, HEAD, 8, 1);

    fn recorder() -> Recorder {
        Recorder::new(8, 1, 2).unwrap()
    }

    #[test]
    fn a_record_says_what_it_was_told() {
        for kind in [Kind::Batch, Kind::OneSided, Kind::Lone] {
            for ended in [Ended::Now, Ended::Failed] {
                let mut recorder = recorder();
                let so_far = SoFar { lone_bytes: 63 * 4096, collectives: u32::MAX };
                recorder.end(Sealed::new(kind, HEAD, 1 << 40, u64::MAX), 64, ended, so_far);
                let [record] = recorder.records()[..] else { panic!("one record") };
                let Record { head, bytes, operations, .. } = record;
                assert_eq!((record.kind, head, bytes, operations), (kind, HEAD, 1 << 40, (1 << 24) - 1));
                assert_eq!(record.collectives, u32::MAX);
                assert_eq!(record.has_failed, ended == Ended::Failed);
                assert_eq!((record.sequence, record.lone_count, record.lone_bytes), (64, 63, 63 * 4096));
            }
        }
    }

    #[test]
    fn a_small_batch_that_never_waited_has_one_time() {
        let mut recorder = recorder();
        recorder.begin(false);
        recorder.end(SMALL, 1, Ended::ByLook, SoFar::default());
        let [record] = recorder.records()[..] else { panic!("one record") };
        assert_eq!((record.head, record.bytes, record.sequence, record.lone_count), (HEAD, 8, 1, 0));
        assert!(record.start_ticks == record.end_ticks && record.end_ticks > 0);
    }

    #[test]
    fn looks_are_its_times_if_it_waited() {
        let mut recorder = recorder();
        recorder.begin(false);
        let before = clock::ticks();
        recorder.look(true);
        recorder.look(true);
        let after = clock::ticks();
        recorder.end(SMALL, 1, Ended::ByLook, SoFar::default());
        recorder.begin(true);
        recorder.look(true);
        recorder.end(SMALL, 2, Ended::Now, SoFar::default());
        let [waited, long] = recorder.records()[..] else { panic!("two records") };
        assert!(before <= waited.start_ticks && waited.start_ticks < waited.end_ticks);
        assert!(waited.end_ticks <= after && after <= long.start_ticks);
        assert!(long.start_ticks < long.end_ticks);
    }

    #[test]
    fn who_follows_in_a_queue_starts_when_the_one_before_ends() {
        let mut recorder = recorder();
        recorder.begin_queued();
        recorder.end(SMALL, 1, Ended::Now, SoFar::default());
        recorder.begin_queued();
        recorder.end(SMALL, 2, Ended::Failed, SoFar::default());
        recorder.rest();
        recorder.begin_queued();
        recorder.end(SMALL, 3, Ended::Now, SoFar::default());
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
                recorder.end(SMALL, sequence, Ended::ByLook, SoFar { lone_bytes, collectives: 0 });
            } else {
                (lone_bytes, count) = (lone_bytes + sequence, count + 1);
                if sequence % LONE_COUNT == 0 {
                    recorder.end_run(sequence, SoFar { lone_bytes, collectives: 0 });
                }
            }
            let last = recorder.records().last().copied();
            let [newest, written] = [recorder.records().len() as u64, recorder.written()];
            assert_eq!(newest, written.min(32));
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
        recorder.look(true);
        recorder.end(SMALL, 1, Ended::ByLook, SoFar::default());
        recorder.begin_queued();
        recorder.end_run(64, SoFar { lone_bytes: 100, collectives: 0 });
        assert_eq!((recorder.records(), recorder.written()), (Vec::new(), 0));
    }
}
