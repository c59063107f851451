//! Tables of choices as a user meets them: `shoal tune`, `explain` and `table` from outside, and which table the
//! ranks of a communicator have.

#[path = "common/built.rs"]
mod built;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use built::library;

/// A fresh folder that is the process's home.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tables-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is ours");
    folder
}

/// A command without what a user or a launcher said.
fn clean(program: &str, home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", program]).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let starts =
            ["NCCL_", "SHOAL_", "XDG_CACHE", "OMPI_", "PMI", "SLURM_", "RANK", "WORLD_SIZE", "TORCHELASTIC"];
        if starts.iter().any(|start| name.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.env("HOME", home);
    command
}

fn shoal(home: &Path, words: &[&str]) -> Output {
    clean(env!("CARGO_BIN_EXE_shoal"), home).args(words).output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Measures until it is sure, in seconds; on a busy machine no longer than ten. Writes to `to`.
fn tune(home: &Path, to: &str, more: &[&str]) -> Output {
    let library = library().display().to_string();
    let mut words =
        vec!["tune", "--ranks", "2", "--budget", "10s", "--library", &library, "--output", to, "--no-pin"];
    words.extend(more);
    shoal(home, &words)
}

#[test]
fn what_was_tuned_is_explained_and_judged() {
    let home = folder("tuned");
    let table = home.join("t.toml").display().to_string();
    let output = tune(&home, &table, &["--op", "allreduce,all-gather", "--sizes", "64,4K"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("best single"), "{}", text(&output));

    let written = fs::read_to_string(&table).unwrap();
    assert!(written.contains("operation = \"allgather\"") && written.contains("bytes = 4096, "), "{written}");
    let output = shoal(&home, &["table", "lint", &table]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("another machine"), "{}", text(&output));

    let explain = |bytes: &str| {
        let words = ["explain", "--op", "allreduce", "-b", bytes, "--ranks", "2", "--table", &table];
        let output = shoal(&home, &words);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    for (bytes, words) in [
        ("64", "measured at 64 bytes"),
        ("1K", "measured at 64 and 4096 bytes; between them the model interpolates"),
        ("1M", "outside of what was measured: the nearest size is 4096 bytes"),
    ] {
        let shown = explain(bytes);
        assert!(shown.contains(words) && shown.contains("measured by: shoal tune"), "{bytes}: {shown}");
    }
    let words = ["tune", "--regret", "--table", &table, "--ranks", "2", "--budget", "10s", "--no-pin"];
    let library = library().display().to_string();
    let record = home.join("r.jsonl").display().to_string();
    let more = ["--library", &library, "--op", "allreduce", "--sizes", "256", "--record", &record];
    let output = shoal(&home, &[&words[..], &more].concat());
    assert!(output.status.success() && text(&output).contains("100 to 999"), "{}", text(&output));
    assert!(fs::read_to_string(record).unwrap().contains("\"regret\":"));
}

#[test]
fn ranks_on_two_hosts_have_rows_of_their_own() {
    let home = folder("hosts");
    let table = home.join("t.toml").display().to_string();
    let output =
        tune(&home, &table, &["--hosts", "2", "--op", "allreduce", "--sizes", "64,4M", "--pieces", "64K"]);
    assert!(output.status.success(), "{}", text(&output));
    let written = fs::read_to_string(&table).unwrap();
    assert!(written.contains("ranks = 2\nhosts = 2\nranks_per_host = 1\ncores = \"own\"\n"), "{written}");
    assert!(written.contains("_65536 = ["), "{written}");
    let words = ["explain", "--op", "allreduce", "-b", "64", "--ranks", "2", "--table", &table, "--hosts"];
    let shown = text(&shoal(&home, &[&words[..], &["2"]].concat()));
    assert!(shown.contains("measured at 64 bytes"), "{shown}");
    let shown = text(&shoal(&home, &[&words[..], &["1"]].concat()));
    assert!(!shown.contains(&table), "{shown}");
}

#[test]
fn rows_of_other_ranks_stay_and_those_of_the_same_are_replaced() {
    let home = folder("merged");
    let table = home.join("t.toml").display().to_string();
    let other = "[[row]]\noperation = \"allreduce\"\nranks = 7\nalgorithm = \"ring\"\n";
    fs::write(&table, other).unwrap();
    for _ in 0..2 {
        let output = tune(&home, &table, &["--op", "allreduce", "--sizes", "64", "--fresh"]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let written = fs::read_to_string(&table).unwrap();
    let count = |words: &str| written.matches(words).count();
    assert_eq!((count("ranks = 7\n"), count("ranks = 2\n"), count("[[run]]")), (1, 1, 1), "{written}");
}

#[test]
fn without_an_output_jobs_find_it_in_the_cache() {
    let home = folder("cache");
    let library = library().display().to_string();
    let words =
        ["tune", "--budget", "10s", "--library", &library, "--no-pin", "--op", "broadcast", "--sizes", "64"];
    let output = shoal(&home, &words);
    assert!(output.status.success(), "{}", text(&output));
    let shown = text(&shoal(&home, &["explain", "--op", "broadcast", "-b", "64", "--ranks", "2"]));
    assert!(shown.contains(".cache/shoal/table-2-ranks-1-hosts-"), "{shown}");
    let mut command = clean(env!("CARGO_BIN_EXE_shoal"), &home);
    command.args(["explain", "--op", "broadcast", "-b", "64", "--ranks", "2"]).env("SHOAL_TABLE", "built-in");
    let shown = text(&command.output().unwrap());
    assert!(shown.contains("row: built-in table"), "{shown}");
}

#[test]
fn a_profile_says_what_is_measured() {
    let home = folder("profile");
    let profile = home.join("p.csv");
    let call = "CommType.all_reduce,tp_group,8,40960,x\n";
    let text_of = "comm_type,comm_group,comm_group_size,msg_size,stage\n".to_owned() + &call.repeat(3);
    fs::write(&profile, text_of).unwrap();
    let table = home.join("t.toml").display().to_string();
    let output = tune(&home, &table, &["--profile", &profile.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("(3 calls,"), "{}", text(&output));
    let written = fs::read_to_string(&table).unwrap();
    assert!(written.contains("bytes = 40960, ") && written.matches("operation = ").count() == 1, "{written}");
}

#[test]
fn tables_are_checked_and_compared() {
    let home = folder("checked");
    let file = |name: &str, text: &str| {
        let path = home.join(name).display().to_string();
        fs::write(&path, text).unwrap();
        path
    };
    let row = |bytes: &str, algorithm: &str| {
        format!("[[row]]\noperation = \"allreduce\"\nbytes = {bytes}\nalgorithm = \"{algorithm}\"\n")
    };
    let one = file("one.toml", &(row("[0, 9]", "ring") + &row("[10, \"any\"]", "tree")));
    let other = file("other.toml", &(row("[0, 19]", "ring") + &row("[10, \"any\"]", "tree")));
    let bad = file("bad.toml", &row("[9, 0]", "ring"));
    assert!(shoal(&home, &["table", "lint", &one, "built-in"]).status.success());
    let output = shoal(&home, &["table", "lint", &other]);
    assert!(
        !output.status.success() && text(&output).contains("fault: line 5: overlaps"),
        "{}",
        text(&output)
    );
    let output = shoal(&home, &["table", "lint", &bad]);
    assert!(text(&output).contains("bad.toml:3: bytes goes from 9 to 0"), "{}", text(&output));
    let output = shoal(&home, &["table", "diff", &one, &other]);
    assert!(text(&output).contains("allreduce of 10 to 19 bytes"), "{}", text(&output));
    assert!(shoal(&home, &["table", "diff", &one, &one]).status.success());

    let sheet = file("s.csv", "allreduce,0,65536,tree,ll,2,1,-1,-1,1\n");
    let imported = home.join("imported.toml").display().to_string();
    assert!(shoal(&home, &["table", "import", &sheet, "--output", &imported]).status.success());
    let output = shoal(&home, &["table", "export", &imported]);
    assert!(text(&output).ends_with("\nallreduce,0,65536,tree,ll,2,1,-1,-1,1\n"), "{}", text(&output));
    assert!(!shoal(&home, &["table", "export", &one]).status.success());
}

/// One rank of a communicator; by its place it has a table of its own.
const RANK: &str = "
import ctypes, os, sys, time
class Id(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_char * 128)]
nccl = ctypes.CDLL(sys.argv[1])
rank, ranks, place = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
nccl.ncclGetLastError.restype = ctypes.c_char_p
def check(code):
    if code != 0:
        print('error', nccl.ncclGetLastError(None).decode())
        sys.exit(0)
id, comm = Id(), ctypes.c_void_p()
if rank == 0:
    check(nccl.ncclGetUniqueId(ctypes.byref(id)))
    with open(place + '.part', 'wb') as file: file.write(bytes(id))
    os.rename(place + '.part', place)
else:
    for _ in range(3000):
        if os.path.exists(place): break
        time.sleep(0.01)
    with open(place, 'rb') as file: id = Id.from_buffer_copy(file.read())
check(nccl.ncclCommInitRank(ctypes.byref(comm), ranks, id, rank))
def reduce():
    for count in (1, 1000, 300000):
        data = (ctypes.c_float * count)(*([rank + 1] * count))
        check(nccl.ncclAllReduce(data, data, ctypes.c_size_t(count), 7, 0, comm, None))
        if set(data) != {ranks * (ranks + 1) / 2}: print('wrong')
reduce()
# A second table at run time, on all ranks.
check(nccl.shoalCommSetTable(comm, b'[[row]]\\noperation = \"allreduce\"\\nalgorithm = \"doubling\"\\npiece_bytes = 4096\\n'))
reduce()
check(nccl.shoalCommSetTable(comm, None))
reduce()
check(nccl.ncclCommDestroy(comm))
print('done')
";

/// What each of three ranks says, the table of each in its environment.
fn ranks(home: &Path, tables: [&str; 3]) -> Vec<String> {
    let place = home.join("id").display().to_string();
    // Of an earlier communicator nobody would answer.
    let _ = fs::remove_file(&place);
    let start = |(rank, table): (usize, &str)| -> Child {
        let mut command = clean("python3", home);
        command
            .args(["-c", RANK])
            .arg(library())
            .args([&rank.to_string(), "3", &place])
            .env("SHOAL_TABLE", table);
        command.stdout(Stdio::piped()).spawn().expect("python3 is there")
    };
    let children: Vec<Child> = tables.into_iter().enumerate().map(start).collect();
    children.into_iter().map(|child| text(&child.wait_with_output().unwrap())).collect()
}

#[test]
fn rank_0s_table_is_everybodys() {
    let home = folder("shared");
    let file = |algorithm: &str| {
        let path = home.join(format!("{algorithm}.toml")).display().to_string();
        fs::write(&path, format!("[[row]]\noperation = \"allreduce\"\nalgorithm = \"{algorithm}\"\n"))
            .unwrap();
        path
    };
    // Ranks that followed a table each would wait for each other's packets for ever. What the others name is not
    // even looked at.
    let [ring, tree] = ["ring", "tree"].map(file);
    for said in ranks(&home, [&ring, &tree, "/nowhere"]) {
        assert_eq!(said, "done\n");
    }
}

#[test]
fn a_bad_table_of_rank_0_is_an_error_on_every_rank() {
    let home = folder("bad");
    let path = home.join("bad.toml").display().to_string();
    fs::write(&path, "[[row]]\noperation = \"allreduce\"\nalgorithm = \"rnig\"\n").unwrap();
    for said in ranks(&home, [&path, "built-in", ""]) {
        let words = format!("{path}:3: expected one of exchange,");
        assert!(said.starts_with("error ") && said.contains(&words), "{said}");
    }
    for said in ranks(&home, ["/nowhere/t.toml", "", ""]) {
        assert!(said.contains("/nowhere/t.toml: No such file"), "{said}");
    }
}
