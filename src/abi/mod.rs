//! The only place that sees C.
//!
//! Every exported function does three things: it enters behind the `wall`, through which no panic passes;
//! it turns numbers and pointers into our own words, or says which of them is wrong; it calls. What comes
//! back becomes a result number, and its words the last error.
//!
//! Exported are the strong `pncclX` (and `shoalX`), by Rust; the weak `ncclX`, which jump there, by `weak`.
//! A profiler that defines `ncclX` is thus in front of ours, and reaches it as `pncclX`.

mod birth;
mod children;
mod collective;
mod collective_config;
mod config;
mod convert;
mod counters;
mod device;
mod encryption;
mod group;
mod info;
mod life;
mod memory;
mod operator;
mod parameter;
mod properties;
mod simulate;
mod stream;
mod structure;
mod table;
mod twins;
mod types;
mod wall;
mod weak;
mod window;
