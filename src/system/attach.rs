//! Reading and writing another process's memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Copies `bytes` at `source` in process `pid` to `target`, and in the same call the word at `proof`, which
/// shows that the process is the one that was meant (numbers of processes are used again). Returns the word
/// and how many bytes came, possibly fewer.
///
/// # Safety
/// `target` is writable for `bytes`.
///
/// # Errors
/// The system's: it does not allow this, or there is no such process or memory.
pub unsafe fn read(
    pid: i32,
    proof: u64,
    source: usize,
    target: *mut u8,
    bytes: usize,
) -> std::io::Result<(u64, usize)> {
    let mut word = 0_u64;
    let local = [
        libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 },
        libc::iovec { iov_base: target.cast(), iov_len: bytes },
    ];
    let remote = [
        libc::iovec { iov_base: proof as *mut libc::c_void, iov_len: 8 },
        libc::iovec { iov_base: source as *mut libc::c_void, iov_len: bytes },
    ];
    let parts = if bytes == 0 { 1 } else { 2 };
    // SAFETY: the local parts are writable (`word` is ours, `target` by the caller's promise). The remote
    // parts are addresses of another process, which the kernel checks there.
    let got = unsafe { libc::process_vm_readv(pid, local.as_ptr(), parts, remote.as_ptr(), parts, 0) };
    match usize::try_from(got) {
        Ok(got) if got >= 8 => Ok((word, got - 8)),
        Ok(_) => Err(std::io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(super::last()),
    }
}

/// Copies `bytes` at `source` to `target` in process `pid`, and in the same call, before anything else, a word to
/// `permit` there ([`super::permit`]): without that permit nothing is written.
///
/// # Safety
/// `source` is readable for `bytes`.
///
/// # Errors
/// The system's: the permit was withdrawn, or it does not allow this, or there is no such process or memory. Part
/// of the bytes may have been written.
pub unsafe fn write(
    pid: i32,
    permit: u64,
    source: *const u8,
    target: u64,
    bytes: usize,
) -> std::io::Result<()> {
    let mut word = 0_u64;
    let local = [
        libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 },
        libc::iovec { iov_base: source.cast_mut().cast(), iov_len: bytes },
    ];
    let remote = [
        libc::iovec { iov_base: permit as *mut libc::c_void, iov_len: 8 },
        libc::iovec { iov_base: target as *mut libc::c_void, iov_len: bytes },
    ];
    // SAFETY: the local parts are readable (`word` is ours, `source` by the caller's promise) and only read. The
    // remote parts are addresses of another process, which the kernel checks there, one after the other.
    let put = unsafe { libc::process_vm_writev(pid, local.as_ptr(), 2, remote.as_ptr(), 2, 0) };
    match usize::try_from(put) {
        Ok(put) if put == bytes + 8 => Ok(()),
        Ok(_) => Err(std::io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(super::last()),
    }
}

/// The memory of one process, open for writing. It stays that process's: a number that is used again leads
/// nowhere else, and once the process has ended nothing is written.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Opens the memory of the process that has this number and, at `proof_address`, this word, which shows
    /// that it is the one that was meant.
    ///
    /// # Errors
    /// The system's: it does not allow this, or the process is another one.
    pub fn open(pid: i32, proof_address: u64, proof: u64) -> std::io::Result<Memory> {
        let file = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let mut word = [0; 8];
        file.read_exact_at(&mut word, proof_address)?;
        if u64::from_ne_bytes(word) != proof || proof == 0 {
            return Err(std::io::Error::other("another process has its number here"));
        }
        Ok(Memory(file))
    }

    /// Copies `bytes` at `source` to `target` in that process.
    ///
    /// # Safety
    /// `source` is readable for `bytes`.
    ///
    /// # Errors
    /// The process has ended, or has no such memory.
    pub unsafe fn write(&self, target: usize, source: *const u8, bytes: usize) -> std::io::Result<()> {
        let mut done = 0;
        while done < bytes {
            let at = libc::off_t::try_from(target + done)
                .map_err(|_| std::io::Error::from_raw_os_error(libc::EFAULT))?;
            // SAFETY: the source is readable for what is left of it; the kernel checks the target.
            let count =
                unsafe { libc::pwrite(self.0.as_raw_fd(), source.add(done).cast(), bytes - done, at) };
            match usize::try_from(count) {
                Ok(0) => return Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
                Ok(count) => done += count,
                Err(_) if super::last().kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(super::last()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_reports_what_is_not() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let (proof, source, mut target) = (77_u64, [1_u8, 2, 3], [0_u8; 3]);
        let proof_at = (&raw const proof) as u64;
        // SAFETY: `target` has 3 bytes.
        let read_here = |from: usize, into: *mut u8| unsafe { read(pid, proof_at, from, into, 3) };
        match read_here(source.as_ptr() as usize, target.as_mut_ptr()) {
            Ok(got) => {
                assert_eq!((got, target), ((77, 3), source));
                assert_eq!(read_here(16, target.as_mut_ptr()).ok(), Some((77, 0)));
            }
            // Not every sandbox allows it.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))),
        }
        // SAFETY: nothing is written.
        assert!(unsafe { read(pid, 16, 16, target.as_mut_ptr(), 3) }.is_err());
    }

    #[test]
    fn without_a_permit_nothing_is_written() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let permit = crate::system::permit::Permit::new().expect("a page");
        let (source, mut target) = ([1_u8, 2, 3], [0_u8; 3]);
        let into = target.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: `source` has 3 bytes.
        let write_here = || unsafe { write(pid, permit.address(), source.as_ptr(), into, 3) };
        // SAFETY: a local variable, which the kernel writes.
        let now = || unsafe { (&raw const target).read_volatile() };
        match write_here() {
            Ok(()) => assert_eq!(now(), source),
            // Not every sandbox allows it.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))),
        }
        target = [9; 3];
        permit.withdraw();
        assert!(write_here().is_err());
        assert_eq!(target, [9; 3]);
    }

    #[test]
    fn memory_is_written_where_the_proof_is_right() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let (proof, source, mut target) = (78_u64, [4_u8, 5, 6], [0_u8; 3]);
        let proof_at = (&raw const proof) as u64;
        assert!(Memory::open(pid, proof_at, 79).is_err());
        let memory = Memory::open(pid, proof_at, proof).expect("one's own memory opens");
        let at = target.as_mut_ptr().expose_provenance();
        // SAFETY: the source has 3 bytes.
        unsafe { memory.write(at, source.as_ptr(), 3) }.expect("written");
        // SAFETY: a local variable, which the kernel wrote.
        assert_eq!(unsafe { (&raw const target).read_volatile() }, source);
        // SAFETY: as above.
        assert!(unsafe { memory.write(16, source.as_ptr(), 3) }.is_err());
    }
}
