//! Stock NCCL's profiler plugin, versions 5 and 6: what NCCL tells of its operations becomes traces, as those of
//! `SHOAL_TRACE` in a job on Shoal.
//!
//! ```text
//! NCCL_PROFILER_PLUGIN=/path/to/libshoal-nccl.so SHOAL_TRACE=folder
//! ```
//! NCCL hands out what it launches together as a group, then the operations of it, and from its proxy thread when each
//! channel of their kernels begins and ends. What it gets back for each is a number, never an address: which
//! communicator, which batch. So nothing that NCCL does with it later can touch memory that is gone.
//!
//! The layout is that of NCCL's public headers `profiler_v5.h` and `profiler_v6.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal::config::Config;
use shoal::system::clock;
use shoal::trace::tracer::{Title, Tracer};

use crate::journal::{Call, Journal};
use crate::{INFO, INVALID_ARGUMENT, Logger, NAME, Name, SUCCESS, WARN, guarded};

/// NCCL_PROFILE
const PROFILE: c_ulong = 16384;
const SYSTEM_ERROR: c_int = 2;

/// Events, as bits of the mask by which a plugin says what it wants.
const GROUP: u64 = 1;
const COLLECTIVE: u64 = 1 << 1;
const MESSAGE: u64 = 1 << 2;
const KERNEL: u64 = 1 << 6;
/// A collective by copy engines; version 6 has it.
const COPIED: u64 = 1 << 12;

/// What NCCL says of an event; what follows depends on the type.
#[repr(C)]
struct Described {
    kind: u64,
    parent: *mut c_void,
    rank: c_int,
    rest: Rest,
}

#[repr(C)]
union Rest {
    collective: Collective,
    message: Message,
    copied: Copied,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Collective {
    sequence: u64,
    name: *const c_char,
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    root: c_int,
    data_type: *const c_char,
    channels: u8,
    warps: u8,
    algorithm: *const c_char,
    protocol: *const c_char,
    group: *mut c_void,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Message {
    name: *const c_char,
    place: *mut c_void,
    data_type: *const c_char,
    count: usize,
    peer: c_int,
    channels: u8,
    group: *mut c_void,
}

/// The beginning of it, which is as a collective's.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copied {
    sequence: u64,
    name: *const c_char,
    source: *const c_void,
    target: *mut c_void,
    count: usize,
    root: c_int,
    data_type: *const c_char,
}

type Init = unsafe extern "C" fn(
    *mut *mut c_void,
    u64,
    *mut c_int,
    *const c_char,
    c_int,
    c_int,
    c_int,
    Option<Logger>,
) -> c_int;
type Start = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *const Described) -> c_int;
type Stop = unsafe extern "C" fn(*mut c_void) -> c_int;
type Record = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;

/// `ncclProfiler_v5_t` and `ncclProfiler_v6_t`, which differ in what the descriptors hold.
#[repr(C)]
struct Profiler {
    name: Name,
    init: Init,
    start: Start,
    stop: Stop,
    record: Record,
    finalize: Stop,
}

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // the name is NCCL's
static ncclProfiler_v5: Profiler =
    Profiler { name: Name(NAME.as_ptr()), init: init_v5, start, stop, record, finalize };

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // the name is NCCL's
static ncclProfiler_v6: Profiler =
    Profiler { name: Name(NAME.as_ptr()), init: init_v6, start, stop, record, finalize };

type Shared = Arc<Mutex<Journal>>;

/// Journals by the number of their communicator.
static JOURNALS: Mutex<Vec<Option<Shared>>> = Mutex::new(Vec::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn journal(number: usize) -> Option<Shared> {
    locked(&JOURNALS).get(number).cloned().flatten()
}

/// What an event is known by: what it is, which communicator, which batch. Never 0, and never an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle {
    what: usize,
    communicator: usize,
    batch: u64,
}

/// A batch; an operation of one; an operation that is a batch; a channel of a kernel.
const BATCH: usize = 1;
const PART: usize = 2;
const ALONE: usize = 3;
const CHANNEL: usize = 4;

const WHAT_BITS: u32 = 3;
const COMMUNICATOR_BITS: u32 = 21;
const BATCH_BITS: u32 = 64 - WHAT_BITS - COMMUNICATOR_BITS;

impl Handle {
    fn packed(self) -> *mut c_void {
        let batch = self.batch & ((1 << BATCH_BITS) - 1);
        (self.what | self.communicator << WHAT_BITS | (batch as usize) << (WHAT_BITS + COMMUNICATOR_BITS))
            as *mut c_void
    }

