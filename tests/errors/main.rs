//! Every function with every bad argument: the right code, a last error that names call, argument and remedy,
//! and everything usable after. The table is data: `table.rs`.
//!
//! Every exported function has a row there, or stands in the list of those without one.

#![allow(clashing_extern_declarations, reason = "the table declares functions by their names alone")]

mod table;

// For its exported functions.
use shoal as _;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int};
use std::path::Path;

use table::{Arg, FUNCTIONS, Function, INVALID_ARGUMENT, INVALID_USAGE, Id, WITHOUT_ROW, good, refused};

unsafe extern "C" {
    fn pncclGetLastError(comm: usize) -> *const c_char;
    fn pncclGetUniqueId(id: *mut Id) -> c_int;
    fn pncclCommInitRank(comm: *mut usize, ranks: c_int, id: Id, rank: c_int) -> c_int;
    fn pncclCommDestroy(comm: usize) -> c_int;
    fn pncclCommFinalize(comm: usize) -> c_int;
    fn pncclCommGetAsyncError(comm: usize, code: *mut c_int) -> c_int;
    fn pncclGroupStart() -> c_int;
    fn pncclGroupEnd() -> c_int;
    fn pncclGroupSimulateEnd(information: usize) -> c_int;
    fn pncclAllReduce(
        s: *const f32,
        t: *mut f32,
        n: usize,
        of: c_int,
        by: c_int,
        c: usize,
        on: usize,
    ) -> c_int;
    fn pncclRedOpCreatePreMulSum(
        op: *mut c_int,
        scalar: *const f32,
        of: c_int,
        at: c_int,
        comm: usize,
    ) -> c_int;
    fn pncclParamBind(handle: *mut usize, key: *const c_char) -> c_int;
    fn pncclCommWindowRegister(
        comm: usize,
        start: usize,
        bytes: usize,
        to: *mut usize,
        flags: c_int,
    ) -> c_int;
    fn pncclCommWindowDeregister(comm: usize, window: usize) -> c_int;
    fn shoalStreamCreate(stream: *mut usize) -> c_int;
    fn shoalStreamDestroy(stream: usize) -> c_int;
}

const FLOAT: c_int = 7;
const SUM: c_int = 0;

/// One rank alone, and things that are good or bad to pass.
pub(crate) struct World {
    pub(crate) comm: usize,
    /// A communicator that was destroyed.
    pub(crate) ended: usize,
    pub(crate) ended_stream: usize,
    pub(crate) operator: c_int,
    pub(crate) handle: usize,
    pub(crate) memory: Box<[Cell<u64>; 32]>,
    pub(crate) place: Box<[Cell<u64>; 64]>,
    /// The first is good.
    pub(crate) ids: Vec<Id>,
    /// All of them bad.
    pub(crate) configs: Vec<[u32; 30]>,
    pub(crate) devices: Box<[c_int; 1]>,
    /// Of 256 bytes.
    pub(crate) window: usize,
    pub(crate) ended_window: usize,
    /// One good wait.
    pub(crate) waits: Box<[c_int; 4]>,
    /// Of collectives, all of them bad.
    pub(crate) wishes: Vec<[u32; 18]>,
}

fn birth() -> usize {
    let (mut id, mut comm) = (Id([0; 128]), 0);
    // SAFETY: both places are ours.
    unsafe {
        assert_eq!(pncclGetUniqueId(&raw mut id), 0, "{}", last());
        assert_eq!(pncclCommInitRank(&raw mut comm, 1, id, 0), 0, "{}", last());
    }
    comm
}

/// A structure as its initializer leaves it, with one number changed.
fn config(at: usize, value: u32) -> [u32; 30] {
    let mut words = [i32::MIN.cast_unsigned(); 30];
    words[..4].copy_from_slice(&[120, 0, 0xcafe_beef, 23203]);
    // The two pointers.
    for pointer in [8, 9, 12, 13] {
        words[pointer] = 0;
    }
    words[at] = value;
    words
}

/// The same for wishes of one collective.
fn wish(at: usize, value: u32) -> [u32; 18] {
    let unset = i32::MIN.cast_unsigned();
    let mut words = [72, 0, 0xcafe_beef, 23203, 0, 0, unset, unset, unset, unset, 0, 0, 1, unset, 0, 0, 0, 0];
    words[at] = value;
    words
}

fn window(comm: usize, memory: &[Cell<u64>; 32]) -> usize {
    let mut window = 0;
    let start = memory.as_ptr().expose_provenance();
    // SAFETY: the place is ours; the memory lives as long as the test.
    assert_eq!(unsafe { pncclCommWindowRegister(comm, start, 256, &raw mut window, 0) }, 0, "{}", last());
    window
}

