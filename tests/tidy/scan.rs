//! Just enough of a scanner for Rust: what is code and what is not, where functions begin and end.

use std::path::{Path, PathBuf};

/// How items start that are only compiled for tests.
const TESTS: &[&str] = &["#[cfg(test)]", "#[cfg(all(test,"];

/// A file, as text and as code.
pub(crate) struct File {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same length, with comments and the insides of literals blank. Empty if this is not Rust.
    pub(crate) code: String,
    /// The same again, without what is only compiled for tests.
    pub(crate) shipped: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> File {
        let code = if path.ends_with(".rs") { mask(text) } else { String::new() };
        let shipped = if is_test_file(path) { String::new() } else { without_items(&code, TESTS) };
        File { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    /// Whether it lies in one of the places; one that ends in `/` is a directory.
    pub(crate) fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| lies_in(&self.path, place))
    }

    /// Whether it is a source of the library or the command.
    pub(crate) fn is_source(&self) -> bool {
        self.path.starts_with("src/") && self.path.ends_with(".rs")
    }
}

/// Whether `path` is `place`, or lies below it if that ends in `/`.
pub(crate) fn lies_in(path: &str, place: &str) -> bool {
    path == place || (place.ends_with('/') && path.starts_with(place))
}

fn is_test_file(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    path.starts_with("src/") && (stem == "tests" || stem.ends_with("_tests") || path.contains("/tests/"))
}

/// Every file that belongs to the repository: as git lists them, or all of them where git is no help.
pub(crate) fn repository() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = listed_by_git(root).unwrap_or_default();
    if paths.is_empty() {
        walk(root, &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = String::from_utf8(std::fs::read(root.join(&path)).ok()?).ok()?;
        Some(File::new(path.to_str()?, &text))
    };
    paths.into_iter().filter_map(read).collect()
}

fn listed_by_git(root: &Path) -> Option<Vec<PathBuf>> {
    let listing =
        std::process::Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output().ok()?;
    let names = String::from_utf8(listing.stdout).ok().filter(|_| listing.status.success())?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

fn walk(root: &Path, paths: &mut Vec<PathBuf>) {
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let skipped =
                name == ".git" || name == "__pycache__" || name.to_string_lossy().starts_with("target");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !skipped => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    paths.extend(entry.path().strip_prefix(root).map(Path::to_path_buf));
                }
                _ => {}
            }
        }
    }
}

/// `text` with comments and the insides of literals replaced by spaces; lines stay where they are.
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = not_code(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(if bytes[at].is_ascii() { bytes[at] } else { b'_' });
            at += 1;
        }
    }
    String::from_utf8(out).expect("only ASCII was written")
}

/// The end of the comment or literal that starts at `at`, or `at` if none does.
fn not_code(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'"' {
        return quoted_end(bytes, at, b'"');
    }
    if rest[0] == b'\'' {
        // A lifetime has no closing quote where a character has one.
        let is_character = rest.get(1) == Some(&b'\\')
            || rest.iter().take(6).skip(2).position(|&byte| byte == b'\'').is_some_and(|distance| {
                std::str::from_utf8(&rest[1..distance + 2]).is_ok_and(|inside| inside.chars().count() == 1)
            });
        return if is_character { quoted_end(bytes, at, b'\'') } else { at };
    }
    let starts_word = at == 0 || !is_word(bytes[at - 1]) || (at >= 1 && b"bc".contains(&bytes[at - 1]));
    if rest[0] == b'r' && starts_word {
        let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let inside = at + 2 + hashes;
            return find(&bytes[inside..], &close).map_or(bytes.len(), |end| inside + end + close.len());
        }
    }
    at
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether the byte can be part of a name.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// `code` with every item that starts with one of the marks blank.
pub(crate) fn without_items(code: &str, marks: &[&str]) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = marks.iter().filter_map(|mark| code[from..].find(mark)).min() {
        let start = from + found;
        let end = item_end(code, start);
        out[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        from = end;
    }
    String::from_utf8(out).expect("only ASCII was written")
}

