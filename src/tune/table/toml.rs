//! The part of TOML that tables use: `[[name]]`, `key = value`, and of values strings, whole numbers, decimals,
//! truth, lists over several lines and `{ key = value }` on one. Everything else is refused by line.
#![forbid(unsafe_code)]

/// The deepest nesting of lists.
const DEPTH_MAX: u32 = 4;

/// A value and the line where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spot {
    pub(super) line: u32,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(u64),
    Decimal(f64),
    Truth(bool),
    List(Vec<Spot>),
    Map(Vec<(String, Spot)>),
}

impl Value {
    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Text(text) => format!("the text {text:?}"),
            Value::Whole(number) => format!("the number {number}"),
            Value::Decimal(number) => format!("the number {number}"),
            Value::Truth(truth) => truth.to_string(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "{ ... }".to_owned(),
        }
    }
}

/// What stands under one `[[name]]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    pub(super) line: u32,
    pub(super) name: String,
    pub(super) entries: Vec<(String, Spot)>,
}

/// What is wrong, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) line: u32,
    pub(super) text: String,
}

/// The sections of a text, without the lists of the name `skipped`, if it is one: they are passed over in no time.
pub(super) fn parse(text: &str, skipped: Option<&str>) -> Result<Vec<Section>, Problem> {
    let mut cursor = Cursor { rest: text, line: 1, skipped };
    let mut sections: Vec<Section> = Vec::new();
    loop {
        cursor.skip_lines();
        let line = cursor.line;
        if cursor.rest.is_empty() {
            return Ok(sections);
        }
        if cursor.take("[[") {
            cursor.skip_spaces();
            let name = cursor.key()?;
            cursor.skip_spaces();
            cursor.expect("]]")?;
            sections.push(Section { line, name, entries: Vec::new() });
        } else {
            let (key, value) = cursor.entry(0)?;
            let Some(section) = sections.last_mut() else {
                return Err(Problem { line, text: format!("{key} stands before the first [[...]]") });
            };
            add(&mut section.entries, key, value)?;
        }
        cursor.end_of_line()?;
    }
}

/// Adds an entry of a new name.
fn add(entries: &mut Vec<(String, Spot)>, key: String, value: Spot) -> Result<(), Problem> {
    if entries.iter().any(|(known, _)| *known == key) {
        return Err(Problem { line: value.line, text: format!("{key} stands twice") });
    }
    entries.push((key, value));
    Ok(())
}

struct Cursor<'a> {
    rest: &'a str,
    line: u32,
    skipped: Option<&'a str>,
}

