//! Classes of batches: what a gain is told of. Pure.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::script::Script;
use crate::trace::file::Operation;
use crate::trace::report::CLASS_ENDS;

/// Batches that are alike: what they call, and the class of the mean size of their operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) what: &'static str,
    /// The most bytes of it; the last class has no end.
    pub(super) end_bytes: u64,
}

impl Class {
    /// The class of a batch.
    pub(super) fn of(operations: &[Operation]) -> Class {
        let messages = operations.iter().filter(|one| one.kind.is_point_to_point()).count();
        let what = match operations {
            [one] => one.kind.name(),
            _ if messages == operations.len() => "group of messages",
            _ if messages == 0 => "group of collectives",
            _ => "mixed group",
        };
        let bytes = operations.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes()));
        let mean = bytes / operations.len().max(1) as u64;
        let end_bytes = CLASS_ENDS.into_iter().find(|end| mean <= *end).unwrap_or(u64::MAX);
        Class { what, end_bytes }
    }

    /// Its sizes, for people.
    pub(super) fn sizes(end_bytes: u64) -> String {
        let named = |bytes: u64| match bytes {
            bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            bytes if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
            bytes => format!("{bytes} B"),
        };
        match CLASS_ENDS {
            [.., last, u64::MAX] if end_bytes == u64::MAX => format!("above {}", named(last)),
            _ => format!("to {}", named(end_bytes)),
        }
    }
}

/// Batches, operations and bytes of each class, over all ranks.
pub(super) fn classes(script: &Script) -> BTreeMap<Class, [u64; 3]> {
    let mut classes: BTreeMap<Class, [u64; 3]> = BTreeMap::new();
    for member in script.groups.iter().flat_map(|group| &group.members) {
        for batch in &member.batches {
            let operations = member.operations(batch);
            let [batches, calls, bytes] = classes.entry(Class::of(operations)).or_default();
            *batches += 1;
            *calls += operations.len() as u64;
            *bytes = operations.iter().fold(*bytes, |sum, one| sum.saturating_add(one.bytes()));
        }
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::super::script::tests::operation;
    use super::*;
    use crate::op::Kind;

    #[test]
    fn batches_have_classes() {
        let (send, sum) = (operation(Kind::Send, 16, 1), operation(Kind::AllReduce, 1 << 20, 0));
        let class = |operations: &[Operation]| {
            let class = Class::of(operations);
            (class.what, Class::sizes(class.end_bytes))
        };
        assert_eq!(class(&[send]), ("Send", "to 64 B".into()));
        assert_eq!(class(&[send, send]), ("group of messages", "to 64 B".into()));
        assert_eq!(class(&[sum, sum]), ("group of collectives", "to 4 MiB".into()));
        assert_eq!(class(&[send, sum]).0, "mixed group");
        assert_eq!(class(&[operation(Kind::Recv, 1 << 30, 0)]).1, "above 4 MiB");
    }
}
