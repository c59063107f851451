//! NCCL's C interface, loaded at run time from whichever file the user names: the edge at which the command
//! meets a library, its own or another.
//!
//! [`Library`] holds the functions; [`Communicator`] makes them safe for the calls of a benchmark, whose
//! memory is vouched for by [`Call`].

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::Failure;
use super::bench::contender::{Call, Contender, Request};
use super::bench::operation::{Operation, WINDOW};
use super::bench::pattern::Action;
use super::machine::Memory;
use super::replay::layout::Placed;
use crate::op::{DataType, Kind};

/// A unique id, passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UniqueId(pub(crate) [u8; 128]);

type Comm = *mut c_void;
type Stream = *mut c_void;
type Moved = unsafe extern "C" fn(*const u8, *mut u8, usize, c_int, Comm, Stream) -> c_int;
/// With an operator or a root.
type Chosen = unsafe extern "C" fn(*const u8, *mut u8, usize, c_int, c_int, Comm, Stream) -> c_int;
/// With an operator and a root.
type Rooted = unsafe extern "C" fn(*const u8, *mut u8, usize, c_int, c_int, c_int, Comm, Stream) -> c_int;
/// Fills in at most so many counters, and says how many there are.
type Counters = unsafe extern "C" fn(Comm, *mut Counter, c_int, *mut c_int) -> c_int;
type SetTable = unsafe extern "C" fn(Comm, *const c_char) -> c_int;
type Message = unsafe extern "C" fn(*mut u8, usize, c_int, c_int, Comm, Stream) -> c_int;

/// One counter of the library: a name that lives as long as the library, and its value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Counter {
    name: *const c_char,
    value: u64,
}

/// More counters than a library is likely to have.
const COUNTERS_MAX: usize = 64;

/// The functions that a benchmark calls.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    memory: Option<(
        unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int,
        unsafe extern "C" fn(*mut c_void) -> c_int,
    )>,
    all_reduce: Chosen,
    reduce: Rooted,
    broadcast: Chosen,
    all_gather: Moved,
    reduce_scatter: Chosen,
    all_to_all: Option<Moved>,
    gather: Option<Chosen>,
    scatter: Option<Chosen>,
    send: Message,
    receive: Message,
    counters: Option<Counters>,
    set_table: Option<SetTable>,
}

/// A loaded library.
pub(crate) struct Library {
    functions: Functions,
    path: PathBuf,
    /// Keeps the functions where they are.
    _handle: Handle,
}

impl Library {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// It cannot be loaded, lacks a function, or wants memory that this command cannot give.
    pub(crate) fn load(path: &Path) -> Result<Arc<Library>, Failure> {
        // SAFETY: loading runs the library's initializers, which is what the user asked for.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
            // The words of the dynamic linker are behind the error, where there are any.
            let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            Failure(format!(
                "cannot load {}: {cause}; build it with `cargo build --release` or name one with --library",
                path.display()
            ))
        })?;
        if symbol::<unsafe extern "C" fn()>(&handle, "shoalStreamCreate").is_err() {
            return Err(Failure(format!(
                "{} is an NCCL that works on GPU memory, and this command measures host memory only so far; \
                 name a libshoal.so with --library",
                path.display()
            )));
        }
        let functions = Functions::find(&handle)
            .map_err(|name| Failure(format!("{} has no {name}; it is too old", path.display())))?;
        Ok(Arc::new(Library { functions, path: path.to_owned(), _handle: handle }))
    }

    /// A new unique id, for rank 0 to hand around.
    ///
    /// # Errors
    /// The library's own words.
    pub(crate) fn unique_id(&self) -> Result<UniqueId, Failure> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the library writes one unique id.
        let code = unsafe { (self.functions.unique_id)(&raw mut id) };
        self.check("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// The number that the library gives as its version.
    pub(crate) fn version(&self) -> i32 {
        let mut version = 0;
        // SAFETY: the library writes one int.
        unsafe { (self.functions.version)(&raw mut version) };
        version
    }

    #[inline]
    fn check(&self, call: &str, code: c_int) -> Result<(), Failure> {
        if code == 0 { Ok(()) } else { Err(self.explain(call, code)) }
    }

    #[cold]
    fn explain(&self, call: &str, code: c_int) -> Failure {
        // SAFETY: the interface promises a C string that lives as long as the library.
        let words = unsafe { CStr::from_ptr((self.functions.error_string)(code)) }.to_string_lossy();
        let last = self.functions.last_error.map(|last_error| {
            // SAFETY: the argument is ignored; the string lives until this thread's next failure.
            unsafe { CStr::from_ptr(last_error(null_mut())) }.to_string_lossy().into_owned()
        });
        match last.filter(|text| !text.is_empty()) {
            Some(text) => Failure(format!("{call}: {words} ({code}): {text}")),
            None => Failure(format!("{call}: {words} ({code})")),
        }
    }
}

