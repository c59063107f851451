//! Random programs on the library itself, through its C functions and real shared memory, against a plain
//! oracle: ranks as threads, as processes, as both, and all in one thread.
//!
//! The test runs itself again as the processes of a *team*, which share settings and run several programs one
//! after the other. `SHOAL_TEST_SEED=17` runs the programs of one team; `SHOAL_TEST_CAMPAIGN=full` many more.

#[allow(dead_code, unreachable_pub)] // each test uses a part
mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::corpus;
use common::dice::{Dice, mix};
use common::generate::Limits;
use common::member::{self, Board, Form};
use common::program::Program;
use shoal::schedule::Algorithm;

/// How long a team may say nothing before it counts as hanging.
const SILENCE: Duration = Duration::from_secs(40);
/// Programs of one team.
const PROGRAMS: u64 = 12;

const TEAM: &str = "SHOAL_TEST_TEAM";
const PROCESS: &str = "SHOAL_TEST_PROCESS";
const FOLDER: &str = "SHOAL_TEST_FOLDER";
/// The process that is killed in the middle of the first program, after which the others end too.
const DIES: &str = "SHOAL_TEST_DIES";

/// Processes that run programs together.
#[derive(Clone, Debug)]
struct Team {
    number: u64,
    form: Form,
    process_count: u32,
    limits: Limits,
    /// To how many hosts its processes are dealt, as far as the library knows.
    hosts: u32,
    settings: Vec<(&'static str, &'static str)>,
    /// Settings of the test itself.
    extra: Vec<(&'static str, String)>,
}

impl Team {
    fn new(number: u64) -> Team {
        let mut dice = Dice::new(mix(number, 0x7465616d));
        let (form, process_count, ranks) = match number % 6 {
            0 => (Form::Threads, 1, [1, 9]),
            1 => {
                let processes = dice.between(2, 6);
                (Form::Threads, processes as u32, [processes as u32; 2])
            }
            2 => (Form::Threads, 2, [2, 9]),
            3 => (Form::OneThread, 1, [1, 6]),
            4 => (Form::OneGroup, 1, [1, 6]),
            _ => (Form::Threads, 3, [3, 7]),
        };
        let is_whole = form == Form::OneGroup;
        let limits = Limits {
            ranks,
            batch_count: if is_whole { 1 } else { Limits::REAL.batch_count },
            may_cut: !is_whole,
            ..Limits::REAL
        };
        let mut settings = Vec::new();
        let mut perhaps = |name, values: &[&'static str]| {
            if dice.chance(50) {
                settings.push((name, dice.pick(values)));
            }
        };
        perhaps("SHOAL_COALESCE", &["0", "1"]);
        perhaps("SHOAL_RING_BYTES", &["8192", "16384", "65536"]);
        perhaps("SHOAL_CMA", &["0", "1"]);
        perhaps("SHOAL_MAPPED", &["0", "1"]);
        perhaps("SHOAL_BULK_BYTES", &["1024", "8192", "100000"]);
        perhaps("SHOAL_SPIN", &["0", "10", "1000"]);
        perhaps("SHOAL_FRAME_BYTES", &["64", "300", "2000"]);
        perhaps("SHOAL_COALESCE_BYTES", &["16", "200"]);
        perhaps("SHOAL_DETERMINISTIC", &["0", "0", "1"]);
        perhaps("SHOAL_ALGORITHM", &Algorithm::ALL.map(Algorithm::name));
        Team { number, form, process_count, limits, hosts: 1, settings, extra: Vec::new() }
    }

    /// The same, on several hosts: over the network alone, or over it and shared memory.
    fn on_hosts(number: u64) -> Team {
        let mut dice = Dice::new(mix(number, 0x686f7374));
        // Teams of several processes.
        let team = Team::new(number * 6 + [1, 2, 5][dice.below(3)]);
        let hosts = dice.between(2, team.process_count as usize) as u32;
        let mut settings = team.settings;
        settings.push(("UCX_TLS", "tcp"));
        if dice.chance(50) {
            settings.push(("SHOAL_NETWORK_BYTES", "600000"));
        }
        Team { hosts, settings, ..team }
    }

