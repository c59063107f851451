//! Settings and the log, as a program meets them: each case is a process of its own that loads the library.

#[path = "common/built.rs"]
mod built;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use built::library;

/// Two communicators of one rank, and what is asked of the process in between.
const PROGRAM: &str = "
import ctypes, os, sys
class Id(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_char * 128)]
nccl = ctypes.CDLL(sys.argv[1])
def live():
    id, comm = Id(), ctypes.c_void_p()
    assert nccl.ncclGetUniqueId(ctypes.byref(id)) == 0
    assert nccl.ncclCommInitRank(ctypes.byref(comm), 1, id, 0) == 0
    assert nccl.ncclCommDestroy(comm) == 0
live()
for change in sys.argv[2:]:
    name, value = change.split('=', 1)
    os.environ[name] = value
if len(sys.argv) > 2:
    nccl.ncclResetDebugInit()
    live()
print('done')
";

/// A fresh folder that is the process's home.
fn home(name: &str) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("settings-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is ours");
    folder
}

fn command(home: &Path, variables: &[(&str, &str)], changes: &[&str]) -> Command {
    let mut command = process(home, PROGRAM, variables);
    command.args(changes);
    command
}

/// A process with these variables and no others of ours.
fn process(home: &Path, program: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("python3");
    for (name, _) in std::env::vars_os() {
        let is_ours =
            ["NCCL_", "SHOAL_"].iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()));
        if is_ours {
            command.env_remove(name);
        }
    }
    command.args(["-c", program]).arg(library());
    command.env("HOME", home).envs(variables.iter().copied());
    command
}

