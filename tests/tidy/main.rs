//! Style as a test. The rules are data, in `rules.rs`; each is proved by examples that it must catch.

mod rules;
mod scan;

use std::collections::HashMap;

use rules::{EDGES, FILE_LINES, FUNCTION_LINES, LONGER, PURE, RULES};
use scan::{File, functions, repository};

#[test]
fn the_repository_is_tidy() {
    let files = repository();
    assert!(files.len() > 40, "only {} files were found", files.len());
    let mut findings = Vec::new();
    for rule in RULES {
        for file in &files {
            for (line, what) in (rule.check)(file) {
                findings.push(format!("{}:{line}: {what} ({}: {})", file.path, rule.name, rule.why));
            }
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn every_rule_catches_what_it_forbids_and_nothing_else() {
    for rule in RULES {
        assert!(!rule.caught.is_empty() && !rule.passed.is_empty(), "{} has no examples", rule.name);
        for (path, text) in rule.caught {
            assert!(
                !(rule.check)(&File::new(path, text)).is_empty(),
                "{}: missed in {path}: {text}",
                rule.name
            );
        }
        for (path, text) in rule.passed {
            assert_eq!((rule.check)(&File::new(path, text)), [], "{}: {path}: {text}", rule.name);
        }
    }
}

#[test]
fn what_may_be_longer_still_is() {
    let files = repository();
    for row in LONGER {
        let file = files.iter().find(|file| file.path == row.path);
        let (lines, usual) = if row.function.is_empty() {
            (file.map(|file| file.text.lines().count()), FILE_LINES)
        } else {
            let found = file.map(|file| functions(&file.code)).unwrap_or_default();
            (found.iter().find(|f| f.name == row.function).map(|f| f.lines), FUNCTION_LINES)
        };
        assert!(
            lines.is_some_and(|lines| lines > usual),
            "{} {} needs no entry any more",
            row.path,
            row.function
        );
    }
}

#[test]
fn pure_modules_forbid_unsafe() {
    let files: HashMap<_, _> = repository().into_iter().map(|file| (file.path.clone(), file)).collect();
    let missing = unforbidden(&files);
    assert!(missing.is_empty(), "neither these nor their parents forbid unsafe code: {missing:?}");
}

#[test]
fn a_pure_module_that_does_not_forbid_unsafe_is_caught() {
    let tree = |files: &[(&str, &str)]| -> HashMap<String, File> {
        files.iter().map(|(path, text)| ((*path).to_owned(), File::new(path, text))).collect()
    };
    let bare = tree(&[("src/op.rs", "fn a() {}"), ("src/tune/mod.rs", "//! nothing yet")]);
    assert_eq!(unforbidden(&bare), ["src/op.rs"]);
    let covered = tree(&[
        ("src/tune/mod.rs", "#![forbid(unsafe_code)]\nmod table;"),
        ("src/tune/table.rs", "fn a() {}"),
    ]);
    assert!(unforbidden(&covered).is_empty());
    let commented = tree(&[("src/op.rs", "// #![forbid(unsafe_code)]\nfn a() {}")]);
    assert_eq!(unforbidden(&commented), ["src/op.rs"]);
}

/// The files of pure modules that are not covered by a `forbid`.
fn unforbidden(files: &HashMap<String, File>) -> Vec<&str> {
    let says = |path: &str| files.get(path).is_some_and(|file| file.code.contains("#![forbid(unsafe_code)]"));
    let covered = |path: &str| {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        says(path)
            || above.into_iter().any(|above| says(&format!("{above}/mod.rs")) || says(&format!("{above}.rs")))
    };
    let mut missing: Vec<_> = files
        .values()
        .filter(|file| file.is_source() && file.is_in(PURE) && !file.shipped.trim().is_empty())
        .map(|file| file.path.as_str())
        .filter(|path| !covered(path))
        .collect();
    missing.sort_unstable();
    missing
}

#[test]
fn the_edges_between_modules_have_no_circle() {
    assert_eq!(circle(EDGES), None);
    assert!(circle(&[("a", &["b"]), ("b", &["a"])]).is_some());
}

/// What is left when everything is taken away that stands only on what was taken away before.
fn circle(edges: &[(&str, &[&str])]) -> Option<Vec<String>> {
    let mut left: Vec<_> = edges.iter().collect();
    loop {
        let names: Vec<_> = left.iter().map(|(name, _)| *name).collect();
        let before = left.len();
        left.retain(|(_, mentioned)| mentioned.iter().any(|name| names.contains(name)));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(names.into_iter().map(str::to_owned).collect());
        }
    }
}
