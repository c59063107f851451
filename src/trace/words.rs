//! The log's own words: levels, subsystems, and the settings that name them.
#![forbid(unsafe_code)]

/// How much is said; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    None,
    /// Which library this is.
    Version,
    /// What is wrong.
    Warn,
    /// What was decided.
    Info,
    /// As `Info`; NCCL has it between.
    Abort,
    /// Everything.
    Trace,
}

const LEVELS: [(&str, Level); 7] = [
    ("NONE", Level::None),
    ("VERSION", Level::Version),
    ("WARN", Level::Warn),
    ("ATTN", Level::Warn),
    ("INFO", Level::Info),
    ("ABORT", Level::Abort),
    ("TRACE", Level::Trace),
];

impl Level {
    /// The level of that name, in letters of either case.
    #[must_use]
    pub fn named(name: &str) -> Option<Level> {
        let name = name.trim();
        LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// NCCL's names for what a line is about. All of them can be asked for, whether or not something here speaks
/// of it.
pub(super) const SUBSYSTEMS: [&str; 18] = [
    "INIT",
    "COLL",
    "P2P",
    "SHM",
    "NET",
    "GRAPH",
    "TUNING",
    "ENV",
    "ALLOC",
    "CALL",
    "PROXY",
    "NVLS",
    "BOOTSTRAP",
    "REG",
    "PROFILE",
    "RAS",
    "DESTROY",
    "ALLOC_HOST",
];

/// The subsystem of a source file: who speaks says of what. The first that fits.
const ROOMS: [(&str, &str); 11] = [
    ("src/config", "ENV"),
    ("src/comm/bootstrap", "BOOTSTRAP"),
    ("src/comm", "INIT"),
    ("src/transport/shm", "SHM"),
    ("src/transport", "NET"),
    ("src/topology", "GRAPH"),
    ("src/tune", "TUNING"),
    ("src/schedule", "TUNING"),
    ("src/system", "ALLOC_HOST"),
    ("src/engine", "COLL"),
    ("src/abi", "CALL"),
];

/// The bit of the subsystem that `file` belongs to.
pub(super) fn subsystem_of(file: &str) -> u32 {
    let name = ROOMS.iter().find(|(room, _)| file.starts_with(room)).map_or("INIT", |(_, name)| name);
    bit_of(name).unwrap_or(u32::MAX)
}

/// The bits of a subsystem; all of them for `ALL`.
pub(super) fn bit_of(name: &str) -> Option<u32> {
    if name.eq_ignore_ascii_case("ALL") {
        return Some(u32::MAX);
    }
    SUBSYSTEMS.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|index| 1 << index)
}

/// A list of names as a set of bits, and the names that nobody knows. `^` in front means all but these.
fn set(text: &str, bits: impl Fn(&str) -> Option<u32>) -> (u32, Vec<String>) {
    let text = text.trim();
    let (list, is_negated) = text.strip_prefix('^').map_or((text, false), |list| (list, true));
    let mut found = 0;
    let mut unknown = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match bits(name) {
            Some(bit) => found |= bit,
            None => unknown.push(name.to_owned()),
        }
    }
    (if is_negated { !found } else { found }, unknown)
}

/// How the log is set, understood; and what was not, as sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) level: Level,
    pub(super) subsystems: u32,
    timed_levels: u32,
    pub(super) complaints: Vec<String>,
}

impl Wishes {
    pub(super) fn read(level: &str, subsystems: &str, timed_levels: &str) -> Wishes {
        let mut complaints = Vec::new();
        let known = Level::named(level).unwrap_or_else(|| {
            if !level.trim().is_empty() {
                complaints.push(format!(
                    "NCCL_DEBUG={level} is no level; using WARN; NONE, VERSION, WARN, INFO, ABORT and TRACE are levels"
                ));
            }
            Level::Warn
        });
        let (mut bits, unknown) = set(subsystems, bit_of);
        if !unknown.is_empty() {
            complaints.push(format!(
                "NCCL_DEBUG_SUBSYS={subsystems} names {}, which NCCL has not; it has {} and ALL",
                unknown.join(", "),
                SUBSYSTEMS.join(", ")
            ));
        }
        // Nothing understood is not a wish for silence.
        if bits == 0 {
            bits = set("INIT,BOOTSTRAP,ENV", bit_of).0;
        }
        let level_bits = |name: &str| match Level::named(name) {
            _ if name.eq_ignore_ascii_case("ALL") => Some(u32::MAX),
            level => level.map(Level::bit),
        };
        let (timed_levels, unknown) = set(timed_levels, level_bits);
        if !unknown.is_empty() {
            complaints.push(format!(
                "NCCL_DEBUG_TIMESTAMP_LEVELS names {}, which is no level; VERSION, WARN, INFO, ABORT, TRACE and ALL are",
                unknown.join(", ")
            ));
        }
        Wishes { level: known, subsystems: bits, timed_levels, complaints }
    }

    pub(super) fn has_time(&self, level: Level) -> bool {
        self.timed_levels & level.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_nccl_reads_them() {
        assert_eq!(Level::named("info"), Some(Level::Info));
        assert_eq!(Level::named(" NONE "), Some(Level::None));
        assert_eq!(Level::named("whatever"), None);
        assert!(Level::None < Level::Version && Level::Version < Level::Warn);
        assert!(Level::Info < Level::Abort && Level::Abort < Level::Trace);
    }

    #[test]
    fn subsystems_are_listed_or_left_out() {
        let read = |text: &str| Wishes::read("INFO", text, "");
        let bit = |name| bit_of(name).unwrap();
        assert_eq!(read("init,COLL").subsystems, bit("INIT") | bit("COLL"));
        assert_eq!(read("ALL").subsystems, u32::MAX);
        assert_eq!(read("^NET,shm").subsystems, !(bit("NET") | bit("SHM")));
        assert_eq!(read("").subsystems, bit("INIT") | bit("BOOTSTRAP") | bit("ENV"));
        let odd = read("NETT,COLL");
        assert_eq!(odd.subsystems, bit("COLL"));
        assert!(odd.complaints[0].contains("names NETT, which NCCL has not"), "{:?}", odd.complaints);
    }

    #[test]
    fn unknown_levels_are_told() {
        let odd = Wishes::read("LOUD", "ALL", "WARN,LATE");
        assert_eq!(odd.level, Level::Warn);
        assert!(odd.complaints[0].contains("NCCL_DEBUG=LOUD is no level; using WARN"));
        assert!(odd.complaints[1].contains("names LATE"));
        assert!(odd.has_time(Level::Warn) && !odd.has_time(Level::Info));
        assert!(Wishes::read("INFO", "ALL", "^TRACE").has_time(Level::Info));
        assert_eq!(Wishes::read("", "", "").complaints, Vec::<String>::new());
    }

    #[test]
    fn files_speak_of_their_own_affairs() {
        for (file, name) in [
            ("src/comm/bootstrap/root.rs", "BOOTSTRAP"),
            ("src/comm/birth.rs", "INIT"),
            ("src/config.rs", "ENV"),
            ("src/transport/shm/mod.rs", "SHM"),
            ("src/elsewhere.rs", "INIT"),
        ] {
            assert_eq!(Some(subsystem_of(file)), bit_of(name), "{file}");
        }
    }
}
