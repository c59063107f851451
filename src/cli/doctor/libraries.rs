//! Which libraries there are, and whose: found as files, by what they say of themselves, without loading any.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::facts::{Found, Libraries, LibraryFact, Maker, Process, Program, Python};
use super::gather::{self, Root, variable};

/// Where the system's linker looks besides, on the systems that we know.
const COMMON: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];
/// Processes with more files loaded than this are not looked at to the end.
const MAPS_MAX: usize = 4096;

/// The folders in which the linker looks, in its order.
pub(super) fn folders(root: &Root) -> Vec<String> {
    let mut folders: Vec<String> = variable("LD_LIBRARY_PATH")
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(str::to_owned)
        .collect();
    let mut texts = vec![root.read("/etc/ld.so.conf")];
    let names = root.list("/etc/ld.so.conf.d");
    texts.extend(names.iter().map(|name| root.read(&format!("/etc/ld.so.conf.d/{name}"))));
    for line in texts.iter().flat_map(|text| text.lines()).map(str::trim) {
        if line.starts_with('/') {
            folders.push(line.to_owned());
        }
    }
    folders.extend(COMMON.iter().map(|folder| (*folder).to_owned()));
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// Whose file a file is, asked once for each.
#[derive(Debug, Default)]
pub(super) struct Marks(HashMap<(u64, u64), (Maker, String)>);

impl Marks {
    /// Reads the file at `at`, which people know as `path`.
    fn of(&mut self, path: &str, at: &Path) -> LibraryFact {
        let unknown = || LibraryFact { path: path.into(), ..LibraryFact::default() };
        let Ok(metadata) = fs::metadata(at) else { return unknown() };
        let (maker, version) = self
            .0
            .entry((metadata.dev(), metadata.ino()))
            .or_insert_with(|| mark(&fs::read(at).unwrap_or_default()))
            .clone();
        LibraryFact { path: path.into(), maker, version }
    }
}

/// What a library says of itself.
fn mark(bytes: &[u8]) -> (Maker, String) {
    for (maker, text) in [(Maker::Shoal, crate::MARK_START), (Maker::Nccl, "NCCL version ")] {
        // Programs that look for a mark hold its start, without a number behind it.
        let mut rest = bytes;
        while let Some(at) = position(rest, text.as_bytes()) {
            rest = &rest[at + text.len()..];
            let end = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len());
            let version = String::from_utf8_lossy(&rest[..end.min(40)]).into_owned();
            if version.starts_with(|first: char| first.is_ascii_digit()) {
                return (maker, version);
            }
        }
    }
    (Maker::Unknown, String::new())
}

fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == text[0]) {
        if bytes[from + at..].starts_with(text) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The first of the names in the first of the folders.
fn first(root: &Root, folders: &[String], names: &[&str]) -> Found {
    let path = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| format!("{folder}/{name}")))
        .find(|path| root.path(path).exists());
    Found { path, looked: folders.to_vec() }
}

/// What is found at run time.
pub(super) fn find(root: &Root, folders: &[String], marks: &mut Marks) -> Libraries {
    let one = |names: &[&str]| first(root, folders, names);
    let setting = variable("NCCL_NET_PLUGIN");
    let mut nccl = one(&["libnccl.so.2"]);
    // It may be this library that lies there.
    if let Some(path) = nccl.path.clone()
        && marks.of(&path, &root.path(&path)).maker == Maker::Shoal
    {
        nccl.path = None;
    }
    Libraries {
        ucx: ucx(root, folders),
        cuda: one(&["libcuda.so.1"]),
        nccl,
        open_mpi: one(&["libmpi.so.40", "libmpi.so.80", "openmpi/lib/libmpi.so"]),
        mpich: one(&["libmpich.so.12", "libmpi.so.12"]),
        net_plugin: net_plugin(root, folders, &setting),
        net_plugin_setting: setting,
    }
}

