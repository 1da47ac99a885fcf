//! Memory of the mesh over pods, and over open connections.

use super::axis::Axis;
use super::drawing::{Anchor, Drawing};
use super::label::{LINE, short, spread};
use super::{Figure, WIDTH, named};
use crate::bench::report::cast;
use crate::bench::report::memory::{self, Point};
use crate::bench::report::number::{amount, whole};
use crate::bench::results::Results;

const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
/// The curves' names are right of it.
const RIGHT: f64 = WIDTH - 138.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 44.0;

struct Line<'a> {
    contestant: &'a str,
    points: Vec<Point>,
    closed: Option<Point>,
}

struct Subject {
    id: &'static str,
    title: &'static str,
    across: &'static str,
}

pub fn pods(results: &Results) -> Figure {
    let subject = Subject { id: "memory-pods", title: "Memory of the mesh over pods", across: "idle pods" };
    let lines = lines(results, memory::PODS, |_| None);
    let caption = format!(
        "Proportional set size of all agents or all sidecars; both axes are logarithmic.{}",
        growths(results, &lines, "pod")
    );
    Figure { id: subject.id, title: subject.title, caption, svg: draw(results, &subject, &lines) }
}

pub fn connections(results: &Results) -> Figure {
    let subject = Subject {
        id: "memory-connections",
        title: "Memory of the mesh over open connections of one pod",
        across: "open connections",
    };
    let lines = lines(results, memory::OPEN, |name| memory::closed(results, name));
    let caption = format!(
        "Idle connections, all open at once; the ring is what stays after they were closed. Both axes are \
         logarithmic.{}",
        growths(results, &lines, "connection")
    );
    Figure { id: subject.id, title: subject.title, caption, svg: draw(results, &subject, &lines) }
}

fn lines<'a>(results: &'a Results, prefix: &str, closed: impl Fn(&str) -> Option<Point>) -> Vec<Line<'a>> {
    cast::contestants(results)
        .into_iter()
        .map(|contestant| {
            let mut points = memory::over(results, contestant, prefix);
            points.retain(|(n, kib)| *n > 0 && *kib > 0.0);
            Line { contestant, points, closed: closed(contestant) }
        })
        .filter(|line| !line.points.is_empty())
        .collect()
}

/// ` One more pod: Pillion 111 KiB, Envoy sidecar 50 MiB.`
fn growths(results: &Results, lines: &[Line<'_>], one: &str) -> String {
    let told: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let growth = memory::growth(&line.points)?;
            Some(format!("{} {}", named(results, line.contestant), amount(growth.each, "KiB")))
        })
        .collect();
    if told.is_empty() { String::new() } else { format!(" One more {one}: {}.", told.join(", ")) }
}

fn draw(results: &Results, subject: &Subject, lines: &[Line<'_>]) -> Option<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter().chain(&line.closed).copied());
    let across = Axis::of(points().map(|(n, _)| f64::from(n)), [LEFT, RIGHT])?;
    let up = Axis::of(points().map(|(_, kib)| kib / 1024.0), [BOTTOM, TOP])?;
    let at = |(n, kib): Point| [across.at(f64::from(n)), up.at(kib / 1024.0)];
    let mut drawing = Drawing::new(HEIGHT);
    for tick in up.ticks(22.0) {
        drawing.line([LEFT, up.at(tick)], [RIGHT, up.at(tick)], "grid");
        drawing.text([LEFT - 8.0, up.at(tick) + 4.0], Anchor::End, "tick", &tick_name(tick));
    }
    for tick in across.ticks(46.0) {
        drawing.line([across.at(tick), BOTTOM], [across.at(tick), BOTTOM + 5.0], "axis");
        drawing.text([across.at(tick), BOTTOM + 20.0], Anchor::Middle, "tick", &tick_name(tick));
    }
    let middle = [f64::midpoint(LEFT, RIGHT), HEIGHT - 6.0];
    drawing.text(middle, Anchor::Middle, "axis-name", &format!("{}; memory in MiB", subject.across));

    let ends: Vec<[f64; 2]> = lines.iter().filter_map(|line| line.points.last()).map(|p| at(*p)).collect();
    let heights: Vec<f64> = ends.iter().map(|[_, y]| *y).collect();
    // A name and its value are two lines.
    let places = spread(&heights, 2.0 * LINE + 4.0, [TOP, BOTTOM - LINE]);
    let mut told = vec![];
    for ((line, end), place) in lines.iter().zip(ends).zip(places) {
        let class = cast::class(results, line.contestant);
        let path: Vec<[f64; 2]> = line.points.iter().map(|point| at(*point)).collect();
        drawing.path(&path, &format!("curve {class}"));
        path.iter().for_each(|point| drawing.dot(*point, 3.2, &format!("mark {class}")));
        if let Some(closed) = line.closed {
            drawing.line(end, at(closed), &format!("after {class}"));
            drawing.dot(at(closed), 4.2, &format!("ring {class}"));
        }
        drawing.line([end[0] + 5.0, end[1]], [RIGHT + 16.0, place], &format!("leader {class}"));
        let (name, last) = (cast::title(line.contestant), line.points[line.points.len() - 1].1);
        drawing.text([RIGHT + 20.0, place + 4.0], Anchor::Start, &format!("name {class}"), &short(name, 15));
        drawing.text([RIGHT + 20.0, place + 4.0 + LINE], Anchor::Start, "value", &amount(last, "KiB"));
        let listed: Vec<String> =
            line.points.iter().map(|(n, kib)| format!("{n}: {}", amount(*kib, "KiB"))).collect();
        told.push(format!("{name}, memory at {} {}", subject.across, listed.join(", ")));
    }
    Some(drawing.finish(subject.id, subject.title, &told.join("; ")))
}

fn tick_name(tick: f64) -> String {
    if tick < 1.0 { format!("{tick}") } else { whole(tick) }
}
