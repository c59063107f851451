//! One rank's end of the exchange: owns the member's sockets, and does what the [`Member`] asks.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kin::Kin;
use super::line::{Incoming, Line};
use super::member::{Attempt, Event, Member, Obstacle, Settings};
use super::message::PAYLOAD_BYTES_MAX;
use super::place;
use super::porch::{Mailbox, Porch};
use super::proof::{network_key, session_key};
use super::pulse::Pulse;
use super::root::Time;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::system::socket::{self, READABLE, WRITABLE};
use crate::topology::Card;
use crate::trace::log;

/// How late the abort flag may be seen.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const SCRATCH_BYTES: usize = 64 << 10;

/// The ranks of a new communicator, met. Dropping it takes leave of the others.
#[derive(Debug)]
pub struct Session {
    /// This rank.
    pub rank: u32,
    /// What every rank said of itself, by rank.
    pub cards: Vec<Card>,
    key: [u8; 32],
    /// A single rank has nobody to talk to.
    link: Option<Link>,
    /// Where others reach this process as long as the communicator or a child of it may be born.
    porch: Option<Arc<Porch>>,
}

impl Session {
    /// A session of one.
    pub(super) fn alone(settings: &Settings, card: Card) -> Session {
        let key = session_key(&settings.secret, &settings.communicator, std::iter::once(&card.token));
        Session { rank: 0, cards: vec![card], key, link: None, porch: None }
    }

    /// Meets the others.
    pub(super) fn meet(
        settings: &Settings,
        rank: u32,
        member: Member,
        porch: Arc<Porch>,
        abort: Arc<AtomicBool>,
    ) -> Result<Session> {
        let (secret, communicator) = (settings.secret, settings.communicator);
        let (mailbox, woken) = Mailbox::new().map_err(|cause| {
            let remedy = "raise the limit of open files (ulimit -n)";
            Error::refused("preparing to meet other ranks", &cause, "socketpair", remedy)
        })?;
        let mut link = Link {
            member,
            lines: Vec::new(),
            porch: Arc::clone(&porch),
            mailbox,
            woken,
            doors: Vec::new(),
            pending: None,
            began: Instant::now(),
            abort,
            process: std::process::id(),
            scratch: vec![0; SCRATCH_BYTES],
        };
        let outcome = link.run().inspect_err(|_| {
            // Who comes to this rank late would wait for it in vain.
            if let Some(legacy) = link.member.legacy() {
                porch.mourn(legacy, settings.bound);
            }
        });
        match outcome? {
            Outcome::Joined(cards) => {
                let key = session_key(&secret, &communicator, cards.iter().map(|card| &card.token));
                Ok(Session { rank, cards, key, link: Some(link), porch: Some(porch) })
            }
            Outcome::Gathered(_) => Err(Error::Internal("a step of the birth before it began".into())),
        }
    }

    /// What this rank keeps, so that children of the communicator can be born.
    #[must_use]
    pub fn kin(&self) -> Kin {
        Kin::new(self.key, &self.cards, self.rank, self.porch.clone())
    }

    /// How many ranks there are.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        u32::try_from(self.cards.len()).expect("ranks are counted in 32 bits")
    }

    /// A key that the ranks of this communicator share and nobody else knows. Keys for other purposes derive
    /// from it.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// A number that the ranks of this communicator share and nobody else knows, for messages between hosts.
    #[must_use]
    pub fn network_key(&self) -> u128 {
        network_key(&self.key)
    }

    /// What asks after the processes of the other ranks.
    ///
    /// # Errors
    /// The system refused a socket.
    pub fn pulse(&self, config: &Config) -> Result<Pulse> {
        Pulse::new(&self.key, self.rank, &self.cards, self.porch.clone(), &place::links(config)?)
    }

    /// Gives every rank the `bytes` of every rank, by rank. All ranks call it, equally often. At most 64 KiB.
    ///
    /// # Errors
    /// A rank reported that it failed, is gone, or did not come in time; all ranks get the same error, and the
    /// session is of no further use.
    pub fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            let text =
                format!("a step of the birth with {} bytes, of {PAYLOAD_BYTES_MAX} at most", bytes.len());
            self.fail(&text);
            return Err(Error::Internal(text));
        }
        let Some(link) = &mut self.link else { return Ok(vec![bytes.to_vec()]) };
        if link.is_inherited() {
            return Err(Error::usage(
                "ncclCommInitRank",
                "this process is a child of the one in which the ranks met",
                "start communicators in the process that uses them",
            ));
        }
        let now = link.now();
        link.member.contribute(now, bytes);
        match link.run()? {
            Outcome::Gathered(parts) => Ok(parts),
            Outcome::Joined(_) => Err(Error::Internal("a second birth".into())),
        }
    }

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// As for [`Self::all_gather`].
    pub fn barrier(&mut self) -> Result<()> {
        self.all_gather(&[]).map(drop)
    }

    /// Whether nobody wants this birth any more.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.abort.load(Ordering::Relaxed))
    }

    /// Tells all other ranks that this one cannot go on, and why; their current or next step returns that.
    pub fn fail(&mut self, text: &str) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.is_inherited()) {
            link.member.fail(text);
            link.say_last_words();
        }
    }
}

