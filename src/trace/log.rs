//! The log, in the line form that people's scripts know: `host:pid:tid [device] NCCL LEVEL text`.
#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use crate::config::Config;

/// How much is said; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// What is wrong.
    Warn,
    /// What was decided.
    Info,
    /// Everything.
    Trace,
}

struct Log {
    level: Level,
    host: String,
    file: Option<File>,
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let config = Config::get();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().to_owned();
        let log = Log { level: level(&config.debug), file: open(&config.debug_file, &host), host };
        for complaint in &config.complaints {
            write(&log, Level::Warn, format_args!("{complaint}"));
        }
        log
    })
}

fn level(text: &str) -> Level {
    match text.trim().to_ascii_uppercase().as_str() {
        "NONE" => Level::None,
        "INFO" | "VERSION" => Level::Info,
        "TRACE" | "ABORT" => Level::Trace,
        _ => Level::Warn,
    }
}

fn open(pattern: &str, host: &str) -> Option<File> {
    if pattern.is_empty() {
        return None;
    }
    let path = pattern.replace("%h", host).replace("%p", &std::process::id().to_string());
    OpenOptions::new().create(true).append(true).open(path).ok()
}

fn write(log: &Log, level: Level, text: Arguments<'_>) {
    let process = std::process::id();
    let word = match level {
        Level::None | Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Trace => "TRACE",
    };
    let line = format!("{}:{process}:{} [0] NCCL {word} {text}\n", log.host, thread_number());
    // A full disk or a closed stream must not stop a job; the line is lost.
    let _ = match &log.file {
        Some(file) => (&mut &*file).write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

fn thread_number() -> u64 {
    thread_local! {
        static NUMBER: u64 = std::fs::read_link("/proc/thread-self")
            .ok()
            .and_then(|path| path.file_name()?.to_str()?.parse().ok())
            .unwrap_or(0);
    }
    NUMBER.with(|number| *number)
}

fn say(level: Level, text: Arguments<'_>) {
    let log = log();
    if level <= log.level {
        write(log, level, text);
    }
}

/// Says what is wrong.
pub fn warn(text: Arguments<'_>) {
    say(Level::Warn, text);
}

/// Says what was decided.
pub fn info(text: Arguments<'_>) {
    say(Level::Info, text);
}

/// Whether details are wanted.
#[must_use]
pub fn traces() -> bool {
    log().level >= Level::Trace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_nccl_reads_them() {
        assert_eq!(level("info"), Level::Info);
        assert_eq!(level("NONE"), Level::None);
        assert_eq!(level("whatever"), Level::Warn);
        assert!(Level::Trace > Level::Warn);
    }
}