fn finish(mut command: Command) -> Output {
    let output = command.output().expect("python3 is there");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// What the library logs on standard error.
fn log(name: &str, variables: &[(&str, &str)], changes: &[&str]) -> String {
    let home = home(name);
    let output = finish(command(&home, variables, changes));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    fs::remove_dir_all(home).expect("it is ours");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a line has the form `host:process:thread [device] NCCL INFO text`.
fn is_line(line: &str) -> bool {
    let mut words = line.split(' ');
    let who: Vec<_> = words.next().unwrap_or_default().split(':').collect();
    let numbers = who.len() == 3 && who[1..].iter().all(|number| number.parse::<u32>().is_ok_and(|n| n > 0));
    numbers && words.next() == Some("[0]") && words.next() == Some("NCCL") && words.next() == Some("INFO")
}

#[test]
fn without_a_wish_nothing_is_logged() {
    assert_eq!(log("quiet", &[], &[]), "");
    assert_eq!(log("warn", &[("NCCL_DEBUG", "WARN")], &[]).lines().count(), 1, "the version alone");
}

#[test]
fn information_has_nccls_form() {
    let text = log("form", &[("NCCL_DEBUG", "INFO")], &[]);
    let (version, lines): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.starts_with("NCCL version 2."));
    assert_eq!(version.len(), 1, "{text}");
    assert!(!lines.is_empty() && lines.iter().all(|line| is_line(line)), "{text}");
    assert!(text.contains("rank 0 of 1"), "{text}");
}

#[test]
fn subjects_can_be_left_out() {
    let some = [("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_SUBSYS", "^INIT")];
    assert!(!log("subjects", &some, &[]).contains("rank 0 of 1"));
}

#[test]
fn what_is_not_understood_is_told() {
    let text = log(
        "odd",
        &[
            ("NCCL_DEBUG", "LOUD"),
            ("NCCL_DEBUG_SUBSYS", "INTI"),
            ("SHOAL_SPINN", "4"),
            ("SHOAL_SPIN", "fast"),
            ("SHOAL_ALGORITHM", "rnig"),
            ("NCCL_PROTO", "Simpel"),
        ],
        &[],
    );
    for words in [
        "NCCL_DEBUG=LOUD is no level",
        "names INTI, which NCCL has not",
        "SHOAL_SPINN (environment) is no setting, and changes nothing; did you mean SHOAL_SPIN?",
        "SHOAL_SPIN=fast (environment) is neither auto nor a number",
        "\"rnig\"",
        "\"Simpel\"",
    ] {
        assert_eq!(text.matches(words).count(), 1, "{words} is not once in\n{text}");
    }
}

#[test]
fn an_address_without_a_secret_is_told_once_for_all_births() {
    let text = log("secretless", &[("NCCL_COMM_ID", "127.0.0.1:1")], &["NCCL_DEBUG=INFO"]);
    assert_eq!(text.matches("rank 0 of 1").count(), 1, "of two births the second is logged: {text}");
    assert_eq!(text.matches("NCCL_COMM_ID is set without SHOAL_SECRET").count(), 1, "{text}");
}

#[test]
fn variables_of_nccl_that_change_nothing_are_named_once() {
    let text = log("ignored", &[("NCCL_DEBUG", "INFO"), ("NCCL_IB_HCA", "mlx5")], &["NCCL_DEBUG=INFO"]);
    assert_eq!(text.matches("NCCL_IB_HCA=mlx5 is ignored: ").count(), 1, "{text}");
}

#[test]
fn files_say_what_the_environment_does_not() {
    let home = home("files");
    fs::write(home.join(".nccl.conf"), "# ours\nNCCL_DEBUG=INFO\nNCCL_DEBUG_SUBSYS=ALL\n").unwrap();
    let said = |variables: &[(&str, &str)]| {
        String::from_utf8_lossy(&finish(command(&home, variables, &[])).stderr).into_owned()
    };
    assert!(said(&[]).contains("NCCL INFO"));
    assert!(!said(&[("NCCL_DEBUG", "WARN")]).contains("NCCL INFO"), "the environment wins");
    let other = home.join("other");
    fs::write(&other, "SHOAL_DEBUG=NONE\n").unwrap();
    assert_eq!(
        said(&[("NCCL_CONF_FILE", other.to_str().unwrap())]),
        "",
        "it stands in place of ~/.nccl.conf"
    );
    let missing = home.join("missing");
    let text = said(&[("NCCL_CONF_FILE", missing.to_str().unwrap())]);
    assert!(text.contains("missing is not read: "), "{text}");
    fs::remove_dir_all(home).expect("it is ours");
}

#[test]
fn the_log_goes_to_a_file() {
    let home = home("file");
    let pattern = home.join("log.%h.%p.%%");
    let variables = [("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_FILE", pattern.to_str().unwrap())];
    let output = finish(command(&home, &variables, &[]));
    assert!(output.stderr.is_empty());
    let made: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(made.len(), 1);
    assert!(made[0].to_str().unwrap().ends_with(".%"), "{made:?}");
    assert!(fs::read_to_string(&made[0]).unwrap().contains("NCCL INFO"));
    fs::remove_dir_all(home).expect("it is ours");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    for (file, words) in [
        ("/dev/full", "/dev/full (NCCL_DEBUG_FILE) takes no more: No space left"),
        ("/proc/nowhere/log", "/proc/nowhere/log (NCCL_DEBUG_FILE) cannot be opened: "),
    ] {
        let text = log("full", &[("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_FILE", file)], &[]);
        assert_eq!(text.matches(words).count(), 1, "{text}");
    }
    // Standard error that is closed, and one that nobody reads.
    let home = home("closed");
    for end in ["2>&-", "2>/dev/full"] {
        let inner = command(&home, &[("NCCL_DEBUG", "TRACE"), ("NCCL_DEBUG_SUBSYS", "ALL")], &[]);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("\"$@\" {end}"), "bash"]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            shell.env(name, value);
        }
        assert_eq!(String::from_utf8_lossy(&finish(shell).stdout), "done\n", "{end}");
    }
    fs::remove_dir_all(home).expect("it is ours");
}

#[test]
fn the_log_is_set_anew_when_the_program_says_so() {
    let text = log("anew", &[("NCCL_DEBUG", "NONE")], &["NCCL_DEBUG=INFO"]);
    assert_eq!(text.matches("rank 0 of 1").count(), 1, "{text}");
    let text = log("anew-less", &[("NCCL_DEBUG", "INFO")], &["NCCL_DEBUG=NONE"]);
    assert_eq!(text.matches("rank 0 of 1").count(), 1, "{text}");
}