fn symbol<T: Copy>(handle: &Handle, name: &'static str) -> Result<T, &'static str> {
    const { assert!(size_of::<T>() == size_of::<usize>(), "only function pointers are looked up") };
    // SAFETY: every caller names the function type that the interface gives to `name`, and the handle
    // outlives the copy, since both end up in one `Library`.
    unsafe { handle.get::<T>(name.as_bytes()) }.map(|found| *found).map_err(|_| name)
}

impl Functions {
    fn find(handle: &Handle) -> Result<Functions, &'static str> {
        Ok(Functions {
            version: symbol(handle, "ncclGetVersion")?,
            error_string: symbol(handle, "ncclGetErrorString")?,
            last_error: symbol(handle, "ncclGetLastError").ok(),
            unique_id: symbol(handle, "ncclGetUniqueId")?,
            init_rank: symbol(handle, "ncclCommInitRank")?,
            destroy: symbol(handle, "ncclCommDestroy")?,
            abort: symbol(handle, "ncclCommAbort")?,
            group_start: symbol(handle, "ncclGroupStart")?,
            group_end: symbol(handle, "ncclGroupEnd")?,
            memory: symbol(handle, "ncclMemAlloc").ok().zip(symbol(handle, "ncclMemFree").ok()),
            all_reduce: symbol(handle, "ncclAllReduce")?,
            reduce: symbol(handle, "ncclReduce")?,
            broadcast: symbol(handle, "ncclBroadcast")?,
            all_gather: symbol(handle, "ncclAllGather")?,
            reduce_scatter: symbol(handle, "ncclReduceScatter")?,
            all_to_all: symbol(handle, "ncclAlltoAll").ok(),
            gather: symbol(handle, "ncclGather").ok(),
            scatter: symbol(handle, "ncclScatter").ok(),
            send: symbol(handle, "ncclSend")?,
            receive: symbol(handle, "ncclRecv")?,
            counters: symbol(handle, "shoalCommCounters").ok(),
            set_table: symbol(handle, "shoalCommSetTable").ok(),
        })
    }
}

/// One rank's end of a communicator of a loaded library, on host memory and the NULL stream.
pub(crate) struct Communicator {
    library: Arc<Library>,
    comm: Comm,
    /// What a barrier reduces.
    token: Memory,
}

impl Communicator {
    /// Meets the other ranks of `id`.
    ///
    /// # Errors
    /// The library's own words.
    pub(crate) fn join(
        library: Arc<Library>,
        id: UniqueId,
        rank: usize,
        ranks: usize,
    ) -> Result<Self, Failure> {
        let mut comm = null_mut();
        // SAFETY: the library writes one handle; ranks were checked to fit an int.
        let code = unsafe { (library.functions.init_rank)(&raw mut comm, ranks as c_int, id, rank as c_int) };
        library.check("ncclCommInitRank", code)?;
        Ok(Communicator { library, comm, token: Memory::heap(64) })
    }

    /// From now on the communicator chooses by this table.
    ///
    /// # Errors
    /// The library has no tables, or its own words.
    pub(crate) fn set_table(&self, text: &str) -> Result<(), Failure> {
        let missing = || {
            Failure(format!(
                "{} has no shoalCommSetTable; name a libshoal.so with --library",
                self.describe()
            ))
        };
        let set = self.library.functions.set_table.ok_or_else(missing)?;
        let text = std::ffi::CString::new(text).map_err(|_| Failure("a table with a zero byte".into()))?;
        // SAFETY: the text is a string that outlives the call.
        let code = unsafe { set(self.comm, text.as_ptr()) };
        self.library.check("shoalCommSetTable", code)
    }

