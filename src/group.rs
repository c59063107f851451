//! Collects operations between start and end, and hands over one sealed batch per communicator. A lone call
//! is a batch of one.
//!
//! Nothing of a group starts unless all of it can: every batch is prepared before the first is queued.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::comm::births::{self, Birth};
use crate::comm::registered::Registration;
use crate::comm::{Comm, handle};
use crate::engine::driver::{self, Ticket};
use crate::engine::one_sided::OneSided;
use crate::engine::stream::{Launch, Stream, StreamRef};
use crate::error::{Code, Error, Result};
use crate::op::Op;
use crate::system::local::{self, Anchor};

/// One communicator's operations of the open group.
struct Basket {
    comm: Arc<Comm>,
    /// The number by which the program called the communicator; 0 where there was none.
    handle: usize,
    ops: Vec<Op>,
    /// They follow the others.
    one_sided: Vec<OneSided>,
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
    /// Windows that are opened before anything else is done.
    registrations: Vec<Registration>,
    /// Whether the communicators of the group are blocking ones: all or none are.
    is_blocking: Option<bool>,
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
    static THREAD: Anchor<Thread> = Anchor::new(Thread::default());
}

/// What this thread has open; made by the first who asks. `None` if the thread is ending.
#[inline]
fn find_thread<R>(body: impl FnOnce(&Thread) -> R) -> Option<R> {
    let mut body = Some(body);
    let mut run = |thread: &Thread| body.take().map(|body| body(thread));
    local::with(&mut run).or_else(|| local::anchored(&THREAD, run)).flatten()
}

/// The same for what has no meaning without it.
#[inline]
fn with_thread<R>(body: impl FnOnce(&Thread) -> R) -> R {
    find_thread(body).expect("groups end before their thread does")
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
/// returns when the work is done; births of non-blocking communicators go on behind it (`InProgress`).
///
/// # Errors
/// The first invalid call of the group (then nothing of it was started), a group that was not open, or what
/// went wrong while the work ran.
#[inline]
pub fn end() -> Result<Code> {
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
            Ok(Code::Success)
        }
    })
}

/// Closes the innermost group of this thread as [`end`] does, but starts nothing. The outermost is told what it
/// would take, in nanoseconds, by a simple model; an inner one is not.
///
/// # Errors
/// As [`end`], up to where something would start.
pub fn simulate() -> Result<Option<u64>> {
    match depth() {
        0 => {
            return Err(Error::usage(
                SIMULATE,
                "no group is open on this thread",
                "call ncclGroupStart first",
            ));
        }
        1 => {}
        _ => return end().map(|_| None),
    }
    with_thread(|thread| {
        thread.depth.set(0);
        let mut group = thread.group.borrow_mut();
        thread.give_back(&mut group);
        group.put_away();
        let estimate = group.estimate();
        group.error.get_or_insert_with(|| Error::usage(SIMULATE, "the group was simulated", "start another"));
        // Reports that error, or an earlier one of the group, and leaves the group empty.
        let _ = group.seal();
        estimate.map(Some)
    })
}

const SIMULATE: &str = "ncclGroupSimulateEnd";

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