/// Asks for settings by name and by handle, and for the version.
const QUESTIONS: &str = "
import ctypes, sys
nccl = ctypes.CDLL(sys.argv[1])
stock = [ctypes.CDLL(path) for path in sys.argv[2:]]
version, handle, text = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_char_p()
length, narrow, wide = ctypes.c_int(), ctypes.c_int8(), ctypes.c_uint64()
place = ctypes.byref
assert nccl.ncclGetVersion(place(version)) == 0
print('version', version.value)
assert nccl.ncclParamBind(place(handle), b'NCCL_BUFFSIZE') == 0
assert nccl.ncclParamGetU64(handle, place(wide)) == 0 and wide.value == 65536
assert nccl.ncclParamGetI8(handle, place(narrow)) == 4 and narrow.value == 0
assert nccl.ncclParamGetStr(handle, place(text)) == 0 and text.value == b'0x10000'
raw = ctypes.create_string_buffer(8)
assert nccl.ncclParamGet(handle, raw, 7, place(length)) == 4 and length.value == 8
assert nccl.ncclParamGet(handle, raw, 8, place(length)) == 0
assert int.from_bytes(raw.raw, sys.byteorder) == 65536
assert nccl.ncclParamGetParameter(b'SHOAL_SECRET', place(text), place(length)) == 0
assert text.value == b'(secret)' and length.value == 8
assert nccl.ncclParamGetParameter(b'SHOAL_HOSTID', place(text), place(length)) == 0 and text.value == b'blue'
assert nccl.ncclParamGetParameter(b'SHOAL_NONE', place(text), place(length)) == 4
assert text.value is None and length.value == 0
table, count = ctypes.POINTER(ctypes.c_char_p)(), ctypes.c_int()
assert nccl.ncclParamGetAllParameterKeys(place(table), place(count)) == 0
keys = table[:count.value]
assert len(keys) == len(set(keys)) and {b'SHOAL_RING_BYTES', b'NCCL_BUFFSIZE', b'NCCL_DEBUG'} <= set(keys)
nccl.ncclParamDumpAll()
";

fn answers(name: &str, variables: &[(&str, &str)], libraries: &[&Path]) -> (String, String) {
    let home = home(name);
    let file = home.join(".nccl.conf");
    fs::write(&file, "SHOAL_RING_BYTES=0x10000\nSHOAL_SECRET=quiet\n").unwrap();
    let variables = [&[("NCCL_HOSTID", "blue")], variables].concat();
    let mut command = process(&home, QUESTIONS, &variables);
    command.args(libraries);
    let output = finish(command);
    let log = String::from_utf8_lossy(&output.stderr).replace(file.to_str().unwrap(), "FILE");
    fs::remove_dir_all(home).expect("it is ours");
    (String::from_utf8_lossy(&output.stdout).into_owned(), log)
}

#[test]
fn programs_read_the_settings() {
    let (said, log) = answers("questions", &[], &[]);
    assert_eq!(said, "version 22809\n");
    for words in [
        "SHOAL_RING_BYTES, also NCCL_BUFFSIZE: ",
        "    Current value=0x10000 set_by=FILE:1 default=131072\n",
        "    Current value=blue set_by=environment default=<unset>\n",
        "    Current value=(secret) set_by=FILE:2 default=<unset>\n",
    ] {
        assert!(log.contains(words), "{words} is not in\n{log}");
    }
    assert!(!log.contains("quiet"), "{log}");
}

#[test]
fn the_version_is_stocks_own_where_there_is_one() {
    let folder = home("stock");
    let library = folder.join("libnccl.so.2");
    let source = folder.join("stock.c");
    fs::write(&source, "const char words[] = \"NCCL version 2.30.7+cuda13.0\";\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.expect("a C compiler").success());
    let reported = |variables: &[(&str, &str)], libraries: &[&Path]| answers("version", variables, libraries);
    assert_eq!(reported(&[], &[&library]).0, "version 23007\n", "it is loaded");
    let path = library.to_str().unwrap();
    assert_eq!(reported(&[("SHOAL_NCCL", path)], &[]).0, "version 23007\n", "it is named");
    let both = [("SHOAL_NCCL", path), ("SHOAL_VERSION", "22907")];
    assert_eq!(reported(&both, &[&library]).0, "version 22907\n", "the setting wins");
    let (said, log) = reported(&[("SHOAL_NCCL", "/nowhere")], &[&library]);
    assert_eq!(said, "version 22809\n");
    assert!(log.contains("SHOAL_NCCL=/nowhere: No such file"), "{log}");
    fs::remove_dir_all(folder).expect("it is ours");
}
