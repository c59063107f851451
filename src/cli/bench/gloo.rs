//! Gloo as a contender: what PyTorch uses on CPUs. It has a C++ interface, so it is reached through a small
//! library of ours (`benches/gloo/wrapper.cc`, built by `make bench-gloo`), loaded at run time.
//!
//! On one machine Gloo has TCP and nothing else. Messages are posted all at once by slots of registered memory,
//! and waited for together: its best.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::Library as Handle;

use super::contender::{Call, Contender, Request};
use super::operation::{Operation, WINDOW};
use super::pattern::Action;
use crate::cli::Failure;
use crate::cli::board::Seat;
use crate::cli::machine::Memory;
use crate::op::{DataType, Reduction};

/// Where `make bench-gloo` puts the wrapper.
pub(crate) const WRAPPER: &str = "target/gloo/libgloo_wrapper.so";

type Moved = unsafe extern "C" fn(*mut c_void, c_int, u64, usize, usize) -> c_int;
type Gathered = unsafe extern "C" fn(*const u8, *mut u8, usize, c_int) -> c_int;

/// The wrapper's functions.
#[derive(Clone, Copy)]
struct Functions {
    error: unsafe extern "C" fn() -> *const c_char,
    join: unsafe extern "C" fn(c_int, c_int, *const c_char) -> c_int,
    leave: unsafe extern "C" fn() -> c_int,
    region: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    forget: unsafe extern "C" fn(*mut c_void),
    send: Moved,
    receive: Moved,
    wait: unsafe extern "C" fn(*mut c_void, usize, usize) -> c_int,
    all_reduce: unsafe extern "C" fn(*const f32, *mut f32, usize) -> c_int,
    all_gather: Gathered,
    all_to_all: Gathered,
    broadcast: unsafe extern "C" fn(*const u8, *mut u8, usize, c_int, c_int) -> c_int,
    barrier: unsafe extern "C" fn() -> c_int,
}

/// Memory that Gloo knows: where it starts, how long it is, Gloo's handle, and what is in flight there.
struct Region {
    start: usize,
    bytes: usize,
    handle: *mut c_void,
    sends: usize,
    receives: usize,
}

/// One rank's context.
pub(super) struct Context {
    functions: Functions,
    regions: Vec<Region>,
    /// The next slot to and from each rank.
    slots: Vec<[u64; 2]>,
    rank: usize,
    ranks: usize,
    token: Memory,
    /// Keeps the functions where they are.
    _handle: Handle,
}

fn symbol<T: Copy>(handle: &Handle, name: &str) -> Result<T, Failure> {
    const { assert!(size_of::<T>() == size_of::<usize>(), "only function pointers are looked up") };
    // SAFETY: every caller names the function type that the wrapper gives to `name`, and the handle outlives the
    // copy, since both end up in one `Context`.
    let found = unsafe { handle.get::<T>(name.as_bytes()) };
    found.map(|found| *found).map_err(|_| Failure(format!("the Gloo wrapper has no {name}; make bench-gloo")))
}

impl Context {
    /// Loads the wrapper, and meets the other ranks in a folder of their own.
    pub(super) fn join(seat: &Seat, wrapper: &Path) -> Result<Context, Failure> {
        let missing = |error: libloading::Error| {
            let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            let words = "build it with `make bench-gloo` (Debian: libgloo-dev)";
            Failure(format!("cannot load {}: {cause}; {words}", wrapper.display()))
        };
        let whole = std::path::absolute(wrapper)?;
        // SAFETY: loading runs Gloo's initializers, which is what the user asked for.
        let handle = unsafe { Handle::new(&whole) }.map_err(missing)?;
        let functions = Functions {
            error: symbol(&handle, "gloo_wrapper_error")?,
            join: symbol(&handle, "gloo_wrapper_join")?,
            leave: symbol(&handle, "gloo_wrapper_leave")?,
            region: symbol(&handle, "gloo_wrapper_region")?,
            forget: symbol(&handle, "gloo_wrapper_forget")?,
            send: symbol(&handle, "gloo_wrapper_send")?,
            receive: symbol(&handle, "gloo_wrapper_receive")?,
            wait: symbol(&handle, "gloo_wrapper_wait")?,
            all_reduce: symbol(&handle, "gloo_wrapper_allreduce")?,
            all_gather: symbol(&handle, "gloo_wrapper_allgather")?,
            all_to_all: symbol(&handle, "gloo_wrapper_alltoall")?,
            broadcast: symbol(&handle, "gloo_wrapper_broadcast")?,
            barrier: symbol(&handle, "gloo_wrapper_barrier")?,
        };
        let (rank, ranks) = (seat.rank(), seat.ranks());
        let process = seat.gather(u64::from(std::process::id()))?[0];
        let folder: PathBuf = std::env::temp_dir().join(format!("shoal-gloo-{process}"));
        if rank == 0 {
            std::fs::create_dir(&folder)?;
        }
        seat.barrier()?;
        let context = Context {
            functions,
            regions: Vec::new(),
            slots: vec![[0; 2]; ranks],
            rank,
            ranks,
            token: Memory::heap(64),
            _handle: handle,
        };
        let name = CString::new(folder.display().to_string()).map_err(|error| Failure(error.to_string()))?;
        // SAFETY: the name is a C string, and this is the only context of the process.
        let code = unsafe { (functions.join)(rank as c_int, ranks as c_int, name.as_ptr()) };
        let met = context.check("joining", code);
        let all = seat.sum(u64::from(met.is_err()));
        if rank == 0 {
            let _ = std::fs::remove_dir_all(&folder);
        }
        met?;
        all?;
        Ok(context)
    }