impl World {
    fn new() -> World {
        let comm = birth();
        let ended = birth();
        let (mut operator, mut handle, mut ended_stream) = (0, 0, 0);
        // SAFETY: all places are ours.
        unsafe {
            assert_eq!(pncclCommDestroy(ended), 0);
            assert_eq!(pncclRedOpCreatePreMulSum(&raw mut operator, &raw const TWO, FLOAT, 1, comm), 0);
            assert_eq!(pncclParamBind(&raw mut handle, c"SHOAL_STALL_SECONDS".as_ptr()), 0);
            assert_eq!(shoalStreamCreate(&raw mut ended_stream), 0);
            assert_eq!(shoalStreamDestroy(ended_stream), 0);
        }
        let mut id = Id([0; 128]);
        // SAFETY: the place is ours.
        assert_eq!(unsafe { pncclGetUniqueId(&raw mut id) }, 0);
        let memory = Box::new([const { Cell::new(0) }; 32]);
        let (window, ended_window) = (window(comm, &memory), window(comm, &memory));
        // SAFETY: these calls take numbers alone.
        assert_eq!(unsafe { pncclCommWindowDeregister(comm, ended_window) }, 0);
        World {
            window,
            ended_window,
            waits: Box::new([1, 0, 0, 0]),
            wishes: vec![wish(0, 56), wish(2, 1), wish(12, 2), wish(13, 4), wish(16, 8)],
            comm,
            ended,
            ended_stream,
            operator,
            handle,
            memory,
            place: Box::new([const { Cell::new(0) }; 64]),
            ids: vec![id, Id([0; 128]), Id([0xff; 128]), Id([b'n'; 128])],
            configs: vec![
                config(0, 15),
                config(2, 1),
                config(4, 2),
                config(5, 9),
                config(6, 0),
                config(7, 0),
                config(10, 2),
                config(14, 2),
                config(15, 7),
                config(16, 2),
            ],
            devices: Box::new([-1]),
        }
    }

    /// Everything still works.
    fn check_usable(&self, after: &str) {
        let (from, mut into) = (3.0_f32, 0.0_f32);
        let mut state = -1;
        // SAFETY: the buffers are ours, and done with when the calls return.
        unsafe {
            assert_eq!(pncclGroupEnd(), INVALID_USAGE, "{after}: no group is left open");
            assert_eq!(
                pncclAllReduce(&raw const from, &raw mut into, 1, FLOAT, SUM, self.comm, 0),
                0,
                "{after}: {}",
                last()
            );
            assert_eq!(pncclCommGetAsyncError(self.comm, &raw mut state), 0);
        }
        assert_eq!((into.to_bits(), state), (from.to_bits(), 0), "{after}");
    }
}

static TWO: f32 = 2.0;

fn last() -> String {
    // SAFETY: the text is never NULL, and valid until the next error of this thread.
    unsafe { CStr::from_ptr(pncclGetLastError(0)) }.to_string_lossy().into_owned()
}

/// One call with one bad argument.
struct Case<'a> {
    argument: Arg,
    function: &'a Function,
    words: [usize; 12],
    id: Id,
    code: c_int,
    names: &'static str,
    text: String,
}

impl Case<'_> {
    /// What is wrong with the answer.
    fn run(&self) -> Result<(), String> {
        let code = self.function.address.call(self.words, self.id);
        if code != self.code {
            return Err(format!("{} answers {code}, not {}: {}", self.text, self.code, last()));
        }
        self.check_words()
    }

    /// The last error says which call, which argument, and what to do.
    fn check_words(&self) -> Result<(), String> {
        let (text, said) = (&self.text, last());
        let rest = said.strip_prefix(self.function.name).and_then(|rest| rest.strip_prefix(": "));
        let Some(rest) = rest else {
            return Err(format!("{text}: the last error does not begin with the call: {said}"));
        };
        let remedy = rest.split_once("; ").map_or("", |(_, remedy)| remedy);
        match () {
            () if !rest.contains(self.names) => Err(format!("{text}: {:?} is not in {said}", self.names)),
            () if remedy.len() < 10 => Err(format!("{text}: no remedy in {said}")),
            () => Ok(()),
        }
    }
}

