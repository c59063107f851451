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
    /// Whether the communicators of the group are blocking ones: all or none are.
    is_blocking: Option<bool>,
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
                is_blocking: None,
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
/// returns when the work is done; births of non-blocking communicators go on behind it (`InProgress`).
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
#[inline]
pub fn end() -> Result<Code> {
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
            Ok(Code::Success)
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
    let endpoint = comm.usable(call)?;
    if depth() > 0 {
        return THREAD.with(|thread| thread.group.borrow_mut().add(call, comm, handle, op, stream));
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
        THREAD.with(|thread| {
            thread.group.borrow_mut().error.get_or_insert_with(|| error.clone());
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
        return THREAD.with(|thread| {
            let mut group = thread.group.borrow_mut();
            let agreed = group.agree(birth.call(), birth.is_blocking());
            // Kept also if not, so that it is undone with the group.
            group.births.push(birth);
            agreed.map(|()| Code::Success)
        });
    }
    births::run(vec![birth])
}

impl Group {
    fn add(
        &mut self,
        call: &'static str,
        comm: &Arc<Comm>,
        handle: usize,
        op: &Op,
        stream: StreamRef,
    ) -> Result<()> {
        match stream {
            None => self.waits = true,
            Some(stream) => {
                if !self.streams.iter().any(|known| Arc::ptr_eq(known, &stream)) {
                    self.streams.push(stream);
                }
            }
        }
        // Calls on one communicator mostly follow each other.
        if let Some(index) = self.baskets.iter().rposition(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            if self.baskets[index].ops.is_empty() {
                self.agree(call, comm.is_blocking())?;
            }
            self.baskets[index].ops.push(*op);
            return Ok(());
        }
        self.agree(call, comm.is_blocking())?;
        self.forget_empty();
        let mut ops = self.spare.pop().unwrap_or_default();
        ops.push(*op);
        self.baskets.push(Basket { comm: Arc::clone(comm), handle, ops });
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

    /// Puts away the basket of an earlier group, if one is left.
    fn forget_empty(&mut self) {
        if let Some(basket) = self.baskets.pop_if(|basket| basket.ops.is_empty()) {
            self.spare.push(basket.ops);
        }
    }

    /// Hands everything over and leaves the group empty, whatever happens.
    #[inline]
    fn seal(&mut self) -> Result<Code> {
        if let ([basket], true, true) = (self.baskets.as_mut_slice(), self.waits, self.streams.is_empty())
            && self.births.is_empty()
            && self.error.is_none()
        {
            // The common case, and nothing but it.
            let usable = basket.comm.usable("ncclGroupEnd");
            let result = usable.and_then(|endpoint| endpoint.run(&basket.ops));
            basket.ops.clear();
            self.waits = false;
            self.is_blocking = None;
            return result.map(|()| Code::Success);
        }
        self.seal_any()
    }

    fn seal_any(&mut self) -> Result<Code> {
        self.forget_empty();
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
