//! What would be played, and what was found: as columns, or as one object.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::classes::{self, Class};
use super::compare::{self, Line, WHOLE};
use super::script::Script;
use super::{Against, Format, Options};
use crate::cli::Failure;

/// Prints what would be played.
pub(super) fn plan(format: Format, script: &Script, notes: &[String]) -> Result<(), Failure> {
    if format == Format::Json {
        put_line!("{:#}", described(script, notes));
        return Ok(());
    }
    tell(script, notes)?;
    put_line!("# {:>20} {:>14} {:>10} {:>12} {:>16}", "what", "sizes", "batches", "operations", "bytes");
    for (class, [batches, operations, bytes]) in classes::classes(script) {
        let sizes = Class::sizes(class.end_bytes);
        put_line!("{:>22} {sizes:>14} {batches:>10} {operations:>12} {bytes:>16}", class.what);
    }
    Ok(())
}

fn tell(script: &Script, notes: &[String]) -> Result<(), Failure> {
    let communicators = script.groups.len();
    put_line!(
        "# {} ranks, {communicators} communicators; batches and bytes are those of all ranks",
        script.players
    );
    for note in notes {
        put_line!("# {note}");
    }
    Ok(())
}

fn described(script: &Script, notes: &[String]) -> Value {
    let volumes = script.volumes().into_iter();
    let volume = |[calls, bytes]: [u64; 2]| json!({ "calls": calls, "bytes": bytes });
    let groups =
        script.groups.iter().map(|group| json!({ "name": group.name, "ranks": group.members.len() }));
    json!({
        "ranks": script.players,
        "communicators": groups.collect::<Vec<_>>(),
        "volumes": volumes.map(|(name, of)| (name.to_owned(), volume(of))).collect::<serde_json::Map<_, _>>(),
        "notes": notes,
    })
}

/// Prints what was found.
pub(super) fn result(
    options: &Options,
    script: &Script,
    notes: &[String],
    lines: &[Line],
    wrong: Option<u64>,
) -> Result<(), Failure> {
    if options.format == Format::Json {
        let mut all = described(script, notes);
        all["wrong"] = json!(wrong);
        all["classes"] = lines.iter().map(object).collect();
        put_line!("{all:#}");
        return Ok(());
    }
    tell(script, notes)?;
    match wrong {
        None => put_line!("# results were not checked"),
        Some(0) => put_line!("# every result was right"),
        Some(wrong) => put_line!("# {wrong} elements were WRONG"),
    }
    let counts = classes::classes(script);
    put_line!("# microseconds of a round on the slowest rank, medians{}", other(options.against.as_ref()));
    let (side, gain) = match options.against {
        None => (String::new(), ""),
        Some(_) => (format!(" {:>14}", "other_us"), "  gain (interval)"),
    };
    put_line!("# {:>20} {:>14} {:>10} {:>14}{side}{gain}", "what", "sizes", "batches", "time_us");
    for line in lines {
        let (what, sizes) = compare::named(&line.key);
        let of_class = counts
            .iter()
            .filter(|(class, _)| what == WHOLE || (class.what, class.end_bytes) == (&what, line.key.1));
        let batches: u64 = of_class.map(|(_, [batches, ..])| batches).sum();
        let times: String = line.times_us.iter().map(|time_us| format!(" {time_us:>14.1}")).collect();
        let gain = line.gain.map_or(String::new(), |gain| {
            format!("  {:.3} ({:.3} to {:.3}, {:.0}%)", gain.ratio, gain.low, gain.high, 100.0 * gain.sure)
        });
        put_line!("{what:>22} {sizes:>14} {batches:>10}{times}{gain}");
    }
    Ok(())
}

/// Whose the second column is.
fn other(against: Option<&Against>) -> String {
    match against {
        None => String::new(),
        Some(Against::Library(path)) => format!("; other: {}; gain: its time over the first", path.display()),
        Some(Against::Setting(name, value)) => {
            format!("; other: with {name}={value}; gain: its time over the first")
        }
    }
}

fn object(line: &Line) -> Value {
    let end = (line.key.0 != WHOLE && line.key.1 != u64::MAX).then_some(line.key.1);
    json!({
        "what": line.key.0, "up_to_bytes": end, "times_us": line.times_us,
        "gain": line.gain.map(|gain| json!({
            "ratio": gain.ratio, "low": gain.low, "high": gain.high, "sure": gain.sure,
        })),
    })
}
