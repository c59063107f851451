//! Whether two processes beside each other, as ranks are, can read one another: one holds a word, one reads it.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::cli::{Failure, machine};

/// The word that is read.
const WORD: u64 = 0x0066_6973_6866_6973;

/// Ends a helper, however the probe ends.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn helper(option: &str, value: Option<String>) -> std::io::Result<Helper> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("doctor").arg(option).args(value);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().map(Helper)
}

/// Starts two processes, of which one reads the other. Why that failed, in one clause.
pub(super) fn try_siblings() -> Result<(), String> {
    let fault = |cause: std::io::Error| format!("the probe could not be run: {cause}");
    let mut holder = helper("--hold", None).map_err(fault)?;
    let mut line = String::new();
    if let Some(output) = holder.0.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(fault)?;
    }
    let place = format!("{}:{}", holder.0.id(), line.trim());
    let mut reader = helper("--read", Some(place)).map_err(fault)?;
    let mut said = String::new();
    if let Some(mut output) = reader.0.stdout.take() {
        output.read_to_string(&mut said).map_err(fault)?;
    }
    match said.trim() {
        "works" => Ok(()),
        "" => Err("the process that reads ended without a word".into()),
        reason => Err(reason.to_owned()),
    }
}

/// Holds the word, says where, and stays until nobody is interested any more.
pub(super) fn hold() -> Result<bool, Failure> {
    let word = Box::new(std::sync::atomic::AtomicU64::new(WORD));
    put_line!("{}", std::ptr::from_ref(&*word) as u64);
    let _ = std::io::stdin().read(&mut [0])?;
    Ok(word.load(std::sync::atomic::Ordering::Relaxed) == WORD)
}

/// Reads the word at `PROCESS:ADDRESS`, and says how that went.
pub(super) fn read(place: &str) -> Result<bool, Failure> {
    let parsed = place
        .split_once(':')
        .and_then(|(process, address)| Some((process.parse::<u32>().ok()?, address.parse::<u64>().ok()?)));
    let Some((process, address)) = parsed else { return Err(Failure(format!("{place} is no place"))) };
    let mut bytes = [0; 8];
    match machine::read_process(process, address, &mut bytes) {
        Ok(()) if u64::from_ne_bytes(bytes) == WORD => put_line!("works"),
        Ok(()) => put_line!("what was read is not what is there"),
        Err(cause) => put_line!("process_vm_readv: {cause}"),
    }
    Ok(true)
}
