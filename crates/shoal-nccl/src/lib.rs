//! Stock NCCL's plugins, versions 5 and 6 of each: the profiler, which has a file of its own, and here the tuner. What
//! NCCL asks about a collective is answered from the `[[stock]]` rows of Shoal's table, those that `shoal table import`
//! makes of the CSV of NCCL's example plugin, or that somebody wrote by hand.
//!
//! ```text
//! NCCL_TUNER_PLUGIN=/path/to/libshoal-nccl.so SHOAL_TABLE=/path/to/table.toml
//! ```
//! The table is the one that a job on Shoal would find: that of `SHOAL_TABLE`, else that of the user's cache. NCCL
//! asks every rank by itself, so the file must be the same on all hosts. Without rows NCCL keeps its own choices. A
//! table that cannot be read is an error of the communicator's init, told in NCCL's log.
//!
//! The layout is that of NCCL's public headers `tuner_v5.h` and `tuner_v6.h`.

mod journal;
mod profiler;

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use shoal::comm::table;
use shoal::config::Config;
use shoal::topology::DeviceKind;
use shoal::tune::table::{Cores, Site, Stock, sheet};

const SUCCESS: c_int = 0;
const INTERNAL_ERROR: c_int = 3;
const INVALID_ARGUMENT: c_int = 4;
const INVALID_USAGE: c_int = 5;

/// NCCL_LOG_WARN and NCCL_LOG_INFO.
const WARN: c_int = 2;
const INFO: c_int = 3;
/// NCCL_TUNING
const TUNING: c_ulong = 64;
/// NCCL_ALGO_PROTO_IGNORE: this algorithm with this protocol cannot be had.
const IGNORED: f32 = -1.0;

/// `ncclDebugLogger_t`
type Logger = unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, ...);
type Init = unsafe extern "C" fn(
    *mut *mut c_void,
    u64,
    usize,
    usize,
    Option<Logger>,
    *mut c_void,
    *mut c_void,
) -> c_int;
type Ask = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    usize,
    c_int,
    *mut *mut f32,
    c_int,
    c_int,
    c_int,
    *mut c_int,
) -> c_int;
type Finalize = unsafe extern "C" fn(*mut c_void) -> c_int;
type AskChunk = unsafe extern "C" fn(*mut c_void, c_int, usize, c_int, c_int, c_int, *mut usize) -> c_int;

/// A name that never changes.
#[repr(transparent)]
struct Name(*const c_char);

// SAFETY: the pointer is to a constant that lives for ever and that nobody writes.
unsafe impl Sync for Name {}

/// `ncclTuner_v5_t`
#[repr(C)]
struct TunerV5 {
    name: Name,
    init: Init,
    ask: Ask,
    finalize: Finalize,
}

/// `ncclTuner_v6_t`
#[repr(C)]
struct TunerV6 {
    name: Name,
    init: Init,
    ask: Ask,
    finalize: Finalize,
    /// NULL: NCCL's own sizes stay, since rows for stock NCCL name none.
    ask_chunk: Option<AskChunk>,
}

const NAME: &CStr = c"Shoal";

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // the name is NCCL's
static ncclTunerPlugin_v5: TunerV5 = TunerV5 { name: Name(NAME.as_ptr()), init, ask, finalize };

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // the name is NCCL's
static ncclTunerPlugin_v6: TunerV6 =
    TunerV6 { name: Name(NAME.as_ptr()), init, ask, finalize, ask_chunk: None };

/// What is known of one communicator.
struct Context {
    /// The rows that fit its ranks and hosts.
    rows: Vec<Stock>,
}

/// Says a sentence in NCCL's log.
///
/// # Safety
/// `log` is NCCL's.
unsafe fn say(log: Option<Logger>, level: c_int, text: &str) {
    let (Some(log), Ok(text)) = (log, CString::new(text.replace('\0', " "))) else { return };
    // SAFETY: the format takes one string, and all strings outlive the call.
    unsafe { log(level, TUNING, c"shoal-nccl".as_ptr(), 0, c"%s".as_ptr(), text.as_ptr()) };
}

/// A panic is an internal error, and does not pass.
fn guarded(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(INTERNAL_ERROR)
}

