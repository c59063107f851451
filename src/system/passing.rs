//! Handing an open file to another process.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::last;
use crate::error::{Error, Result};

/// Room for one descriptor's control message, aligned as the system wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn descriptor_space() -> usize {
    #[allow(clippy::cast_possible_truncation)] // 4
    let bytes = size_of::<RawFd>() as u32;
    // SAFETY: arithmetic on a number.
    unsafe { libc::CMSG_SPACE(bytes) as usize }
}

/// Waits until `file` can be read, at most until `deadline`; false if it could not by then.
///
/// # Errors
/// The system's.
pub fn readable_before(file: BorrowedFd<'_>, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut entry, 1, milliseconds) } {
            0 => return Ok(false),
            count if count > 0 => return Ok(true),
            _ if last().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return Err(Error::system("waiting for a local socket", last(), "see the cause")),
        }
    }
}

/// Sends `bytes` over `stream`, without a signal if nobody is there any more.
///
/// # Errors
/// The system's.
pub fn say(stream: &UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: `rest` is readable for its length during the call; the descriptor is open.
        let sent =
            unsafe { libc::send(stream.as_raw_fd(), rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => rest = &rest[sent..],
            Err(_) if last().kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(last()),
        }
    }
    Ok(())
}

/// Sends `file` over `stream`.
///
/// # Errors
/// The system's.
pub fn send(stream: &UnixStream, file: BorrowedFd<'_>) -> Result<()> {
    let mut byte = [1_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a value of this plain struct.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = descriptor_space();
    // SAFETY: `message` names a control buffer of at least the space of one descriptor, aligned for its
    // header, so that the header and the descriptor behind it lie inside.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(file.as_raw_fd());
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 {
        return Ok(());
    }
    Err(Error::system("passing shared memory to a peer", last(), "see whether the peer has ended"))
}

/// Receives a file over `stream`, at most until `deadline`.
///
/// # Errors
/// Nobody sent one in time, or the system's.
pub fn receive(stream: &UnixStream, deadline: Instant) -> Result<OwnedFd> {
    if !readable_before(stream.as_fd(), deadline)? {
        return Err(Error::Timeout("no shared memory came from the local leader in time".into()));
    }
    let mut byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a value of this plain struct.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = descriptor_space();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: all parts of `message` are valid places for what they receive.
    let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags) };
    // SAFETY: the kernel filled `message`; the header, if there is one, lies in the control buffer and is
    // read only after its kind and length say that one descriptor follows.
    let file = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let valid = got == 1
            && !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len == libc::CMSG_LEN(4) as usize;
        valid.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
    };
    file.ok_or_else(|| Error::Remote("the local leader closed the connection without an answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_is_gone_is_an_error_and_no_signal() {
        let (one, two) = UnixStream::pair().expect("sockets");
        say(&one, b"fish").expect("there is room");
        drop(two);
        assert_eq!(say(&one, b"fish").map_err(|cause| cause.kind()), Err(std::io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_file_arrives() {
        let (one, two) = UnixStream::pair().expect("sockets");
        let file = super::super::memfd::create(c"shoal-test", 4096).expect("memory");
        send(&one, file.as_fd()).expect("sent");
        let got = receive(&two, Instant::now() + Duration::from_secs(5)).expect("received");
        assert_eq!(super::super::memfd::sealed_bytes(got.as_fd()).ok(), Some(4096));
        assert!(receive(&two, Instant::now() + Duration::from_millis(5)).is_err());
    }
}
