//! The thread at which ranks meet: one per process, with the sockets of all rendezvous here. It does what the
//! [`Lobby`] and each [`Root`] ask.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::epitaph::Epitaph;
use super::line::{Incoming, Line};
use super::lobby::{Lobby, Verdict};
use super::message::Message;
use super::porch::{Command, Desk, Mailbox};
use super::root::{ConnectionId, Event, Root, Time};
use crate::system::fork::Shed;
use crate::system::socket::{self, Interest, READABLE, WRITABLE};
use crate::trace::log;

/// How long a connection that was closed here may take to read its last words.
const LINGER: Duration = Duration::from_secs(2);
/// How long nobody is accepted after the system had no room for another connection.
const NO_ROOM_WAIT: Duration = Duration::from_millis(50);
/// The most connections that are accepted before those that stand are looked at.
const ACCEPTS_MAX: usize = 64;
const SCRATCH_BYTES: usize = 64 << 10;

/// Numbers the roots of a process; an address set by hand has several with the same communicator, one after
/// another.
pub(super) type Serial = u64;

/// Whom a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Lobby,
    Root(Serial),
    /// The door of a rank that gave up.
    Epitaph([u8; 16]),
    /// Nobody's any more.
    Leaving,
}

/// A connection.
#[derive(Debug)]
struct Served {
    line: Line,
    home: Home,
    /// Set when only the queue is still to be sent; then by when.
    closing: Option<Time>,
    /// The end of the queue was announced.
    ended: bool,
    /// Something happened since it was last looked at.
    touched: bool,
}

/// A listener; one that was opened for a root goes with it.
struct Door {
    /// Who connects reaches this process and no child of it.
    _shed: Shed,
    listener: TcpListener,
    root: Option<Serial>,
}

impl Door {
    fn new(listener: TcpListener, root: Option<Serial>) -> Door {
        Door { _shed: Shed::new(&listener), listener, root }
    }

    fn close(self) {
        let Door { _shed, listener, .. } = self;
        drop(_shed);
        socket::stop_listening(listener);
    }
}

/// A rendezvous that is held here.
struct Hosted {
    root: Root,
    communicator: [u8; 16],
    expects: bool,
    /// How many the lobby had turned away before.
    strangers_before: u64,
}

/// The sockets and the clock. Forked children have copies of the sockets, so what is over is ended explicitly.
pub(super) struct Server {
    desk: Desk,
    woken: UnixStream,
    doors: Vec<Door>,
    lobby: Lobby,
    roots: HashMap<Serial, Hosted>,
    /// The sessions of this process to whose doors others come.
    mailboxes: HashMap<[u8; 16], Arc<Mailbox>>,
    epitaphs: HashMap<[u8; 16], Epitaph>,
    lines: HashMap<ConnectionId, Served>,
    next: ConnectionId,
    began: Instant,
    accept_after: Time,
    scratch: Vec<u8>,
}

impl Server {
    pub(super) fn new(desk: Desk, woken: UnixStream) -> Server {
        Server {
            desk,
            woken,
            doors: Vec::new(),
            lobby: Lobby::default(),
            roots: HashMap::new(),
            mailboxes: HashMap::new(),
            epitaphs: HashMap::new(),
            lines: HashMap::new(),
            next: 0,
            began: Instant::now(),
            accept_after: Time::ZERO,
            scratch: vec![0; SCRATCH_BYTES],
        }
    }