    fn programs(&self) -> impl Iterator<Item = Program> {
        (0..PROGRAMS).map(|index| Program::random(mix(self.number, index), self.limits))
    }

    /// Starts the processes.
    fn start(&self, folder: &Path) -> Vec<Process> {
        let program = std::env::current_exe().expect("a path");
        let start = |index: u32| {
            let log = folder.join(format!("{index}.log"));
            let file = File::create(&log).expect("a log");
            let child = Command::new(&program)
                .args(["--exact", "a_member_of_a_team", "--nocapture", "--test-threads=1"])
                .env(TEAM, self.number.to_string())
                .env(PROCESS, index.to_string())
                .env(FOLDER, folder)
                .env("RUST_BACKTRACE", "0")
                .env("SHOAL_HOSTID", format!("host-{}", index % self.hosts))
                .envs(self.settings.iter().copied())
                .envs(self.extra.iter().cloned())
                .stdin(Stdio::null())
                .stdout(file.try_clone().expect("a log"))
                .stderr(file)
                .spawn()
                .expect("a process");
            Process { child, log, is_well: None }
        };
        (0..self.process_count).map(start).collect()
    }

    /// Runs the team; what went wrong, if something did.
    fn run(&self, folder: &Path) -> Result<(), String> {
        let mut processes = self.start(folder);
        let verdict = watch(&mut processes);
        for process in &mut processes {
            // They have ended, or hang.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        let logs: Vec<String> = processes.iter().map(|process| process.text()).collect();
        let digests = |log: &String| -> Vec<String> {
            log.lines().filter(|line| line.starts_with("program ")).map(str::to_owned).collect()
        };
        let verdict = verdict.and_then(|()| {
            let differs = logs.windows(2).any(|pair| digests(&pair[0]) != digests(&pair[1]));
            if differs { Err("processes have different bits of an AllReduce".to_owned()) } else { Ok(()) }
        });
        verdict.map_err(|problem| {
            let tails: Vec<String> = logs.iter().enumerate().map(|(i, log)| tail(i, log)).collect();
            format!("team {}: {problem}\n{self:?}\n{}", self.number, tails.join("\n"))
        })
    }
}

struct Process {
    child: Child,
    log: PathBuf,
    is_well: Option<bool>,
}

impl Process {
    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

fn tail(process: usize, log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
    format!("process {process} said last:\n  {last}")
}

/// Waits until all processes ended well, one ended badly, or nothing is heard of them any more.
fn watch(processes: &mut [Process]) -> Result<(), String> {
    let mut heard_at = Instant::now();
    let mut heard_bytes = 0;
    loop {
        for process in processes.iter_mut().filter(|process| process.is_well.is_none()) {
            let ended = process.child.try_wait().map_err(|error| error.to_string())?;
            process.is_well = ended.map(|status| status.success());
        }
        if processes.iter().all(|process| process.is_well == Some(true)) {
            return Ok(());
        }
        if processes.iter().any(|process| process.is_well == Some(false)) {
            // The others may have more to say.
            std::thread::sleep(Duration::from_secs(1));
            return Err("a process failed".into());
        }
        let bytes =
            processes.iter().map(|process| fs::metadata(&process.log).map_or(0, |log| log.len())).sum();
        if bytes != heard_bytes {
            heard_bytes = bytes;
            heard_at = Instant::now();
        }
        if heard_at.elapsed() > SILENCE {
            return Err(format!("hang: nothing was heard for {} s", SILENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let place = std::env::temp_dir().join(format!("shoal-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).expect("a folder");
        Folder(place)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs teams; those that hang or go wrong are told.
fn run_teams(name: &str, teams: impl Iterator<Item = Team>) {
    let (mut hangs, mut wrong, mut count, mut first) = (0, 0, 0, Vec::new());
    for team in teams {
        let folder = Folder::new(&format!("{name}-{}", team.number));
        count += PROGRAMS;
        let Err(problem) = team.run(&folder.0) else { continue };
        if problem.contains("hang: ") {
            hangs += 1;
        } else {
            wrong += 1;
        }
        first.push(problem);
        if first.len() == 3 {
            break;
        }
    }
    println!("{name}: seeds run {count}, hangs {hangs}, wrong {wrong}");
    assert!(first.is_empty(), "add these teams to tests/corpus/seeds.txt:\n{}", first.join("\n\n"));
}

#[test]
fn random_programs_finish_with_the_right_bytes() {
    let numbers = corpus::plan("random_operations", 24, 1200);
    run_teams("random operations", numbers.into_iter().map(Team::new));
}

#[test]
fn random_programs_between_hosts_finish_with_the_right_bytes() {
    let numbers = corpus::plan("random_operations_between_hosts", 10, 600);
    run_teams("random operations between hosts", numbers.into_iter().map(Team::on_hosts));
}

/// Others than the killed one end: well if they needed nothing more of it, else with an error that names it.
#[test]
fn the_death_of_a_process_ends_the_waits_of_the_others() {
    // Teams of a process for each rank.
    for number in (0..corpus::seed_count(8, 200)).map(|index| index * 6 + 1) {
        let team = Team::new(number);
        let victim = 1 + (number / 6) as u32 % (team.process_count - 1);
        let folder = Folder::new(&format!("death-{number}"));
        let mut dying = team.clone();
        dying.extra = vec![(DIES, victim.to_string())];
        let mut processes = dying.start(&folder.0);
        let started = Instant::now();
        let (mut fails, mut sees_death) = (false, false);
        for (index, process) in processes.iter_mut().enumerate() {
            while process.child.try_wait().expect("a state").is_none() {
                if started.elapsed() > SILENCE {
                    let _ = process.child.kill();
                    panic!(
                        "team {number}, victim {victim}: hang\n{dying:?}\n{}",
                        tail(index, &process.text())
                    );
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let text = process.text();
            let is_well = index as u32 == victim || !text.contains("FAILED");
            // The victim goes by other numbers in other communicators, and who fails of it in one ends, and so leaves
            // those in which nobody failed yet.
            let causes = ["is gone (its process ended)", " reported: ", " left the communicator"];
            let names_it = causes.iter().any(|cause| text.contains(cause));
            (fails, sees_death) = (fails || !is_well, sees_death || text.contains(causes[0]));
            let is_wrong = text.contains("expected") || text.contains("internal error");
            assert!(
                (is_well || names_it) && !is_wrong,
                "team {number}, victim {victim}: {}",
                tail(index, &text)
            );
        }
        assert!(!fails || sees_death, "team {number}, victim {victim}: nobody says that it is gone");
    }
}

/// What a process of a team does; nothing where the test is run by itself.
#[test]
fn a_member_of_a_team() {
    let variable = |name| std::env::var(name).ok();
    let (Some(team), Some(process), Some(folder)) = (variable(TEAM), variable(PROCESS), variable(FOLDER))
    else {
        return;
    };
    let team = Team::new(team.parse().expect("a number"));
    let process: u32 = process.parse().expect("a number");
    let dying = variable(DIES).map(|number| number.parse::<u32>().expect("a number"));
    let board = Board { folder: Path::new(&folder), process, dies: dying == Some(process) };
    let program_count = if dying.is_some() { 1 } else { usize::MAX };
    for (index, program) in team.programs().enumerate().take(program_count) {
        let worlds: Vec<u32> =
            (0..program.ranks).filter(|world| world % team.process_count == process).collect();
        println!("begins {index}: seed {}, {} ranks", program.seed, program.ranks);
        match member::run(&program, &worlds, team.form, &board) {
            Ok(digest) => println!("program {index} {digest:#x}"),
            Err(problem) => panic!("program {index}, seed {}: {problem}", program.seed),
        }
    }
}
