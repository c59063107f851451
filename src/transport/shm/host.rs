//! How a segment gets from the rank that made it to the others on the machine.
//!
//! The maker opens a [`Host`] and tells the others its [`Invitation`] (through the bootstrap, which is
//! authenticated); they [`Segment::join`]. A thread of the maker's process gives the descriptor to whoever
//! connects to a socket of a random name and knows the invitation's key: names of such sockets are visible to
//! everybody on the machine, so the name alone must not open it. Where the socket cannot be reached (another
//! network namespace), the descriptor is opened through the maker's process instead.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::segment::Segment;
use crate::error::{Error, Result};
use crate::system::{memfd, passing, random, thread};

/// How long the host listens to one visitor.
const VISIT: Duration = Duration::from_secs(2);

/// What others on the machine need to join a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    segment: u128,
    name: u128,
    key: u128,
    pid: i32,
    descriptor: i32,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        write!(formatter, "Invitation({:032x} by process {})", self.segment, self.pid)
    }
}

impl Invitation {
    /// How long it is on the way.
    pub const BYTES: usize = 56;

    /// For the way.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Invitation::BYTES] {
        let mut bytes = [0; Invitation::BYTES];
        bytes[..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.name.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.key.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.pid.to_le_bytes());
        bytes[52..].copy_from_slice(&self.descriptor.to_le_bytes());
        bytes
    }

    /// From the way.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Invitation::BYTES]) -> Invitation {
        let wide = |at: usize| u128::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let narrow = |at: usize| i32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Invitation {
            segment: wide(0),
            name: wide(16),
            key: wide(32),
            pid: narrow(48),
            descriptor: narrow(52),
        }
    }

    fn address(&self) -> Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("shoal-{:032x}", self.name))
            .map_err(|cause| Error::system("naming a local socket", cause, "see the cause"))
    }
}

/// Gives the segment to the processes of the other ranks until it is dropped.
#[derive(Debug)]
pub struct Host {
    invitation: Invitation,
    listener: Arc<UnixListener>,
    server: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts to give `segment` away.
    ///
    /// # Errors
    /// The system refused a socket or a thread.
    pub fn open(segment: &Arc<Segment>) -> Result<Host> {
        let invitation = Invitation {
            segment: segment.id(),
            name: random::wide(),
            key: random::wide(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            descriptor: segment.file().as_raw_fd(),
        };
        let listener = UnixListener::bind_addr(&invitation.address()?).map_err(|cause| {
            Error::system("opening a local socket", cause, "raise the limit on open files")
        })?;
        let listener = Arc::new(listener);
        let (theirs, segment) = (Arc::clone(&listener), Arc::clone(segment));
        let server = thread::spawn("shoal-host", move || {
            loop {
                match theirs.accept() {
                    // A visitor without the key, or one that is gone again, is nobody's loss.
                    Ok((visitor, _)) => drop(welcome(&visitor, &segment, invitation.key)),
                    // The listener was shut down.
                    Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => return,
                    // For want of descriptors, say; it may pass.
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        })?;
        Ok(Host { invitation, listener, server: Some(server) })
    }

    /// What the others need.
    #[must_use]
    pub const fn invitation(&self) -> Invitation {
        self.invitation
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open; shutting it down ends the server's accept.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn welcome(mut visitor: &UnixStream, segment: &Segment, key: u128) -> Result<()> {
    let fault = |cause: std::io::Error| Error::system("reading from a local socket", cause, "see the cause");
    visitor.set_read_timeout(Some(VISIT)).map_err(fault)?;
    let mut shown = [0; 16];
    visitor.read_exact(&mut shown).map_err(fault)?;
    // One comparison of whole words tells a guesser nothing about single bytes.
    if u128::from_le_bytes(shown) ^ key != 0 {
        return Err(Error::Remote("a visitor without the key".into()));
    }
    passing::send(visitor, segment.file())
}

impl Segment {
    /// Joins the segment that `invitation` names, at most until `deadline`.
    ///
    /// # Errors
    /// It could not be had in time; by both ways, with both causes.
    pub fn join(invitation: &Invitation, deadline: Instant) -> Result<Arc<Segment>> {
        if let Some(known) = Segment::find(invitation.segment) {
            return Ok(known);
        }
        let visited = visit(invitation, deadline);
        let file = match visited {
            Ok(file) => file,
            Err(refused) => {
                // A thread of this process may have been faster, and a second descriptor could not be closed.
                if let Some(known) = Segment::find(invitation.segment) {
                    return Ok(known);
                }
                memfd::open_of(invitation.pid, invitation.descriptor, true).map_err(|cause| {
                    Error::system(
                        format_args!("joining the shared memory of process {}", invitation.pid),
                        format_args!("{refused}; and opening it through /proc: {cause}"),
                        "share the network or the process namespace between the ranks, or set SHOAL_HOSTID",
                    )
                })?
            }
        };
        Segment::adopt(file, invitation.segment)
    }
}

fn visit(invitation: &Invitation, deadline: Instant) -> Result<OwnedFd> {
    let fault = |cause: std::io::Error| {
        Error::system("connecting to the local leader", cause, "see whether its process has ended")
    };
    let mut stream = UnixStream::connect_addr(&invitation.address()?).map_err(fault)?;
    stream.write_all(&invitation.key.to_le_bytes()).map_err(fault)?;
    passing::receive(&stream, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn invitations_survive_the_way() {
        let segment = Segment::create(2, 8192).expect("memory");
        let host = Host::open(&segment).expect("a host");
        let invitation = host.invitation();
        assert_eq!(Invitation::from_bytes(&invitation.to_bytes()), invitation);
        assert!(!format!("{invitation:?}").contains(&format!("{:x}", invitation.key)));
    }

    #[test]
    fn visitors_with_the_key_get_the_file_and_others_nothing() {
        let segment = Segment::create(2, 8192).expect("memory");
        let host = Host::open(&segment).expect("a host");
        let soon = || Instant::now() + Duration::from_secs(5);
        let wrong = Invitation { key: 1, ..host.invitation() };
        assert!(visit(&wrong, soon()).is_err());
        let file = visit(&host.invitation(), soon()).expect("welcome");
        assert!(memfd::sealed_bytes(file.as_fd()).is_ok());
        let known = Segment::join(&host.invitation(), soon()).expect("known here");
        assert!(Arc::ptr_eq(&known, &segment));
        let adopted = Segment::adopt(file, segment.id()).expect("the same");
        assert!(Arc::ptr_eq(&adopted, &segment));
        drop(host);
        assert!(visit(&wrong, soon()).is_err());
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let file = memfd::create(c"shoal-test", 1 << 20).expect("memory");
        assert!(Segment::adopt(file, 7).is_err());
    }
}
