//! The time of day as people read it.

use std::ffi::CString;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in local time, in strftime's form; `%3f` (1 to 9 digits) is the fraction of the second. Empty if the
/// form gives nothing, or more than 256 bytes.
#[must_use]
pub fn local_time(form: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let form = with_fraction(form, now.subsec_nanos());
    let Ok(form) = CString::new(form) else { return String::new() };
    let Ok(seconds) = libc::time_t::try_from(now.as_secs()) else { return String::new() };
    let mut bytes = [0u8; 256];
    // SAFETY: a zeroed `tm` is a valid one; `localtime_r` fills it; `strftime` writes at most as many bytes as
    // it is told, into memory that is as long, and reads a string that ends.
    let count = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const seconds, &raw mut parts).is_null() {
            return String::new();
        }
        libc::strftime(bytes.as_mut_ptr().cast(), bytes.len(), form.as_ptr(), &raw const parts)
    };
    String::from_utf8_lossy(&bytes[..count.min(bytes.len())]).into_owned()
}

/// Puts the fraction of the second in the place of `%1f` to `%9f`.
fn with_fraction(form: &str, nanoseconds: u32) -> String {
    let mut made = String::with_capacity(form.len());
    let mut rest = form;
    while let Some(at) = rest.find('%') {
        made.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut letters = rest[1..].chars();
        let (first, second) = (letters.next(), letters.next());
        let taken = match (first, second) {
            (Some(digits @ '1'..='9'), Some('f')) => {
                let digits = digits as usize - '0' as usize;
                made.push_str(&format!("{nanoseconds:09}")[..digits]);
                3
            }
            (Some(other), _) => {
                made.push('%');
                made.push(other);
                1 + other.len_utf8()
            }
            (None, _) => {
                made.push_str("%%");
                1
            }
        };
        rest = &rest[taken..];
    }
    made + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_stand_where_they_are_asked_for() {
        let form = |form| with_fraction(form, 123_456_789);
        assert_eq!(form("[%T.%3f] "), "[%T.123] ");
        assert_eq!(form("%9f%%3f"), "123456789%%3f");
        assert_eq!(form("%0f%ü%"), "%0f%ü%%");
        assert_eq!(with_fraction("%2f", 5), "00");
    }

    #[test]
    fn times_look_like_times() {
        let text = local_time("[%F %T] ");
        let digits = text.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter });
        assert_eq!(digits.collect::<String>(), "[0000-00-00 00:00:00] ");
        assert_eq!(local_time(""), "");
        assert_eq!(local_time("a\0b"), "");
        assert_eq!(local_time(&"x".repeat(300)), "");
    }
}
