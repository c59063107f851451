//! The network of this process: one worker, the processes that it talks to, and the ranks that live here.
//!
//! Whoever waits polls: a look at an empty line makes UCX go on, once for all lines that were looked at. While
//! nobody does, a thread of its own sleeps on UCX's descriptor, moves what comes, and rings at ranks that sleep.

mod words;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ucx_sys::{Library, USUAL_NAMES};

use super::buffer::Buffer;
use super::frame::{Header, Kind};
use super::line::{Line, NO_HEAD, how_to};
use super::number::ByNumber;
use super::worker::{SEGMENTS, Worker, version};
use super::{EAGER_BYTES, PIECE_BYTES};
use crate::error::{Error, Result};
use crate::system::{clock, fork, random, room, socket, thread};
use crate::trace::log;
use crate::transport::{Head, Peer};

/// How long after the last look of a caller the thread takes over.
const CALLERS_LOOK: Duration = Duration::from_millis(2);
/// How long the thread sleeps when UCX wakes it in time.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The same while something of ours is on its way.
const SENDING_SLEEP: Duration = Duration::from_millis(10);
/// Of how many ranks that left it is remembered how.
const DEPARTED_MAX: usize = 1024;
/// How deep forks may nest between processes that each use the network.
const GENERATIONS_MAX: usize = 64;
/// What the end of the process waits until peers have what was sent.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// No process: a rank of this host.
pub(super) const NEAR: u32 = u32::MAX;

/// What wakes the owner of a rank that sleeps.
pub(super) type Bell = Box<dyn Fn() + Send>;

/// Which devices UCX may use, as it names them, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Whatever there is.
    All,
    /// These, since somebody says so.
    Named(String),
    /// These, if it knows them.
    Chosen(String),
}

impl Devices {
    /// Whether one of them reads and writes memory by itself: a port of a fabric, as UCX names it.
    fn reach_memory(&self) -> bool {
        match self {
            Devices::All => false,
            Devices::Named(names) | Devices::Chosen(names) => names.contains(':'),
        }
    }
}

/// A process that ranks of ours talk to.
struct Remote {
    address: Vec<u8>,
    endpoint: Option<usize>,
}

/// A rank of this process in a communicator that spans hosts.
pub(super) struct Member {
    pub(super) key: u128,
    pub(super) rank: u32,
    /// By rank: the process where it lives.
    remotes: Arc<[u32]>,
    /// By rank: those that were used.
    lines: Vec<Option<Box<Line>>>,
    pub(super) raised: Option<(u32, String)>,
    bell: Bell,
    pub(super) window_bytes: u64,
}

impl Member {
    /// The line to and from `peer`.
    pub(super) fn line(&mut self, peer: u32) -> &mut Line {
        self.lines[peer as usize].get_or_insert_default()
    }

    /// The line, if it was used.
    pub(super) fn used_line(&mut self, peer: u32) -> Option<&mut Line> {
        self.lines[peer as usize].as_deref_mut()
    }

    /// Whose lines were used.
    pub(super) fn used(&self) -> Vec<u32> {
        (0..).zip(&self.lines).filter(|(_, line)| line.is_some()).map(|(peer, _)| peer).collect()
    }
}

/// A rank that left, for those that come late.
struct Departed {
    place: (u128, u32),
    how: Peer,
    remotes: Arc<[u32]>,
}

/// What one thread at a time uses.
pub(super) struct Inner {
    worker: Worker,
    remotes: Vec<Remote>,
    by_id: HashMap<[u8; 16], u32>,
    members: Vec<Option<Member>>,
    by_place: ByNumber<(u128, u32), usize>,
    departed: VecDeque<Departed>,
    refused_count: u64,
    /// Rounds of progress.
    pub(super) rounds: u64,
}

/// The network of this process.
pub struct Net {
    inner: Mutex<Inner>,
    id: [u8; 16],
    address: Vec<u8>,
    /// How long the pieces of a packet may be.
    piece_bytes: usize,
    /// When a caller last made progress.
    called_ns: AtomicU64,
    is_over: AtomicBool,
    /// Whether callers sleep, for the thread that waits for it.
    is_handed_over: Mutex<bool>,
    taken_over: Condvar,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Net")
    }
}

static NETS: [OnceLock<Arc<Net>>; GENERATIONS_MAX] = [const { OnceLock::new() }; GENERATIONS_MAX];

fn place() -> &'static OnceLock<Arc<Net>> {
    &NETS[(fork::generation() as usize).min(GENERATIONS_MAX - 1)]
}

