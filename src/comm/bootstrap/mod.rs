//! The exchange between ranks at birth.
//!
//! **A birth.** One process makes a unique id ([`unique_id`]): it writes where it may be reached and a secret into
//! the id, and holds a rendezvous, the *root*. The application hands the id to all ranks. Each rank connects to the
//! root ([`Session::join`]), both prove that they know the secret, and the rank hands in its [`Card`] without what
//! the layers above added. When all have come the root tells every rank who its neighbours are: small messages,
//! as many as there are ranks. That is all it does, but that until the ranks have met it tells all of them if one
//! is lost.
//!
//! **The tree.** The ranks stand in a tree (`tree`). Each connects to the one above it, at the listener of that
//! one's process, and again both prove themselves, with a secret of this birth alone. Through the tree the ranks
//! take steps together ([`Session::all_gather`]): parts go up, all parts come down. The first step carries the
//! cards. So no process has more than O(log n) connections or sends more than O(n log n) bytes, where a star's
//! centre sends O(n^2). Failures travel along the tree as well, and a rank that waits long says to its neighbours
//! for whom, so that whoever runs out of time first can name who is missing.
//!
//! **Several ids** ([`Session::join_by_several`]): as many groups of ranks that follow each other, each introduced by
//! the root of its id. The first ranks of the groups, the leaders, are introduced by the first root as well, and
//! stand in a tree of their own, from which those of the groups hang. A leader passes on what its roots say.
//!
//! **A child.** Ranks of a communicator that want a child of it ([`Session::derive`]) know each other's cards, and
//! so need no root: they go straight to their places in the tree, with a secret that derives from the parent's key,
//! who takes part and what for. Whoever comes before the rank above it has come waits in that process's lobby.
//!
//! **The listener.** Every process has one listener and one thread (`porch`, `server`), as long as a communicator
//! lives there or an id waits to be used. They serve all rendezvous of the process: the first words of a visitor
//! name the door it comes to. A forked child has neither, and opens its own when it needs them; nor has it copies of
//! the sockets, so that the death of its parent is seen while it lives.
//!
//! | file | what lives there |
//! |---|---|
//! | `id` | the 128 bytes |
//! | `proof` | the secret, proofs and keys |
//! | `message`, `wire` | the words of the exchange, and bytes with bounds |
//! | `lobby` | who connected to this process and has not said yet for whom; pure |
//! | `root`, `agreement` | the rendezvous of a birth, and whether those who come were started alike; pure |
//! | `member` | a rank's side, made of `audience` (its dealings with a root), `branch` (its place in the tree), `seek` (reach somebody who has several addresses) and `guests` (who comes to its door); pure |
//! | `epitaph` | what those hear that come to the door of a rank that gave up; pure |
//! | `tree`, `interfaces` | who stands above whom; which addresses are offered and tried; pure |
//! | `place`, `secret` | the listeners that the settings ask for; the secret beside an address |
//! | `porch`, `server` | the process's listener and its thread |
//! | `session`, `kin` | the driver of one member, and what is kept of it so that ranks can meet again |
//! | `pulse` | whether the processes of other ranks live, asked of the system |
//! | `line` | one socket with its queue |
//!
//! All waits are bounded by `SHOAL_INIT_TIMEOUT`, see an abort within 50 ms, and end with the names of those who
//! are missing. Whoever does not know the secret is turned away, counted, and leaves no trace.
//!
//! **An address by hand.** With `NCCL_COMM_ID` there is no root before rank 0 is born; the id carries the address.
//! The secret is `SHOAL_SECRET`, else the private file of `SHOAL_SECRET_FILE`; without either there is none, and
//! [`warning`] says so. Births at one address follow one another: the ranks of the first set that is complete
//! belong together, and who comes as a rank that is there already is told to come again.
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

