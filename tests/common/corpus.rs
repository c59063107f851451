//! Seeds that failed once, and how many seeds a run takes.

/// The seeds of `test` in the corpus: lines of a test's name and a seed, `#` for remarks.
pub(crate) fn seeds(test: &str) -> Vec<u64> {
    include_str!("../corpus/seeds.txt")
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(test)).then(|| words.next().and_then(|seed| seed.parse().ok()))?
        })
        .collect()
}

/// How many fresh seeds to run: `SHOAL_TEST_SEEDS`, or `full` of a campaign, or the usual share.
pub(crate) fn seed_count(usual: u64, full: u64) -> u64 {
    if let Some(count) = std::env::var("SHOAL_TEST_SEEDS").ok().and_then(|text| text.parse().ok()) {
        return count;
    }
    if std::env::var("SHOAL_TEST_CAMPAIGN").is_ok_and(|text| text == "full") { full } else { usual }
}

/// The corpus of `test`, then fresh seeds; only `SHOAL_TEST_SEED` if that is set.
pub(crate) fn plan(test: &str, usual: u64, full: u64) -> Vec<u64> {
    if let Some(seed) = std::env::var("SHOAL_TEST_SEED").ok().and_then(|text| text.parse().ok()) {
        return vec![seed];
    }
    let mut all = seeds(test);
    all.extend(0..seed_count(usual, full));
    all
}