    fn message(&self, call: &Call<'_>, sends: bool, peer: usize, offset: usize) -> Result<(), Failure> {
        let request = call.request();
        let (count, element) = (request.count, request.data_type as c_int);
        let (functions, peer) = (&self.library.functions, peer as c_int);
        // SAFETY: the call vouches for both places, and every offset that `run` passes keeps `count` elements
        // inside them by the layout that `Operation::elements` defines. A send only reads.
        let (name, code) = unsafe {
            if sends {
                let place = call.source().add(offset).cast_mut();
                ("ncclSend", (functions.send)(place, count, element, peer, self.comm, null_mut()))
            } else {
                let place = call.target().add(offset);
                ("ncclRecv", (functions.receive)(place, count, element, peer, self.comm, null_mut()))
            }
        };
        self.library.check(name, code)
    }

    /// Does what a pattern says, one call after the other.
    fn perform(&self, call: &Call<'_>) -> Result<(), Failure> {
        let (functions, comm, bytes_of) = (&self.library.functions, self.comm, DataType::Uint8 as c_int);
        let (source, target) = (call.source(), call.target());
        for action in call.actions() {
            // SAFETY: the call vouches for both places, and every range of its actions lies inside them. What
            // a group holds is done when it closes, before `run` returns.
            let (name, code) = unsafe {
                match *action {
                    Action::Open => ("ncclGroupStart", (functions.group_start)()),
                    Action::Close => ("ncclGroupEnd", (functions.group_end)()),
                    Action::Send { peer, offset, bytes } => {
                        let place = source.add(offset).cast_mut();
                        (
                            "ncclSend",
                            (functions.send)(place, bytes, bytes_of, peer as c_int, comm, null_mut()),
                        )
                    }
                    Action::Receive { peer, offset, bytes, .. } => {
                        let place = target.add(offset);
                        let code =
                            (functions.receive)(place, bytes, bytes_of, peer as c_int, comm, null_mut());
                        ("ncclRecv", code)
                    }
                    Action::AllGather { source: from, target: to, bytes } => {
                        let (from, to) = (source.add(from), target.add(to));
                        let code = (functions.all_gather)(from, to, bytes, bytes_of, comm, null_mut());
                        ("ncclAllGather", code)
                    }
                }
            };
            self.library.check(name, code)?;
        }
        Ok(())
    }

    fn grouped(&self, calls: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        // SAFETY: opening a group touches no memory of ours.
        let code = unsafe { (self.library.functions.group_start)() };
        self.library.check("ncclGroupStart", code)?;
        let outcome = calls();
        // SAFETY: the places of all calls in the group live until `run` returns.
        let code = unsafe { (self.library.functions.group_end)() };
        outcome.and(self.library.check("ncclGroupEnd", code))
    }

    /// # Safety
    /// Both places hold what the request reads and writes, until this call, or the group around it, has returned.
    unsafe fn collective(
        &self,
        request: &Request,
        source: *const u8,
        target: *mut u8,
    ) -> Result<(), Failure> {
        let functions = &self.library.functions;
        let count = request.count;
        let (element, operator) = (request.data_type as c_int, request.reduction as c_int);
        let (root, comm, stream) = (request.root as c_int, self.comm, null_mut());
        // SAFETY: passed on from this function's contract; the NULL stream means that the library is done with both
        // places when it returns.
        let code = unsafe {
            match request.operation {
                Operation::AllReduce => {
                    (functions.all_reduce)(source, target, count, element, operator, comm, stream)
                }
                Operation::Reduce => {
                    (functions.reduce)(source, target, count, element, operator, root, comm, stream)
                }
                Operation::Broadcast => {
                    (functions.broadcast)(source, target, count, element, root, comm, stream)
                }
                Operation::AllGather => (functions.all_gather)(source, target, count, element, comm, stream),
                Operation::ReduceScatter => {
                    (functions.reduce_scatter)(source, target, count, element, operator, comm, stream)
                }
                Operation::AllToAll => match functions.all_to_all {
                    Some(run) => run(source, target, count, element, comm, stream),
                    None => return Err(lacks(request.operation)),
                },
                Operation::Gather => match functions.gather {
                    Some(run) => run(source, target, count, element, root, comm, stream),
                    None => return Err(lacks(request.operation)),
                },
                Operation::Scatter => match functions.scatter {
                    Some(run) => run(source, target, count, element, root, comm, stream),
                    None => return Err(lacks(request.operation)),
                },
                Operation::Barrier => {
                    let token = self.token.at(0);
                    (functions.all_reduce)(token, token, 1, DataType::Int32 as c_int, 0, comm, stream)
                }
                _ => return Err(lacks(request.operation)),
            }
        };
        self.library.check(request.operation.name(), code)
    }

