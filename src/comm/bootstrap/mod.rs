//! The exchange between ranks at birth.
//!
//! One process makes a unique id ([`unique_id`]): it opens a listening socket, writes where it may be reached
//! and a secret into the id, and starts a thread, the *root*. The application hands the id to all ranks. Each
//! rank connects to the root ([`Session::join`]), both prove that they know the secret, and the rank hands in
//! its [`Card`]. When all have come, every rank gets all cards. With the same connections the ranks then take
//! steps together ([`Session::all_gather`]), so that they set up what they share, or fail as one.
//!
//! Every process has one listener, whose addresses its cards carry, as long as a communicator lives there or an
//! id waits to be used. Ranks of a communicator that want a child of it meet there again ([`Session::derive`]),
//! at the listener of the first of them, with a secret that derives from the parent's key.
//! | file | what lives there |
//! |---|---|
//! | `id` | the 128 bytes |
//! | `proof` | the secret, proofs and keys |
//! | `message`, `wire` | the words of the exchange, and bytes with bounds |
//! | `root`, `member` | the two state machines; pure |
//! | `lobby` | who connected to this process and has not said yet for whom; pure |
//! | `porch`, `server` | the process's listener, and its thread, which holds every rendezvous of the process |
//! | `session` | the driver of one member |
//! | `kin` | how ranks of a communicator meet again |
//! | `interfaces` | which addresses are offered and tried; pure |
//! | `line` | one socket with its queue |
//!
//! All waits are bounded by `SHOAL_INIT_TIMEOUT`, see an abort within 50 ms, and end with the names of those
//! who are missing. The root is a star: it sends one and the same buffer to all. Whoever does not know the
//! secret is turned away and leaves no trace.
//!
//! With `NCCL_COMM_ID` there is no root before rank 0 is born; the id carries the address, and a secret only if
//! `SHOAL_SECRET` is set ([`warning`]).
//!
//! ```
//! use shoal::comm::bootstrap::{Join, Session, unique_id};
//! use shoal::config::Config;
//! let config = Config::default();
//! let id = unique_id(&config)?;
//! let ranks: Vec<_> = (0..2)
//!     .map(|rank| {
//!         let config = config.clone();
//!         std::thread::spawn(move || -> shoal::error::Result<Vec<Vec<u8>>> {
//!             let join = Join { id: &id, rank, ranks: 2, ..Join::default() };
//!             let mut session = Session::join(&config, &join, Default::default())?;
//!             session.all_gather(format!("I am {rank}").as_bytes())
//!         })
//!     })
//!     .collect();
//! for rank in ranks {
//!     assert_eq!(rank.join().unwrap()?, [b"I am 0", b"I am 1"]);
//! }
//! # Ok::<(), shoal::error::Error>(())
//! ```
#![deny(unsafe_code)]

mod id;
mod interfaces;
mod kin;
mod line;
mod lobby;
mod member;
mod message;
mod porch;
mod proof;
mod root;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::id::{Invitation, LIBRARY_VERSION, Origin};
pub use self::kin::Kin;
use self::message::{Naming, PAYLOAD_BYTES_MAX, RANKS_MAX};
use self::porch::Porch;
use self::proof::Secret;
pub use self::session::Session;
use crate::comm::UniqueId;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::system::socket;
use crate::topology::{Card, DeviceKind, probe};

const MAKE: &str = "ncclGetUniqueId";
const JOIN: &str = "ncclCommInitRank";
/// No wait at birth is longer, whatever the setting; a setting of 0 stands for it.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// The communicator.
    pub id: &'a UniqueId,
    /// Which rank this is.
    pub rank: u32,
    /// How many there are.
    pub ranks: u32,
    /// What executes this rank's work.
    pub device: DeviceKind,
    /// What all others shall know, at most 64 KiB.
    pub payload: &'a [u8],
}

impl Default for Join<'_> {
    fn default() -> Self {
        Join { id: &[0; 128], rank: 0, ranks: 1, device: DeviceKind::Host, payload: &[] }
    }
}

/// Makes the id that the ranks of a new communicator share, and starts the root that they meet at; or, if
/// `config` sets an address for it, makes the id that stands for this address in every process.
///
/// # Errors
/// No socket could be opened, or the address is none.
pub fn unique_id(config: &Config) -> Result<UniqueId> {
    if config.comm_id.trim().is_empty() { create_root(config) } else { address_id(config) }
}

