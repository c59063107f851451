//! A host that plays NCCL: it loads the profiler, tells it of operations in NCCL's order, and reads the traces.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use shoal::op::{DataType, Kind};
use shoal::trace::file::Reader;

type Logger = unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, *const c_char);

/// `ncclProfiler_v5_t` and `ncclProfiler_v6_t`.
#[repr(C)]
struct Profiler {
    name: *const c_char,
    init: unsafe extern "C" fn(
        *mut *mut c_void,
        u64,
        *mut c_int,
        *const c_char,
        c_int,
        c_int,
        c_int,
        Logger,
    ) -> c_int,
    start: unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *const Described) -> c_int,
    stop: unsafe extern "C" fn(*mut c_void) -> c_int,
    record: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int,
    finalize: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// `ncclProfilerEventDescr_v6_t`, its union as words.
#[repr(C)]
#[derive(Default)]
struct Described {
    kind: u64,
    parent: usize,
    rank: c_int,
    words: [u64; 13],
}

const GROUP: u64 = 1;
const COLLECTIVE: u64 = 1 << 1;
const MESSAGE: u64 = 1 << 2;
const KERNEL: u64 = 1 << 6;
const COPIED: u64 = 1 << 12;

fn plugin() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().expect("it lies in a folder");
    let places = [folder.join("libshoal_nccl.so"), folder.join("../libshoal_nccl.so")];
    places.into_iter().find(|place| place.exists()).expect("Cargo builds the plugin before its tests")
}

unsafe extern "C" fn log(
    level: c_int,
    flags: c_ulong,
    _file: *const c_char,
    _line: c_int,
    _format: *const c_char,
    text: *const c_char,
) {
    // SAFETY: the plugin passes a string.
    println!("log {level} {flags}: {}", unsafe { CStr::from_ptr(text) }.to_string_lossy());
}

/// One communicator as NCCL holds it.
struct Host<'library> {
    profiler: &'library Profiler,
    context: *mut c_void,
    names: Vec<CString>,
}

impl Host<'_> {
    fn word(&mut self, text: &str) -> u64 {
        self.names.push(CString::new(text).expect("no zero"));
        self.names.last().expect("it was pushed").as_ptr() as u64
    }

    fn start(&self, described: &Described) -> usize {
        let mut handle = null_mut();
        // SAFETY: as NCCL calls it.
        assert_eq!(unsafe { (self.profiler.start)(self.context, &raw mut handle, described) }, 0);
        handle as usize
    }

    fn stop(&self, handle: usize) {
        // SAFETY: as NCCL calls it.
        assert_eq!(unsafe { (self.profiler.stop)(handle as *mut c_void) }, 0);
    }

    fn group(&self) -> usize {
        self.start(&Described { kind: GROUP, ..Described::default() })
    }

    /// A collective of floats, whose kernel has so many channels.
    fn collective(&mut self, name: &str, count: u64, root: u64, channels: u64, group: usize) -> usize {
        let (name, kind) = (self.word(name), self.word("ncclFloat32"));
        let mut words = [1, name, 0x1000, 0x2000, count, root, kind, channels, 0, 0, group as u64, 0, 0];
        // Channels and warps are bytes of one word.
        words[7] |= 16 << 8;
        self.start(&Described { kind: COLLECTIVE, words, ..Described::default() })
    }

    fn message(&mut self, name: &str, count: u64, peer: u64, group: usize) -> usize {
        let (name, kind) = (self.word(name), self.word("ncclInt8"));
        // The peer is an int, and the byte behind it the channels.
        let words = [name, 0x1000, kind, count, peer | 1 << 32, group as u64, 0, 0, 0, 0, 0, 0, 0];
        self.start(&Described { kind: MESSAGE, words, ..Described::default() })
    }

    /// A channel of a kernel begins and ends.
    fn channel(&self, parent: usize) {
        let handle = self.start(&Described { kind: KERNEL, parent, ..Described::default() });
        // SAFETY: as NCCL calls it.
        assert_eq!(unsafe { (self.profiler.record)(handle as *mut c_void, 22, null_mut()) }, 0);
        self.stop(handle);
    }
}

