//! `shoal doctor`: what this machine offers, what is wrong with it, and what to do.
//!
//! | file | what it does |
//! |---|---|
//! | [`facts`] | what is known, as plain data |
//! | `gather`, `libraries`, `probe` | ask the system: files, libraries, other processes |
//! | [`mod@diagnose`] | from facts to findings; pure |
//! | `job` | a running job, asked from outside: who waits for whom |
//! | `print` | for people, for programs |

pub mod diagnose;
pub mod facts;
mod gather;
mod job;
mod libraries;
mod print;
mod probe;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::diagnose::{Level, diagnose};
use super::Failure;

/// Says what this machine offers to a job, what is wrong with it, and what to do. The exit code is 1 if a job would
/// fail or would run without this library.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A program of the job: which libnccl would it get?
    pub program: Option<PathBuf>,
    /// Processes of a running job [default: all of this user that have a libnccl loaded]
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,...")]
    pub pid: Vec<u32>,
    /// Of these processes (ranks of a running job, or who started them) only who waits for whom; the exit code is 1 if
    /// somebody waits for longer than SHOAL_STALL_SECONDS
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,...")]
    pub job: Vec<u32>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// The exit code is 1 for warnings too
    #[arg(long)]
    pub strict: bool,
    /// Read the system's files below this folder
    #[arg(long, hide = true)]
    pub root: Option<PathBuf>,
    /// Hold a word for another process to read
    #[arg(long, hide = true)]
    pub hold: bool,
    /// Read a word of another process
    #[arg(long, hide = true)]
    pub read: Option<String>,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object.
    Json,
}

/// Looks, judges, prints; `Ok(false)` if something is wrong.
///
/// # Errors
/// A probe was started wrongly.
pub fn run(options: &Options) -> Result<bool, Failure> {
    if options.hold {
        return probe::hold();
    }
    if let Some(place) = &options.read {
        return probe::read(place);
    }
    if !options.job.is_empty() {
        return job::run(&options.job, options.format);
    }
    let root = gather::Root::new(options.root.as_deref());
    let facts = gather::gather(&root, options.program.as_deref(), &options.pid);
    let findings = diagnose(&facts);
    super::print(&match options.format {
        Format::Text => print::text(&facts, &findings),
        Format::Json => print::json(&facts, &findings),
    })?;
    let worst = if options.strict { Level::Warning } else { Level::Fault };
    Ok(findings.iter().all(|finding| finding.level < worst))
}
