//! Sections as text, and as Markdown. Pure.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::sections::Section;

/// A column wider than this is not padded: what follows is the rest of the line.
const WIDEST: usize = 48;

/// For a terminal.
pub(super) fn plain(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = writeln!(text, "{}", section.title);
        for note in &section.notes {
            let _ = writeln!(text, "  {note}");
        }
        let header: Vec<String> = section.columns.iter().map(|column| (*column).to_owned()).collect();
        let lines = || std::iter::once(&header).chain(&section.rows).filter(|_| !section.rows.is_empty());
        let width =
            |place: usize| lines().map(|row| row[place].chars().count()).max().unwrap_or(0).min(WIDEST);
        for row in lines() {
            text += " ";
            for (place, cell) in row.iter().enumerate() {
                let width = width(place);
                // Words to the left, numbers to the right.
                let is_word = place == 0 || section.title == super::sections::ADVICE;
                let _ =
                    if is_word { write!(text, " {cell:<width$} ") } else { write!(text, " {cell:>width$} ") };
            }
            text.truncate(text.trim_end().len());
            text += "\n";
        }
        text += "\n";
    }
    text
}

/// For a document.
pub(super) fn markdown(sections: &[Section]) -> String {
    let mut text = "# What the job communicated\n".to_owned();
    for section in sections {
        let _ = writeln!(text, "\n## {}\n", section.title);
        for note in &section.notes {
            let _ = writeln!(text, "{note}\n");
        }
        if section.rows.is_empty() {
            continue;
        }
        let _ =
            writeln!(text, "| {} |\n|{}", section.columns.join(" | "), "---|".repeat(section.columns.len()));
        for row in &section.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_escaped() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["bc|".into(), "100".into()]];
        let section = Section { title: "T", notes: vec!["N.".into()], columns: vec!["what", "calls"], rows };
        assert_eq!(
            plain(std::slice::from_ref(&section)),
            "T\n  N.\n  what  calls\n  a         1\n  bc|     100\n\n"
        );
        let text = markdown(&[section]);
        assert!(
            text.contains("## T\n\nN.\n\n| what | calls |\n|---|---|\n| a | 1 |\n| bc\\| | 100 |\n"),
            "{text}"
        );
    }
}
