//! The one table of settings. No other file reads the environment.
//!
//! A setting is a row of [`SETTINGS`]: its name, what it is when nobody says, and what it does. `NCCL_*`
//! variables that mean the same are its aliases; what becomes of all others stands in [`foreign`]. Who says
//! is asked in this order: the environment, the user's file (`NCCL_CONF_FILE`, else `~/.nccl.conf`),
//! `/etc/nccl.conf`. Both kinds of names may stand in all three.
#![forbid(unsafe_code)]

mod file;
pub mod foreign;
mod nearest;
mod reader;
mod sources;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use reader::Reader;
pub use sources::{Origin, Saying, Source, Value};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Variables of NCCL that say the same; looked at after `name`.
    pub aliases: &'static [&'static str],
    /// What holds when nobody says.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    row(
        "SHOAL_DEBUG",
        &["NCCL_DEBUG"],
        "WARN",
        "how much is logged: NONE, VERSION, WARN, INFO, ABORT or TRACE",
    ),
    row(
        "SHOAL_DEBUG_SUBSYS",
        &["NCCL_DEBUG_SUBSYS"],
        "INIT,BOOTSTRAP,ENV",
        "of what INFO and TRACE speak: NCCL's names with commas, ^ in front for all but these",
    ),
    row(
        "SHOAL_DEBUG_FILE",
        &["NCCL_DEBUG_FILE"],
        "",
        "where the log goes instead of standard error (%h host, %p process, %% percent)",
    ),
    row(
        "SHOAL_DEBUG_TIMESTAMP_FORMAT",
        &["NCCL_DEBUG_TIMESTAMP_FORMAT"],
        "[%F_%T]_",
        "strftime's form of the time in front of a line, _ for a space, %3f for milliseconds; empty: none",
    ),
    row(
        "SHOAL_DEBUG_TIMESTAMP_LEVELS",
        &["NCCL_DEBUG_TIMESTAMP_LEVELS"],
        "WARN",
        "which levels have the time in front, ^ in front for all but these",
    ),
    row(
        "SHOAL_VERSION",
        &[],
        "auto",
        "the number that ncclGetVersion reports; auto: of the stock NCCL in this process or of SHOAL_NCCL, else 22809",
    ),
    row("SHOAL_NCCL", &[], "", "path of a stock libnccl.so.2, as yet for its version only"),
    row(
        "SHOAL_COALESCE",
        &[],
        "1",
        "0: every point-to-point message is a packet of its own, and collectives of a group run one by one",
    ),
    row(
        "SHOAL_FRAME_BYTES",
        &[],
        "auto",
        "the most bytes of one frame of small messages; auto: 16384, where ranks are on several hosts 61440",
    ),
    row(
        "SHOAL_COALESCE_BYTES",
        &[],
        "auto",
        "messages up to this size share frames; auto: 1024, where ranks are on several hosts 16384",
    ),
    row(
        "SHOAL_RING_BYTES",
        &["NCCL_BUFFSIZE"],
        "131072",
        "shared memory per ordered pair of ranks that talk",
    ),
    row(
        "SHOAL_INIT_TIMEOUT",
        &[],
        "120",
        "seconds until a rank that waits for others at birth says who is missing",
    ),
    row("SHOAL_TIMEOUT", &[], "0", "seconds until a wait for data of a live peer is an error; 0: never"),
    row(
        "SHOAL_STALL_SECONDS",
        &[],
        "10",
        "seconds until a wait gets a verdict in the log, then every minute: who is missing, and what it does; 0: never",
    ),
    row("SHOAL_HOSTID", &["NCCL_HOSTID"], "", "ranks with different values count as on different hosts"),
    row("SHOAL_SECRET", &[], "", "the secret that peers prove when NCCL_COMM_ID is used"),
    row(
        "SHOAL_COMM_BLOCKING",
        &["NCCL_COMM_BLOCKING"],
        "auto",
        "1 or 0: every communicator is blocking, or none is; auto: as its config says",
    ),
    row(
        "SHOAL_SECRET_FILE",
        &[],
        "~/.shoal/secret",
        "the file that holds the secret if SHOAL_SECRET is not set; only if it is yours alone (mode 0600)",
    ),
    row("SHOAL_COMM_ID", &["NCCL_COMM_ID"], "", "address:port of rank 0, in place of a unique id"),
    row(
        "SHOAL_SOCKET_IFNAME",
        &["NCCL_SOCKET_IFNAME"],
        "",
        "interfaces for the bootstrap: prefixes, ^ excludes, = exact",
    ),
    row(
        "SHOAL_SOCKET_FAMILY",
        &["NCCL_SOCKET_FAMILY"],
        "",
        "AF_INET or AF_INET6: the bootstrap uses addresses of this family only",
    ),
    row(
        "SHOAL_NET_DEVICES",
        &["UCX_NET_DEVICES"],
        "",
        "devices that UCX may use between hosts; empty: by SHOAL_SOCKET_IFNAME, else all that lead out",
    ),
    row(
        "SHOAL_NETWORK_BYTES",
        &[],
        "4194304",
        "the most bytes under way and unread from one rank to another on another host",
    ),
    row("SHOAL_UCX", &[], "", "path of libucp.so.0, if it lies where the system does not look"),
    row(
        "SHOAL_UCX_LOG_LEVEL",
        &["UCX_LOG_LEVEL"],
        "fatal",
        "what UCX itself writes to standard output: fatal, error, warn, info, debug or more",
    ),
    row("SHOAL_CMA", &[], "auto", "copies between processes without a ring: auto (probed), 0 or 1"),
    row("SHOAL_MAPPED", &[], "1", "0: memory of ncclMemAlloc is treated as ordinary"),
    row(
        "SHOAL_BULK_BYTES",
        &[],
        "auto",
        "packets above this size are copied straight between the user's buffers",
    ),
    row("SHOAL_SPIN", &[], "auto", "how many times a wait looks before it yields; auto: by ranks per core"),
    row(
        "SHOAL_ALGORITHM",
        &["NCCL_ALGO"],
        "",
        "exchange, two-shot, ring, tree, tree4, tree8, double-tree, doubling, rabenseifner, bruck, pairwise, pat, \
         leaders or slices, for every collective that has it",
    ),
    row(
        "SHOAL_TABLE",
        &[],
        "",
        "path of a table of choices, of rank 0 for all ranks; built-in: no file; empty: the user's cache (shoal tune)",
    ),
    row(
        "SHOAL_DETERMINISTIC",
        &[],
        "0",
        "1: reductions have the same bits whatever the algorithm, the size and the hosts",
    ),
    row(
        "SHOAL_RECORDS",
        &[],
        "1024",
        "of how many batches each communicator keeps a record, 64 bytes each, rounded up to a power of two; 0: of none",
    ),
    row(
        "SHOAL_TRACE",
        &[],
        "",
        "a folder in which each rank of each communicator keeps everything it does in a file (docs/trace.md); empty: none",
    ),
    row(
        "SHOAL_TRACE_BYTES",
        &[],
        "1073741824",
        "how long such a file may grow; what comes behind is counted",
    ),
    row(
        "SHOAL_ALTERNATE",
        &[],
        "0",
        "with SHOAL_TRACE, blocks of so many batches leave in frames and message by message in turn, so that shoal report \
         shows what that gains; 0: never",
    ),
    row(
        "SHOAL_METRICS",
        &[],
        "",
        "a folder in which each process keeps a file of its counters, in Prometheus's text form (docs/metrics.md); empty: none",
    ),
    row("SHOAL_METRICS_SECONDS", &[], "10", "how often that file is written anew"),
    row("SHOAL_DEVICE", &[], "auto", "host, cuda or auto"),
];

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, aliases, default, help }
}

