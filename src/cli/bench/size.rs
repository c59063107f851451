//! Sizes as people write them, and the list of sizes of a run.
#![forbid(unsafe_code)]

/// Reads `8`, `64K`, `1.5M`, `2GiB`; the suffixes are powers of 1024, as in nccl-tests.
///
/// # Errors
/// What cannot be read, and how it should look.
pub fn parse(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size; write for example 8, 64K, 4M or 1G");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(digits);
    let unit: u64 = match suffix.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit).ok_or_else(wrong)?,
        Err(_) => {
            let value = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
            if value.fract() != 0.0 || value >= 2f64.powi(53) {
                return Err(wrong());
            }
            value as u64
        }
    };
    usize::try_from(bytes).ok().filter(|bytes| *bytes <= isize::MAX as usize / 64).ok_or_else(wrong)
}

/// A size in the fewest characters that say it exactly.
#[must_use]
pub fn display(bytes: usize) -> String {
    for (shift, suffix) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// How a run goes from one size to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Times so much.
    Factor(f64),
    /// So many bytes more.
    Increment(usize),
}

/// The sizes from `begin` to `end`, both included where the steps meet them.
///
/// # Errors
/// Steps that lead nowhere, and what to write instead.
pub fn sweep(begin: usize, end: usize, step: Step) -> Result<Vec<usize>, String> {
    if end < begin {
        return Err(format!("--end {} is below --begin {}", display(end), display(begin)));
    }
    let next = |bytes: usize| match step {
        Step::Factor(factor) => ((bytes as f64 * factor).round() as usize).max(1),
        Step::Increment(more) => bytes.saturating_add(more),
    };
    let mut sizes = vec![begin];
    let mut bytes = begin;
    while next(bytes) <= end {
        if next(bytes) <= bytes {
            return Err("the sizes do not grow; write -f 2 or more, or -i 1 or more".into());
        }
        bytes = next(bytes);
        sizes.push(bytes);
        if sizes.len() > 100_000 {
            return Err("more than 100000 sizes; write a larger step".into());
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("8", 8),
            ("8b", 8),
            ("1k", 1024),
            ("64K", 65536),
            ("64KiB", 65536),
            (" 4 M ", 4 << 20),
            ("1.5M", 3 << 19),
            ("2G", 2 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["", "K", "-1", "1T", "8Q", "1.0001", "1e3", "99999999999999999999", "16777215G", "."] {
            let message = parse(text).expect_err(text);
            assert!(message.contains("is not a size"), "{message}");
        }
    }

    #[test]
    fn sizes_survive_printing() {
        for bytes in [0, 1, 8, 1000, 1024, 1025, 65536, 3 << 19, 4 << 20, 1 << 30] {
            assert_eq!(parse(&display(bytes)), Ok(bytes));
        }
        assert_eq!(display(65536), "64K");
    }

    #[test]
    fn sweeps() {
        assert_eq!(sweep(8, 64, Step::Factor(2.0)), Ok(vec![8, 16, 32, 64]));
        assert_eq!(sweep(8, 60, Step::Factor(2.0)), Ok(vec![8, 16, 32]));
        assert_eq!(sweep(8, 8, Step::Factor(2.0)), Ok(vec![8]));
        assert_eq!(sweep(10, 40, Step::Increment(15)), Ok(vec![10, 25, 40]));
        assert!(sweep(64, 8, Step::Factor(2.0)).is_err());
        assert!(sweep(8, 64, Step::Factor(1.0)).is_err());
        assert!(sweep(8, 64, Step::Factor(0.5)).is_err());
        assert!(sweep(0, 64, Step::Increment(0)).is_err());
        assert!(sweep(8, 64, Step::Factor(f64::NAN)).is_err());
        assert!(sweep(0, usize::MAX >> 8, Step::Increment(1)).is_err());
    }

    #[test]
    fn a_sweep_from_zero_grows() {
        assert_eq!(sweep(0, 4, Step::Factor(2.0)), Ok(vec![0, 1, 2, 4]));
    }
}