/// Where ranks would be told to meet if an id was made now. For people who ask; nothing is left open.
///
/// # Errors
/// As for [`unique_id`].
pub fn addresses_offered(config: &Config) -> Result<Vec<SocketAddr>> {
    if config.comm_id.trim().is_empty() {
        open_listener(&config.socket_ifname).map(|(_, addresses)| addresses)
    } else {
        resolve(MAKE, config.comm_id.trim())
    }
}

/// Ends the root of an id that was made here and that nobody will use.
pub fn retire(id: &UniqueId) {
    if let Ok(invitation) = Invitation::parse(MAKE, id) {
        porch::retire(invitation.communicator);
    }
}

/// What a person should know about `id` and is worth one line in the log, if anything is.
#[must_use]
pub fn warning(id: &UniqueId) -> Option<&'static str> {
    match Invitation::parse(JOIN, id).ok()?.origin {
        Origin::Address { with_secret: false } => Some(
            "NCCL_COMM_ID is set without SHOAL_SECRET: whoever reaches the address may take part; set SHOAL_SECRET \
             to the same text on all ranks",
        ),
        _ => None,
    }
}

impl Session {
    /// Meets the other ranks of `join.id`. Rank 0 of an address that was set by hand starts the root there.
    ///
    /// # Errors
    /// The id is none of ours; who did not come in time; who was started differently; the root cannot be
    /// reached, and what was tried; `abort` was set.
    pub fn join(config: &Config, join: &Join<'_>, abort: Arc<AtomicBool>) -> Result<Session> {
        let Join { rank, ranks, .. } = *join;
        let invitation = Invitation::parse(JOIN, join.id)?;
        if ranks == 0 || ranks > RANKS_MAX {
            let problem = format!("is {ranks}");
            return Err(Error::argument(JOIN, "nranks", problem, format!("give 1 to {RANKS_MAX}")));
        }
        if rank >= ranks {
            let remedy = format!("give 0 to {} for {ranks} ranks", ranks - 1);
            return Err(Error::argument(JOIN, "rank", format!("is {rank}"), remedy));
        }
        if join.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::Internal(format!("a card with {} more bytes", join.payload.len())));
        }
        let mut card = Card {
            rank,
            ranks,
            library_version: LIBRARY_VERSION,
            token: random()?,
            payload: join.payload.to_vec(),
            ..probe::local_card(&config.host_id, join.device)
        };
        let mut settings = member::Settings {
            secret: invitation.secret,
            communicator: invitation.communicator,
            addresses: Vec::new(),
            patient: invitation.origin != Origin::Listening,
            early: false,
            bound: bound(config),
            naming: Naming::default(),
        };
        if ranks == 1 {
            // Nobody will come to the root of this id, should it be here.
            porch::retire(invitation.communicator);
            return Ok(Session::alone(&settings, card));
        }
        settings.addresses = addresses_to_try(config, &invitation)?;
        if rank == 0 && invitation.origin != Origin::Listening {
            start_root_at(&settings, &abort)?;
        }
        let porch = open_porch(config)?;
        card.listeners = porch.addresses().to_vec();
        Session::meet(settings, card, porch, abort)
    }
}

/// How long to wait for others.
fn bound(config: &Config) -> Duration {
    match config.init_timeout {
        Duration::ZERO => LONGEST_WAIT,
        bound => bound.min(LONGEST_WAIT),
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    socket::random_bytes().map_err(|cause| {
        Error::system("reading the system's random source", cause, "the system must offer getrandom")
    })
}

/// Makes an id for a root of this process.
fn create_root(config: &Config) -> Result<UniqueId> {
    let porch = open_porch(config)?;
    let invitation = Invitation {
        origin: Origin::Listening,
        secret: Secret(random()?),
        communicator: random()?,
        addresses: porch.addresses().to_vec(),
    };
    let settings = root::Settings {
        secret: invitation.secret,
        communicator: invitation.communicator,
        stay_after_failure: true,
        naming: Naming::default(),
    };
    porch.serve(settings, None)?;
    Ok(invitation.encode())
}

/// This process's place to meet, by these settings.
fn open_porch(config: &Config) -> Result<Arc<Porch>> {
    Porch::open(&config.socket_ifname, || open_listener(&config.socket_ifname))
}

/// A listener at a port of the system's choice, and where it may be reached.
fn open_listener(ifname: &str) -> Result<(TcpListener, Vec<SocketAddr>)> {
    let failed = |cause: io::Error| {
        Error::system(
            "opening a socket for ranks to meet",
            cause,
            "raise the limit of open files (ulimit -n), or set SHOAL_SOCKET_IFNAME to an interface that works",
        )
    };
    // Without a list of interfaces ranks of this host still meet.
    let interfaces = socket::interfaces().unwrap_or_default();
    let ifname = ifname.trim();
    if !ifname.is_empty() && !ifname.starts_with('^') {
        let Some(address) = interfaces::named_address(&interfaces, ifname) else {
            let mut names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            return Err(Error::system(
                "opening a socket for ranks to meet",
                format!("no interface that is up fits SHOAL_SOCKET_IFNAME={ifname}"),
                format!("name one of {}", names.join(", ")),
            ));
        };
        let listener = socket::listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        return Ok((listener, vec![address]));
    }
    let any = |ip: IpAddr| socket::listen(SocketAddr::new(ip, 0));
    let listener =
        any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into())).map_err(failed)?;
    let own = listener.local_addr().map_err(failed)?;
    let allowed = interfaces::allowed(&interfaces, ifname);
    Ok((listener, interfaces::offered(&allowed, own.port(), own.is_ipv6())))
}

