//! Maps whose keys are numbers that nobody chooses to do harm: ranks, and keys of communicators, which are random.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by such numbers.
pub(super) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// Spreads a number over all bits, in a few operations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // An odd number with bits everywhere; the map looks at the highest and the lowest.
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::Mixer;

    #[test]
    fn ranks_are_spread() {
        let hasher = BuildHasherDefault::<Mixer>::default();
        let hashes: Vec<u64> = (0..1000_u32).map(|rank| hasher.hash_one(rank)).collect();
        let ends: HashSet<u64> = hashes.iter().map(|hash| hash % 1024).collect();
        let starts: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(ends.len() > 500 && starts.len() > 100, "{} {}", ends.len(), starts.len());
        assert_ne!(hasher.hash_one((7_u128, 0_u32)), hasher.hash_one((7_u128, 1_u32)));
    }
}
