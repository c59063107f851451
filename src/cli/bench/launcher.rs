//! Ranks that somebody else started: mpirun, srun, torchrun. Their environment says who is who; the ranks
//! meet at a file that all processes of the job on this machine derive from the process that started them.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One process of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
}

/// The variables of the launchers: rank, then number of ranks.
const LAUNCHERS: [[&str; 2]; 5] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ["MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"],
    ["SLURM_PROCID", "SLURM_NTASKS"],
    ["RANK", "WORLD_SIZE"],
];

/// Who this process is, if a launcher started it.
pub(crate) fn detect(lookup: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    LAUNCHERS.iter().find_map(|[rank, ranks]| {
        let number = |name: &str| lookup(name)?.trim().parse::<usize>().ok();
        let launched = Launched { rank: number(rank)?, ranks: number(ranks)? };
        (launched.rank < launched.ranks).then_some(launched)
    })
}

/// Where the ranks of this job meet. The start time tells a process from an earlier one of the same number.
pub(crate) fn meeting_path() -> PathBuf {
    let parent = std::os::unix::process::parent_id();
    let user = std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    let folder = Path::new("/dev/shm");
    let folder = if folder.is_dir() { folder.to_owned() } else { std::env::temp_dir() };
    folder.join(format!("shoal-bench-{user}-{parent}-{}", start_time(&stat)))
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
        detect(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_recognized() {
        let expected = Some(Launched { rank: 1, ranks: 4 });
        for [rank, ranks] in LAUNCHERS {
            assert_eq!(told(&[(rank, "1"), (ranks, "4")]), expected);
        }
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[("RANK", "1")]), None);
        assert_eq!(told(&[("RANK", "4"), ("WORLD_SIZE", "4")]), None);
        assert_eq!(told(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "x")]), None);
    }

    #[test]
    fn start_times() {
        let fields: Vec<String> = (3..=30).map(|field| field.to_string()).collect();
        assert_eq!(start_time(&format!("12 (a (b) c) {}", fields.join(" "))), 22);
        assert_eq!(start_time(""), 0);
        let path = meeting_path();
        assert_eq!(path, meeting_path());
    }
}
