//! Memory as it grows with pods and with connections.

use crate::bench::metric::Metric;
use crate::bench::results::Results;

/// Cases `pods-N`: N idle pods.
pub const PODS: &str = "pods-";
/// Cases `open-N`: N open connections of one pod.
pub const OPEN: &str = "open-";
/// What a case is called after its connections are closed: `open-N-closed`.
pub const CLOSED: &str = "-closed";

/// How many there were, and the KiB then.
pub type Point = (u32, f64);

pub struct Growth {
    pub from: u32,
    pub to: u32,
    /// KiB for each one more.
    pub each: f64,
}

/// The memory at each N, in ascending order.
pub fn over(results: &Results, contestant: &str, prefix: &str) -> Vec<Point> {
    let mut points: Vec<Point> = memory(results, contestant)
        .filter_map(|(case, median)| Some((case.strip_prefix(prefix)?.parse().ok()?, median)))
        .collect();
    points.sort_by_key(|(n, _)| *n);
    points
}

/// What is left after the connections were closed: of the case with the most.
pub fn closed(results: &Results, contestant: &str) -> Option<Point> {
    let all = memory(results, contestant).filter_map(|(case, median)| {
        Some((case.strip_prefix(OPEN)?.strip_suffix(CLOSED)?.parse().ok()?, median))
    });
    all.max_by_key(|(n, _)| *n)
}

/// From the first to the last point; nothing of fewer than two.
pub fn growth(points: &[Point]) -> Option<Growth> {
    let (&(from, first), &(to, last)) = (points.first()?, points.last()?);
    (to > from).then(|| Growth { from, to, each: (last - first) / f64::from(to - from) })
}

fn memory<'a>(results: &'a Results, contestant: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let is_it = move |metric: &str, of: &str| of == contestant && metric == Metric::MeshMemory.name();
    let series = results.results.iter().filter(move |s| is_it(&s.metric, &s.contestant));
    series.map(|s| (s.case.as_str(), s.median))
}
