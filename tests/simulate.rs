//! The simulator against what is known otherwise: a folded run is equal to one event by event, times of small cases
//! are those that one can write down, and every schedule runs to its end on any machine.

#[allow(dead_code, unreachable_pub)] // of the seeds only their number is used
#[path = "common/corpus.rs"]
mod corpus;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use shoal::coalesce::Limits;
use shoal::op::{DataType, Kind, Reduction};
use shoal::schedule::{self, Algorithm, Call};
use shoal::simulate::{Folding, Link, Machine, Outcome, collective, exchange};

const COLLECTIVES: [Kind; 8] = [
    Kind::AllReduce,
    Kind::Reduce,
    Kind::Broadcast,
    Kind::AllGather,
    Kind::ReduceScatter,
    Kind::AlltoAll,
    Kind::Gather,
    Kind::Scatter,
];

fn call(kind: Kind, ranks: u32, count: usize) -> Call {
    Call {
        kind,
        data_type: DataType::Float32,
        reduction: Reduction::Sum,
        root: 0,
        count,
        ranks,
        in_place: false,
    }
}

fn forms() -> impl Iterator<Item = (Kind, Algorithm)> {
    COLLECTIVES.into_iter().flat_map(|kind| {
        Algorithm::ALL.into_iter().filter(move |algorithm| algorithm.serves(kind)).map(move |it| (kind, it))
    })
}

/// Machines of different symmetry, by a number.
fn machine(number: u64) -> Machine {
    let base = Machine::default();
    match number % 4 {
        0 => Machine { ranks_per_host: 1, hosts_per_island: 0, rails: 1, ..base },
        1 => Machine { ranks_per_host: 0, ..base },
        2 => Machine { ranks_per_host: 4, rails: 2, hosts_per_island: 0, ..base },
        _ => Machine { ranks_per_host: 2, rails: 1, hosts_per_island: 4, oversubscription: 4.0, ..base },
    }
}

/// Data that is cut evenly, so that ranks can be alike: short slices, or one of several pieces.
fn even_call(kind: Kind, ranks: u32, number: u64) -> Call {
    let slice = [4, 64, 16 << 10][(number / 4 % 3) as usize];
    let count = match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => slice * ranks as usize,
        _ => slice,
    };
    call(kind, ranks, count)
}

/// Whether the folded run, if there is one, is equal to that of every rank by itself.
fn compare(machine: &Machine, call: &Call, algorithm: Algorithm) -> bool {
    let Ok(folded) = collective(machine, call, algorithm, &Folding::Always) else { return false };
    let words = format!("{} of {:?} on {machine:?}", algorithm.name(), call);
    let whole = collective(machine, call, algorithm, &Folding::Never).expect(&words);
    assert!(folded.simulated < whole.simulated && whole.simulated == call.ranks, "{words}");
    for (rank, end) in whole.ends.iter().enumerate() {
        assert_eq!(*end, folded.ends[rank % folded.simulated as usize], "rank {rank}, {words}");
    }
    let counts = |it: &Outcome| (it.messages, it.packets, it.bytes, it.peak_bytes);
    assert_eq!(counts(&folded), counts(&whole), "{words}");
    assert!((folded.time_ns - whole.time_ns).abs() < 1e-9, "{words}");
    true
}

/// Whether an algorithm sends from every rank to every other, in any number of hops.
fn is_quadratic(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Ring | Algorithm::Exchange | Algorithm::TwoShot | Algorithm::Pairwise | Algorithm::Slices
    )
}

/// A share: all forms at some numbers of ranks. Full: every number up to 1,024 (or up to `SHOAL_TEST_SEEDS`); of the
/// forms whose messages grow with the square of the ranks, above 96 ranks one each time, in turn.
#[test]
fn folded_is_equal_to_event_by_event() {
    let most = corpus::seed_count(0, 1024) as u32;
    let share = vec![2, 3, 5, 6, 8, 9, 12, 16, 24, 30, 32, 48, 64, 96];
    let mut numbers: Vec<u32> = if most > 0 { (2..=most).collect() } else { share };
    // The large ones first: so all cores end together.
    numbers.reverse();
    let (next, compared) = (AtomicUsize::new(0), AtomicU32::new(0));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(ranks) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compared.fetch_add(compare_all(*ranks), Ordering::Relaxed);
                }
            });
        }
    });
    let compared = compared.into_inner();
    println!("{compared} folded runs are equal to theirs event by event");
    assert!(compared > 100, "{compared}");
}

