//! Where lines go. Nothing that goes wrong here stops a job; it is said once on standard error.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{stderr, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::system::say;

/// Where the log goes.
#[derive(Debug)]
pub(super) enum Target {
    /// Standard error.
    Error,
    /// Standard output.
    Output,
    /// A file, by its path.
    File { path: String, file: File, has_failed: AtomicBool },
}

impl Target {
    /// Opens what `pattern` names, or says why not. What was there stays: several processes may share a file.
    pub(super) fn open(pattern: &str, host: &str, process: u32) -> Result<Target, String> {
        let path = expand(pattern, host, process);
        match path.as_str() {
            "" | "/dev/stderr" => return Ok(Target::Error),
            "/dev/stdout" => return Ok(Target::Output),
            _ => {}
        }
        // A pipe without a reader must not keep us waiting.
        let opened = OpenOptions::new().create(true).append(true).custom_flags(libc::O_NONBLOCK).open(&path);
        match opened {
            Ok(file) => Ok(Target::File { path, file, has_failed: AtomicBool::new(false) }),
            Err(cause) => Err(format!(
                "the log file {path} (NCCL_DEBUG_FILE) cannot be opened: {cause}; the log goes to standard error"
            )),
        }
    }

    /// Writes a line, or loses it. `is_weighty` lines go to standard error when their file takes no more;
    /// `mourn` is called once, when that begins.
    pub(super) fn write(&self, line: &str, is_weighty: bool, mourn: impl FnOnce(String)) {
        let outcome = match self {
            Target::Error => say::line(stderr().as_fd(), line.as_bytes()),
            Target::Output => say::line(stdout().as_fd(), line.as_bytes()),
            Target::File { file, .. } => say::line(file.as_fd(), line.as_bytes()),
        };
        if let (Err(cause), Target::File { path, has_failed, .. }) = (outcome, self) {
            if !has_failed.swap(true, Ordering::Relaxed) {
                mourn(format!(
                    "the log file {path} (NCCL_DEBUG_FILE) takes no more: {cause}; warnings go to standard error"
                ));
            }
            if is_weighty {
                let _ = say::line(stderr().as_fd(), line.as_bytes());
            }
        }
    }
}

/// `%h` is the host, `%p` the process, `%%` a percent sign; anything else is as it stands.
fn expand(pattern: &str, host: &str, process: u32) -> String {
    let mut path = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            path.push(letter);
            continue;
        }
        match letters.next() {
            Some('h') => path.push_str(host),
            Some('p') => path.push_str(&process.to_string()),
            Some('%') | None => path.push('%'),
            Some(other) => path.extend(['%', other]),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_made_of_host_and_process() {
        assert_eq!(expand("/tmp/log.%h.%p.%%p%q%", "blue", 7), "/tmp/log.blue.7.%p%q%");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told() {
        let told = Target::open("/proc/nowhere/%h", "blue", 7).unwrap_err();
        assert!(told.starts_with("the log file /proc/nowhere/blue (NCCL_DEBUG_FILE) cannot be opened: "));
        assert!(Target::open("/dev", "", 7).is_err());
        assert!(matches!(Target::open("/dev/stdout", "", 7), Ok(Target::Output)));
        assert!(matches!(Target::open("", "", 7), Ok(Target::Error)));
    }

    #[test]
    fn a_full_disk_is_told_once() {
        let target = Target::open("/dev/full", "", 7).unwrap();
        let mut told = Vec::new();
        for _ in 0..3 {
            target.write("line\n", false, |words| told.push(words));
        }
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("/dev/full (NCCL_DEBUG_FILE) takes no more: No space"), "{told:?}");
    }
}
