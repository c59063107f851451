//! The one table of settings. No other file reads the environment.
//!
//! A setting is a row of [`SETTINGS`]: its name, what it is when nobody says, and what it does. `NCCL_*`
//! variables that mean the same are its aliases.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::time::Duration;

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
    row("SHOAL_DEBUG", &["NCCL_DEBUG"], "WARN", "how much is logged: NONE, WARN, INFO or TRACE"),
    row(
        "SHOAL_DEBUG_FILE",
        &["NCCL_DEBUG_FILE"],
        "",
        "where the log goes instead of standard error (%h host, %p process)",
    ),
    row("SHOAL_VERSION", &[], "22809", "what ncclGetVersion reports"),
    row("SHOAL_COALESCE", &[], "1", "0: every point-to-point message is a packet of its own"),
    row("SHOAL_FRAME_BYTES", &[], "16384", "the most bytes of one frame of small messages"),
    row("SHOAL_COALESCE_BYTES", &[], "1024", "messages up to this size share frames"),
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
        "SHOAL_WARN_AFTER",
        &[],
        "10",
        "seconds until a long wait is logged, with the operation and the missing peers",
    ),
    row("SHOAL_HOSTID", &["NCCL_HOSTID"], "", "ranks with different values count as on different hosts"),
    row("SHOAL_SECRET", &[], "", "the secret that peers prove when NCCL_COMM_ID is used"),
    row(
        "SHOAL_SECRET_FILE",
        &[],
        "~/.shoal/secret",
        "the file that holds the secret if SHOAL_SECRET is not set; only if it is yours alone (mode 0600)",
    ),
    row(
        "SHOAL_COMM_BLOCKING",
        &["NCCL_COMM_BLOCKING"],
        "auto",
        "1 or 0: every communicator is blocking, or none is; auto: as its config says",
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
        "exchange, ring, tree or pairwise, for every collective that has it",
    ),
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
    pub debug_file: String,
    pub version: i32,
    pub coalesce: bool,
    pub frame_bytes: usize,
    pub coalesce_bytes: usize,
    pub ring_bytes: usize,
    pub init_timeout: Duration,
    pub timeout: Option<Duration>,
    pub warn_after: Duration,
    pub host_id: String,
    pub secret: String,
    pub secret_file: String,
    /// `None`: as each communicator's caller says.
    pub comm_blocking: Option<bool>,
    pub comm_id: String,
    pub socket_ifname: String,
    pub socket_family: String,
    /// `None`: probe.
    pub cma: Option<bool>,
    pub mapped: bool,
    /// `None`: measured default.
    pub bulk_bytes: Option<usize>,
    /// `None`: by ranks per core.
    pub spin: Option<u32>,
    pub algorithm: String,
    pub device: String,
    /// Values that could not be understood, one sentence each; logged once.
    pub complaints: Vec<String>,
}

impl Config {
    /// Reads every setting through `lookup`.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Config {
        let reader = Reader { lookup: &lookup, complaints: Vec::new().into() };
        let config = Config {
            debug: reader.text("SHOAL_DEBUG"),
            debug_file: reader.text("SHOAL_DEBUG_FILE"),
            version: reader.number("SHOAL_VERSION"),
            coalesce: reader.number::<u8>("SHOAL_COALESCE") != 0,
            frame_bytes: reader.number::<usize>("SHOAL_FRAME_BYTES").max(64),
            coalesce_bytes: reader.number("SHOAL_COALESCE_BYTES"),
            ring_bytes: reader.number::<usize>("SHOAL_RING_BYTES").clamp(8192, 1 << 30).next_power_of_two(),
            init_timeout: Duration::from_secs(reader.number("SHOAL_INIT_TIMEOUT")),
            timeout: Some(reader.number("SHOAL_TIMEOUT")).filter(|s| *s > 0).map(Duration::from_secs),
            warn_after: Duration::from_secs(reader.number("SHOAL_WARN_AFTER")),
            host_id: reader.text("SHOAL_HOSTID"),
            secret: reader.text("SHOAL_SECRET"),
            secret_file: reader.text("SHOAL_SECRET_FILE"),
            comm_blocking: reader.auto::<u8>("SHOAL_COMM_BLOCKING").map(|value| value != 0),
            comm_id: reader.text("SHOAL_COMM_ID"),
            socket_ifname: reader.text("SHOAL_SOCKET_IFNAME"),
            socket_family: reader.text("SHOAL_SOCKET_FAMILY"),
            cma: reader.auto::<u8>("SHOAL_CMA").map(|v| v != 0),
            mapped: reader.number::<u8>("SHOAL_MAPPED") != 0,
            bulk_bytes: reader.auto("SHOAL_BULK_BYTES"),
            spin: reader.auto("SHOAL_SPIN"),
            algorithm: reader.text("SHOAL_ALGORITHM"),
            device: reader.text("SHOAL_DEVICE"),
            complaints: Vec::new(),
        };
        Config { complaints: reader.complaints.into_inner(), ..config }
    }

    /// The settings of this process, read at the first call.
    pub fn get() -> &'static Config {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        CONFIG.get_or_init(|| Config::read(|name| std::env::var(name).ok()))
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::read(|_| None)
    }
}

/// A variable that is no setting of ours: what a launcher tells the processes that it starts.
#[must_use]
pub fn told_by_launcher(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    complaints: std::cell::RefCell<Vec<String>>,
}

impl Reader<'_> {
    fn row(name: &str) -> &'static Setting {
        SETTINGS.iter().find(|row| row.name == name).expect("every setting has its row")
    }

    fn text(&self, name: &str) -> String {
        let row = Self::row(name);
        std::iter::once(&row.name)
            .chain(row.aliases)
            .find_map(|name| (self.lookup)(name))
            .unwrap_or_else(|| row.default.to_owned())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> T {
        let text = self.text(name);
        if let Ok(value) = text.trim().parse() {
            return value;
        }
        let default = Self::row(name).default;
        self.complaints
            .borrow_mut()
            .push(format!("{name}={text} is not a number it can take; using {default}"));
        default.parse().ok().expect("defaults parse")
    }

    fn auto<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        let text = self.text(name);
        if text.trim() == "auto" {
            return None;
        }
        let value = text.trim().parse().ok();
        if value.is_none() {
            self.complaints
                .borrow_mut()
                .push(format!("{name}={text} is neither auto nor a number; using auto"));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_understood() {
        assert_eq!(Config::default().complaints, Vec::<String>::new());
        assert_eq!(Config::default().version, 22809);
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
        assert_eq!(config.frame_bytes, 16384);
        assert!(config.complaints[0].contains("SHOAL_FRAME_BYTES=many"));
    }
}
