//! The point-to-point messages of a batch on every rank, in frames or alone.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::{Flaw, Layout, Memory, Plan, Rank, Run, Terms};

/// The bytes of a frame beside those of each of its messages.
pub(super) const LENGTH_BYTES: usize = 4;

/// One message as its rank posts it; its buffer's number is its place among the rank's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Post {
    /// Whether it leaves.
    pub is_send: bool,
    /// To or from whom.
    pub peer: u32,
    /// How long it is.
    pub bytes: usize,
}

/// Proves that `plans`, by rank, bring every message of `posts`, by rank, to the receive that it is for,
/// whatever frames they travel in and under every timing.
///
/// # Errors
/// The first flaw found.
pub fn check_messages(posts: &[Vec<Post>], plans: &[Plan]) -> Result<(), Flaw> {
    let count = posts.len() as u32;
    if plans.len() != posts.len() {
        return Err(Flaw { rank: 0, what: "there is not one plan for each rank".into() });
    }
    let mut terms = Terms::new(posts.len());
    let mut ranks = Vec::with_capacity(posts.len());
    for (number, (posts, plan)) in (0..).zip(posts.iter().zip(plans)) {
        let layout = Layout::of_messages(posts);
        let mut memory = Memory::default();
        for (buffer, _) in (0..).zip(posts).filter(|(_, post)| post.is_send) {
            let (start, bytes) = layout.extent(buffer);
            memory.fill(start, bytes, terms.own(number), start);
        }
        ranks.push(Rank::new(plan, layout, memory, number, count)?);
    }
    let mut run = Run { ranks, terms };
    run.pair()?;
    run.finish()?;
    verify(&mut run, posts)
}

/// Every receive has the bytes of the send that it is for: the next one of its sender to its rank.
fn verify(run: &mut Run<'_>, posts: &[Vec<Post>]) -> Result<(), Flaw> {
    // By sender and receiver: the buffers that are sent, in order.
    let mut sent: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
    for (number, posts) in (0..).zip(posts) {
        for (buffer, post) in (0..).zip(posts).filter(|(_, post)| post.is_send) {
            sent.entry((number, post.peer)).or_default().push(buffer);
        }
    }
    let mut sent: HashMap<_, _> = sent.into_iter().map(|(pair, list)| (pair, list.into_iter())).collect();
    for (number, posts) in (0..).zip(posts) {
        for (buffer, post) in (0..).zip(posts).filter(|(_, post)| !post.is_send) {
            let flaw = |what: String| Flaw { rank: number, what: format!("receive {buffer}: {what}") };
            let origin = sent.get_mut(&(post.peer, number)).and_then(Iterator::next);
            let origin = origin.ok_or_else(|| flaw(format!("rank {} sends nothing for it", post.peer)))?;
            let (origin, bytes) = run.ranks[post.peer as usize].layout.extent(origin);
            if bytes != post.bytes {
                return Err(flaw(format!("{bytes} bytes are sent, {} expected", post.bytes)));
            }
            verify_one(run, number, buffer, post.peer, origin).map_err(flaw)?;
        }
    }
    match sent.into_iter().find(|(_, list)| list.len() > 0) {
        None => Ok(()),
        Some(((from, to), _)) => {
            Err(Flaw { rank: from, what: format!("it sends what rank {to} does not receive") })
        }
    }
}

fn verify_one(
    run: &mut Run<'_>,
    number: u32,
    buffer: u32,
    from: u32,
    mut origin: usize,
) -> Result<(), String> {
    let rank = &mut run.ranks[number as usize];
    let (start, bytes) = rank.layout.extent(buffer);
    let parts = rank.memory.read(start, bytes, usize::MAX, |_, _| true);
    for part in parts.map_err(|_| "a part of it was never written")? {
        run.terms.verify_own(part.term, from)?;
        if part.origin != origin {
            return Err("it has the bytes of another message".into());
        }
        origin += part.bytes;
    }
    Ok(())
}