    fn unpacked(handle: *mut c_void) -> Option<Handle> {
        let bits = handle as usize;
        let communicator = bits >> WHAT_BITS & ((1 << COMMUNICATOR_BITS) - 1);
        let what = bits & ((1 << WHAT_BITS) - 1);
        let batch = (bits >> (WHAT_BITS + COMMUNICATOR_BITS)) as u64;
        (what != 0).then_some(Handle { what, communicator, batch })
    }
}

/// Says a sentence in NCCL's log.
///
/// # Safety
/// `log` is NCCL's.
unsafe fn say(log: Option<Logger>, level: c_int, text: &str) {
    let (Some(log), Ok(text)) = (log, CString::new(text.replace('\0', " "))) else { return };
    // SAFETY: the format takes one string, and all strings outlive the call.
    unsafe { log(level, PROFILE, c"shoal-nccl".as_ptr(), 0, c"%s".as_ptr(), text.as_ptr()) };
}

/// # Safety
/// As [`init`]'s.
unsafe extern "C" fn init_v5(
    place: *mut *mut c_void,
    communicator: u64,
    wanted: *mut c_int,
    _name: *const c_char,
    _hosts: c_int,
    ranks: c_int,
    rank: c_int,
    log: Option<Logger>,
) -> c_int {
    // SAFETY: passed on from this function's contract.
    guarded(|| unsafe { init(place, communicator, wanted, [ranks, rank], log, 0) })
}

/// # Safety
/// As [`init`]'s.
unsafe extern "C" fn init_v6(
    place: *mut *mut c_void,
    communicator: u64,
    wanted: *mut c_int,
    _name: *const c_char,
    _hosts: c_int,
    ranks: c_int,
    rank: c_int,
    log: Option<Logger>,
) -> c_int {
    // SAFETY: passed on from this function's contract.
    guarded(|| unsafe { init(place, communicator, wanted, [ranks, rank], log, COPIED) })
}

