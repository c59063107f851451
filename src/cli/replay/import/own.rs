//! Traces of `SHOAL_TRACE`. They lose: what the data were, streams other than by their order, operators that a program
//! made, and what one-sided calls did.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use super::super::script::{Batch, Stream};
use super::Import;
use crate::cli::Failure;
use crate::op::Reduction;
use crate::trace::file::{Head, Reader};

/// Reads the traces of all ranks.
pub(super) fn read(paths: &[PathBuf]) -> Result<Import, Failure> {
    let mut import = Import::default();
    // The counter of a process is one clock for all its traces.
    let mut clocks: BTreeMap<String, Head> = BTreeMap::new();
    for path in paths {
        let named = |problem: String| Failure(format!("{}: {problem}", path.display()));
        let file = File::open(path).map_err(|error| named(error.to_string()))?;
        let mut reader = Reader::new(BufReader::new(file)).map_err(named)?;
        let head = reader.head().clone();
        let process = format!("{}/{}", head.host, head.process);
        let clock = clocks.entry(process.clone()).or_insert_with(|| head.clone()).clone();
        let at = |ticks: u64| {
            let since_ns = (i128::from(ticks) - i128::from(clock.ticks)) as f64 * clock.tick_ns;
            clock.wall_ns.saturating_add_signed(since_ns as i64)
        };
        let (mut batches, mut one_sided, mut failed) = (Vec::new(), 0_u64, 0_u64);
        while let Some(batch) = reader.next() {
            let definition = reader.definitions().get(batch.definition as usize);
            one_sided += u64::from(definition.is_some_and(|definition| definition.is_one_sided));
            failed += u64::from(batch.has_failed);
            if definition.is_some_and(|definition| !definition.is_one_sided) && !batch.has_failed {
                let end_ticks = batch.start_ticks.saturating_add(batch.duration_ticks);
                let (start_ns, end_ns) = (at(batch.start_ticks), at(end_ticks));
                batches.push(Batch { definition: batch.definition, start_ns, end_ns });
            }
        }
        if let Some(damage) = reader.damage() {
            import.note(format!("{}: {damage}", path.display()));
        }
        if head.dropped > 0 {
            let problem = format!(
                "{} batches had no room, so what is there is not all that was called; record again with a larger \
                 SHOAL_TRACE_BYTES",
                head.dropped
            );
            return Err(named(problem));
        }
        for (count, what) in [(one_sided, "one-sided calls"), (failed, "batches that failed")] {
            if count > 0 {
                import.note(format!("{}: {count} {what} are left out", path.display()));
            }
        }
        let definitions: Vec<_> = reader.definitions().iter().map(|one| one.operations.clone()).collect();
        if definitions.iter().flatten().any(|one| one.reduction == Reduction::PreMulSum) {
            import.note("operators that the program made are played as Sum".into());
        }
        let group = format!("{:016x}", head.communicator as u64);
        let Head { rank, ranks, .. } = head;
        import.streams.push(Stream { group, rank, ranks, process, definitions, batches });
    }
    Ok(import)
}