impl Cursor<'_> {
    fn problem<T>(&self, expected: &str) -> Result<T, Problem> {
        let found = match self.rest.chars().next() {
            None => "the end".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(_) => {
                let word: String = self.rest.chars().take_while(|c| !c.is_whitespace()).take(20).collect();
                format!("{word:?}")
            }
        };
        Err(Problem { line: self.line, text: format!("expected {expected}, found {found}") })
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn take(&mut self, start: &str) -> bool {
        let is_there = self.rest.starts_with(start);
        if is_there {
            self.skip(start.len());
        }
        is_there
    }

    fn expect(&mut self, start: &str) -> Result<(), Problem> {
        if self.take(start) { Ok(()) } else { self.problem(start) }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// What follows a comment sign does not count.
    fn skip_comment(&mut self) {
        if self.rest.starts_with('#') {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end);
        }
    }

    /// Spaces, comments and ends of lines.
    fn skip_lines(&mut self) {
        loop {
            self.skip_spaces();
            self.skip_comment();
            if self.take("\n") || self.take("\r\n") {
                self.line += 1;
            } else {
                return;
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), Problem> {
        self.skip_spaces();
        self.skip_comment();
        if self.rest.is_empty() || self.rest.starts_with('\n') || self.rest.starts_with("\r\n") {
            return Ok(());
        }
        self.problem("the end of the line")
    }

    fn key(&mut self) -> Result<String, Problem> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let length = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        if length == 0 {
            return self.problem("a name");
        }
        let key = self.rest[..length].to_owned();
        self.skip(length);
        Ok(key)
    }

    fn entry(&mut self, depth: u32) -> Result<(String, Spot), Problem> {
        let key = self.key()?;
        self.skip_spaces();
        self.expect("=")?;
        self.skip_spaces();
        if self.skipped == Some(key.as_str()) && self.rest.starts_with('[') {
            let line = self.line;
            self.skip_list()?;
            return Ok((key, Spot { line, value: Value::List(Vec::new()) }));
        }
        Ok((key, self.value(depth)?))
    }

    fn value(&mut self, depth: u32) -> Result<Spot, Problem> {
        let line = self.line;
        if depth > DEPTH_MAX {
            return Err(Problem { line, text: format!("lists are nested more than {DEPTH_MAX} deep") });
        }
        let value = match self.rest.as_bytes().first() {
            Some(b'"') => Value::Text(self.text()?),
            Some(b'[') => Value::List(self.list(depth)?),
            Some(b'{') => Value::Map(self.map(depth)?),
            Some(b'0'..=b'9' | b'+' | b'-' | b'.') => self.number()?,
            _ if self.take("true") => Value::Truth(true),
            _ if self.take("false") => Value::Truth(false),
            _ => return self.problem("a value: \"text\", a number, true, false, [...] or {...}"),
        };
        Ok(Spot { line, value })
    }

    fn text(&mut self) -> Result<String, Problem> {
        self.expect("\"")?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.skip(at + 1);
                    return Ok(text);
                }
                '\\' => match chars.next().map(|(_, escaped)| escaped) {
                    Some(escaped @ ('"' | '\\')) => text.push(escaped),
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    _ => {
                        self.skip(at);
                        return self.problem("\\\", \\\\, \\n or \\t");
                    }
                },
                c if c.is_control() && c != '\t' => break,
                c => text.push(c),
            }
        }
        self.skip(self.rest.len().min(self.rest.find('\n').unwrap_or(self.rest.len())));
        self.problem("\" at the end of the text")
    }

    fn number(&mut self) -> Result<Value, Problem> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let length = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let word = &self.rest[..length];
        let is_whole = word.bytes().all(|byte| byte.is_ascii_digit());
        let value = if is_whole {
            word.parse().ok().map(Value::Whole)
        } else {
            let is_plain = word.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
            let number = word.parse::<f64>().ok().filter(|number| is_plain && number.is_finite());
            number.map(Value::Decimal)
        };
        match value {
            Some(value) => {
                self.skip(length);
                Ok(value)
            }
            None => self.problem("a number"),
        }
    }

    fn list(&mut self, depth: u32) -> Result<Vec<Spot>, Problem> {
        self.expect("[")?;
        let mut list = Vec::new();
        loop {
            self.skip_lines();
            if self.take("]") {
                return Ok(list);
            }
            list.push(self.value(depth + 1)?);
            self.skip_lines();
            if !self.take(",") && !self.rest.starts_with(']') {
                return self.problem(", or ]");
            }
        }
    }

    /// To the bracket that closes the list; of what is in it nothing but brackets, texts and lines is looked at.
    fn skip_list(&mut self) -> Result<(), Problem> {
        let (mut depth, mut is_text, mut is_escaped) = (0_u32, false, false);
        for (at, byte) in self.rest.bytes().enumerate() {
            match byte {
                b'\n' => self.line += 1,
                _ if is_escaped => is_escaped = false,
                b'\\' if is_text => is_escaped = true,
                b'"' => is_text = !is_text,
                b'[' if !is_text => depth += 1,
                b']' if !is_text => {
                    depth -= 1;
                    if depth == 0 {
                        self.skip(at + 1);
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        self.skip(self.rest.len());
        self.problem("]")
    }

    fn map(&mut self, depth: u32) -> Result<Vec<(String, Spot)>, Problem> {
        self.expect("{")?;
        let mut map = Vec::new();
        self.skip_spaces();
        if self.take("}") {
            return Ok(map);
        }
        loop {
            self.skip_spaces();
            let (key, value) = self.entry(depth + 1)?;
            add(&mut map, key, value)?;
            self.skip_spaces();
            if self.take("}") {
                return Ok(map);
            }
            if !self.take(",") {
                return self.problem(", or }");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tables_use_is_read() {
        let text = "# head\n[[row]] # one\na = \"x \\\"y\\\"\"\nb = [1,\n 2.5, # two\n]\nc = { d = true, e = [] }\r\n[[row]]\n";
        let sections = parse(text, None).unwrap();
        assert_eq!((sections.len(), sections[0].line, sections[1].line), (2, 2, 8));
        let entries = &sections[0].entries;
        assert_eq!(entries[0].1.value, Value::Text("x \"y\"".into()));
        let Value::List(list) = &entries[1].1.value else { panic!("{entries:?}") };
        assert_eq!((list[0].value.clone(), list[1].value.clone()), (Value::Whole(1), Value::Decimal(2.5)));
        assert_eq!(list[1].line, 5);
        let Value::Map(map) = &entries[2].1.value else { panic!("{entries:?}") };
        assert_eq!((map[0].0.as_str(), &map[0].1.value), ("d", &Value::Truth(true)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, words) in [
            ("a = 1", 1, "before the first"),
            ("[[row]]\na = 1\na = 2", 3, "a stands twice"),
            ("[[row]]\na 1", 2, "expected =, found \"1\""),
            ("[[row]]\na = ", 2, "expected a value"),
            ("[[row]]\n\na = \"x\nb = 1", 3, "expected \" at the end of the text"),
            ("[[row]]\na = \"\\q\"", 2, "expected \\\""),
            ("[[row]]\na = [1 2]", 2, "expected , or ]"),
            ("[[row]]\na = { b = 1", 2, "expected , or }"),
            ("[[row]]\na = 1x", 2, "expected a number"),
            ("[[row]]\na = nan", 2, "expected a value"),
            ("[[row]]\na = 1e999", 2, "expected a number"),
            ("[[row]]\na = 99999999999999999999", 2, "expected a number"),
            ("[[row]]\na = 1 b = 2", 2, "expected the end of the line"),
            ("[row]\n", 1, "expected a name"),
            ("[[row]\n", 1, "expected ]]"),
            ("[[row]]\na = [[[[[[1]]]]]]", 2, "nested"),
        ] {
            let problem = parse(text, None).expect_err(text);
            assert!(problem.line == line && problem.text.contains(words), "{text:?}: {problem:?}");
        }
    }

    #[test]
    fn lists_are_passed_over() {
        let text = "[[row]]\na = [1, [2],\n\"]\\\"\"]\nb = 2\n";
        let section = parse(text, Some("a")).unwrap().remove(0);
        assert_eq!(section.entries[0].1.value, Value::List(Vec::new()));
        assert_eq!((section.entries[1].1.line, &section.entries[1].1.value), (4, &Value::Whole(2)));
        assert!(parse("[[row]]\na = [1", Some("a")).unwrap_err().text.contains("expected ]"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(text in ".{0,60}|(\\[\\[|\\]\\]|a|=|1|\\.|\"|\\{|\\}|,|\\n| |#|\\\\|true){0,40}") {
            let lines = text.split('\n').count();
            for skipped in [None, Some("a")] {
                if let Err(problem) = parse(&text, skipped) {
                    proptest::prop_assert!(problem.line >= 1 && problem.line as usize <= lines);
                }
            }
        }
    }
}
