//! What the machine allows between two ranks, measured by bare loops in the same run: a cache line that goes
//! over and back, a copy, a ring in shared memory, a read of the other process's memory.
//!
//! A ratio to a peer says who is better; a ratio to the floor says how much is left.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Failure;
use super::bench::operation::{Operation, WINDOW};
use super::bench::statistics::median;
use super::board::{RING_BYTES, Seat};
use super::canary::await_value;
use super::machine;

const REPEATS: usize = 3;
const CHUNK_BYTES: usize = 16 * 1024;
/// Up to here a message fits into the line that announces it.
const LINE_BYTES: usize = 64;

/// The floors of one run between ranks 0 and 1, remembered by size.
pub(crate) struct Floor {
    /// What this rank's peer lets read: process and address.
    peer: (u32, u64),
    shared: Box<[u8]>,
    scratch: Vec<u8>,
    known: HashMap<(usize, bool), (f64, &'static str)>,
}

impl Floor {
    /// Gets ready for sizes up to `largest_bytes`. Both ranks call it.
    ///
    /// # Errors
    /// There are not two ranks, or the other one failed.
    pub(crate) fn new(seat: &Seat, largest_bytes: usize) -> Result<Floor, Failure> {
        if seat.ranks() != 2 {
            return Err(Failure("--floor measures between two ranks; use --ranks 2".into()));
        }
        machine::allow_attach();
        let shared = vec![1; largest_bytes.max(1)].into_boxed_slice();
        let other = 1 - seat.rank();
        let process = seat.gather(u64::from(std::process::id()))?[other] as u32;
        let address = seat.gather(shared.as_ptr() as u64)?[other];
        let scratch = vec![0; largest_bytes.max(1)];
        Ok(Floor { peer: (process, address), shared, scratch, known: HashMap::new() })
    }

    /// The least time of an operation of this size, and what sets it. Both ranks call it.
    ///
    /// # Errors
    /// The other rank failed.
    pub(crate) fn of(
        &mut self,
        seat: &Seat,
        operation: Operation,
        size_bytes: usize,
        messages: usize,
    ) -> Result<(f64, &'static str), Failure> {
        let line_us = line_ns(seat)? / 2e3;
        let (bytes, both) = operation.must_receive(size_bytes, messages);
        if operation == Operation::Rate {
            let (window_us, by) = self.moved(seat, bytes * WINDOW, false)?;
            return Ok((window_us / WINDOW as f64, by));
        }
        if bytes <= LINE_BYTES {
            return Ok((line_us, "line"));
        }
        let (moved_us, by) = self.moved(seat, bytes, both)?;
        Ok(if moved_us < line_us { (line_us, "line") } else { (moved_us, by) })
    }

    /// The faster of the ways to move bytes.
    fn moved(&mut self, seat: &Seat, bytes: usize, both: bool) -> Result<(f64, &'static str), Failure> {
        if let Some(known) = self.known.get(&(bytes, both)) {
            return Ok(*known);
        }
        let ring_us = self.timed(seat, bytes, |floor| floor.ring(seat, bytes, both))?;
        let attach_us = self.timed(seat, bytes, |floor| floor.attach(seat, bytes, both))?;
        let best = if attach_us < ring_us { (attach_us, "attach") } else { (ring_us, "ring") };
        self.known.insert((bytes, both), best);
        Ok(best)
    }

