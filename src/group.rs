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
    /// The number by which the program called the communicator; 0 where there was none.
    handle: usize,
    ops: Vec<Op>,
}

#[derive(Default)]
struct Group {
    /// One without operations is left from an earlier group: most groups are on the communicator of the group
    /// before. It keeps the husk of its communicator until the thread uses another one, or ends.
    baskets: Vec<Basket>,
    streams: Vec<Arc<Stream>>,
    /// Whether a call named the NULL stream, so that the end waits.
    waits: bool,
    births: Vec<Birth>,
    error: Option<Error>,
    /// Emptied lists, for groups to come.
    spare: Vec<Vec<Op>>,
}

/// What a thread has open. In one place, since finding a thread's own memory costs as much as the rest of a call.
struct Thread {
    depth: Cell<u32>,
    group: RefCell<Group>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            depth: Cell::new(0),
            group: RefCell::new(Group {
                baskets: Vec::new(),
                streams: Vec::new(),
                waits: false,
                births: Vec::new(),
                error: None,
                spare: Vec::new(),
            }),
        }
    };
}

/// How many groups are open on this thread. A thread that is ending has none.
#[inline]
fn depth() -> u32 {
    THREAD.try_with(|thread| thread.depth.get()).unwrap_or(0)
}

/// Opens a group on this thread; groups nest.
#[inline]
pub fn start() {
    THREAD.with(|thread| thread.depth.set(thread.depth.get() + 1));
}

/// Whether a group is open on this thread.
#[must_use]
#[inline]
pub fn is_open() -> bool {
    depth() > 0
}

/// Closes the innermost group of this thread; the outermost hands everything over. With the NULL stream it
/// returns when the work is done.
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
#[inline]
pub fn end() -> Result<()> {
    THREAD.with(|thread| match thread.depth.get() {
        0 => {
            Err(Error::usage("ncclGroupEnd", "no group is open on this thread", "call ncclGroupStart first"))
        }
        1 => {
            thread.depth.set(0);
            thread.group.borrow_mut().seal()
        }
        depth => {
            thread.depth.set(depth - 1);
            Ok(())
        }
    })
}

/// The short way into an open group, for a call on the communicator of the call before it, by its number
/// `handle`, and on the NULL stream. `make` gives the operation, if the call is sound. `false`: nothing has happened,
/// and the call has to go the long way, which also knows what is wrong with it. Whether the communicator can
/// still be used is looked at by the end of the group.
#[inline(always)]
pub fn join(handle: usize, make: impl FnOnce(&Comm) -> Option<Op>) -> bool {
    let joined = THREAD.try_with(|thread| {
        if thread.depth.get() == 0 || handle == 0 {
            return false;
        }
        let Ok(mut group) = thread.group.try_borrow_mut() else { return false };
        let Some(basket) = group.baskets.last_mut() else { return false };
        let ops = &mut basket.ops;
        if basket.handle != handle || ops.is_empty() || ops.len() == ops.capacity() {
            return false;
        }
        let Some(op) = make(&basket.comm) else { return false };
        ops.push(op);
        group.waits = true;
        true
    });
    joined.unwrap_or(false)
}

/// Adds a checked call to the open group, or runs it as a batch of one. `handle` is the communicator's number,
/// or 0.
///
/// # Errors
/// The communicator cannot take it, or what went wrong while it ran.
#[inline]
pub fn submit(call: &'static str, comm: &Arc<Comm>, handle: usize, op: &Op, stream: StreamRef) -> Result<()> {
    comm.check_usable(call)?;
    if depth() > 0 {
        THREAD.with(|thread| thread.group.borrow_mut().add(comm, handle, op, stream));
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
        THREAD.with(|thread| {
            thread.group.borrow_mut().error.get_or_insert_with(|| error.clone());
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
        THREAD.with(|thread| thread.group.borrow_mut().births.push(birth));
        return Ok(());
    }
    birth(Arc::default())
}

impl Group {
    fn add(&mut self, comm: &Arc<Comm>, handle: usize, op: &Op, stream: StreamRef) {
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
        self.forget_empty();
        let mut ops = self.spare.pop().unwrap_or_default();
        ops.push(*op);
        self.baskets.push(Basket { comm: Arc::clone(comm), handle, ops });
    }

    /// Puts away the basket of an earlier group, if one is left.
    fn forget_empty(&mut self) {
        if let Some(basket) = self.baskets.pop_if(|basket| basket.ops.is_empty()) {
            self.spare.push(basket.ops);
        }
    }

    /// Hands everything over and leaves the group empty, whatever happens.
    #[inline]
    fn seal(&mut self) -> Result<()> {
        if let ([basket], true, true) = (self.baskets.as_mut_slice(), self.waits, self.streams.is_empty())
            && self.births.is_empty()
            && self.error.is_none()
        {
            // The common case, and nothing but it.
            let usable = basket.comm.check_usable("ncclGroupEnd");
            let result = usable.and_then(|()| basket.comm.endpoint().run(&basket.ops));
            basket.ops.clear();
            self.waits = false;
            return result;
        }
        self.seal_any()
    }

    fn seal_any(&mut self) -> Result<()> {
        self.forget_empty();
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
