//! From what was measured to rows: which choice from which size on.
//!
//! The rows are those with the least regret: the sum over the points of how far the choice is behind the best, and a
//! small price for each change, so that two candidates which are as good as equal do not take turns. Where the
//! choice changes between two points, the interpolated times say at which size.
#![forbid(unsafe_code)]

use super::predict::predict;
use super::table::{Choice, Point, Sample, Span};

/// What a change costs, as a share of one point's time.
const CHANGE: f64 = 0.02;

/// A choice, the sizes for which it holds, and the points among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// For which sizes.
    pub bytes: Span,
    /// What is used.
    pub choice: Choice,
    /// What was measured there.
    pub points: Vec<Point>,
}

/// The rows for points that ascend by size, together for all sizes. `model_us` is the model of a choice at a size.
#[must_use]
pub fn fit(points: &[Point], model_us: impl Fn(Choice, u64) -> f64) -> Vec<Stretch> {
    let path = cheapest(points);
    let mut stretches: Vec<Stretch> = Vec::new();
    for (place, (point, choice)) in points.iter().zip(&path).enumerate() {
        match stretches.last_mut() {
            Some(last) if last.choice == *choice => last.points.push(point.clone()),
            last => {
                let from = last.map_or(0, |last| {
                    let before = &points[place - 1];
                    let bound =
                        crossing(points, [before.bytes, point.bytes], [last.choice, *choice], &model_us);
                    last.bytes.to = bound - 1;
                    bound
                });
                let bytes = Span { from, to: u64::MAX };
                stretches.push(Stretch { bytes, choice: *choice, points: vec![point.clone()] });
            }
        }
    }
    stretches
}

fn regret(point: &Point, choice: Choice) -> f64 {
    let time = point.samples.iter().find(|sample| sample.choice == choice).map(|sample| sample.median_us);
    let best = point.samples.iter().map(|sample| sample.median_us).fold(f64::INFINITY, f64::min);
    time.map_or(f64::INFINITY, |time| (time / best.max(1e-9)).ln())
}

/// The choice at each point, of all ways the one that costs least.
fn cheapest(points: &[Point]) -> Vec<Choice> {
    let mut all: Vec<Choice> = Vec::new();
    for sample in points.iter().flat_map(|point| &point.samples) {
        if !all.contains(&sample.choice) {
            all.push(sample.choice);
        }
    }
    let mut costs = vec![0.0_f64; all.len()];
    // Of each point and choice: the choice at the point before.
    let mut came_from: Vec<Vec<usize>> = Vec::new();
    for point in points {
        let best = (0..all.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0);
        let step = |at: usize| {
            let change = costs[best] + CHANGE;
            let (before, cost) = if costs[at] <= change { (at, costs[at]) } else { (best, change) };
            (before, cost + regret(point, all[at]))
        };
        let (before, next): (Vec<usize>, Vec<f64>) = (0..all.len()).map(step).unzip();
        costs = next;
        came_from.push(before);
    }
    let mut at = (0..all.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0);
    let mut path = Vec::with_capacity(points.len());
    for before in came_from.iter().rev() {
        path.push(all[at]);
        at = before[at];
    }
    path.reverse();
    path
}

/// The first size of the second choice, between two sizes.
fn crossing(
    points: &[Point],
    [low, high]: [u64; 2],
    [first, second]: [Choice; 2],
    model_us: impl Fn(Choice, u64) -> f64,
) -> u64 {
    let samples = |choice: Choice| -> Vec<(u64, Sample)> {
        let of = |point: &Point| {
            let sample = point.samples.iter().find(|sample| sample.choice == choice)?;
            Some((point.bytes, *sample))
        };
        points.iter().filter_map(of).collect()
    };
    let sides = [first, second].map(|choice| (choice, samples(choice)));
    let is_second = |bytes: u64| {
        let [one, other] =
            [0, 1].map(|side| predict(&sides[side].1, bytes, |at| model_us(sides[side].0, at)).us);
        other < one
    };
    // The last size of the first choice, and the first of the second.
    let (mut below, mut above) = (low, high);
    while below + 1 < above {
        let middle = below.midpoint(above);
        if is_second(middle) { above = middle } else { below = middle }
    }
    readable(above).clamp(low + 1, high)
}

