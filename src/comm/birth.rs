//! How a rank comes into being: meet the others, share memory with those on this machine, start the engine.
//!
//! Every step that can fail on one rank is followed by one that all take together, so that they fail as one.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use super::births::Birth;
use super::bootstrap::{self, Join, Session};
use super::metrics::{self, Label};
use super::{Body, Comm, Options, UniqueId, far, table};
use crate::coalesce::Limits;
use crate::config::Config;
use crate::device::host::Host as HostDevice;
use crate::engine::driver::{Endpoint, HostEngine};
use crate::engine::{Engine, Facts};
use crate::error::{Error, Result};
use crate::stock;
use crate::system::{room, wait};
use crate::topology::Topology;
use crate::trace::log;
use crate::trace::tracer::{Title, Tracer};
use crate::transport::shm::{Host, Invitation, Segment, Settings, ShmTransport};
use crate::transport::{Lines, Peer, Transport, ucx};
use crate::tune;

/// Makes the id that the ranks of a new communicator share.
///
/// # Errors
/// No socket could be opened.
pub fn unique_id() -> Result<UniqueId> {
    bootstrap::unique_id(Config::get())
}

/// The birth of rank `rank` of `ranks`, who meet by `ids`: at least one, the same on every rank.
#[must_use]
pub fn init_rank(call: &'static str, ranks: u32, ids: Vec<UniqueId>, rank: u32, options: Options) -> Birth {
    let options = options.settle(Config::get());
    let child = Comm::unborn(Some((rank, ranks)), options.clone());
    Birth::new(
        call,
        Some(child),
        None,
        Box::new(move |cancel| {
            let started = Instant::now();
            let session = join(&ids, rank, ranks, cancel)?;
            grow_up(session, Config::get(), &options, started).map(Some)
        }),
    )
}

/// Meets the other ranks by the ids.
pub(super) fn join(ids: &[UniqueId], rank: u32, ranks: u32, cancel: &Arc<AtomicBool>) -> Result<Session> {
    let config = Config::get();
    room::check_for_birth()?;
    check_device(config)?;
    introduce(config, rank);
    warn_of(ids);
    let request = Join { rank, ranks, ..Join::default() };
    // Without this rank nobody will ever meet by the ids. Of those made here latecomers are turned away.
    Session::join_by_several(config, ids, &request, Arc::clone(cancel))
        .inspect_err(|_| ids.iter().for_each(bootstrap::retire))
}

/// Makes a rank out of the session in which the ranks met.
pub(super) fn grow_up(
    mut session: Session,
    config: &Config,
    options: &Options,
    started: Instant,
) -> Result<Body> {
    let (rank, ranks) = (session.rank, session.ranks());
    let topology = Topology::from_cards(rank, &session.cards);
    let own =
        together(&mut session, "reading the table of choices", |_| table::own(&topology, rank, config))?;
    let (segment, table) = share_segment(&mut session, &topology, config, &own)?;
    let table = together(&mut session, "reading the table of rank 0", |_| table::shared(&table))?;
    let facts = facts(rank, ranks, &topology, config, table.as_ref());
    let mut near = together(&mut session, "opening its lines", |_| {
        ShmTransport::new(segment, rank, Settings::new(config))
    })?;
    let far = match topology.hosts().len() {
        1 => None,
        _ => Some(far::connect(&mut session, &topology, config, near.doorbell())?),
    };
    session.barrier()?;
    go_ahead_together(&mut near, &session, &topology, config)?;
    say_slower_paths(&mut near, rank, &topology, config);
    let transport = Lines::new(near, far);
    let spin_count = wait::spin_limit(config.spin, topology.local_ranks().len(), topology.cores() as usize);
    let mut engine = Engine::new(transport, HostDevice, facts);
    if let Err(error) = engine.record(config.records) {
        log::warn(format_args!("rank {rank} of {ranks} records nothing: {error}"));
    }
    if let Some(Err(error)) = trace(&mut engine, &session, &topology, config) {
        log::warn(format_args!("rank {rank} of {ranks} keeps no trace: {error}"));
    }
    alternate(&mut engine, config);
    let label = label(&mut engine, &session);
    let endpoint = Endpoint::new(engine, rank, ranks, spin_count);
    metrics::tell(label, &endpoint, config);
    let name = options.name.as_deref().unwrap_or("a communicator");
    log::info(format_args!(
        "rank {rank} of {ranks} of {name} is born after {:.1} ms; shared memory, {} ranks and {} cores here{}; shoal {}",
        started.elapsed().as_secs_f64() * 1e3,
        topology.local_ranks().len(),
        topology.cores(),
        far::describe(&topology),
        crate::version()
    ));
    let kin = Mutex::new(Some(session.kin()));
    Ok(Body { rank, ranks, endpoint, kin })
}

