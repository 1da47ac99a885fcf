//! How latencies are distributed: cumulative, the tail as long as it matters.

use super::axis::{Axis, time};
use super::drawing::{Anchor, Drawing};
use super::label::Labels;
use super::{Figure, WIDTH, named};
use crate::bench::report::cast;
use crate::bench::report::number::amount;
use crate::bench::results::Results;
use crate::bench::stats;

#[derive(Clone, Copy)]
pub struct Subject {
    case: &'static str,
    id: &'static str,
    title: &'static str,
}

pub const ONE_CONNECTION: Subject =
    Subject { case: "http1-c1", id: "latency-one", title: "Latency of a request, one connection" };
pub const FIXED_RATE: Subject =
    Subject { case: "http1-rate", id: "latency-rate", title: "Latency at a fixed rate, 32 connections" };

const HEIGHT: f64 = 310.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 44.0;

/// What is marked on the vertical axis.
const FRACTIONS: [(f64, &str); 5] =
    [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
/// Up to 99.9 %: what one round tells beyond is chance.
const NINES: f64 = 3.0;
const STEPS: u32 = 150;

struct Curve<'a> {
    contestant: &'a str,
    /// Value at each fraction, ascending.
    values: Vec<(f64, f64)>,
}

pub fn figure(results: &Results, subject: Subject) -> Figure {
    let curves: Vec<Curve<'_>> = cast::contestants(results)
        .into_iter()
        .filter_map(|name| curve(results, name, subject.case))
        .collect();
    let medians: Vec<String> = curves
        .iter()
        .map(|curve| format!("{} {}", named(results, curve.contestant), amount(at_half(curve), "µs")))
        .collect();
    let caption = format!(
        "The part of requests that took no longer; the axis stretches towards 100 %, so that the slow ones show. \
         Each point is the median of the rounds. Half took no longer than: {}.",
        medians.join(", ")
    );
    Figure { id: subject.id, title: subject.title, caption, svg: draw(results, subject, &curves) }
}

/// A contestant's curve: at each fraction the median of the rounds, as the table's numbers are.
fn curve<'a>(results: &Results, contestant: &'a str, case: &str) -> Option<Curve<'a>> {
    let of_it = |d: &&crate::bench::results::Distribution| {
        d.contestant == contestant && d.case == case && !d.points.is_empty()
    };
    let rounds: Vec<&[[f64; 2]]> =
        results.distributions.iter().filter(of_it).map(|d| d.points.as_slice()).collect();
    if rounds.is_empty() {
        return None;
    }
    let values = (1..=STEPS).map(|step| {
        let fraction = 1.0 - 10_f64.powf(-NINES * f64::from(step) / f64::from(STEPS));
        let of_rounds: Vec<f64> = rounds.iter().map(|points| value_at(points, fraction)).collect();
        (fraction, stats::median(&of_rounds))
    });
    Some(Curve { contestant, values: values.collect() })
}

/// The value below which this fraction is, between two points by a straight line.
fn value_at(points: &[[f64; 2]], fraction: f64) -> f64 {
    let next = points.partition_point(|[_, below]| *below < fraction);
    let Some(&[value, below]) = points.get(next) else { return points[points.len() - 1][0] };
    let Some(&[previous, below_previous]) = next.checked_sub(1).and_then(|i| points.get(i)) else {
        return value;
    };
    previous + (value - previous) * (fraction - below_previous) / (below - below_previous)
}

fn at_half(curve: &Curve<'_>) -> f64 {
    let half = curve.values.iter().find(|(fraction, _)| *fraction >= 0.5);
    half.map_or(f64::NAN, |(_, value)| *value)
}

fn draw(results: &Results, subject: Subject, curves: &[Curve<'_>]) -> Option<String> {
    let values = curves.iter().flat_map(|curve| curve.values.iter().map(|(_, value)| *value));
    let axis = Axis::of(values, [LEFT, RIGHT])?;
    let mut drawing = Drawing::new(HEIGHT);
    for (fraction, name) in FRACTIONS {
        drawing.line([LEFT, height(fraction)], [RIGHT, height(fraction)], "grid");
        drawing.text([LEFT - 8.0, height(fraction) + 4.0], Anchor::End, "tick", name);
    }
    for tick in axis.ticks(50.0) {
        drawing.line([axis.at(tick), BOTTOM], [axis.at(tick), BOTTOM + 5.0], "axis");
        drawing.text([axis.at(tick), BOTTOM + 20.0], Anchor::Middle, "tick", &time(tick));
    }
    drawing.text(
        [f64::midpoint(LEFT, RIGHT), HEIGHT - 6.0],
        Anchor::Middle,
        "axis-name",
        "latency, logarithmic",
    );

    let paths: Vec<Vec<[f64; 2]>> = curves
        .iter()
        .map(|curve| curve.values.iter().map(|(part, value)| [axis.at(*value), height(*part)]).collect())
        .collect();
    let mut labels = Labels::new([LEFT, TOP, WIDTH, BOTTOM], &paths);
    for (i, curve) in curves.iter().enumerate() {
        let class = cast::class(results, curve.contestant);
        drawing.path(&paths[i], &format!("curve {class}"));
        if let Some(placed) = labels.place(i, cast::title(curve.contestant)) {
            if let Some([from, to]) = placed.leader {
                drawing.line(from, to, &format!("leader {class}"));
                drawing.dot(from, 2.4, &format!("mark {class}"));
            }
            let name = cast::title(curve.contestant);
            drawing.text(placed.at, placed.anchor, &format!("name {class}"), name);
        }
    }
    let told: Vec<String> = curves
        .iter()
        .map(|curve| format!("{}: median {}", cast::title(curve.contestant), amount(at_half(curve), "µs")))
        .collect();
    Some(drawing.finish(subject.id, subject.title, &told.join("; ")))
}

/// Each further nine is as far as the one before.
fn height(fraction: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * -(1.0 - fraction).log10() / NINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_between_two_points_is_on_their_line() {
        let points = [[100.0, 0.5], [200.0, 0.9], [300.0, 1.0]];
        assert_eq!(value_at(&points, 0.1), 100.0);
        assert!((value_at(&points, 0.7) - 150.0).abs() < 1e-9);
        assert_eq!(value_at(&points, 1.0), 300.0);
    }
}
