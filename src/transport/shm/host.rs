//! How a segment gets from the rank that made it to the others on the machine.
//!
//! The maker opens a [`Host`] and tells the others its [`Invitation`] (through the bootstrap, which is
//! authenticated); they [`Segment::join`]. A thread of the maker's process gives the descriptor to whoever
//! connects to a socket of a random name and knows the invitation's key: names of such sockets are visible to
//! everybody on the machine, so the name alone must not open it.
//!
//! Ranks of one machine may live in different namespaces. The ways in, first that works:
//!
//! 1. *socket*: one without a file; needs the same network namespace;
//! 2. *folder*: sockets with a file in the folders that ranks may have in common ([`folders`]). Made only if a
//!    rank has another network, since a kill at this moment would leave the file;
//! 3. *process*: the maker's descriptor, opened through its process. Needs a process namespace that holds
//!    both, and the right to look into each other.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::segment::Segment;
use crate::error::{Error, Result};
use crate::system::fork::Unshared;
use crate::system::{memfd, namespace, passing, random, thread};

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
    /// In which `pid` counts; 0 if unknown.
    process_namespace: u64,
}

/// How a segment was joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It was here already.
    Here,
    /// A socket of the same network namespace.
    Socket,
    /// A socket in a folder.
    Folder,
    /// Through the maker's process.
    Process,
}

impl Way {
    /// Why it was not the usual way; `None` if it was.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Way::Here | Way::Socket => None,
            Way::Folder => Some("through a socket in a folder, since its network namespace is another one"),
            Way::Process => Some("through its process, since its network namespace is another one"),
        }
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        write!(formatter, "Invitation({:032x} by process {})", self.segment, self.pid)
    }
}

impl Invitation {
    /// How long it is on the way.
    pub const BYTES: usize = 64;

    /// For the way.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Invitation::BYTES] {
        let mut bytes = [0; Invitation::BYTES];
        bytes[..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.name.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.key.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.pid.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.descriptor.to_le_bytes());
        bytes[56..].copy_from_slice(&self.process_namespace.to_le_bytes());
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
            process_namespace: u64::from_le_bytes(std::array::from_fn(|index| bytes[56 + index])),
        }
    }

    fn address(&self) -> Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("shoal-{:032x}", self.name))
            .map_err(|cause| Error::system("naming a local socket", cause, "see the cause"))
    }
}

/// Where sockets for ranks with another network lie: folders that containers often share, and the one that
/// TMPDIR names.
fn folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/dev/shm"), "/tmp".into(), "/var/tmp".into()];
    let named = std::env::temp_dir();
    if !folders.contains(&named) {
        folders.push(named);
    }
    folders
}

impl Invitation {
    fn file_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!("shoal-{:032x}", self.name))
    }
}

/// One socket, and the thread that serves it.
#[derive(Debug)]
struct Door {
    listener: Arc<Unshared<UnixListener>>,
    server: Option<JoinHandle<()>>,
    /// Removed with it.
    file: Option<PathBuf>,
}