/// Blocks of batches with frames and without in turn, if that is wanted and somebody would see it.
fn alternate(engine: &mut HostEngine, config: &Config) {
    if config.alternate == 0 {
        return;
    }
    if engine.is_traced() && config.coalesce {
        engine.alternate(config.alternate);
    } else {
        log::warn(format_args!(
            "SHOAL_ALTERNATE={} changes nothing: set SHOAL_TRACE to a folder, and leave SHOAL_COALESCE at 1",
            config.alternate
        ));
    }
}

/// What its counters are labelled with.
fn label(engine: &mut HostEngine, session: &Session) -> Label {
    let (rank, ranks) = (session.rank, session.ranks());
    let host = session.cards.get(rank as usize).map(|card| card.host_name.clone()).unwrap_or_default();
    Label { communicator: engine.transport().id(), rank, ranks, host }
}

/// Keeps everything in a file, if that is wanted.
fn trace(
    engine: &mut HostEngine,
    session: &Session,
    topology: &Topology,
    config: &Config,
) -> Option<Result<()>> {
    if config.trace.is_empty() {
        return None;
    }
    let Label { communicator, rank, ranks, host } = label(engine, session);
    let coalesce_bytes = limits(config, topology).message_bytes as u64;
    let title = Title { communicator, rank, ranks, host, coalesce_bytes };
    // What keeps everything is told by what keeps the newest.
    let begun = if config.records == 0 { engine.record(1) } else { Ok(()) };
    let tracer = begun.and_then(|()| Tracer::create(Path::new(&config.trace), &title, config.trace_bytes));
    Some(tracer.map(|tracer| engine.trace_by(tracer)))
}

/// What the log says once: which library this is, as NCCL says it where the first rank is, and what of the
/// settings cannot be had.
fn introduce(config: &Config, rank: u32) {
    static VERSION: Once = Once::new();
    static ALGORITHM: Once = Once::new();
    if rank == 0 {
        VERSION.call_once(|| log::version(stock::reported_version()));
    }
    ALGORITHM.call_once(|| {
        let name = config.value("SHOAL_ALGORITHM").map_or("SHOAL_ALGORITHM", |value| value.name);
        for complaint in tune::wanted::complaints(name, &config.algorithm) {
            log::warn(format_args!("{complaint}"));
        }
    });
}

/// What a person should know about the ids, once.
fn warn_of(ids: &[UniqueId]) {
    static WARNING: Once = Once::new();
    if let Some(warning) = ids.first().and_then(bootstrap::warning) {
        WARNING.call_once(|| log::warn(format_args!("{warning}")));
    }
}