/// The id that stands for the address of `config`; the same bytes in every process with the same settings.
fn address_id(config: &Config) -> Result<UniqueId> {
    let text = config.comm_id.trim();
    let addresses = resolve(MAKE, text)?;
    let with_secret = !config.secret.is_empty();
    Ok(Invitation {
        origin: Origin::Address { with_secret },
        secret: proof::secret_from_text(&config.secret),
        communicator: proof::communicator_from_address(text),
        addresses,
    }
    .encode())
}

fn resolve(call: &'static str, text: &str) -> Result<Vec<SocketAddr>> {
    let remedy = "write an address or a name of rank 0's host and a free port there, like 10.0.0.1:5000";
    let bad = |problem: String| Error::argument(call, "NCCL_COMM_ID (or SHOAL_COMM_ID)", problem, remedy);
    let parts = id::split_address(text).ok_or_else(|| bad(format!("is {text}")))?;
    let addresses: Vec<SocketAddr> =
        parts.to_socket_addrs().map_err(|cause| bad(format!("is {text}: {cause}")))?.collect();
    if addresses.is_empty() { Err(bad(format!("is {text}, which leads nowhere"))) } else { Ok(addresses) }
}

fn addresses_to_try(config: &Config, invitation: &Invitation) -> Result<Vec<SocketAddr>> {
    let text = config.comm_id.trim();
    let by_hand = invitation.origin != Origin::Listening;
    if by_hand && !text.is_empty() && proof::communicator_from_address(text) == invitation.communicator {
        // A name may mean another address here than where the id was made.
        return resolve(JOIN, text);
    }
    Ok(to_try(&invitation.addresses))
}

/// What to try to reach who offers `addresses`.
fn to_try(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let link_local = addresses.iter().any(|address| id::is_link_local(&address.ip()));
    let own = if link_local { socket::interfaces().unwrap_or_default() } else { Vec::new() };
    interfaces::tried(addresses, &own)
}

/// Starts the root at one of the addresses. The port may still be held by the communicator before this one.
fn start_root_at(settings: &member::Settings, abort: &AtomicBool) -> Result<()> {
    const AGAIN_AFTER: Duration = Duration::from_millis(20);
    let began = Instant::now();
    loop {
        let mut causes = Vec::new();
        let mut busy = false;
        for address in &settings.addresses {
            match socket::listen(*address) {
                Ok(listener) => {
                    let settings = root::Settings {
                        secret: settings.secret,
                        communicator: settings.communicator,
                        stay_after_failure: false,
                        naming: Naming::default(),
                    };
                    return Porch::without_listener()?.serve(settings, Some(listener));
                }
                Err(cause) => {
                    busy |= cause.kind() == io::ErrorKind::AddrInUse;
                    causes.push(format!("{address}: {cause}"));
                }
            }
        }
        if abort.load(Ordering::Relaxed) {
            return Err(Error::Aborted("aborted while the address of NCCL_COMM_ID was in use".into()));
        }
        if !busy || began.elapsed() >= settings.bound {
            return Err(Error::system(
                "listening at the address of NCCL_COMM_ID",
                causes.join("; "),
                "start rank 0 on the host that has this address, and choose a port that nobody uses",
            ));
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}