impl Door {
    fn open(
        listener: UnixListener,
        file: Option<PathBuf>,
        segment: &Arc<Segment>,
        key: u128,
    ) -> Result<Door> {
        let mut door = Door { listener: Arc::new(Unshared::new(listener)), server: None, file };
        let (theirs, segment) = (Arc::clone(&door.listener), Arc::clone(segment));
        door.server = Some(thread::spawn("shoal-host", move || {
            loop {
                match theirs.accept() {
                    // A visitor without the key, or one that is gone again, is nobody's loss.
                    Ok((visitor, _)) => drop(welcome(&Unshared::new(visitor), &segment, key)),
                    // The listener was shut down.
                    Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => return,
                    // For want of descriptors, say; it may pass.
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        })?);
        Ok(door)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
        // SAFETY: the descriptor is open; shutting it down ends the server's accept.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Gives the segment to the processes of the other ranks until it is dropped.
#[derive(Debug)]
pub struct Host {
    invitation: Invitation,
    /// Kept for their drop.
    _doors: Vec<Door>,
}

impl Host {
    /// Starts to give `segment` away; `has_far_ranks`: also to ranks with another network namespace.
    ///
    /// # Errors
    /// The system refused a socket or a thread.
    pub fn open(segment: &Arc<Segment>, has_far_ranks: bool) -> Result<Host> {
        let invitation = Invitation {
            segment: segment.id(),
            name: random::wide(),
            key: random::wide(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            descriptor: segment.file().as_raw_fd(),
            process_namespace: namespace::own("pid"),
        };
        let listener = UnixListener::bind_addr(&invitation.address()?).map_err(|cause| {
            let remedy = "raise the limit on open files (ulimit -n)";
            Error::refused("opening a local socket", &cause, "sockets", remedy)
        })?;
        let mut doors = vec![Door::open(listener, None, segment, invitation.key)?];
        if has_far_ranks {
            for folder in folders() {
                let file = invitation.file_in(&folder);
                // A folder that is missing, full or read-only is one way less.
                let Ok(listener) = UnixListener::bind(&file) else { continue };
                doors.push(Door::open(listener, Some(file), segment, invitation.key)?);
            }
        }
        Ok(Host { invitation, _doors: doors })
    }

    /// What the others need.
    #[must_use]
    pub const fn invitation(&self) -> Invitation {
        self.invitation
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
    /// Joins the segment that `invitation` names, at most until `deadline`; also says how.
    ///
    /// # Errors
    /// It could not be had in time; by all ways, with their causes.
    pub fn join(invitation: &Invitation, deadline: Instant) -> Result<(Arc<Segment>, Way)> {
        if let Some(known) = Segment::find(invitation.segment) {
            return Ok((known, Way::Here));
        }
        let (file, way) = match visit(&invitation.address()?, invitation, deadline) {
            Ok(file) => (file, Way::Socket),
            // A thread of this process may have been faster, and a second descriptor could not be closed.
            Err(refused) => match Segment::find(invitation.segment) {
                Some(known) => return Ok((known, Way::Here)),
                None => from_afar(invitation, deadline, &refused)?,
            },
        };
        Ok((Segment::adopt(file, invitation.segment)?, way))
    }
}

/// The ways that lead through a folder or a process.
fn from_afar(invitation: &Invitation, deadline: Instant, refused: &Error) -> Result<(OwnedFd, Way)> {
    let mut causes = vec![refused.to_string()];
    for folder in folders() {
        let Ok(address) = SocketAddr::from_pathname(invitation.file_in(&folder)) else { continue };
        match visit(&address, invitation, deadline) {
            Ok(file) => return Ok((file, Way::Folder)),
            Err(cause) => causes.push(format!("by {}: {cause}", folder.display())),
        }
    }
    match through_process(invitation) {
        Ok(file) => Ok((file, Way::Process)),
        Err(cause) => Err(Error::system(
            format_args!("joining the shared memory of process {}", invitation.pid),
            format_args!("{}; and through /proc: {cause}", causes.join("; ")),
            "let the ranks of this machine share the network namespace, the process namespace, or a folder (/dev/shm, /tmp \
             or the one in TMPDIR)",
        )),
    }
}

fn through_process(invitation: &Invitation) -> std::io::Result<OwnedFd> {
    let pid = namespace::process_here(invitation.pid, invitation.process_namespace)
        .ok_or_else(|| std::io::Error::new(ErrorKind::NotFound, "it is in another process namespace"))?;
    if !memfd::is_named(pid, invitation.descriptor, Segment::NAME) {
        return Err(std::io::Error::new(ErrorKind::PermissionDenied, "its descriptors cannot be seen"));
    }
    memfd::open_of(pid, invitation.descriptor, true)
}

fn visit(address: &SocketAddr, invitation: &Invitation, deadline: Instant) -> Result<OwnedFd> {
    let fault = |cause: std::io::Error| {
        Error::system("connecting to the local leader", cause, "see whether its process has ended")
    };
    let stream = loop {
        match UnixStream::connect_addr(address) {
            // A signal of the program's.
            Err(cause) if cause.kind() == ErrorKind::Interrupted && Instant::now() < deadline => {}
            other => break other.map_err(fault)?,
        }
    };
    passing::say(&stream, &invitation.key.to_le_bytes()).map_err(fault)?;
    passing::receive(&stream, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn invitations_survive_the_way() {
        let segment = Segment::create(2, 8192).expect("memory");
        let host = Host::open(&segment, false).expect("a host");
        let invitation = host.invitation();
        assert_eq!(Invitation::from_bytes(&invitation.to_bytes()), invitation);
        assert!(!format!("{invitation:?}").contains(&format!("{:x}", invitation.key)));
    }

    #[test]
    fn visitors_with_the_key_get_the_file_and_others_nothing() {
        let segment = Segment::create(2, 8192).expect("memory");
        let host = Host::open(&segment, false).expect("a host");
        let soon = || Instant::now() + Duration::from_secs(5);
        let invitation = host.invitation();
        let address = invitation.address().expect("a name");
        let wrong = Invitation { key: 1, ..invitation };
        assert!(visit(&address, &wrong, soon()).is_err());
        let file = visit(&address, &invitation, soon()).expect("welcome");
        assert!(memfd::sealed_bytes(file.as_fd()).is_ok());
        let (known, way) = Segment::join(&invitation, soon()).expect("known here");
        assert!(Arc::ptr_eq(&known, &segment) && way == Way::Here);
        let adopted = Segment::adopt(file, segment.id()).expect("the same");
        assert!(Arc::ptr_eq(&adopted, &segment));
        drop(host);
        assert!(visit(&address, &wrong, soon()).is_err());
    }

    #[test]
    fn who_comes_from_afar_finds_a_folder_or_the_process() {
        let segment = Segment::create(2, 8192).expect("memory");
        let soon = Instant::now() + Duration::from_secs(5);
        let far = Host::open(&segment, true).expect("a host");
        let invitation = far.invitation();
        let files: Vec<PathBuf> = folders().iter().map(|folder| invitation.file_in(folder)).collect();
        assert!(files.iter().any(|file| file.exists()));
        let refused = Error::Internal("a test".into());
        let (file, way) = from_afar(&invitation, soon, &refused).expect("welcome");
        assert_eq!((memfd::sealed_bytes(file.as_fd()).is_ok(), way), (true, Way::Folder));
        Segment::adopt(file, segment.id()).expect("kept, since closing it would take locks");
        drop(far);
        assert!(!files.iter().any(|file| file.exists()));
        let near = Host::open(&segment, false).expect("a host");
        let (file, way) = from_afar(&near.invitation(), soon, &refused).expect("one's own process");
        assert_eq!(way, Way::Process);
        Segment::adopt(file, segment.id()).expect("kept");
        let elsewhere = Invitation { process_namespace: 1, ..near.invitation() };
        let text = from_afar(&elsewhere, soon, &refused).expect_err("no way").to_string();
        assert!(text.contains("another process namespace") && text.contains("TMPDIR"), "{text}");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let file = memfd::create(c"shoal-test", 1 << 20).expect("memory");
        assert!(Segment::adopt(file, 7).is_err());
    }
}
