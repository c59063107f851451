//! What the documents say of the code stays true.

use std::collections::BTreeSet;
use std::path::Path;

use shoal::config::{SETTINGS, foreign};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// The insides of the inline code of a document.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = read("README.md");
    for setting in SETTINGS {
        let row = format!("| `{}` |", setting.name);
        let line = readme.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("the README has no row that starts with {row}"));
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[2].trim_matches('`'), setting.default, "{line}");
        for alias in setting.aliases {
            assert!(cells[3].contains(&format!("`{alias}`")), "{alias} is missing: {line}");
        }
    }
}

#[test]
fn the_readme_lists_no_setting_that_is_gone() {
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `SHOAL_")?.split('`').next());
    for name in rows {
        let name = format!("SHOAL_{name}");
        assert!(SETTINGS.iter().any(|setting| setting.name == name), "there is no {name}");
    }
}

/// What becomes of NCCL's variables, as the README shows it.
fn fates() -> String {
    let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut table = "| variables | what becomes of them |\n|---|---|\n".to_owned();
    for row in foreign::MAPPED {
        table += &format!("| `{}={}` | counts as `{}={}` |\n", row.name, row.value, row.setting, row.becomes);
    }
    for row in foreign::IGNORED {
        table += &format!("| {} | ignored: {} |\n", list(row.names), row.reason);
    }
    table
}

#[test]
fn the_readme_says_what_becomes_of_nccls_variables() {
    let readme = read("README.md");
    let after = readme.split_once("<!-- fates -->\n\n").expect("its mark").1;
    let shown = after.split_once("\n<!-- /fates -->").expect("its mark").0;
    let expected = fates();
    assert_eq!(shown, expected, "between the marks the README shall say:\n{expected}");
}

/// What stands in the README between the marks of a name.
fn marked<'a>(readme: &'a str, name: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("<!-- {name} -->")).expect("the README has the marks");
    rest.split_once(&format!("<!-- /{name} -->")).expect("the marks are closed").0
}

/// The records that a text names.
fn records(text: &str) -> impl Iterator<Item = &str> {
    quoted(text).filter(|name| name.starts_with("benches/records/") && name.ends_with(".jsonl"))
}

#[test]
fn the_readmes_figures_are_those_of_the_record_that_it_names() {
    let readme = read("README.md");
    let measured = marked(&readme, "measured");
    let record = records(measured).next().expect("the figures name their record");
    let expected = shoal::cli::plot::table::of(&read(record), "near").expect("the record holds the figures");
    let rows: Vec<_> = measured.lines().filter(|line| line.starts_with('|')).collect();
    let expected: Vec<_> = expected.lines().collect();
    assert_eq!(rows, expected, "shoal plot {record} --table");
}

#[test]
fn the_figures_between_hosts_are_those_of_the_record_that_the_page_names() {
    let page = read("docs/network.md");
    let record = records(&page).next().expect("the page names its record");
    let expected = shoal::cli::plot::hosts::of(&read(record), "near").expect("the record holds the figures");
    assert_eq!(marked(&page, "measured").trim(), expected.trim(), "shoal plot {record} --table");
}

#[test]
fn every_picture_of_the_readme_is_there_and_names_its_record() {
    let readme = read("README.md");
    for picture in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !picture.ends_with(".svg") {
            continue;
        }
        let drawn = read(picture);
        let (_, origin) = drawn.split_once("; record ").expect("a picture names its record");
        let record = format!("benches/records/{}", origin.split('<').next().unwrap());
        assert!(!read(&record).is_empty(), "{picture} is of {record}");
        assert!(records(&readme).any(|name| name == record), "the README names {record} beside {picture}");
    }
}

#[test]
fn what_the_documents_point_to_is_there() {
    const DIRECTORIES: [&str; 9] =
        ["src/", "tests/", "examples/", "scripts/", "make/", "include/", "link/", ".ci/", ".config/"];
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let named =
            quoted(&text).filter(|name| DIRECTORIES.iter().any(|directory| name.starts_with(directory)));
        for path in named.filter(|name| !name.contains(['*', ' ', '{'])) {
            let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            assert!(full.exists(), "{document} names {path}, which is not there");
        }
    }
}

#[test]
fn every_make_target_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut makefiles = read("Makefile");
    for entry in std::fs::read_dir(root.join("make")).unwrap() {
        makefiles += &read(entry.unwrap().path());
    }
    let targets: BTreeSet<_> = makefiles
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let commands =
            text.split('`').chain(text.lines()).filter_map(|part| part.trim().strip_prefix("make "));
        let words = commands.flat_map(|command| command.split('#').next().unwrap_or("").split_whitespace());
        for target in words.take_while(|word| !word.contains('\n')).filter(|word| !word.contains('=')) {
            assert!(targets.contains(target), "{document} says make {target}, which is no target");
        }
    }
}

#[test]
fn scripts_are_well_formed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut scripts = vec![root.join(".ci/run")];
    scripts.extend(std::fs::read_dir(root.join("scripts")).unwrap().map(|entry| entry.unwrap().path()));
    for script in scripts.iter().filter(|path| path.extension().is_none_or(|end| end == "sh")) {
        let parsed = std::process::Command::new("bash").arg("-n").arg(script).output().unwrap();
        assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    }
}

#[test]
fn without_a_card_the_gpu_check_says_so_and_fails() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu_check.py");
    let mut command = std::process::Command::new("python3");
    // An empty list hides every card from the driver, on machines that have one.
    let output = command.arg(script).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.starts_with("gpu-check: "), "{complaint}");
}
