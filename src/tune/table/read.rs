//! Reads a table. Strict: a name that is not known, a value of another kind, an algorithm without a form of the
//! operation are errors, told as `file:line: what was expected`.
#![forbid(unsafe_code)]

use super::toml::{self, Problem, Section, Spot, Value};
use super::{
    Choice, Cores, Key, PIECE_RULE, Point, Row, Run, Sample, Span, Stock, Table, TypeClass, names,
    operation_name, piece_of, sheet,
};
use crate::op::Kind;
use crate::schedule::Algorithm;
use crate::topology::DeviceKind;

/// A table is at most this long.
pub const TABLE_BYTES_MAX: usize = 16 << 20;
/// One list of points is at most this long.
const POINTS_MAX: usize = 10_000;

type Outcome<T> = Result<T, Problem>;

/// The table that `text` says; `name` is what it is called in errors and answers.
///
/// # Errors
/// The first thing that is wrong, as `name:line: text`.
pub fn read(name: &str, text: &str) -> Result<Table, String> {
    read_sections(name, text, None)
}

/// The same without what was measured: nobody who only chooses looks at it.
///
/// # Errors
/// As [`read`]; what is wrong within points is not found.
pub fn read_rows(name: &str, text: &str) -> Result<Table, String> {
    read_sections(name, text, Some("points"))
}

fn read_sections(name: &str, text: &str, skipped: Option<&str>) -> Result<Table, String> {
    let place = |problem: Problem| format!("{name}:{}: {}", problem.line, problem.text);
    if text.len() > TABLE_BYTES_MAX {
        return Err(format!("{name}:1: the table has {} bytes; at most {TABLE_BYTES_MAX}", text.len()));
    }
    let mut table = Table { name: name.to_owned(), ..Table::default() };
    for section in toml::parse(text, skipped).map_err(place)? {
        let fields = Fields(&section);
        match section.name.as_str() {
            "run" => table.runs.push(fields.run(&table.runs).map_err(place)?),
            "row" => table.rows.push(fields.row().map_err(place)?),
            "stock" => table.stock.push(fields.stock().map_err(place)?),
            other => {
                let text = format!("[[{other}]] is unknown; there are [[run]], [[row]] and [[stock]]");
                return Err(place(Problem { line: section.line, text }));
            }
        }
    }
    // A run may stand behind the rows that name it.
    let lost = table.rows.iter().find(|row| !row.run.is_empty() && table.run(&row.run).is_none());
    match lost {
        Some(row) => Err(format!("{name}:{}: there is no [[run]] with the name {:?}", row.line, row.run)),
        None => Ok(table),
    }
}

/// What is wrong with a value.
fn wrong<T>(spot: &Spot, expected: impl std::fmt::Display) -> Outcome<T> {
    let text = format!("expected {expected}, found {}", spot.value.describe());
    Err(Problem { line: spot.line, text })
}

