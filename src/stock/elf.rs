//! As much of the form of a 64-bit ELF file as it takes to find one section. Nothing in it is believed: every
//! number is looked up within the bytes at hand.
#![forbid(unsafe_code)]

/// How much of the file's start is needed.
pub(super) const HEAD_BYTES: u64 = 64;
const ROW_BYTES: usize = 64;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// Where the table of sections lies, and which row is that of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) start: u64,
    pub(super) size: u64,
    names_row: usize,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_ne_bytes)
}

/// Reads the head of the file.
pub(super) fn table(head: &[u8]) -> Option<Table> {
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if !head.starts_with(&[0x7f, b'E', b'L', b'F', 2, order]) || short(head, 0x3a)? as usize != ROW_BYTES {
        return None;
    }
    let rows = short(head, 0x3c)?;
    let names_row = short(head, 0x3e)? as usize;
    Some(Table { start: long(head, 0x28)?, size: u64::from(rows) * ROW_BYTES as u64, names_row })
}

fn row(rows: &[u8], index: usize) -> Option<&[u8]> {
    let start = index.checked_mul(ROW_BYTES)?;
    rows.get(start..start.checked_add(ROW_BYTES)?)
}

fn part(row: &[u8]) -> Option<Part> {
    Some(Part { start: long(row, 0x18)?, size: long(row, 0x20)? })
}

/// Where the names of the sections lie.
pub(super) fn names(rows: &[u8], table: &Table) -> Option<Part> {
    part(row(rows, table.names_row)?)
}

/// Where the section of that name lies.
pub(super) fn find(rows: &[u8], names: &[u8], name: &[u8]) -> Option<Part> {
    let is_named = |row: &&[u8]| {
        let at = number(row, 0).map_or(usize::MAX, |bytes| u32::from_ne_bytes(bytes) as usize);
        let found = names.get(at..).and_then(|names| names.split(|&byte| byte == 0).next());
        found == Some(name)
    };
    part(rows.chunks_exact(ROW_BYTES).find(is_named)?)
}

/// The version that stands in a library's read-only data.
pub(super) fn version_in(data: &[u8]) -> Option<i32> {
    // Looked for in two parts, so that this very text is not found.
    let words = [b"NCCL ".as_slice(), b"version ".as_slice()].concat();
    let starts = data.windows(words.len()).enumerate().filter(|(_, window)| *window == words.as_slice());
    starts
        .filter_map(|(at, _)| {
            let rest = &data[at + words.len()..];
            let end = rest.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
            version_at(std::str::from_utf8(&rest[..end]).ok()?)
        })
        .next()
}

/// `2.28.9`, and what may follow, as NCCL's number of it.
pub(super) fn version_at(text: &str) -> Option<i32> {
    let mut parts = text.split('.').map(str::parse::<i32>);
    let mut next = |most: i32| parts.next()?.ok().filter(|part| (0..=most).contains(part));
    let (major, minor, patch) = (next(9)?, next(99)?, next(99)?);
    if major < 2 { None } else { Some(major * 10000 + minor * 100 + patch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_text() {
        assert_eq!(version_in(b"x\0NCCL version %s\0NCCL version 2.32.3+cuda13.4\0"), Some(23203));
        assert_eq!(version_in(b"NCCL version information\0NCCL version 2.8\0"), None);
        assert_eq!(version_in(b"NCCL version 2.28.9"), None, "text must end");
        assert_eq!(version_at("2.28.9"), Some(22809));
        assert_eq!(version_at("2"), None);
        assert_eq!(version_at("2.100.1"), None);
        assert_eq!(version_in(b""), None);
    }

    #[test]
    fn broken_files_are_no_libraries() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let whole = table(&own[..64]).expect("a test is an ELF file");
        assert!(whole.size > 0);
        for length in 0..64 {
            assert_eq!(table(&own[..length]), None);
        }
        let rows = &own[whole.start as usize..][..whole.size as usize];
        let place = names(rows, &whole).unwrap();
        let texts = &own[place.start as usize..][..place.size as usize];
        assert!(find(rows, texts, b".rodata").is_some_and(|data| data.size > 0));
        assert_eq!(find(rows, texts, b".none"), None);
        assert_eq!(find(rows, &texts[..1], b".rodata"), None);
        assert_eq!(names(&rows[..64], &Table { names_row: usize::MAX, ..whole }), None);
    }
}
