//! The secret that ranks share beside an address that was set by hand.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;

use crate::config::{self, Config};

/// A secret is a short text; what follows in its file is not read.
const SECRET_BYTES_MAX: u64 = 4096;

/// What is known of the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// The text.
    Known(String),
    /// There is none, and nobody meant to give one.
    Nothing,
    /// There is a file, and why it does not count.
    Unusable(String),
}

/// The secret of these settings.
pub(super) fn shared(config: &Config) -> Shared {
    if !config.secret.is_empty() {
        return Shared::Known(config.secret.clone());
    }
    let setting = config.secret_file.trim();
    let path = match setting.strip_prefix("~/") {
        None => setting.to_owned(),
        Some(rest) => match config::told_by_launcher("HOME") {
            Some(home) if !home.is_empty() => format!("{home}/{rest}"),
            _ => return Shared::Nothing,
        },
    };
    if path.is_empty() { Shared::Nothing } else { from_file(&path) }
}

fn from_file(path: &str) -> Shared {
    let unusable = |problem: String| Shared::Unusable(format!("{path} {problem}"));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Shared::Nothing,
        Err(cause) => return unusable(format!("cannot be opened: {cause}")),
    };
    // Asked of the open file, so that nobody exchanges it in between.
    let facts = match file.metadata() {
        Ok(facts) => facts,
        Err(cause) => return unusable(format!("cannot be looked at: {cause}")),
    };
    let user = fs::metadata("/proc/self").map(|process| process.uid());
    if !facts.is_file() || !user.is_ok_and(|user| user == facts.uid()) {
        return unusable("is not a file of this user".to_owned());
    }
    if facts.mode() & 0o077 != 0 {
        return unusable(format!("can be read by others (mode {:o}); chmod 600 it", facts.mode() & 0o7777));
    }
    let mut text = String::new();
    match file.take(SECRET_BYTES_MAX).read_to_string(&mut text) {
        Err(cause) => unusable(format!("cannot be read: {cause}")),
        Ok(_) if text.trim().is_empty() => unusable("is empty".to_owned()),
        Ok(_) => Shared::Known(text.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_counts_only_if_it_is_private() {
        let path = std::env::temp_dir().join(format!("shoal-secret-{}", std::process::id()));
        let text = path.to_str().unwrap().to_owned();
        let config = Config { secret_file: text.clone(), ..Config::default() };
        assert_eq!(shared(&config), Shared::Nothing);
        File::create(&path).unwrap().write_all(b"  many fish\n").unwrap();
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            shared(&config)
        };
        assert_eq!(with_mode(0o600), Shared::Known("many fish".into()));
        assert_eq!(with_mode(0o400), Shared::Known("many fish".into()));
        for mode in [0o640, 0o604, 0o644] {
            assert!(matches!(with_mode(mode), Shared::Unusable(why) if why.contains("chmod 600")));
        }
        // What is said outright goes first.
        let said = Config { secret: "one fish".into(), ..config.clone() };
        assert_eq!(shared(&said), Shared::Known("one fish".into()));
        fs::write(&path, "\n").unwrap();
        assert!(matches!(with_mode(0o600), Shared::Unusable(why) if why.contains("empty")));
        fs::remove_file(&path).unwrap();
        let directory = Config { secret_file: "/proc".into(), ..Config::default() };
        assert!(matches!(shared(&directory), Shared::Unusable(_)));
    }
}
