//! Ranks that have different versions of the library loaded: every one of them is told which versions met.

#[path = "common/party.rs"]
mod party;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use party::{library, workshop};

/// A rank that says when it is ready, waits for all others to be, and prints how its birth ended.
const PROGRAM: &str = "
import ctypes, os, sys, time
class Id(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_char * 128)]
library, folder, rank, ranks = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
nccl = ctypes.CDLL(library)
nccl.ncclGetLastError.restype = ctypes.c_char_p
id, comm = Id(), ctypes.c_void_p()
if rank == 0:
    assert nccl.ncclGetUniqueId(ctypes.byref(id)) == 0
    open(folder + '/new', 'wb').write(bytes(id))
    os.rename(folder + '/new', folder + '/id')
open(folder + '/ready%d' % rank, 'w').close()
while sum(name.startswith('ready') for name in os.listdir(folder)) < ranks:
    time.sleep(0.005)
ctypes.memmove(ctypes.byref(id), open(folder + '/id', 'rb').read(), 128)
result = nccl.ncclCommInitRank(ctypes.byref(comm), ranks, id, rank)
print(result, nccl.ncclGetLastError(None).decode())
";

/// The library with another version in its mark.
fn other_version() -> PathBuf {
    let place = workshop().join("other/libnccl.so.2");
    let mut bytes = fs::read(library()).expect("the library");
    let mark = format!("{}{}", shoal::MARK_START, shoal::version());
    let at = bytes.windows(mark.len()).position(|part| part == mark.as_bytes()).expect("the mark");
    bytes[at + shoal::MARK_START.len()] = b'9';
    fs::create_dir_all(place.parent().expect("a folder")).expect("ours");
    fs::write(&place, bytes).expect("ours");
    place
}

/// Ends a rank that does not end by itself.
struct Rank(Child);

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What each rank printed, with the library that it has.
fn run(name: &str, libraries: &[&Path], variables: &[(&str, &str)], has_hosts: bool) -> Vec<String> {
    let folder = workshop().join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("ours");
    let ranks = libraries.iter().enumerate().map(|(rank, library)| {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).args([*library, folder.as_path()]);
        command.args([rank.to_string(), libraries.len().to_string()]);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        if has_hosts {
            command.env("SHOAL_HOSTID", format!("host-{rank}"));
        }
        Rank(command.spawn().expect("python3 is there"))
    });
    let ranks: Vec<Rank> = ranks.collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = ranks.into_iter().map(|mut rank| {
        while rank.0.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < deadline, "a rank does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::io::read_to_string(rank.0.stdout.take().expect("a pipe")).expect("text")
    });
    said.collect()
}

fn all_name_both(name: &str, libraries: &[&Path], variables: &[(&str, &str)], has_hosts: bool) {
    let (own, other) = (shoal::version(), format!("9{}", &shoal::version()[1..]));
    let began = Instant::now();
    for (rank, said) in run(name, libraries, variables, has_hosts).iter().enumerate() {
        let names_both = [own, &other].iter().all(|version| said.contains(&format!("version {version}")));
        assert!(said.starts_with("5 ") && names_both, "{name}, rank {rank}: {said}");
        assert!(said.contains("load the same on all ranks"), "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(40), "{name}: nobody waits for the bound");
}

#[test]
fn every_rank_hears_which_versions_met() {
    let (own, other) = (library(), other_version());
    let (own, other) = (own.as_path(), other.as_path());
    for has_hosts in [false, true] {
        all_name_both("one", &[own, other, own], &[], has_hosts);
        all_name_both("maker", &[other, own, own, own], &[], has_hosts);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let by_hand = [("NCCL_COMM_ID", port.to_string()), ("SHOAL_SECRET", "a test's".into())];
    let by_hand = by_hand.each_ref().map(|(name, value)| (*name, value.as_str()));
    all_name_both("by-hand", &[own, other], &by_hand, false);
}

/// The other version is one that works: it is not the copy that is refused.
#[test]
fn ranks_of_another_version_meet_each_other() {
    let other = other_version();
    for said in run("alike", &[&other, &other, &other], &[], false) {
        assert!(said.starts_with("0 "), "{said}");
    }
}
