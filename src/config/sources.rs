//! Who says what holds: the environment and the files, and what is noteworthy in them.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::foreign::{self, HONOURED};
use super::nearest::nearest;
use super::{Config, SETTINGS, Setting, file, names};

/// Files are read this far.
const MOST_BYTES: u64 = 1 << 20;

/// Names with our prefix that are no settings of the library: of the tests, of scripts and of the Python package.
const BESIDE: [&str; 3] = ["SHOAL_TEST_", "SHOAL_COMMAND", "SHOAL_HOME"];

/// Who said something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The environment of the process.
    Environment,
    /// A line of a file.
    File {
        /// The file.
        path: String,
        /// Counted from 1.
        line: u32,
    },
}

impl Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => formatter.write_str("environment"),
            Origin::File { path, line } => write!(formatter, "{path}:{line}"),
        }
    }
}

/// A name with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// The name.
    pub name: String,
    /// The value.
    pub text: String,
    /// Where in its file, counted from 1; 0 in the environment.
    pub line: u32,
}

/// Names and values from one place.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file; `None` for the environment.
    pub path: Option<String>,
    /// What it says; of several values of a name the first holds, as NCCL has it.
    pub sayings: Vec<Saying>,
}

impl Source {
    pub(super) fn environment(variables: impl Iterator<Item = (String, String)>) -> Source {
        let sayings = variables.map(|(name, text)| Saying { name, text, line: 0 }).collect();
        Source { path: None, sayings }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Saying> {
        self.sayings.iter().find(|saying| saying.name == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|saying| saying.text.as_str())
    }

    pub(super) fn origin(&self, saying: &Saying) -> Origin {
        match &self.path {
            None => Origin::Environment,
            Some(path) => Origin::File { path: path.clone(), line: saying.line },
        }
    }
}

/// What is in force for one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As text.
    pub text: String,
    /// The name under which it was said.
    pub name: &'static str,
    /// Who said it; `None` for the default.
    pub origin: Option<Origin>,
}

impl Value {
    pub(super) fn default_of(row: &Setting) -> Value {
        Value { text: row.default.to_owned(), name: row.name, origin: None }
    }

    /// The text as it may be shown around: what proves who one is stays out of logs and reports.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.name == "SHOAL_SECRET" && !self.text.is_empty() { "(secret)" } else { &self.text }
    }

    /// Who said it, in words.
    #[must_use]
    pub fn said_by(&self) -> String {
        self.origin.as_ref().map_or_else(|| "default".to_owned(), Origin::to_string)
    }
}

/// What the process was started with.
pub(super) struct Environment {
    pub(super) variables: Vec<(String, String)>,
    pub(super) home: Option<PathBuf>,
    pub(super) system_file: PathBuf,
}