mod agreement;
mod audience;
mod branch;
mod epitaph;
mod guests;
mod id;
mod interfaces;
mod kin;
mod line;
mod lobby;
mod member;
mod message;
mod place;
mod porch;
mod proof;
mod pulse;
mod root;
mod secret;
mod seek;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod tree;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::audience::Rendezvous;
use self::id::{Invitation, Origin, Speaker};
pub use self::kin::Kin;
use self::member::Member;
use self::message::{Naming, PAYLOAD_BYTES_MAX, RANKS_MAX};
pub use self::place::network_devices;
use self::porch::Porch;
use self::proof::Secret;
pub use self::pulse::Pulse;
use self::root::Time;
use self::secret::Shared;
pub use self::session::Session;
use self::tree::Shape;
use crate::comm::UniqueId;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::system::{room, socket};
use crate::topology::{Card, DeviceKind, probe};
use crate::trace::log;

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
    room::check_for_birth()?;
    if config.comm_id.trim().is_empty() { create_root(config) } else { address_id(config) }
}

/// Where ranks would be told to meet if an id was made now. For people who ask; nothing is left open.
///
/// # Errors
/// As for [`unique_id`].
pub fn addresses_offered(config: &Config) -> Result<Vec<SocketAddr>> {
    match config.comm_id.trim() {
        "" => place::offered(config),
        text => place::resolve(MAKE, text),
    }
}

/// Ends the root of an id that was made here and that nobody will use.
pub fn retire(id: &UniqueId) {
    if let Ok(invitation) = Invitation::parse(MAKE, id) {
        porch::retire(invitation.communicator);
    }
}

/// What a person should know about `id` and is worth one line in the log of a process, if anything is.
#[must_use]
pub fn warning(id: &UniqueId) -> Option<&'static str> {
    match Invitation::parse(JOIN, id).ok()?.origin {
        Origin::Address { with_secret: false } => Some(
            "NCCL_COMM_ID is set without SHOAL_SECRET: whoever reaches the address may take part; set SHOAL_SECRET, \
             or write SHOAL_SECRET_FILE (mode 0600), with the same text on all ranks",
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
        Session::join_by_several(config, &[*join.id], join, abort)
    }

    /// The same by several ids, which all ranks give in the same order: each serves about as many ranks as every
    /// other, so that no process introduces all of them. `join.id` is not looked at. Of ids that stand for an
    /// address the first one counts.
    ///
    /// # Errors
    /// As for [`Self::join`].
    pub fn join_by_several(
        config: &Config,
        ids: &[UniqueId],
        join: &Join<'_>,
        abort: Arc<AtomicBool>,
    ) -> Result<Session> {
        let Join { rank, ranks, .. } = *join;
        let invitations = parse_all(ids)?;
        check_seat(join)?;
        let mut card = Card {
            rank,
            ranks,
            library_version: Speaker::own().library,
            token: random()?,
            payload: join.payload.to_vec(),
            ..probe::local_card(&config.host_id, join.device)
        };
        // Ids beyond the number of ranks have nobody to serve.
        let used = if ranks == 1 { 0 } else { invitations.len().min(ranks as usize) };
        invitations[used..].iter().for_each(|unused| porch::retire(unused.communicator));
        let shape = Shape { ranks, groups: u32::try_from(used.max(1)).unwrap_or(u32::MAX) };
        let (secret, communicator) = proof::of_all(&invitations[..used.max(1)]);
        let settings = member::Settings {
            secret,
            communicator,
            groups: shape.groups,
            bound: bound(config),
            naming: Naming::default(),
            links: place::links(config)?,
        };
        if ranks == 1 {
            return Ok(Session::alone(&settings, card));
        }
        let own = shape.group_of(rank);
        let leads = shape.leads(rank) && own > 0;
        let mut places = Vec::new();
        for group in std::iter::once(own).chain(leads.then_some(0)) {
            let invitation = &invitations[group as usize];
            places.push(Rendezvous {
                secret: invitation.secret,
                communicator: invitation.communicator,
                addresses: addresses_to_try(config, invitation, &settings.links)?,
                patient: invitation.origin != Origin::Listening,
                groups: shape.groups,
                group,
            });
        }
        if rank == 0 && places[0].patient {
            start_root_at(&places[0], settings.bound, &abort)?;
        }
        let porch = place::open(config)?;
        card.listeners = porch.addresses().to_vec();
        let member = Member::new(Time::ZERO, settings.clone(), card, places);
        let met = Session::meet(&settings, rank, member, porch, abort);
        let foreign = invitations.iter().map(|invitation| invitation.maker).find(|maker| maker.is_foreign());
        met.map_err(|error| foreign.map_or(error.clone(), |maker| name_versions(maker, error)))
    }
}

