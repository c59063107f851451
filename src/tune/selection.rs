//! Which algorithms one call may use, as `algSelection` names them.
#![forbid(unsafe_code)]

use super::wanted::{List, is_foreign};
use crate::op::Kind;
use crate::schedule::Algorithm;

/// The algorithms that `text` allows for `kind`; none means the table's choice. If it is `forced`, a selection
/// that cannot be had is refused, with the reason; otherwise it leaves the choice to the table.
///
/// # Errors
/// Why the selection cannot be had.
pub fn select(text: &str, kind: Kind, forced: bool) -> Result<Vec<Algorithm>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let list = List::of(text);
    let serving = Algorithm::ALL.into_iter().filter(|algorithm| algorithm.serves(kind));
    let allowed: Vec<Algorithm> = serving.filter(|algorithm| list.allows(*algorithm)).collect();
    if !forced {
        return Ok(allowed);
    }
    if list.names().next().is_none() {
        return Err("names no algorithm".into());
    }
    if let Some(unknown) = list.names().find(|name| Algorithm::named(name).is_none() && !is_foreign(name)) {
        return Err(format!("names {unknown:?}, which is no algorithm"));
    }
    if allowed.is_empty() {
        return Err(format!("leaves no algorithm for {}, which has {}", kind.name(), names_for(kind)));
    }
    Ok(allowed)
}

/// The names of all algorithms for `kind`, for people.
#[must_use]
pub fn names_for(kind: Kind) -> String {
    let serving = Algorithm::ALL.into_iter().filter(|algorithm| algorithm.serves(kind));
    serving.map(Algorithm::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, kind: Kind, forced: bool) -> Result<Vec<&'static str>, String> {
        select(text, kind, forced).map(|list| list.into_iter().map(Algorithm::name).collect())
    }

    #[test]
    fn lists_allow_and_forbid() {
        let all = |text| names(text, Kind::AllReduce, true).unwrap();
        assert_eq!(all("ring"), ["ring"]);
        assert_eq!(all(" RING , ,Tree"), ["ring", "tree"]);
        assert_eq!(all("ring,nvls"), ["ring"]);
        assert!(all("^ring").contains(&"tree") && !all("^ring").contains(&"ring"));
        assert!(!all("^ring,tree").contains(&"tree"));
        assert!(all("^nvls").contains(&"ring"));
        assert!(all("").is_empty() && all("  ").is_empty());
    }

    #[test]
    fn what_cannot_be_had_is_refused_if_it_is_forced() {
        for (text, words) in [
            ("bogus", "names \"bogus\""),
            ("ring,bogus", "names \"bogus\""),
            ("ring;tree", "names \"ring;tree\""),
            ("^", "names no algorithm"),
            (",", "names no algorithm"),
            ("nvls", "leaves no algorithm"),
        ] {
            assert!(names(text, Kind::AllReduce, true).unwrap_err().contains(words), "{text}");
            assert!(names(text, Kind::AllReduce, false).is_ok(), "{text}");
        }
        assert!(names("ring", Kind::AlltoAll, true).unwrap_err().contains("exchange"));
        assert!(names("ring", Kind::AlltoAll, false).unwrap().is_empty());
    }
}
