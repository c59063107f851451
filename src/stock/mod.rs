//! Stock NCCL: as yet its version alone, found without loading anything.
//!
//! Programs choose code paths by what `ncclGetVersion` reports, so where a stock library is at hand they shall
//! see its number. It stands in the library's own read-only data, as `NCCL version 2.28.9+...`: the sections of
//! the file say where that lies, and only that part is read (a megabyte of some hundred). A library whose
//! sections were stripped is known by its file name, `libnccl.so.2.28.9`.
#![forbid(unsafe_code)]

mod elf;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::config::Config;
use crate::trace::log;

/// What is reported where no stock library is at hand: what torch 2.11 was built for, and old enough that no
/// client takes paths that need a GPU.
pub const USUAL_VERSION: i32 = 22809;

/// A library whose read-only data is larger than this is not looked through.
const MOST_BYTES: u64 = 64 << 20;

/// The number that `ncclGetVersion` reports, found at the first call: `SHOAL_VERSION`, else that of
/// `SHOAL_NCCL`, else that of a stock library that is loaded in this process, else the usual.
pub fn reported_version() -> i32 {
    static VERSION: OnceLock<i32> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let config = Config::get();
        if let Some(version) = config.version {
            return version;
        }
        if !config.nccl.is_empty() {
            return version_of(Path::new(&config.nccl)).unwrap_or_else(|why| {
                log::warn(format_args!(
                    "SHOAL_NCCL={}: {why}; ncclGetVersion reports {USUAL_VERSION}; name a libnccl.so.2 of NVIDIA's",
                    config.nccl
                ));
                USUAL_VERSION
            });
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let own = (reported_version as fn() -> i32) as usize;
        let found = loaded(&maps, own).into_iter().find_map(|path| Some((version_of(&path).ok()?, path)));
        found.map_or(USUAL_VERSION, |(version, path)| {
            log::info(format_args!("ncclGetVersion reports {version}, that of {}", path.display()));
            version
        })
    })
}

/// The files in `maps` (the form of `/proc/self/maps`) that are called as stock NCCL is, but for the one that
/// the address `own` lies in.
fn loaded(maps: &str, own: usize) -> Vec<PathBuf> {
    let lines = || {
        maps.lines().filter_map(|line| {
            let path = line.get(line.find('/')?..)?.trim_end_matches(" (deleted)");
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |digits| usize::from_str_radix(digits, 16).ok();
            Some((number(start)?..number(end)?, path))
        })
    };
    let ours = lines().find(|(range, _)| range.contains(&own)).map(|(_, path)| path);
    let mut found: Vec<PathBuf> = Vec::new();
    for (_, path) in lines().filter(|(_, path)| Some(*path) != ours) {
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.starts_with("libnccl.so") && !found.iter().any(|known| known.as_os_str() == path) {
            found.push(path.into());
        }
    }
    found
}

/// The version of the library in that file.
///
/// # Errors
/// Why it is not known.
pub fn version_of(path: &Path) -> Result<i32, String> {
    let real = std::fs::canonicalize(path).map_err(|cause| cause.to_string())?;
    let text = read_only_data(&real);
    let written = text.as_ref().ok().and_then(|bytes| elf::version_in(bytes));
    let named = || real.file_name()?.to_str()?.strip_prefix("libnccl.so.").and_then(elf::version_at);
    written.or_else(named).ok_or_else(|| match text {
        Ok(_) => "it is a library, and does not say which version of NCCL it is".to_owned(),
        Err(why) => why,
    })
}

/// The section `.rodata` of a library.
fn read_only_data(path: &Path) -> Result<Vec<u8>, String> {
    let said = |cause: std::io::Error| cause.to_string();
    if !std::fs::metadata(path).map_err(said)?.is_file() {
        return Err("it is no file".into());
    }
    let mut file = File::open(path).map_err(said)?;
    let mut part = |start: u64, size: u64| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(said)?;
        (&mut file).take(size.min(MOST_BYTES)).read_to_end(&mut bytes).map_err(said)?;
        Ok::<_, String>(bytes)
    };
    let head = part(0, elf::HEAD_BYTES)?;
    let table = elf::table(&head).ok_or("it is no 64-bit library of this machine's byte order")?;
    let rows = part(table.start, table.size)?;
    let names = elf::names(&rows, &table).ok_or("its table of sections is broken")?;
    let names = part(names.start, names.size)?;
    let data = elf::find(&rows, &names, b".rodata").ok_or("it has no read-only data")?;
    part(data.start, data.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_that_name_are_found_and_our_own_is_not() {
        let maps = "\
            1000-2000 r-xp 00000000 08:01 1 /opt/shoal/libnccl.so.2\n\
            2000-3000 r--p 00001000 08:01 1 /opt/shoal/libnccl.so.2\n\
            3000-4000 r-xp 00000000 08:01 2 /usr/lib/my libs/libnccl.so.2.30.7\n\
            4000-5000 r-xp 00000000 08:01 2 /usr/lib/my libs/libnccl.so.2.30.7\n\
            5000-6000 rw-p 00000000 00:00 0 \n\
            6000-7000 r-xp 00000000 08:01 3 /usr/lib/libnccl-net.so\n\
            7000-8000 r-xp 00000000 08:01 4 /wheel/libnccl.so.2 (deleted)\n";
        let found =
            |own| loaded(maps, own).into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(found(0x2800), ["/usr/lib/my libs/libnccl.so.2.30.7", "/wheel/libnccl.so.2"]);
        assert_eq!(found(0x9000).len(), 3);
        assert!(loaded("nonsense\n- /libnccl.so\n", 0).is_empty());
    }

    #[test]
    fn what_is_no_library_is_told() {
        for (path, words) in
            [("/nowhere", "No such file"), ("/proc", "no file"), ("/etc/passwd", "no 64-bit")]
        {
            assert!(version_of(Path::new(path)).unwrap_err().contains(words), "{path}");
        }
    }
}
