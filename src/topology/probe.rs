//! Asks the system where this rank runs. What the system does not tell stays empty or 0.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Card, DeviceKind};
use crate::system::namespace;

/// The most bytes of a text that the system gave, so that a card stays small.
const TEXT_BYTES_MAX: usize = 255;

/// The facts of this rank's place. Rank, ranks, version, token and payload are the caller's to fill in.
#[must_use]
pub fn local_card(host_setting: &str, device: DeviceKind) -> Card {
    Card {
        boot_id: read_text("/proc/sys/kernel/random/boot_id"),
        host_name: read_text("/proc/sys/kernel/hostname"),
        host_setting: shorten(host_setting),
        process: std::process::id(),
        process_namespace: namespace::own("pid"),
        network_namespace: namespace::own("net"),
        user: fs::metadata("/proc/self").map_or(u32::MAX, |process| process.uid()),
        cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        processors: processors(),
        device,
        ..Card::default()
    }
}

/// The machine as tables name it: its processor and how many cores it has. Empty where the system does not tell.
#[must_use]
pub fn machine() -> String {
    machine_from(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn machine_from(cpuinfo: &str) -> String {
    let fields = |name: &'static str| {
        let value = move |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
        cpuinfo.lines().filter(move |line| line.starts_with(name)).filter_map(value)
    };
    let cores = fields("processor").count();
    let model = fields("model name").next().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    if cores == 0 { String::new() } else { format!("{model}, {cores} cores") }
}

fn read_text(path: &str) -> String {
    shorten(fs::read_to_string(path).unwrap_or_default().trim())
}

/// Long texts keep their beginning and a number that tells them from others with the same beginning.
fn shorten(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let cut = (0..=TEXT_BYTES_MAX - 17).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}~{}", &text[..cut], &hash[..16])
}

/// The processors that this thread may run on. A list too long for a card is left out, not cut.
fn processors() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .map(str::trim)
        .filter(|list| list.len() <= TEXT_BYTES_MAX)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_place_is_known() {
        let card = local_card("blue", DeviceKind::Host);
        assert_eq!((card.process, card.host_setting.as_str()), (std::process::id(), "blue"));
        assert!(card.cores > 0);
        assert!(!card.host_name.is_empty() || !card.boot_id.is_empty());
        assert_eq!(card, local_card("blue", DeviceKind::Host));
    }

    #[test]
    fn machines_have_names() {
        let text = "processor\t: 0\nmodel name\t: A B\n\nprocessor\t: 1\nmodel name\t: A B\n";
        assert_eq!(machine_from(text), "A B, 2 cores");
        assert_eq!(machine_from("processor : 0\n"), format!("{}, 1 cores", std::env::consts::ARCH));
        assert_eq!(machine_from(""), "");
    }

    #[test]
    fn long_texts_stay_distinct() {
        let (one, other) = ("é".repeat(400), "é".repeat(401));
        assert!(shorten(&one).len() <= TEXT_BYTES_MAX);
        assert_ne!(shorten(&one), shorten(&other));
        assert_eq!(shorten("short"), "short");
    }
}
