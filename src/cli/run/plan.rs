//! The environment that a job gets, and the sentence that says so.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The variables that a plan looks at.
pub const LOOKED_AT: [&str; 3] = ["LD_PRELOAD", "SHOAL_NCCL", "VLLM_NCCL_SO_PATH"];

/// What is known before.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The library to preload.
    pub library: PathBuf,
    /// Stock NCCL, where the job has one.
    pub stock: Option<PathBuf>,
    /// What this process inherited, of [`LOOKED_AT`].
    pub environment: Vec<(String, String)>,
}

/// What the job gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Variables that are set.
    pub variables: Vec<(&'static str, String)>,
    library: PathBuf,
    displaced: Option<(PathBuf, Option<i32>)>,
}

impl Plan {
    /// Plans; `version_of` tells which NCCL lies in a file.
    pub fn of(facts: &Facts, version_of: impl Fn(&Path) -> Option<i32>) -> Plan {
        let inherited =
            |name| facts.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let library = facts.library.display().to_string();
        let others = inherited("LD_PRELOAD").unwrap_or_default().split([':', ' ']);
        // Another NCCL in front would be the one that is taken.
        let preload: Vec<&str> = std::iter::once(library.as_str())
            .chain(others.filter(|other| !other.is_empty() && *other != library))
            .collect();
        let mut variables = vec![("LD_PRELOAD", preload.join(":"))];
        let named = inherited("SHOAL_NCCL").filter(|path| !path.is_empty()).map(PathBuf::from);
        let displaced = named.clone().or_else(|| facts.stock.clone());
        if let (None, Some(stock)) = (&named, &displaced) {
            variables.push(("SHOAL_NCCL", stock.display().to_string()));
        }
        // vLLM opens this path itself, past what is preloaded.
        if inherited("VLLM_NCCL_SO_PATH").is_some_and(|path| !path.is_empty()) {
            variables.push(("VLLM_NCCL_SO_PATH", library));
        }
        let displaced = displaced.map(|path| {
            let version = version_of(&path);
            (path, version)
        });
        Plan { variables, library: facts.library.clone(), displaced }
    }

    /// What was done, in one line.
    #[must_use]
    pub fn sentence(&self, program: &str) -> String {
        let version = crate::version();
        let instead = match &self.displaced {
            Some((path, Some(number))) => format!("NCCL {} ({})", dotted(*number), path.display()),
            Some((path, None)) => format!("{}, whose version is not known", path.display()),
            None => "whatever NCCL it has".to_owned(),
        };
        format!("starts {program} with Shoal {version} ({}) in place of {instead}", self.library.display())
    }
}

/// 22809 as 2.28.9.
fn dotted(number: i32) -> String {
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

/// The interpreter in the first line of a script; `env` is looked through.
#[must_use]
pub fn interpreter_of(script: &[u8]) -> Option<PathBuf> {
    let line = script.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let first = words.next()?;
    let program = if first.ends_with("/env") { words.find(|word| !word.starts_with('-'))? } else { first };
    program.rsplit('/').next()?.starts_with("python").then(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(environment: &[(&str, &str)], stock: Option<&str>) -> Facts {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Facts {
            library: "/s/libnccl.so.2".into(),
            stock: stock.map(PathBuf::from),
            environment: environment.iter().map(own).collect(),
        }
    }

    #[test]
    fn the_library_comes_first_and_only_once() {
        let plan = Plan::of(&facts(&[("LD_PRELOAD", "/a.so:/s/libnccl.so.2 /b.so")], None), |_| None);
        assert_eq!(plan.variables, [("LD_PRELOAD", "/s/libnccl.so.2:/a.so:/b.so".to_owned())]);
        assert!(plan.sentence("x").ends_with("in place of whatever NCCL it has"));
    }

    #[test]
    fn the_displaced_library_is_named_and_reported() {
        let plan = Plan::of(&facts(&[], Some("/n/libnccl.so.2")), |_| Some(22_809));
        assert_eq!(plan.variables[1], ("SHOAL_NCCL", "/n/libnccl.so.2".to_owned()));
        assert!(plan.sentence("torchrun").starts_with("starts torchrun with Shoal "));
        assert!(
            plan.sentence("torchrun")
                .ends_with("(/s/libnccl.so.2) in place of NCCL 2.28.9 (/n/libnccl.so.2)")
        );
        // What the user named holds.
        let plan = Plan::of(&facts(&[("SHOAL_NCCL", "/u.so")], Some("/n/libnccl.so.2")), |_| None);
        assert_eq!(plan.variables.len(), 1);
        assert!(plan.sentence("x").contains("/u.so, whose version is not known"));
    }

    #[test]
    fn vllms_own_path_leads_here_too() {
        let plan = Plan::of(&facts(&[("VLLM_NCCL_SO_PATH", "/v.so")], None), |_| None);
        assert!(plan.variables.contains(&("VLLM_NCCL_SO_PATH", "/s/libnccl.so.2".to_owned())));
    }

    #[test]
    fn scripts_name_their_interpreter() {
        let of = |text: &str| interpreter_of(text.as_bytes());
        assert_eq!(of("#!/v/bin/python3\nimport x\n"), Some("/v/bin/python3".into()));
        assert_eq!(of("#!/usr/bin/env -S python3 -u\n"), Some("python3".into()));
        assert_eq!(of("#!/bin/sh\n"), None);
        assert_eq!(of("\x7fELF"), None);
    }
}