/// UCX of the system, else of a Python package.
fn ucx(root: &Root, folders: &[String]) -> Found {
    let mut folders = folders.to_vec();
    folders.extend(package_folders(root).iter().map(|packages| format!("{packages}/libucx/lib")));
    first(root, &folders, &["libucp.so.0"])
}

/// As NCCL names them: a path, a whole name, or what stands behind `libnccl-net-`.
fn net_plugin(root: &Root, folders: &[String], setting: &str) -> Found {
    match setting {
        "none" => Found::default(),
        "" => first(root, folders, &["libnccl-net.so"]),
        path if path.contains('/') => {
            let found = root.path(path).exists().then(|| path.to_owned());
            Found { path: found, looked: vec![path.into()] }
        }
        name => first(root, folders, &[name, &format!("libnccl-net-{name}.so"), &format!("lib{name}.so")]),
    }
}

/// What LD_PRELOAD names.
pub(super) fn preload(marks: &mut Marks) -> Vec<LibraryFact> {
    let list = variable("LD_PRELOAD");
    list.split([':', ' '])
        .filter(|path| !path.is_empty())
        .map(|path| marks.of(path, Path::new(path)))
        .collect()
}

/// Where the packages of the Python environment lie that is in force.
fn package_folders(root: &Root) -> Vec<String> {
    let mut homes = vec![variable("VIRTUAL_ENV"), variable("CONDA_PREFIX")];
    // Without an environment that was entered: the one whose python comes first.
    let of_path = |folder: &str| {
        let has_python = !folder.is_empty() && root.path(&format!("{folder}/python3")).exists();
        Some(Path::new(folder).parent().filter(|_| has_python)?.to_string_lossy().into_owned())
    };
    homes.extend(variable("PATH").split(':').find_map(of_path));
    let mut found = Vec::new();
    for home in homes.iter().filter(|home| !home.is_empty()) {
        for version in root.list(&format!("{home}/lib")) {
            for name in ["site-packages", "dist-packages"] {
                let packages = format!("{home}/lib/{version}/{name}");
                if version.starts_with("python3")
                    && root.path(&packages).is_dir()
                    && !found.contains(&packages)
                {
                    found.push(packages);
                }
            }
        }
    }
    found
}

/// A libnccl among Python's packages.
pub(super) fn python(root: &Root, marks: &mut Marks) -> Option<Python> {
    const NAMES: [&str; 2] = ["nvidia/nccl/lib/libnccl.so.2", "torch/lib/libnccl.so.2"];
    package_folders(root).into_iter().find_map(|packages| {
        let path =
            NAMES.iter().map(|name| format!("{packages}/{name}")).find(|path| root.path(path).exists())?;
        let has_torch = root.path(&format!("{packages}/torch")).is_dir();
        Some(Python { nccl: marks.of(&path, &root.path(&path)), packages, has_torch })
    })
}

