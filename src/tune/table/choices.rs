//! What a communicator looks through: the rows that fit its site, by operation.
#![forbid(unsafe_code)]

use super::{Choice, Cores, Span, Table, TypeClass};
use crate::op::Kind;
use crate::topology::DeviceKind;

/// What all ranks of a communicator know of where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// How many ranks.
    pub ranks: u32,
    /// On how many hosts.
    pub hosts: u32,
    /// How many on the fullest host.
    pub ranks_per_host: u32,
    /// Whether each has a core.
    pub cores: Cores,
    /// What executes their work.
    pub device: DeviceKind,
}

/// A row, without what does not change within a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    bytes: Span,
    types: Option<TypeClass>,
    found: Found,
}

/// A choice, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is used.
    pub choice: Choice,
    /// In which of the tables, counted from the first.
    pub table: usize,
    /// Which of its rows.
    pub row: usize,
}

/// The rows that can hold at one site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// By the operation's number.
    entries: [Vec<Entry>; Kind::ALL.len()],
}

impl Choices {
    /// Of the tables, those first that count first.
    #[must_use]
    pub fn of(tables: &[&Table], site: &Site) -> Choices {
        let mut choices = Choices::default();
        for (table, rows) in tables.iter().enumerate() {
            for (row, entry) in rows.rows.iter().enumerate().filter(|(_, row)| row.key.fits(site)) {
                let found = Found { choice: entry.choice, table, row };
                let key = entry.key;
                choices.entries[key.operation as usize].push(Entry {
                    bytes: key.bytes,
                    types: key.types,
                    found,
                });
            }
        }
        choices
    }

    /// The first row that holds.
    #[must_use]
    #[inline]
    pub fn find(&self, operation: Kind, bytes: u64, types: TypeClass) -> Option<Found> {
        let holds = |entry: &&Entry| {
            entry.bytes.holds(bytes)
                && (entry.types.is_none_or(|named| named == types) || !operation.reduces())
        };
        self.entries[operation as usize].iter().find(holds).map(|entry| entry.found)
    }
}
