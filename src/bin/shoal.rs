//! The `shoal` command.

use std::process::ExitCode;

use clap::Parser;
use shoal::cli;

fn main() -> ExitCode {
    cli::run(&cli::Arguments::parse())
}
