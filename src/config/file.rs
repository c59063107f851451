//! Configuration files in NCCL's form: a line `NAME=VALUE` each, `#` in front of what is not meant.
#![forbid(unsafe_code)]

use super::sources::Saying;

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Names and values, in their order.
    pub(super) sayings: Vec<Saying>,
    /// Lines that are none of this form, as sentences.
    pub(super) complaints: Vec<String>,
}

/// Reads the text of a file. NCCL passes over lines without `=`; here they are told.
pub(super) fn parse(path: &str, text: &str) -> Lines {
    let mut lines = Lines::default();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_end();
        if line.trim_start().starts_with('#') || line.is_empty() {
            continue;
        }
        match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                let (name, text) = (name.trim().to_owned(), value.to_owned());
                lines.sayings.push(Saying { name, text, line: number });
            }
            // Not the line itself: it may hold a secret, and logs are shown around.
            _ => lines
                .complaints
                .push(format!("{path}, line {number}, is not of the form NAME=VALUE, and is passed over")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let lines = parse("/f", "# first\nNCCL_DEBUG=WARN\r\n\nNCCL_ALGO=^a=b \n SHOAL_X = 1\n  # x=y\n");
        let own = |name: &str, text: &str, line| Saying { name: name.into(), text: text.into(), line };
        let all = [own("NCCL_DEBUG", "WARN", 2), own("NCCL_ALGO", "^a=b", 4), own("SHOAL_X", " 1", 5)];
        assert_eq!(lines.sayings, all);
        assert!(lines.complaints.is_empty());
    }

    #[test]
    fn other_lines_are_told() {
        let lines = parse("/f", "NCCL_DEBUG=INFO\nexport\n=5\n");
        assert_eq!(lines.sayings.len(), 1);
        assert_eq!(
            lines.complaints,
            [
                "/f, line 2, is not of the form NAME=VALUE, and is passed over",
                "/f, line 3, is not of the form NAME=VALUE, and is passed over",
            ]
        );
    }
}