/// # Safety
/// `place` and `wanted` are NULL or writable; `log` is NCCL's or NULL.
unsafe fn init(
    place: *mut *mut c_void,
    communicator: u64,
    wanted: *mut c_int,
    [ranks, rank]: [c_int; 2],
    log: Option<Logger>,
    more: u64,
) -> c_int {
    let (Ok(ranks), Ok(rank)) = (u32::try_from(ranks), u32::try_from(rank)) else { return INVALID_ARGUMENT };
    if place.is_null() || wanted.is_null() {
        return INVALID_ARGUMENT;
    }
    let config = Config::get();
    let (context, mask) = if config.trace.is_empty() {
        // SAFETY: passed on from this function's contract.
        unsafe { say(log, INFO, "Shoal's profiler: SHOAL_TRACE names no folder, so nothing is kept") };
        (std::ptr::null_mut(), 0)
    } else {
        let folder = std::path::Path::new(&config.trace);
        let host = host();
        let title = Title { communicator: communicator.into(), rank, ranks, host, coalesce_bytes: 0 };
        let tracer = match Tracer::create(folder, &title, config.trace_bytes) {
            Ok(tracer) => tracer,
            Err(error) => {
                // SAFETY: passed on from this function's contract.
                unsafe { say(log, WARN, &format!("Shoal's profiler: {error}")) };
                return SYSTEM_ERROR;
            }
        };
        let mut journals = locked(&JOURNALS);
        let number = journals.len();
        journals.push(Some(Arc::new(Mutex::new(Journal::new(tracer, rank)))));
        let handle = Handle { what: BATCH, communicator: number, batch: 0 };
        (handle.packed(), GROUP | COLLECTIVE | MESSAGE | KERNEL | more)
    };
    // SAFETY: neither is NULL, so by the contract both are writable.
    unsafe {
        place.write(context);
        wanted.write(mask as c_int);
    }
    SUCCESS
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// # Safety
/// `text` is NULL or a string that outlives the call.
unsafe fn word(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is not NULL, so by the contract it is a string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `context` comes from `init`; `place` is NULL or writable; `described` is NULL or NCCL's, of one of the types that
/// `init` asked for, with its strings.
unsafe extern "C" fn start(
    context: *mut c_void,
    place: *mut *mut c_void,
    described: *const Described,
) -> c_int {
    guarded(|| {
        if place.is_null() || described.is_null() {
            return INVALID_ARGUMENT;
        }
        // SAFETY: it is not NULL, so by the contract it is NCCL's.
        let begun = unsafe { begin(context, &*described) };
        // SAFETY: it is not NULL, so by the contract it is writable.
        unsafe { place.write(begun.map_or(std::ptr::null_mut(), Handle::packed)) };
        SUCCESS
    })
}

/// # Safety
/// `described` is NCCL's, with the part that belongs to its type, and strings that outlive the call.
unsafe fn begin(context: *mut c_void, described: &Described) -> Option<Handle> {
    let communicator = Handle::unpacked(context)?.communicator;
    let journal = journal(communicator)?;
    let mut journal = locked(&journal);
    let now_ticks = clock::ticks();
    let handle = |what, batch| Some(Handle { what, communicator, batch });
    let is_here = |handle: &Handle| handle.communicator == communicator;
    let (call, channels, group) = match described.kind {
        GROUP => return handle(BATCH, journal.begin(now_ticks)),
        KERNEL => {
            let batch = Handle::unpacked(described.parent).filter(is_here)?.batch;
            journal.move_on(batch, now_ticks);
            return handle(CHANNEL, batch);
        }
        // SAFETY: by the contract the part is that of the type, and its strings are strings.
        COLLECTIVE => unsafe {
            let one = described.rest.collective;
            (
                call_of(one.name, one.data_type, one.count, one.root, [one.source, one.target]),
                one.channels,
                one.group,
            )
        },
        // SAFETY: as above.
        COPIED => unsafe {
            let one = described.rest.copied;
            let call = call_of(one.name, one.data_type, one.count, one.root, [one.source, one.target]);
            (call, 0, std::ptr::null_mut())
        },
        // SAFETY: as above.
        MESSAGE => unsafe {
            let one = described.rest.message;
            (
                call_of(one.name, one.data_type, one.count, one.peer, [one.place, one.place]),
                one.channels,
                one.group,
            )
        },
        _ => return None,
    };
    let group = Handle::unpacked(group).filter(is_here).filter(|group| group.what == BATCH);
    let (what, batch) = match group {
        Some(group) => (PART, group.batch),
        None => (ALONE, journal.begin(now_ticks)),
    };
    journal.add(batch, &call, channels);
    handle(what, batch)
}

/// # Safety
/// Both texts are NULL or strings that outlive the call.
unsafe fn call_of(
    name: *const c_char,
    data_type: *const c_char,
    count: usize,
    peer: c_int,
    [source, target]: [*const c_void; 2],
) -> Call {
    // SAFETY: passed on from this function's contract.
    let [name, data_type] = unsafe { [word(name), word(data_type)] };
    Call { name, data_type, count, peer, source: source as usize, target: target as usize }
}

/// # Safety
/// None: a handle is a number.
unsafe extern "C" fn stop(handle: *mut c_void) -> c_int {
    guarded(|| {
        let Some(handle) = Handle::unpacked(handle) else { return SUCCESS };
        let Some(journal) = journal(handle.communicator) else { return SUCCESS };
        let (mut journal, now_ticks) = (locked(&journal), clock::ticks());
        match handle.what {
            BATCH | ALONE => journal.close(handle.batch, now_ticks),
            CHANNEL => journal.end(handle.batch, now_ticks),
            // Only says that it was enqueued, as the batch will.
            _ => {}
        }
        SUCCESS
    })
}

/// # Safety
/// None: nothing is looked at. States are of what was not asked for, or the times of the device's own clock.
unsafe extern "C" fn record(_handle: *mut c_void, _state: c_int, _arguments: *mut c_void) -> c_int {
    SUCCESS
}

/// # Safety
/// None: a context is a number.
unsafe extern "C" fn finalize(context: *mut c_void) -> c_int {
    guarded(|| {
        if let Some(handle) = Handle::unpacked(context) {
            // What is not written yet is written as it goes.
            let journal = locked(&JOURNALS).get_mut(handle.communicator).and_then(Option::take);
            drop(journal);
        }
        SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_numbers() {
        for (what, communicator, batch) in [(BATCH, 0, 0), (CHANNEL, 77, 1 << 39), (PART, (1 << 21) - 1, 5)] {
            let handle = Handle { what, communicator, batch };
            assert!(!handle.packed().is_null());
            assert_eq!(Handle::unpacked(handle.packed()), Some(handle));
        }
        assert_eq!(Handle::unpacked(std::ptr::null_mut()), None);
    }
}
