//! Ranks on several hosts, in name only or in namespaces that somebody made (`scripts/hosts.sh`).
#![forbid(unsafe_code)]

use super::launch::Start;
use super::options::Options;
use crate::cli::Failure;

/// Whether ranks can be dealt to the hosts that the options name.
pub(super) fn check(options: &Options) -> Result<(), Failure> {
    if options.hosts > options.ranks {
        return Err(Failure(format!(
            "{} hosts for {} ranks; each has one at least",
            options.hosts, options.ranks
        )));
    }
    if options.hosts > 1 && options.threads {
        return Err(Failure("threads of one process are on one host; leave --threads or --hosts out".into()));
    }
    Ok(())
}

/// How a rank is started: in blocks, as launchers deal them.
pub(super) fn start(options: &Options, rank: usize) -> Start {
    if options.hosts == 1 {
        return Start::default();
    }
    let host = rank * usize::from(options.hosts) / usize::from(options.ranks);
    let number = (host + 1).to_string();
    let words = options.on.split_whitespace().map(|word| word.replace("{}", &number)).collect();
    Start { words, environment: vec![("SHOAL_HOSTID".into(), format!("host-{number}"))] }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &str) -> Options {
        Line::try_parse_from(["bench"].into_iter().chain(words.split(' '))).expect("sound").options
    }

    #[test]
    fn ranks_are_dealt_in_blocks() {
        let dealt = options("--ranks 4 --hosts 2");
        let hosts: Vec<_> = (0..4).map(|rank| start(&dealt, rank).environment[0].1.clone()).collect();
        assert_eq!(hosts, ["host-1", "host-1", "host-2", "host-2"]);
        let words = Line::try_parse_from(["bench", "--hosts", "2", "--on", "hosts.sh on {}"]).expect("sound");
        assert_eq!(start(&words.options, 1).words, ["hosts.sh", "on", "2"]);
        assert_eq!(start(&options("--ranks 4"), 3), Start::default());
    }

    #[test]
    fn what_cannot_be_dealt_is_refused() {
        assert!(check(&options("--ranks 2 --hosts 3")).is_err());
        assert!(check(&options("--ranks 2 --hosts 2 --threads")).is_err());
        assert!(check(&options("--ranks 2 --hosts 2")).is_ok());
    }
}
