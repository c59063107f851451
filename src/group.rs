//! Collects operations between start and end, and hands over one sealed batch per communicator. A lone call
//! is a batch of one.
//!
//! Nothing of a group starts unless all of it can: every batch is prepared before the first is queued.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::comm::births::{self, Birth};
use crate::comm::{Comm, handle};
use crate::engine::driver::{self, Ticket};
use crate::engine::stream::{Launch, Stream, StreamRef};
use crate::error::{Error, Result};
use crate::op::Op;
use crate::system::local::{self, Anchor};

/// One communicator's operations of the open group.
struct Basket {
    comm: Arc<Comm>,
    /// The number by which the program called the communicator; 0 where there was none.
    handle: usize,
    ops: Vec<Op>,
}

#[derive(Default)]
struct Group {
    /// The last may be one without operations, left from the group before: most groups are on the same
    /// communicator.
    baskets: Vec<Basket>,
    /// Baskets without operations, of communicators that this thread has used. They keep the husks of these, at
    /// most [`KEPT_COUNT`], until others take their places or the thread ends.
    kept: Vec<Basket>,
    streams: Vec<Arc<Stream>>,
    /// Whether a call named the NULL stream, so that the end waits.
    waits: bool,
    births: Vec<Birth>,
    error: Option<Error>,
}

/// Communicators that a thread has at hand.
const KEPT_COUNT: usize = 8;

/// What a thread has open. In one place, since finding a thread's own memory costs as much as the rest of a call.
#[derive(Default)]
struct Thread {
    depth: Cell<u32>,
    /// The number of the communicator that [`join`] takes calls on, if the open group has one on the NULL stream;
    /// else 0. It was the last to be called.
    current: Cell<usize>,
    /// Its size and this rank of it.
    ranks: Cell<u32>,
    rank: Cell<u32>,
    /// The operations of the last basket of the group, lent to here while there is a current communicator.
    ops: RefCell<Vec<Op>>,
    group: RefCell<Group>,
}

thread_local! {
    static THREAD: Anchor<Thread> =
        Anchor::new(Thread::default());
}

/// What this thread has open; made by the first who asks.
#[inline]
fn with_thread<R>(body: impl FnOnce(&Thread) -> R) -> R {
    let mut body = Some(body);
    let mut run = |thread: &Thread| body.take().map(|body| body(thread));
    let found = local::with(&mut run).flatten();
    found.or_else(|| THREAD.with(|thread| run(thread.value()))).expect("it is run once")
}

/// How many groups are open on this thread.
#[inline]
fn depth() -> u32 {
    local::with(|thread: &Thread| thread.depth.get()).unwrap_or(0)
}