/// The settings in force, read once.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each field is explained by its row
pub struct Config {
    pub debug: String,
    pub debug_subsystems: String,
    pub debug_file: String,
    pub debug_timestamp_format: String,
    pub debug_timestamp_levels: String,
    /// `None`: stock's own if there is one.
    pub version: Option<i32>,
    pub nccl: String,
    pub coalesce: bool,
    pub frame_bytes: Option<usize>,
    pub coalesce_bytes: Option<usize>,
    pub ring_bytes: usize,
    pub init_timeout: Duration,
    pub timeout: Option<Duration>,
    /// `None`: never.
    pub stall: Option<Duration>,
    pub host_id: String,
    pub secret: String,
    /// `None`: as each communicator's caller says.
    pub comm_blocking: Option<bool>,
    pub secret_file: String,
    pub comm_id: String,
    pub socket_ifname: String,
    pub socket_family: String,
    pub net_devices: String,
    pub network_bytes: usize,
    pub ucx: String,
    pub ucx_log_level: String,
    /// `None`: probe.
    pub cma: Option<bool>,
    pub mapped: bool,
    /// `None`: measured default.
    pub bulk_bytes: Option<usize>,
    /// `None`: by ranks per core.
    pub spin: Option<u32>,
    pub algorithm: String,
    pub table: String,
    pub deterministic: bool,
    pub records: usize,
    pub trace: String,
    pub trace_bytes: u64,
    pub alternate: u64,
    pub metrics: String,
    pub metrics_seconds: Duration,
    pub device: String,
    /// Names and values that could not be understood, one sentence each; logged once.
    pub complaints: Vec<String>,
    /// What a curious reader should know: files that were read, variables that change nothing.
    pub notes: Vec<String>,
    /// What is in force, row by row of [`SETTINGS`], and who said so.
    pub values: Vec<Value>,
}

