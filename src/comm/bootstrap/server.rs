//! The thread that serves one rendezvous: owns the root's sockets, and does what the [`Root`] asks.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::line::{Incoming, Line};
use super::root::{ConnectionId, Event, Root, Settings, Time};
use crate::system::socket::{self, Interest, READABLE, WRITABLE};

/// How long a connection that was closed by the root may take to read its last words.
const LINGER: Duration = Duration::from_secs(2);
/// How long nobody is accepted after the system had no room for another connection.
const NO_ROOM_WAIT: Duration = Duration::from_millis(50);
/// The most connections that are accepted before those that stand are looked at.
const ACCEPTS_MAX: usize = 64;
const SCRATCH_BYTES: usize = 64 << 10;

/// The roots of this process, each with what wakes it to end. In a forked child the lock may be held for
/// ever by a thread that is not there; whoever cannot have it at once goes without.
static ROOTS: Mutex<Roots> = Mutex::new(Vec::new());

type Roots = Vec<Registered>;

/// A root of this process. An address set by hand has several with the same communicator, one after another.
struct Registered {
    serial: u64,
    communicator: [u8; 16],
    wake: UnixStream,
}

fn roots() -> Option<MutexGuard<'static, Roots>> {
    const LOOKS: usize = 1000;
    for _ in 0..LOOKS {
        match ROOTS.try_lock() {
            Ok(guard) => return Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// Starts the thread that serves the rendezvous at `listener`.
pub(super) fn start(listener: TcpListener, settings: Settings) -> io::Result<()> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut server = Server {
        root: Root::new(settings),
        listener: Some(listener),
        woken,
        unregistered: None,
        lines: HashMap::new(),
        next: 0,
        began: Instant::now(),
        accept_after: Time::ZERO,
        scratch: vec![0; SCRATCH_BYTES],
    };
    let registered = Registered { serial, communicator: settings.communicator, wake };
    match roots() {
        Some(mut roots) => roots.push(registered),
        None => server.unregistered = Some(registered.wake),
    }
    let started = socket::spawn_quiet("shoal-root", move || {
        // Without a working poll nothing can be served; the members then hear that the root closed.
        let _ = server.serve();
        forget(serial);
    });
    if started.is_err() {
        forget(serial);
    }
    started
}

/// Ends the root of `communicator`, if it is in this process: nobody will come.
pub(super) fn retire(communicator: [u8; 16]) {
    let Some(roots) = roots() else { return };
    for root in roots.iter().filter(|root| root.communicator == communicator) {
        let _ = (&root.wake).write(&[1]);
    }
}

/// Whether a root of `communicator` is in this process.
#[cfg(test)]
pub(super) fn is_serving(communicator: [u8; 16]) -> bool {
    roots().is_some_and(|roots| roots.iter().any(|root| root.communicator == communicator))
}

fn forget(serial: u64) {
    if let Some(mut roots) = roots() {
        roots.retain(|root| root.serial != serial);
    }
}

/// A line of the root.
#[derive(Debug)]
struct Served {
    line: Line,
    /// Set when only the queue is still to be sent; then by when.
    closing: Option<Time>,
    /// The end of the queue was announced.
    ended: bool,
    /// Something happened since it was last looked at.
    touched: bool,
}

/// The sockets and the clock of one root. Forked children have copies of the sockets, so what is over is ended
/// explicitly.
struct Server {
    root: Root,
    listener: Option<TcpListener>,
    woken: UnixStream,
    /// The other end, if it could not be registered: without it this one would seem to be woken.
    unregistered: Option<UnixStream>,
    lines: HashMap<ConnectionId, Served>,
    next: ConnectionId,
    began: Instant,
    accept_after: Time,
    scratch: Vec<u8>,
}

impl Server {
    fn serve(mut self) -> io::Result<()> {
        let mut interests = Vec::new();
        let mut connections = Vec::new();
        while !(self.root.is_finished() && self.lines.is_empty()) {
            self.list_interests(&mut interests, &mut connections);
            socket::wait(&mut interests, self.timeout())?;
            if interests[0].revents != 0 {
                return Ok(());
            }
            for (interest, connection) in interests[1..].iter().zip(&connections) {
                if interest.revents != 0 {
                    self.receive(*connection);
                }
            }
            if interests.len() > connections.len() + 1 && interests[connections.len() + 1].revents != 0 {
                self.accept();
            }
            let now = self.now();
            self.root.handle_timeout(now);
            self.obey();
        }
        Ok(())
    }

    /// First what ends the thread, then all lines, last the listener if somebody may be accepted.
    fn list_interests(&self, interests: &mut Vec<Interest>, connections: &mut Vec<ConnectionId>) {
        interests.clear();
        connections.clear();
        interests.push(socket::interest(&self.woken, READABLE));
        for (connection, served) in &self.lines {
            let events = if served.line.is_flushed() { READABLE } else { READABLE | WRITABLE };
            interests.push(socket::interest(served.line.stream(), events));
            connections.push(*connection);
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| self.accept_after <= self.now()) {
            interests.push(socket::interest(listener, READABLE));
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = self.now();
        let closing = self.lines.values().filter_map(|served| served.closing).min();
        let accept = (self.accept_after > now).then_some(self.accept_after);
        let next = [self.root.poll_timeout(), closing, accept].into_iter().flatten().min();
        next.map(|next| next.saturating_sub(now))
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Who was in the queue and left is no reason to pause; anything else means no room.
                    let left = [io::ErrorKind::ConnectionAborted, io::ErrorKind::Interrupted];
                    if !left.contains(&error.kind()) {
                        self.root.handle_no_room();
                        self.accept_after = self.now() + NO_ROOM_WAIT;
                        return;
                    }
                    continue;
                }
            };
            let nonce = socket::random_bytes();
            let (Ok(()), Ok(nonce)) = (stream.set_nonblocking(true), nonce) else { continue };
            let (connection, now) = (self.next, self.now());
            self.next += 1;
            let line = Line::new(stream);
            self.lines.insert(connection, Served { line, closing: None, ended: false, touched: true });
            self.root.handle_connected(now, connection, nonce);
        }
    }

    fn receive(&mut self, connection: ConnectionId) {
        let now = self.now();
        let Some(served) = self.lines.get_mut(&connection) else { return };
        served.touched = true;
        match served.line.receive(&mut self.scratch) {
            Ok(Incoming::Nothing) => {}
            // Of a line that closes, what still comes is read so that its last words are not lost.
            Ok(Incoming::Bytes(_)) if served.closing.is_some() => {}
            Ok(Incoming::Bytes(count)) => self.root.handle_input(now, connection, &self.scratch[..count]),
            Ok(Incoming::End) | Err(_) => {
                self.close(connection);
                self.root.handle_closed(connection);
            }
        }
    }

    /// Does what the root asks, then sends. The listener closes before anyone hears that the birth is over.
    fn obey(&mut self) {
        let now = self.now();
        while let Some(transmit) = self.root.poll_transmit() {
            let Some(served) = self.lines.get_mut(&transmit.connection) else { continue };
            if !transmit.optional || served.line.is_flushed() {
                served.line.enqueue(transmit.bytes);
                served.touched = true;
            }
        }
        while let Some(event) = self.root.poll_event() {
            match event {
                Event::StopListening => self.stop_listening(),
                Event::Close(connection) => {
                    if let Some(served) = self.lines.get_mut(&connection) {
                        served.closing = Some(now + LINGER);
                        served.touched = true;
                    }
                }
            }
        }
        self.send_and_close(now);
    }

    fn send_and_close(&mut self, now: Time) {
        let mut broken = Vec::new();
        let mut over = Vec::new();
        for (connection, served) in &mut self.lines {
            if served.closing.is_some_and(|deadline| deadline <= now) {
                over.push(*connection);
            } else if std::mem::take(&mut served.touched) {
                if served.line.flush().is_err() {
                    broken.push(*connection);
                } else if served.closing.is_some() && served.line.is_flushed() && !served.ended {
                    served.ended = true;
                    served.line.end();
                }
            }
        }
        over.into_iter().for_each(|connection| self.close(connection));
        for connection in broken {
            self.close(connection);
            self.root.handle_closed(connection);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(served) = self.lines.remove(&connection) {
            served.line.close();
        }
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            socket::stop_listening(listener);
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        for (_, served) in self.lines.drain() {
            served.line.close();
        }
    }
}