/// The part of the host, in a process of its own since settings are read once.
fn play(symbol: &str) {
    // SAFETY: as NCCL loads plugins.
    let library = unsafe { Library::open(Some(plugin()), RTLD_NOW | RTLD_LOCAL) }.expect("it can be loaded");
    // SAFETY: the symbol is a table of that form.
    let profiler =
        unsafe { &**library.get::<*const Profiler>(symbol.as_bytes()).expect("it has the symbol") };
    let (mut context, mut wanted) = (null_mut(), -1);
    // SAFETY: as NCCL calls it.
    let code = unsafe {
        (profiler.init)(&raw mut context, 0xfeed, &raw mut wanted, c"world".as_ptr(), 1, 4, 2, log)
    };
    println!("init {code} {wanted}");
    if wanted == 0 || code != 0 {
        return;
    }
    let mut host = Host { profiler, context, names: Vec::new() };
    // Three launches, of which the kernel of the first ends last.
    let first = host.group();
    let sum = host.collective("AllReduce", 100, 0, 2, first);
    host.stop(sum);
    host.stop(first);
    let second = host.group();
    let send = host.message("Send", 7, 3, second);
    let receive = host.message("Recv", 9, 1, second);
    [send, receive, second].into_iter().for_each(|handle| host.stop(handle));
    host.channel(sum);
    host.channel(send);
    host.channel(receive);
    host.channel(sum);
    // One that is told without its group, one of a name that nobody knows, an empty one, one that never ends.
    let alone = host.collective("Broadcast", 5, 3, 0, 0);
    host.stop(alone);
    let unknown = host.collective("Dance", 5, 3, 0, 0);
    host.stop(unknown);
    let empty = host.group();
    host.stop(empty);
    if wanted as u64 & COPIED != 0 {
        let (name, kind) = (host.word("AllGather"), host.word("ncclBfloat16"));
        let words = [1, name, 0x1000, 0x2000, 6, 0, kind, 0, 0, 0, 0, 0, 0];
        let copied = host.start(&Described { kind: COPIED, words, ..Described::default() });
        host.stop(copied);
    }
    let last = host.group();
    let open = host.collective("ReduceScatter", 11, 0, 4, last);
    host.stop(open);
    host.stop(last);
    // What nobody handed out is passed over.
    host.stop(0);
    host.stop(usize::MAX);
    host.channel(0);
    // SAFETY: as NCCL calls it, once.
    assert_eq!(unsafe { (profiler.finalize)(context) }, 0);
    host.stop(first);
    println!("played");
}

const PART: &str = "SHOAL_TEST_HOST";

#[test]
fn the_host() {
    if let Ok(symbol) = std::env::var(PART) {
        play(&symbol);
    }
}

fn output(symbol: &str, folder: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["the_host", "--exact", "--nocapture"]).env(PART, symbol).env("SHOAL_TRACE", folder);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Kind, count, type and peer of what a batch called.
type Told = Vec<(Kind, u64, DataType, u32)>;

fn read(folder: &Path) -> Vec<Told> {
    let mut entries = std::fs::read_dir(folder).expect("it was made").flatten();
    let path = entries.next().expect("a trace").path();
    assert!(entries.next().is_none());
    let mut reader = Reader::new(std::fs::File::open(path).expect("it is there")).expect("a trace");
    assert_eq!((reader.head().rank, reader.head().ranks, reader.head().communicator), (2, 4, 0xfeed));
    let (mut all, mut start_ticks) = (Vec::new(), 0);
    while let Some(batch) = reader.next() {
        assert!(batch.start_ticks >= start_ticks && batch.waited_ticks <= batch.duration_ticks);
        start_ticks = batch.start_ticks;
        let operations = &reader.definitions()[batch.definition as usize].operations;
        all.push(operations.iter().map(|one| (one.kind, one.count, one.data_type, one.peer)).collect());
    }
    assert_eq!((reader.damage(), reader.head().dropped), (None, 0));
    all
}

#[test]
fn what_nccl_tells_is_in_the_trace() {
    for symbol in ["ncclProfiler_v5", "ncclProfiler_v6"] {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{symbol}-{}", std::process::id()));
        let text = output(symbol, folder.to_str().expect("words"));
        assert!(text.contains("played") && text.contains("init 0 "), "{text}");
        let mut expected: Vec<Told> = vec![
            vec![(Kind::AllReduce, 100, DataType::Float32, 0)],
            vec![(Kind::Send, 7, DataType::Int8, 3), (Kind::Recv, 9, DataType::Int8, 1)],
            vec![(Kind::Broadcast, 5, DataType::Float32, 3)],
        ];
        if symbol.ends_with('6') {
            expected.push(vec![(Kind::AllGather, 6, DataType::Bfloat16, 0)]);
        }
        expected.push(vec![(Kind::ReduceScatter, 11, DataType::Float32, 0)]);
        assert_eq!(read(&folder), expected, "{symbol}");
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
}

#[test]
fn without_a_folder_nothing_is_asked_for() {
    let text = output("ncclProfiler_v6", "");
    assert!(
        text.contains("init 0 0") && text.contains("log 3 16384: Shoal's profiler: SHOAL_TRACE names"),
        "{text}"
    );
    let text = output("ncclProfiler_v5", "/proc/nowhere");
    assert!(text.contains("init 2") && text.contains("log 2 16384: Shoal's profiler: "), "{text}");
}