    /// The time of a plain copy of so many bytes on this rank.
    pub(crate) fn copy_us(&mut self, bytes: usize) -> f64 {
        let bytes = bytes.min(self.scratch.len());
        let rounds = rounds_for(bytes);
        let samples: Vec<f64> = (0..REPEATS)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..rounds {
                    self.scratch[..bytes].copy_from_slice(&self.shared[..bytes]);
                    std::hint::black_box(&mut self.scratch);
                }
                start.elapsed().as_nanos() as f64 / 1e3 / rounds as f64
            })
            .collect();
        median(&samples).unwrap_or(0.0)
    }

    /// The slower rank's mean time of `step`, as a median; infinite where the machine refuses it.
    fn timed(
        &mut self,
        seat: &Seat,
        bytes: usize,
        mut step: impl FnMut(&mut Floor) -> Result<bool, Failure>,
    ) -> Result<f64, Failure> {
        let rounds = rounds_for(bytes);
        let mut samples = Vec::with_capacity(REPEATS);
        for _ in 0..REPEATS {
            let mut works = true;
            seat.barrier()?;
            let start = Instant::now();
            for _ in 0..rounds {
                works &= step(self)?;
            }
            let time_us = start.elapsed().as_nanos() as f64 / 1e3 / rounds as f64;
            samples.push(seat.largest(if works { time_us } else { f64::INFINITY })?);
        }
        seat.tick();
        Ok(median(&samples).unwrap_or(f64::INFINITY))
    }

    /// One message through a ring in shared memory, or one each way at once.
    fn ring(&mut self, seat: &Seat, bytes: usize, both: bool) -> Result<bool, Failure> {
        let (sends, receives) = (both || seat.rank() == 0, both || seat.rank() == 1);
        let (out, back) = (seat.rank() == 1, seat.rank() == 0);
        let (out_head, out_tail) = seat.ring_indices(out);
        let (back_head, back_tail) = seat.ring_indices(back);
        let mut sent = if sends { 0 } else { bytes };
        let mut received = if receives { 0 } else { bytes };
        let mut idle = 0_u64;
        while sent < bytes || received < bytes {
            idle += 1;
            if idle.is_multiple_of(1 << 24) && seat.board().failed().is_some() {
                return Err(Failure("the other rank failed".into()));
            }
            let head = out_head.load(Ordering::Relaxed);
            if sent < bytes && head - out_tail.load(Ordering::Acquire) < (RING_BYTES / CHUNK_BYTES) as u64 {
                let chunk = CHUNK_BYTES.min(bytes - sent);
                let place = head as usize % (RING_BYTES / CHUNK_BYTES) * CHUNK_BYTES;
                seat.ring_in(out, place, &self.shared[sent..sent + chunk]);
                // Publishes the chunk.
                out_head.store(head + 1, Ordering::Release);
                sent += chunk;
            }
            let tail = back_tail.load(Ordering::Relaxed);
            if received < bytes && back_head.load(Ordering::Acquire) > tail {
                let chunk = CHUNK_BYTES.min(bytes - received);
                let place = tail as usize % (RING_BYTES / CHUNK_BYTES) * CHUNK_BYTES;
                seat.ring_out(back, place, &mut self.scratch[received..received + chunk]);
                // Gives the place back.
                back_tail.store(tail + 1, Ordering::Release);
                received += chunk;
            }
        }
        Ok(true)
    }

    /// One read of the other process's memory, by one rank or both at once.
    fn attach(&mut self, seat: &Seat, bytes: usize, both: bool) -> Result<bool, Failure> {
        if !both && seat.rank() == 0 {
            return Ok(true);
        }
        let (process, address) = self.peer;
        Ok(machine::read_process(process, address, &mut self.scratch[..bytes]).is_ok())
    }
}

/// A cache line from rank 0 to rank 1 and back, now. Ranks 0 and 1 call it; they are alone on their cores.
pub(crate) fn line_ns(seat: &Seat) -> Result<f64, Failure> {
    const ROUNDS: u64 = 1000;
    let (line, _) = seat.ping_pong();
    if seat.rank() == 0 {
        line.store(0, Ordering::Release);
    }
    seat.barrier()?;
    let mut samples = [0.0; 3];
    let lost = || Failure("the other rank stopped answering".into());
    for (repeat, sample) in samples.iter_mut().enumerate() {
        let first = repeat as u64 * ROUNDS;
        let start = Instant::now();
        for round in first..first + ROUNDS {
            if seat.rank() == 0 {
                line.store(2 * round + 1, Ordering::Release);
                await_value(line, 2 * round + 2).ok_or_else(lost)?;
            } else {
                await_value(line, 2 * round + 1).ok_or_else(lost)?;
                line.store(2 * round + 2, Ordering::Release);
            }
        }
        *sample = start.elapsed().as_nanos() as f64 / ROUNDS as f64;
    }
    seat.largest(median(&samples).unwrap_or(0.0))
}

/// About two milliseconds' worth at 10 GB/s.
fn rounds_for(bytes: usize) -> usize {
    (20_000_000 / bytes.max(1)).clamp(2, 2000)
}
