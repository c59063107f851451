//! The last link: what it makes needs no glibc above the floor, and runs.
//!
//! A small program and a small library go through the same stand-ins (`scripts/glibc_stubs.sh`) in every run of
//! the tests; the release itself where `SHOAL_TEST_RELEASE` names the folder that `make release` filled
//! (`make release-check`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};

/// The newest glibc whose symbols may be needed.
const FLOOR: [u32; 2] = [2, 28];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a file needs of each library: pairs of the library and the version.
fn needs(file: &Path) -> Vec<(String, String)> {
    let data = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let data = data.as_slice();
    let header = FileHeader64::<object::Endianness>::parse(data).expect("an ELF file");
    let endian = header.endian().expect("an ELF file");
    let sections = header.sections(endian, data).expect("sections");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = Vec::new();
    for section in sections.iter() {
        let Some((mut libraries, link)) = section.gnu_verneed(endian, data).expect("version needs") else {
            continue;
        };
        let strings = sections.strings(endian, data, link).expect("strings");
        while let Some((library, mut versions)) = libraries.next().expect("a library") {
            let name = text(library.file(endian, strings).expect("a name"));
            while let Some(version) = versions.next().expect("a version") {
                found.push((name.clone(), text(version.name(endian, strings).expect("a name"))));
            }
        }
    }
    found
}

/// Whether a version of a symbol is within the floor; other libraries' versions are their own affair.
fn is_old_enough(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix("GLIBC_") else { return true };
    let parts: Vec<u32> = numbers.split('.').map_while(|part| part.parse().ok()).collect();
    // GLIBC_PRIVATE and GLIBC_ABI_DT_RELR have no number: what asks for them is bound to newer libraries.
    parts.len() >= 2 && parts.as_slice() < [FLOOR[0], FLOOR[1] + 1].as_slice()
}

fn check(file: &Path) {
    let needs = needs(file);
    let is_libc = |(library, version): &&(String, String)| {
        library.starts_with("libc.so") && version.starts_with("GLIBC_2.")
    };
    assert!(needs.iter().any(|need| is_libc(&need)), "{} needs no libc: {needs:?}", file.display());
    let young: Vec<_> = needs.iter().filter(|(_, version)| !is_old_enough(version)).collect();
    assert!(young.is_empty(), "{} needs {young:?}", file.display());
}

#[test]
fn versions_are_compared_as_numbers() {
    for old in ["GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.28", "GCC_4.2.0"] {
        assert!(is_old_enough(old), "{old}");
    }
    for young in ["GLIBC_2.29", "GLIBC_2.34", "GLIBC_2.100", "GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR"] {
        assert!(!is_old_enough(young), "{young}");
    }
}

#[test]
fn what_is_linked_with_the_stand_ins_needs_no_new_glibc_and_runs() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("release-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is ours");
    let stubs = folder.join("stubs");
    run(Command::new("bash").arg(root().join("scripts/glibc_stubs.sh")).arg(&stubs));

    // The things whose symbols moved: files, threads, libraries, mathematics, the start of a program.
    let source = folder.join("old.rs");
    let text = "fn main() { println!(\"{}\", old()); }\n\
        #[unsafe(no_mangle)] pub extern \"C\" fn old() -> i32 {\n\
        let file = std::fs::metadata(\"/proc/self/status\").unwrap().is_file() as i32;\n\
        let link = std::fs::symlink_metadata(\"/proc/self\").unwrap().file_type().is_symlink() as i32;\n\
        let thread = std::thread::spawn(|| std::env::args().count() as i32).join().unwrap();\n\
        let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(1))).is_err() as i32;\n\
        let power = std::hint::black_box(2f64).powf(std::hint::black_box(3.0)) as i32;\n\
        file + link + caught + 10 * thread + 100 * power }\n";
    fs::write(&source, text).expect("the folder is ours");
    let program = folder.join("program");
    run(Command::new("rustc")
        .args(["--edition=2024", "-O", "-o"])
        .arg(&program)
        .arg(&source)
        .arg("-L")
        .arg(format!("native={}", stubs.display()))
        .arg(format!("-Clink-arg={}", stubs.join("program.o").display()))
        .args(["-Clink-arg=-Wl,--wrap=__libc_start_main", "-Clink-arg=-Wl,--allow-shlib-undefined"]));
    check(&program);
    assert_eq!(run(Command::new(&program).args(["two", "three"])).trim(), "833");

    let archive = folder.join("libold.a");
    run(Command::new("rustc")
        .args(["--edition=2024", "-O", "--crate-type=staticlib", "-o"])
        .arg(&archive)
        .arg(&source));
    let library = folder.join("libold.so");
    run(Command::new("cc")
        .args(["-shared", "-Wl,-z,defs", "-Wl,--as-needed", "-Wl,--gc-sections", "-o"])
        .arg(&library)
        .args(["-Wl,--undefined=old"])
        .arg(&archive)
        .arg(stubs.join("library.o"))
        .arg("-L")
        .arg(&stubs)
        .args(["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lc"]));
    check(&library);
    let load = format!("import ctypes; print(ctypes.CDLL({library:?}).old() % 10)");
    assert_eq!(run(Command::new("python3").args(["-c", &load])).trim(), "3");
    fs::remove_dir_all(folder).expect("it is ours");
}

fn release(name: &str) -> PathBuf {
    let folder = std::env::var_os("SHOAL_TEST_RELEASE").expect("SHOAL_TEST_RELEASE, see make release-check");
    Path::new(&folder).join(name)
}

#[test]
#[ignore = "needs SHOAL_TEST_RELEASE, the folder that make release filled: make release-check"]
fn the_release_needs_no_new_glibc() {
    check(&release("libshoal.so"));
    check(&release("shoal"));
}

#[test]
#[ignore = "needs SHOAL_TEST_RELEASE, the folder that make release filled: make release-check"]
fn the_release_runs() {
    let lines = run(Command::new(release("shoal"))
        .args(["bench", "--ranks", "2", "--op", "allreduce", "-b", "8", "-e", "8"])
        .env("LD_LIBRARY_PATH", release("")));
    assert!(lines.contains("allreduce"), "{lines}");
    let example = root().join("examples/03_python.py");
    let sums = run(Command::new("python3").arg(example).arg(release("libshoal.so")));
    assert_eq!(sums.lines().count(), 3, "{sums}");
}