/// UCX, from `place` if that is named.
fn library(place: &str, log_level: &str) -> Result<&'static Library> {
    static LIBRARY: OnceLock<std::result::Result<Library, ucx_sys::Missing>> = OnceLock::new();
    let loaded = LIBRARY.get_or_init(|| {
        let loaded = match place {
            "" => Library::load(USUAL_NAMES),
            place => Library::load([place]),
        };
        // What UCX has to say of a peer that is gone is said once, by us, and not on standard output.
        loaded.inspect(|library| library.set_log_level(log_level))
    });
    loaded.as_ref().map_err(|missing| {
        Error::system(
            "connecting ranks on different hosts",
            missing,
            "install it on every host, or say where it is by LD_LIBRARY_PATH or SHOAL_UCX",
        )
    })
}

impl Net {
    /// The network of this process, begun at the first call. `is_told`: whether somebody else said what a variable of
    /// UCX should be.
    ///
    /// # Errors
    /// UCX is missing, or what it refused.
    pub fn get(
        library_place: &str,
        log_level: &str,
        devices: &Devices,
        is_told: impl Fn(&str) -> bool,
    ) -> Result<Arc<Net>> {
        static BEGINNING: Mutex<()> = Mutex::new(());
        if let Some(net) = place().get() {
            return Ok(Arc::clone(net));
        }
        let _one = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(net) = place().get() {
            return Ok(Arc::clone(net));
        }
        let library = library(library_place, log_level)?;
        room::check_for_network()?;
        let announces = devices.reach_memory();
        let is_settled = announces || SEGMENTS.iter().any(|(name, _)| is_told(&format!("UCX_{name}")));
        let segments = if is_settled { &[][..] } else { &SEGMENTS };
        let start = |names: Option<&str>| {
            let named = names.map(|names| ("NET_DEVICES", names));
            let settings: Vec<_> = named.into_iter().chain(segments.iter().copied()).collect();
            Net::start(library, &settings, announces)
        };
        let net = match devices {
            Devices::All => start(None),
            Devices::Named(names) => start(Some(names)),
            Devices::Chosen(names) => start(Some(names)).or_else(|error| {
                log::info(format_args!("{error}; so UCX may use all devices"));
                start(None)
            }),
        }?;
        let (version, path) = (version(library), library.path.display());
        log::info(format_args!("UCX {version} of {path} connects the hosts"));
        Ok(Arc::clone(place().get_or_init(|| net)))
    }

    /// A network with a thread that looks after it while no caller does. `announces`: long pieces are announced.
    pub(super) fn start(
        library: &'static Library,
        settings: &[(&str, &str)],
        announces: bool,
    ) -> Result<Arc<Net>> {
        let worker = Worker::new(library, settings, announces)?;
        let address = worker.address()?;
        let descriptor = worker.event_descriptor()?;
        let net = Arc::new(Net {
            inner: Mutex::new(Inner {
                worker,
                remotes: Vec::new(),
                by_id: HashMap::new(),
                members: Vec::new(),
                by_place: ByNumber::default(),
                departed: VecDeque::new(),
                refused_count: 0,
                rounds: 0,
            }),
            id: random::wide().to_le_bytes(),
            address,
            piece_bytes: if announces { PIECE_BYTES } else { EAGER_BYTES },
            called_ns: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            is_handed_over: Mutex::new(false),
            taken_over: Condvar::new(),
        });
        // The thread holds on to nothing, so that a network of a test ends with its last user.
        let weak = Arc::downgrade(&net);
        thread::spawn("shoal-network", move || {
            while let Some(net) = weak.upgrade() {
                let sleep = net.look_after();
                drop(net);
                match sleep {
                    Some(Duration::ZERO) => {}
                    Some(limit) => {
                        let _ =
                            socket::wait(&mut [socket::interest(&descriptor, socket::READABLE)], Some(limit));
                    }
                    None => return,
                }
            }
        })?;
        Ok(net)
    }

    /// What other processes need to reach this one: an id, and UCX's address.
    #[must_use]
    pub fn card(&self) -> Vec<u8> {
        [self.id.as_slice(), &self.address].concat()
    }

    /// How long the pieces of a packet may be.
    pub(super) const fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes progress for a caller that waits.
    pub(super) fn progress(&self, inner: &mut Inner) {
        inner.progress();
        self.called_ns.store(clock::now_ns(), Ordering::Relaxed);
    }

    /// Says that callers go to sleep: the thread takes over at once.
    pub fn hand_over(&self) {
        self.called_ns.store(0, Ordering::Relaxed);
        *self.is_handed_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.taken_over.notify_one();
    }

