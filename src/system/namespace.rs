//! Namespaces of processes, as the system's files tell.

use std::fs;

/// The number of this thread's namespace of a `kind` (`pid`, `net`, `mnt`, `user`, ...); 0 if unknown.
#[must_use]
pub fn own(kind: &str) -> u64 {
    of(&format!("thread-self/ns/{kind}"))
}

/// The number in a link like `net:[4026531840]` below `/proc`; 0 if there is none.
fn of(link: &str) -> u64 {
    let Ok(link) = fs::read_link(format!("/proc/{link}")) else { return 0 };
    link.to_str().and_then(inode).unwrap_or(0)
}

fn inode(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// The number that a process has here, which in its own process namespace `namespace` has number `pid`. `None`
/// if it cannot be seen from here.
#[must_use]
pub fn process_here(pid: i32, namespace: u64) -> Option<i32> {
    if namespace == 0 {
        return None;
    }
    // With `/proc` of another namespace the numbers there are not those that system calls give.
    let own_number = fs::read_link("/proc/self").ok()?.to_str()?.parse::<u32>().ok()?;
    if own("pid") == namespace && own_number == std::process::id() {
        return Some(pid);
    }
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find(|number| {
        let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
        innermost_number(&status) == Some(pid) && of(&format!("{number}/ns/pid")) == namespace
    })
}

/// The last number of the line `NSpid:`, which is the one that the process itself sees.
fn innermost_number(status: &str) -> Option<i32> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_lines_are_read() {
        assert_eq!(inode("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(inode("net"), None);
        assert_eq!(inode("net:[]"), None);
        assert_eq!(innermost_number("Name:\ta\nNSpid:\t812\t7\nVmPeak:"), Some(7));
        assert_eq!(innermost_number("NSpid:\n"), None);
        assert_eq!(innermost_number(""), None);
    }

    #[test]
    fn this_process_is_where_it_is() {
        let own_pid = i32::try_from(std::process::id()).expect("small");
        assert_ne!(own("pid"), 0);
        assert_eq!(own("nonsense"), 0);
        assert_eq!(process_here(own_pid, own("pid")), Some(own_pid));
        assert_eq!(process_here(own_pid, 1), None);
        assert_eq!(process_here(own_pid, 0), None);
    }
}
