//! Which table of choices a communicator has: rank 0's, on all ranks.
//!
//! Rank 0 looks at the setting, then at the user's cache. What of the file fits these ranks goes to all as text;
//! nothing means the built-in tables, which come with the library.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::Comm;
use crate::config::{Config, cache_folder};
use crate::error::{Error, Result};
use crate::schedule::Hosts;
use crate::topology::{Topology, probe};
use crate::trace::log;
use crate::tune;
use crate::tune::table::read::{TABLE_BYTES_MAX, read};
use crate::tune::table::write::write;
use crate::tune::table::{Choices, Site, Table};

/// By this value of the setting no file is looked at.
pub const BUILT_IN: &str = "built-in";
/// What goes to all ranks is at most this long.
const SHARED_BYTES_MAX: usize = 60 << 10;
const REMEDY: &str = "mend it (shoal table lint), or set SHOAL_TABLE=built-in";

/// What all ranks know of where they are.
pub(super) fn facts(topology: &Topology, is_deterministic: bool) -> tune::Facts {
    let ranks = topology.ranks();
    tune::Facts {
        ranks,
        // What all ranks know alike: hosts may hold different numbers of ranks and of cores.
        ranks_per_host: topology.hosts().iter().map(|host| host.ranks.len()).max().unwrap_or(1) as u32,
        cores: topology.hosts().iter().map(|host| host.cores).min().unwrap_or(1),
        hosts: Hosts::of((0..ranks).map(|rank| topology.host_of(rank) as u32).collect()),
        is_deterministic,
        choices: Choices::default(),
    }
}

/// What this rank gives to all: of rank 0 the rows that fit these ranks, of others nothing.
///
/// # Errors
/// The file cannot be read, or what is wrong in it, by line.
pub(super) fn own(topology: &Topology, rank: u32, config: &Config) -> Result<Vec<u8>> {
    if rank != 0 {
        return Ok(Vec::new());
    }
    let site = facts(topology, false).site();
    let Some(table) = find(&site, config)? else { return Ok(Vec::new()) };
    let fitting = table.for_site(&site);
    log::info(format_args!(
        "table of choices {}: {} of its {} rows fit these ranks",
        table.name,
        fitting.rows.len(),
        table.rows.len()
    ));
    let text = write(&fitting);
    if text.len() > SHARED_BYTES_MAX {
        let problem = format!("{} has {} bytes of rows for these ranks", table.name, text.len());
        return Err(Error::system(
            "sharing the table of choices",
            problem,
            format!("leave at most {SHARED_BYTES_MAX}"),
        ));
    }
    Ok(text.into_bytes())
}

/// The table that rank 0 gave.
pub(super) fn shared(bytes: &[u8]) -> Result<Option<Table>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(bytes);
    read("the table of rank 0", &text).map(Some).map_err(Error::Internal)
}

/// The table that the settings name for such ranks, else that of the user's cache; `None`: only those that are
/// built in.
///
/// # Errors
/// The file cannot be read, or what is wrong in it, by line.
pub fn find(site: &Site, config: &Config) -> Result<Option<Table>> {
    match config.table.as_str() {
        BUILT_IN => Ok(None),
        "" => cached(site),
        _ => named(config),
    }
}

/// The table of the setting.
fn named(config: &Config) -> Result<Option<Table>> {
    let failed = |cause: String| Error::system("reading the table of SHOAL_TABLE", cause, REMEDY);
    load(Path::new(&config.table)).map(Some).map_err(failed)
}

/// The table in the user's cache for such ranks on this machine, if there is one.
fn cached(site: &Site) -> Result<Option<Table>> {
    let Some(path) = cache_path(site) else { return Ok(None) };
    match std::fs::metadata(&path) {
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // Of a folder that this user may not see nothing is to be had.
        Err(cause) if cause.kind() == ErrorKind::PermissionDenied => return Ok(None),
        _ => {}
    }
    let failed = |cause: String| Error::system("reading the table of the cache", cause, REMEDY);
    let table = load(&path).map_err(failed)?;
    let machine = probe::machine();
    if let Some(run) = table.runs.iter().find(|run| run.machine != machine) {
        log::info(format_args!("{} is of another machine ({}), and not used", table.name, run.machine));
        return Ok(None);
    }
    Ok(Some(table))
}

/// Where the user's cache has the table for such ranks.
#[must_use]
pub fn cache_path(site: &Site) -> Option<PathBuf> {
    let Site { ranks, hosts, cores, .. } = site;
    Some(cache_folder()?.join(format!("table-{ranks}-ranks-{hosts}-hosts-{}-cores.toml", cores.name())))
}

/// The table of a file.
///
/// # Errors
/// It cannot be read, or what is wrong in it, by line.
pub fn load(path: &Path) -> std::result::Result<Table, String> {
    let name = path.display().to_string();
    let told = |cause: std::io::Error| format!("{name}: {cause}");
    let file = std::fs::File::open(path).map_err(told)?;
    // Reading from a pipe or a device might never end.
    if !file.metadata().map_err(told)?.is_file() {
        return Err(format!("{name}: it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(TABLE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(told)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => read(&name, text),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(format!("{name}:{line}: expected UTF-8"))
        }
    }
}

impl Comm {
    /// From now on `text` is the communicator's table, before those that are built in; `None`: these alone. Every
    /// rank says the same, between the same operations.
    ///
    /// # Errors
    /// The communicator is not usable or has unfinished operations; what is wrong in the text, by line.
    pub fn set_table(&self, call: &'static str, text: Option<&str>) -> Result<()> {
        const REMEDY: &str = "pass what shoal table lint accepts";
        let table = text.map(|text| read("table", text)).transpose();
        let table = table
            .map_err(|problem| Error::argument(call, "table", format_args!("is wrong: {problem}"), REMEDY))?;
        if self.usable(call)?.engine().use_table(table.as_ref()) {
            return Ok(());
        }
        Err(Error::usage(call, "operations are unfinished", "synchronize their streams first, on every rank"))
    }
}
