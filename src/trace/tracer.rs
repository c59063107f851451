//! Writes the trace of one rank: a definition for each shape of batch when it first comes, then a cell a batch
//! ([`super::file`]). What it writes is in the file at once ([`crate::system::tape`]); what has no room is counted.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::SystemTime;

use super::file::{self, DEFINITION, TIME_BITS, head};
use crate::error::{Error, Result};
use crate::op::Shape;
use crate::system::clock;
use crate::system::tape::Tape;

/// After so many batches the head relates counter and clock anew.
const RELATE_COUNT: u64 = 1024;
/// How long the counter is compared with the clock at first.
const COMPARE_NS: u64 = 1_000_000;

/// Who writes, and of what.
#[derive(Clone, Debug)]
pub struct Title {
    /// The communicator, the same on all its ranks.
    pub communicator: u128,
    /// Which rank.
    pub rank: u32,
    /// How many ranks.
    pub ranks: u32,
    /// The host.
    pub host: String,
    /// The most bytes of a message that shares a frame.
    pub coalesce_bytes: u64,
}

/// A batch that is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Its number.
    pub sequence: u64,
    /// When it began.
    pub start_ticks: u64,
    /// When it ended.
    pub end_ticks: u64,
    /// For how long nothing moved.
    pub waited_ticks: u64,
    /// 0: the NULL stream.
    pub stream: u16,
    /// Whether it was given up.
    pub has_failed: bool,
}

/// The trace of one rank of one communicator.
#[derive(Debug)]
pub struct Tracer {
    tape: Tape,
    definitions: u32,
    batches: u64,
    dropped: u64,
}

impl Tracer {
    /// A new file in `folder`, which is made if it is not there; at most `limit_bytes` long.
    ///
    /// # Errors
    /// The system's.
    pub fn create(folder: &Path, title: &Title, limit_bytes: u64) -> Result<Tracer> {
        std::fs::create_dir_all(folder).map_err(|cause| {
            Error::system(
                format_args!("making {}", folder.display()),
                cause,
                "set SHOAL_TRACE to a folder of yours",
            )
        })?;
        let Title { communicator, rank, ranks, .. } = *title;
        let process = std::process::id();
        let name = format!("{:016x}-rank{rank}-{process}.{}", communicator as u64, file::ENDING);
        let mut words = [0; head::WORDS];
        words[head::MAGIC] = file::MAGIC;
        words[head::FORM] = file::VERSION | (file::HEAD_BYTES as u64) << 32;
        words[head::COMMUNICATOR] = communicator as u64;
        words[head::COMMUNICATOR + 1] = (communicator >> 64) as u64;
        words[head::PLACES] = u64::from(rank) | u64::from(ranks) << 32;
        words[head::PROCESS] = u64::from(process);
        words[head::WALL_NS] = wall_ns();
        (words[head::TICKS], words[head::NS]) = (clock::ticks(), clock::now_ns());
        let [later_ticks, later_ns] = later(words[head::NS]);
        (words[head::LATER_TICKS], words[head::LATER_NS]) = (later_ticks, later_ns);
        words[head::COALESCE_BYTES] = title.coalesce_bytes;
        for (place, byte) in title.host.bytes().take(head::HOST_BYTES).enumerate() {
            words[head::HOST + place / 8] |= u64::from(byte) << (place % 8 * 8);
        }
        let tape = Tape::create(&folder.join(name), &words, limit_bytes)?;
        Ok(Tracer { tape, definitions: 0, batches: 0, dropped: 0 })
    }

    /// Says what batches of a new id are: their shapes with the numbers of their algorithms (0: none), and in how many
    /// packets their messages leave. `None`: there is no room for it.
    pub fn define(&mut self, operations: &[(Shape, u8)], frames: u32, is_one_sided: bool) -> Option<u32> {
        if !self.tape.has_room(operations.len() + 1) {
            return None;
        }
        let id = self.definitions + 1;
        let kind = if is_one_sided { file::ONE_SIDED } else { 0 };
        let counts = operations.len() as u64 | u64::from(frames) << 32;
        self.tape.push([u64::from(DEFINITION) | u64::from(id) << 32, counts, kind, 0]).then_some(())?;
        for (place, (shape, algorithm)) in (1..).zip(operations) {
            let proof = u64::from(id) | place << 32;
            let cell = [shape.small(), shape.count as u64, u64::from(*algorithm), proof];
            self.tape.push(cell).then_some(())?;
        }
        self.definitions = id;
        Some(id)
    }

