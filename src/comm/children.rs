//! Children of a communicator: Split, Shrink and Grow.
//!
//! ```text
//! Split    all ranks meet and say color and key; those of a color meet again, in the order of (key, old rank)
//! Shrink   the ranks that are left meet, in their order; the others need not know, and may be dead
//! Grow     all ranks meet and hear the id of the one that made it; they meet the new ones by it
//! ```
//! Meetings of one parent are told apart by their number: how many of the same kind among the same ranks have come
//! about, which all of them know alike. A meeting that did not come about does not count, so that it can be tried
//! again.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::birth::{grow_up, join};
use super::births::Birth;
use super::bootstrap::{self, Kin, Session};
use super::life::Life;
use super::{Body, Comm, Options, UniqueId};
use crate::config::Config;
use crate::error::{Error, Result};

const SPLIT: &str = "ncclCommSplit";
const SHRINK: &str = "ncclCommShrink";
const GROW: &str = "ncclCommGrow";
const GET_ID: &str = "ncclCommGetUniqueId";

/// What a parent knows of its children's births.
#[derive(Debug, Default)]
pub(super) struct Family(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    counts: HashMap<Vec<u8>, Count>,
    /// The id of a grow that has not come about.
    id: Option<UniqueId>,
}

#[derive(Debug, Default)]
struct Count {
    met: u64,
    under_way: u64,
}

impl Family {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// No child will be born any more.
    pub(super) fn end(&self) {
        if let Some(id) = self.lock().id.take() {
            bootstrap::retire(&id);
        }
    }
}

/// One meeting of a parent's ranks, that will come about or not.
struct Meeting {
    parent: Arc<Comm>,
    kin: Kin,
    members: Vec<u32>,
    kind: Vec<u8>,
    number: u64,
    has_met: bool,
}

impl Meeting {
    fn new(call: &'static str, parent: &Arc<Comm>, kind: &str, members: Vec<u32>) -> Result<Meeting> {
        let kin = parent.kin(call)?;
        let mut bytes = kind.as_bytes().to_vec();
        bytes.extend(members.iter().flat_map(|member| member.to_le_bytes()));
        let number = {
            let mut family = parent.family.lock();
            let count = family.counts.entry(bytes.clone()).or_default();
            count.under_way += 1;
            count.met + count.under_way - 1
        };
        Ok(Meeting { parent: Arc::clone(parent), kin, members, kind: bytes, number, has_met: false })
    }

    fn purpose(&self) -> Vec<u8> {
        [self.kind.as_slice(), &self.number.to_le_bytes()].concat()
    }

    /// Meets the members.
    fn meet(&mut self, cancel: &Arc<AtomicBool>) -> Result<Session> {
        let (config, purpose) = (Config::get(), self.purpose());
        let session = Session::derive(config, &self.kin, &self.members, &purpose, Arc::clone(cancel))?;
        self.has_met = true;
        Ok(session)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        if let Some(count) = self.parent.family.lock().counts.get_mut(&self.kind) {
            count.under_way = count.under_way.saturating_sub(1);
            count.met += u64::from(self.has_met);
        }
    }
}

fn everyone(parent: &Comm) -> Vec<u32> {
    (0..parent.ranks()).collect()
}

/// What holds for a child: what its caller says, else what holds for the parent.
fn options_of(parent: &Comm, options: Option<Options>) -> Options {
    options.unwrap_or_else(|| parent.options.clone()).settle(Config::get())
}

/// Ranks of the same color together, ordered by key; a rank without a color takes part and gets nothing.
///
/// # Errors
/// The communicator is not born, failed, or has ended.
pub fn split(parent: &Arc<Comm>, color: Option<u32>, key: i32, options: Option<Options>) -> Result<Birth> {
    parent.check_fertile(SPLIT)?;
    let options = options_of(parent, options);
    let mut meeting = Meeting::new(SPLIT, parent, "split", everyone(parent))?;
    let child = color.map(|_| Comm::unborn(None, options.clone()));
    let work = move |cancel: &Arc<AtomicBool>| {
        let started = Instant::now();
        let wishes = meeting.meet(cancel)?.all_gather(&Wish { color, key }.to_bytes())?;
        let wishes = wishes.iter().map(|bytes| Wish::from_bytes(bytes)).collect::<Result<Vec<Wish>>>()?;
        let Some(color) = color else { return Ok(None) };
        let members = members_of(color, &wishes);
        let purpose = [meeting.purpose().as_slice(), &color.to_le_bytes()].concat();
        let config = Config::get();
        let session = Session::derive(config, &meeting.kin, &members, &purpose, Arc::clone(cancel))?;
        grow_up(session, config, &options, started).map(Some)
    };
    Ok(Birth::new(SPLIT, child, Some(Arc::clone(parent)), Box::new(work)))
}

