//! The noisy neighbour: a victim's latencies alone and beside floods.
//!
//! Points on a logarithmic axis, not bars: latencies go over two or three powers of ten, and a bar has to begin at 0.

use super::axis::{Axis, time};
use super::drawing::{Anchor, Drawing};
use super::label::short;
use super::{Figure, WIDTH};
use crate::bench::report::cast;
use crate::bench::report::number::amount;
use crate::bench::results::Results;

const ID: &str = "neighbour";
const TITLE: &str = "A victim's latency beside a noisy neighbour";
const CASES: [(&str, &str); 4] = [
    ("neighbour-alone", "alone"),
    ("neighbour-bulk", "beside bulk transfers"),
    ("neighbour-connections", "beside 1,000 busy connections"),
    ("neighbour-handshakes", "beside new connections"),
];
const METRICS: [&str; 3] = ["latency_p50", "latency_p99", "latency_p999"];

const LEFT: f64 = 112.0;
/// The value of the slowest is right of it.
const RIGHT: f64 = WIDTH - 66.0;
const HEAD: f64 = 24.0;
const ROW: f64 = 19.0;

struct Row<'a> {
    contestant: &'a str,
    /// p50, p99, p99.9 in µs.
    latencies: [Option<f64>; 3],
}

pub fn figure(results: &Results) -> Figure {
    let caption = "The victim makes 1,000 requests a second; the neighbour uses the same nodes and CPUs. \
        <span class=\"glyph\">●</span> half, <span class=\"glyph\">○</span> 99 %, <span class=\"glyph\">❘</span> 99.9 % \
        of its requests took no longer; the number is the 99.9 %. The axis is logarithmic.";
    Figure { id: ID, title: TITLE, caption: caption.to_owned(), svg: draw(results) }
}

fn draw(results: &Results) -> Option<String> {
    let groups: Vec<(&str, Vec<Row<'_>>)> = CASES
        .into_iter()
        .map(|(case, title)| (title, rows(results, case)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let all =
        groups.iter().flat_map(|(_, rows)| rows.iter().flat_map(|row| row.latencies.into_iter().flatten()));
    let axis = Axis::of(all, [LEFT, RIGHT])?;
    let lines: usize = groups.iter().map(|(_, rows)| rows.len()).sum();
    let bottom = groups.len() as f64 * (HEAD + 4.0) + lines as f64 * ROW;
    let mut drawing = Drawing::new(bottom + 44.0);
    for tick in axis.ticks(50.0) {
        drawing.line([axis.at(tick), 4.0], [axis.at(tick), bottom], "grid");
        drawing.text([axis.at(tick), bottom + 20.0], Anchor::Middle, "tick", &time(tick));
    }
    let middle = [f64::midpoint(LEFT, RIGHT), bottom + 38.0];
    drawing.text(middle, Anchor::Middle, "axis-name", "latency, logarithmic");
    let (mut top, mut told) = (0.0, vec![]);
    for (title, rows) in groups {
        drawing.text([0.0, top + 17.0], Anchor::Start, "group", title);
        top += HEAD;
        for row in rows {
            told.push(format!("{title}, {}", draw_row(&mut drawing, results, &axis, top + ROW / 2.0, &row)));
            top += ROW;
        }
        top += 4.0;
    }
    Some(drawing.finish(ID, TITLE, &told.join("; ")))
}

/// Gives what was drawn, in words.
fn draw_row(drawing: &mut Drawing, results: &Results, axis: &Axis, y: f64, row: &Row<'_>) -> String {
    let class = cast::class(results, row.contestant);
    let title = cast::title(row.contestant);
    drawing.text([0.0, y + 4.0], Anchor::Start, &format!("name {class}"), &short(title, 13));
    let measured: Vec<f64> = row.latencies.into_iter().flatten().collect();
    if let (Some(first), Some(last)) = (measured.first(), measured.last()) {
        drawing.line([axis.at(*first), y], [axis.at(*last), y], &format!("span {class}"));
        drawing.text([RIGHT + 8.0, y + 4.0], Anchor::Start, "value", &amount(*last, "µs"));
    }
    let [p50, p99, p999] = row.latencies.map(|value| value.map(|value| axis.at(value)));
    if let Some(x) = p999 {
        drawing.line([x, y - 6.0], [x, y + 6.0], &format!("curve {class}"));
    }
    if let Some(x) = p99 {
        drawing.dot([x, y], 4.2, &format!("ring {class}"));
    }
    if let Some(x) = p50 {
        drawing.dot([x, y], 4.2, &format!("mark {class}"));
    }
    let listed: Vec<String> = measured.iter().map(|value| amount(*value, "µs")).collect();
    format!("{title}: {}", listed.join(", "))
}

fn rows<'a>(results: &'a Results, case: &str) -> Vec<Row<'a>> {
    let row = |contestant| Row {
        contestant,
        latencies: METRICS.map(|metric| Some(results.series(contestant, case, metric)?.median)),
    };
    let measured = |row: &Row<'_>| row.latencies.iter().any(Option::is_some);
    cast::contestants(results).into_iter().map(row).filter(measured).collect()
}
