//! placeholder
use super::Failure;
/// x
#[derive(clap::Args, Debug)]
pub struct Options {}
/// x
/// # Errors
/// x
pub fn run(_o: &Options) -> Result<bool, Failure> { Ok(true) }