/// Which libnccl a program would get, as the system's linker finds it: LD_PRELOAD, rpaths and all.
pub(super) fn program(path: &Path, marks: &mut Marks) -> Program {
    let shown = path.display().to_string();
    let failed = |problem: String| Program { path: shown.clone(), nccl: None, problem: Some(problem) };
    // A name without a folder would be looked for in the current one.
    let place = if path.components().count() > 1 { Some(path.to_owned()) } else { in_path(path) };
    let Some(place) = place else { return failed("it is not in PATH".into()) };
    let output = match Command::new("ldd").arg(&place).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(cause) => return failed(format!("ldd cannot be run: {cause}")),
    };
    if !output.status.success() {
        return failed(format!("ldd says: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let nccl =
        resolved(&String::from_utf8_lossy(&output.stdout)).map(|path| marks.of(&path, Path::new(&path)));
    Program { path: shown, nccl, problem: None }
}

fn in_path(name: &Path) -> Option<PathBuf> {
    variable("PATH").split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// The first libnccl in the linker's list. What is preloaded stands there first, by its path alone.
fn resolved(list: &str) -> Option<String> {
    list.lines().map(str::trim).find_map(|line| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path.trim());
        let path = path.split(" (0x").next()?;
        is_libnccl(path).then(|| path.to_owned())
    })
}

fn is_libnccl(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.starts_with('/') && (name.starts_with("libnccl.so") || name == "libshoal.so")
}

/// The processes of `numbers`, or all of this user's, that have a libnccl loaded.
pub(super) fn processes(root: &Root, numbers: &[u32], marks: &mut Marks) -> Vec<Process> {
    let numbers = if numbers.is_empty() { gather::own_processes(root) } else { numbers.to_vec() };
    let mut found = Vec::new();
    for number in numbers {
        let maps = root.read(&format!("/proc/{number}/maps"));
        let paths = loaded(&maps);
        if paths.is_empty() {
            continue;
        }
        let libraries = paths
            .iter()
            .map(|path| {
                // As the process sees it, which may be in a container.
                let seen = root.path(&format!("/proc/{number}/root{path}"));
                marks.of(path, if seen.exists() { &seen } else { Path::new(path) })
            })
            .collect();
        found.push(Process { number, allowed: gather::allowed(root, number), libraries });
    }
    found
}

/// The libnccls among what a process has mapped. The linker maps from high addresses to low ones, so what was loaded
/// first stands last.
fn loaded(maps: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for line in maps.lines().take(MAPS_MAX) {
        let Some(at) = line.find('/') else { continue };
        let path = line[at..].trim_end_matches(" (deleted)");
        if is_libnccl(path) && !paths.iter().any(|known| known == path) {
            paths.push(path.to_owned());
        }
    }
    paths.reverse();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_say_what_they_are() {
        assert_eq!(mark(b"xx NCCL version 2.28.9+cuda13.0\0yy"), (Maker::Nccl, "2.28.9+cuda13.0".into()));
        let ours = format!("a{}0.1.0\0", crate::MARK_START);
        assert_eq!(mark(ours.as_bytes()), (Maker::Shoal, "0.1.0".into()));
        let both = format!("NCCL version 2.1.2\0{}\0{}1.2\n", crate::MARK_START, crate::MARK_START);
        assert_eq!(mark(both.as_bytes()), (Maker::Shoal, "1.2".into()));
        assert_eq!(mark(b"nothing NCCL version %d"), (Maker::Unknown, String::new()));
        assert_eq!(mark(b""), (Maker::Unknown, String::new()));
    }

    #[test]
    fn the_linkers_list_is_read() {
        let list = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibnccl.so.2 => /venv/nvidia/nccl/lib/libnccl.so.2 (0x00007f)\n";
        assert_eq!(resolved(list).as_deref(), Some("/venv/nvidia/nccl/lib/libnccl.so.2"));
        let preloaded =
            "\t/opt/shoal/lib/libnccl.so.2 (0x00007f)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n";
        assert_eq!(resolved(preloaded).as_deref(), Some("/opt/shoal/lib/libnccl.so.2"));
        assert_eq!(resolved("\tlibnccl.so.2 => not found\n"), None);
        assert_eq!(resolved("\tnot a dynamic executable\n"), None);
    }

    #[test]
    fn what_was_loaded_first_stands_first() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 12 /venv/libnccl.so.2.28\n\
                    7f01-7f02 r--p 00000000 fe:00 13 /usr/lib/libc.so.6\n\
                    7f03-7f04 r--p 00000000 fe:00 14 /opt/libnccl.so.2 (deleted)\n\
                    7f04-7f05 r--p 00001000 fe:00 14 /opt/libnccl.so.2 (deleted)\n\
                    7f08-7f09 rw-p 00000000 00:00 0 [stack]\n";
        assert_eq!(loaded(maps), ["/opt/libnccl.so.2", "/venv/libnccl.so.2.28"]);
    }
}