/// The nearest smaller size with three binary digits: nobody measured more of them.
fn readable(bytes: u64) -> u64 {
    let kept = 61_u32.saturating_sub(bytes.leading_zeros());
    bytes >> kept << kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Algorithm;

    const EXCHANGE: Choice = Choice::usual(Algorithm::Exchange);
    const RING: Choice = Choice::usual(Algorithm::Ring);

    fn point(bytes: u64, times: &[(Choice, f64)]) -> Point {
        let sample = |(choice, us): &(Choice, f64)| Sample {
            choice: *choice,
            median_us: *us,
            low_us: *us,
            high_us: *us,
        };
        Point { bytes, samples: times.iter().map(sample).collect() }
    }

    fn truth(choice: Choice, bytes: u64) -> f64 {
        if choice == RING { 4.0 + bytes as f64 / 1000.0 } else { 1.0 + bytes as f64 / 250.0 }
    }

    #[test]
    fn the_choice_changes_where_the_times_cross() {
        let at = |bytes: u64| point(bytes, &[(EXCHANGE, truth(EXCHANGE, bytes)), (RING, truth(RING, bytes))]);
        let points: Vec<Point> = [64, 512, 4096, 32768].map(at).into();
        let rows = fit(&points, truth);
        let found: Vec<_> = rows.iter().map(|row| (row.bytes, row.choice, row.points.len())).collect();
        // The lines cross at 1000 bytes.
        let expected =
            [(Span { from: 0, to: 895 }, EXCHANGE, 2), (Span { from: 896, to: u64::MAX }, RING, 2)];
        assert_eq!(found, expected);
    }

    #[test]
    fn as_good_as_equal_does_not_take_turns() {
        let at = |(bytes, ring)| point(bytes, &[(EXCHANGE, 1.0), (RING, ring)]);
        let points: Vec<Point> = [(1, 0.995), (2, 1.01), (4, 0.99), (8, 1.005)].map(at).into();
        assert_eq!(fit(&points, truth).len(), 1);
        let points: Vec<Point> = [(1, 0.5), (2, 1.5), (4, 0.5)].map(at).into();
        assert_eq!(fit(&points, truth).len(), 3);
    }

    #[test]
    fn what_was_not_measured_at_a_point_is_not_chosen_there() {
        let points = [point(1, &[(EXCHANGE, 1.0)]), point(16, &[(RING, 1.0)])];
        let rows = fit(&points, truth);
        assert_eq!((rows[0].choice, rows[1].choice), (EXCHANGE, RING));
        assert_eq!(rows[0].bytes.to + 1, rows[1].bytes.from);
        assert_eq!(fit(&[], truth), []);
    }

    proptest::proptest! {
        /// The rows are disjoint, in order and for all sizes; no other way of choosing costs less.
        #[test]
        fn rows_cover_all_sizes_at_the_least_cost(times in proptest::collection::vec((1.0_f64..4.0, 1.0_f64..4.0), 1..7)) {
            let at = |(place, (one, other)): (usize, &(f64, f64))| {
                point(8 << (3 * place), &[(EXCHANGE, *one), (RING, *other)])
            };
            let points: Vec<Point> = times.iter().enumerate().map(at).collect();
            let rows = fit(&points, truth);
            proptest::prop_assert_eq!(rows[0].bytes.from, 0);
            proptest::prop_assert_eq!(rows.last().unwrap().bytes.to, u64::MAX);
            for pair in rows.windows(2) {
                proptest::prop_assert_eq!(pair[0].bytes.to + 1, pair[1].bytes.from);
            }
            for row in &rows {
                proptest::prop_assert!(row.points.iter().all(|point| row.bytes.holds(point.bytes)));
            }
            let cost = |path: &[Choice]| {
                let changes = path.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64;
                CHANGE * changes + points.iter().zip(path).map(|(point, choice)| regret(point, *choice)).sum::<f64>()
            };
            let own = cost(&cheapest(&points));
            for bits in 0..1_u32 << points.len() {
                let path: Vec<Choice> =
                    (0..points.len()).map(|place| if bits >> place & 1 == 0 { EXCHANGE } else { RING }).collect();
                proptest::prop_assert!(own <= cost(&path) + 1e-9);
            }
        }
    }
}
