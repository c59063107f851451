//! `--check`: every framework that the job's Python has is loaded with the library in front, in a process of its
//! own, and says whose NCCL it got.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::PROBE;
use crate::cli::{Failure, print};

const FRAMEWORKS: [&str; 4] = ["torch", "cupy", "jax", "vllm"];

/// Prints a line for each; `Ok(false)` if one of them would not take the library, or none is there.
pub(super) fn run(python: &Path, library: &Path) -> Result<bool, Failure> {
    print(&format!("python: {}\nlibrary: {}\n", python.display(), library.display()))?;
    let (mut taken_count, mut is_well) = (0, true);
    for framework in FRAMEWORKS {
        let Verdict { takes, text } = ask(python, library, framework)?;
        taken_count += usize::from(takes == Some(true));
        is_well &= takes != Some(false);
        print(&format!("{framework}: {text}\n"))?;
    }
    if is_well && taken_count == 0 {
        print(
            "nothing here would take the library; name the job's Python: shoal run --check -- /path/to/python\n",
        )?;
    }
    Ok(is_well && taken_count > 0)
}

/// What one framework says; `takes` is `None` where it is not there or not known.
struct Verdict {
    takes: Option<bool>,
    text: String,
}

fn ask(python: &Path, library: &Path, framework: &str) -> Result<Verdict, Failure> {
    let mut command = Command::new(python);
    command.args(["-c", PROBE, framework]).arg(library);
    command.env("LD_PRELOAD", library).env("LD_BIND_NOW", "1").stdin(Stdio::null());
    let output =
        command.output().map_err(|cause| Failure(format!("run --check: {}: {cause}", python.display())))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    Ok(match last {
        Some(value) => Verdict {
            takes: value["takes"].as_bool(),
            text: value["text"].as_str().unwrap_or("it said nothing").to_owned(),
        },
        None => {
            let problem = String::from_utf8_lossy(&output.stderr);
            let line = problem.lines().last().unwrap_or("no word").to_owned();
            Verdict {
                takes: Some(false),
                text: format!("fails with the library in front ({}): {line}", output.status),
            }
        }
    })
}
