//! Where two tables choose differently.
#![forbid(unsafe_code)]

use std::fmt;

use super::{Choice, Choices, Cores, Key, Site, Span, Table, TypeClass, operation_name};
use crate::op::Kind;
use crate::topology::DeviceKind;

/// Sizes at one site for which the tables differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of which operation.
    pub operation: Kind,
    /// Where.
    pub site: Site,
    /// For which types.
    pub types: TypeClass,
    /// For which sizes.
    pub bytes: Span,
    /// What each says; `None`: nothing.
    pub choices: [Option<Choice>; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { ranks, hosts, ranks_per_host, cores, .. } = self.site;
        let [one, other] =
            self.choices.map(|choice| choice.map_or("nothing".to_owned(), |choice| choice.to_string()));
        let types =
            if self.operation.reduces() { format!(", {} types", self.types.name()) } else { String::new() };
        write!(
            formatter,
            "{} of {} bytes{types}, from {ranks} ranks, {hosts} hosts, {ranks_per_host} ranks per host, \
             cores {}: {one} | {other}",
            operation_name(self.operation),
            self.bytes,
            cores.name(),
        )
    }
}

/// Every place where the tables differ: the sites at which something begins in either of them, and of each the
/// sizes.
#[must_use]
pub fn diff(one: &Table, other: &Table) -> Vec<Difference> {
    let keys: Vec<&Key> = one.rows.iter().chain(&other.rows).map(|row| &row.key).collect();
    let mut found = Vec::new();
    for site in sites(&keys) {
        let sides = [one, other].map(|table| Choices::of(&[table], &site));
        for operation in Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()) {
            let classes: &[TypeClass] = if operation.reduces() {
                &[TypeClass::Native, TypeClass::Narrow]
            } else {
                &[TypeClass::Native]
            };
            let starts = starts(keys.iter().filter(|key| key.operation == operation).map(|key| key.bytes));
            for types in classes.iter().copied() {
                let at = |bytes| {
                    let chosen =
                        |side: &Choices| side.find(operation, bytes, types).map(|found| found.choice);
                    [chosen(&sides[0]), chosen(&sides[1])]
                };
                let mut pieces: Vec<Difference> = Vec::new();
                for (index, from) in starts.iter().copied().enumerate() {
                    let to = starts.get(index + 1).map_or(u64::MAX, |next| next - 1);
                    let choices = at(from);
                    match pieces.last_mut() {
                        Some(last) if last.choices == choices && last.bytes.to.wrapping_add(1) == from => {
                            last.bytes.to = to;
                        }
                        _ if choices[0] == choices[1] => {}
                        _ => pieces.push(Difference {
                            operation,
                            site,
                            types,
                            bytes: Span { from, to },
                            choices,
                        }),
                    }
                }
                found.extend(pieces);
            }
        }
    }
    found
}

/// The numbers at which something begins or has just ended.
fn starts(spans: impl Iterator<Item = Span>) -> Vec<u64> {
    let mut starts = vec![0];
    spans.for_each(|span| {
        starts.push(span.from);
        starts.extend(span.to.checked_add(1));
    });
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// One site for each combination of what the keys tell apart.
fn sites(keys: &[&Key]) -> Vec<Site> {
    let numbers = |part: fn(&Key) -> Span| -> Vec<u32> {
        let starts = starts(keys.iter().map(|key| part(key)));
        let mut numbers: Vec<u32> = starts.iter().filter_map(|start| u32::try_from(*start).ok()).collect();
        numbers.iter_mut().for_each(|number| *number = (*number).max(1));
        numbers.dedup();
        numbers
    };
    let tells_cores = keys.iter().any(|key| key.cores.is_some());
    let cores: &[Cores] = if tells_cores { &[Cores::Own, Cores::Shared] } else { &[Cores::Own] };
    let has_cuda = keys.iter().any(|key| key.device == Some(DeviceKind::Cuda));
    let devices: &[DeviceKind] =
        if has_cuda { &[DeviceKind::Host, DeviceKind::Cuda] } else { &[DeviceKind::Host] };
    let mut sites = Vec::new();
    for ranks in numbers(|key| key.ranks) {
        for hosts in numbers(|key| key.hosts).into_iter().filter(|hosts| *hosts <= ranks) {
            for ranks_per_host in numbers(|key| key.ranks_per_host) {
                for cores in cores.iter().copied() {
                    let site = |device| Site { ranks, hosts, ranks_per_host, cores, device };
                    sites.extend(devices.iter().copied().map(site));
                }
            }
        }
    }
    sites
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::*;

    fn table(bound: u64, ranks: &str) -> Table {
        let row = |bytes: String, algorithm: &str| {
            format!(
                "[[row]]\noperation = \"allgather\"\nranks = {ranks}\nbytes = {bytes}\nalgorithm = \"{algorithm}\"\n"
            )
        };
        let text =
            row(format!("[0, {bound}]"), "exchange") + &row(format!("[{}, \"any\"]", bound + 1), "ring");
        read("t", &text).unwrap()
    }

    #[test]
    fn a_bound_that_moved_is_one_difference() {
        assert_eq!(diff(&table(9, "4"), &table(9, "4")), []);
        let found = diff(&table(9, "4"), &table(19, "4"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].bytes, found[0].site.ranks), (Span { from: 10, to: 19 }, 4));
        assert!(found[0].to_string().ends_with("ring | exchange"), "{}", found[0]);
    }

    #[test]
    fn ranks_that_only_one_knows_differ_everywhere() {
        let found = diff(&table(9, "[2, 4]"), &table(9, "[2, 8]"));
        assert!(found.iter().all(|difference| difference.site.ranks == 5), "{found:?}");
        assert_eq!(found.len(), 2);
    }
}
