//! A host that plays NCCL: it loads the plugin, asks it as NCCL does, and looks at what NCCL would look at.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

type Logger = unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, *const c_char);

/// `ncclTuner_v5_t` and `ncclTuner_v6_t`, of which the first is the beginning of the second.
#[repr(C)]
struct Tuner {
    name: *const c_char,
    init:
        unsafe extern "C" fn(*mut *mut c_void, u64, usize, usize, Logger, *mut c_void, *mut c_void) -> c_int,
    ask: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        usize,
        c_int,
        *mut *mut f32,
        c_int,
        c_int,
        c_int,
        *mut c_int,
    ) -> c_int,
    finalize: unsafe extern "C" fn(*mut c_void) -> c_int,
    /// Only of the later one.
    chunk: *const c_void,
}

const TABLE: &str = "allreduce,0,65536,tree,ll,2,1,-1,-1,1\nallreduce,0,65536,nvls,simple,3,1,8,-1,0\n\
    allreduce,0,65536,ring,ll128,4,1,8,-1,0\nallreduce,65537,4294967295,ring,simple,-1,-1,-1,4,-1\n\
    allgather,0,4294967295,pat,simple,7,2,16\n";
/// Algorithms and protocols, as NCCL has them today.
const COSTS: usize = 7 * 3;
const ALL_REDUCE: c_int = 4;
const ALL_GATHER: c_int = 2;

fn plugin() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().expect("it lies in a folder");
    let places = [folder.join("libshoal_nccl.so"), folder.join("../libshoal_nccl.so")];
    places.into_iter().find(|place| place.exists()).expect("Cargo builds the plugin before its tests")
}

/// NCCL's logger: prints, so that the process which started this one sees it.
unsafe extern "C" fn log(
    level: c_int,
    flags: c_ulong,
    _file: *const c_char,
    _line: c_int,
    format: *const c_char,
    text: *const c_char,
) {
    // SAFETY: the plugin passes strings.
    let [format, text] =
        [format, text].map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    assert_eq!((format.as_str(), flags), ("%s", 64));
    println!("log {level}: {text}");
}

/// A communicator's tuner.
struct Host<'library> {
    tuner: &'library Tuner,
    context: *mut c_void,
}

impl Host<'_> {
    /// The cost table after a question, and the channels; entries start at 1.0 but for one that cannot be had.
    fn ask(
        &self,
        operation: c_int,
        bytes: usize,
        pipelined: c_int,
        registered: c_int,
    ) -> ([f32; COSTS], c_int) {
        let mut costs = [1.0; COSTS];
        costs[NVLS_SIMPLE] = -1.0;
        let mut channels = 0;
        // SAFETY: as NCCL calls it, with a table of 7 times 3 numbers.
        let code = unsafe {
            (self.tuner.ask)(
                self.context,
                operation,
                bytes,
                pipelined,
                costs.as_mut_ptr().cast(),
                7,
                3,
                registered,
                &raw mut channels,
            )
        };
        assert_eq!(code, 0);
        (costs, channels)
    }

    /// Which entry was chosen.
    fn chosen(
        &self,
        operation: c_int,
        bytes: usize,
        pipelined: c_int,
        registered: c_int,
    ) -> (Option<usize>, c_int) {
        let (costs, channels) = self.ask(operation, bytes, pipelined, registered);
        assert_eq!(costs[NVLS_SIMPLE], -1.0, "what cannot be had stays so");
        let zeros: Vec<usize> = (0..COSTS).filter(|place| costs[*place] == 0.0).collect();
        assert!(zeros.len() <= 1 && costs.iter().all(|cost| [0.0, 1.0, -1.0].contains(cost)));
        (zeros.first().copied(), channels)
    }
}

const TREE_LL: usize = 0;
const RING_LL128: usize = 3 + 1;
const RING_SIMPLE: usize = 3 + 2;
const NVLS_SIMPLE: usize = 4 * 3 + 2;
const PAT_SIMPLE: usize = 6 * 3 + 2;

