//! What is being measured, on standard error: one line that changes for people, a line for each case for everything
//! else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::results::Results;

pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `steps` measurements are to come.
    pub fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        let style =
            ProgressStyle::with_template("{spinner} {elapsed:.dim} {bar:24.cyan/dim} {pos}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Something is begun.
    pub fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// As [`Progress::now`], for what has no case of its own.
    pub fn say(&self, what: &str) {
        self.bar.suspend(|| eprintln!("{what}"));
    }

    /// A case is over: says its first metric, for all contestants.
    pub fn done(&self, case: &str, results: &Results) {
        self.bar.inc(1);
        let of_case: Vec<_> = results.results.iter().filter(|series| series.case == case).collect();
        let Some(first) = of_case.first() else { return self.say(&format!("{case:22} nothing measured")) };
        let medians: Vec<String> = of_case
            .iter()
            .filter(|series| series.metric == first.metric)
            .map(|series| format!("{} {}", series.contestant, significant(series.median)))
            .collect();
        self.say(&format!("{case:22} {} ({}): {}", first.metric, first.unit, medians.join(", ")));
    }

    /// Everything is measured.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// With three digits that mean something, as far as they are behind the point.
fn significant(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}