/// Behind the closing brace, or the semicolon, of the item that starts at `start`.
fn item_end(code: &str, start: usize) -> usize {
    let bytes = code.as_bytes();
    let (mut nested, mut braces) = (0_i32, 0_i32);
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces <= 0 {
                    return at + 1;
                }
            }
            b';' if braces == 0 && nested == 0 => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Every function of `code` that has a body.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in words(code, "fn") {
        let name: String =
            code[at + 2..].trim_start().bytes().take_while(|&b| is_word(b)).map(char::from).collect();
        let end = item_end(code, at);
        if name.is_empty() || !code[at..end].ends_with('}') {
            continue; // a pointer type, or a declaration
        }
        found.push(Function { name, line: line_of(code, at), lines: code[at..end].lines().count() });
    }
    found
}

/// Every place where `word` stands by itself, with its line.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let bytes = code.as_bytes();
    let alone = move |at: usize| {
        (at == 0 || !is_word(bytes[at - 1])) && bytes.get(at + word.len()).is_none_or(|&next| !is_word(next))
    };
    code.match_indices(word).filter(move |(at, _)| alone(*at)).map(move |(at, _)| (at, line_of(code, at)))
}

/// Every name in `code`, with its line.
pub(crate) fn names(code: &str) -> impl Iterator<Item = (&str, usize)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|name| !name.is_empty())
            .map(move |name| (name, line + 1))
    })
}

/// The line of a place, counted from one.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The modules of the library that `file` mentions by path, with the line.
pub(crate) fn mentions(file: &File) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // From the top file of a module, `super` is the library itself.
    let is_top = file.path.matches('/').count() == 1
        || file.path.matches('/').count() == 2 && file.path.ends_with("/mod.rs");
    let roots: &[&str] = if is_top { &["crate::", "super::", "shoal::"] } else { &["crate::", "shoal::"] };
    for root in roots {
        for (at, _) in file.shipped.match_indices(root) {
            if at > 0 && is_word(file.shipped.as_bytes()[at - 1]) {
                continue;
            }
            let line = line_of(&file.shipped, at);
            found.extend(first_names(&file.shipped[at + root.len()..]).into_iter().map(|name| (name, line)));
        }
    }
    found
}

/// `a` of `a::b`, and both `a` and `c` of `{a::b, c}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().bytes().take_while(|&b| is_word(b)).map(char::from).collect()
    };
    let Some(list) = path.trim_start().strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut start, mut found) = (1_i32, 0, Vec::new());
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && byte == b',') {
            found.push(name(&list[start..at]));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"a "b \" c" d"#, "a          d"),
            ("a r#\"b \" c\"# d", "a            d"),
            ("a br\"b\" d", "a b     d"),
            ("'a' 'b' &'c d", "        &'c d"),
            ("'\\'' x", "     x"),
            ("'\"' x \"'\" y", "    x     y"),
            ("'é' x", "     x"),
        ] {
            assert_eq!(mask(text), code, "{text}");
        }
    }

    #[test]
    fn functions_have_names_and_lengths() {
        let code =
            "fn one() {}\nfn two(a: [u8; 3]) -> fn() {\n    if a { }\n}\ntrait T { fn declared(&self); }\n";
        let found = functions(code);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1], Function { name: "two".into(), line: 2, lines: 3 });
    }

    #[test]
    fn tests_do_not_ship() {
        let file =
            File::new("src/op.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        let names: Vec<_> = functions(&file.shipped).into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["a", "c"]);
        let declared = File::new("src/op.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert_eq!(functions(&declared.shipped).len(), 1);
        assert!(File::new("src/op/tests.rs", "fn a() {}").shipped.is_empty());
    }

    #[test]
    fn mentions_are_found_in_paths_and_lists() {
        let file = File::new(
            "src/group.rs",
            "use crate::{comm::Comm, op::{Op, Kind}};\nuse super::tune;\nlet x = crate::error::Error;\n",
        );
        let names: Vec<_> = mentions(&file).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["comm", "op", "error", "tune"]);
        assert!(mentions(&File::new("src/comm/handle.rs", "use super::tune;\n// crate::abi\n")).is_empty());
    }
}