/// How many forms were folded and compared at one number of ranks.
fn compare_all(ranks: u32) -> u32 {
    let quadratic: Vec<_> = forms().filter(|(_, algorithm)| is_quadratic(*algorithm)).collect();
    let turn = quadratic[ranks as usize % quadratic.len()];
    let mut compared = 0;
    for (number, (kind, algorithm)) in (u64::from(ranks)..).zip(forms()) {
        if ranks > 96 && is_quadratic(algorithm) && turn != (kind, algorithm) {
            continue;
        }
        let case = even_call(kind, ranks, number);
        compared += u32::from(compare(&machine(number), &case, algorithm));
        // The machine on which most forms are alike.
        compared += u32::from(compare(&machine(1), &case, algorithm));
    }
    compared
}

#[test]
fn large_numbers_fold_where_messages_grow_slowly() {
    for (kind, algorithm) in [
        (Kind::AllGather, Algorithm::Pat),
        (Kind::AllReduce, Algorithm::Doubling),
        (Kind::ReduceScatter, Algorithm::Pat),
    ] {
        let case = even_call(kind, 512, 0);
        assert!(compare(&machine(0), &case, algorithm), "{}", algorithm.name());
    }
}

#[test]
fn what_is_not_alike_is_refused_with_the_reason() {
    let refused = |machine: &Machine, ranks, algorithm| {
        let case = even_call(Kind::AllReduce, ranks, 0);
        collective(machine, &case, algorithm, &Folding::Always).unwrap_err().to_string()
    };
    let flat = machine(0);
    assert!(refused(&flat, 8, Algorithm::Tree).contains("does not do what rank 0 does"));
    let uneven = Machine { ranks_per_host: 4, ..flat.clone() };
    assert!(refused(&uneven, 10, Algorithm::Ring).contains("not all alike"));
    let islands = Machine { ranks_per_host: 2, hosts_per_island: 3, ..flat };
    assert!(refused(&islands, 16, Algorithm::Ring).contains("not all alike"));
    // A vector that is not cut evenly.
    let case = call(Kind::AllReduce, 8, 9);
    assert!(collective(&machine(0), &case, Algorithm::Ring, &Folding::Always).is_err());
}

#[test]
fn every_form_runs_to_its_end_and_sends_what_its_plans_say() {
    for seed in corpus::plan("simulate_forms", 12, 400) {
        let ranks = 1 + (seed * 7 % 40) as u32;
        let machine = machine(seed);
        let hosts = machine.hosts(ranks);
        for (kind, algorithm) in forms() {
            let mut case = call(kind, ranks, [1, 100, 5000][(seed % 3) as usize]);
            case.root = (seed % u64::from(ranks)) as u32;
            let outcome = collective(&machine, &case, algorithm, &Folding::WherePossible);
            let outcome = outcome.unwrap_or_else(|error| panic!("{case:?} {}: {error}", algorithm.name()));
            let plans = (0..ranks).filter_map(|rank| schedule::plan(algorithm, &case, rank, &hosts));
            let sent: usize = plans
                .flat_map(|plan| plan.steps)
                .filter_map(|step| match step.action {
                    schedule::Action::Send { from, .. } => Some(from.bytes),
                    _ => None,
                })
                .sum();
            assert_eq!(outcome.bytes, sent as u64, "{case:?} {}", algorithm.name());
        }
    }
}

