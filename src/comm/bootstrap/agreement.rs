//! Whether ranks that meet were started alike. Pure.
#![forbid(unsafe_code)]

use super::id::{Speaker, version_text};
use super::message::{Failure, FailureKind};
use crate::topology::Card;

/// By how many ids a rank meets the others, and which of them it takes this for.
type Circle = (u32, u32);

/// Whether the first rank that came and this one agree; `taken` is who came as the same rank before.
pub(crate) fn check(
    (first, circle): (&Card, Circle),
    (card, its_circle): (&Card, Circle),
    taken: Option<&Card>,
) -> Result<(), Failure> {
    let mismatch = |text: String| Err(Failure::new(FailureKind::Mismatch, text));
    let (one, other) = (first.describe(), card.describe());
    if first.ranks != card.ranks {
        return mismatch(format!(
            "{one} was started as one of {} ranks, {other} as one of {}; give all the same number",
            first.ranks, card.ranks
        ));
    }
    if circle != its_circle {
        return mismatch(format!(
            "{one} meets the others by {} ids and takes this for the one at {}, {other} by {} and takes it for \
             the one at {}; give all ranks the same ids in the same order",
            circle.0, circle.1, its_circle.0, its_circle.1
        ));
    }
    if first.library_version != card.library_version {
        return mismatch(format!(
            "{one} runs version {} of the library, {other} version {}; load the same on all ranks",
            version_text(first.library_version),
            version_text(card.library_version)
        ));
    }
    if first.device != card.device {
        return mismatch(format!(
            "{one} works on device {}, {other} on {}; set SHOAL_DEVICE to the same for all ranks",
            first.device, card.device
        ));
    }
    if let Some(taken) = taken {
        return mismatch(format!(
            "both {} and {other} call themselves rank {} of {}; give every rank a number of its own",
            taken.describe(),
            card.rank,
            card.ranks
        ));
    }
    Ok(())
}

/// What is wrong with a rank whose words cannot be understood by a library like this.
pub(crate) fn foreign(speaker: Speaker) -> Failure {
    let own = Speaker::own();
    let text = format!(
        "a rank came with {speaker}, and the process at which the ranks meet runs {own}; load the same on all ranks"
    );
    Failure::new(FailureKind::Mismatch, text)
}
