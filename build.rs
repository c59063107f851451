//! How the library that `cargo build` makes is linked. `make release` makes the same by hand, and smaller.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link/shoal.map");
    let folder = env::var("CARGO_MANIFEST_DIR").expect("Cargo sets it");
    for argument in [
        // The name by which programs ask for it.
        "-Wl,-soname,libnccl.so.2",
        // Calls within the library stay within, whatever else the process has loaded.
        "-Wl,-Bsymbolic",
        // A thread of ours may be running in it, so it is never unmapped.
        "-Wl,-z,nodelete",
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    if takes_two_scripts() {
        // Rust lists its own functions; this adds the weak ones, which it does not know.
        println!("cargo:rustc-cdylib-link-arg=-Wl,--version-script={folder}/link/shoal.map");
    }
}

/// GNU's linker refuses a second list beside Rust's own; LLVM's, which Rust brings along for this target,
/// joins them. Without the second the weak names are missing, and `make release` is the way.
fn takes_two_scripts() -> bool {
    let is_there = env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu");
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    is_there && !["-lld", "fuse-ld", "linker="].iter().any(|other| flags.contains(other))
}