struct Fields<'a>(&'a Section);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Spot> {
        self.0.entries.iter().find(|(known, _)| known == name).map(|(_, spot)| spot)
    }

    fn need(&self, name: &str) -> Outcome<&Spot> {
        let lacking = || Problem { line: self.0.line, text: format!("[[{}]] lacks {name}", self.0.name) };
        self.get(name).ok_or_else(lacking)
    }

    fn only(&self, known: &[&str]) -> Outcome<()> {
        match self.0.entries.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, spot)) => {
                let text = format!("{name} is unknown; [[{}]] has {}", self.0.name, known.join(", "));
                Err(Problem { line: spot.line, text })
            }
        }
    }

    fn optional<T>(&self, name: &str, read: impl FnOnce(&Spot) -> Outcome<T>) -> Outcome<Option<T>> {
        self.get(name).map(read).transpose()
    }

    fn run(&self, before: &[Run]) -> Outcome<Run> {
        self.only(&["name", "machine", "date", "command", "library", "state"])?;
        let name = self.need("name")?;
        let run = Run {
            name: text(name)?,
            machine: text(self.need("machine")?)?,
            date: text(self.need("date")?)?,
            command: text(self.need("command")?)?,
            library: text(self.need("library")?)?,
            state: self.optional("state", text)?.unwrap_or_default(),
        };
        if run.name.is_empty() {
            return wrong(name, "a name");
        }
        if before.iter().any(|known| known.name == run.name) {
            return wrong(name, "a name that no other [[run]] has");
        }
        Ok(run)
    }

    fn row(&self) -> Outcome<Row> {
        self.only(&[
            "run",
            "operation",
            "ranks",
            "hosts",
            "ranks_per_host",
            "cores",
            "types",
            "device",
            "bytes",
            "algorithm",
            "piece_bytes",
            "points",
        ])?;
        let operation = collective(self.need("operation")?)?;
        let key = Key {
            operation,
            ranks: self.span("ranks")?,
            hosts: self.span("hosts")?,
            ranks_per_host: self.span("ranks_per_host")?,
            cores: self.optional("cores", |spot| word(spot, &[Cores::Own, Cores::Shared], Cores::name))?,
            types: self.optional("types", |spot| {
                if !operation.reduces() {
                    return wrong(spot, format!("no types for {}, which moves bytes", operation.name()));
                }
                word(spot, &[TypeClass::Native, TypeClass::Narrow], TypeClass::name)
            })?,
            device: self
                .optional("device", |spot| word(spot, &[DeviceKind::Host, DeviceKind::Cuda], device_name))?,
            bytes: self.span("bytes")?,
        };
        let piece_bytes = self.optional("piece_bytes", |spot| match spot.value {
            Value::Whole(bytes) => piece_of(bytes).map_or_else(|| wrong(spot, PIECE_RULE), Ok),
            _ => wrong(spot, PIECE_RULE),
        })?;
        Ok(Row {
            line: self.0.line,
            run: self.optional("run", text)?.unwrap_or_default(),
            key,
            choice: Choice { algorithm: algorithm(self.need("algorithm")?, operation)?, piece_bytes },
            points: self.optional("points", |spot| points(spot, operation))?.unwrap_or_default(),
        })
    }

    fn stock(&self) -> Outcome<Stock> {
        self.only(&[
            "operation",
            "bytes",
            "ranks",
            "hosts",
            "algorithm",
            "protocol",
            "channels",
            "pipelined",
            "registered",
        ])?;
        let operation = word(self.need("operation")?, &sheet::OPERATIONS, operation_name)?;
        let number = |spot: &Spot| match spot.value {
            Value::Whole(number @ 1..=0x7fff_ffff) => Ok(number as u32),
            _ => wrong(spot, "a number from 1"),
        };
        Ok(Stock {
            line: self.0.line,
            operation,
            bytes: self.span("bytes")?,
            ranks: self.span("ranks")?,
            hosts: self.span("hosts")?,
            algorithm: word(self.need("algorithm")?, &sheet::ALGORITHMS, |name| name)?.to_owned(),
            protocol: word(self.need("protocol")?, &sheet::PROTOCOLS, |name| name)?.to_owned(),
            channels: self.optional("channels", number)?,
            pipelined: self.optional("pipelined", number)?,
            registered: self.optional("registered", |spot| match spot.value {
                Value::Truth(truth) => Ok(truth),
                _ => wrong(spot, "true or false"),
            })?,
        })
    }

    fn span(&self, name: &str) -> Outcome<Span> {
        const RULE: &str = "a number, [from, to] or [from, \"any\"]";
        let Some(spot) = self.get(name) else { return Ok(Span::ANY) };
        match &spot.value {
            Value::Whole(number) => Ok(Span::one(*number)),
            Value::List(list) => {
                let [from, to] = list.as_slice() else { return wrong(spot, RULE) };
                let Value::Whole(from) = from.value else { return wrong(from, RULE) };
                let to = match &to.value {
                    Value::Whole(to) => *to,
                    Value::Text(text) if text == "any" => u64::MAX,
                    _ => return wrong(to, RULE),
                };
                if from > to {
                    let text = format!("{name} goes from {from} to {to}; the smaller comes first");
                    return Err(Problem { line: spot.line, text });
                }
                Ok(Span { from, to })
            }
            _ => wrong(spot, RULE),
        }
    }
}