    /// Writes that a batch of an id is done; without an id it only counts.
    #[inline]
    pub fn write(&mut self, id: Option<u32>, done: &Done) {
        let time = |ticks: u64| ticks.min((1 << TIME_BITS) - 1);
        let flags = if done.has_failed { u64::from(file::FAILED) } else { 0 };
        let duration = time(done.end_ticks.saturating_sub(done.start_ticks));
        let words = |id: u32| {
            [
                u64::from(id) | done.sequence << 32,
                done.start_ticks,
                duration | u64::from(done.stream) << TIME_BITS,
                time(done.waited_ticks) | flags << TIME_BITS,
            ]
        };
        if !id.is_some_and(|id| self.tape.push(words(id))) {
            self.dropped += 1;
            self.tape.set_head(head::DROPPED, self.dropped);
        }
        self.batches += 1;
        if self.batches.is_multiple_of(RELATE_COUNT) {
            self.relate();
        }
    }

    #[cold]
    fn relate(&mut self) {
        self.tape.set_head(head::LATER_TICKS, clock::ticks());
        self.tape.set_head(head::LATER_NS, clock::now_ns());
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.relate();
    }
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Counter and clock, some time after the clock showed `start_ns`.
fn later(start_ns: u64) -> [u64; 2] {
    loop {
        let (ticks, now_ns) = (clock::ticks(), clock::now_ns());
        if now_ns.saturating_sub(start_ns) >= COMPARE_NS {
            return [ticks, now_ns];
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Kind, Manner, Reduction};
    use crate::trace::file::Reader;

    fn folder(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("shoal-tracer-{name}-{}", std::process::id()))
    }

    fn title() -> Title {
        Title { communicator: 77 << 64 | 5, rank: 1, ranks: 3, host: "blue".into(), coalesce_bytes: 1024 }
    }

    fn shape(kind: Kind, count: usize) -> Shape {
        Shape {
            count,
            peer: 2,
            kind,
            data_type: DataType::Int32,
            reduction: Reduction::Sum,
            manner: Manner::PLAIN,
        }
    }

    fn open(folder: &Path) -> Reader<std::fs::File> {
        let mut entries = std::fs::read_dir(folder).unwrap().flatten();
        let entry = entries.find(|entry| entry.path().is_file()).expect("a file");
        Reader::new(std::fs::File::open(entry.path()).unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_while_it_is_open_and_after() {
        let folder = folder("open");
        let mut tracer = Tracer::create(&folder, &title(), u64::MAX).unwrap();
        let group = tracer.define(&[(shape(Kind::Send, 9), 0), (shape(Kind::Recv, 9), 0)], 1, false).unwrap();
        let sum = tracer.define(&[(shape(Kind::AllReduce, 5), 3)], 0, false).unwrap();
        for sequence in 1..=5000 {
            let id = if sequence % 2 == 0 { group } else { sum };
            let done = Done {
                sequence,
                start_ticks: sequence * 10,
                end_ticks: sequence * 10 + 7,
                waited_ticks: 3,
                ..Done::default()
            };
            tracer.write(Some(id), &done);
        }
        for is_open in [true, false] {
            let mut reader = open(&folder);
            let mut count = 0;
            while let Some(batch) = reader.next() {
                count += 1;
                let [first, ..] = reader.definitions()[batch.definition as usize].operations[..] else {
                    panic!()
                };
                let expected = if count % 2 == 0 { (Kind::Send, 36) } else { (Kind::AllReduce, 20) };
                assert_eq!((batch.sequence, first.kind, first.bytes()), (count, expected.0, expected.1));
                assert_eq!((batch.duration_ticks, batch.waited_ticks, first.peer), (7, 3, 2));
            }
            let head = reader.head().clone();
            assert_eq!((count, reader.damage(), head.communicator), (5000, None, 77 << 64 | 5), "{is_open}");
            assert!(
                head.tick_ns > 0.01 && head.wall_ns > 1 << 60 && head.host == "blue" && head.dropped == 0
            );
            if is_open {
                tracer = Tracer::create(&folder.join("other"), &title(), u64::MAX).unwrap();
            }
        }
        drop(tracer);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let folder = folder("full");
        let mut tracer = Tracer::create(&folder, &title(), 300_000).unwrap();
        let id = tracer.define(&[(shape(Kind::AllReduce, 5), 3)], 0, false);
        for sequence in 1..=10_000 {
            tracer.write(id, &Done { sequence, ..Done::default() });
        }
        assert_eq!(tracer.define(&[(shape(Kind::AllReduce, 6), 3)], 0, false), None);
        let mut reader = open(&folder);
        let count = std::iter::from_fn(|| reader.next()).count() as u64;
        assert_eq!((count + reader.head().dropped, count), (10_000, 8192 - 2));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
