//! Which algorithms a setting wants: NCCL's form, `ring,tree` for every operation, `^tree` for all but some, and
//! `allreduce:ring,tree;broadcast:^ring` for some operations.
#![forbid(unsafe_code)]

use crate::op::Kind;
use crate::schedule::Algorithm;

/// Names of NCCL's that stand for hardware which is not used here: known, and never to be had.
const FOREIGN: [&str; 6] = ["collnet", "collnetdirect", "collnetchain", "nvls", "nvlstree", "nvlspat"];

pub(super) fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Names with commas, in letters of either case; `^` in front of them means all but these.
pub(super) struct List<'a> {
    pub(super) is_negated: bool,
    names: &'a str,
}

impl<'a> List<'a> {
    pub(super) fn of(text: &'a str) -> List<'a> {
        let text = text.trim();
        let negated = text.strip_prefix('^');
        List { is_negated: negated.is_some(), names: negated.unwrap_or(text) }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.names.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    pub(super) fn allows(&self, algorithm: Algorithm) -> bool {
        self.names().any(|name| Algorithm::named(name) == Some(algorithm)) != self.is_negated
    }
}

/// One part of the setting: for one operation or for all.
struct Part<'a> {
    operation: Option<&'a str>,
    list: List<'a>,
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    text.split(';').filter(|part| !part.trim().is_empty()).map(|part| {
        let (operation, list) =
            part.split_once(':').map_or((None, part), |(name, list)| (Some(name.trim()), list));
        Part { operation, list: List::of(list) }
    })
}

fn is_named(kind: Kind, name: &str) -> bool {
    // "AllReduce" here, "ncclAllReduce" in messages, "allreduce" in settings.
    let own = kind.name();
    own.strip_prefix("nccl").unwrap_or(own).eq_ignore_ascii_case(name)
}

/// The part of `text` that counts for `kind`: what names it, else what names no operation.
fn part_for(text: &str, kind: Kind) -> Option<Part<'_>> {
    let named = parts(text).filter(|part| part.operation.is_some_and(|name| is_named(kind, name))).last();
    named.or_else(|| parts(text).filter(|part| part.operation.is_none()).last())
}

/// Which algorithms `text` allows for `kind`: `usual` if it is one of them, else the first. `None` if it says
/// nothing that can be had.
pub(super) fn choose(text: &str, kind: Kind, usual: Algorithm) -> Option<Algorithm> {
    let list = part_for(text, kind)?.list;
    let allowed = |algorithm: &Algorithm| algorithm.serves(kind) && list.allows(*algorithm);
    if allowed(&usual) {
        return Some(usual);
    }
    // In the order in which they were named; of those that are left by leaving out, in ours.
    let named = list.names().filter_map(Algorithm::named).find(allowed);
    named.or_else(|| Algorithm::ALL.into_iter().find(allowed))
}

/// What in the setting `name`, which says `text`, is not understood or cannot be had: sentences for the log.
#[must_use]
pub fn complaints(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let start = format!("{name}={text}");
    for Part { operation, list } in parts(text) {
        if let Some(name) = operation
            && !Kind::ALL.into_iter().any(|kind| !kind.is_point_to_point() && is_named(kind, name))
        {
            found.push(format!("{start} names {name:?}, which is no collective"));
        }
        for name in list.names().filter(|name| Algorithm::named(name).is_none()) {
            let is_foreign = is_foreign(name);
            if is_foreign && list.is_negated {
                continue;
            }
            found.push(if is_foreign {
                format!("{start} names {name:?}, which needs hardware that is not used here")
            } else {
                let known = Algorithm::ALL.map(Algorithm::name).join(", ");
                format!("{start} names {name:?}, which is no algorithm; there are {known}")
            });
        }
        for kind in Kind::ALL.into_iter().filter(|kind| operation.is_some_and(|name| is_named(*kind, name))) {
            let serves = |algorithm: Algorithm| algorithm.serves(kind) && list.allows(algorithm);
            if list.names().any(|name| Algorithm::named(name).is_some())
                && !Algorithm::ALL.into_iter().any(serves)
            {
                found.push(format!("{start} leaves no algorithm for {}; the table chooses", kind.name()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Algorithm = Algorithm::Exchange;

    #[test]
    fn lists_operations_and_exclusions_are_read() {
        let chosen = |text, kind| choose(text, kind, USUAL);
        assert_eq!(chosen("", Kind::AllReduce), None);
        assert_eq!(chosen(" Ring", Kind::AllReduce), Some(Algorithm::Ring));
        assert_eq!(chosen("tree,ring", Kind::AllReduce), Some(Algorithm::Tree));
        assert_eq!(chosen("ring,exchange", Kind::AllReduce), Some(USUAL), "the table's own, where it may");
        assert!(chosen("^exchange", Kind::AllReduce).is_some_and(|chosen| chosen != USUAL));
        assert_eq!(chosen("^ring", Kind::AllReduce), Some(USUAL));
        assert_eq!(chosen("ring", Kind::AlltoAll), None, "it has no form of it");
        assert_eq!(chosen("nvls", Kind::AllReduce), None);
        let mixed = "tree;allreduce:ring;AllGather:^exchange,tree";
        assert_eq!(chosen(mixed, Kind::AllReduce), Some(Algorithm::Ring));
        assert_eq!(chosen(mixed, Kind::Broadcast), Some(Algorithm::Tree));
        assert!(!matches!(
            chosen(mixed, Kind::AllGather),
            Some(Algorithm::Exchange | Algorithm::Tree) | None
        ));
        assert_eq!(chosen("allreduce:ring", Kind::Broadcast), None);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for good in ["", "ring", "^tree,ring", "allreduce:ring,tree;broadcast:^ring", "tree;", "^nvls"] {
            assert_eq!(complaints("X", good), Vec::<String>::new(), "{good}");
        }
        for (text, words) in [
            ("rnig", "names \"rnig\", which is no algorithm; there are exchange"),
            ("ring,NVLS", "names \"NVLS\", which needs hardware"),
            ("alreduce:ring", "names \"alreduce\", which is no collective"),
            ("send:ring", "names \"send\", which is no collective"),
            ("alltoall:ring", "leaves no algorithm for"),
        ] {
            let told = complaints("X", text).join("; ");
            assert!(told.contains(words), "{text}: {told}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(text in "[a-z,;:^ ]{0,30}|(ring|tree|\\^|,|;|:|allreduce){0,9}") {
            for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()) {
                let chosen = choose(&text, kind, USUAL);
                proptest::prop_assert!(chosen.is_none_or(|chosen| chosen.serves(kind)));
            }
            proptest::prop_assert!(complaints("X", &text).len() < 100);
        }
    }
}
