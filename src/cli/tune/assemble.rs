//! From the journal to the table.
#![forbid(unsafe_code)]

use super::journal::{Journal, today};
use super::{Options, Setup, machine_name};
use crate::cli::Failure;
use crate::comm::table::load;
use crate::op::Kind;
use crate::tune::fit::fit;
use crate::tune::predict::{call_of, model_us};
use crate::tune::table::{Key, Point, Row, Run, Span, Table, TypeClass, write::write};

const HEAD: &str = "# A table of choices: `shoal table lint` checks it, `shoal explain` says what comes of it. Times are\n\
    # microseconds: the median and the quartiles.\n\n";

/// The table of what was measured; rows of other ranks and operations in the file stay.
///
/// # Errors
/// The file is there and no table.
pub(super) fn table(
    options: &Options,
    setup: &Setup,
    journal: &Journal,
    state: &str,
) -> Result<Table, Failure> {
    let mut table =
        if setup.output.exists() { load(&setup.output).map_err(Failure)? } else { Table::default() };
    let run = run(options, setup, journal, state, &table);
    for operation in setup.points.operations() {
        let points = points(setup, journal, operation);
        if points.is_empty() {
            continue;
        }
        let key = key(options, setup, operation);
        table.rows.retain(|row| Key { bytes: Span::ANY, ..row.key } != key);
        let model = |choice, bytes| {
            let call = call_of(operation, bytes, options.data_type, setup.site.ranks);
            model_us(choice, &call, &setup.hosts).unwrap_or(f64::INFINITY)
        };
        table.rows.extend(fit(&points, model).into_iter().map(|stretch| Row {
            line: 0,
            run: run.name.clone(),
            key: Key { bytes: stretch.bytes, ..key },
            choice: stretch.choice,
            points: stretch.points,
        }));
    }
    table.runs.push(run);
    table.runs.retain(|run| table.rows.iter().any(|row| row.run == run.name));
    table.rows.sort_by_key(|row| (row.key.operation as u8, row.key.ranks.from, row.key.bytes.from));
    Ok(table)
}

/// The file of a table.
pub(super) fn text(table: &Table) -> String {
    format!("{HEAD}{}", write(table))
}

/// What is known of an operation, by size.
pub(super) fn points(setup: &Setup, journal: &Journal, operation: Kind) -> Vec<Point> {
    let of = setup.points.all.iter().filter(|point| point.operation == operation);
    of.filter_map(|point| Some(Point { bytes: point.bytes, samples: journal.entry(point)?.samples() }))
        .filter(|point| !point.samples.is_empty())
        .collect()
}

/// Where the rows hold, sizes aside.
fn key(options: &Options, setup: &Setup, operation: Kind) -> Key {
    let class = TypeClass::of(options.data_type);
    Key {
        ranks: Span::one(setup.site.ranks.into()),
        hosts: Span::one(setup.site.hosts.into()),
        // On one host it is the number of ranks.
        ranks_per_host: if setup.site.hosts == 1 {
            Span::ANY
        } else {
            Span::one(setup.site.ranks_per_host.into())
        },
        cores: Some(setup.site.cores),
        device: Some(setup.site.device),
        // What is native stands for all, until narrow types are measured as well.
        types: (class == TypeClass::Narrow && operation.reduces()).then_some(class),
        ..Key::any(operation)
    }
}

fn run(options: &Options, setup: &Setup, journal: &Journal, state: &str, table: &Table) -> Run {
    let stem = format!("{}-{}-{}", today(), setup.site.ranks, options.data_type.name());
    let is_taken = |name: &String| table.run(name).is_some();
    let name =
        (1..).map(|n| if n == 1 { stem.clone() } else { format!("{stem}-{n}") }).find(|name| !is_taken(name));
    Run {
        name: name.unwrap_or(stem),
        machine: machine_name(),
        date: journal.header.date.clone(),
        command: journal.header.command.clone(),
        library: crate::version().to_owned(),
        state: state.to_owned(),
    }
}
