//! Gradients in buckets, as data parallel training sums them while it still computes.
//!
//! Gradients come from the last tensor to the first. A bucket closes once it holds so much, and no tensor is split.
#![forbid(unsafe_code)]

/// The first bucket closes early, so that the first sum begins early.
const FIRST_BYTES: u64 = 1 << 20;
/// Every other one.
const OTHER_BYTES: u64 = 25 << 20;

/// The buckets of tensors of so many elements, as (how many, bytes), equal neighbours as one.
#[must_use]
pub fn buckets(tensors: &[u64], element_bytes: u64) -> Vec<(u64, u64)> {
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    let mut close = |bytes: u64| match buckets.last_mut() {
        Some((count, last)) if *last == bytes => *count += 1,
        _ => buckets.push((1, bytes)),
    };
    let (mut held, mut limit) = (0, FIRST_BYTES);
    for elements in tensors.iter().rev() {
        held += elements * element_bytes;
        if held >= limit {
            close(std::mem::take(&mut held));
            limit = OTHER_BYTES;
        }
    }
    if held > 0 {
        close(held);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_close_once_they_are_full_and_lose_nothing() {
        let mib = 1 << 20;
        assert_eq!(
            buckets(&[10, 20 * mib, 20 * mib, 5 * mib, mib], 1),
            [(1, mib), (1, 25 * mib), (1, 20 * mib + 10)]
        );
        assert_eq!(buckets(&[30 * mib, 30 * mib, 30 * mib], 2), [(3, 60 * mib)]);
        assert!(buckets(&[], 2).is_empty());
        let tensors: Vec<u64> = (1..500).map(|number| number * 9973 % 700_000).collect();
        let sum: u64 = buckets(&tensors, 4).iter().map(|(count, bytes)| count * bytes).sum();
        assert_eq!(sum, 4 * tensors.iter().sum::<u64>());
    }
}