    /// Runs a batch of a trace to its end: one call, or several in a group. The memory is nobody else's meanwhile.
    ///
    /// # Errors
    /// The library's own words, or what it lacks.
    pub(crate) fn run_batch(&self, batch: &[Placed], memory: &mut Memory) -> Result<(), Failure> {
        match batch {
            [one] => self.run_placed(one, memory),
            _ => self.grouped(|| batch.iter().try_for_each(|one| self.run_placed(one, memory))),
        }
    }

    #[inline]
    fn run_placed(&self, placed: &Placed, memory: &Memory) -> Result<(), Failure> {
        let within =
            |start: usize, bytes: usize| start.checked_add(bytes).is_some_and(|end| end <= memory.bytes());
        let Placed { operation, source, source_bytes, target, target_bytes, .. } = *placed;
        assert!(
            within(source, source_bytes) && within(target, target_bytes),
            "a batch larger than its memory"
        );
        let (from, to) = (memory.at(source), memory.at(target));
        if let Some(request) = &placed.request {
            assert_eq!(request.buffer_bytes(), (source_bytes, target_bytes));
            // SAFETY: both ranges were just checked. `run_batch` borrows the memory until the group is closed, and
            // every call is done by then.
            return unsafe { self.collective(request, from, to) };
        }
        let (functions, count) = (&self.library.functions, operation.count as usize);
        let (element, peer) = (operation.data_type as c_int, operation.peer as c_int);
        assert_eq!(count * operation.data_type.size_bytes(), source_bytes + target_bytes);
        // SAFETY: as above; a message reads its source or writes its target, and the other range is empty.
        let (name, code) = unsafe {
            if operation.kind == Kind::Send {
                ("ncclSend", (functions.send)(from, count, element, peer, self.comm, null_mut()))
            } else {
                ("ncclRecv", (functions.receive)(to, count, element, peer, self.comm, null_mut()))
            }
        };
        self.library.check(name, code)
    }

    fn rate(&self, call: &Call<'_>) -> Result<(), Failure> {
        let (rank, ranks) = (call.request().rank, call.request().ranks);
        let sends = rank.is_multiple_of(2);
        let peer = if sends { rank + 1 } else { rank - 1 };
        if peer >= ranks {
            return Ok(());
        }
        self.grouped(|| {
            (0..WINDOW)
                .try_for_each(|message| self.message(call, sends, peer, message * call.request().bytes()))
        })?;
        let (token, comm, element) = (self.token.at(0), self.comm, DataType::Uint8 as c_int);
        let functions = &self.library.functions;
        let answer = if sends { functions.receive } else { functions.send };
        // SAFETY: the token has room for one byte and lives as long as this communicator.
        let code = unsafe { answer(token, 1, element, peer as c_int, comm, null_mut()) };
        self.library.check("the answer of a window", code)
    }

    fn send_receive(&self, call: &Call<'_>) -> Result<(), Failure> {
        let (right, left) = call.neighbours();
        match (call.request().ranks, call.request().rank) {
            (2, 0) => {
                self.message(call, true, 1, 0)?;
                self.message(call, false, 1, 0)
            }
            (2, _) => {
                self.message(call, false, 0, 0)?;
                self.message(call, true, 0, 0)
            }
            _ => self.grouped(|| {
                self.message(call, true, right, 0)?;
                self.message(call, false, left, 0)
            }),
        }
    }

