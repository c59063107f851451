//! Traces in the form that Perfetto and Chrome show (`chrome://tracing`): a row for each rank of each communicator and
//! each of its streams, all on one clock. Written as it is read, so a long trace takes little memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use serde_json::json;

use super::Failure;
use crate::trace::file::{Batch, Definition, Head, Reader};

/// Writes the traces; whether all were read to their end.
pub(super) fn write(paths: &[PathBuf], target: &mut dyn Write) -> Result<bool, Failure> {
    let mut readers = Vec::new();
    for path in paths {
        let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
        let file = File::open(path).map_err(|error| named(error.to_string()))?;
        readers.push(Reader::new(file).map_err(named)?);
    }
    // Numbers of this size keep their nanoseconds.
    let first_ns = readers.iter().map(|reader| reader.head().wall_ns).min().unwrap_or(0);
    let mut target = BufWriter::new(target);
    write!(target, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    let mut is_whole = true;
    for (row, reader) in readers.iter_mut().enumerate() {
        let comma = if row == 0 { "" } else { "," };
        let head = reader.head().clone();
        let name = format!("rank {} of {:08x} on {}", head.rank, head.communicator as u32, head.host);
        let title = json!({ "name": "process_name", "ph": "M", "pid": row, "args": { "name": name } });
        write!(target, "{comma}\n{title}")?;
        while let Some(batch) = reader.next() {
            let Some(definition) = reader.definitions().get(batch.definition as usize) else { continue };
            write!(target, ",\n{}", event(row, &head, definition, &batch, first_ns))?;
        }
        is_whole &= reader.damage().is_none() && head.dropped == 0;
    }
    writeln!(target, "\n]}}")?;
    target.flush()?;
    Ok(is_whole)
}

fn event(
    row: usize,
    head: &Head,
    definition: &Definition,
    batch: &Batch,
    first_ns: u64,
) -> serde_json::Value {
    let since_start_ns = (batch.start_ticks as f64 - head.ticks as f64) * head.tick_ns;
    let start_ns = (head.wall_ns - first_ns) as f64 + since_start_ns;
    let bytes: u64 =
        definition.operations.iter().map(|operation| operation.bytes()).fold(0, u64::saturating_add);
    let name = match definition.operations[..] {
        [] => "one-sided".to_owned(),
        [operation] => operation.kind.name().to_owned(),
        [first, ..] => format!("{} and {} more", first.kind.name(), definition.operations.len() - 1),
    };
    json!({
        "name": name, "ph": "X", "pid": row, "tid": batch.stream,
        "ts": start_ns / 1e3, "dur": batch.duration_ticks as f64 * head.tick_ns / 1e3,
        "args": {
            "bytes": bytes, "sequence": batch.sequence, "failed": batch.has_failed,
            "waited_us": batch.waited_ticks as f64 * head.tick_ns / 1e3,
        },
    })
}
