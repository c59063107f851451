//! What the system says of other processes.

use std::fs;

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or sleeps.
    Runs,
    /// It is stopped, by a signal or a debugger.
    Stopped,
    /// It is gone, or ended and nobody has asked how.
    Gone,
}

/// How the process of this number is.
#[must_use]
pub fn state(process: i32) -> State {
    let Ok(line) = fs::read_to_string(format!("/proc/{process}/stat")) else { return State::Gone };
    // Behind the name, which may hold anything.
    match line.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
        Some('T' | 't') => State::Stopped,
        Some('Z' | 'X' | 'x') | None => State::Gone,
        Some(_) => State::Runs,
    }
}

/// The process of this number and all that descend from it, as far as they can be seen.
#[must_use]
pub fn family(process: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = numbers.filter_map(|number| Some((number, parent(number)?))).collect();
    let mut family = vec![process];
    let mut place = 0;
    while let Some(known) = family.get(place).copied() {
        family.extend(parents.iter().filter(|(_, parent)| *parent == known).map(|(number, _)| *number));
        place += 1;
    }
    family
}

fn parent(process: i32) -> Option<i32> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    line.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_seen_as_they_are() {
        let own = i32::try_from(std::process::id()).expect("small");
        assert_eq!(state(own), State::Runs);
        assert_eq!(state(i32::MAX), State::Gone);
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("a usual program");
        let number = i32::try_from(child.id()).expect("small");
        assert!(family(own).contains(&number) && family(number) == [number]);
        // SAFETY: no memory is passed; the child is ours and not waited for yet.
        unsafe { libc::kill(number, libc::SIGSTOP) };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while state(number) != State::Stopped {
            assert!(std::time::Instant::now() < deadline, "it stops");
            std::thread::yield_now();
        }
        child.kill().expect("it lives");
        child.wait().expect("a child");
        assert_eq!(state(number), State::Gone);
    }
}