    #[inline]
    fn check(&self, call: &str, code: c_int) -> Result<(), Failure> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the wrapper answers with a C string that lives until the next error of this thread.
        let words = unsafe { CStr::from_ptr((self.functions.error)()) }.to_string_lossy().into_owned();
        Err(Failure(format!("Gloo, {call}: {words}")))
    }

    /// The region that holds a place; what a call moves is made known at its first message.
    fn region(&mut self, start: usize, bytes: usize) -> Result<usize, Failure> {
        let holds = |region: &Region| start >= region.start && start + bytes <= region.start + region.bytes;
        if let Some(found) = self.regions.iter().position(holds) {
            return Ok(found);
        }
        // SAFETY: the place is valid for so many bytes while the call runs, by the call's promise; Gloo touches
        // it in messages only, which `wait_for_all` ends before the call does.
        let handle = unsafe { (self.functions.region)(start as *mut c_void, bytes) };
        if handle.is_null() {
            self.check("registering memory", 1)?;
        }
        // What was asked for last is asked for again.
        self.regions.insert(0, Region { start, bytes, handle, sends: 0, receives: 0 });
        Ok(0)
    }

    /// Makes the whole input and result of a call known, so that messages find them.
    fn know(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let (read, written) = call.request().buffer_bytes();
        self.region(call.source() as usize, read.max(1))?;
        self.region(call.target() as usize, written.max(1)).map(|_| ())
    }

    fn start(&mut self, place: usize, bytes: usize, peer: usize, sends: bool) -> Result<(), Failure> {
        let number = self.region(place, bytes)?;
        let region = &mut self.regions[number];
        let slot = &mut self.slots[peer][usize::from(sends)];
        let (offset, current) = (place - region.start, *slot);
        // Both ends count alike, and no slot is used twice while it is in flight.
        *slot += 1;
        let (run, count) = if sends {
            (self.functions.send, &mut region.sends)
        } else {
            (self.functions.receive, &mut region.receives)
        };
        *count += 1;
        // SAFETY: the region holds the place, and is waited for before the call ends.
        let code = unsafe { run(region.handle, peer as c_int, current, offset, bytes) };
        self.check("a message", code)
    }

    fn send(&mut self, place: *const u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        self.start(place as usize, bytes, peer, true)
    }

    fn receive(&mut self, place: *mut u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        self.start(place as usize, bytes, peer, false)
    }

    fn wait_for_all(&mut self) -> Result<(), Failure> {
        for number in 0..self.regions.len() {
            let region = &mut self.regions[number];
            let (sends, receives) = (std::mem::take(&mut region.sends), std::mem::take(&mut region.receives));
            if sends + receives > 0 {
                // SAFETY: the handle is a region's, and so many messages are in flight there.
                let code = unsafe { (self.functions.wait)(region.handle, sends, receives) };
                self.check("waiting", code)?;
            }
        }
        Ok(())
    }

    fn send_receive(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let bytes = call.request().bytes();
        let (right, left) = call.neighbours();
        let sends_first = self.rank == 0 || self.ranks > 2;
        if sends_first {
            self.send(call.source(), bytes, right)?;
            if self.ranks == 2 {
                self.wait_for_all()?;
            }
        }
        self.receive(call.target(), bytes, left)?;
        self.wait_for_all()?;
        if !sends_first {
            self.send(call.source(), bytes, right)?;
        }
        self.wait_for_all()
    }

    fn exchange(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let (messages, bytes) = (call.request().messages, call.request().bytes());
        for peer in call.peers() {
            for message in 0..messages {
                let offset = call.message_offset(peer, message);
                self.receive(call.target().wrapping_add(offset), bytes, peer)?;
            }
        }
        for peer in call.peers() {
            for message in 0..messages {
                let offset = call.message_offset(peer, message);
                self.send(call.source().wrapping_add(offset), bytes, peer)?;
            }
        }
        self.wait_for_all()
    }

    fn rate(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let bytes = call.request().bytes();
        let token = self.token.at(0);
        let sends = self.rank.is_multiple_of(2);
        let peer = if sends { self.rank + 1 } else { self.rank - 1 };
        if peer >= self.ranks {
            return Ok(());
        }
        for message in 0..WINDOW {
            if sends {
                self.send(call.source().wrapping_add(message * bytes), bytes, peer)?;
            } else {
                self.receive(call.target().wrapping_add(message * bytes), bytes, peer)?;
            }
        }
        self.wait_for_all()?;
        if sends { self.receive(token, 1, peer) } else { self.send(token, 1, peer) }?;
        self.wait_for_all()
    }

    fn perform(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let mut grouped = false;
        for action in call.actions() {
            match *action {
                Action::Open => grouped = true,
                Action::Close => grouped = false,
                Action::Send { peer, offset, bytes } => {
                    self.send(call.source().wrapping_add(offset), bytes, peer)?;
                }
                Action::Receive { peer, offset, bytes, .. } => {
                    self.receive(call.target().wrapping_add(offset), bytes, peer)?;
                }
                Action::AllGather { source, target, bytes } => {
                    let (from, to) = (call.source().wrapping_add(source), call.target().wrapping_add(target));
                    // SAFETY: the call vouches for both places, and its actions' ranges lie inside them.
                    let code = unsafe { (self.functions.all_gather)(from, to, bytes, self.ranks as c_int) };
                    self.check("allgather", code)?;
                }
            }
            if !grouped {
                self.wait_for_all()?;
            }
        }
        Ok(())
    }

    fn collective(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let request = call.request();
        let (source, target, bytes) = (call.source(), call.target(), request.bytes());
        let (functions, ranks) = (self.functions, self.ranks as c_int);
        // SAFETY: the call vouches that both places hold what the operation reads and writes; Gloo's calls are
        // done with them when they return.
        let code = unsafe {
            match request.operation {
                Operation::AllReduce => (functions.all_reduce)(source.cast(), target.cast(), request.count),
                Operation::AllGather => (functions.all_gather)(source, target, bytes, ranks),
                Operation::AllToAll => (functions.all_to_all)(source, target, bytes, ranks),
                Operation::Broadcast => {
                    (functions.broadcast)(source, target, bytes, request.root as c_int, self.rank as c_int)
                }
                Operation::Barrier => (functions.barrier)(),
                _ => return Err(lacks(request)),
            }
        };
        self.check(request.operation.name(), code)
    }
}

