//! The figures of `docs/choice.md` are those of the built-in table and of the record of regret: whoever measures anew
//! writes them anew, with `SHOAL_TEST_RECORD_CHOICE=1 cargo test --test choice`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shoal::op::{DataType, Kind};
use shoal::schedule::{Algorithm, Hosts};
use shoal::tune::candidates::stands_for;
use shoal::tune::predict::call_of;
use shoal::tune::table::{Choice, Choices, Cores, Point, Site, Table, TypeClass, built_in};
use shoal::tune::{self, Facts};

/// One measured point, and where.
struct Measured {
    operation: Kind,
    site: Site,
    point: Point,
}

impl Measured {
    /// What `choice` takes there, by the name under which it was measured.
    fn us(&self, choice: Choice) -> Option<f64> {
        let known: Vec<Choice> = self.point.samples.iter().map(|sample| sample.choice).collect();
        let call = call_of(self.operation, self.point.bytes, DataType::Float32, self.site.ranks);
        let choice = stands_for(choice, &known, &call, &Hosts::one());
        let sample = self.point.samples.iter().find(|sample| sample.choice == choice)?;
        Some(sample.median_us)
    }

    fn chosen(&self, tables: &[&Table]) -> Choice {
        let choices = Choices::of(tables, &self.site);
        let found = choices.find(self.operation, self.point.bytes, TypeClass::Native);
        found.map_or(Choice::usual(Algorithm::Exchange), |found| found.choice)
    }

    /// What `SHOAL_DETERMINISTIC=1` takes.
    fn ordered(&self) -> Choice {
        let facts = Facts {
            ranks: self.site.ranks,
            ranks_per_host: self.site.ranks_per_host,
            cores: if self.site.cores == Cores::Own { self.site.ranks } else { 1 },
            hosts: Hosts::one(),
            is_deterministic: true,
            choices: Choices::default(),
        };
        let call = call_of(self.operation, self.point.bytes, DataType::Float32, self.site.ranks);
        tune::choose(&call, &facts, "")
    }
}

/// All points of the built-in table: of one host, each with so many ranks.
fn measured() -> Vec<Measured> {
    let [table, _] = built_in::tables();
    let rows = table.rows.iter().filter(|row| row.key.hosts.holds(1));
    rows.flat_map(|row| {
        let ranks = u32::try_from(row.key.ranks.from).expect("a number of ranks");
        let (cores, device) = (row.key.cores.expect("named"), row.key.device.expect("named"));
        let site = Site { ranks, hosts: 1, ranks_per_host: ranks, cores, device };
        let operation = row.key.operation;
        row.points.iter().map(move |point| Measured { operation, site, point: point.clone() })
    })
    .collect()
}

/// The one algorithm that is best over all sizes, by operation and ranks.
fn best_single(points: &[Measured]) -> BTreeMap<(u8, u32), Choice> {
    let mut groups: BTreeMap<(u8, u32), Vec<&Measured>> = BTreeMap::new();
    for point in points {
        groups.entry((point.operation as u8, point.site.ranks)).or_default().push(point);
    }
    let best = |group: &[&Measured]| {
        let cost = |choice: Choice| -> f64 {
            group.iter().map(|point| point.us(choice).map_or(f64::INFINITY, f64::ln)).sum()
        };
        let all = group[0].point.samples.iter().map(|sample| sample.choice);
        all.min_by(|one, other| cost(*one).total_cmp(&cost(*other))).expect("candidates")
    };
    groups.into_iter().map(|(key, group)| (key, best(&group))).collect()
}

/// Geometric means by row and decade of bytes, as Markdown.
#[derive(Default)]
struct Means(BTreeMap<(u32, String, u32), (f64, u32)>);

impl Means {
    fn add(&mut self, ranks: u32, name: &str, bytes: u64, ratio: f64) {
        let cell = self.0.entry((ranks, name.to_owned(), bytes.max(1).ilog10())).or_default();
        *cell = (cell.0 + ratio.ln(), cell.1 + 1);
    }

