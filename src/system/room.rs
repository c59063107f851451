//! Whether there is room for what is about to begin. Some code ends the program where it finds none: the heap, for a
//! few bytes; UCX, for a thread or for the file by which it wakes. So nothing is begun that could come to that.

use std::fs::File;

use crate::error::{Error, Result};
use crate::system::thread;

/// What a birth takes of the address space at most, and more than that.
const BIRTH_BYTES: usize = 16 << 20;
/// What UCX takes when it begins, on a machine with many interfaces, and more than that.
const NETWORK_BYTES: usize = 64 << 20;
const NETWORK_FILES: usize = 48;

/// Whether there is room for a birth.
///
/// # Errors
/// The address space is used up, or limited.
pub fn check_for_birth() -> Result<()> {
    check_space(BIRTH_BYTES, "to make a communicator in")
}

/// Whether there is room for UCX to begin.
///
/// # Errors
/// The address space, the files or the threads are used up, or limited.
pub fn check_for_network() -> Result<()> {
    check_space(NETWORK_BYTES, "to begin UCX in")?;
    check_files(NETWORK_FILES)?;
    let probe = thread::spawn("shoal-probe", || ())?;
    probe.join().map_err(|_| Error::Internal("an empty thread panicked".into()))
}

fn check_space(bytes: usize, purpose: &str) -> Result<()> {
    let mut room: Vec<u8> = Vec::new();
    room.try_reserve_exact(bytes).map_err(|cause| {
        Error::system(
            format_args!("looking for {} MiB of address space {purpose}", bytes >> 20),
            cause,
            "raise the limit of address space (ulimit -v)",
        )
    })
}

fn check_files(count: usize) -> Result<()> {
    let opened: std::io::Result<Vec<File>> = (0..count).map(|_| File::open("/dev/null")).collect();
    match opened.map_err(|cause| (cause.raw_os_error(), cause)) {
        Err((Some(libc::EMFILE | libc::ENFILE), cause)) => Err(Error::system(
            format_args!("looking for {count} files that UCX may open"),
            cause,
            "raise the limit of open files (ulimit -n)",
        )),
        // Without that file nothing is known.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_has_is_missed() {
        assert!(check_for_birth().is_ok());
        let error = check_space(usize::MAX / 4, "to think in").unwrap_err().to_string();
        assert!(error.contains("ulimit -v"), "{error}");
    }
}