fn lacks(request: &Request) -> Failure {
    Failure(format!("Gloo is not measured on {}", request.label()))
}

impl Contender for Context {
    fn describe(&self) -> String {
        "Gloo over TCP".to_owned()
    }

    fn supports(&self, request: &Request, in_place: bool) -> Result<(), Failure> {
        let is_float_sum = request.data_type == DataType::Float32 && request.reduction == Reduction::Sum;
        match request.operation {
            _ if in_place => Err(Failure("Gloo is measured out of place".into())),
            Operation::AllReduce if is_float_sum => Ok(()),
            Operation::SendRecv
            | Operation::Exchange
            | Operation::Packed
            | Operation::Rate
            | Operation::AllGather
            | Operation::AllToAll
            | Operation::Broadcast
            | Operation::Barrier => Ok(()),
            operation if operation.is_pattern() => Ok(()),
            _ => Err(lacks(request)),
        }
    }

    fn run(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        match call.request().operation {
            Operation::SendRecv | Operation::Exchange | Operation::Packed | Operation::Rate => {
                self.know(call)?
            }
            operation if operation.is_pattern() => self.know(call)?,
            _ => {}
        }
        match call.request().operation {
            Operation::SendRecv => self.send_receive(call),
            Operation::Exchange | Operation::Packed => self.exchange(call),
            Operation::Rate => self.rate(call),
            operation if operation.is_pattern() => self.perform(call),
            _ => self.collective(call),
        }
    }

    fn allocate(&self, _bytes: usize) -> Result<Memory, Failure> {
        Err(Failure("Gloo is measured on ordinary memory; use --memory heap".into()))
    }

    fn touch(&mut self) {
        // SAFETY: the function takes nothing, and its answer is not looked at.
        std::hint::black_box(unsafe { (self.functions.error)() });
    }

    fn finish(self) -> Result<(), Failure> {
        for region in &self.regions {
            // SAFETY: each handle is given back once, and nothing is in flight there.
            unsafe { (self.functions.forget)(region.handle) };
        }
        // SAFETY: the context is left once; no region of it is used any more.
        let code = unsafe { (self.functions.leave)() };
        self.check("leaving", code)
    }
}
