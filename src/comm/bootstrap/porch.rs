//! This process's place to meet: one listener and one thread, there while something here needs them.
//!
//! A forked child has none of its parent's threads, and what it inherits of this is the parent's. So each
//! generation of processes has a slot of its own, and a child never looks at its parent's, whose lock may be
//! held for ever by a thread that is not there.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::epitaph::Legacy;
use super::line::Line;
use super::root::Settings;
use super::server::{Serial, Server};
use crate::error::{Error, Result};
use crate::system::fork::{self, Unshared};
use crate::system::socket;

/// So many forks may lie between the first process that used the library and one that uses it.
const GENERATIONS_MAX: usize = 64;

static SLOTS: [Mutex<Option<Hall>>; GENERATIONS_MAX] = [const { Mutex::new(None) }; GENERATIONS_MAX];

/// What the thread is asked to do.
pub(super) enum Command {
    /// Accept whoever comes there.
    Listen(Unshared<TcpListener>),
    /// Hold a rendezvous; with a listener of its own if its address was set by hand.
    Serve { serial: Serial, settings: Settings, listener: Option<Unshared<TcpListener>> },
    /// End the rendezvous of this communicator: nobody will come.
    Retire([u8; 16]),
    /// Hand over who comes for this door, or (without a mailbox) do not any more.
    Expect([u8; 16], Option<Arc<Mailbox>>),
    /// Tell whoever comes to the door of a rank that gave up, for so long.
    Mourn(Legacy, Duration),
    /// Send what is queued there, then close.
    Finish(Line),
}

/// Where a session finds who came to its door.
#[derive(Debug)]
pub(super) struct Mailbox {
    arrivals: Mutex<Vec<(Line, Vec<u8>)>>,
    wake: UnixStream,
}

impl Mailbox {
    /// The mailbox, and what becomes readable when somebody came.
    pub(super) fn new() -> io::Result<(Arc<Mailbox>, UnixStream)> {
        let (wake, woken) = wake_pair()?;
        Ok((Arc::new(Mailbox { arrivals: Mutex::default(), wake }), woken))
    }

    pub(super) fn put(&self, line: Line, words: Vec<u8>) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push((line, words));
        let _ = (&self.wake).write(&[1]);
    }

    pub(super) fn take(&self) -> Vec<(Line, Vec<u8>)> {
        std::mem::take(&mut self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Two ends that never block; a full one wakes as well as one more byte.
fn wake_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((wake, woken))
}

/// What the thread and those who need it share.
struct Hall {
    wake: UnixStream,
    commands: Vec<Command>,
    /// How many [`Porch`]es there are.
    user_count: usize,
    /// The rendezvous that are held.
    serving: Vec<(Serial, [u8; 16])>,
    next_serial: Serial,
    /// The listeners for everybody, by the settings that they were opened with.
    doors: Vec<(String, Vec<SocketAddr>)>,
}

impl Hall {
    fn ask(&mut self, command: Command) {
        self.commands.push(command);
        let _ = (&self.wake).write(&[1]);
    }
}

fn slot(generation: u32) -> MutexGuard<'static, Option<Hall>> {
    let index = (generation as usize).min(GENERATIONS_MAX - 1);
    SLOTS[index].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps this process's place to meet open.
#[derive(Debug)]
pub(super) struct Porch {
    generation: u32,
    addresses: Vec<SocketAddr>,
}

impl Porch {
    /// Opens it, or shares the one that is open. `key` says by which settings `listen` opens a listener; one
    /// that is open by the same settings is taken instead.
    pub(super) fn open(
        key: &str,
        listen: impl FnOnce() -> Result<(Vec<Unshared<TcpListener>>, Vec<SocketAddr>)>,
    ) -> Result<Arc<Porch>> {
        let mut porch = Porch::without_listener()?;
        let mut slot = slot(porch.generation);
        let hall = slot.as_mut().ok_or_else(ended)?;
        if let Some((_, addresses)) = hall.doors.iter().find(|(known, _)| known == key) {
            porch.addresses.clone_from(addresses);
            return Ok(Arc::new(porch));
        }
        let opened = listen();
        if let Ok((_, addresses)) = &opened {
            porch.addresses.clone_from(addresses);
            hall.doors.push((key.to_owned(), addresses.clone()));
        }
        // An error drops the porch, which wants the lock.
        let asked = opened.map(|(listeners, _)| {
            listeners.into_iter().for_each(|listener| hall.ask(Command::Listen(listener)));
        });
        drop(slot);
        asked.map(|()| Arc::new(porch))
    }

    /// The thread alone, for a rendezvous that has a listener of its own.
    pub(super) fn without_listener() -> Result<Porch> {
        let generation = fork::generation();
        if generation as usize >= GENERATIONS_MAX {
            return Err(Error::usage(
                "ncclCommInitRank",
                format!("this process is a child of {generation} that forked one another"),
                "start communicators in processes that were executed",
            ));
        }
        let mut slot = slot(generation);
        let hall = match slot.as_mut() {
            Some(hall) => hall,
            None => slot.insert(start(generation).map_err(|cause| {
                Error::refused(
                    "starting the thread at which ranks meet",
                    &cause,
                    "threads and sockets",
                    "raise the limits of threads and open files (ulimit -u, -n)",
                )
            })?),
        };
        hall.user_count += 1;
        Ok(Porch { generation, addresses: Vec::new() })
    }

    /// Where this process may be reached.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether it is of the process that made it, rather than of a child that inherited it.
    pub(super) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Hands over who comes for `door`, or does not any more.
    pub(super) fn expect(&self, door: [u8; 16], mailbox: Option<Arc<Mailbox>>) {
        if let Some(hall) = slot(self.generation).as_mut() {
            hall.ask(Command::Expect(door, mailbox));
        }
    }

    /// Tells whoever comes to the door of a rank that gave up, for so long.
    pub(super) fn mourn(&self, legacy: Legacy, span: Duration) {
        if let Some(hall) = slot(self.generation).as_mut() {
            hall.ask(Command::Mourn(legacy, span));
        }
    }

    /// Sends what is queued there and closes it, while this rank goes on.
    pub(super) fn finish(&self, line: Line) {
        if let Some(hall) = slot(self.generation).as_mut() {
            hall.ask(Command::Finish(line));
        }
    }

    /// Holds a rendezvous here, until it is over.
    pub(super) fn serve(&self, settings: Settings, listener: Option<Unshared<TcpListener>>) -> Result<()> {
        let mut slot = slot(self.generation);
        let hall = slot.as_mut().ok_or_else(ended)?;
        let serial = hall.next_serial;
        hall.next_serial += 1;
        hall.serving.push((serial, settings.communicator));
        hall.ask(Command::Serve { serial, settings, listener });
        Ok(())
    }
}

impl Drop for Porch {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        if let Some(hall) = slot(self.generation).as_mut() {
            hall.user_count -= 1;
            let _ = (&hall.wake).write(&[1]);
        }
    }
}

