//! What the formulas say against lists of calls that a generator of training traffic made.
//!
//! The lists hold more than the formulas speak of: setup, flags of a few bytes, and what each test names.

use shoal::model::{Layout, Shape, Step, Zero, calls};
use shoal::op::Kind;
use shoal::simulate::mix::{self, MIXES, What};

/// The calls of a list, as (operation, ranks, bytes, calls).
fn list(name: &str) -> Vec<(String, u32, u64, u64)> {
    let (_, _, text) = MIXES.iter().find(|(known, ..)| *known == name).expect("a list");
    let lines = mix::read(text).expect("a list that can be read");
    let collective = |line: mix::Line| match line.what {
        What::Collective(kind, bytes) => (Kind::name(kind).to_lowercase(), line.ranks, bytes, line.calls),
        _ => panic!("{name} holds messages"),
    };
    lines.into_iter().map(collective).collect()
}

fn sum(list: &[(String, u32, u64, u64)], operation: &str) -> u64 {
    list.iter().filter(|call| call.0 == operation).map(|call| call.2 * call.3).sum()
}

/// Every call that the formulas give is in the list, as often.
fn holds(name: &str, preset: &str, layout: Layout) {
    let list = list(name);
    let shape = Shape::named(preset).expect("a preset");
    for call in calls(&shape, &layout, &Step::default()).expect("a layout that fits") {
        let expected = (call.operation.to_owned(), call.ranks, call.bytes, call.calls);
        assert!(list.contains(&expected), "{name} has no {expected:?}, but {list:?}");
    }
}

#[test]
fn tensor_parallel_jobs_call_what_the_formulas_say() {
    let tensor = |tensor| Layout { tensor, ..Layout::default() };
    holds("gpt13b-tp8", "13B", tensor(8));
    holds("llama7b-tp2", "llama-7B", tensor(2));
    // This list has two sums of activations more, at the embedding and at the loss.
    holds("gpt13b-tp8-sp", "13B", Layout { sequence_parallel: true, ..tensor(8) });
}

#[test]
fn zero_moves_as_many_bytes_as_the_formulas_say() {
    let shape = Shape::named("llama-7B").expect("a preset");
    let total = |zero, sums_everywhere, operation: &str| {
        let layout = Layout { data: 128, zero, sums_everywhere, ..Layout::default() };
        let calls = calls(&shape, &layout, &Step::default()).expect("a layout that fits");
        let of_it = calls.iter().filter(|call| call.operation == operation);
        of_it.map(shoal::model::Calls::total_bytes).sum::<u64>()
    };
    let two = list("llama7b-zero2");
    // But for a flag of 1 byte, and 512 bytes by which parameters are padded.
    assert_eq!(sum(&two, "allreduce") - 1, total(Zero::Two, true, "allreduce"));
    assert_eq!(sum(&two, "allgather") - 512, total(Zero::Two, true, "allgather"));
    let three = list("llama7b-zero3");
    assert_eq!(sum(&three, "reducescatter"), total(Zero::Three, false, "reducescatter"));
    // This list gathers once more than forward and back, and its 65 norms of 8 KiB once more again.
    let once = total(Zero::Three, false, "allgather") / 2;
    assert_eq!(sum(&three, "allgather"), 3 * once + 65 * 8192);
}