    fn exchange(&self, call: &Call<'_>) -> Result<(), Failure> {
        self.grouped(|| {
            for peer in call.peers() {
                for message in 0..call.request().messages {
                    let offset = call.message_offset(peer, message);
                    self.message(call, true, peer, offset)?;
                    self.message(call, false, peer, offset)?;
                }
            }
            Ok(())
        })
    }
}

fn lacks(operation: Operation) -> Failure {
    Failure(format!("this library has no {}", operation.name()))
}

impl Contender for Communicator {
    fn describe(&self) -> String {
        let name = self.library.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = self.library.version();
        format!("{name} {}.{}.{}", version / 10000, version / 100 % 100, version % 100)
    }

    fn supports(&self, request: &Request, _in_place: bool) -> Result<(), Failure> {
        let functions = &self.library.functions;
        let missing = match request.operation {
            Operation::AllToAll => functions.all_to_all.is_none(),
            Operation::Gather => functions.gather.is_none(),
            Operation::Scatter => functions.scatter.is_none(),
            _ => false,
        };
        if missing { Err(lacks(request.operation)) } else { Ok(()) }
    }

    #[inline]
    fn run(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        match call.request().operation {
            Operation::SendRecv => self.send_receive(call),
            Operation::Exchange | Operation::Packed => self.exchange(call),
            Operation::Rate => self.rate(call),
            operation if operation.is_pattern() => self.perform(call),
            // SAFETY: the call vouches for both places, and is not a group.
            _ => unsafe { self.collective(call.request(), call.source(), call.target()) },
        }
    }

    fn counters(&mut self) -> Result<Vec<(String, u64)>, Failure> {
        let Some(read) = self.library.functions.counters else { return Ok(Vec::new()) };
        let mut found = [Counter { name: std::ptr::null(), value: 0 }; COUNTERS_MAX];
        let mut count = 0;
        // SAFETY: the library writes at most as many counters as it is told there is room for, and one number.
        let code = unsafe { read(self.comm, found.as_mut_ptr(), COUNTERS_MAX as c_int, &raw mut count) };
        self.library.check("shoalCommCounters", code)?;
        let count = usize::try_from(count).unwrap_or(0).min(COUNTERS_MAX);
        let named = found[..count].iter().filter(|counter| !counter.name.is_null());
        // SAFETY: the library filled these in, and their names live as long as it does.
        let text = |counter: &Counter| unsafe { CStr::from_ptr(counter.name) }.to_string_lossy().into_owned();
        Ok(named.map(|counter| (text(counter), counter.value)).collect())
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, Failure> {
        let lacking = || Failure("this library has no ncclMemAlloc; use --memory heap".into());
        let (allocate, free) = self.library.functions.memory.ok_or_else(lacking)?;
        let mut start = null_mut();
        // SAFETY: the library writes one pointer.
        let code = unsafe { allocate(&raw mut start, bytes.max(1)) };
        self.library.check("ncclMemAlloc", code)?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(lacking)?;
        let library = Arc::clone(&self.library);
        let release = Box::new(move |start: *mut u8| {
            let _loaded_until_now = library;
            // SAFETY: the pointer came from the same library's ncclMemAlloc and is given back once.
            unsafe { free(start.cast()) };
        });
        // SAFETY: ncclMemAlloc promises `bytes` readable and writable bytes until ncclMemFree.
        Ok(unsafe { Memory::from_library(start, bytes, release) })
    }

    fn touch(&mut self) {
        std::hint::black_box(self.library.version());
    }

    fn finish(mut self) -> Result<(), Failure> {
        let comm = std::mem::replace(&mut self.comm, null_mut());
        // SAFETY: the handle came from init and is given back once, since it was just replaced.
        let code = unsafe { (self.library.functions.destroy)(comm) };
        self.library.check("ncclCommDestroy", code)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.comm.is_null() {
            // SAFETY: the handle came from init and was not given back; the interface allows an abort at any
            // time, which is what a failed run needs so as not to wait for the others.
            unsafe { (self.library.functions.abort)(self.comm) };
        }
    }
}
