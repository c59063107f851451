//! The Python package with the library that was built here. What needs torch is run by `scripts/torch_check.sh`,
//! which says so where torch is not there.

#[path = "common/built.rs"]
mod built;

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder laid out as an installation is.
fn home(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    for (source, name) in [
        (built::library(), "lib/libnccl.so.2"),
        (env!("CARGO_BIN_EXE_shoal").into(), "bin/shoal"),
        (root().join("include/nccl.h"), "include/nccl.h"),
    ] {
        let place = folder.join(name);
        std::fs::create_dir_all(place.parent().expect("it has a folder")).expect("the target folder is ours");
        std::os::unix::fs::symlink(std::fs::canonicalize(source).expect("it exists"), place)
            .expect("a new link");
    }
    folder
}

/// What a Python with the package prints.
fn python(home: &Path, words: &[&str]) -> (bool, String) {
    let mut command = Command::new("timeout");
    command
        .args(["60", "python3"])
        .args(words)
        .env("PYTHONPATH", root().join("python"))
        .env("SHOAL_HOME", home);
    // The sources are not the place for compiled files.
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python3 is there");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_package_finds_what_it_carries() {
    let home = home("finds");
    let program = "import shoal; print(shoal.library(), shoal.command(), shoal.include())";
    let (is_well, said) = python(&home, &["-c", program]);
    assert!(is_well, "{said}");
    let paths: Vec<_> = said.split_whitespace().map(Path::new).collect();
    assert_eq!(paths, [home.join("lib/libnccl.so.2"), home.join("bin/shoal"), home.join("include")]);
}

#[test]
fn what_is_not_there_is_named_with_the_remedy() {
    let (is_well, said) = python(Path::new("/no/such/folder"), &["-c", "import shoal; shoal.library()"]);
    assert!(!is_well && said.contains("there is none of /no/such/folder/lib/libnccl.so.2"), "{said}");
}

#[test]
fn the_packages_command_is_ours() {
    let (is_well, said) = python(&home("command"), &["-m", "shoal.command", "--version"]);
    assert!(is_well && said.trim() == format!("shoal {}", env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn the_packages_library_works_through_its_c_interface() {
    let home = home("library");
    let example = root().join("examples/03_python.py");
    let (_, said) = python(&home, &["-c", "import shoal; print(shoal.library())"]);
    let (is_well, gathered) = python(&home, &[&example.display().to_string(), said.trim()]);
    assert!(is_well, "{gathered}");
    assert!(gathered.contains("rank 2 of 3: [0, 0, 1, 1, 2, 4]"), "{gathered}");
}
