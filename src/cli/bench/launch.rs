//! Starts the ranks of a run, as processes or as threads, and watches over them: a rank that dies, or a run
//! that stands still, ends all ranks with a sentence that says which.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::export::json;
use super::measure::Report;
use crate::cli::Failure;
use crate::cli::board::Board;

/// How often the watcher looks; rarely, since it takes the core from a rank.
const LOOK: Duration = Duration::from_millis(100);
/// How long ranks may take to notice that another one failed.
const GRACE: Duration = Duration::from_secs(2);

/// Ends what is still running when the run is over, however it ends.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Says whether the run still moves.
struct Watch<'run> {
    board: &'run Board,
    patience: Duration,
    seen: u64,
    since: Instant,
}

impl<'run> Watch<'run> {
    fn new(board: &'run Board, patience: Duration) -> Self {
        Watch { board, patience, seen: 0, since: Instant::now() }
    }

    fn look(&mut self) -> Result<(), Failure> {
        let progress = self.board.progress();
        if progress != self.seen {
            self.seen = progress;
            self.since = Instant::now();
        }
        if self.since.elapsed() <= self.patience {
            return Ok(());
        }
        let seconds = self.patience.as_secs();
        Err(Failure(format!("nothing moved for {seconds} s, so the run was ended; --timeout allows more")))
    }
}

/// How one rank is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// Words in front of the program: whoever brings it where it belongs.
    pub(crate) words: Vec<String>,
    /// What its environment says beside what is there.
    pub(crate) environment: Vec<(String, String)>,
}

/// Runs this program once for each rank, as `start` says, with `arguments` and with its place in the run.
///
/// # Errors
/// A rank failed or died, or nothing moves.
pub(crate) fn processes(
    board: &Board,
    ranks: usize,
    arguments: &[OsString],
    start: &dyn Fn(usize) -> Start,
    patience: Duration,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let mut children = Children(Vec::with_capacity(ranks));
    for rank in 0..ranks {
        let Start { words, environment } = start(rank);
        let mut whole = words.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(whole.next().unwrap_or_default());
        command
            .args(whole)
            .args(arguments)
            .arg("--child")
            .arg(rank.to_string())
            .arg("--board")
            .arg(board.path());
        command.arg("--parent").arg(std::process::id().to_string()).stdin(Stdio::null());
        command.envs(environment);
        command.stdout(if rank == 0 { Stdio::piped() } else { Stdio::null() });
        children
            .0
            .push(command.spawn().map_err(|error| Failure(format!("cannot start rank {rank}: {error}")))?);
    }
    let reports = children.0.first_mut().and_then(|first| first.stdout.take()).map(read_reports);
    let mut watch = Watch::new(board, patience);
    let mut statuses: Vec<Option<ExitStatus>> = vec![None; ranks];
    let mut deadline = None;
    loop {
        pass_on(reports.as_ref(), report);
        for (child, status) in children.0.iter_mut().zip(&mut statuses) {
            *status = status.or(child.try_wait()?);
        }
        let failed = statuses.iter().position(|status| status.is_some_and(|status| !status.success()));
        if let Some(rank) = failed {
            board.fail(rank);
        }
        if statuses.iter().all(Option::is_some) || deadline.is_some_and(|deadline| Instant::now() > deadline)
        {
            break;
        }
        if failed.is_some() {
            deadline.get_or_insert_with(|| Instant::now() + GRACE);
        }
        watch.look()?;
    }
    // What rank 0 said last may still be on its way; its end has closed the pipe.
    while let Some(one) = reports.as_ref().and_then(|reports| reports.recv_timeout(GRACE).ok()) {
        report(one);
    }
    match board.failed() {
        None => Ok(()),
        Some(rank) => Err(Failure(how_it_ended(rank, statuses.get(rank).copied().flatten()))),
    }
}

fn how_it_ended(rank: usize, status: Option<ExitStatus>) -> String {
    match status.and_then(|status| status.signal()) {
        Some(signal) => format!("rank {rank} was killed by signal {signal}"),
        None => format!("rank {rank} failed; see above"),
    }
}

/// Waits a little for reports, and hands on those that came.
fn pass_on(reports: Option<&Receiver<Report>>, report: &mut dyn FnMut(Report)) {
    let until = Instant::now() + LOOK;
    while let Some(reports) = reports {
        match reports.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(one) => report(one),
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(5)));
}

/// Reads rank 0's lines on a thread of its own; what is no report goes to standard error.
fn read_reports(output: impl std::io::Read + Send + 'static) -> Receiver<Report> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match json::parse(&line) {
                Some(one) => {
                    if sender.send(one).is_err() {
                        return;
                    }
                }
                None => eprintln!("{line}"),
            }
        }
    });
    receiver
}

/// Runs `body` once for each rank on a thread of this process.
///
/// # Errors
/// A rank failed, or nothing moves; a thread that is stuck is left behind.
pub(crate) fn threads(
    board: &Arc<Board>,
    ranks: usize,
    patience: Duration,
    body: impl Fn(usize, &mut dyn FnMut(Report)) -> Result<(), Failure> + Send + Sync + 'static,
    report: &mut dyn FnMut(Report),
) -> Result<(), Failure> {
    let body = Arc::new(body);
    let (reports, from_ranks) = mpsc::channel();
    let (ends, ended): (Sender<(usize, Result<(), Failure>)>, _) = mpsc::channel();
    for rank in 0..ranks {
        let (body, reports, ends) = (Arc::clone(&body), reports.clone(), ends.clone());
        let run = move || {
            let outcome = body(rank, &mut |one| {
                let _ = reports.send(one);
            });
            let _ = ends.send((rank, outcome));
        };
        std::thread::Builder::new().name(format!("rank {rank}")).spawn(run)?;
    }
    drop((reports, ends));
    let mut watch = Watch::new(board, patience);
    let mut first_failure = None;
    let mut deadline = None;
    let mut left = ranks;
    while left > 0 && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        pass_on(Some(&from_ranks), report);
        loop {
            match ended.try_recv() {
                Ok((_, Ok(()))) => left -= 1,
                Ok((rank, Err(failure))) => {
                    left -= 1;
                    board.fail(rank);
                    first_failure.get_or_insert(Failure(format!("rank {rank}: {failure}")));
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) if left > 0 => {
                    return Err(first_failure.unwrap_or(Failure("a rank panicked".into())));
                }
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        }
        if first_failure.is_some() {
            deadline.get_or_insert_with(|| Instant::now() + GRACE);
        }
        watch.look()?;
    }
    from_ranks.try_iter().for_each(report);
    first_failure.map_or(Ok(()), Err)
}

/// Ends this process when nothing moves; for a rank that no parent of ours watches.
pub(crate) fn watch_alone(board: Arc<Board>, patience: Duration) {
    std::thread::spawn(move || {
        let mut watch = Watch::new(&board, patience);
        loop {
            std::thread::sleep(LOOK);
            if let Err(failure) = watch.look() {
                eprintln!("shoal: {failure}");
                std::process::exit(1);
            }
        }
    });
}