    /// One turn of the thread; how long it may sleep until UCX wakes it, `None` if it is over.
    fn look_after(&self) -> Option<Duration> {
        let called_ns = self.called_ns.load(Ordering::Relaxed);
        let idle = Duration::from_nanos(clock::now_ns().saturating_sub(called_ns));
        if idle < CALLERS_LOOK {
            let flag = self.is_handed_over.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut flag, _) = self
                .taken_over
                .wait_timeout_while(flag, CALLERS_LOOK, |is_handed_over| !*is_handed_over)
                .unwrap_or_else(PoisonError::into_inner);
            *flag = false;
            return Some(Duration::ZERO);
        }
        let mut inner = self.lock();
        if self.is_over.load(Ordering::Relaxed) {
            return None;
        }
        while inner.progress() {}
        let is_armed = inner.worker.arm();
        Some(match (is_armed, inner.worker.is_sending()) {
            (false, _) => Duration::ZERO,
            (true, true) => SENDING_SLEEP,
            (true, false) => LONGEST_SLEEP,
        })
    }

    /// Gives `rank` of the communicator `key` a place; `cards` are those of the ranks on other hosts.
    pub(super) fn enter(
        &self,
        key: u128,
        rank: u32,
        cards: &[Option<Vec<u8>>],
        window_bytes: u64,
        bell: Bell,
    ) -> Result<usize> {
        let mut inner = self.lock();
        let mut remotes = Vec::with_capacity(cards.len());
        for (peer, card) in cards.iter().enumerate() {
            remotes.push(match card {
                None => NEAR,
                Some(card) => inner.remote(card).ok_or_else(|| {
                    Error::Internal(format!(
                        "rank {peer} is on another host and did not say where UCX finds it"
                    ))
                })?,
            });
        }
        let lines = cards.iter().map(|_| None).collect();
        let remotes = remotes.into();
        let member = Member { key, rank, remotes, lines, raised: None, bell, window_bytes };
        let slot = inner.members.iter().position(Option::is_none).unwrap_or(inner.members.len());
        if slot == inner.members.len() {
            inner.members.push(None);
        }
        inner.members[slot] = Some(member);
        inner.by_place.insert((key, rank), slot);
        Ok(slot)
    }

    /// How many endpoints are open.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.lock().worker.endpoint_count()
    }

    /// How many messages came that no peer of ours sent.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        let mut inner = self.lock();
        inner.refused_count + inner.worker.refused_count()
    }

    /// The end of the process: ranks that did not leave do, and peers get what was sent. It waits for little and
    /// takes no lock that a thread may hold for ever.
    fn depart(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let mut inner = loop {
            match self.inner.try_lock() {
                Ok(inner) => break inner,
                Err(std::sync::TryLockError::Poisoned(inner)) => break inner.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) if began.elapsed() > EXIT_WAIT => return,
                Err(std::sync::TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        };
        let slots: Vec<usize> =
            (0..inner.members.len()).filter(|slot| inner.members[*slot].is_some()).collect();
        slots.iter().for_each(|slot| inner.say_leave(*slot, Peer::Closed));
        while slots.iter().any(|slot| !inner.has_arrived(*slot)) || inner.worker.is_sending() {
            if !inner.progress() {
                std::thread::yield_now();
            }
            if began.elapsed() > EXIT_WAIT {
                return;
            }
        }
    }
}

/// What the network has to do before the process ends.
pub fn end_of_process() {
    if let Some(net) = place().get() {
        net.depart();
    }
}

impl Inner {
    /// The process of a card.
    fn remote(&mut self, card: &[u8]) -> Option<u32> {
        let (id, address) = card.split_first_chunk::<16>()?;
        if let Some(known) = self.by_id.get(id) {
            return Some(*known);
        }
        let place = u32::try_from(self.remotes.len()).ok()?;
        self.remotes.push(Remote { address: address.to_vec(), endpoint: None });
        self.by_id.insert(*id, place);
        Some(place)
    }

    /// The rank at `slot`, which has not left.
    pub(super) fn member(&mut self, slot: usize) -> &mut Member {
        self.members[slot].as_mut().expect("a rank is there until it leaves")
    }

    /// A buffer for `bytes`, at most a piece.
    pub(super) fn buffer(&mut self, bytes: usize) -> Buffer {
        self.worker.buffer(bytes)
    }

    /// Gives a buffer back.
    pub(super) fn recycle(&mut self, buffer: Buffer) {
        self.worker.recycle(buffer);
    }

    /// Lets UCX go on, and takes what came. Whether something happened.
    pub(super) fn progress(&mut self) -> bool {
        self.rounds += 1;
        let has_moved = self.worker.progress();
        while let Some((header, buffer)) = self.worker.poll_message() {
            self.take(&header, buffer);
        }
        while let Some((endpoint, why)) = self.worker.poll_failure() {
            self.lose(endpoint, &why);
        }
        has_moved
    }