impl Config {
    /// Reads every setting through `lookup`, as if it were the environment.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Config {
        let named = |name: &&'static str| Some(((*name).to_owned(), lookup(name)?));
        Config::from_sources(&[Source::environment(names().filter_map(|name| named(&name)))])
    }

    /// Reads every setting from whoever says it first.
    #[must_use]
    pub fn from_sources(sources: &[Source]) -> Config {
        let reader = Reader::new(sources);
        let config = Config {
            debug: reader.text("SHOAL_DEBUG"),
            debug_subsystems: reader.text("SHOAL_DEBUG_SUBSYS"),
            debug_file: reader.text("SHOAL_DEBUG_FILE"),
            debug_timestamp_format: reader.text("SHOAL_DEBUG_TIMESTAMP_FORMAT"),
            debug_timestamp_levels: reader.text("SHOAL_DEBUG_TIMESTAMP_LEVELS"),
            version: reader.auto("SHOAL_VERSION"),
            nccl: reader.text("SHOAL_NCCL"),
            coalesce: reader.number::<u8>("SHOAL_COALESCE") != 0,
            frame_bytes: reader.auto("SHOAL_FRAME_BYTES").map(|bytes: usize| bytes.max(64)),
            coalesce_bytes: reader.auto("SHOAL_COALESCE_BYTES"),
            ring_bytes: reader.within("SHOAL_RING_BYTES", 8192, 1 << 30).next_power_of_two(),
            init_timeout: Duration::from_secs(reader.number("SHOAL_INIT_TIMEOUT")),
            timeout: Some(reader.number("SHOAL_TIMEOUT")).filter(|s| *s > 0).map(Duration::from_secs),
            stall: Some(reader.number("SHOAL_STALL_SECONDS")).filter(|s| *s > 0).map(Duration::from_secs),
            host_id: reader.text("SHOAL_HOSTID"),
            secret: reader.text("SHOAL_SECRET"),
            comm_blocking: reader.auto::<u8>("SHOAL_COMM_BLOCKING").map(|value| value != 0),
            secret_file: reader.text("SHOAL_SECRET_FILE"),
            comm_id: reader.text("SHOAL_COMM_ID"),
            socket_ifname: reader.text("SHOAL_SOCKET_IFNAME"),
            socket_family: reader.text("SHOAL_SOCKET_FAMILY"),
            net_devices: reader.text("SHOAL_NET_DEVICES"),
            network_bytes: reader.within("SHOAL_NETWORK_BYTES", 1 << 19, 1 << 32),
            ucx: reader.text("SHOAL_UCX"),
            ucx_log_level: reader.text("SHOAL_UCX_LOG_LEVEL"),
            cma: reader.auto::<u8>("SHOAL_CMA").map(|v| v != 0),
            mapped: reader.number::<u8>("SHOAL_MAPPED") != 0,
            bulk_bytes: reader.auto("SHOAL_BULK_BYTES"),
            spin: reader.auto("SHOAL_SPIN"),
            algorithm: reader.text("SHOAL_ALGORITHM"),
            table: reader.text("SHOAL_TABLE"),
            deterministic: reader.number::<u8>("SHOAL_DETERMINISTIC") != 0,
            records: reader.number("SHOAL_RECORDS"),
            trace: reader.text("SHOAL_TRACE"),
            trace_bytes: reader.number("SHOAL_TRACE_BYTES"),
            alternate: reader.number("SHOAL_ALTERNATE"),
            metrics: reader.text("SHOAL_METRICS"),
            metrics_seconds: Duration::from_secs(reader.within("SHOAL_METRICS_SECONDS", 1, 86400) as u64),
            device: reader.text("SHOAL_DEVICE"),
            complaints: Vec::new(),
            notes: Vec::new(),
            values: Vec::new(),
        };
        let (values, complaints) = reader.finish();
        let mut config = Config { values, complaints, ..config };
        sources::judge(sources, &mut config);
        config
    }

    /// The settings of this process, read at the first call.
    pub fn get() -> &'static Config {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        CONFIG.get_or_init(Config::fresh)
    }

    /// The settings as they would be read now. What was decided by them before stays.
    #[must_use]
    pub fn fresh() -> Config {
        let (sources, complaints) = sources::gather(&environment());
        let mut config = Config::from_sources(&sources);
        config.complaints.splice(0..0, complaints);
        config
    }

    /// What is in force for the setting of that name or alias, and who said so.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        let row = SETTINGS.iter().position(|row| row.name == name || row.aliases.contains(&name))?;
        self.values.get(row)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::read(|_| None)
    }
}