/// # Safety
/// `place` is NULL or writable; `log` is NCCL's or NULL. The rest is not looked at.
unsafe extern "C" fn init(
    place: *mut *mut c_void,
    _communicator: u64,
    ranks: usize,
    hosts: usize,
    log: Option<Logger>,
    _domains: *mut c_void,
    _constants: *mut c_void,
) -> c_int {
    guarded(|| {
        if place.is_null() {
            return INVALID_ARGUMENT;
        }
        let found = table::find(&site(ranks, hosts), Config::get());
        let table = match found {
            Ok(table) => table.unwrap_or_default(),
            Err(error) => {
                // SAFETY: passed on from this function's contract.
                unsafe { say(log, WARN, &format!("Shoal's tuner: {error}")) };
                return INVALID_USAGE;
            }
        };
        let fits = |row: &&Stock| row.ranks.holds(ranks as u64) && row.hosts.holds(hosts as u64);
        let rows: Vec<Stock> = table.stock.iter().filter(fits).cloned().collect();
        let text = format!(
            "Shoal's tuner: {} of {} rows for stock NCCL in {} fit {ranks} ranks on {hosts} hosts",
            rows.len(),
            table.stock.len(),
            if table.name.is_empty() { "no table" } else { &table.name },
        );
        // SAFETY: passed on from this function's contract.
        unsafe { say(log, INFO, &text) };
        let context = Box::into_raw(Box::new(Context { rows }));
        // SAFETY: it is not NULL, so by the contract it is writable.
        unsafe { place.write(context.cast()) };
        SUCCESS
    })
}

fn site(ranks: usize, hosts: usize) -> Site {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Site {
        ranks: number(ranks),
        hosts: number(hosts),
        ranks_per_host: number(ranks.div_ceil(hosts.max(1))),
        cores: Cores::Own,
        device: DeviceKind::Cuda,
    }
}

/// # Safety
/// `context` comes from [`init`]; `costs` is NULL, or the start of `algorithms` times `protocols` numbers in rows, as
/// NCCL lays them out; `channels` is NULL or writable.
unsafe extern "C" fn ask(
    context: *mut c_void,
    operation: c_int,
    bytes: usize,
    pipelined: c_int,
    costs: *mut *mut f32,
    algorithms: c_int,
    protocols: c_int,
    registered: c_int,
    channels: *mut c_int,
) -> c_int {
    guarded(|| {
        let (Ok(algorithms), Ok(protocols)) = (usize::try_from(algorithms), usize::try_from(protocols))
        else {
            return INVALID_ARGUMENT;
        };
        if context.is_null() || costs.is_null() {
            return INVALID_ARGUMENT;
        }
        // SAFETY: by the contract it comes from `init`, which made it of a box, and `finalize` was not called yet.
        let context = unsafe { &*context.cast::<Context>() };
        // SAFETY: by the contract so many numbers lie there; NCCL lends them for this call. The type of the
        // parameter says pointers, and means the numbers themselves.
        let costs = unsafe { std::slice::from_raw_parts_mut(costs.cast::<f32>(), algorithms * protocols) };
        let question = Question { operation, bytes: bytes as u64, pipelined, is_registered: registered != 0 };
        let Some((row, cost)) = answer(&context.rows, &question, [algorithms, protocols], costs) else {
            return SUCCESS;
        };
        costs[cost] = 0.0;
        if let Some(number) = row.channels.and_then(|number| c_int::try_from(number).ok())
            && !channels.is_null()
        {
            // SAFETY: it is not NULL, so by the contract it is writable.
            unsafe { channels.write(number) };
        }
        SUCCESS
    })
}

/// What NCCL wants to know.
struct Question {
    operation: c_int,
    bytes: u64,
    pipelined: c_int,
    is_registered: bool,
}

/// The first row that holds and can be had, and where its cost stands.
fn answer<'a>(
    rows: &'a [Stock],
    question: &Question,
    [algorithms, protocols]: [usize; 2],
    costs: &[f32],
) -> Option<(&'a Stock, usize)> {
    let operation = *sheet::OPERATIONS.get(usize::try_from(question.operation).ok()?)?;
    let holds = |row: &&Stock| {
        row.operation == operation
            && row.bytes.holds(question.bytes)
            && row.pipelined.is_none_or(|number| i64::from(number) == i64::from(question.pipelined))
            && row.registered.is_none_or(|registered| registered == question.is_registered)
    };
    rows.iter().filter(holds).find_map(|row| {
        let algorithm = sheet::ALGORITHMS.iter().position(|name| *name == row.algorithm)?;
        let protocol = sheet::PROTOCOLS.iter().position(|name| *name == row.protocol)?;
        let cost = algorithm * protocols + protocol;
        let is_known = algorithm < algorithms && protocol < protocols;
        (is_known && costs[cost] != IGNORED).then_some((row, cost))
    })
}

/// # Safety
/// `context` is NULL or comes from [`init`], and is not used again.
unsafe extern "C" fn finalize(context: *mut c_void) -> c_int {
    guarded(|| {
        if !context.is_null() {
            // SAFETY: by the contract it came from `init`, which made it of a box, and is given back once.
            drop(unsafe { Box::from_raw(context.cast::<Context>()) });
        }
        SUCCESS
    })
}
