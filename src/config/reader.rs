//! Values out of text: each row of the table once, with a complaint for what cannot be understood.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Display;
use std::str::FromStr;

use super::foreign::MAPPED;
use super::sources::{Source, Value};
use super::{SETTINGS, Setting};

/// What is said of every row, and what was wrong with it.
pub(super) struct Reader {
    values: RefCell<Vec<Value>>,
    complaints: RefCell<Vec<String>>,
}

impl Reader {
    pub(super) fn new(sources: &[Source]) -> Reader {
        let values = SETTINGS.iter().map(|row| find(row, sources)).collect();
        Reader { values: RefCell::new(values), complaints: RefCell::default() }
    }

    /// What is in force, and what was wrong.
    pub(super) fn finish(self) -> (Vec<Value>, Vec<String>) {
        (self.values.into_inner(), self.complaints.into_inner())
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.values.borrow()[index(name)].text.clone()
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> T {
        let text = self.text(name);
        parse(&text).unwrap_or_else(|| {
            self.reject(name, "is not a number it can take");
            parse(SETTINGS[index(name)].default).expect("defaults parse")
        })
    }

    pub(super) fn auto<T: FromStr>(&self, name: &str) -> Option<T> {
        let text = self.text(name);
        if text.trim() == "auto" {
            return None;
        }
        let value = parse(&text);
        if value.is_none() {
            self.reject(name, "is neither auto nor a number it can take");
        }
        value
    }

    /// A number that is brought between its bounds.
    pub(super) fn within(&self, name: &str, least: usize, most: usize) -> usize {
        let number = self.number::<usize>(name);
        let value = number.clamp(least, most);
        if value != number {
            self.complain(name, format_args!("is outside {least} to {most}"), value);
            self.values.borrow_mut()[index(name)].text = value.to_string();
        }
        value
    }

    /// The default holds instead of what was said.
    fn reject(&self, name: &str, why: &str) {
        let default = SETTINGS[index(name)].default;
        self.complain(name, why, default);
        self.values.borrow_mut()[index(name)] = Value::default_of(&SETTINGS[index(name)]);
    }

    fn complain(&self, name: &str, why: impl Display, instead: impl Display) {
        let values = self.values.borrow();
        let value = &values[index(name)];
        let place = value.origin.as_ref().map_or(String::new(), |origin| format!(" ({origin})"));
        self.complaints
            .borrow_mut()
            .push(format!("{}={}{place} {why}; using {instead}", value.name, value.text));
    }
}

fn index(name: &str) -> usize {
    SETTINGS.iter().position(|row| row.name == name).expect("every setting has its row")
}

/// What is said of a row: by its own name, an alias, or a value of NCCL's that means the same; source by source,
/// so that who stands nearer to the program wins by whatever name. An empty value says nothing, except where
/// being empty is a value.
fn find(row: &'static Setting, sources: &[Source]) -> Value {
    for source in sources {
        for name in std::iter::once(&row.name).chain(row.aliases) {
            if let Some(said) = source.find(name).filter(|said| !said.text.is_empty() || may_be_empty(row)) {
                return Value { text: said.text.clone(), name, origin: Some(source.origin(said)) };
            }
        }
        for mapped in MAPPED.iter().filter(|mapped| mapped.setting == row.name) {
            let said = source.find(mapped.name);
            if let Some(said) = said.filter(|said| said.text.trim().eq_ignore_ascii_case(mapped.value)) {
                let origin = Some(source.origin(said));
                return Value { text: mapped.becomes.to_owned(), name: mapped.name, origin };
            }
        }
    }
    Value::default_of(row)
}

/// Text that means something when it is empty, though something else is the default.
fn may_be_empty(row: &Setting) -> bool {
    row.name.starts_with("SHOAL_DEBUG_TIMESTAMP")
}

/// Numbers as C programs write them: decimal, or hexadecimal after 0x.
fn parse<T: FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match digits {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?.to_string().parse().ok(),
        None => text.parse().ok(),
    }
}