/// How a wait ended well.
#[derive(Debug)]
enum Outcome {
    Joined(Vec<Card>),
    Gathered(Vec<Vec<u8>>),
}

#[derive(Debug)]
struct Wire {
    attempt: Attempt,
    line: Line,
    connected: bool,
}

#[derive(Debug)]
struct Link {
    member: Member,
    lines: Vec<Wire>,
    porch: Arc<Porch>,
    /// Who came to the doors of this session, and what wakes it when somebody does.
    mailbox: Arc<Mailbox>,
    woken: UnixStream,
    doors: Vec<[u8; 16]>,
    /// What is handed out when all that others wait for is sent.
    pending: Option<Outcome>,
    began: Instant,
    abort: Arc<AtomicBool>,
    /// The process that made it. In a forked child the sockets are still those of the parent.
    process: u32,
    scratch: Vec<u8>,
}

impl Link {
    fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    /// Works until the member has what it waits for.
    fn run(&mut self) -> Result<Outcome> {
        loop {
            self.obey()?;
            let is_sent = self.lines.iter().all(|wire| !wire.connected || wire.line.is_flushed());
            if let Some(outcome) = self.pending.take_if(|_| is_sent) {
                return Ok(outcome);
            }
            if self.abort.load(Ordering::Relaxed) {
                let met = self.member.progress();
                self.member.fail("it was aborted while the ranks met");
                self.say_last_words();
                let waited = if met.is_empty() { String::new() } else { format!(" (it was {met})") };
                return Err(Error::Aborted(format!("aborted while the ranks met{waited}")));
            }
            self.wait().map_err(|cause| {
                let remedy = "look whether this process may open more files";
                Error::refused("waiting for the other ranks", &cause, "poll", remedy)
            })?;
            let now = self.now();
            self.member.handle_timeout(now);
        }
    }

    /// Sleeps until something comes or is due, and hands in what came.
    fn wait(&mut self) -> io::Result<()> {
        let mut interests: Vec<_> = self
            .lines
            .iter()
            .map(|wire| {
                let writes = !wire.connected || !wire.line.is_flushed();
                socket::interest(wire.line.stream(), if writes { READABLE | WRITABLE } else { READABLE })
            })
            .chain([socket::interest(&self.woken, READABLE)])
            .collect();
        let now = self.now();
        let due = self.member.poll_timeout().map_or(LOOK_EVERY, |due| due.saturating_sub(now));
        socket::wait(&mut interests, Some(due.min(LOOK_EVERY)))?;
        let ready: Vec<Attempt> = self
            .lines
            .iter()
            .zip(&interests)
            .filter(|(_, interest)| interest.revents != 0)
            .map(|(wire, _)| wire.attempt)
            .collect();
        if interests.last().is_some_and(|interest| interest.revents != 0) {
            self.welcome()?;
        }
        for attempt in ready {
            if let Err(error) = self.advance(attempt) {
                self.close(attempt, &error);
            }
        }
        Ok(())
    }

    /// Takes in who came to the door.
    fn welcome(&mut self) -> io::Result<()> {
        while (&self.woken).read(&mut self.scratch).is_ok_and(|count| count > 0) {}
        for (line, words) in self.mailbox.take() {
            let (now, nonce) = (self.now(), socket::random_bytes()?);
            match self.member.handle_visitor(now, nonce, &words) {
                Some(attempt) => self.lines.push(Wire { attempt, line, connected: true }),
                None => line.close(),
            }
        }
        Ok(())
    }

