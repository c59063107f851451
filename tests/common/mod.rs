//! Random programs and what they must do: shared by the tests that run them.
//!
//! - [`dice`]: numbers from a seed. [`number`]: element types, slowly and obviously.
//! - [`program`]: what the ranks of a program call. [`generate`]: a program from a seed.
//! - [`oracle`]: what every buffer must hold afterwards. [`memory`]: the buffers, with guards around them.
//! - [`world`]: a program on a simulated network.
//! - [`library`]: the library as a C program calls it. [`member`]: a process's share of a program on it.
//! - [`corpus`]: seeds that failed once, and how many seeds a run takes.

pub mod corpus;
pub mod dice;
pub mod generate;
pub mod library;
pub mod member;
pub mod memory;
pub mod number;
pub mod oracle;
pub mod program;
pub mod world;
