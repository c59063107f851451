//! The log, in the line form that people's scripts know: `host:pid:tid [device] NCCL INFO text`; a warning has
//! the time in front and the place in the source behind the device, as NCCL's has. It goes to standard error
//! unless `NCCL_DEBUG_FILE` says otherwise.
//!
//! What a line is about, which `NCCL_DEBUG_SUBSYS` filters by, follows from the file that says it. Nothing here
//! stops a job: a line that cannot be written is lost. No lock is held while a line is written.
#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::target::Target;
use super::words::{Wishes, subsystem_of};
use crate::config::Config;
use crate::system::calendar;

pub use super::words::Level;

/// How the log is set, and where it goes.
struct Log {
    wishes: Wishes,
    /// Whether somebody asked for a log.
    is_asked_for: bool,
    time_form: String,
    host: String,
    target: Target,
    began: Instant,
}

static LOG: Mutex<Option<Arc<Log>>> = Mutex::new(None);
/// Settings count once; read anew, they count again.
static READINGS: AtomicU32 = AtomicU32::new(0);

/// The lock, if it can be had soon: it is held for a moment only, except in a child that was forked in that
/// very moment, which must not wait for a thread that it has not.
fn lock() -> Option<MutexGuard<'static, Option<Arc<Log>>>> {
    for _ in 0..1000 {
        match LOG.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    None
}

fn log() -> Option<Arc<Log>> {
    let mut guard = lock()?;
    if let Some(log) = &*guard {
        return Some(Arc::clone(log));
    }
    let is_first = READINGS.fetch_add(1, Ordering::Relaxed) == 0;
    let fresh;
    let config = if is_first {
        Config::get()
    } else {
        fresh = Config::fresh();
        &fresh
    };
    let (log, complaints) = open(config);
    let log = Arc::new(log);
    *guard = Some(Arc::clone(&log));
    drop(guard);
    for complaint in complaints.iter().chain(config.complaints.iter().filter(|_| is_first)) {
        log.say(Level::Warn, "src/config.rs", 0, format_args!("{complaint}"));
    }
    for note in config.notes.iter().filter(|_| is_first) {
        log.say(Level::Info, "src/config.rs", 0, format_args!("{note}"));
    }
    Some(log)
}

/// The log that the settings ask for, and what is wrong with them.
fn open(config: &Config) -> (Log, Vec<String>) {
    let mut wishes = Wishes::read(&config.debug, &config.debug_subsystems, &config.debug_timestamp_levels);
    let mut complaints = std::mem::take(&mut wishes.complaints);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().replace(['%', '/'], "-");
    let pattern = if wishes.level > Level::Version { config.debug_file.as_str() } else { "" };
    let target = Target::open(pattern, &host, std::process::id()).unwrap_or_else(|complaint| {
        complaints.push(complaint);
        Target::Error
    });
    let log = Log {
        wishes,
        is_asked_for: config.value("SHOAL_DEBUG").is_some_and(|value| value.origin.is_some()),
        time_form: config.debug_timestamp_format.replace('_', " "),
        host,
        target,
        began: Instant::now(),
    };
    (log, complaints)
}

impl Log {
    fn hears(&self, level: Level, file: &str) -> bool {
        level <= self.wishes.level
            && (level <= Level::Warn || self.wishes.subsystems & subsystem_of(file) != 0)
    }

    fn say(&self, level: Level, file: &str, line: u32, text: Arguments<'_>) {
        if !self.hears(level, file) {
            return;
        }
        let line = self.line(level, file, line, text);
        self.target.write(&line, level <= Level::Warn, |words| {
            let told = self.line(Level::Warn, "src/trace/log.rs", 0, format_args!("{words}"));
            Target::Error.write(&told, true, |_| ());
        });
    }

    fn line(&self, level: Level, file: &str, line: u32, text: Arguments<'_>) -> String {
        let time = match self.wishes.has_time(level) {
            true => calendar::local_time(&self.time_form),
            false => String::new(),
        };
        if level == Level::Version {
            return format!("{time}{text}\n");
        }
        let head = format!("{time}{}:{}:{} [0]", self.host, std::process::id(), thread_number());
        match level {
            Level::Trace => {
                let ms = self.began.elapsed().as_secs_f64() * 1e3;
                format!("{head} {ms:.6} {file}:{line} NCCL TRACE {text}\n")
            }
            Level::Info | Level::Abort => format!("{head} NCCL INFO {text}\n"),
            Level::None | Level::Version | Level::Warn => format!("{head} {file}:{line} NCCL WARN {text}\n"),
        }
    }
}

