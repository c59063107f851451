//! The tables that come with the library, parsed at first use.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::Table;
use super::read::{read, read_rows};

/// The name of the measured table, in answers.
pub const MEASURED: &str = "built-in table (measured)";
/// The name of the reasoned table, in answers.
pub const REASONED: &str = "built-in table (reasoned)";

const MEASURED_TEXT: &str = include_str!("../tables/measured.toml");
const REASONED_TEXT: &str = include_str!("../tables/reasoned.toml");

type Reader = fn(&str, &str) -> Result<Table, String>;

/// A test reads both; an empty table would leave every choice to the algorithm that has all forms.
fn parse(read: Reader) -> [Table; 2] {
    [(MEASURED, MEASURED_TEXT), (REASONED, REASONED_TEXT)]
        .map(|(name, text)| read(name, text).unwrap_or_default())
}

/// What was measured, then what was reasoned: the rows, from which a communicator chooses.
pub fn rows() -> [&'static Table; 2] {
    static TABLES: OnceLock<[Table; 2]> = OnceLock::new();
    TABLES.get_or_init(|| parse(read_rows)).each_ref()
}

/// The same with every time that was measured.
pub fn tables() -> [&'static Table; 2] {
    static TABLES: OnceLock<[Table; 2]> = OnceLock::new();
    TABLES.get_or_init(|| parse(read)).each_ref()
}

#[cfg(test)]
mod tests {
    use super::super::lint::lint;
    use super::*;

    #[test]
    fn they_are_well_formed_and_without_faults() {
        for (name, text) in [(MEASURED, MEASURED_TEXT), (REASONED, REASONED_TEXT)] {
            let table = read(name, text).unwrap_or_else(|problem| panic!("{problem}"));
            let findings = lint(&table, None);
            let faults: Vec<_> = findings.iter().filter(|finding| finding.is_fault()).collect();
            assert!(faults.is_empty(), "{faults:?}");
        }
        for (with, without) in tables().into_iter().zip(rows()) {
            assert!(!with.name.is_empty());
            assert_eq!(with.rows.len(), without.rows.len());
            let pairs = with.rows.iter().zip(&without.rows);
            assert!(pairs.into_iter().all(|(one, other)| one.key == other.key && one.choice == other.choice));
        }
    }
}