/// The part of the host, in a process of its own since settings are read once: `symbol`, ranks, hosts.
fn play(symbol: &str, ranks: usize, hosts: usize) {
    // SAFETY: as NCCL loads plugins.
    let library = unsafe { Library::open(Some(plugin()), RTLD_NOW | RTLD_LOCAL) }.expect("it can be loaded");
    // SAFETY: the symbol is a table of that form.
    let tuner = unsafe { &**library.get::<*const Tuner>(symbol.as_bytes()).expect("it has the symbol") };
    // SAFETY: the name is a string.
    assert_eq!(unsafe { CStr::from_ptr(tuner.name) }, c"Shoal");
    let mut context = null_mut();
    // SAFETY: as NCCL calls it.
    let code = unsafe { (tuner.init)(&raw mut context, 1, ranks, hosts, log, null_mut(), null_mut()) };
    println!("init {code}");
    if code != 0 {
        return;
    }
    let host = Host { tuner, context };
    match (ranks, hosts) {
        (8, 1) => {
            assert_eq!(host.chosen(ALL_REDUCE, 1024, 1, 1), (Some(TREE_LL), 2));
            assert_eq!(host.chosen(ALL_REDUCE, 65_536, 1, 0), (Some(RING_LL128), 4), "NVLS cannot be had");
            assert_eq!(host.chosen(ALL_REDUCE, 65_537, 4, 0), (Some(RING_SIMPLE), 0));
            assert_eq!(host.chosen(ALL_REDUCE, 65_537, 1, 0), (None, 0));
            assert_eq!(host.chosen(ALL_GATHER, 1024, 1, 0), (None, 0));
            assert_eq!(host.chosen(99, 1024, 1, 0), (None, 0));
        }
        (16, 2) => {
            assert_eq!(host.chosen(ALL_GATHER, 1024, 1, 0), (Some(PAT_SIMPLE), 7));
            assert_eq!(host.chosen(ALL_REDUCE, 1024, 1, 1), (None, 0));
        }
        _ => assert_eq!(host.chosen(ALL_REDUCE, 1024, 1, 1), (None, 0)),
    }
    if symbol.ends_with('6') {
        assert!(tuner.chunk.is_null(), "sizes of chunks stay NCCL's");
    }
    // SAFETY: as NCCL calls it, once.
    assert_eq!(unsafe { (tuner.finalize)(context) }, 0);
    println!("played");
}

/// Set in the process that plays the host.
const PART: &str = "SHOAL_TEST_HOST";

#[test]
fn the_host() {
    let Ok(part) = std::env::var(PART) else { return };
    let words: Vec<&str> = part.split_whitespace().collect();
    play(words[0], words[1].parse().unwrap(), words[2].parse().unwrap());
}

/// What the host says when the table is at `table`.
fn output(part: &str, table: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["the_host", "--exact", "--nocapture"]).env(PART, part).env("SHOAL_TABLE", table);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn file(name: &str, text: &str) -> String {
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn table() -> String {
    let stock = shoal::tune::table::sheet::import("sheet", TABLE).unwrap();
    let table = shoal::tune::table::Table { stock, ..Default::default() };
    shoal::tune::table::write::write(&table)
}

#[test]
fn nccl_is_told_what_the_table_says() {
    let path = file("table.toml", &table());
    for symbol in ["ncclTunerPlugin_v5", "ncclTunerPlugin_v6"] {
        for (ranks, hosts, rows) in [(8, 1, 4), (16, 2, 2), (3, 3, 1)] {
            let text = output(&format!("{symbol} {ranks} {hosts}"), &path);
            assert!(text.contains("played"), "{text}");
            let said =
                format!("log 3: Shoal's tuner: {rows} of 5 rows for stock NCCL in {path} fit {ranks} ranks");
            assert!(text.contains(&said), "{text}");
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn without_a_table_nccl_keeps_its_choices() {
    let text = output("ncclTunerPlugin_v5 4 4", "built-in");
    assert!(text.contains("played") && text.contains("0 of 0 rows"), "{text}");
}

#[test]
fn a_bad_table_is_an_error_of_init_told_in_nccls_log() {
    let path = file("bad.toml", "[[stock]]\noperation = \"allreduce\"\nalgorithm = \"bush\"\n");
    let text = output("ncclTunerPlugin_v5 8 1", &path);
    let words =
        format!("log 2: Shoal's tuner: reading the table of SHOAL_TABLE failed: {path}:3: expected \"tree\"");
    assert!(text.contains("init 5") && text.contains(&words), "{text}");
    std::fs::remove_file(path).unwrap();
}

/// NCCL's own names must stay NCCL's.
#[test]
fn nothing_but_the_plugin_is_exported() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(plugin()).output().expect("binutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["ncclProfiler_v5", "ncclProfiler_v6", "ncclTunerPlugin_v5", "ncclTunerPlugin_v6",],
        "{text}"
    );
}
