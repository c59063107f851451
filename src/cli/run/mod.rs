//! `shoal run`: starts a job with this library preloaded in place of NCCL, and says in one line what it did.
//!
//! | file | what it does |
//! |---|---|
//! | [`plan`] | the environment that the job gets, and the sentence; pure |
//! | `probe.py` | run by the job's own Python: what is installed, and whose library a framework gets |
//! | `check` | `--check`: asks every framework, prints what it says |

mod check;
pub mod plan;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use self::plan::{Facts, Plan};
use super::Failure;
use crate::config::told_by_launcher;

/// What the job's Python is asked.
const PROBE: &str = include_str!("probe.py");

/// Starts a job with the library preloaded in place of NCCL: `shoal run -- torchrun train.py`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only tell whether the job's torch, JAX, cupy and vLLM would take the library, and what to do if not
    #[arg(long)]
    pub check: bool,
    /// Record what stock NCCL does, and do nothing else
    #[arg(long)]
    pub observe: bool,
    /// The library to preload [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// Stock NCCL, whose version is reported [default: what the job's Python has installed]
    #[arg(long, value_name = "FILE")]
    pub nccl: Option<PathBuf>,
    /// Say nothing
    #[arg(long, short)]
    pub quiet: bool,
    /// The job
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Becomes the job; returns only if that failed, or to say what was checked.
///
/// # Errors
/// There is no library, no such program, or what was asked for is not built.
pub fn run(options: &Options) -> Result<bool, Failure> {
    if options.observe {
        return Err(Failure(
            "run --observe: observing stock NCCL is not built yet; leave the option out to run on this library"
                .into(),
        ));
    }
    let library = super::bench::library_path(options.library.as_deref())?;
    let library = std::fs::canonicalize(&library).map_err(|cause| {
        Failure(format!("run: {}: {cause}; name a library with --library", library.display()))
    })?;
    let python = interpreter(&options.command);
    if options.check {
        return check::run(&python, &library);
    }
    let Some((program, arguments)) = options.command.split_first() else {
        return Err(Failure("run: no command; shoal run -- torchrun --nproc-per-node 2 train.py".into()));
    };
    let facts = Facts {
        library,
        stock: options.nccl.clone().or_else(|| ask(&python, "stock").map(PathBuf::from)),
        environment: inherited(),
    };
    let plan = Plan::of(&facts, |path| crate::stock::version_of(path).ok());
    if !options.quiet {
        eprintln!("shoal run: {}", plan.sentence(program));
    }
    let cause = Command::new(program).args(arguments).envs(plan.variables).exec();
    Err(Failure(format!("run: {program}: {cause}")))
}

/// What this process inherited of the variables that a plan looks at.
fn inherited() -> Vec<(String, String)> {
    plan::LOOKED_AT.iter().filter_map(|name| Some(((*name).to_owned(), told_by_launcher(name)?))).collect()
}

/// The Python that a job would run with: the program itself, what stands in the first line of its script, or the
/// one that the system finds.
fn interpreter(command: &[String]) -> PathBuf {
    let usual = PathBuf::from("python3");
    let Some(program) = command.first() else { return usual };
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with("python") {
        return program.into();
    }
    let found = find(program).and_then(|path| std::fs::read(path).ok());
    found.and_then(|bytes| plan::interpreter_of(&bytes)).unwrap_or(usual)
}

/// Where the system finds a program.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
    let path = told_by_launcher("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What the probe prints, if it prints something.
fn ask(python: &Path, question: &str) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-c", PROBE, question]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_the_one_of_the_job() {
        let of = |program: &str| interpreter(&[program.to_owned()]);
        assert_eq!(of("/opt/venv/bin/python3.12"), Path::new("/opt/venv/bin/python3.12"));
        assert_eq!(of("/no/such/script"), Path::new("python3"));
        assert_eq!(interpreter(&[]), Path::new("python3"));
    }
}