/// Opens a group on this thread; groups nest.
#[inline]
pub fn start() {
    with_thread(|thread| thread.depth.set(thread.depth.get() + 1));
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
    with_thread(|thread| match thread.depth.get() {
        0 => {
            Err(Error::usage("ncclGroupEnd", "no group is open on this thread", "call ncclGroupStart first"))
        }
        1 => {
            thread.depth.set(0);
            let group = &mut thread.group.borrow_mut();
            thread.give_back(group);
            group.seal()
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
pub fn join(handle: usize, make: impl FnOnce(u32, u32) -> Option<Op>) -> bool {
    let joined = local::with(|thread: &Thread| {
        if thread.current.get() != handle || handle == 0 {
            return false;
        }
        let Ok(mut ops) = thread.ops.try_borrow_mut() else { return false };
        if ops.len() == ops.capacity() {
            return false;
        }
        let Some(op) = make(thread.rank.get(), thread.ranks.get()) else { return false };
        ops.push(op);
        true
    });
    joined.unwrap_or(false)
}

/// The short way for a lone message on the communicator of the call before, and on the NULL stream. `false`:
/// nothing has happened, and the call has to go the long way.
#[inline(always)]
pub fn pass(handle: usize, make: impl FnOnce(u32, u32) -> Option<Op>) -> bool {
    let passed = local::with(|thread: &Thread| {
        if thread.depth.get() != 0 || handle == 0 {
            return false;
        }
        let Ok(group) = thread.group.try_borrow() else { return false };
        let Some(basket) = group.find(handle) else { return false };
        let comm = &basket.comm;
        if !handle::is_live(handle) || !comm.is_usable() {
            return false;
        }
        make(comm.rank(), comm.ranks()).is_some_and(|op| comm.endpoint().pass(&op))
    });
    passed.unwrap_or(false)
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
        with_thread(|thread| thread.add(comm, handle, op, stream));
        return Ok(());
    }
    match stream {
        None => {
            if handle != 0 {
                with_thread(|thread| thread.group.borrow_mut().keep(comm, handle));
            }
            comm.endpoint().run(std::slice::from_ref(op))
        }
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
        with_thread(|thread| {
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
        with_thread(|thread| thread.group.borrow_mut().births.push(birth));
        return Ok(());
    }
    birth(Arc::default())
}

impl Thread {
    /// Adds an operation; calls like it may follow by [`join`].
    fn add(&self, comm: &Arc<Comm>, handle: usize, op: &Op, stream: StreamRef) {
        let group = &mut self.group.borrow_mut();
        self.give_back(group);
        let is_plain = stream.is_none();
        let basket = group.add(comm, handle, op, stream);
        if is_plain && handle != 0 {
            self.ops.replace(std::mem::take(&mut basket.ops));
            self.ranks.set(comm.ranks());
            self.rank.set(comm.rank());
            self.current.set(handle);
        }
    }

    /// Puts what [`join`] collected to the rest of the group.
    fn give_back(&self, group: &mut Group) {
        if self.current.take() != 0
            && let Some(basket) = group.baskets.last_mut()
        {
            basket.ops = self.ops.take();
        }
    }
}

impl Group {
    /// Adds an operation to the communicator's basket, which becomes the last.
    fn add(&mut self, comm: &Arc<Comm>, handle: usize, op: &Op, stream: StreamRef) -> &mut Basket {
        match stream {
            None => self.waits = true,
            Some(stream) => {
                if !self.streams.iter().any(|known| Arc::ptr_eq(known, &stream)) {
                    self.streams.push(stream);
                }
            }
        }
        // Calls on one communicator mostly follow each other.
        let place = match self.baskets.iter().rposition(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            Some(place) => place,
            None => {
                let basket = self.take_kept(comm, handle);
                self.baskets.push(basket);
                self.baskets.len() - 1
            }
        };
        // Their order means nothing.
        let last = self.baskets.len() - 1;
        self.baskets.swap(place, last);
        let basket = &mut self.baskets[last];
        basket.ops.push(*op);
        basket
    }

    /// A basket without operations for the communicator, new if none is kept.
    fn take_kept(&mut self, comm: &Arc<Comm>, handle: usize) -> Basket {
        self.put_away();
        if let Some(place) = self.kept.iter().position(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            return Basket { handle, ..self.kept.swap_remove(place) };
        }
        let ops = if self.kept.len() < KEPT_COUNT { Vec::new() } else { self.kept.swap_remove(0).ops };
        Basket { comm: Arc::clone(comm), handle, ops }
    }

    /// Keeps the communicator at hand for calls to come.
    fn keep(&mut self, comm: &Arc<Comm>, handle: usize) {
        let basket = self.take_kept(comm, handle);
        self.kept.push(basket);
    }

    /// The kept basket of the communicator of that number.
    #[inline]
    fn find(&self, handle: usize) -> Option<&Basket> {
        let left = self.baskets.last().filter(|basket| basket.handle == handle);
        left.or_else(|| self.kept.iter().find(|basket| basket.handle == handle))
    }

    /// Puts the basket of the group before to the others, if it is still in its place.
    fn put_away(&mut self) {
        if let Some(basket) = self.baskets.pop_if(|basket| basket.ops.is_empty()) {
            self.kept.push(basket);
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
        self.put_away();
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
            if self.kept.len() < KEPT_COUNT {
                self.kept.push(basket);
            }
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
