//! CPU time, stacked: who spends it.

use super::drawing::{Anchor, Drawing};
use super::label::short;
use super::{Figure, WIDTH};
use crate::bench::report::cast;
use crate::bench::report::number::{amount, number, times};
use crate::bench::report::table;
use crate::bench::results::Results;

#[derive(Clone, Copy)]
pub struct Subject {
    case: &'static str,
    metric: &'static str,
    id: &'static str,
    title: &'static str,
    of: &'static str,
}

pub const REQUESTS: Subject = Subject {
    case: "http1-c32",
    metric: "cpu_ms_per_kreq",
    id: "cpu-requests",
    title: "CPU time of 1,000 requests, 32 connections",
    of: "1,000 requests",
};
pub const BULK: Subject = Subject {
    case: "bulk-1",
    metric: "cpu_s_per_gb",
    id: "cpu-bulk",
    title: "CPU time of a gigabyte, one stream",
    of: "10⁹ bytes",
};

/// The parts of a metric, from the left: how their names begin, and their classes.
const PARTS: [&str; 3] = ["app", "mesh", "kernel"];
const ROW: f64 = 46.0;
const BAR: f64 = 18.0;
/// Right of the longest bar: `1,234 ms · 12.3 ×`.
const ROOM: f64 = 122.0;

pub fn figure(results: &Results, subject: Subject) -> Figure {
    let caption = format!(
        "Of everything on the machine, for {}: <span class=\"swatch app\"></span> both apps and the load generator, \
         <span class=\"swatch mesh\"></span> the mesh (agents or sidecars) in its colour, \
         <span class=\"swatch kernel\"></span> the rest of the kernel's work, interrupts above all. \
         × is the ratio to the baseline.",
        subject.of
    );
    Figure { id: subject.id, title: subject.title, caption, svg: draw(results, subject) }
}

fn draw(results: &Results, subject: Subject) -> Option<String> {
    let total = |name: &str| Some(results.series(name, subject.case, subject.metric)?.median);
    let rows: Vec<(&str, f64)> =
        cast::contestants(results).into_iter().filter_map(|name| Some((name, total(name)?))).collect();
    let most = rows.iter().map(|(_, total)| *total).reduce(f64::max).filter(|most| *most > 0.0)?;
    let scale = (WIDTH - ROOM) / most;
    let mut drawing = Drawing::new(ROW * rows.len() as f64);
    let mut told = vec![];
    for (i, &(contestant, total)) in rows.iter().enumerate() {
        let top = i as f64 * ROW + 18.0;
        let class = cast::class(results, contestant);
        let title = cast::title(contestant);
        drawing.text([0.0, top - 5.0], Anchor::Start, &format!("name {class}"), &short(title, 40));
        let parts = parts(results, subject, contestant);
        if parts.is_none() {
            drawing.rect([0.0, top], [total * scale, BAR], "whole");
        }
        let mut left = 0.0;
        for (part, value) in parts.into_iter().flatten() {
            let width = value * scale;
            drawing.rect([left, top], [width, BAR], &format!("part {part} {class}"));
            if part == "mesh" && width > 44.0 {
                let middle = [left + width / 2.0, top + 13.5];
                drawing.text(middle, Anchor::Middle, "inside", &number(value));
            }
            left += width;
        }
        let unit = &results.series(contestant, subject.case, subject.metric)?.unit;
        let ratio = table::ratio(results, contestant, subject.case, subject.metric);
        let text = match ratio {
            Some(ratio) => format!("{} · {}", amount(total, unit), times(ratio.value)),
            None => amount(total, unit),
        };
        drawing.text([left.max(total * scale) + 7.0, top + 13.5], Anchor::Start, "value", &text);
        told.push(format!("{title}: {text}"));
    }
    Some(drawing.finish(subject.id, subject.title, &told.join("; ")))
}

/// The parts; none when one of them was not measured, for then the others do not tell who spends how much.
fn parts(results: &Results, subject: Subject, contestant: &str) -> Option<Vec<(&'static str, f64)>> {
    let part = |part: &'static str| {
        let series = results.series(contestant, subject.case, &format!("{part}_{}", subject.metric))?;
        Some((part, series.median.max(0.0)))
    };
    PARTS.into_iter().map(part).collect()
}
