//! The trace of one rank of one communicator, as it lies in a file; `docs/trace.md` describes it for others. Pure: it
//! reads whatever it is given, up to the first damage, and says what that was.
//!
//! ```text
//! | 4096 bytes of head | cell | cell | ... |      cell: four words of eight bytes, little end first
//!
//! definition: | 0xffffffff, id | operations, frames sent | kind | 0 |  then a cell for each operation:
//!             | peer, kind, type, operator, manner | count | algorithm | id, place + 1 |
//! batch:      | id, sequence | start | duration (48 bits), stream (16) | waited (48 bits), flags (16) |
//! ```
//! A definition says what a batch of its id was; it comes before the first. Times are ticks of the processor's counter,
//! which the head relates to the clock. A first word of 0 is the end of what was written.
#![forbid(unsafe_code)]

use std::io::Read;

use crate::op::{DataType, Kind, Reduction};

/// What the file starts with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"shoaltrc");
/// Which form of the file this is.
pub const VERSION: u64 = 1;
/// The length of the head.
pub const HEAD_BYTES: usize = 4096;
/// The length of a cell.
pub const CELL_BYTES: usize = 32;
/// The id that says that a definition follows.
pub const DEFINITION: u32 = u32::MAX;
/// Bits of durations and waits.
pub const TIME_BITS: u32 = 48;
/// Flag of a batch: it failed.
pub const FAILED: u16 = 1;
/// Kind of a definition: one-sided calls, of which nothing more is known.
pub const ONE_SIDED: u64 = 1;
/// How the file's name ends.
pub const ENDING: &str = "shoal";
/// More operations than anybody puts into a batch.
const OPERATIONS_LIMIT: u32 = 1 << 24;

/// Places of words in the head.
pub mod head {
    /// The magic number.
    pub const MAGIC: usize = 0;
    /// The version, and above it the bytes of the head.
    pub const FORM: usize = 1;
    /// The communicator: two words, the same on all its ranks.
    pub const COMMUNICATOR: usize = 2;
    /// The rank, and above it how many there are.
    pub const PLACES: usize = 4;
    /// The process.
    pub const PROCESS: usize = 5;
    /// Nanoseconds since 1970 at the start.
    pub const WALL_NS: usize = 6;
    /// The counter at that moment.
    pub const TICKS: usize = 7;
    /// The clock that never jumps at that moment.
    pub const NS: usize = 8;
    /// The counter at a later moment.
    pub const LATER_TICKS: usize = 9;
    /// That clock at that later moment.
    pub const LATER_NS: usize = 10;
    /// Batches that had no room.
    pub const DROPPED: usize = 11;
    /// The most bytes of a message that shares a frame.
    pub const COALESCE_BYTES: usize = 12;
    /// The name of the host: so many bytes from here.
    pub const HOST: usize = 16;
    /// The longest name of a host.
    pub const HOST_BYTES: usize = 64;
    /// How many words are used.
    pub const WORDS: usize = 24;
}

/// What the head says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// The communicator, the same on all its ranks.
    pub communicator: u128,
    /// Which rank.
    pub rank: u32,
    /// How many ranks.
    pub ranks: u32,
    /// Its process.
    pub process: u64,
    /// Its host.
    pub host: String,
    /// Nanoseconds since 1970 at the start.
    pub wall_ns: u64,
    /// The counter at the start.
    pub ticks: u64,
    /// What a tick takes.
    pub tick_ns: f64,
    /// Batches that had no room.
    pub dropped: u64,
    /// The most bytes of a message that shares a frame; 0: none does.
    pub coalesce_bytes: u64,
}

/// An operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which.
    pub kind: Kind,
    /// Of which elements.
    pub data_type: DataType,
    /// How they are combined, where they are.
    pub reduction: Reduction,
    /// The root or the peer; 0 where there is none.
    pub peer: u32,
    /// Whether it is in place.
    pub in_place: bool,
    /// The count of the call.
    pub count: u64,
    /// The number of its algorithm, from 1 on; 0: it has none.
    pub algorithm: u8,
}

impl Operation {
    /// The count in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.data_type.size_bytes() as u64)
    }
}

/// What batches of an id are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// In the order of the calls; none of one-sided calls.
    pub operations: Vec<Operation>,
    /// Packets by which its messages leave.
    pub frames: u32,
    /// Whether these are one-sided calls.
    pub is_one_sided: bool,
}

/// A batch that was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The place of its definition.
    pub definition: u32,
    /// Its number among the batches of the communicator; the lower half of it.
    pub sequence: u32,
    /// When it began, in ticks.
    pub start_ticks: u64,
    /// How long it took.
    pub duration_ticks: u64,
    /// For how long of that nothing moved.
    pub waited_ticks: u64,
    /// 0: the NULL stream; else a stream.
    pub stream: u16,
    /// Whether it was given up.
    pub has_failed: bool,
}

/// Reads a trace, batch by batch.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
    /// What of the buffer is read, and what is filled.
    at: usize,
    filled: usize,
    /// Cells read.
    count: u64,
    head: Head,
    definitions: Vec<Definition>,
    damage: Option<String>,
}