    fn take(&mut self, header: &Header, buffer: Buffer) {
        let Some(slot) = self.by_place.get(&(header.key, header.target)).copied() else {
            self.worker.recycle(buffer);
            return self.answer_late(header);
        };
        let Some(member) = self.members[slot].as_mut() else { return };
        let peer = header.source;
        if member.remotes.get(peer as usize).is_none_or(|remote| *remote == NEAR) {
            self.refused_count += 1;
            return self.worker.recycle(buffer);
        }
        let window_bytes = member.window_bytes;
        match member.line(peer).handle(header, buffer, window_bytes) {
            Ok((effect, rest)) => {
                if let Some(words) = effect.raised {
                    member.raised.get_or_insert((peer, words));
                }
                (member.bell)();
                if let Some(buffer) = rest {
                    self.worker.recycle(buffer);
                }
                if effect.answers {
                    self.say(slot, peer, Kind::Arrived, NO_HEAD, 0);
                }
            }
            Err(broken) => {
                self.refused_count += 1;
                member.line(peer).fail(&format!("it {}", broken.0));
                (member.bell)();
            }
        }
    }

    /// Tells who comes to a rank that has left how it did.
    fn answer_late(&mut self, header: &Header) {
        let place = (header.key, header.target);
        let departed = self.departed.iter().find(|departed| departed.place == place);
        let found = departed.and_then(|departed| {
            let remote = departed.remotes.get(header.source as usize).filter(|remote| **remote != NEAR)?;
            Some((departed.how, *remote))
        });
        let Some((how, remote)) = found else {
            self.refused_count += 1;
            return;
        };
        let (kind, total) = match header.kind {
            Kind::Leave => (Kind::Arrived, 0),
            // Who says where it stands waits, and does not ask again.
            Kind::Packet | Kind::Watch | Kind::Stand => (Kind::Leave, how_to(how)),
            _ => return,
        };
        let answer = Header {
            kind,
            source: header.target,
            target: header.source,
            key: header.key,
            sequence: 0,
            returned: 0,
            head: NO_HEAD,
            total,
        };
        if let Ok(endpoint) = self.endpoint(remote) {
            let buffer = self.worker.buffer(0);
            // Who cannot be reached does not hear it.
            let _ = self.worker.send(endpoint, &answer, buffer);
        }
    }

    /// Nothing comes over this endpoint any more.
    fn lose(&mut self, endpoint: usize, why: &str) {
        self.worker.close(endpoint);
        let Some(place) = self.remotes.iter().position(|remote| remote.endpoint == Some(endpoint)) else {
            return;
        };
        self.remotes[place].endpoint = None;
        for member in self.members.iter_mut().flatten() {
            for (remote, line) in member.remotes.iter().zip(&mut member.lines) {
                if let Some(line) = line.as_mut().filter(|_| *remote as usize == place) {
                    line.fail(&format!("UCX says: {why}"));
                }
            }
            (member.bell)();
        }
    }

    /// The endpoint to a process, connected at the first use.
    fn endpoint(&mut self, remote: u32) -> std::result::Result<usize, String> {
        let Remote { endpoint, address, .. } = &self.remotes[remote as usize];
        if let Some(endpoint) = endpoint {
            return Ok(*endpoint);
        }
        let endpoint = self.worker.connect(address)?;
        self.remotes[remote as usize].endpoint = Some(endpoint);
        Ok(endpoint)
    }

    /// Sends a message from the rank at `slot`, with how much of the line was read; `sequence` is as its kind wants
    /// it. What UCX refuses is the end of the line.
    pub(super) fn send(
        &mut self,
        slot: usize,
        peer: u32,
        (kind, sequence): (Kind, u64),
        head: Head,
        total: u64,
        buffer: Buffer,
    ) {
        let Some(member) = self.members[slot].as_mut() else { return };
        let remote = member.remotes[peer as usize];
        let (source, key) = (member.rank, member.key);
        let line = member.line(peer);
        line.is_known = true;
        let returned = line.into.tell();
        let header = Header { kind, source, target: peer, key, sequence, returned, head, total };
        let sent = match self.endpoint(remote) {
            Ok(endpoint) => self.worker.send(endpoint, &header, buffer),
            Err(why) => {
                self.worker.recycle(buffer);
                Err(why)
            }
        };
        if let (Err(why), Some(member)) = (sent, self.members[slot].as_mut()) {
            member.line(peer).fail(&format!("UCX says: {why}"));
        }
    }
}
