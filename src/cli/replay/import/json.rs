//! JSON with its lines: entries of a list one by one, so that what is wrong with one is told with its place.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The entries of a list.
///
/// # Errors
/// It is no list.
pub(super) fn entries(text: &str) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("line {}: {error}", error.line()))
}

/// One entry, understood.
///
/// # Errors
/// The line in which it starts, and what it lacks.
pub(super) fn understood<'text, T: Deserialize<'text>>(
    text: &str,
    entry: &'text RawValue,
) -> Result<T, String> {
    serde_json::from_str(entry.get()).map_err(|error| located(text, entry, &error.to_string()))
}

/// A problem with an entry of a text.
pub(super) fn located(text: &str, entry: &RawValue, problem: &str) -> String {
    format!("line {}: {problem}", line_of(text, entry))
}

/// The line in which an entry of a text starts.
fn line_of(text: &str, entry: &RawValue) -> usize {
    let offset = (entry.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}