fn text(spot: &Spot) -> Outcome<String> {
    match &spot.value {
        Value::Text(text) => Ok(text.clone()),
        _ => wrong(spot, "a text"),
    }
}

/// One of a few words.
fn word<T: Copy, N: AsRef<str>>(spot: &Spot, all: &[T], name: impl Fn(T) -> N) -> Outcome<T> {
    let said = if let Value::Text(said) = &spot.value { said.as_str() } else { "" };
    match all.iter().copied().find(|one| name(*one).as_ref() == said) {
        Some(found) => Ok(found),
        None => {
            let names: Vec<String> = all.iter().map(|one| format!("{:?}", name(*one).as_ref())).collect();
            wrong(spot, names.join(" or "))
        }
    }
}

/// The device as files have it.
pub(super) const fn device_name(device: DeviceKind) -> &'static str {
    match device {
        DeviceKind::Host => "host",
        DeviceKind::Cuda => "cuda",
    }
}

fn collective(spot: &Spot) -> Outcome<Kind> {
    let all: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !kind.is_point_to_point()).collect();
    word(spot, &all, operation_name)
}

fn algorithm(spot: &Spot, operation: Kind) -> Outcome<Algorithm> {
    let Value::Text(name) = &spot.value else { return wrong(spot, "the name of an algorithm") };
    match Algorithm::ALL.into_iter().find(|known| known.name() == name) {
        Some(found) if found.serves(operation) => Ok(found),
        Some(_) => wrong(spot, format!("an algorithm that has a form of {}", operation.name())),
        None => wrong(spot, format!("one of {}", names())),
    }
}

fn points(spot: &Spot, operation: Kind) -> Outcome<Vec<Point>> {
    let Value::List(list) = &spot.value else { return wrong(spot, "a list of points") };
    if list.len() > POINTS_MAX {
        return wrong(spot, format!("at most {POINTS_MAX} points"));
    }
    list.iter().map(|spot| point(spot, operation)).collect()
}

fn point(spot: &Spot, operation: Kind) -> Outcome<Point> {
    const RULE: &str = "{ bytes = N, ALGORITHM = [median, low, high], ... }";
    let Value::Map(map) = &spot.value else { return wrong(spot, RULE) };
    let mut bytes = None;
    let mut samples = Vec::new();
    for (name, spot) in map {
        if name == "bytes" {
            let Value::Whole(number) = spot.value else { return wrong(spot, "a number of bytes") };
            bytes = Some(number);
            continue;
        }
        let choice = Choice::named(name).map_err(|text| Problem { line: spot.line, text })?;
        if !choice.algorithm.serves(operation) {
            let text = format!("{name} has no form of {}", operation.name());
            return Err(Problem { line: spot.line, text });
        }
        let [median_us, low_us, high_us] = times(spot)?;
        samples.push(Sample { choice, median_us, low_us, high_us });
    }
    match bytes {
        Some(bytes) => Ok(Point { bytes, samples }),
        None => wrong(spot, RULE),
    }
}