/// What one rank asks of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    color: Option<u32>,
    key: i32,
}

impl Wish {
    /// No color: more than any color is.
    const NONE: u32 = u32::MAX;

    fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.color.unwrap_or(Wish::NONE).to_le_bytes());
        bytes[4..].copy_from_slice(&self.key.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Wish> {
        let bytes: &[u8; 8] =
            bytes.try_into().map_err(|_| Error::Internal("a wish for a split of other bytes".into()))?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let color = Some(u32::from_le_bytes(word(0))).filter(|color| *color != Wish::NONE);
        Ok(Wish { color, key: i32::from_le_bytes(word(4)) })
    }
}

/// The parent's ranks of a color, in the order of their new ranks.
fn members_of(color: u32, wishes: &[Wish]) -> Vec<u32> {
    let ranked = (0..).zip(wishes).filter(|(_, wish)| wish.color == Some(color));
    let mut members: Vec<(i32, u32)> = ranked.map(|(rank, wish)| (wish.key, rank)).collect();
    members.sort_unstable();
    members.into_iter().map(|(_, rank)| rank).collect()
}

/// All ranks but the `excluded`, which exist and are others. It works on a communicator that failed, and `stops`
/// what runs on it first if that is wanted.
///
/// # Errors
/// The communicator is not born or has ended.
pub fn shrink(parent: &Arc<Comm>, excluded: &[u32], options: Option<Options>, stops: bool) -> Result<Birth> {
    parent.check_parent(SHRINK)?;
    if stops && parent.stage.get() == Life::Live {
        parent.revoke(SHRINK)?;
    }
    let options = options_of(parent, options);
    let members: Vec<u32> = everyone(parent).into_iter().filter(|rank| !excluded.contains(rank)).collect();
    let rank = members.iter().take_while(|member| **member != parent.rank()).count() as u32;
    let child = Comm::unborn(Some((rank, members.len() as u32)), options.clone());
    let mut meeting = Meeting::new(SHRINK, parent, "shrink", members)?;
    let work = move |cancel: &Arc<AtomicBool>| {
        let started = Instant::now();
        grow_up(meeting.meet(cancel)?, Config::get(), &options, started).map(Some)
    };
    Ok(Birth::new(SHRINK, Some(child), Some(Arc::clone(parent)), Box::new(work)))
}

/// The id by which new ranks find a communicator that grows. One at a time.
///
/// # Errors
/// The communicator is not born, failed, or has ended; an id waits to be used; no socket could be opened.
pub fn grow_id(parent: &Comm) -> Result<UniqueId> {
    parent.check_fertile(GET_ID)?;
    let mut family = parent.family.lock();
    if family.id.is_some() {
        return Err(Error::usage(
            GET_ID,
            "an id of this communicator waits to be used",
            "hand that one to ncclCommGrow before you ask for another",
        ));
    }
    Ok(*family.id.insert(bootstrap::unique_id(Config::get())?))
}