/// Every name that a setting goes by.
fn names() -> impl Iterator<Item = &'static str> {
    let mapped = foreign::MAPPED.iter().map(|row| row.name);
    SETTINGS.iter().flat_map(|row| std::iter::once(row.name).chain(row.aliases.iter().copied())).chain(mapped)
}

/// The variables of this process that may be meant for this library, and where its files may lie.
fn environment() -> sources::Environment {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_ours = name.starts_with("SHOAL_") || name.starts_with("NCCL_");
        is_ours.then(|| (name, value.to_string_lossy().into_owned()))
    });
    sources::Environment {
        variables: variables.collect(),
        home: std::env::var_os("HOME").map(Into::into),
        system_file: "/etc/nccl.conf".into(),
    }
}

/// Where this user's files of ours lie that can be made again: `$XDG_CACHE_HOME/shoal`, else `~/.cache/shoal`.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    // The specification has it that a relative path does not count.
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("shoal"))
}

/// Whether somebody said what a variable of somebody else should be.
#[must_use]
pub fn is_told(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// A variable that is no setting of ours: what a launcher tells the processes that it starts.
#[must_use]
pub fn told_by_launcher(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_understood() {
        assert_eq!(Config::default().complaints, Vec::<String>::new());
        assert_eq!(Config::default().notes, Vec::<String>::new());
        assert_eq!(Config::default().version, None);
    }

    #[test]
    fn aliases_come_after_names() {
        let config = Config::read(|name| match name {
            "SHOAL_DEBUG" => Some("TRACE".into()),
            "NCCL_DEBUG" => Some("INFO".into()),
            "NCCL_HOSTID" => Some("blue".into()),
            _ => None,
        });
        assert_eq!((config.debug.as_str(), config.host_id.as_str()), ("TRACE", "blue"));
    }

    #[test]
    fn nonsense_is_named_and_the_default_holds() {
        let config = Config::read(|name| (name == "SHOAL_FRAME_BYTES").then(|| "many".into()));
        assert_eq!(config.frame_bytes, None);
        assert!(config.complaints[0].contains("SHOAL_FRAME_BYTES=many"));
    }

    #[test]
    fn what_is_out_of_bounds_is_brought_back_and_told() {
        let config = Config::read(|name| (name == "NCCL_BUFFSIZE").then(|| "0x10".into()));
        assert_eq!(config.ring_bytes, 8192);
        assert!(config.complaints[0].contains("NCCL_BUFFSIZE=0x10"), "{:?}", config.complaints);
        let config = Config::read(|name| (name == "SHOAL_RING_BYTES").then(|| "0x4000".into()));
        assert_eq!((config.ring_bytes, config.complaints.len()), (16384, 0));
    }

    #[test]
    fn who_said_it_is_kept() {
        let config = Config::read(|name| (name == "NCCL_HOSTID").then(|| "blue".into()));
        let value = config.value("SHOAL_HOSTID").unwrap();
        assert_eq!((value.text.as_str(), value.name), ("blue", "NCCL_HOSTID"));
        assert_eq!(value.origin, Some(Origin::Environment));
        let value = config.value("NCCL_DEBUG").unwrap();
        assert_eq!((value.text.as_str(), value.origin.as_ref()), ("WARN", None));
    }

    #[test]
    fn values_of_nccl_become_values_of_settings() {
        let config = Config::read(|name| (name == "NCCL_P2P_DISABLE").then(|| "1".into()));
        assert_eq!((config.cma, config.mapped), (Some(false), false));
        let both = |name: &str| match name {
            "NCCL_P2P_DISABLE" => Some("1".into()),
            "SHOAL_CMA" => Some("1".into()),
            _ => None,
        };
        assert_eq!(Config::read(both).cma, Some(true), "a setting's own name comes first");
        let config = Config::read(|name| (name == "NCCL_P2P_DISABLE").then(|| "0".into()));
        assert_eq!((config.cma, config.mapped), (None, true));
    }

    proptest::proptest! {
        /// Whatever stands there, something holds, and nothing panics.
        #[test]
        fn any_text_is_borne(text in ".{0,40}|[0-9a-zA-Z,;:^=% ]{0,40}", which in 0..SETTINGS.len()) {
            let name = SETTINGS[which].name;
            let config = Config::read(|asked| (asked == name).then(|| text.clone()));
            proptest::prop_assert_eq!(config.values.len(), SETTINGS.len());
            let lines = file::parse("/f", &text);
            let source = Source { path: Some("/f".into()), sayings: lines.sayings };
            proptest::prop_assert!(Config::from_sources(&[source]).ring_bytes >= 8192);
        }
    }
}
