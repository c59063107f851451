//! What a list of calls takes, by choice of algorithm, with and without frames.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::calls::json;
use super::options::{Format, Options};
use super::{choice, limits, words};
use crate::cli::Failure;
use crate::simulate::{Machine, mix};

#[derive(Serialize)]
struct Line<'line> {
    mix: &'line str,
    choice: &'line str,
    time_us: f64,
    /// Some calls are bounds from below.
    at_least: bool,
}

pub(super) fn run(options: &Options, machine: &Machine, name: &str) -> Result<bool, Failure> {
    if name == "list" {
        for (name, words, _) in mix::MIXES {
            put_line!("{name:<16} {words}");
        }
        return Ok(true);
    }
    let known = mix::MIXES.iter().find(|(known, ..)| *known == name);
    let text = match known {
        Some((_, _, text)) => (*text).to_owned(),
        None => std::fs::read_to_string(name).map_err(|error| {
            let names: Vec<_> = mix::MIXES.iter().map(|(name, ..)| *name).collect();
            Failure(format!("{name} is neither of {} nor a file: {error}", names.join(", ")))
        })?,
    };
    let lines = mix::read(&text).map_err(|error| Failure(format!("{name}: {error}")))?;
    let total = mix::total(machine, &lines, &choice, limits(options))
        .map_err(|error| Failure(format!("{name}: {error}")))?;
    let mut rows = Vec::new();
    if total.groups < total.calls {
        rows.push(("fastest of each call", total.fastest_ns, false));
        rows.push(("table", total.chosen_ns, false));
        rows.extend(total.alone.iter().map(|(algorithm, ns, bound)| (algorithm.name(), *ns, *bound)));
    }
    let groups = [
        ("messages together", total.messages_together_ns, false),
        ("messages apart", total.messages_apart_ns, false),
    ];
    rows.extend(groups.into_iter().filter(|_| total.groups > 0));
    if options.format == Format::Json {
        for (choice, ns, at_least) in rows {
            put_line!("{}", json(&Line { mix: name, choice, time_us: ns / 1000.0, at_least })?);
        }
        return Ok(true);
    }
    put_line!(
        "# {name}: {} calls, {} of them groups of messages; {}",
        total.calls,
        total.groups,
        words(machine)
    );
    for (choice, ns, at_least) in rows {
        let sign = if at_least { ">" } else { " " };
        let ratio = ns / total.fastest_ns.max(0.001);
        put_line!("{choice:<22}{sign}{:>14.3} ms {ratio:>9.3}", ns / 1e6);
    }
    put_line!(
        "# one algorithm wherever it has a form, else the table; > where slow calls are bounds from below"
    );
    if total.groups == 0 {
        put_line!("# no groups of messages: coalescing changes nothing");
    }
    Ok(true)
}