fn cases<'a>(function: &'a Function, world: &World) -> Vec<Case<'a>> {
    let mut words = [0; 12];
    for (word, argument) in words.iter_mut().zip(function.arguments) {
        *word = good(*argument, world);
    }
    let mut list = Vec::new();
    for (index, argument) in function.arguments.iter().enumerate() {
        for bad in refused(*argument, world) {
            let mut words = words;
            words[index] = bad.value;
            let id = world.ids[if *argument == Arg::Id { bad.value } else { 0 }];
            let text = format!("{} with {argument:?} {:#x}", function.name, bad.value);
            list.push(Case {
                argument: *argument,
                function,
                words,
                id,
                code: bad.code,
                names: bad.names,
                text,
            });
        }
    }
    list
}

#[test]
fn every_bad_argument_is_refused_and_nothing_is_lost() {
    let world = World::new();
    let mut count = 0;
    let mut wrong = Vec::new();
    for function in FUNCTIONS {
        for case in cases(function, &world) {
            wrong.extend(case.run().err());
            world.check_usable(&case.text);
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 300, "{count} cases");
}

#[test]
fn a_bad_call_in_a_group_starts_nothing_of_it() {
    let world = World::new();
    let from = 5.0_f32;
    let mut wrong = Vec::new();
    for function in FUNCTIONS.iter().filter(|function| function.spoils_group) {
        // Whether an id is good shows when the group ends, and births do not mix with work anyway.
        for case in cases(function, &world).into_iter().filter(|case| case.argument != Arg::Id) {
            let mut into = 0.0_f32;
            // SAFETY: the buffers are ours, and nothing uses them after the group.
            unsafe {
                assert_eq!(pncclGroupStart(), 0);
                assert_eq!(pncclAllReduce(&raw const from, &raw mut into, 1, FLOAT, SUM, world.comm, 0), 0);
                wrong.extend(case.run().err());
                assert_eq!(pncclGroupEnd(), case.code, "{}", case.text);
            }
            wrong.extend(case.check_words().err());
            assert_eq!(into.to_bits(), 0, "{}: a part of the group ran", case.text);
            world.check_usable(&case.text);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_end_where_they_began() {
    let world = World::new();
    // SAFETY: these calls take numbers alone.
    unsafe {
        assert_eq!(pncclGroupEnd(), INVALID_USAGE);
        assert!(last().starts_with("ncclGroupEnd: no group is open on this thread; "), "{}", last());
        assert_eq!(pncclGroupSimulateEnd(0), INVALID_USAGE);
        assert!(last().starts_with("ncclGroupSimulateEnd: "), "{}", last());
        assert_eq!((pncclGroupStart(), pncclGroupStart(), pncclGroupEnd(), pncclGroupEnd()), (0, 0, 0, 0));
        world.check_usable("nested groups");
        // The group of one thread is not that of another.
        assert_eq!(pncclGroupStart(), 0);
        let other = std::thread::spawn(|| pncclGroupEnd()).join().unwrap();
        assert_eq!((other, pncclGroupEnd()), (INVALID_USAGE, 0));
    }
    world.check_usable("groups of two threads");
}

#[test]
fn after_finalize_work_is_refused_and_questions_are_answered() {
    let world = World::new();
    let comm = birth();
    let (from, mut into, mut state) = (1.0_f32, 0.0_f32, -1);
    // SAFETY: the buffers and places are ours.
    unsafe {
        assert_eq!(pncclCommFinalize(comm), 0);
        assert_eq!(pncclAllReduce(&raw const from, &raw mut into, 1, FLOAT, SUM, comm, 0), INVALID_USAGE);
        assert!(last().starts_with("ncclAllReduce: the communicator was finalized; "), "{}", last());
        assert_eq!(pncclCommGetAsyncError(comm, &raw mut state), 0);
        assert_eq!(pncclCommDestroy(comm), 0);
        assert_eq!(pncclCommDestroy(comm), INVALID_ARGUMENT);
    }
    world.check_usable("a second destroy");
}

#[test]
fn every_function_has_a_row() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("link/symbols.txt");
    let list = std::fs::read_to_string(list).expect("it is part of the repository");
    let exported: BTreeSet<&str> = list.lines().filter(|name| !name.starts_with('p')).collect();
    let known: Vec<&str> =
        FUNCTIONS.iter().map(|function| function.name).chain(WITHOUT_ROW.iter().copied()).collect();
    let unique: BTreeSet<&str> = known.iter().copied().collect();
    assert_eq!(unique.len(), known.len(), "a function stands in the table twice");
    let missing: Vec<_> = exported.difference(&unique).collect();
    let gone: Vec<_> = unique.difference(&exported).collect();
    assert!(missing.is_empty() && gone.is_empty(), "without a row: {missing:?}; not exported: {gone:?}");
}