/// The sources in their order, and what is wrong with the files.
pub(super) fn gather(environment: &Environment) -> (Vec<Source>, Vec<String>) {
    let own = Source::environment(environment.variables.iter().cloned());
    let named = own.get("NCCL_CONF_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let must_exist = named.is_some();
    let user = named.or_else(|| Some(environment.home.as_ref()?.join(".nccl.conf")));
    let mut sources = vec![own];
    let mut complaints = Vec::new();
    let files = user.map(|path| (path, must_exist)).into_iter();
    for (path, must_exist) in files.chain([(environment.system_file.clone(), false)]) {
        match read(&path, must_exist) {
            Ok(None) => {}
            Ok(Some(text)) => {
                let path = path.display().to_string();
                let lines = file::parse(&path, &text);
                complaints.extend(lines.complaints);
                sources.push(Source { path: Some(path), sayings: lines.sayings });
            }
            Err(why) => complaints.push(format!(
                "{} is not read: {why}; nothing that stands in it holds; mend the file or NCCL_CONF_FILE",
                path.display()
            )),
        }
    }
    (sources, complaints)
}

/// The text of a file; `None` for one that is not there and need not be.
fn read(path: &Path, must_exist: bool) -> Result<Option<String>, String> {
    let may_lack = |cause: &std::io::Error| {
        !must_exist && matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    };
    match std::fs::metadata(path) {
        // Opening a pipe would wait for a writer.
        Ok(facts) if !facts.is_file() => return Err("it is no regular file".into()),
        Ok(_) => {}
        Err(cause) if may_lack(&cause) => return Ok(None),
        Err(cause) => return Err(cause.to_string()),
    }
    let mut bytes = Vec::new();
    let outcome = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    outcome.map_err(|cause| cause.to_string())?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Tells what is wrong with names, and what becomes of NCCL's.
pub(super) fn judge(sources: &[Source], config: &mut Config) {
    let mut seen: Vec<&str> = Vec::new();
    for source in sources {
        if let Some(path) = &source.path {
            config.notes.push(format!("{path}: {} settings were read", source.sayings.len()));
        }
        for saying in &source.sayings {
            let Saying { name, text: value, .. } = saying;
            if seen.contains(&name.as_str()) || names().any(|known| known == name.as_str()) {
                continue;
            }
            seen.push(name);
            if name.starts_with("SHOAL_") {
                if !BESIDE.iter().any(|start| name.starts_with(start)) {
                    config.complaints.push(unknown(name, &source.origin(saying)));
                }
            } else if name == "NCCL_PROTO" {
                config.complaints.extend(protocol(value));
                config.notes.extend(fate(name, value));
            } else if !HONOURED.contains(&name.as_str()) {
                config.notes.extend(fate(name, value));
            }
        }
        let mapped = foreign::MAPPED.iter().map(|row| row.name);
        for name in mapped.filter(|name| source.get(name).is_some()) {
            if !seen.contains(&name) {
                seen.push(name);
                config.notes.extend(mapping(name, source.get(name).unwrap_or_default()));
            }
        }
    }
}

/// A name with our prefix that means nothing.
fn unknown(name: &str, origin: &Origin) -> String {
    let known = SETTINGS.iter().map(|row| row.name);
    let hint = nearest(name, known).map_or_else(
        || "ncclParamDumpAll and the README list those there are".to_owned(),
        |near| format!("did you mean {near}?"),
    );
    format!("{name} ({origin}) is no setting, and changes nothing; {hint}")
}

/// What becomes of a variable that is no setting.
fn fate(name: &str, value: &str) -> Option<String> {
    if !name.starts_with("NCCL_") {
        return Some(format!("{name} stands in a configuration file and is no setting; it is passed over"));
    }
    let own = SETTINGS.iter().flat_map(|row| row.aliases).copied();
    Some(match foreign::reason(name) {
        Some(why) => format!("{name}={value} is ignored: {why}"),
        None => match nearest(name, own) {
            Some(near) => format!("{name}={value} is no variable of NCCL; did you mean {near}?"),
            None => format!("{name}={value} is ignored: it is known neither here nor to NCCL 2.32"),
        },
    })
}

/// What a variable that is mapped does by its value.
fn mapping(name: &str, value: &str) -> Option<String> {
    let rows = foreign::MAPPED.iter().filter(|row| row.name == name);
    let meant = rows.filter(|row| value.trim().eq_ignore_ascii_case(row.value));
    let list: Vec<String> = meant.map(|row| format!("{}={}", row.setting, row.becomes)).collect();
    if list.is_empty() {
        fate(name, value)
    } else {
        Some(format!("{name}={value} counts as {}", list.join(", ")))
    }
}

/// Names in `NCCL_PROTO` that NCCL would not take: `[function:][^]name,name;...`.
fn protocol(value: &str) -> Option<String> {
    const KNOWN: [&str; 3] = ["LL", "LL128", "Simple"];
    let lists = value.split(';').map(|part| part.rsplit(':').next().unwrap_or(part));
    let mut words = lists.flat_map(|list| list.trim().trim_start_matches('^').split(',')).map(str::trim);
    let is_known = |word: &str| word.is_empty() || KNOWN.iter().any(|known| known.eq_ignore_ascii_case(word));
    let odd = words.find(|word| !is_known(word))?;
    Some(format!("NCCL_PROTO={value} names {odd:?}, which is no protocol of NCCL; it changes nothing here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(values: &[(&str, &str)]) -> Source {
        Source::environment(values.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
    }

    fn source(path: &str, values: &[(&str, &str)]) -> Source {
        let mut source = Source { path: Some(path.into()), ..environment(values) };
        source.sayings.iter_mut().zip(1..).for_each(|(saying, line)| saying.line = line);
        source
    }

    #[test]
    fn the_environment_wins_then_the_first_file() {
        let user = source("/user", &[("SHOAL_HOSTID", "b"), ("NCCL_COMM_ID", "c:1")]);
        let system = source("/etc", &[("SHOAL_COMM_ID", "d:1"), ("SHOAL_SPIN", "7"), ("SHOAL_SPIN", "8")]);
        let config = Config::from_sources(&[environment(&[("NCCL_HOSTID", "a")]), user, system]);
        assert_eq!(config.host_id, "a", "an alias in the environment is before a name in a file");
        assert_eq!(config.comm_id, "c:1");
        assert_eq!(config.spin, Some(7), "the first line of a name holds");
        let said_by = |name: &str| config.value(name).unwrap().said_by();
        assert_eq!(said_by("SHOAL_SPIN"), "/etc:2");
        assert_eq!(
            (said_by("SHOAL_HOSTID").as_str(), said_by("SHOAL_CMA").as_str()),
            ("environment", "default")
        );
        assert_eq!(config.notes, ["/user: 2 settings were read", "/etc: 3 settings were read"]);
    }

    #[test]
    fn unknown_names_are_told_once_with_the_nearest() {
        let config = Config::from_sources(&[
            environment(&[("SHOAL_DEBG", "INFO"), ("SHOAL_TEST_SEED", "1"), ("SHOAL_ZZZ", "1")]),
            source("/f", &[("SHOAL_DEBG", "INFO")]),
        ]);
        assert_eq!(config.complaints.len(), 2, "{:?}", config.complaints);
        assert!(config.complaints[0].contains("SHOAL_DEBG (environment) is no setting"));
        assert!(config.complaints[0].contains("did you mean SHOAL_DEBUG?"));
        assert!(config.complaints[1].contains("ncclParamDumpAll"));
    }

    #[test]
    fn variables_of_nccl_are_named_once() {
        let config = Config::from_sources(&[environment(&[
            ("NCCL_IB_HCA", "mlx5_0"),
            ("NCCL_DEBUGG", "INFO"),
            ("NCCL_P2P_DISABLE", "1"),
            ("NCCL_P2P_LEVEL", "NVL"),
            ("NCCL_CONF_FILE", "/x"),
            ("NCCL_MADE_UP_BY_SOMEBODY", "1"),
        ])]);
        assert_eq!(config.complaints, Vec::<String>::new());
        let said = config.notes.join("\n");
        for words in [
            "NCCL_IB_HCA=mlx5_0 is ignored: UCX carries what goes between machines",
            "NCCL_DEBUGG=INFO is no variable of NCCL; did you mean NCCL_DEBUG?",
            "NCCL_P2P_DISABLE=1 counts as SHOAL_CMA=0, SHOAL_MAPPED=0",
            "NCCL_P2P_LEVEL=NVL is ignored: it is about links between GPUs",
            "NCCL_MADE_UP_BY_SOMEBODY=1 is ignored: it is known neither here",
        ] {
            assert!(said.contains(words), "{words} is not in\n{said}");
        }
        assert_eq!(config.notes.len(), 5);
    }

    #[test]
    fn protocols_are_checked_though_they_change_nothing() {
        for good in ["Simple", "ll,LL128", "^LL", "allreduce:^ll;broadcast:Simple", ""] {
            assert_eq!(protocol(good), None, "{good}");
        }
        assert!(protocol("LL,Simpel").unwrap().contains("\"Simpel\""));
    }

    #[test]
    fn files_are_found_and_faults_told() {
        let folder = std::env::temp_dir().join(format!("shoal-sources-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let system_file = folder.join("system");
        std::fs::write(folder.join(".nccl.conf"), "NCCL_HOSTID=user\nnonsense\n").unwrap();
        std::fs::write(&system_file, "NCCL_HOSTID=system\nSHOAL_SPIN=3\n").unwrap();
        let look = |variables: &[(&str, &str)]| {
            let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
            let variables = variables.iter().map(own).collect();
            let (sources, complaints) = gather(&Environment {
                variables,
                home: Some(folder.clone()),
                system_file: system_file.clone(),
            });
            (Config::from_sources(&sources), complaints)
        };
        let (config, complaints) = look(&[]);
        assert_eq!((config.host_id.as_str(), config.spin), ("user", Some(3)));
        assert!(complaints[0].contains(".nccl.conf, line 2"), "{complaints:?}");
        let missing = folder.join("missing");
        let (config, complaints) = look(&[("NCCL_CONF_FILE", missing.to_str().unwrap())]);
        assert_eq!(config.host_id, "system");
        assert!(complaints[0].contains("missing is not read: "), "{complaints:?}");
        let (_, complaints) = look(&[("NCCL_CONF_FILE", folder.to_str().unwrap())]);
        assert!(complaints[0].contains("no regular file"), "{complaints:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