    fn markdown(&self, what: &str) -> String {
        let decades: Vec<u32> = (0..8).collect();
        let mut text = format!("| ranks | {what} |");
        decades.iter().for_each(|decade| write!(text, " 10^{decade} |").expect("a string"));
        let _ = write!(text, "\n|---|---|{}\n", "---|".repeat(decades.len()));
        let mut rows: Vec<(u32, &str)> =
            self.0.keys().map(|(ranks, name, _)| (*ranks, name.as_str())).collect();
        rows.dedup();
        for (ranks, name) in rows {
            let _ = write!(text, "| {ranks} | {name} |");
            for decade in &decades {
                let cell = self.0.get(&(ranks, name.to_owned(), *decade));
                let mean = cell
                    .map_or(String::new(), |(sum, count)| format!("{:.2}", (sum / f64::from(*count)).exp()));
                let _ = write!(text, " {mean} |");
            }
            text.push('\n');
        }
        text
    }
}

/// Others' times over those of the built-in choices.
fn gains() -> String {
    let points = measured();
    let single = best_single(&points);
    let mut means = Means::default();
    for point in &points {
        let ours = point.us(point.chosen(&built_in::tables())).expect("what was chosen was measured");
        let [_, reasoned] = built_in::tables();
        let others = [
            ("reasoned", point.chosen(&[reasoned])),
            ("best single", single[&(point.operation as u8, point.site.ranks)]),
        ];
        for (name, choice) in others {
            if let Some(us) = point.us(choice) {
                means.add(point.site.ranks, name, point.point.bytes, us / ours);
            }
        }
    }
    means.markdown("against")
}

/// What the same bits everywhere cost.
fn determinism() -> String {
    let mut means = Means::default();
    for point in measured().iter().filter(|point| point.operation.reduces()) {
        let ours = point.us(point.chosen(&built_in::tables())).expect("what was chosen was measured");
        if let Some(us) = point.us(point.ordered()) {
            let name = tune::table::operation_name(point.operation);
            means.add(point.site.ranks, &name, point.point.bytes, us / ours);
        }
    }
    means.markdown("operation")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The newest record of regret.
fn record() -> PathBuf {
    let folder = std::fs::read_dir(root().join("benches/records")).expect("the records");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let regrets = paths.filter(|path| path.display().to_string().ends_with("-regret.jsonl"));
    regrets.max().expect("a record of regret")
}

fn regret() -> String {
    let (mut means, mut worst) = (Means::default(), BTreeMap::<u64, (f64, String)>::new());
    for line in std::fs::read_to_string(record()).expect("a record").lines() {
        let line: Value = serde_json::from_str(line).expect("a line of the record");
        let number = |name: &str| line[name].as_f64().expect("a number");
        let (ranks, bytes, ratio) = (number("ranks") as u64, number("bytes") as u64, number("regret"));
        means.add(ranks as u32, "regret", bytes, ratio);
        let here = format!("{:.2}: {} of {bytes} bytes", ratio, line["op"].as_str().unwrap_or_default());
        let known = worst.entry(ranks).or_insert((0.0, String::new()));
        if ratio > known.0 {
            *known = (ratio, here);
        }
    }
    let mut text = means.markdown("mean");
    text.push_str("\n| ranks | the worst point |\n|---|---|\n");
    worst.iter().for_each(|(ranks, (_, here))| writeln!(text, "| {ranks} | {here} |").expect("a string"));
    text
}

#[test]
fn the_figures_of_the_choice_are_those_of_the_tables() {
    let path = root().join("docs/choice.md");
    let mut text = std::fs::read_to_string(&path).expect("the document");
    let records = std::env::var_os("SHOAL_TEST_RECORD_CHOICE").is_some();
    for (name, expected) in [("gains", gains()), ("determinism", determinism()), ("regret", regret())] {
        let (before, rest) = text.split_once(&format!("<!-- {name} -->\n\n")).expect("a mark");
        let (shown, after) = rest.split_once(&format!("\n<!-- /{name} -->")).expect("a mark that ends it");
        if records {
            text = format!("{before}<!-- {name} -->\n\n{expected}\n<!-- /{name} -->{after}");
        } else {
            assert_eq!(shown, expected, "{name}: SHOAL_TEST_RECORD_CHOICE=1 cargo test --test choice");
        }
    }
    if records {
        std::fs::write(&path, text).expect("the document is ours");
    }
}