/// The last words of the exchange may still be on their way, out of the process of one of the ranks. So none goes
/// on (and perhaps ends its program) before every rank of this machine has heard that all are there.
fn go_ahead_together(
    transport: &mut ShmTransport,
    session: &Session,
    topology: &Topology,
    config: &Config,
) -> Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(1);
    transport.say_born();
    let began = Instant::now();
    let mut waiter = wait::Waiter::new(0);
    for peer in topology.local_ranks().iter().copied().filter(|peer| *peer != session.rank) {
        while !transport.is_born(peer) {
            if waiter.pause() == wait::Pause::Again {
                continue;
            }
            let failed = |how: &str| format!("rank {peer} {how} while the ranks met; look at its log");
            if session.is_aborted() {
                return Err(Error::Aborted("aborted while the ranks met".into()));
            }
            if transport.peer(peer) == Peer::Dead {
                return Err(Error::Remote(failed("is gone (its process ended)")));
            }
            if !config.init_timeout.is_zero() && began.elapsed() > config.init_timeout {
                return Err(Error::Timeout(failed("did not go on")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ok(())
}

/// One line if memory of a peer cannot be reached but through the lines between the ranks, and why.
fn say_slower_paths(transport: &mut ShmTransport, rank: u32, topology: &Topology, config: &Config) {
    let peers = topology.local_ranks().iter().copied().filter(|peer| *peer != rank);
    let Some((peer, reason)) = peers.into_iter().find_map(|peer| Some((peer, transport.probe(peer).err()?)))
    else {
        return;
    };
    let line = format!(
        "rank {rank} cannot read memory of rank {peer} directly ({reason}): what is large takes the lines of shared memory, \
         where every byte is copied twice"
    );
    if config.cma == Some(true) {
        log::warn(format_args!("{line}, although SHOAL_CMA=1; allow process_vm_readv, or unset it"));
    } else {
        log::info(format_args!("{line}"));
    }
}

/// What shares a frame where nothing is set, between ranks of one host.
const USUAL: Limits = Limits { message_bytes: 1 << 10, frame_bytes: 16 << 10 };
/// The same where ranks are on several hosts: there a packet of its own costs more than a copy.
const USUAL_BETWEEN_HOSTS: Limits = Limits { message_bytes: 16 << 10, frame_bytes: ucx::EAGER_BYTES };

/// What shares a frame.
fn limits(config: &Config, topology: &Topology) -> Limits {
    let usual = if topology.hosts().len() > 1 { USUAL_BETWEEN_HOSTS } else { USUAL };
    let message_bytes = config.coalesce_bytes.unwrap_or(usual.message_bytes);
    Limits {
        message_bytes: if config.coalesce { message_bytes } else { 0 },
        frame_bytes: config.frame_bytes.unwrap_or(usual.frame_bytes),
    }
}

fn facts(
    rank: u32,
    ranks: u32,
    topology: &Topology,
    config: &Config,
    table: Option<&tune::table::Table>,
) -> Facts {
    Facts {
        rank,
        ranks,
        limits: limits(config, topology),
        // What all ranks know alike: hosts may hold different numbers of ranks and of cores.
        tune: table::facts(topology, config.deterministic).with_table(table),
        algorithm: config.algorithm.clone(),
    }
}

fn check_device(config: &Config) -> Result<()> {
    match config.device.as_str() {
        "host" | "auto" | "" => Ok(()),
        "cuda" => Err(Error::usage(
            "ncclCommInitRank",
            "SHOAL_DEVICE=cuda, and this version runs on host memory only",
            "set SHOAL_DEVICE=host, or use stock NCCL for GPU memory",
        )),
        other => Err(Error::argument(
            "ncclCommInitRank",
            "SHOAL_DEVICE",
            format_args!("is {other}"),
            "use auto, host or cuda",
        )),
    }
}

/// Does `attempt`; if it fails here or on another rank, it fails on all.
pub(super) fn together<T>(
    session: &mut Session,
    what: &str,
    attempt: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<T> {
    attempt(session).inspect_err(|error| {
        session.fail(&format!("{what}: {error}"));
    })
}

/// The memory that all ranks of this machine share: made by the lowest, handed to the others.
/// On the way `own` of rank 0 gets to all.
fn share_segment(
    session: &mut Session,
    topology: &Topology,
    config: &Config,
    own: &[u8],
) -> Result<(Arc<Segment>, Vec<u8>)> {
    let ranks = topology.ranks();
    let is_leader = topology.leader() == session.rank;
    let has_far_ranks = has_far_ranks(session, topology);
    let mut host = None;
    let made = together(session, "making shared memory", |_| {
        if !is_leader {
            return Ok(None);
        }
        let segment = Segment::create_with_records(ranks, config.ring_bytes, config.records)?;
        if ranks > 1 {
            host = Some(Host::open(&segment, has_far_ranks)?);
        }
        Ok(Some(segment))
    })?;
    let invitation = host.as_ref().map_or([0; Invitation::BYTES], |host| host.invitation().to_bytes());
    let is_heard = is_leader || session.rank == 0;
    let offer = if is_heard { [&invitation, own].concat() } else { Vec::new() };
    let offers = session.all_gather(&offer)?;
    let from_first = offers[0].get(Invitation::BYTES..).unwrap_or_default().to_vec();
    if let Some(segment) = made {
        // The leader serves until everybody has said that it joined.
        session.barrier()?;
        return Ok((segment, from_first));
    }
    let deadline = Instant::now() + config.init_timeout.max(Duration::from_secs(1));
    let (segment, way) = together(session, "joining shared memory", |_| {
        let bytes: &[u8; Invitation::BYTES] = offers[topology.leader() as usize]
            .first_chunk()
            .ok_or_else(|| Error::Internal("the leader offered no shared memory".into()))?;
        Segment::join(&Invitation::from_bytes(bytes), deadline)
    })?;
    session.barrier()?;
    if let Some(reason) = way.reason() {
        let (rank, leader) = (session.rank, topology.leader());
        log::info(format_args!("rank {rank} got the shared memory of rank {leader} {reason}"));
    }
    Ok((segment, from_first))
}

/// Whether ranks of this machine have different networks.
fn has_far_ranks(session: &Session, topology: &Topology) -> bool {
    let network = |rank: &u32| session.cards[*rank as usize].network_namespace;
    topology.local_ranks().windows(2).any(|pair| network(&pair[0]) != network(&pair[1]))
}