fn thread_number() -> u64 {
    thread_local! {
        // Of this thread of this process: a forked child's first thread has another number.
        static NUMBER: std::cell::Cell<(u32, u64)> = const { std::cell::Cell::new((0, 0)) };
    }
    let process = std::process::id();
    let look = || {
        let path = std::fs::read_link("/proc/thread-self").ok()?;
        path.file_name()?.to_str()?.parse().ok()
    };
    NUMBER
        .try_with(|known| {
            if known.get().0 != process {
                known.set((process, look().unwrap_or(0)));
            }
            known.get().1
        })
        .unwrap_or(0)
}

#[track_caller]
fn say(level: Level, text: Arguments<'_>) {
    let caller = Location::caller();
    if let Some(log) = log() {
        log.say(level, caller.file(), caller.line(), text);
    }
}

/// Says what is wrong.
#[track_caller]
pub fn warn(text: Arguments<'_>) {
    say(Level::Warn, text);
}

/// Says what was decided.
#[track_caller]
pub fn info(text: Arguments<'_>) {
    say(Level::Info, text);
}

/// Says every step.
#[track_caller]
pub fn trace(text: Arguments<'_>) {
    say(Level::Trace, text);
}

/// Says which library this is, as NCCL does when a communicator's first rank is born and somebody asked for a
/// log.
pub fn version(number: i32) {
    if let Some(log) = log().filter(|log| log.is_asked_for) {
        let (major, minor, patch) = (number / 10000, number / 100 % 100, number % 100);
        let own = env!("CARGO_PKG_VERSION");
        log.say(
            Level::Version,
            file!(),
            line!(),
            format_args!("NCCL version {major}.{minor}.{patch} (Shoal {own})"),
        );
    }
}

/// Writes lines that were asked for by a call, whatever the level.
pub fn dump(lines: &str) {
    if let Some(log) = log() {
        log.target.write(lines, true, |_| ());
    }
}

/// Whether details are wanted.
#[must_use]
pub fn traces() -> bool {
    log().is_some_and(|log| log.wishes.level >= Level::Trace)
}

/// The log's settings are read anew, at the next line.
pub fn reset() {
    if let Some(mut guard) = lock() {
        *guard = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(level: &str, subsystems: &str) -> Log {
        let read = |name: &str| match name {
            "NCCL_DEBUG" => Some(level.to_owned()),
            "NCCL_DEBUG_SUBSYS" => Some(subsystems.to_owned()),
            "NCCL_DEBUG_TIMESTAMP_FORMAT" => Some("at_%Y:_".to_owned()),
            _ => None,
        };
        open(&Config::read(read)).0
    }

    #[test]
    fn lines_have_the_form_that_scripts_know() {
        let log = set("TRACE", "ALL");
        let line = |level| log.line(level, "src/op.rs", 7, format_args!("words"));
        let start = format!("{}:{}:{} [0] ", log.host, std::process::id(), thread_number());
        assert_eq!(line(Level::Info), format!("{start}NCCL INFO words\n"));
        assert_eq!(line(Level::Version), "words\n");
        let warning = line(Level::Warn);
        assert!(warning.starts_with("at 2"), "{warning}");
        assert!(warning.ends_with(&format!(": {start}src/op.rs:7 NCCL WARN words\n")), "{warning}");
        assert!(line(Level::Trace).ends_with("src/op.rs:7 NCCL TRACE words\n"));
    }

    #[test]
    fn levels_and_subsystems_filter() {
        let log = set("INFO", "BOOTSTRAP");
        assert!(log.hears(Level::Info, "src/comm/bootstrap/root.rs"));
        assert!(!log.hears(Level::Info, "src/comm/birth.rs"));
        assert!(log.hears(Level::Warn, "src/comm/birth.rs"), "warnings are never filtered by subject");
        assert!(!log.hears(Level::Trace, "src/comm/bootstrap/root.rs"));
        assert!(!set("NONE", "ALL").hears(Level::Warn, "src/comm/birth.rs"));
        assert!(!set("VERSION", "ALL").hears(Level::Warn, "src/comm/birth.rs"));
    }
}
