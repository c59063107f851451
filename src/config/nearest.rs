//! Which known name somebody may have meant.
#![forbid(unsafe_code)]

/// The nearest of `known` to `name`, if any is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.len() / 4).clamp(1, 4);
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many bytes must be changed, added or left out to make one of the other.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(&to));
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted() {
        for (left, right, expected) in
            [("", "", 0), ("abc", "ABC", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!((distance(left, right), distance(right, left)), (expected, expected));
        }
    }

    #[test]
    fn what_is_far_from_all_is_not_guessed() {
        let known = ["SHOAL_DEBUG", "SHOAL_DEVICE", "SHOAL_RING_BYTES"];
        let guess = |name| nearest(name, known.into_iter());
        assert_eq!(guess("SHOAL_DEBG"), Some("SHOAL_DEBUG"));
        assert_eq!(guess("SHOAL_RINGBYTES"), Some("SHOAL_RING_BYTES"));
        assert_eq!(guess("SHOAL_SOMETHING_ELSE"), None);
        assert_eq!(guess(""), None);
    }
}
