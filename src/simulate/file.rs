//! A machine as a text file: what is not named stays as it is by default ([`Machine::default`], which
//! `shoal simulate --print-topology` shows in this form).
//!
//! ```text
//! # behind a hash: a remark
//! ranks_per_host = 8        # keys of the layout come first
//! [rail]                    # then sections: local, rail, spine (links) and core
//! latency_ns = 1500
//! ```
//! A line is a section, `key = number`, or empty. Whole numbers are asked for where something is counted. Every key
//! may stand once, and an unknown one is an error: a misspelt key must not leave a default in its place.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write;

use super::machine::{Core, Link, Machine};

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// 0 and more.
    Any,
    /// More than 0.
    Positive,
    /// 1 and more.
    AtLeastOne,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && value <= 1e15
            && match self {
                Range::Any => value >= 0.0,
                Range::Positive => value > 0.0,
                Range::AtLeastOne => value >= 1.0,
            }
    }

    const fn words(self) -> &'static str {
        match self {
            Range::Any => "0 or more",
            Range::Positive => "more than 0",
            Range::AtLeastOne => "1 or more",
        }
    }
}

/// A number of a section: its key, what it may be, and where it is.
type Field<T> = (&'static str, Range, fn(&mut T) -> &mut f64);

const LINK: [Field<Link>; 8] = [
    ("latency_ns", Range::Positive, |link| &mut link.latency_ns),
    ("send_ns", Range::Positive, |link| &mut link.send_ns),
    ("receive_ns", Range::Positive, |link| &mut link.receive_ns),
    ("gap_ns", Range::Any, |link| &mut link.gap_ns),
    ("port_bytes_per_ns", Range::Any, |link| &mut link.port_bytes_per_ns),
    ("send_bytes_per_ns", Range::Any, |link| &mut link.send_bytes_per_ns),
    ("receive_bytes_per_ns", Range::Any, |link| &mut link.receive_bytes_per_ns),
    ("window_bytes", Range::Any, |link| &mut link.window_bytes),
];

const CORE: [Field<Core>; 10] = [
    ("call_ns", Range::Any, |core| &mut core.call_ns),
    ("step_ns", Range::Any, |core| &mut core.step_ns),
    ("message_ns", Range::Any, |core| &mut core.message_ns),
    ("copy_bytes_per_ns", Range::Positive, |core| &mut core.copy_bytes_per_ns),
    ("reduce_bytes_per_ns", Range::Positive, |core| &mut core.reduce_bytes_per_ns),
    ("switch_ns", Range::Any, |core| &mut core.switch_ns),
    ("patience_ns", Range::Any, |core| &mut core.patience_ns),
    ("wake_ns", Range::Any, |core| &mut core.wake_ns),
    ("cache_bytes", Range::Any, |core| &mut core.cache_bytes),
    ("beyond_cache", Range::AtLeastOne, |core| &mut core.beyond_cache),
];

/// A count of the layout.
type Count = (&'static str, u32, fn(&mut Machine) -> &mut u32);

/// The key, the least value, and where it is.
const LAYOUT: [Count; 4] = [
    ("ranks_per_host", 0, |machine| &mut machine.ranks_per_host),
    ("cores_per_host", 0, |machine| &mut machine.cores_per_host),
    ("rails", 1, |machine| &mut machine.rails),
    ("hosts_per_island", 0, |machine| &mut machine.hosts_per_island),
];

const OVERSUBSCRIPTION: &str = "oversubscription";

const SECTIONS: [&str; 4] = ["local", "rail", "spine", "core"];

/// Nothing counted is larger.
const MOST_COUNTED: u32 = 1 << 24;

/// Reads a machine.
///
/// # Errors
/// The line, what stands there, and what was expected.
pub fn read(text: &str) -> Result<Machine, String> {
    let mut machine = Machine::default();
    let mut section = "";
    let mut seen = BTreeSet::new();
    for (line, number) in text.lines().zip(1..) {
        let wrong = |words: String| format!("line {number}: {words}");
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').map(str::trim);
            let known = name.and_then(|name| SECTIONS.into_iter().find(|section| *section == name));
            let expected = || wrong(format!("expected [local], [rail], [spine] or [core], not {line}"));
            section = known.ok_or_else(expected)?;
            if !seen.insert((section, "")) {
                return Err(wrong(format!("[{section}] stands here a second time")));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(wrong(format!("expected key = number or a section in brackets, not {line:?}")));
        };
        let key = set(&mut machine, section, key.trim(), value.trim()).map_err(wrong)?;
        if !seen.insert((section, key)) {
            return Err(wrong(format!("{key} stands here a second time")));
        }
    }
    check(&machine)?;
    Ok(machine)
}

/// What no line alone can be blamed for.
fn check(machine: &Machine) -> Result<(), String> {
    for (name, link) in [("rail", &machine.rail), ("spine", &machine.spine)] {
        if link.port_bytes_per_ns <= 0.0 {
            return Err(format!(
                "[{name}] port_bytes_per_ns is 0, but hosts have ports: expected more than 0"
            ));
        }
    }
    Ok(())
}

/// Sets one number; its key.
fn set(machine: &mut Machine, section: &str, key: &str, value: &str) -> Result<&'static str, String> {
    match section {
        "" => set_layout(machine, key, value),
        "core" => set_field(&mut machine.core, &CORE, section, key, value),
        "local" => set_field(&mut machine.local, &LINK, section, key, value),
        "rail" => set_field(&mut machine.rail, &LINK, section, key, value),
        _ => set_field(&mut machine.spine, &LINK, section, key, value),
    }
}

fn number(key: &str, value: &str, range: Range) -> Result<f64, String> {
    let number = value.parse::<f64>().ok().filter(|number| range.holds(*number));
    number.ok_or_else(|| format!("{key} is {value:?}, expected a number that is {}", range.words()))
}

fn set_layout(machine: &mut Machine, key: &str, value: &str) -> Result<&'static str, String> {
    if key == OVERSUBSCRIPTION {
        machine.oversubscription = number(key, value, Range::AtLeastOne)?;
        return Ok(OVERSUBSCRIPTION);
    }
    let Some((name, least, place)) = LAYOUT.into_iter().find(|(name, ..)| *name == key) else {
        let known: Vec<_> = LAYOUT.iter().map(|(name, ..)| *name).collect();
        return Err(format!(
            "{key:?} is no key of the layout, which has {} and {OVERSUBSCRIPTION}",
            known.join(", ")
        ));
    };
    let count = value.parse::<u32>().ok().filter(|count| (least..=MOST_COUNTED).contains(count));
    *place(machine) = count.ok_or_else(|| {
        format!("{key} is {value:?}, expected a whole number from {least} to {MOST_COUNTED}")
    })?;
    Ok(name)
}

