//! Ranks that somebody else started: mpirun, srun, torchrun. Their environment says who is who; the ranks
//! meet at a file that all processes of the job on this machine derive from the process that started them.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One process of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Who started it.
    pub(crate) by: &'static str,
    /// What all processes of the job, and of no other, were told; empty if nothing is.
    job: String,
}

/// What a launcher tells the processes that it starts.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    ranks: &'static str,
    /// Only where this is set, it is this launcher.
    only_with: &'static str,
    /// Together they name the job.
    job: &'static [&'static str],
}

/// The launchers, and those first that are often started by another one: torchrun inside of a job of Slurm, MPI
/// inside of a batch script.
const LAUNCHERS: [Launcher; 8] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        ranks: "WORLD_SIZE",
        only_with: "TORCHELASTIC_RUN_ID",
        job: &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"],
    },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        only_with: "OMPI_COMM_WORLD_RANK",
        job: &["PMIX_NAMESPACE", "PMIX_SERVER_URI2"],
    },
    // Slurm's srun --mpi=pmi2 sets these too; the job is then known by its own words.
    Launcher {
        name: "Slurm",
        rank: "PMI_RANK",
        ranks: "PMI_SIZE",
        only_with: "SLURM_STEP_ID",
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID", "PMI_SIZE"],
    },
    Launcher { name: "MPICH", rank: "PMI_RANK", ranks: "PMI_SIZE", only_with: "PMI_RANK", job: &[] },
    Launcher {
        name: "MVAPICH",
        rank: "MV2_COMM_WORLD_RANK",
        ranks: "MV2_COMM_WORLD_SIZE",
        only_with: "MV2_COMM_WORLD_RANK",
        job: &[],
    },
    // A batch script itself has a rank, but is no step.
    Launcher {
        name: "Slurm",
        rank: "SLURM_PROCID",
        ranks: "SLURM_STEP_NUM_TASKS",
        only_with: "SLURM_STEP_ID",
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
    },
    Launcher {
        name: "Slurm",
        rank: "SLURM_PROCID",
        ranks: "SLURM_NTASKS",
        only_with: "SLURM_STEP_ID",
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
    },
    Launcher {
        name: "a launcher with torch's variables",
        rank: "RANK",
        ranks: "WORLD_SIZE",
        only_with: "RANK",
        job: &["MASTER_ADDR", "MASTER_PORT"],
    },
];

/// Who this process is, if a launcher started it.
pub(crate) fn detect(lookup: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    LAUNCHERS.iter().find_map(|launcher| {
        let number = |name: &str| lookup(name)?.trim().parse::<usize>().ok();
        lookup(launcher.only_with)?;
        let (rank, ranks) = (number(launcher.rank)?, number(launcher.ranks)?);
        // A job that is known in part only is not known.
        let words: Option<Vec<String>> = launcher.job.iter().map(|name| lookup(name)).collect();
        let job = words.unwrap_or_default().join("\n");
        (rank < ranks).then_some(Launched { rank, ranks, by: launcher.name, job })
    })
}

/// Where the ranks of this job meet: named by the job where the launcher names it, so that ranks find each other
/// also behind scripts that start them; else by the process that started them, and by its start time, which tells
/// it from an earlier one of the same number.
pub(crate) fn meeting_path(launched: &Launched) -> PathBuf {
    let user = std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    let folder = Path::new("/dev/shm");
    let folder = if folder.is_dir() { folder.to_owned() } else { std::env::temp_dir() };
    let name = if launched.job.is_empty() {
        let parent = std::os::unix::process::parent_id();
        let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
        format!("{parent}-{}", start_time(&stat))
    } else {
        let hash = blake3::hash(format!("{}\n{}", launched.by, launched.job).as_bytes());
        hash.to_hex()[..16].to_owned()
    };
    folder.join(format!("shoal-bench-{user}-{name}"))
}

/// The 22nd field of a process's `stat`; its name, the second, may hold spaces and parentheses.
fn start_time(stat: &str) -> u64 {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Option<Launched> {
        detect(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn plain(variables: &[(&str, &str)]) -> Option<(usize, usize, &'static str)> {
        told(variables).map(|launched| (launched.rank, launched.ranks, launched.by))
    }

    #[test]
    fn launchers_are_recognized() {
        for launcher in &LAUNCHERS {
            let variables = [(launcher.only_with, "1"), (launcher.rank, "1"), (launcher.ranks, "4")];
            let found = plain(&variables).expect("recognized");
            assert_eq!((found.0, found.1), (1, 4), "{}", launcher.name);
            assert_eq!(told(&variables).map(|found| found.job.is_empty()), Some(true));
        }
        assert_eq!(plain(&[]), None);
        assert_eq!(plain(&[("RANK", "1")]), None);
        assert_eq!(plain(&[("RANK", "4"), ("WORLD_SIZE", "4")]), None);
        let step = ("SLURM_STEP_ID", "0");
        assert_eq!(plain(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "x"), step]), None);
    }

    #[test]
    fn the_innermost_launcher_counts_and_a_batch_script_is_none() {
        let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_JOB_ID", "7")];
        assert_eq!(plain(&slurm), None);
        let mut step = slurm.to_vec();
        step.push(("SLURM_STEP_ID", "0"));
        assert_eq!(plain(&step), Some((0, 1, "Slurm")));
        step.extend([("RANK", "3"), ("WORLD_SIZE", "8"), ("TORCHELASTIC_RUN_ID", "none")]);
        assert_eq!(plain(&step), Some((3, 8, "torchrun")));
    }

    #[test]
    fn ranks_of_a_job_meet_and_those_of_another_do_not() {
        let of = |job: &str, rank: &str| {
            let launched = told(&[
                ("SLURM_PROCID", rank),
                ("SLURM_NTASKS", "4"),
                ("SLURM_STEP_ID", "0"),
                ("SLURM_JOB_ID", job),
            ]);
            meeting_path(&launched.expect("recognized"))
        };
        assert_eq!(of("7", "0"), of("7", "3"));
        assert_ne!(of("7", "0"), of("8", "0"));
        let unnamed = told(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).expect("recognized");
        assert_eq!(meeting_path(&unnamed), meeting_path(&unnamed));
    }

    #[test]
    fn start_times() {
        let fields: Vec<String> = (3..=30).map(|field| field.to_string()).collect();
        assert_eq!(start_time(&format!("12 (a (b) c) {}", fields.join(" "))), 22);
        assert_eq!(start_time(""), 0);
    }
}