/// The ranks of the communicator, which keep their numbers, and new ones: `ranks` together. One rank passes the
/// `id`; the new ones call [`super::init_rank`] with it.
///
/// # Errors
/// The communicator is not born, failed, or has ended, or the id is not the one that waits to be used.
pub fn grow(parent: &Arc<Comm>, ranks: u32, id: Option<UniqueId>, options: Option<Options>) -> Result<Birth> {
    parent.check_fertile(GROW)?;
    if ranks <= parent.ranks() {
        let problem = format!("is {ranks}, and the communicator has {} ranks already", parent.ranks());
        return Err(Error::argument(GROW, "nRanks", problem, "pass how many ranks there will be"));
    }
    let is_maker = id.is_some() && parent.family.lock().id == id;
    let options = options_of(parent, options);
    let rank = parent.rank();
    let child = Comm::unborn(Some((rank, ranks)), options.clone());
    let mut meeting = Meeting::new(GROW, parent, "grow", everyone(parent))?;
    let work = move |cancel: &Arc<AtomicBool>| -> Result<Option<Body>> {
        let started = Instant::now();
        let id = agree_on_id(meeting.meet(cancel)?, ranks, id, is_maker)?;
        let session = join(&[id], rank, ranks, cancel)?;
        if is_maker {
            meeting.parent.family.lock().id = None;
        }
        grow_up(session, Config::get(), &options, started).map(Some)
    };
    Ok(Birth::new(GROW, Some(child), Some(Arc::clone(parent)), Box::new(work)))
}

/// The id that one rank knows, told to all behind a veil, since it holds a secret.
fn agree_on_id(mut session: Session, ranks: u32, id: Option<UniqueId>, is_maker: bool) -> Result<UniqueId> {
    let mut told = ranks.to_le_bytes().to_vec();
    if let Some(id) = id {
        told.push(u8::from(is_maker));
        told.extend(veil(session.key(), session.rank, &id));
    }
    let parts = session.all_gather(&told)?;
    let (count_bytes, id_bytes) = (size_of::<u32>(), size_of::<UniqueId>());
    let mut found = None;
    for (rank, part) in (0..).zip(&parts) {
        if part.get(..count_bytes) != Some(ranks.to_le_bytes().as_slice()) {
            let theirs =
                part.get(..4).map_or(0, |part| part.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)));
            return Err(Error::Mismatch(format!(
                "{GROW}: ranks disagree: rank {} grows to {ranks} ranks, rank {rank} to {theirs}; pass the same nRanks",
                session.rank
            )));
        }
        if let (Some(1), Some(hidden)) = (part.get(count_bytes), part.get(count_bytes + 1..))
            && hidden.len() == id_bytes
        {
            found = hidden.try_into().ok().map(|hidden| veil(session.key(), rank, hidden));
        }
    }
    found.ok_or_else(|| {
        Error::usage(
            GROW,
            "no rank of the communicator passed the id that waits to be used",
            "on the rank that called ncclCommGetUniqueId pass what it gave, and use each id once",
        )
    })
}

/// Hides what `rank` tells, and shows it again. Each session has its own key, so that nothing is hidden twice alike.
fn veil(key: &[u8; 32], rank: u32, bytes: &UniqueId) -> UniqueId {
    let mut mask = [0; size_of::<UniqueId>()];
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"the id of a grow").update(&rank.to_le_bytes());
    hasher.finalize_xof().fill(&mut mask);
    std::array::from_fn(|at| bytes[at] ^ mask[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_color_are_ordered_by_key_and_old_rank() {
        let wish = |color, key| Wish { color: Some(color), key };
        let none = Wish { color: None, key: -9 };
        let wishes = [wish(0, 5), wish(1, 0), wish(0, -3), none, wish(0, 5), wish(i32::MAX as u32, 0)];
        assert_eq!(members_of(0, &wishes), [2, 0, 4]);
        assert_eq!(members_of(1, &wishes), [1]);
        assert_eq!(members_of(i32::MAX as u32, &wishes), [5]);
        for wish in wishes {
            assert_eq!(Wish::from_bytes(&wish.to_bytes()), Ok(wish));
        }
        assert!(Wish::from_bytes(&[0; 7]).is_err());
    }

    #[test]
    fn what_is_veiled_shows_to_who_has_the_key() {
        let id: UniqueId = std::array::from_fn(|at| at as u8);
        let hidden = veil(&[7; 32], 3, &id);
        assert!(hidden.iter().zip(&id).filter(|(hidden, plain)| hidden == plain).count() < 16);
        assert_eq!(veil(&[7; 32], 3, &hidden), id);
        assert_ne!(veil(&[7; 32], 2, &hidden), id);
        assert_ne!(veil(&[8; 32], 3, &hidden), id);
    }
}
