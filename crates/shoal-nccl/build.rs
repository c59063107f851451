//! Only the plugin's own names leave it: with those of the library inside, stock NCCL would find itself twice.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic", "-Wl,-soname,libshoal-nccl.so"] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