/// Ends the rendezvous of `communicator`, if it is held in this process.
pub(super) fn retire(communicator: [u8; 16]) {
    if let Some(hall) = slot(fork::generation()).as_mut()
        && hall.serving.iter().any(|(_, serving)| *serving == communicator)
    {
        hall.ask(Command::Retire(communicator));
    }
}

/// Whether a rendezvous of `communicator` is held in this process.
#[cfg(test)]
pub(super) fn is_serving(communicator: [u8; 16]) -> bool {
    slot(fork::generation())
        .as_ref()
        .is_some_and(|hall| hall.serving.iter().any(|(_, serving)| *serving == communicator))
}

/// Whether this process has its thread.
#[cfg(test)]
pub(super) fn is_open() -> bool {
    slot(fork::generation()).is_some()
}

fn start(generation: u32) -> io::Result<Hall> {
    let (wake, woken) = wake_pair()?;
    // Closed until the thread has it: if there will be none, it is dropped here, under the lock that it would take.
    let desk = Desk { generation, closed: Cell::new(true) };
    socket::spawn_quiet("shoal-root", move || {
        desk.closed.set(false);
        // Without a working poll nothing can be served; the members then hear that the root closed.
        let _ = Server::new(desk, woken).serve();
    })?;
    Ok(Hall {
        wake,
        commands: Vec::new(),
        user_count: 0,
        serving: Vec::new(),
        next_serial: 0,
        doors: Vec::new(),
    })
}

fn ended() -> Error {
    Error::Internal("the thread at which ranks meet has ended".into())
}

/// The thread's side. However the thread ends, the next who needs one starts another.
pub(super) struct Desk {
    generation: u32,
    closed: Cell<bool>,
}

impl Desk {
    /// What is to be done.
    pub(super) fn take(&self) -> Vec<Command> {
        slot(self.generation).as_mut().map(|hall| std::mem::take(&mut hall.commands)).unwrap_or_default()
    }

    /// A rendezvous is over.
    pub(super) fn is_over(&self, serial: Serial) {
        if let Some(hall) = slot(self.generation).as_mut() {
            hall.serving.retain(|(known, _)| *known != serial);
        }
    }

    /// Ends the thread's office if nobody needs it.
    pub(super) fn close_if_unused(&self) -> bool {
        let mut slot = slot(self.generation);
        let unused = slot.as_ref().is_none_or(|hall| hall.user_count == 0 && hall.commands.is_empty());
        if unused {
            *slot = None;
            self.closed.set(true);
        }
        unused
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !self.closed.get() {
            *slot(self.generation) = None;
        }
    }
}