    /// Works until nobody in the process needs it any more.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let mut interests = Vec::new();
        let mut connections = Vec::new();
        loop {
            self.take_commands();
            self.obey();
            let idle = self.roots.is_empty() && !self.lines.values().any(|served| served.closing.is_some());
            if idle && self.desk.close_if_unused() {
                return Ok(());
            }
            self.list_interests(&mut interests, &mut connections);
            socket::wait(&mut interests, self.timeout())?;
            if interests[0].revents != 0 {
                while (&self.woken).read(&mut self.scratch).is_ok_and(|count| count > 0) {}
            }
            let (of_lines, of_doors) = interests[1..].split_at(connections.len());
            for (interest, connection) in of_lines.iter().zip(&connections) {
                if interest.revents != 0 {
                    self.receive(*connection);
                }
            }
            if of_doors.iter().any(|interest| interest.revents != 0) {
                (0..self.doors.len()).for_each(|door| self.accept(door));
            }
            let now = self.now();
            self.lobby.handle_timeout(now);
            let strangers = self.lobby.refused_count();
            for hosted in self.roots.values_mut() {
                hosted.root.handle_strangers(strangers - hosted.strangers_before);
                hosted.root.handle_timeout(now);
            }
            self.epitaphs.retain(|_, epitaph| !epitaph.is_over(now));
            self.epitaphs.values_mut().for_each(|epitaph| epitaph.handle_timeout(now));
        }
    }

    fn take_commands(&mut self) {
        for command in self.desk.take() {
            match command {
                Command::Listen(listener) => self.doors.push(Door::new(listener, None)),
                Command::Serve { serial, settings, listener } => {
                    let communicator = settings.communicator;
                    if let Some(listener) = listener {
                        self.doors.push(Door::new(listener, Some(serial)));
                    }
                    let root = Root::new(settings);
                    let strangers_before = self.lobby.refused_count();
                    let hosted = Hosted { root, communicator, expects: true, strangers_before };
                    self.roots.insert(serial, hosted);
                    self.lobby.expect(communicator);
                }
                Command::Expect(door, Some(mailbox)) => {
                    self.mailboxes.insert(door, mailbox);
                    self.lobby.expect(door);
                }
                Command::Expect(door, None) => {
                    self.mailboxes.remove(&door);
                }
                Command::Mourn(legacy, span) => {
                    let (door, until) = (legacy.door, self.now().saturating_add(span));
                    self.epitaphs.insert(door, Epitaph::new(legacy, until));
                    self.lobby.expect(door);
                }
                Command::Finish(line) => {
                    let (connection, now) = (self.next, self.now());
                    self.next += 1;
                    let (home, closing) = (Home::Leaving, Some(now + LINGER));
                    self.lines
                        .insert(connection, Served { line, home, closing, ended: false, touched: true });
                }
                Command::Retire(communicator) => {
                    let over: Vec<Serial> = self
                        .roots
                        .iter()
                        .filter(|(_, h)| h.communicator == communicator)
                        .map(|(s, _)| *s)
                        .collect();
                    for serial in over {
                        self.stop_expecting(serial);
                        self.close_all_of(serial);
                        self.forget(serial);
                    }
                }
            }
        }
    }

    /// First what wakes the thread, then all lines, last the listeners if somebody may be accepted.
    fn list_interests(&self, interests: &mut Vec<Interest>, connections: &mut Vec<ConnectionId>) {
        interests.clear();
        connections.clear();
        interests.push(socket::interest(&self.woken, READABLE));
        for (connection, served) in &self.lines {
            let events = if served.line.is_flushed() { READABLE } else { READABLE | WRITABLE };
            interests.push(socket::interest(served.line.stream(), events));
            connections.push(*connection);
        }
        if self.accept_after <= self.now() {
            interests.extend(self.doors.iter().map(|door| socket::interest(&door.listener, READABLE)));
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = self.now();
        let closing = self.lines.values().filter_map(|served| served.closing).min();
        let accept = (self.accept_after > now).then_some(self.accept_after);
        let roots = self.roots.values().filter_map(|hosted| hosted.root.poll_timeout()).min();
        let epitaphs = self.epitaphs.values().map(Epitaph::poll_timeout).min();
        let next = [roots, epitaphs, self.lobby.poll_timeout(), closing, accept].into_iter().flatten().min();
        next.map(|next| next.saturating_sub(now))
    }

    fn accept(&mut self, door: usize) {
        for _ in 0..ACCEPTS_MAX {
            let Some(door) = self.doors.get(door) else { return };
            let stream = match door.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Who was in the queue and left is no reason to pause; anything else means no room.
                    let left = [io::ErrorKind::ConnectionAborted, io::ErrorKind::Interrupted];
                    if !left.contains(&error.kind()) {
                        self.roots.values_mut().for_each(|hosted| hosted.root.handle_no_room());
                        self.accept_after = self.now() + NO_ROOM_WAIT;
                        return;
                    }
                    continue;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let (connection, now) = (self.next, self.now());
            self.next += 1;
            let (line, home) = (Line::new(stream), Home::Lobby);
            self.lines.insert(connection, Served { line, home, closing: None, ended: false, touched: true });
            self.lobby.handle_connected(now, connection);
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
            Ok(Incoming::Bytes(count)) => {
                let (bytes, roots) = (&self.scratch[..count], &mut self.roots);
                let (mailboxes, epitaphs) = (&self.mailboxes, &mut self.epitaphs);
                match served.home {
                    Home::Leaving => {}
                    Home::Epitaph(door) => {
                        if let Some(epitaph) = epitaphs.get_mut(&door) {
                            epitaph.handle_input(connection, bytes);
                        }
                    }
                    Home::Lobby => self.lobby.handle_input(now, connection, bytes, |wanted| {
                        mailboxes.contains_key(wanted)
                            || epitaphs.contains_key(wanted)
                            || roots.values().any(|hosted| hosted.expects && hosted.communicator == *wanted)
                    }),
                    Home::Root(serial) => {
                        if let Some(hosted) = roots.get_mut(&serial) {
                            hosted.root.handle_input(now, connection, bytes);
                        }
                    }
                }
            }
            Ok(Incoming::End) | Err(_) => self.lose(connection),
        }
    }

    /// Does what lobby and roots ask, then sends.
    fn obey(&mut self) {
        let now = self.now();
        while let Some(verdict) = self.lobby.poll_verdict() {
            self.carry_out(now, verdict);
        }
        let serials: Vec<Serial> = self.roots.keys().copied().collect();
        for serial in serials {
            self.obey_root(now, serial);
        }
        self.obey_epitaphs(now);
        self.send_and_close(now);
    }

    fn obey_epitaphs(&mut self, now: Time) {
        let mut over = Vec::new();
        for epitaph in self.epitaphs.values_mut() {
            while let Some((connection, frame)) = epitaph.poll_transmit() {
                if let Some(served) = self.lines.get_mut(&connection) {
                    served.line.enqueue(frame);
                    served.touched = true;
                }
            }
            over.extend(std::iter::from_fn(|| epitaph.poll_close()));
        }
        over.into_iter().for_each(|connection| self.close_later(now, connection));
    }

    fn carry_out(&mut self, now: Time, verdict: Verdict) {
        match verdict {
            Verdict::Enter { connection, communicator, words }
                if self.mailboxes.contains_key(&communicator) =>
            {
                let served = self.lines.remove(&connection);
                if let (Some(served), Some(mailbox)) = (served, self.mailboxes.get(&communicator)) {
                    mailbox.put(served.line, words);
                }
            }
            Verdict::Enter { connection, communicator, words }
                if self.epitaphs.contains_key(&communicator) =>
            {
                let (served, epitaph) =
                    (self.lines.get_mut(&connection), self.epitaphs.get_mut(&communicator));
                match (served, epitaph, socket::random_bytes()) {
                    (Some(served), Some(epitaph), Ok(nonce)) => {
                        served.home = Home::Epitaph(communicator);
                        epitaph.handle_arrival(now, connection, nonce, &words);
                    }
                    _ => self.lose(connection),
                }
            }
            Verdict::Enter { connection, communicator, words } => {
                let host = self.roots.iter_mut().find(|(_, h)| h.expects && h.communicator == communicator);
                let (Some((serial, hosted)), Some(served)) = (host, self.lines.get_mut(&connection)) else {
                    // It stopped expecting in between; who comes again hears why.
                    return self.lose(connection);
                };
                served.home = Home::Root(*serial);
                match socket::random_bytes() {
                    Ok(nonce) => {
                        hosted.root.handle_connected(now, connection, nonce);
                        hosted.root.handle_input(now, connection, &words);
                    }
                    Err(_) => self.lose(connection),
                }
            }
            Verdict::Refuse { connection, message } => self.dismiss(now, connection, &message),
        }
    }

    /// The listener of a root closes before anyone hears that the birth is over.
    fn obey_root(&mut self, now: Time, serial: Serial) {
        loop {
            let Some(hosted) = self.roots.get_mut(&serial) else { return };
            if let Some(transmit) = hosted.root.poll_transmit() {
                if let Some(served) = self.lines.get_mut(&transmit.connection)
                    && (!transmit.optional || served.line.is_flushed())
                {
                    served.line.enqueue(transmit.bytes);
                    served.touched = true;
                }
                continue;
            }
            match hosted.root.poll_event() {
                Some(Event::StopListening) => self.stop_expecting(serial),
                Some(Event::Close(connection)) => self.close_later(now, connection),
                None if hosted.root.is_finished() => return self.forget(serial),
                None => return,
            }
        }
    }

    fn dismiss(&mut self, now: Time, connection: ConnectionId, message: &Message) {
        if let Some(served) = self.lines.get_mut(&connection) {
            served.line.enqueue(message.encode());
        }
        self.close_later(now, connection);
    }

    fn close_later(&mut self, now: Time, connection: ConnectionId) {
        if let Some(served) = self.lines.get_mut(&connection) {
            served.closing = Some(now + LINGER);
            served.touched = true;
        }
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
        over.into_iter().chain(broken).for_each(|connection| self.lose(connection));
    }

    /// The connection is over; whoever has it hears so.
    fn lose(&mut self, connection: ConnectionId) {
        let Some(served) = self.lines.remove(&connection) else { return };
        served.line.close();
        match served.home {
            Home::Leaving => {}
            Home::Epitaph(door) => {
                if let Some(epitaph) = self.epitaphs.get_mut(&door) {
                    epitaph.handle_closed(connection);
                }
            }
            Home::Lobby => self.lobby.handle_closed(connection),
            Home::Root(serial) => {
                if let Some(hosted) = self.roots.get_mut(&serial) {
                    hosted.root.handle_closed(connection);
                }
            }
        }
    }

    fn close_all_of(&mut self, serial: Serial) {
        let home = Home::Root(serial);
        let own: Vec<_> = self.lines.iter().filter(|(_, s)| s.home == home).map(|(id, _)| *id).collect();
        own.into_iter().for_each(|connection| self.lose(connection));
    }

    fn stop_expecting(&mut self, serial: Serial) {
        if let Some(hosted) = self.roots.get_mut(&serial) {
            hosted.expects = false;
        }
        while let Some(at) = self.doors.iter().position(|door| door.root == Some(serial)) {
            self.doors.swap_remove(at).close();
        }
    }

    fn forget(&mut self, serial: Serial) {
        if let Some(hosted) = self.roots.remove(&serial) {
            let count = hosted.root.refused() + self.lobby.refused_count() - hosted.strangers_before;
            if count > 0 {
                log::info(format_args!(
                    "{count} connections were turned away while ranks met here; they did not prove to be ranks"
                ));
            }
        }
        self.desk.is_over(serial);
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.doors.drain(..).for_each(Door::close);
        for (_, served) in self.lines.drain() {
            served.line.close();
        }
    }
}