/// The short way for a lone call on a communicator that this thread has at hand, and on the NULL stream: what became
/// of it. `None`: nothing has happened, and the call has to go the long way.
#[inline(always)]
pub fn pass(
    handle: usize,
    make: impl FnOnce(u32, u32) -> Option<Op>,
) -> Option<std::result::Result<(), Box<Error>>> {
    let passed = local::with(|thread: &Thread| {
        if thread.depth.get() != 0 || handle == 0 {
            return None;
        }
        // It stays borrowed while the call waits: nothing on the way looks for another group.
        let group = thread.group.try_borrow().ok()?;
        let comm = &group.find(handle)?.comm;
        if !handle::is_live(handle) {
            return None;
        }
        let endpoint = comm.usable_endpoint()?;
        let op = make(comm.rank(), comm.ranks())?;
        match op.shape.kind.is_point_to_point() {
            true => endpoint.pass(&op).then_some(Ok(())),
            // Boxed, since an error is long and what goes well has to be carried past it.
            false => Some(endpoint.run(std::slice::from_ref(&op)).map_err(Box::new)),
        }
    });
    passed.flatten()
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
        return with_thread(|thread| thread.add(call, comm, handle, op, stream));
    }
    match stream {
        None => {
            if handle != 0 {
                // A thread that is ending keeps nothing.
                find_thread(|thread| thread.group.borrow_mut().keep(comm, handle));
            }
            endpoint.run(std::slice::from_ref(op))
        }
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

/// Adds a checked one-sided call to the open group, or runs it as a batch of one.
///
/// # Errors
/// The communicator cannot take it, or what went wrong while it ran.
pub fn submit_one_sided(
    call: &'static str,
    comm: &Arc<Comm>,
    one_sided: OneSided,
    stream: StreamRef,
) -> Result<()> {
    let endpoint = comm.usable(call)?;
    if is_open() {
        return with_thread(|thread| {
            let mut group = thread.group.borrow_mut();
            thread.give_back(&mut group);
            group.join(stream);
            group.basket(call, comm, 0)?.one_sided.push(one_sided);
            Ok(())
        });
    }
    let Some(stream) = stream else {
        return driver::wait(&[endpoint.submit_one_sided(vec![one_sided], None)?]);
    };
    driver::ensure_progress()?;
    let launch = Arc::new(Launch::new(vec![stream], 1));
    driver::finish_behind(vec![endpoint.submit_one_sided(vec![one_sided], Some(launch))?]);
    Ok(())
}

/// Opens a window now, with all other ranks, or at the end of the open group.
///
/// # Errors
/// What went wrong, if it ran now.
pub fn register(registration: Registration) -> Result<()> {
    if is_open() {
        with_thread(|thread| thread.group.borrow_mut().registrations.push(registration));
        return Ok(());
    }
    open_windows(vec![registration])
}

/// The windows of each communicator in their order, those of several communicators side by side.
fn open_windows(mut registrations: Vec<Registration>) -> Result<()> {
    let mut batches: Vec<(Arc<Comm>, Vec<Op>)> = Vec::new();
    for registration in &mut registrations {
        let op = registration.op();
        match batches.iter_mut().find(|(comm, _)| Arc::ptr_eq(comm, registration.comm())) {
            Some((_, ops)) => ops.push(op),
            None => batches.push((Arc::clone(registration.comm()), vec![op])),
        }
    }
    let mut tickets = Vec::new();
    let mut outcome = Ok(());
    for (comm, ops) in &batches {
        match comm.usable("ncclGroupEnd").and_then(|endpoint| endpoint.submit(ops, None)) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    // Those that were handed over are waited for in any case: they write into the registrations.
    outcome = outcome.and(driver::wait(&tickets));
    outcome?;
    registrations.into_iter().try_for_each(Registration::finish)
}

/// Remembers that a call of the open group was invalid, so that its end starts nothing.
pub fn poison(error: &Error) {
    if is_open() {
        with_thread(|thread| {
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
        return with_thread(|thread| {
            let mut group = thread.group.borrow_mut();
            let agreed = group.agree(birth.call(), birth.is_blocking());
            // Kept also if not, so that it is undone with the group.
            group.births.push(birth);
            agreed.map(|()| Code::Success)
        });
    }
    births::run(vec![birth])
}

impl Thread {
    /// Adds an operation; calls like it may follow by [`join`].
    fn add(
        &self,
        call: &'static str,
        comm: &Arc<Comm>,
        handle: usize,
        op: &Op,
        stream: StreamRef,
    ) -> Result<()> {
        let group = &mut self.group.borrow_mut();
        self.give_back(group);
        let is_plain = stream.is_none();
        group.join(stream);
        let basket = group.basket(call, comm, handle)?;
        basket.ops.push(*op);
        if is_plain && handle != 0 {
            self.ops.replace(std::mem::take(&mut basket.ops));
            self.ranks.set(comm.ranks());
            self.rank.set(comm.rank());
            self.current.set(handle);
        }
        Ok(())
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
    fn join(&mut self, stream: StreamRef) {
        match stream {
            None => self.waits = true,
            Some(stream) => {
                if !self.streams.iter().any(|known| Arc::ptr_eq(known, &stream)) {
                    self.streams.push(stream);
                }
            }
        }
    }

    /// The communicator's basket, which becomes the last; the order of baskets means nothing.
    fn basket(&mut self, call: &'static str, comm: &Arc<Comm>, handle: usize) -> Result<&mut Basket> {
        self.agree(call, comm.is_blocking())?;
        // Calls on one communicator mostly follow each other.
        let place = match self.baskets.iter().rposition(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            Some(place) => place,
            None => {
                let basket = self.take_kept(comm, handle);
                self.baskets.push(basket);
                self.baskets.len() - 1
            }
        };
        let last = self.baskets.len() - 1;
        self.baskets.swap(place, last);
        Ok(&mut self.baskets[last])
    }

    /// A basket without operations for the communicator, new if none is kept.
    fn take_kept(&mut self, comm: &Arc<Comm>, handle: usize) -> Basket {
        self.put_away();
        if let Some(place) = self.kept.iter().position(|basket| Arc::ptr_eq(&basket.comm, comm)) {
            return Basket { handle, ..self.kept.swap_remove(place) };
        }
        let ops = if self.kept.len() < KEPT_COUNT { Vec::new() } else { self.kept.swap_remove(0).ops };
        Basket { comm: Arc::clone(comm), handle, ops, one_sided: Vec::new() }
    }

    /// Keeps the communicator at hand for messages to come.
    fn keep(&mut self, comm: &Arc<Comm>, handle: usize) {
        if self.find(handle).is_none() {
            let basket = self.take_kept(comm, handle);
            self.kept.push(basket);
        }
    }

    /// The kept basket of the communicator of that number.
    #[inline]
    fn find(&self, handle: usize) -> Option<&Basket> {
        let left = self.baskets.last().filter(|basket| basket.handle == handle);
        left.or_else(|| self.kept.iter().find(|basket| basket.handle == handle))
    }

    /// Puts the basket of the group before to the others, if it is still in its place.
    fn put_away(&mut self) {
        if let Some(basket) = self.baskets.pop_if(|basket| basket.batch_count() == 0) {
            self.kept.push(basket);
        }
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
            let mut engine = basket.comm.usable(SIMULATE)?.engine();
            let plan = engine.prepare(&basket.ops)?;
            longest_ns = longest_ns.max(engine.estimate_ns(plan));
        }
        Ok(longest_ns)
    }

    /// Hands everything over and leaves the group empty, whatever happens.
    #[inline]
    fn seal(&mut self) -> Result<Code> {
        if let ([basket], true, true) = (self.baskets.as_mut_slice(), self.waits, self.streams.is_empty())
            && self.births.is_empty()
            && self.registrations.is_empty()
            && basket.one_sided.is_empty()
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
        self.put_away();
        let mut births = std::mem::take(&mut self.births);
        let registrations = std::mem::take(&mut self.registrations);
        let has_work = !self.baskets.is_empty() || !registrations.is_empty();
        let result = match self.error.take() {
            Some(error) => Err(error),
            None if !births.is_empty() && has_work => Err(Error::usage(
                "ncclGroupEnd",
                "the group holds both the birth of a communicator and operations",
                "put ncclCommInitRank calls into a group of their own",
            )),
            None if !births.is_empty() => births::run(std::mem::take(&mut births)),
            None if registrations.is_empty() => self.launch().map(|()| Code::Success),
            None => open_windows(registrations).and_then(|()| self.launch()).map(|()| Code::Success),
        };
        births::give_up(births);
        for mut basket in self.baskets.drain(..) {
            basket.ops.clear();
            basket.one_sided.clear();
            if self.kept.len() < KEPT_COUNT {
                self.kept.push(basket);
            }
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
            let batches: usize = self.baskets.iter().map(Basket::batch_count).sum();
            launch = Some(Arc::new(Launch::new(streams, batches as u32)));
        }
        let mut tickets: Vec<Ticket> = Vec::new();
        for basket in &mut self.baskets {
            basket.hand_over(&launch, &mut tickets)?;
        }
        if self.waits {
            return driver::wait(&tickets);
        }
        driver::finish_behind(tickets);
        Ok(())
    }
}

impl Basket {
    fn batch_count(&self) -> usize {
        usize::from(!self.ops.is_empty()) + usize::from(!self.one_sided.is_empty())
    }

    fn hand_over(&mut self, launch: &Option<Arc<Launch>>, tickets: &mut Vec<Ticket>) -> Result<()> {
        let endpoint = self.comm.usable("ncclGroupEnd")?;
        if !self.ops.is_empty() {
            tickets.push(endpoint.submit(&self.ops, launch.clone())?);
        }
        if !self.one_sided.is_empty() {
            let calls = std::mem::take(&mut self.one_sided);
            tickets.push(endpoint.submit_one_sided(calls, launch.clone())?);
        }
        Ok(())
    }
}