/// Three times in order.
fn times(spot: &Spot) -> Outcome<[f64; 3]> {
    const RULE: &str = "[median, low, high] in microseconds, with low <= median <= high";
    let Value::List(list) = &spot.value else { return wrong(spot, RULE) };
    let number = |spot: &Spot| match spot.value {
        Value::Whole(number) => Some(number as f64),
        Value::Decimal(number) => Some(number),
        _ => None,
    };
    let numbers: Vec<f64> = list.iter().filter_map(number).collect();
    match (numbers.as_slice(), list.len()) {
        ([median, low, high], 3) if 0.0 <= *low && low <= median && median <= high => {
            Ok([*median, *low, *high])
        }
        _ => wrong(spot, RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "[[row]]\noperation = \"allreduce\"\nalgorithm = \"ring\"\n";

    #[test]
    fn a_row_says_where_it_holds() {
        let text = format!(
            "{ROW}ranks = [2, 4]\nhosts = 1\ncores = \"own\"\ntypes = \"narrow\"\nbytes = [8, \"any\"]\n\
             piece_bytes = 65536\npoints = [\n{{ bytes = 8, ring = [2.0, 1.5, 3], tree_65536 = [1, 1, 1] }} ]\n"
        );
        let table = read("t", &text).unwrap();
        let row = &table.rows[0];
        assert_eq!((row.key.ranks, row.key.hosts), (Span { from: 2, to: 4 }, Span::one(1)));
        assert_eq!(row.key.bytes, Span { from: 8, to: u64::MAX });
        assert_eq!((row.key.types, row.key.cores), (Some(TypeClass::Narrow), Some(Cores::Own)));
        assert_eq!(row.choice.to_string(), "ring_65536");
        assert_eq!(row.points[0].samples[1].choice.to_string(), "tree_65536");
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        for (more, words) in [
            ("colour = 1", "t:4: colour is unknown; [[row]] has run,"),
            ("ranks = \"two\"", "t:4: expected a number, [from, to]"),
            ("ranks = [4, 2]", "t:4: ranks goes from 4 to 2"),
            ("cores = \"many\"", "t:4: expected \"own\" or \"shared\", found the text \"many\""),
            ("device = 1", "t:4: expected \"host\" or \"cuda\", found the number 1"),
            ("piece_bytes = 5000", "t:4: expected a power of two"),
            ("run = \"x\"", "t:1: there is no [[run]] with the name \"x\""),
            ("points = [{ bytes = 1, bruck9 = [1,1,1] }]", "t:4: \"bruck9\" is no algorithm"),
            ("points = [{ bytes = 1, pat = [1,1,1] }]", "t:4: pat has no form of AllReduce"),
            ("points = [{ bytes = 1, ring = [1, 2, 3] }]", "t:4: expected [median, low, high]"),
            ("points = [{ ring = [1, 1, 1] }]", "t:4: expected { bytes = N"),
            ("[[column]]", "t:4: [[column]] is unknown"),
            ("[[row]]\nalgorithm = \"ring\"", "t:4: [[row]] lacks operation"),
            ("[[row]]\noperation = \"send\"", "t:5: expected \"allreduce\" or"),
            (
                "[[row]]\noperation = \"alltoall\"\nalgorithm = \"ring\"",
                "t:6: expected an algorithm that has",
            ),
            ("[[row]]\noperation = \"alltoall\"\nalgorithm = \"rnig\"", "t:6: expected one of exchange,"),
            ("[[row]]\noperation = \"alltoall\"\ntypes = \"native\"", "t:6: expected no types for AlltoAll"),
            ("[[stock]]\noperation = \"gather\"", "t:5: expected \"broadcast\" or"),
        ] {
            let error = read("t", &format!("{ROW}{more}\n")).expect_err(more);
            assert!(error.starts_with(words), "{more}: {error}");
        }
    }

    proptest::proptest! {
        /// Whatever stands there, there is a table or a sentence with a line.
        #[test]
        fn any_text_is_borne(parts in proptest::collection::vec("operation = \"(allreduce|x)\"\n|algorithm = \"ring\"\n|ranks = (1|\\[1, 2\\]|\\[3, \"any\"\\]|\\[\\])\n|points = \\[(\\{ bytes = 1, ring = \\[1, 1, (1|x)\\] \\})?\\]\n|\\[\\[(row|run|stock)\\]\\]\n|.{0,9}\n", 0..9)) {
            if let Err(text) = read("t", &parts.concat()) {
                proptest::prop_assert!(text.starts_with("t:"), "{}", text);
            }
        }
    }
}
