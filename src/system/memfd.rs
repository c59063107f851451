//! Memory that is a file without a name: it can be passed on, and leaves nothing behind after a kill.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::last;
use crate::error::{Error, Result};

/// Not executable, and never to become so; since Linux 6.3.
const NOEXEC_SEAL: libc::c_uint = 8;
const REMEDY: &str = "raise the limits on open files and memory (ulimit -n, -v)";

/// A file of `bytes` zeros that can neither shrink nor grow any more (so that mapped memory never vanishes).
/// It takes memory only where it is touched.
///
/// # Errors
/// The system's.
pub fn create(name: &CStr, bytes: u64) -> Result<OwnedFd> {
    check_limit(bytes)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string that outlives the call.
    let mut raw = unsafe { libc::memfd_create(name.as_ptr(), flags | NOEXEC_SEAL) };
    if raw < 0 {
        // SAFETY: as above.
        raw = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    if raw < 0 {
        return Err(Error::refused("creating a file of shared memory", &last(), "memfd_create", REMEDY));
    }
    // SAFETY: the call above succeeded, so `raw` is an open descriptor that nobody else owns.
    let file = unsafe { OwnedFd::from_raw_fd(raw) };
    let length = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    // SAFETY: plain numbers and a descriptor that is open.
    if unsafe { libc::ftruncate(raw, length) } != 0 {
        return Err(Error::system(
            format_args!("sizing {bytes} bytes of shared memory (used as they are touched)"),
            last(),
            "lower SHOAL_RING_BYTES",
        ));
    }
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain numbers and a descriptor that is open.
    if unsafe { libc::fcntl(raw, libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Error::system("sealing a file of shared memory", last(), "allow fcntl(F_ADD_SEALS)"));
    }
    Ok(file)
}

/// Going over this limit would raise a signal, which is not ours to raise.
fn check_limit(bytes: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid place for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    if bytes > limit.rlim_cur {
        return Err(Error::system(
            format_args!("creating {bytes} bytes of shared memory"),
            format_args!("the limit on file sizes is {} bytes", limit.rlim_cur),
            "raise it (ulimit -f unlimited) or lower SHOAL_RING_BYTES",
        ));
    }
    Ok(())
}

/// The length of `file`, if it is one that cannot shrink.
///
/// # Errors
/// It may shrink, which would take mapped memory away.
pub fn sealed_bytes(file: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: a descriptor that is open, and no further argument.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
        return Err(Error::Remote("a peer passed a file of shared memory that is not sealed".into()));
    }
    // SAFETY: all zeros is a value of this plain struct.
    let mut facts: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `facts` is a valid place for the answer, the descriptor is open.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut facts) } != 0 {
        return Err(Error::system("asking for the size of shared memory", last(), REMEDY));
    }
    u64::try_from(facts.st_size).map_err(|_| Error::Internal("a file of negative size".into()))
}

/// Whether descriptor `number` of process `pid` is a file that [`create`] called `name`. To be asked before
/// [`open_of`] where the process may be another than the one that is meant: opening can have effects.
#[must_use]
pub fn is_named(pid: i32, number: i32, name: &CStr) -> bool {
    let shown = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    let shown = shown.to_string_lossy();
    shown.strip_prefix("/memfd:").and_then(|rest| rest.strip_suffix(" (deleted)"))
        == Some(&*name.to_string_lossy())
}

/// Opens descriptor `number` of process `pid` for oneself.
///
/// # Errors
/// The system's.
pub fn open_of(pid: i32, number: i32, writable: bool) -> std::io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/{pid}/fd/{number}"))
        .map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn files_have_their_size_and_are_sealed() {
        let file = create(c"shoal-test", 1 << 33).expect("sparse memory");
        assert_eq!(sealed_bytes(file.as_fd()).ok(), Some(1 << 33));
        let pid = i32::try_from(std::process::id()).expect("small");
        let again = open_of(pid, file.as_raw_fd(), true).expect("one's own descriptor opens");
        assert_eq!(sealed_bytes(again.as_fd()).ok(), Some(1 << 33));
        assert!(is_named(pid, file.as_raw_fd(), c"shoal-test"));
        assert!(!is_named(pid, file.as_raw_fd(), c"shoal"));
        assert!(!is_named(pid, 999_999, c"shoal-test"));
    }

    #[test]
    fn other_files_are_refused() {
        let file = std::fs::File::open("/proc/self/exe").expect("exists");
        assert!(sealed_bytes(file.as_fd()).is_err());
    }
}