/// What the ids say; of those that stand for an address only the first.
fn parse_all(ids: &[UniqueId]) -> Result<Vec<Invitation>> {
    let mut invitations = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        // Ids that stand for an address are the same by nature.
        let by_hand = invitations.first().is_some_and(|first: &Invitation| first.origin != Origin::Listening);
        if !by_hand && ids[..at].contains(id) {
            let problem = format!("number {at} is the same as one before");
            return Err(Error::argument(
                JOIN,
                "the unique ids",
                problem,
                "call ncclGetUniqueId for each of them",
            ));
        }
        invitations.push(Invitation::parse(JOIN, id)?);
    }
    match invitations.first() {
        None => Err(Error::argument(JOIN, "the unique ids", "are none", "give one at least")),
        Some(first) if first.origin == Origin::Listening => {
            invitations.retain(|invitation| invitation.origin == Origin::Listening);
            Ok(invitations)
        }
        Some(_) => {
            invitations.truncate(1);
            Ok(invitations)
        }
    }
}

/// What a rank says that could not even ask the maker of its id, who has another version.
fn name_versions(maker: Speaker, error: Error) -> Error {
    match error {
        Error::Mismatch(_) | Error::Aborted(_) => error,
        other => Error::Mismatch(format!(
            "the unique id was made by {maker}, and this rank runs {}; load the same on all ranks ({other})",
            Speaker::own()
        )),
    }
}

fn check_seat(join: &Join<'_>) -> Result<()> {
    let Join { rank, ranks, .. } = *join;
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
    Ok(())
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
    let porch = place::open(config)?;
    let invitation = Invitation {
        maker: Speaker::own(),
        origin: Origin::Listening,
        secret: Secret(random()?),
        communicator: random()?,
        addresses: porch.addresses().to_vec(),
    };
    let settings =
        root::Settings { secret: invitation.secret, communicator: invitation.communicator, by_hand: false };
    porch.serve(settings, None)?;
    Ok(invitation.encode())
}

/// The id that stands for the address of `config`; the same bytes in every process with the same settings.
fn address_id(config: &Config) -> Result<UniqueId> {
    let text = config.comm_id.trim();
    let addresses = place::resolve(MAKE, text)?;
    let (with_secret, secret) = match secret::shared(config) {
        Shared::Known(text) => (true, text),
        Shared::Nothing => (false, String::new()),
        Shared::Unusable(why) => {
            static SAID: AtomicBool = AtomicBool::new(false);
            if !SAID.swap(true, Ordering::Relaxed) {
                log::warn(format_args!("the secret of NCCL_COMM_ID is not taken from its file: {why}"));
            }
            (false, String::new())
        }
    };
    Ok(Invitation {
        maker: Speaker::own(),
        origin: Origin::Address { with_secret },
        secret: proof::secret_from_text(&secret),
        communicator: proof::communicator_from_address(text),
        addresses,
    }
    .encode())
}

fn addresses_to_try(
    config: &Config,
    invitation: &Invitation,
    links: &interfaces::Links,
) -> Result<Vec<SocketAddr>> {
    let text = config.comm_id.trim();
    let by_hand = invitation.origin != Origin::Listening;
    if by_hand && !text.is_empty() && proof::communicator_from_address(text) == invitation.communicator {
        // A name may mean another address here than where the id was made.
        return Ok(links.of_family(place::resolve(JOIN, text)?));
    }
    Ok(interfaces::tried(&invitation.addresses, links))
}

/// Starts the root at one of the addresses. The port may still be held by the communicator before this one.
fn start_root_at(place: &Rendezvous, bound: Duration, abort: &AtomicBool) -> Result<()> {
    const AGAIN_AFTER: Duration = Duration::from_millis(20);
    let began = Instant::now();
    loop {
        let mut causes = Vec::new();
        let mut busy = false;
        for address in &place.addresses {
            match socket::listen(*address) {
                Ok(listener) => {
                    let settings = root::Settings {
                        secret: place.secret,
                        communicator: place.communicator,
                        by_hand: true,
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
        if !busy || began.elapsed() >= bound {
            return Err(Error::system(
                "listening at the address of NCCL_COMM_ID",
                causes.join("; "),
                "start rank 0 on the host that has this address, and choose a port that nobody uses",
            ));
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}