const BUFFER_BYTES: usize = 1 << 20;

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// It is no trace, or of another form, in one clause.
    pub fn new(mut source: R) -> Result<Reader<R>, String> {
        let mut bytes = [0; HEAD_BYTES];
        source.read_exact(&mut bytes).map_err(|cause| format!("its head cannot be read: {cause}"))?;
        let head = read_head(&bytes)?;
        Ok(Reader {
            source,
            buffer: vec![0; BUFFER_BYTES],
            at: 0,
            filled: 0,
            count: 0,
            head,
            definitions: Vec::new(),
            damage: None,
        })
    }

    /// What the head says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What batches are, by the number that they carry.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// Why it ended before the end of the file, if it did.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    fn cell(&mut self) -> Option<[u64; 4]> {
        if self.at + CELL_BYTES > self.filled {
            self.fill();
        }
        let bytes = self.buffer.get(self.at..self.filled)?.get(..CELL_BYTES)?;
        self.at += CELL_BYTES;
        self.count += 1;
        Some([0, 1, 2, 3].map(|index| word(bytes, index)))
    }

    fn fill(&mut self) {
        self.buffer.copy_within(self.at..self.filled, 0);
        (self.at, self.filled) = (0, self.filled - self.at);
        while self.filled < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return,
                Ok(count) => self.filled += count,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    self.damage = Some(format!("it cannot be read further: {cause}"));
                    return;
                }
            }
        }
    }

    /// Notes what is wrong, and where; what comes behind is not read.
    fn spoil(&mut self, what: &str) -> Option<Batch> {
        let place = HEAD_BYTES as u64 + self.count.saturating_sub(1) * CELL_BYTES as u64;
        self.damage.get_or_insert_with(|| format!("{what}, at byte {place}; what follows is not read"));
        (self.at, self.filled) = (0, 0);
        None
    }

    /// The next batch; `None` at the end, or where the file is damaged.
    #[allow(clippy::should_implement_trait, reason = "definitions are looked at in between")]
    pub fn next(&mut self) -> Option<Batch> {
        while self.damage.is_none() {
            let [first, start_ticks, duration, waited] = self.cell()?;
            let (id, sequence) = (first as u32, (first >> 32) as u32);
            if first == 0 {
                return None;
            }
            if id == DEFINITION {
                self.define([first, start_ticks, duration])?;
                continue;
            }
            if id == 0 || id as usize > self.definitions.len() {
                return self.spoil("a batch without a definition");
            }
            let mask = (1_u64 << TIME_BITS) - 1;
            return Some(Batch {
                definition: id - 1,
                sequence,
                start_ticks,
                duration_ticks: duration & mask,
                waited_ticks: (waited & mask).min(duration & mask),
                stream: (duration >> TIME_BITS) as u16,
                has_failed: (waited >> TIME_BITS) as u16 & FAILED != 0,
            });
        }
        None
    }

    fn define(&mut self, [first, counts, kind]: [u64; 3]) -> Option<()> {
        let (id, operations) = ((first >> 32) as u32, counts as u32);
        if id as usize != self.definitions.len() + 1 || operations > OPERATIONS_LIMIT {
            return self.spoil("a definition that cannot be").map(drop);
        }
        // Not more at once than is surely there.
        let mut list = Vec::with_capacity(operations.min(1024) as usize);
        for place in 0..operations {
            let Some([small, count, algorithm, proof]) = self.cell() else {
                return self.spoil("a definition that breaks off").map(drop);
            };
            let operation = read_operation(small, count, algorithm);
            let is_its = proof == u64::from(id) | u64::from(place + 1) << 32;
            let Some(operation) = operation.filter(|_| is_its) else {
                return self.spoil("an operation that cannot be").map(drop);
            };
            list.push(operation);
        }
        let (frames, is_one_sided) = ((counts >> 32) as u32, kind == ONE_SIDED);
        self.definitions.push(Definition { operations: list, frames, is_one_sided });
        Some(())
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let eight = bytes.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
    eight.map_or(0, |eight| u64::from_le_bytes(*eight))
}

fn read_operation(small: u64, count: u64, algorithm: u64) -> Option<Operation> {
    let byte = |shift: u32| (small >> shift) as u8 as usize;
    const REDUCTIONS: [Reduction; 6] = [
        Reduction::Sum,
        Reduction::Prod,
        Reduction::Max,
        Reduction::Min,
        Reduction::Avg,
        Reduction::PreMulSum,
    ];
    Some(Operation {
        kind: *Kind::ALL.get(byte(32))?,
        data_type: *DataType::ALL.get(byte(40))?,
        reduction: *REDUCTIONS.get(byte(48))?,
        peer: small as u32,
        in_place: byte(56) & 1 == 1,
        count,
        algorithm: u8::try_from(algorithm).ok()?,
    })
}