/// A network without anything but latency, overhead and gap.
fn simple() -> Machine {
    let mut machine = Machine { ranks_per_host: 1, hosts_per_island: 0, rails: 1, ..Machine::default() };
    machine.rail = Link {
        latency_ns: 1000.0,
        send_ns: 100.0,
        receive_ns: 200.0,
        gap_ns: 50.0,
        port_bytes_per_ns: 1.0,
        send_bytes_per_ns: 0.0,
        receive_bytes_per_ns: 0.0,
        window_bytes: 0.0,
    };
    machine.spine = machine.rail;
    machine.core.call_ns = 0.0;
    machine.core.step_ns = 0.0;
    machine.core.copy_bytes_per_ns = 1e12;
    machine.core.reduce_bytes_per_ns = 1e12;
    machine
}

fn time(machine: &Machine, call: &Call, algorithm: Algorithm) -> f64 {
    collective(machine, call, algorithm, &Folding::Never).expect("a form").time_ns
}

#[test]
fn times_are_those_of_the_model() {
    let machine = simple();
    // One packet: o, then L, during which its bytes follow; the core's part overlaps them but for one packet's end.
    let hop = |bytes: f64| 100.0 + 1000.0 + bytes + 200.0;
    let close = |one: f64, other: f64| assert!((one - other).abs() < 0.01, "{one} is not {other}");
    close(time(&machine, &call(Kind::Broadcast, 2, 2), Algorithm::Exchange), hop(8.0));
    close(time(&machine, &call(Kind::Broadcast, 8, 2), Algorithm::Tree), 3.0 * hop(8.0));
    // A ring of reductions: n-1 hops, each behind the other.
    close(time(&machine, &call(Kind::ReduceScatter, 8, 2), Algorithm::Ring), 7.0 * hop(8.0));
    // Seven packets out of one core, which is busy for o each; the gap is shorter.
    close(time(&machine, &call(Kind::Scatter, 8, 2), Algorithm::Exchange), 6.0 * 100.0 + hop(8.0));
    // Out of a port that is slower than the core.
    let slow = Machine { rail: Link { gap_ns: 500.0, ..machine.rail }, ..machine.clone() };
    close(time(&slow, &call(Kind::Scatter, 8, 2), Algorithm::Exchange), 6.0 * 500.0 + hop(8.0));
}

#[test]
fn ports_that_are_shared_take_longer_and_oversubscription_counts() {
    let machine = simple();
    let case = call(Kind::AlltoAll, 16, 25_000);
    let alone = Machine { ranks_per_host: 4, rails: 4, ..machine };
    let shared = Machine { rails: 1, ..alone.clone() };
    let times = [&alone, &shared].map(|machine| time(machine, &case, Algorithm::Pairwise));
    assert!(times[1] > 2.0 * times[0], "{times:?}");
    let islands = |oversubscription| Machine { hosts_per_island: 2, oversubscription, ..alone.clone() };
    let times = [1.0, 4.0].map(|factor| time(&islands(factor), &case, Algorithm::Pairwise));
    assert!(times[1] > 2.0 * times[0], "{times:?}");
}

#[test]
fn frames_send_fewer_packets_and_save_time() {
    let machine = Machine { ranks_per_host: 1, ..Machine::default() };
    let run = |message_bytes| {
        let limits = Limits { message_bytes, frame_bytes: 16384 };
        exchange(&machine, 3, (64, 8), limits, 1).expect("messages that match")
    };
    let (together, apart) = (run(1024), run(0));
    assert_eq!((together.messages, together.packets), (3 * 2 * 64, 3 * 2));
    assert_eq!((apart.messages, apart.packets), (3 * 2 * 64, 3 * 2 * 64));
    assert!(together.time_ns * 2.0 < apart.time_ns);
}

#[test]
fn ranks_that_share_a_core_wait_for_their_turn() {
    let own = Machine { ranks_per_host: 0, ..Machine::default() };
    let shared = Machine { cores_per_host: 2, ..own.clone() };
    let case = call(Kind::AllReduce, 8, 2);
    let times = [&own, &shared].map(|machine| time(machine, &case, Algorithm::Exchange));
    assert!(times[1] > times[0] + 1000.0, "{times:?}");
}

#[test]
fn the_machines_of_the_documents_can_be_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/regions");
    let entries = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let machines: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    assert!(machines.len() >= 4, "{machines:?}");
    for path in machines {
        let text = std::fs::read_to_string(&path).expect("a file");
        shoal::simulate::file::read(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
