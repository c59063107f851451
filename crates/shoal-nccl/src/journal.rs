//! What NCCL told of one communicator, batch by batch, until it is written. It never touches memory of NCCL's.
//!
//! A batch is what NCCL launches together: it begins, gets its operations, is closed once they are enqueued, and is
//! done when all channels of its kernels have ended. Batches are written in the order in which they began.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use shoal::op::{DataType, Kind, Manner, Reduction, Shape};
use shoal::trace::tracer::{Done, Tracer};

/// So many batches may be under way; what NCCL never ends is written then as it is.
const OPEN_LIMIT: usize = 4096;

/// A batch that is not written yet.
#[derive(Debug, Default)]
struct Open {
    operations: Vec<(Shape, u8)>,
    began_ticks: u64,
    /// When the first kernel began.
    moved_ticks: Option<u64>,
    last_ticks: u64,
    /// Channels of kernels, as the operations announce them, and those that have ended.
    channels: u32,
    ended: u32,
    is_closed: bool,
}

/// The batches of one rank of a communicator.
#[derive(Debug)]
pub(crate) struct Journal {
    tracer: Tracer,
    rank: u32,
    ids: HashMap<Vec<(Shape, u8)>, Option<u32>>,
    open: VecDeque<Open>,
    /// The number of the first that is open.
    first: u64,
    written: u64,
}

impl Journal {
    pub(crate) fn new(tracer: Tracer, rank: u32) -> Journal {
        Journal { tracer, rank, ids: HashMap::new(), open: VecDeque::new(), first: 0, written: 0 }
    }

    /// A batch begins; its number.
    pub(crate) fn begin(&mut self, now_ticks: u64) -> u64 {
        if self.open.len() >= OPEN_LIMIT {
            self.write_first();
        }
        self.open.push_back(Open { began_ticks: now_ticks, last_ticks: now_ticks, ..Open::default() });
        self.first + self.open.len() as u64 - 1
    }

    fn get(&mut self, number: u64) -> Option<&mut Open> {
        self.open.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// An operation of a batch, whose kernel has so many channels.
    pub(crate) fn add(&mut self, number: u64, call: &Call, channels: u8) {
        let shape = call.shape(self.rank);
        if let (Some(shape), Some(open)) = (shape, self.get(number)) {
            open.operations.push((shape, 0));
            open.channels += u32::from(channels);
        }
    }

    /// A channel of a kernel begins.
    pub(crate) fn move_on(&mut self, number: u64, now_ticks: u64) {
        if let Some(open) = self.get(number) {
            open.moved_ticks.get_or_insert(now_ticks);
        }
    }

    /// A channel of a kernel has ended.
    pub(crate) fn end(&mut self, number: u64, now_ticks: u64) {
        if let Some(open) = self.get(number) {
            open.ended += 1;
            open.last_ticks = now_ticks.max(open.last_ticks);
        }
        self.write_done();
    }

    /// All of a batch is enqueued.
    pub(crate) fn close(&mut self, number: u64, now_ticks: u64) {
        if let Some(open) = self.get(number) {
            open.is_closed = true;
            open.last_ticks = now_ticks.max(open.last_ticks);
        }
        self.write_done();
    }

    fn write_done(&mut self) {
        while self.open.front().is_some_and(|open| open.is_closed && open.ended >= open.channels) {
            self.write_first();
        }
    }

    fn write_first(&mut self) {
        let Some(open) = self.open.pop_front() else { return };
        self.first += 1;
        if open.operations.is_empty() {
            return;
        }
        self.written += 1;
        let done = Done {
            sequence: self.written,
            start_ticks: open.began_ticks,
            end_ticks: open.last_ticks,
            waited_ticks: open.moved_ticks.map_or(0, |moved| moved.saturating_sub(open.began_ticks)),
            stream: 1,
            has_failed: false,
        };
        let tracer = &mut self.tracer;
        let id = self.ids.entry(open.operations).or_insert_with_key(|operations| {
            // NCCL sends each message by itself.
            let sent = operations.iter().filter(|(shape, _)| shape.kind == Kind::Send).count();
            tracer.define(operations, sent as u32, false)
        });
        tracer.write(*id, &done);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        while !self.open.is_empty() {
            self.write_first();
        }
    }
}

/// What NCCL says of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) data_type: String,
    pub(crate) count: usize,
    /// The root or the peer.
    pub(crate) peer: i32,
    pub(crate) source: usize,
    pub(crate) target: usize,
}

impl Call {
    /// `None` of what no trace can hold.
    fn shape(&self, rank: u32) -> Option<Shape> {
        use shoal::op::Address;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(&self.name))?;
        let has_peer = kind.is_point_to_point() || kind.has_root();
        let peer = if has_peer { u32::try_from(self.peer).ok()? } else { 0 };
        let (data_type, reduction) = (data_type(&self.data_type)?, Reduction::Sum);
        let shape = Shape { count: self.count, peer, kind, data_type, reduction, manner: Manner::PLAIN };
        Some(shape.at(Address(self.source), Address(self.target), rank))
    }
}

/// The type by NCCL's name of it (`ncclFloat32`).
fn data_type(name: &str) -> Option<DataType> {
    let known = [
        ("Int8", DataType::Int8),
        ("Uint8", DataType::Uint8),
        ("Int32", DataType::Int32),
        ("Uint32", DataType::Uint32),
        ("Int64", DataType::Int64),
        ("Uint64", DataType::Uint64),
        ("Float16", DataType::Float16),
        ("Float32", DataType::Float32),
        ("Float64", DataType::Float64),
        ("Bfloat16", DataType::Bfloat16),
        ("Float8e4m3", DataType::Float8E4M3),
        ("Float8e5m2", DataType::Float8E5M2),
    ];
    let plain = name.strip_prefix("nccl").unwrap_or(name);
    known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(plain)).map(|(_, data_type)| data_type)
}