    fn advance(&mut self, attempt: Attempt) -> io::Result<()> {
        let now = self.now();
        let Some(wire) = self.lines.iter_mut().find(|wire| wire.attempt == attempt) else { return Ok(()) };
        if !wire.connected {
            if let Some(error) = wire.line.stream().take_error()? {
                return Err(error);
            }
            wire.connected = true;
            self.member.handle_connected(attempt, socket::random_bytes()?);
            return Ok(());
        }
        wire.line.flush()?;
        match wire.line.receive(&mut self.scratch)? {
            Incoming::Nothing => Ok(()),
            Incoming::Bytes(count) => {
                self.member.handle_input(now, attempt, &self.scratch[..count]);
                Ok(())
            }
            Incoming::End => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
        }
    }

    fn close(&mut self, attempt: Attempt, error: &io::Error) {
        let now = self.now();
        self.forget(attempt);
        let obstacle = match error.kind() {
            io::ErrorKind::ConnectionRefused => Obstacle::Refused,
            _ => Obstacle::Other(error.to_string()),
        };
        self.member.handle_closed(now, attempt, obstacle);
    }

    fn forget(&mut self, attempt: Attempt) {
        if let Some(index) = self.lines.iter().position(|wire| wire.attempt == attempt) {
            self.lines.swap_remove(index).line.close();
        }
    }

    /// Sends and does what the member asks, until it asks for nothing or has what it waits for.
    fn obey(&mut self) -> Result<()> {
        loop {
            self.transmit();
            let Some(event) = self.member.poll_event() else { return Ok(()) };
            match event {
                Event::Connect(attempt, address) => self.connect(attempt, address)?,
                Event::Close(attempt) => self.dismiss(attempt),
                Event::Reached(text) => log::info(format_args!("{text}")),
                Event::Expect(door) => {
                    self.doors.push(door);
                    self.porch.expect(door, Some(Arc::clone(&self.mailbox)));
                }
                Event::Joined(cards) => self.pending = Some(Outcome::Joined(cards)),
                Event::Gathered(parts) => self.pending = Some(Outcome::Gathered(parts)),
                Event::Failed(error) => return Err(error),
            }
        }
    }

    /// What is queued there still leaves.
    fn dismiss(&mut self, attempt: Attempt) {
        if let Some(index) = self.lines.iter().position(|wire| wire.attempt == attempt) {
            let wire = self.lines.swap_remove(index);
            if wire.connected { self.porch.finish(wire.line) } else { wire.line.close() }
        }
    }

    fn connect(&mut self, attempt: Attempt, address: SocketAddr) -> Result<()> {
        match socket::connect(address) {
            Ok(stream) => self.lines.push(Wire { attempt, line: Line::new(stream), connected: false }),
            // What this process lacks another try does not bring.
            Err(cause)
                if matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
            {
                return Err(Error::system(
                    "opening a socket to meet the other ranks",
                    cause,
                    "raise the limit of open files (ulimit -n)",
                ));
            }
            Err(error) => self.close(attempt, &error),
        }
        Ok(())
    }

    fn transmit(&mut self) {
        while let Some((attempt, frame)) = self.member.poll_transmit() {
            let Some(wire) = self.lines.iter_mut().find(|wire| wire.attempt == attempt) else { continue };
            wire.line.enqueue(frame);
            if let Err(error) = wire.line.flush() {
                // What the other side said before it closed is worth more than that this could not be sent.
                while let Some(wire) = self.lines.iter_mut().find(|wire| wire.attempt == attempt) {
                    let Ok(Incoming::Bytes(count)) = wire.line.receive(&mut self.scratch) else { break };
                    self.member.handle_input(self.began.elapsed(), attempt, &self.scratch[..count]);
                }
                self.close(attempt, &error);
            }
        }
    }

    /// Sends what is queued, and that nothing follows. What does not leave at once the process's thread sends.
    fn say_last_words(&mut self) {
        self.transmit();
        for wire in std::mem::take(&mut self.lines) {
            if wire.connected { self.porch.finish(wire.line) } else { wire.line.close() }
        }
        for door in self.doors.drain(..) {
            self.porch.expect(door, None);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A forked child closes its copies and says nothing in its parent's name.
        if !self.is_inherited() {
            self.member.leave();
            self.say_last_words();
        }
    }
}
