//! Reading another process's memory.

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
}
