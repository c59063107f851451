//! How each contender is started: this library by its own ranks, MPI by its launcher, with the options that
//! serve it best on one machine, or between hosts (`hosts`).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use super::suite::Block;
use super::{Options, hosts};
use crate::cli::Failure;
use crate::cli::bench::gloo::WRAPPER;
use crate::cli::machine;

/// Transports of UCX that serve one machine best.
const UCX_TRANSPORTS: &str = "UCX_TLS=self,posix,sysv,cma";

/// This library, as it is printed.
pub(super) const OURS: &str = "shoal";
/// This library on memory that it handed out (`ncclMemAlloc`).
pub(super) const MAPPED: &str = "shoal-mapped";

/// Who starts the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// `shoal bench` itself.
    Shoal,
    /// Open MPI over its own shared memory.
    OpenMpi,
    /// Open MPI over UCX.
    OpenMpiUcx,
    /// MPICH over UCX.
    Mpich,
    /// UCX by its own interface, whose ranks `shoal bench` starts too.
    Ucx,
    /// Gloo, likewise.
    Gloo,
    /// UCX's own measuring program, between two hosts.
    Perftest,
}

/// A contender.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// As it is printed.
    pub(super) name: &'static str,
    pub(super) starter: Starter,
    /// The second run of the same thing, for the band.
    pub(super) is_control: bool,
    /// On memory of the library's own kind.
    is_mapped: bool,
    program: PathBuf,
    library: Option<PathBuf>,
}

/// The contenders that this machine has.
///
/// # Errors
/// There is none.
pub(super) fn all(options: &Options) -> Result<Vec<Contender>, Failure> {
    let mut contenders = Vec::new();
    let mut add = |name, starter, is_control, program: &Path| {
        let (program, library) = (program.to_owned(), options.library.clone());
        let is_mapped = name == MAPPED;
        contenders.push(Contender { name, starter, is_control, is_mapped, program, library });
    };
    let program = std::env::current_exe()?;
    if !options.only_peers {
        add(OURS, Starter::Shoal, false, &program);
        add(OURS, Starter::Shoal, true, &program);
        if options.hosts == 1 {
            add(MAPPED, Starter::Shoal, false, &program);
        }
    }
    let mut missing = Vec::new();
    if options.openmpi.exists() {
        add("openmpi", Starter::OpenMpi, false, &options.openmpi);
        add("openmpi-ucx", Starter::OpenMpiUcx, false, &options.openmpi);
    } else {
        missing.push((&options.openmpi, "openmpi"));
    }
    if options.mpich.exists() {
        add("mpich", Starter::Mpich, false, &options.mpich);
    } else {
        missing.push((&options.mpich, "mpich"));
    }
    // Loaded here only to see whether it is there; the ranks load it themselves.
    match ucx_sys::Library::load(ucx_sys::USUAL_NAMES) {
        Ok(_) => add("ucx", Starter::Ucx, false, &program),
        Err(missing) => put_line!("# {missing}"),
    }
    if Path::new(WRAPPER).exists() {
        add("gloo", Starter::Gloo, false, &program);
    } else {
        put_line!("# no {WRAPPER}: make bench-gloo, which needs libgloo-dev");
    }
    if options.hosts == 2 && hosts::has_perftest() {
        add("ucx-perftest", Starter::Perftest, false, Path::new("ucx_perftest"));
    }
    for (path, mpi) in missing {
        put_line!(
            "# no {}: MPICC=mpicc.{mpi} cargo build --release --features mpi --target-dir target-{mpi}",
            path.display()
        );
    }
    if contenders.is_empty() { Err(Failure("there is nobody to measure".into())) } else { Ok(contenders) }
}

impl Contender {
    /// Whether it has anything to measure in a block.
    pub(super) fn takes(&self, block: &Block) -> bool {
        match self.starter {
            Starter::Ucx => block.has_messages(),
            Starter::Perftest => block.ops == "sendrecv" && block.ranks == 2,
            _ => !self.is_mapped || block.mapped,
        }
    }

