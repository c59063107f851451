//! Collects operations between start and end, and hands over one sealed batch per communicator. A lone call
//! is a batch of one.
//!
//! Nothing of a group starts unless all of it can: every batch is prepared before the first is queued.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::comm::Comm;
use crate::comm::births::{self, Birth};
use crate::engine::driver::{self, Ticket};
use crate::engine::stream::{Launch, Stream, StreamRef};
use crate::error::{Error, Result};
use crate::op::Op;

/// One communicator's operations of the open group.
struct Basket {
    comm: Arc<Comm>,
    ops: Vec<Op>,
}

#[derive(Default)]
struct Group {
    baskets: Vec<Basket>,
    streams: Vec<Arc<Stream>>,
    /// Whether a call named the NULL stream, so that the end waits.
    waits: bool,
    births: Vec<Birth>,
    error: Option<Error>,
    /// Emptied lists, for groups to come.
    spare: Vec<Vec<Op>>,
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static GROUP: RefCell<Group> = RefCell::new(Group::default());
}

/// Opens a group on this thread; groups nest.
#[inline]
pub fn start() {
    DEPTH.set(DEPTH.get() + 1);
}

/// Whether a group is open on this thread.
#[must_use]
#[inline]
pub fn is_open() -> bool {
    DEPTH.get() > 0
}

/// Closes the innermost group of this thread; the outermost hands everything over. With the NULL stream it
/// returns when the work is done.
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
#[inline]
pub fn end() -> Result<()> {
    match DEPTH.get() {
        0 => {
            Err(Error::usage("ncclGroupEnd", "no group is open on this thread", "call ncclGroupStart first"))
        }
        1 => {
            DEPTH.set(0);
            GROUP.with_borrow_mut(Group::seal)
        }
        depth => {
            DEPTH.set(depth - 1);
            Ok(())
        }
    }
}

/// Closes the innermost group of this thread as [`end`] does, but starts nothing. The outermost is told what it
/// would take, in nanoseconds, by a simple model; an inner one is not.
///
/// # Errors
/// As [`end`], up to where something would start.
pub fn simulate() -> Result<Option<u64>> {
    if DEPTH.get() != 1 {
        return end().map(|()| None);
    }
    DEPTH.set(0);
    GROUP.with_borrow_mut(|group| {
        let estimate = group.estimate();
        group.error.get_or_insert_with(|| Error::usage(SIMULATE, "the group was simulated", "start another"));
        // Reports that error, or an earlier one of the group, and leaves the group empty.
        let _ = group.seal();
        estimate.map(Some)
    })
}

const SIMULATE: &str = "ncclGroupSimulateEnd";

/// Adds a checked call to the open group, or runs it as a batch of one.
///
/// # Errors
/// The communicator cannot take it, or what went wrong while it ran.
#[inline]
pub fn submit(call: &'static str, comm: &Arc<Comm>, op: &Op, stream: StreamRef) -> Result<()> {
    comm.check_usable(call)?;
    if DEPTH.get() > 0 {
        GROUP.with_borrow_mut(|group| group.add(comm, op, stream));
        return Ok(());
    }
    match stream {
        None => comm.endpoint().run(std::slice::from_ref(op)),
        Some(stream) => {
            let ops = std::slice::from_ref(op);
            driver::ensure_progress()?;
            comm.endpoint().engine().prepare(ops)?;
            let launch = Arc::new(Launch::new(vec![stream], 1));
            driver::finish_behind(vec![comm.endpoint().submit(ops, Some(launch))?]);
            Ok(())
        }
    }
}

/// Remembers that a call of the open group was invalid, so that its end starts nothing.
pub fn poison(error: &Error) {
    if is_open() {
        GROUP.with_borrow_mut(|group| {
            group.error.get_or_insert_with(|| error.clone());
        });
    }
}

/// Runs `birth` now, or at the end of the open group, beside the other births of the group (each on a thread
/// of its own, since they wait for one another). `birth` writes the new handle itself.
///
/// # Errors
/// What `birth` reports, if it ran now.
pub fn birth(birth: Birth) -> Result<()> {
    if is_open() {
        GROUP.with_borrow_mut(|group| group.births.push(birth));
        return Ok(());
    }
    birth(Arc::default())
}

impl Group {
    #[inline]
    fn add(&mut self, comm: &Arc<Comm>, op: &Op, stream: StreamRef) {
        match stream {
            None => self.waits = true,
            Some(stream) => {
                if !self.streams.iter().any(|known| Arc::ptr_eq(known, &stream)) {
                    self.streams.push(stream);
                }
            }
        }
        // Calls on one communicator mostly follow each other.
        if let Some(basket) = self.baskets.iter_mut().rev().find(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            basket.ops.push(*op);
            return;
        }
        let mut ops = self.spare.pop().unwrap_or_default();
        ops.push(*op);
        self.baskets.push(Basket { comm: Arc::clone(comm), ops });
    }

    /// What it would take: the communicators work side by side.
    fn estimate(&self) -> Result<u64> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if !self.births.is_empty() {
            let problem = "the group holds the birth of a communicator";
            return Err(Error::usage(SIMULATE, problem, "simulate operations only"));
        }
        let mut longest_ns = 0;
        for basket in &self.baskets {
            basket.comm.check_usable(SIMULATE)?;
            let mut engine = basket.comm.endpoint().engine();
            let plan = engine.prepare(&basket.ops)?;
            longest_ns = longest_ns.max(engine.estimate_ns(plan));
        }
        Ok(longest_ns)
    }

    /// Hands everything over and leaves the group empty, whatever happens.
    fn seal(&mut self) -> Result<()> {
        let births = std::mem::take(&mut self.births);
        let result = match self.error.take() {
            Some(error) => Err(error),
            None if !births.is_empty() && !self.baskets.is_empty() => Err(Error::usage(
                "ncclGroupEnd",
                "the group holds both the birth of a communicator and operations",
                "put ncclCommInitRank calls into a group of their own",
            )),
            None if !births.is_empty() => births::run(births),
            None => self.launch(),
        };
        for mut basket in self.baskets.drain(..) {
            basket.ops.clear();
            self.spare.push(basket.ops);
        }
        self.streams.clear();
        self.waits = false;
        result
    }

    fn launch(&mut self) -> Result<()> {
        if let ([basket], true, true) = (self.baskets.as_slice(), self.waits, self.streams.is_empty()) {
            basket.comm.check_usable("ncclGroupEnd")?;
            return basket.comm.endpoint().run(&basket.ops);
        }
        for basket in &self.baskets {
            basket.comm.check_usable("ncclGroupEnd")?;
            basket.comm.endpoint().engine().prepare(&basket.ops)?;
        }
        if self.baskets.is_empty() {
            return Ok(());
        }
        let mut launch = None;
        if !self.streams.is_empty() {
            driver::ensure_progress()?;
            let streams = std::mem::take(&mut self.streams);
            launch = Some(Arc::new(Launch::new(streams, self.baskets.len() as u32)));
        }
        let hand_over = |basket: &Basket| basket.comm.endpoint().submit(&basket.ops, launch.clone());
        let tickets: Vec<Ticket> = self.baskets.iter().map(hand_over).collect::<Result<_>>()?;
        if self.waits {
            return driver::wait(&tickets);
        }
        driver::finish_behind(tickets);
        Ok(())
    }
}
