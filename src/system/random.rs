//! Numbers that nobody can guess.

/// Fills `bytes` from the system's source.
pub fn fill(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is writable for its length.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) if super::last().kind() == std::io::ErrorKind::Interrupted => {}
            // There is none before Linux 3.17. The standard library's keys are random as well.
            Err(_) => {
                use std::hash::{BuildHasher, RandomState};
                let word = RandomState::new().hash_one(filled).to_ne_bytes();
                let count = rest.len().min(word.len());
                rest[..count].copy_from_slice(&word[..count]);
                filled += count;
            }
        }
    }
}

/// Sixteen random bytes as a number.
#[must_use]
pub fn wide() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_ne_bytes(bytes)
}

/// A random number, not 0.
#[must_use]
pub fn word() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_differ() {
        assert_ne!(super::wide(), super::wide());
        assert_ne!(super::word(), super::word());
    }
}
