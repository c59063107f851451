//! The C edge from outside: what the library file exports, and C programs that use it.
//!
//! The file under test is the one that Cargo made beside this test, or the one that `SHOAL_TEST_LIBRARY`
//! names (the release). Header and symbols are compared with NVIDIA's if `SHOAL_TEST_NCCL_WHEEL` names a folder
//! in which the package nvidia-nccl-cu13 2.32.3 was unpacked (`make nccl-check`).

#[path = "common/built.rs"]
mod built;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use built::library;

use object::elf::{DT_NEEDED, DT_SONAME, DynamicTag, FileHeader64, PT_TLS, STB_GLOBAL, STB_WEAK, SymbolBind};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};

const C: [&str; 2] = ["cc", "-std=c99"];
const CPP: [&str; 4] = ["c++", "-std=c++11", "-x", "c++"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A fresh folder, with the library under the name by which programs ask for it.
fn workshop(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("abi-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is ours");
    symlink(fs::canonicalize(library()).expect("it exists"), folder.join("libnccl.so.2"))
        .expect("a new link");
    folder
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn compiler(language: &[&str]) -> Command {
    let mut command = Command::new(language[0]);
    command.args(&language[1..]).args(["-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    command.arg("-I").arg(root().join("include"));
    command
}

/// Compiles a program of `tests/c` or elsewhere, links it with the library, and runs it.
fn compile_and_run(language: &[&str], folder: &Path, source: &Path) -> String {
    let program = folder.join(format!("{}-{}", language[0], source.file_stem().unwrap().display()));
    run(compiler(language)
        .arg("-o")
        .arg(&program)
        .arg(source)
        // After the source, whose language must not become the library's.
        .args(["-x", "none"])
        .arg(folder.join("libnccl.so.2")));
    run(Command::new(&program).env("LD_LIBRARY_PATH", folder).env_remove("LD_PRELOAD"))
}

fn c_program(name: &str) -> String {
    let folder = workshop(name);
    let output = compile_and_run(&C, &folder, &root().join("tests/c").join(name).with_extension("c"));
    fs::remove_dir_all(folder).expect("it is ours");
    output
}

fn kept_symbols() -> BTreeSet<String> {
    let list = fs::read_to_string(root().join("link/symbols.txt")).expect("it is part of the repository");
    list.lines().map(str::to_owned).collect()
}

/// What the file says of itself: its name, what it needs, and each symbol it defines with its binding.
fn dynamic(file: &[u8]) -> (Vec<String>, Vec<String>, Vec<(String, SymbolBind)>) {
    let header = FileHeader64::<object::Endianness>::parse(file).expect("an ELF file");
    let endian = header.endian().expect("an ELF file");
    let sections = header.sections(endian, file).expect("sections");
    let symbols = sections.symbols(endian, file, object::elf::SHT_DYNSYM).expect("dynamic symbols");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let exported = symbols
        .iter()
        .filter(|symbol| !symbol.is_undefined(endian) && symbol.st_value(endian) != 0)
        .map(|symbol| (text(symbol.name(endian, symbols.strings()).expect("a name")), symbol.st_bind()))
        .collect();
    let strings = symbols.strings();
    let (entries, _) = sections
        .iter()
        .find_map(|section| section.dynamic(endian, file).expect("a dynamic section"))
        .expect("a dynamic section");
    let values = |tag: DynamicTag| {
        let those = entries.iter().filter(move |entry| entry.tag(endian) == tag);
        those.map(|entry| text(entry.string(endian, strings).expect("a string"))).collect::<Vec<_>>()
    };
    (values(DT_SONAME), values(DT_NEEDED), exported)
}

#[test]
fn the_interface_leaves_the_library_and_nothing_else_does() {
    let file = fs::read(library()).expect("it exists");
    let (names, needed, exported) = dynamic(&file);
    assert_eq!(names, ["libnccl.so.2"]);
    let libc =
        ["libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "libgcc_s.so.", "ld-linux"];
    for name in &needed {
        assert!(libc.iter().any(|start| name.starts_with(start)), "needs {name}");
    }
    let found: BTreeSet<String> = exported.iter().map(|(name, _)| name.clone()).collect();
    let kept = kept_symbols();
    let missing: Vec<_> = kept.difference(&found).collect();
    let foreign: Vec<_> = found.difference(&kept).collect();
    assert!(missing.is_empty() && foreign.is_empty(), "missing {missing:?}, not in the list {foreign:?}");
    for (name, binding) in &exported {
        // Every name with a twin yields to a profiler's.
        let expected = if kept.contains(&format!("p{name}")) { STB_WEAK } else { STB_GLOBAL };
        assert_eq!(*binding, expected, "{name}");
    }
}

/// Of what glibc keeps for libraries that are opened late, about 1,600 bytes a thread, others take their part.
#[test]
fn who_opens_the_library_late_finds_room_for_its_threads() {
    let file = fs::read(library()).expect("it exists");
    let header = FileHeader64::<object::Endianness>::parse(file.as_slice()).expect("an ELF file");
    let endian = header.endian().expect("an ELF file");
    let parts = header.program_headers(endian, file.as_slice()).expect("program headers");
    let own_bytes: u64 =
        parts.iter().filter(|part| part.p_type(endian) == PT_TLS).map(|part| part.p_memsz(endian)).sum();
    assert!(own_bytes <= 400, "{own_bytes} bytes");
}

#[test]
fn every_symbol_is_declared() {
    let folder = workshop("symbols");
    let mut text =
        "#include \"shoal.h\"\ntypedef void (*any)(void);\nstatic const any all[] = {\n".to_owned();
    for name in kept_symbols() {
        text += &format!("  (any){name},\n");
    }
    text += "};\nint main(void) { return all[0] == 0; }\n";
    let source = folder.join("symbols.c");
    fs::write(&source, text).expect("the folder is ours");
    // The casts are the point here.
    for language in [&C[..], &CPP[..]] {
        compile_and_run(&[language, &["-Wno-cast-function-type"]].concat(), &folder, &source);
    }
    fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn layouts_are_those_of_the_interface_in_both_languages() {
    let folder = workshop("layout");
    for language in [&C[..], &CPP[..]] {
        compile_and_run(language, &folder, &root().join("tests/c/layout.c"));
    }
    fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn without_a_communicator_every_call_answers() {
    c_program("info");
}

#[test]
fn a_program_may_put_its_own_function_in_front() {
    c_program("override");
}

#[test]
fn one_rank_lives_and_ends() {
    c_program("life");
}

#[test]
fn collectives_take_wishes() {
    c_program("twins");
}

#[test]
fn counters_say_what_a_communicator_did() {
    c_program("counters");
}

#[test]
fn windows_are_opened_and_written() {
    c_program("windows");
}

#[test]
fn communicators_and_groups_say_what_they_are() {
    c_program("properties");
}

/// The functions that preprocessed text declares, each as its declaration.
fn declarations(text: &str) -> Vec<(String, String)> {
    let is_ours = |name: &str| ["nccl", "pnccl"].iter().any(|start| name.starts_with(start));
    let statements =
        text.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut found = Vec::new();
    for statement in
        statements.filter(|statement| !statement.contains(['{', '}', '=']) && statement.ends_with(')'))
    {
        let before = statement.split('(').next().unwrap_or_default();
        let name = before.split([' ', '*']).rfind(|word| !word.is_empty()).unwrap_or_default().to_owned();
        if is_ours(&name) && !statement.starts_with("typedef") && before.contains(' ') {
            found.push((name, statement));
        }
    }
    found
}

/// Headers of the CUDA runtime as far as NVIDIA's header uses them in C.
fn cuda_stubs(folder: &Path) {
    let runtime = "#ifndef STUB_H\n#define STUB_H\n\
        #include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n\
        typedef struct CUstream_st* cudaStream_t;\ntypedef struct CUevent_st* cudaEvent_t;\n\
        typedef int CUmemLocationType;\n#endif\n";
    for name in ["cuda_runtime.h", "cuda.h", "cuda_fp16.h"] {
        fs::write(folder.join(name), runtime).expect("the folder is ours");
    }
}

/// A place in the unpacked package.
fn wheel(place: &str) -> PathBuf {
    let folder =
        std::env::var_os("SHOAL_TEST_NCCL_WHEEL").expect("SHOAL_TEST_NCCL_WHEEL, see make nccl-check");
    Path::new(&folder).join("nvidia/nccl").join(place)
}

#[test]
#[ignore = "needs SHOAL_TEST_NCCL_WHEEL, where nvidia-nccl-cu13 2.32.3 was unpacked: make nccl-check"]
fn the_symbols_are_those_of_nvidias_library() {
    let file = fs::read(wheel("lib/libnccl.so.2")).expect("the package holds it");
    let (names, _, exported) = dynamic(&file);
    assert_eq!(names, ["libnccl.so.2"]);
    let theirs: BTreeSet<String> = exported
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| ["nccl", "pnccl"].iter().any(|start| name.starts_with(start)))
        .collect();
    let ours: BTreeSet<String> =
        kept_symbols().into_iter().filter(|name| !name.starts_with("shoal")).collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let added: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing {missing:?}, theirs lacks {added:?}");
    for (name, binding) in exported.iter().filter(|(name, _)| ours.contains(name)) {
        let expected = if ours.contains(&format!("p{name}")) { STB_WEAK } else { STB_GLOBAL };
        assert_eq!(*binding, expected, "{name}");
    }
}

#[test]
#[ignore = "needs SHOAL_TEST_NCCL_WHEEL, where nvidia-nccl-cu13 2.32.3 was unpacked: make nccl-check"]
fn the_version_of_nvidias_library_is_read_off_its_file() {
    assert_eq!(shoal::stock::version_of(&wheel("lib/libnccl.so.2")), Ok(23203));
    assert!(shoal::stock::version_of(&library()).is_err(), "ours is no stock library");
}

#[test]
#[ignore = "needs SHOAL_TEST_NCCL_WHEEL, where nvidia-nccl-cu13 2.32.3 was unpacked: make nccl-check"]
fn the_header_says_what_nvidias_says() {
    let theirs = wheel("include");
    let folder = workshop("header");
    cuda_stubs(&folder);
    let probe = root().join("tests/c/probe.c");
    let build = |include: &[&OsStr], extra: &[&str], name: &str, source: &Path| {
        let program = folder.join(name);
        let mut command = Command::new("cc");
        command.args(["-std=gnu11", "-w", "-DNCCL_OS_LINUX", "-o"]).arg(&program);
        for place in include {
            command.arg("-I").arg(place);
        }
        run(command.args(extra).arg(source));
        program
    };
    let their_places = [folder.as_os_str(), theirs.as_os_str()];
    let host = "-DHOST_HEADER=<nccl_device/host.h>";
    let header = "-DHEADER=<nccl.h>";
    let said = run(&mut Command::new(build(&their_places, &[header, host], "theirs", &probe)));
    let ours = root().join("include");
    let say = run(&mut Command::new(build(&[ours.as_os_str()], &[header], "ours", &probe)));
    for (theirs, ours) in said.lines().zip(say.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(said.lines().count(), say.lines().count());

    // Our declarations after theirs: the compiler takes a second one only if it says the same.
    let text = run(Command::new("cc").args(["-std=c99", "-E", "-P", "-xc"]).arg(ours.join("nccl.h")));
    let declared = declarations(&text);
    assert!(declared.len() > 190, "{} found", declared.len());
    let mut again = "#include <nccl.h>\n#include <nccl_device/host.h>\n".to_owned();
    // Two that NVIDIA exports and declares for no Linux program.
    let undeclared = ["Outbox", "Inbox"];
    for (_, declaration) in
        declared.iter().filter(|(name, _)| !undeclared.iter().any(|part| name.contains(part)))
    {
        again += &format!("{declaration};\n");
    }
    let source = folder.join("again.c");
    fs::write(&source, again).expect("the folder is ours");
    build(&their_places, &["-c"], "again.o", &source);

    // And none of theirs is missing from ours.
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-DNCCL_OS_LINUX", "-E", "-P", "-I"]).arg(&folder).arg("-I").arg(&theirs);
    let names: BTreeSet<_> = declared.into_iter().map(|(name, _)| name).collect();
    for (name, _) in declarations(&run(command.arg(theirs.join("nccl.h")))) {
        assert!(names.contains(&name), "{name}");
    }
    fs::remove_dir_all(folder).expect("it is ours");
}