    /// The command that measures a block and prints JSON.
    pub(super) fn command(&self, block: &Block, options: &Options) -> Command {
        let cores = machine::available_cores();
        let mut words = self.words(block, options, cores);
        if options.hosts > 1
            && matches!(self.starter, Starter::OpenMpi | Starter::OpenMpiUcx | Starter::Mpich)
        {
            words.extend(["--board".to_owned(), hosts::meeting_place()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if options.hosts > 1 {
            command.envs(hosts::environment(self.starter, block.ranks, options, cores));
        } else if matches!(self.starter, Starter::Mpich | Starter::Ucx)
            && let Some((name, value)) = UCX_TRANSPORTS.split_once('=')
        {
            command.env(name, value);
        }
        command
    }

    /// What stands in front of the program, of contenders that a launcher of their own starts.
    fn launcher_words(&self, ranks: &str, count: usize, crowded: bool, options: &Options) -> Vec<String> {
        let far = hosts::launcher_words(self.starter, count, options);
        let transports = if options.hosts > 1 { hosts::UCX_TRANSPORTS } else { UCX_TRANSPORTS };
        let open_mpi = |transports: &[&str]| {
            let mut words = vec!["mpirun.openmpi", "--allow-run-as-root", "-np", ranks];
            let placement: &[&str] = if crowded {
                &["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
            } else if options.hosts > 1 {
                &["--bind-to", "none"]
            } else {
                &["--bind-to", "core"]
            };
            words.extend(placement);
            words.extend(far.iter().map(String::as_str));
            words.extend(transports);
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        match self.starter {
            Starter::Shoal | Starter::Ucx | Starter::Gloo | Starter::Perftest => Vec::new(),
            Starter::OpenMpi if options.hosts > 1 => {
                open_mpi(&["--mca", "pml", "ob1", "--mca", "btl", "self,vader,tcp"])
            }
            Starter::OpenMpi => open_mpi(&["--mca", "pml", "ob1", "--mca", "btl", "self,vader"]),
            Starter::OpenMpiUcx => open_mpi(&[
                "--mca",
                "pml",
                "ucx",
                "--mca",
                "pml_ucx_tls",
                "any",
                "--mca",
                "pml_ucx_devices",
                "any",
                "-x",
                transports,
            ]),
            Starter::Mpich => {
                let bound = !crowded && options.hosts == 1;
                let placement: &[&str] = if bound { &["-bind-to", "core"] } else { &[] };
                let words = [&["mpirun.mpich", "-n", ranks], placement].concat();
                words.into_iter().map(str::to_owned).chain(far).collect()
            }
        }
    }

    fn words(&self, block: &Block, options: &Options, cores: usize) -> Vec<String> {
        let ranks = block.ranks.to_string();
        let crowded = block.ranks > cores;
        if self.starter == Starter::Perftest {
            return hosts::perftest(block, options);
        }
        let mut words = self.launcher_words(&ranks, block.ranks, crowded, options);
        words.extend([self.program.display().to_string(), "bench".to_owned()]);
        words.extend(block.arguments(options.seconds));
        if options.rewrite {
            words.push("--rewrite".to_owned());
        }
        words.extend(hosts::bench_words(self.starter, options));
        match self.starter {
            Starter::Shoal => {
                words.extend(["--ranks".to_owned(), ranks]);
                // Two ranks that share a core have no line between them to measure.
                if block.floor && !crowded && !self.is_control && !self.is_mapped {
                    words.push("--floor".to_owned());
                }
                if self.is_mapped {
                    words.extend(["--memory".to_owned(), "library".to_owned()]);
                }
                if let Some(library) = &self.library {
                    words.extend(["--library".to_owned(), library.display().to_string()]);
                }
            }
            Starter::Ucx | Starter::Gloo => {
                let whom = if self.starter == Starter::Ucx { "ucx" } else { "gloo" };
                words.extend(["--ranks", &ranks, "--contender", whom].map(str::to_owned));
                // Gloo's collectives spin for its own thread, which on the same core comes at the next tick only.
                if self.starter == Starter::Gloo {
                    words.push("--no-pin".to_owned());
                }
            }
            _ => words.extend(["--contender".to_owned(), "mpi".to_owned()]),
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::Suite;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn words(starter: Starter, cores: usize) -> String {
        words_for(starter, "x", cores)
    }

    fn words_for(starter: Starter, name: &'static str, cores: usize) -> String {
        let options = Line::try_parse_from(["peers"]).unwrap().options;
        let program = PathBuf::from("/bin/shoal");
        let is_mapped = name == MAPPED;
        let contender = Contender { name, starter, is_control: false, is_mapped, program, library: None };
        contender.words(&Suite::Quick.blocks()[0], &options, cores).join(" ")
    }

    #[test]
    fn ranks_with_a_core_each_are_bound_to_it() {
        assert!(words(Starter::Shoal, 2).contains("/bin/shoal bench --op allreduce,"));
        assert!(words(Starter::Shoal, 2).ends_with("--ranks 2 --floor"));
        assert!(words(Starter::OpenMpi, 2).contains("-np 2 --bind-to core --mca pml ob1"));
        assert!(words(Starter::OpenMpiUcx, 2).contains("--mca pml ucx"));
        assert!(words(Starter::Mpich, 2).starts_with("mpirun.mpich -n 2 -bind-to core /bin/shoal bench"));
        assert!(words(Starter::Mpich, 2).ends_with("--contender mpi"));
    }

    #[test]
    fn ucx_and_mapped_memory_are_started_by_the_command_itself() {
        assert!(words(Starter::Ucx, 2).starts_with("/bin/shoal bench"));
        assert!(words(Starter::Ucx, 2).ends_with("--ranks 2 --contender ucx"));
        assert!(words(Starter::Gloo, 2).ends_with("--ranks 2 --contender gloo --no-pin"));
        assert!(words_for(Starter::Shoal, MAPPED, 2).ends_with("--ranks 2 --memory library"));
    }

    #[test]
    fn between_hosts_launchers_reach_them_and_ours_deals_ranks() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let options = Line::try_parse_from(["peers", "--hosts", "2", "--hosts-by", here]).unwrap().options;
        let words = |starter, ranks| {
            let program = PathBuf::from("/bin/shoal");
            let contender =
                Contender { name: "x", starter, is_control: false, is_mapped: false, program, library: None };
            let block = Block { ranks, ..Suite::Hosts.blocks()[0] };
            assert!(contender.takes(&block) || starter == Starter::Perftest);
            contender.words(&block, &options, 2).join(" ")
        };
        let open_mpi = words(Starter::OpenMpi, 4);
        assert!(
            open_mpi.contains("--host 10.78.0.1:2,10.78.0.2:2 --mca plm_rsh_agent")
                && open_mpi.contains(here)
        );
        assert!(open_mpi.contains("--oversubscribe") && open_mpi.contains("btl self,vader,tcp"));
        assert!(words(Starter::OpenMpiUcx, 2).contains("-x UCX_TLS=self,posix,sysv,cma,tcp"));
        assert!(
            words(Starter::Mpich, 2).contains("-hosts 10.78.0.1:1,10.78.0.2:1 -launcher ssh -launcher-exec")
        );
        for starter in [Starter::Shoal, Starter::Ucx, Starter::Gloo] {
            let words = words(starter, 2);
            assert!(words.contains(&format!("--hosts 2 --on {here} on {{}} ")), "{words}");
            assert!(!words.contains("--floor"));
        }
        assert!(words(Starter::Perftest, 2).contains("perftest.sh"));
    }

    #[test]
    fn crowded_ranks_are_not() {
        assert!(words(Starter::OpenMpi, 1).contains("--oversubscribe --bind-to none"));
        assert!(!words(Starter::Mpich, 1).contains("bind-to"));
        assert!(!words(Starter::Shoal, 1).contains("--floor"));
    }
}
