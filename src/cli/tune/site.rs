//! Which hosts the ranks of a run count as on: their rows are for such hosts.
#![forbid(unsafe_code)]

use super::Options;
use crate::cli::board::Seat;
use crate::cli::{Failure, explain, machine};
use crate::config::Config;
use crate::schedule::Hosts;
use crate::topology::DeviceKind;
use crate::tune::table::{Cores, Site};

/// Where the ranks are, as jobs look their rows up: hosts that are one machine count each with all its cores.
pub(super) fn of(ranks: usize, hosts: &Hosts) -> Site {
    let ranks = u32::try_from(ranks).unwrap_or(u32::MAX);
    let groups = hosts.groups(ranks);
    let ranks_per_host = groups.iter().map(Vec::len).max().unwrap_or(1);
    let cores = if ranks_per_host <= machine::available_cores() { Cores::Own } else { Cores::Shared };
    let [hosts, ranks_per_host] =
        [groups.len(), ranks_per_host].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    Site { ranks, hosts, ranks_per_host, cores, device: DeviceKind::Host }
}

/// The hosts of ranks that this command starts.
pub(super) fn started_hosts(options: &Options) -> Result<Hosts, Failure> {
    Ok(explain::hosts(options.ranks.into(), options.hosts.into())?.0)
}

/// What a rank that this command starts is told of its host.
pub(super) fn told_host(options: &Options, rank: usize) -> Vec<(String, String)> {
    if options.hosts == 1 {
        return Vec::new();
    }
    let host = rank * usize::from(options.hosts) / usize::from(options.ranks);
    vec![("SHOAL_HOSTID".into(), format!("shoal-tune-{host}"))]
}

/// The hosts of ranks that a launcher started on this machine: who says the same is on the same.
pub(super) fn launched_hosts(options: &Options, seat: &Seat) -> Result<Hosts, Failure> {
    if options.hosts != 1 {
        let words =
            "--hosts is for ranks that this command starts; those of a launcher say theirs by SHOAL_HOSTID";
        return Err(Failure(words.into()));
    }
    let all = seat.share_bytes(Config::get().host_id.as_bytes())?;
    let first = |mine: &Vec<u8>| all.iter().position(|other| other == mine).unwrap_or(0) as u32;
    Ok(Hosts::of(all.iter().map(first).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_count_each_with_all_cores() {
        let hosts = Hosts::of(vec![0, 0, 1]);
        let found = of(3, &hosts);
        assert_eq!((found.ranks, found.hosts, found.ranks_per_host), (3, 2, 2));
        let all = machine::available_cores();
        assert_eq!(of(all, &Hosts::one()).cores, Cores::Own);
        assert_eq!(of(all + 1, &Hosts::one()).cores, Cores::Shared);
    }
}
