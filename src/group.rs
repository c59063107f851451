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
use crate::error::{Code, Error, Result};
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
    /// Whether the communicators of the group are blocking ones: all or none are.
    is_blocking: Option<bool>,
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
/// returns when the work is done; births of non-blocking communicators go on behind it (`InProgress`).
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
#[inline]
pub fn end() -> Result<Code> {
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
            Ok(Code::Success)
        }
    }
}

/// Adds a checked call to the open group, or runs it as a batch of one.
///
/// # Errors
/// The communicator cannot take it, or what went wrong while it ran.
#[inline]
pub fn submit(call: &'static str, comm: &Arc<Comm>, op: &Op, stream: StreamRef) -> Result<()> {
    let endpoint = comm.usable(call)?;
    if DEPTH.get() > 0 {
        return GROUP.with_borrow_mut(|group| group.add(call, comm, op, stream));
    }
    match stream {
        None => endpoint.run(std::slice::from_ref(op)),
        Some(stream) => {
            let ops = std::slice::from_ref(op);
            driver::ensure_progress()?;
            endpoint.engine().prepare(ops)?;
            let launch = Arc::new(Launch::new(vec![stream], 1));
            driver::finish_behind(vec![endpoint.submit(ops, Some(launch))?]);
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

/// Runs `birth` now, or at the end of the open group, beside the other births of the group, since they wait for
/// one another. `InProgress` if nobody waits for it.
///
/// # Errors
/// What went wrong, if it ran now; or it does not fit into the group.
pub fn birth(birth: Birth) -> Result<Code> {
    if is_open() {
        return GROUP.with_borrow_mut(|group| {
            let agreed = group.agree(birth.call(), birth.is_blocking());
            // Kept also if not, so that it is undone with the group.
            group.births.push(birth);
            agreed.map(|()| Code::Success)
        });
    }
    births::run(vec![birth])
}

impl Group {
    #[inline]
    fn add(&mut self, call: &'static str, comm: &Arc<Comm>, op: &Op, stream: StreamRef) -> Result<()> {
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
            return Ok(());
        }
        self.agree(call, comm.is_blocking())?;
        let mut ops = self.spare.pop().unwrap_or_default();
        ops.push(*op);
        self.baskets.push(Basket { comm: Arc::clone(comm), ops });
        Ok(())
    }

    /// All communicators of a group are blocking ones, or none is: its end waits for all or for none.
    fn agree(&mut self, call: &'static str, is_blocking: bool) -> Result<()> {
        if *self.is_blocking.get_or_insert(is_blocking) == is_blocking {
            return Ok(());
        }
        let (this, others) =
            if is_blocking { ("blocking", "non-blocking") } else { ("non-blocking", "blocking") };
        Err(Error::argument(
            call,
            "comm",
            format_args!("is a {this} communicator, in a group with {others} ones"),
            "give each kind a group of its own",
        ))
    }

    /// Hands everything over and leaves the group empty, whatever happens.
    fn seal(&mut self) -> Result<Code> {
        let mut births = std::mem::take(&mut self.births);
        let result = match self.error.take() {
            Some(error) => Err(error),
            None if !births.is_empty() && !self.baskets.is_empty() => Err(Error::usage(
                "ncclGroupEnd",
                "the group holds both the birth of a communicator and operations",
                "put ncclCommInitRank calls into a group of their own",
            )),
            None if !births.is_empty() => births::run(std::mem::take(&mut births)),
            None => self.launch().map(|()| Code::Success),
        };
        births::give_up(births);
        for mut basket in self.baskets.drain(..) {
            basket.ops.clear();
            self.spare.push(basket.ops);
        }
        self.streams.clear();
        self.waits = false;
        self.is_blocking = None;
        result
    }

    fn launch(&mut self) -> Result<()> {
        if let ([basket], true, true) = (self.baskets.as_slice(), self.waits, self.streams.is_empty()) {
            return basket.comm.usable("ncclGroupEnd")?.run(&basket.ops);
        }
        for basket in &self.baskets {
            basket.comm.usable("ncclGroupEnd")?.engine().prepare(&basket.ops)?;
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
        let hand_over =
            |basket: &Basket| basket.comm.usable("ncclGroupEnd")?.submit(&basket.ops, launch.clone());
        let tickets: Vec<Ticket> = self.baskets.iter().map(hand_over).collect::<Result<_>>()?;
        if self.waits {
            return driver::wait(&tickets);
        }
        driver::finish_behind(tickets);
        Ok(())
    }
}
