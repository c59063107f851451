//! Readers of what others recorded. Each is a pure function from a file to streams; it says what its form loses, and
//! what it cannot read it refuses with the line and the reason.
//!
//! | file | form |
//! |---|---|
//! | `own` | traces of `SHOAL_TRACE` |
//! | `aicb` | AICB's lists of calls (CSV) |
//! | `param` | PARAM's traces of communication (JSON) |
//! | `inspector` | records of NCCL's Inspector (JSON lines) |
//! | `kineto` | traces of PyTorch's profiler (JSON) |
//! | `c10d`, `json` | what PyTorch's operations call; JSON with its lines |
#![forbid(unsafe_code)]

mod aicb;
mod c10d;
mod inspector;
mod json;
mod kineto;
mod own;
mod param;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::script::Stream;
use crate::cli::Failure;
use crate::trace::file::{ENDING, MAGIC};

/// In which form a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Traces of SHOAL_TRACE.
    Shoal,
    /// AICB's lists of calls.
    Aicb,
    /// PARAM's traces, one file for each rank.
    Param,
    /// Records of NCCL's Inspector.
    Inspector,
    /// Traces of PyTorch's profiler, one file for each rank.
    Kineto,
}

/// What was read, and what the form does not say.
#[derive(Debug, Default)]
pub(super) struct Import {
    pub(super) streams: Vec<Stream>,
    pub(super) notes: Vec<String>,
}

/// Reads recordings: files, or folders of traces.
pub(super) fn read(paths: &[PathBuf], form: Option<Form>) -> Result<Import, Failure> {
    let files = crate::cli::report::find(paths)?;
    let Some(first) = files.first() else { return Err(Failure("there is nothing to read".into())) };
    let form = match form {
        Some(form) => form,
        None => guess(first)?,
    };
    if form == Form::Shoal {
        return own::read(&files);
    }
    let mut import = Import::default();
    for path in &files {
        let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let one = match form {
            Form::Shoal => Ok(Import::default()),
            Form::Aicb => aicb::read(&text),
            Form::Param => param::read(&path.to_string_lossy(), &text, files.len()),
            Form::Inspector => inspector::read(&text),
            Form::Kineto => kineto::read(&text),
        }
        .map_err(named)?;
        import.streams.extend(one.streams);
        one.notes.into_iter().for_each(|note| import.note(note));
    }
    Ok(import)
}

impl Import {
    /// What several files lose is said once.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The form of a file, by how it starts.
fn guess(path: &Path) -> Result<Form, Failure> {
    let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
    let mut start = Vec::new();
    let file = File::open(path).map_err(|error| named(error.to_string()))?;
    file.take(4096).read_to_end(&mut start).map_err(|error| named(error.to_string()))?;
    if start.starts_with(&MAGIC.to_le_bytes()) || path.extension().is_some_and(|ending| ending == ENDING) {
        return Ok(Form::Shoal);
    }
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start();
    for (form, starts, holds) in [
        (Form::Aicb, "", "comm_type,comm_group"),
        (Form::Inspector, "{", "\"n_ranks\""),
        (Form::Param, "[", "\"comms\""),
        (Form::Kineto, "{", "\"schemaVersion\""),
        (Form::Kineto, "{", "\"distributedInfo\""),
        (Form::Kineto, "{", "\"traceEvents\""),
    ] {
        if text.starts_with(starts) && text.contains(holds) {
            return Ok(form);
        }
    }
    Err(named("its form is not known by how it starts; name it with --form".into()))
}