fn read_head(bytes: &[u8; HEAD_BYTES]) -> Result<Head, String> {
    let at = |index: usize| word(bytes, index);
    if at(head::MAGIC) != MAGIC {
        return Err("it is no trace of shoal".into());
    }
    let form = at(head::FORM);
    if form != VERSION | (HEAD_BYTES as u64) << 32 {
        return Err(format!("it is a trace of form {}, and this program reads form {VERSION}", form as u32));
    }
    let [ticks, ns] = [head::TICKS, head::NS].map(at);
    let [later_ticks, later_ns] = [head::LATER_TICKS, head::LATER_NS].map(at);
    let (span_ticks, span_ns) = (later_ticks.wrapping_sub(ticks), later_ns.wrapping_sub(ns));
    let tick_ns = span_ns as f64 / span_ticks as f64;
    if !(1e-3..=1e6).contains(&tick_ns) {
        return Err("its head does not say how long a tick is".into());
    }
    let name = &bytes[head::HOST * 8..][..head::HOST_BYTES];
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Head {
        communicator: u128::from(at(head::COMMUNICATOR)) | u128::from(at(head::COMMUNICATOR + 1)) << 64,
        rank: at(head::PLACES) as u32,
        ranks: (at(head::PLACES) >> 32) as u32,
        process: at(head::PROCESS),
        host: String::from_utf8_lossy(name).into_owned(),
        wall_ns: at(head::WALL_NS),
        ticks,
        tick_ns,
        dropped: at(head::DROPPED),
        coalesce_bytes: at(head::COALESCE_BYTES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trace of a definition of two operations and `count` batches of it.
    fn sample(count: u32) -> Vec<u8> {
        let mut words = vec![0_u64; HEAD_BYTES / 8];
        words[head::MAGIC] = MAGIC;
        words[head::FORM] = VERSION | (HEAD_BYTES as u64) << 32;
        words[head::PLACES] = 1 | 2 << 32;
        (words[head::LATER_TICKS], words[head::LATER_NS]) = (2000, 1000);
        words[head::HOST] = u64::from_le_bytes(*b"blue\0\0\0\0");
        let small = |kind: Kind, peer: u64| peer | (kind as u64) << 32 | (DataType::Float32 as u64) << 40;
        words.extend([u64::from(DEFINITION) | 1 << 32, 2 | 1 << 32, 0, 0]);
        words.extend([small(Kind::Send, 3), 10, 0, 1 | 1 << 32]);
        words.extend([small(Kind::AllReduce, 0), 20, 4, 1 | 2 << 32]);
        for number in 0..u64::from(count) {
            words.extend([1 | (number + 1) << 32, 100 * number, 50 | 1 << TIME_BITS, 20 | 1 << TIME_BITS]);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Batch>, Option<String>), String> {
        let mut reader = Reader::new(bytes)?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next() {
            assert!(reader.definitions().get(batch.definition as usize).is_some());
            batches.push(batch);
        }
        Ok((batches, reader.damage().map(str::to_owned)))
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample(40_000);
        let mut reader = Reader::new(bytes.as_slice()).expect("a trace");
        let first = reader.next().expect("a batch");
        let Head { rank, ranks, tick_ns, ref host, .. } = *reader.head();
        assert_eq!((rank, ranks, tick_ns, host.as_str()), (1, 2, 0.5, "blue"));
        let [send, sum] = reader.definitions()[0].operations[..] else { panic!("two operations") };
        assert_eq!((send.kind, send.peer, send.bytes(), send.algorithm), (Kind::Send, 3, 40, 0));
        assert_eq!(
            (sum.kind, sum.bytes(), sum.algorithm, reader.definitions()[0].frames),
            (Kind::AllReduce, 80, 4, 1)
        );
        assert_eq!((first.sequence, first.duration_ticks, first.waited_ticks), (1, 50, 20));
        assert_eq!((first.stream, first.has_failed), (1, true));
        assert_eq!(read(&bytes).map(|(batches, damage)| (batches.len(), damage)), Ok((40_000, None)));
    }

    #[test]
    fn what_is_cut_off_is_read_up_to_there() {
        let bytes = sample(10);
        for length in 0..bytes.len() {
            let cells = length.saturating_sub(HEAD_BYTES) / CELL_BYTES;
            match read(&bytes[..length]) {
                Err(problem) => {
                    assert!(length < HEAD_BYTES && problem.contains("head"), "{length}: {problem}")
                }
                Ok((batches, damage)) => {
                    assert_eq!(batches.len(), cells.saturating_sub(3), "{length}");
                    assert_eq!(damage.is_some(), (1..3).contains(&cells), "{length}: {damage:?}");
                }
            }
        }
    }

    #[test]
    fn whatever_is_in_it_nothing_but_a_sentence_comes_of_it() {
        let mut state = 9_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        let whole = sample(50);
        let mut damaged_count = 0;
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + next() % 4 {
                let place = if next() % 3 == 0 {
                    next() % 200
                } else {
                    HEAD_BYTES + next() % (bytes.len() - HEAD_BYTES)
                };
                bytes[place] = next() as u8;
            }
            bytes.truncate(bytes.len() - next() % 100);
            damaged_count += usize::from(!matches!(read(&bytes), Ok((_, None))));
        }
        assert!(damaged_count > 200, "{damaged_count}");
        assert!(read(&[0; 8192]).is_err());
    }
}
