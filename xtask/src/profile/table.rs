//! The profile in numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use pillion_load::Report;

use super::groups;
use super::perf::FREQUENCY;
use super::stacks::Stack;

/// How many functions are shown.
const TOP: usize = 40;

/// A sample's share of all, and what it is per unit of work.
struct Scale {
    samples: usize,
    /// CPU time of a sample per unit of work.
    cost: f64,
    unit: &'static str,
}

/// `time` is how long was sampled.
pub fn show(stacks: &[Stack], report: &Report, time: Duration) -> String {
    let scale = Scale::new(stacks.len(), report, time);
    let mut text = String::new();
    let rate = report.requests as f64 / report.seconds;
    let bits = report.bytes as f64 * 8e-9 / report.seconds;
    let cpus = stacks.len() as f64 / FREQUENCY as f64 / time.as_secs_f64();
    let _ = writeln!(
        text,
        "the load: {rate:.0} requests/s, {bits:.2} Gb/s; the agents: {cpus:.2} CPUs, {} samples",
        stacks.len()
    );
    scale.table(&mut text, "what for", stacks.iter().map(groups::of), usize::MAX);
    scale.table(&mut text, "thread", stacks.iter().map(|stack| stack.thread.as_str()), usize::MAX);
    scale.table(&mut text, "function, itself", stacks.iter().map(Stack::leaf), TOP);
    text
}

impl Scale {
    fn new(samples: usize, report: &Report, time: Duration) -> Self {
        // Load before and after the sampling is as the load during it: seconds of CPU time a second of the load.
        let share = report.seconds / time.as_secs_f64() / FREQUENCY as f64;
        let (cost, unit) = match report.requests {
            0 => (share / (report.bytes as f64 / 1e9), "s/GB"),
            requests => (share * 1e6 / requests as f64, "ms/1,000"),
        };
        Self { samples, cost, unit }
    }

    /// The biggest first.
    fn table<'a>(&self, text: &mut String, title: &str, keys: impl Iterator<Item = &'a str>, most: usize) {
        let mut counts = BTreeMap::<&str, usize>::new();
        keys.for_each(|key| *counts.entry(key).or_default() += 1);
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let _ = writeln!(text, "\n      %  {:>8}  {title}", self.unit);
        for (key, count) in rows.into_iter().take(most) {
            let (share, cost) = (100.0 * count as f64 / self.samples as f64, count as f64 * self.cost);
            let _ = writeln!(text, "{share:7.2}  {cost:8.3}  {key}");
        }
    }
}