fn set_field<T>(
    target: &mut T,
    fields: &[Field<T>],
    section: &str,
    key: &str,
    value: &str,
) -> Result<&'static str, String> {
    let Some((name, range, place)) = fields.iter().find(|(name, ..)| *name == key) else {
        let known: Vec<_> = fields.iter().map(|(name, ..)| *name).collect();
        return Err(format!("{key:?} is no key of [{section}], which has {}", known.join(", ")));
    };
    *place(target) = number(key, value, *range)?;
    Ok(name)
}

/// Writes a machine so that [`read`] gives it back.
#[must_use]
pub fn write(machine: &Machine) -> String {
    let mut machine = machine.clone();
    let mut text = String::new();
    for (key, _, place) in LAYOUT {
        let _ = writeln!(text, "{key} = {}", place(&mut machine));
    }
    let _ = writeln!(text, "{OVERSUBSCRIPTION} = {}", machine.oversubscription);
    for (name, link) in
        [("local", &mut machine.local), ("rail", &mut machine.rail), ("spine", &mut machine.spine)]
    {
        write_section(&mut text, name, link, &LINK);
    }
    write_section(&mut text, "core", &mut machine.core, &CORE);
    text
}

fn write_section<T>(text: &mut String, name: &str, of: &mut T, fields: &[Field<T>]) {
    let _ = writeln!(text, "\n[{name}]");
    for (key, _, place) in fields {
        let _ = writeln!(text, "{key} = {}", place(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let machine = Machine { ranks_per_host: 3, oversubscription: 2.5, ..Machine::default() };
        assert_eq!(read(&write(&machine)), Ok(machine));
        assert_eq!(read(""), Ok(Machine::default()));
    }

    #[test]
    fn what_is_named_changes_and_the_rest_stays() {
        let machine = read("rails = 2 # two\n\n[ core ]\nswitch_ns=5\n[local]\nlatency_ns = 0.5").unwrap();
        assert_eq!((machine.rails, machine.core.switch_ns, machine.local.latency_ns), (2, 5.0, 0.5));
        assert_eq!(machine.rail, Machine::default().rail);
    }

    #[test]
    fn errors_name_the_line_and_what_was_expected() {
        for (text, words) in [
            ("\nrail = 2", "line 2: \"rail\" is no key of the layout, which has ranks_per_host"),
            ("rails = 2\nrails = 3", "line 2: rails stands here a second time"),
            ("[core]\n[core]", "line 2: [core] stands here a second time"),
            ("rails = 0", "line 1: rails is \"0\", expected a whole number from 1"),
            ("rails = 1.5", "expected a whole number"),
            ("[hosts]", "line 1: expected [local], [rail], [spine] or [core], not [hosts]"),
            ("[local", "expected [local]"),
            ("[local]\nlatency_ns = 0", "latency_ns is \"0\", expected a number that is more than 0"),
            ("[local]\nlatency = 1", "\"latency\" is no key of [local], which has latency_ns"),
            ("[core]\nbeyond_cache = NaN", "1 or more"),
            ("nonsense", "line 1: expected key = number"),
            ("oversubscription = 0.5", "1 or more"),
            ("[rail]\nport_bytes_per_ns = 0", "[rail] port_bytes_per_ns is 0"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[ -~\n]{0,200}") {
            if let Ok(machine) = read(&text) {
                prop_assert_eq!(read(&write(&machine)), Ok(machine));
            }
        }
    }
}
