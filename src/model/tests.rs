//! The worked examples, to the byte.

use super::*;

fn of(preset: &str, layout: Layout, step: Step) -> Vec<(&'static str, u64, u64)> {
    let shape = Shape::named(preset).unwrap();
    let calls = calls(&shape, &layout, &step).unwrap();
    calls.iter().map(|calls| (calls.operation, calls.calls, calls.bytes)).collect()
}

fn sum(preset: &str, layout: Layout, step: Step, measure: fn(&Calls) -> u64) -> u64 {
    calls(&Shape::named(preset).unwrap(), &layout, &step).unwrap().iter().map(measure).sum()
}

#[test]
fn shapes_have_as_many_parameters_as_they_should() {
    for (name, inner, all) in [
        ("19M", 18_915_328, 70_426_624),
        ("125M", 85_056_000, 162_322_944),
        ("1.3B", 1_208_602_624, 1_414_647_808),
        ("13B", 12_585_584_640, 13_100_697_600),
    ] {
        let shape = Shape::named(name).unwrap();
        assert_eq!((shape.inner_parameters(), shape.parameters(1)), (inner, all), "{name}");
        assert_eq!(shape.tensors().iter().sum::<u64>(), all, "{name}");
    }
    assert_eq!(2 * Shape::named("llama-7b").unwrap().parameters(1), 13_476_831_232);
    assert!(Shape::named("14B").unwrap_err().contains("llama-65B"));
    // 50,257 rows for eight ranks are 51,200.
    let shape = Shape { vocabulary: 50_257, ..Shape::named("13B").unwrap() };
    assert_eq!((shape.padded_vocabulary(1), shape.padded_vocabulary(8)), (50_304, 51_200));
}

#[test]
fn tensor_parallelism_sums_activations() {
    let layout = Layout { tensor: 8, ..Layout::default() };
    assert_eq!(of("13B", layout, Step::default()), [("allreduce", 162, 20_971_520), ("allreduce", 3, 8192)]);
    let layout = Layout { sequence_parallel: true, ..layout };
    assert_eq!(
        of("13B", layout, Step::default()),
        [("allgather", 240, 20_971_520), ("reducescatter", 160, 20_971_520), ("allreduce", 1, 1_638_400)]
    );
    let layout = Layout { tensor: 8, ..Layout::default() };
    let step = Step { recomputes: true, micro_batches: 2, ..Step::default() };
    assert_eq!(of("13B", layout, step)[0], ("allreduce", 2 * 242, 20_971_520));
}

#[test]
fn stages_send_activations_and_gradients() {
    let layout = Layout { pipeline: 4, ..Layout::default() };
    let step = Step { micro_batch: 4, micro_batches: 8, ..Step::default() };
    assert_eq!(of("13B", layout, step), [("send", 48, 83_886_080)]);
    assert_eq!(sum("13B", layout, step, Calls::total_bytes), 4_026_531_840);
    let interleaved = Layout { chunks: 2, ..layout };
    assert_eq!(of("13B", interleaved, step), [("send", 112, 83_886_080)]);
    let parts = Layout { tensor: 8, scatter_gather: true, ..layout };
    let calls = of("13B", parts, step);
    assert!(calls.contains(&("send", 48, 10_485_760)) && calls.contains(&("allgather", 48, 83_886_080)));
}

#[test]
fn data_parallelism_moves_gradients_and_parameters() {
    let many = Layout { data: 1 << 20, ..Layout::default() };
    let (one, step) = (26_201_395_200, Step::default());
    let logical = |zero, sums_everywhere| {
        sum("13B", Layout { zero, sums_everywhere, ..many }, step, Calls::total_bytes)
    };
    assert_eq!(logical(Zero::None, false), one);
    assert_eq!(logical(Zero::Three, false), 78_604_185_600);
    assert_eq!(logical(Zero::Two, false), 2 * one);
    let wire = |zero, sums_everywhere| {
        let wire = sum("13B", Layout { zero, sums_everywhere, ..many }, step, Calls::wire_bytes);
        (wire as f64 / one as f64 * 100.0).round() / 100.0
    };
    assert_eq!([wire(Zero::None, false), wire(Zero::Two, false), wire(Zero::Two, true)], [2.0, 2.0, 3.0]);
    assert_eq!(wire(Zero::Three, false), 3.0);
    let eight = Layout { data: 8, zero: Zero::One, sums_everywhere: false, ..Layout::default() };
    let small = Step { element_bytes: 4, ..step };
    assert_eq!(sum("19M", Layout { zero: Zero::None, ..eight }, small, Calls::total_bytes), 281_706_496);
    assert_eq!(sum("19M", eight, small, Calls::wire_bytes), 492_986_368);
    // Every bucket rounds down by itself, by less than a byte each.
    let plain = sum("19M", Layout { zero: Zero::None, ..eight }, small, Calls::wire_bytes);
    assert!((492_986_368 - 16..=492_986_368).contains(&plain), "{plain}");
}

#[test]
fn micro_batches_count_where_something_is_done_for_each() {
    let step = Step { micro_batches: 4, ..Step::default() };
    let calls = |zero| {
        let layout = Layout { data: 8, zero, ..Layout::default() };
        of("125M", layout, step).iter().map(|(_, calls, _)| *calls).collect::<Vec<_>>()
    };
    assert_eq!(
        (calls(Zero::One), calls(Zero::Two), calls(Zero::Three)),
        (vec![1, 1], vec![4, 1], vec![8, 4])
    );
}

#[test]
fn tokens_go_to_experts_and_back() {
    let layout = Layout { experts: 8, ..Layout::default() };
    let step = Step { expert_layers: 1, ..Step::default() };
    assert_eq!(of("13B", layout, step), [("alltoall", 4, 41_943_040)]);
    assert_eq!(41_943_040 / 8, 5_242_880);
    let shape = Shape { hidden: 7168, ..Shape::named("13B").unwrap() };
    let decode = Step { sequence: 1, element_bytes: 1, top: 8, expert_layers: 1, ..Step::default() };
    let calls = calls(&shape, &Layout { experts: 64, ..layout }, &decode).unwrap();
    assert_eq!(calls[0].bytes / 64, 896);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |layout| calls(&Shape::named("13B").unwrap(), &layout, &Step::default()).unwrap_err();
    assert!(refused(Layout { pipeline: 3, ..Layout::default() }).contains("40 layers do not fall into 3"));
    assert!(refused(Layout { chunks: 2, ..Layout::default() }).contains("expected a pipeline"));
    assert!(refused(Layout { tensor: 3, ..Layout::default() }).contains("5120 does not fall into 3"));
    assert!(refused(Layout { data: 0, ..Layout::default() }).contains("expected 1 or more"));
}
