//! The counters of all communicators of this process as a file in Prometheus's text form, written anew every few seconds
//! (`SHOAL_METRICS`): what the textfile collector of the node exporter reads. Off by default; then there is no thread.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::engine::counts::Counter;
use crate::engine::driver::Endpoint;
use crate::system::{fork, thread};
use crate::trace::log;

/// One rank of a communicator, as it is labelled.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) communicator: u128,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) host: String,
}

/// Whose counters are told.
#[derive(Default)]
struct Told {
    /// In which generation of forks the thread runs, and into which file it writes.
    writer: Option<(u32, PathBuf)>,
    all: Vec<(Label, Weak<Endpoint>)>,
}

static TOLD: Mutex<Told> = Mutex::new(Told { writer: None, all: Vec::new() });

/// Whoever holds the lock holds it shortly; but in a child of a fork perhaps for ever.
fn told() -> Option<MutexGuard<'static, Told>> {
    for _ in 0..1000 {
        match TOLD.try_lock() {
            Ok(told) => return Some(told),
            Err(TryLockError::Poisoned(told)) => return Some(told.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    None
}

/// From now on the counters of this one are told as well, if that is wanted.
pub(super) fn tell(label: Label, endpoint: &Arc<Endpoint>, config: &Config) {
    if config.metrics.is_empty() {
        return;
    }
    let Some(mut told) = told() else {
        log::warn(format_args!("no counters are written: this process was forked while they were"));
        return;
    };
    let generation = fork::generation();
    if told.writer.as_ref().is_none_or(|(since, _)| *since != generation) {
        let path = Path::new(&config.metrics).join(format!("shoal-{}.prom", std::process::id()));
        told.all.clear();
        told.writer = Some((generation, path.clone()));
        let pause = config.metrics_seconds;
        if let Err(error) = thread::spawn("shoal-metrics", move || write_on(&path, pause)) {
            log::warn(format_args!("no counters are written: {error}"));
        }
    }
    told.all.push((label, Arc::downgrade(endpoint)));
}

/// The process ends: what is over is not told any more.
pub(super) fn end() {
    if let Some((generation, path)) = told().and_then(|mut told| told.writer.take())
        && generation == fork::generation()
    {
        let _ = std::fs::remove_file(path);
    }
}

fn write_on(path: &Path, pause: Duration) {
    let mut has_warned = false;
    loop {
        let live: Vec<_> = {
            let Some(mut told) = told() else { return };
            told.all.retain(|(_, endpoint)| endpoint.strong_count() > 0);
            told.all
                .iter()
                .filter_map(|(label, endpoint)| Some((label.clone(), endpoint.upgrade()?)))
                .collect()
        };
        let counted: Vec<_> =
            live.iter().map(|(label, endpoint)| (label.clone(), endpoint.counters())).collect();
        // Whoever destroys a communicator waits for nothing here.
        drop(live);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = text(&counted, since_1970.as_secs());
        // Readers see the whole or the one before.
        let part = path.with_extension("part");
        let mut written = std::fs::write(&part, text);
        let told = told();
        if told.as_ref().is_none_or(|told| told.writer.is_none()) {
            let _ = std::fs::remove_file(part);
            return;
        }
        written = written.and_then(|()| std::fs::rename(&part, path));
        drop(told);
        if let Err(error) = written
            && !has_warned
        {
            has_warned = true;
            log::warn(format_args!("SHOAL_METRICS: {} cannot be written: {error}", path.display()));
        }
        std::thread::sleep(pause);
    }
}

/// Everything in Prometheus's text form. Pure.
fn text(counted: &[(Label, Vec<Counter>)], now_s: u64) -> String {
    let mut names: Vec<&str> = Vec::new();
    for counter in counted.iter().flat_map(|(_, counters)| counters) {
        let name = counter.name.to_str().unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "# TYPE shoal_{name}_total counter");
        for (label, counters) in counted {
            let Label { communicator, rank, ranks, host } = label;
            for counter in counters.iter().filter(|counter| counter.name.to_str() == Ok(name)) {
                let host: String = host.chars().filter(|letter| !"\\\"\n".contains(*letter)).collect();
                let _ = writeln!(
                    text,
                    "shoal_{name}_total{{communicator=\"{:016x}\",rank=\"{rank}\",ranks=\"{ranks}\",host=\"{host}\"}} {}",
                    *communicator as u64, counter.value
                );
            }
        }
    }
    let process = std::process::id();
    let _ = writeln!(
        text,
        "# TYPE shoal_written_seconds gauge\nshoal_written_seconds{{process=\"{process}\"}} {now_s}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_by_name_and_labelled() {
        let label = |rank| Label { communicator: 7 << 64 | 0xab, rank, ranks: 2, host: "a\"b".into() };
        let counters =
            |value| vec![Counter { name: c"frames", value }, Counter { name: c"message_bytes", value: 9 }];
        let text = text(&[(label(0), counters(3)), (label(1), counters(4))], 55);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "# TYPE shoal_frames_total counter",
                "shoal_frames_total{communicator=\"00000000000000ab\",rank=\"0\",ranks=\"2\",host=\"ab\"} 3",
                "shoal_frames_total{communicator=\"00000000000000ab\",rank=\"1\",ranks=\"2\",host=\"ab\"} 4",
            ]
        );
        assert!(
            lines[3] == "# TYPE shoal_message_bytes_total counter" && lines[7].ends_with("} 55"),
            "{text}"
        );
    }
}
