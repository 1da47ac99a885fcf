//! Collects what happened during a run.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::{Counted, Latency, Report};

/// Longer latencies count as this.
const LONGEST: Duration = Duration::from_secs(100);
/// Digits that a latency keeps: 0.1 %.
const DIGITS: u8 = 3;

/// The measured time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub begin: Instant,
    pub end: Instant,
}

impl Window {
    pub fn contains(&self, moment: Instant) -> bool {
        self.begin <= moment && moment < self.end
    }
}

/// Counts and latencies of one run.
pub struct Recorder {
    window: Window,
    /// In ns.
    latencies: Histogram<u64>,
    measured: Counted,
    all: Counted,
    errors: u64,
    first_error: Option<String>,
}

impl Recorder {
    pub fn new(window: Window) -> Self {
        // The bounds are constants of this file, and these are taken.
        let latencies = Histogram::new_with_max(LONGEST.as_nanos() as u64, DIGITS)
            .expect("these bounds make a histogram");
        let (measured, all) = Default::default();
        Self { window, latencies, measured, all, errors: 0, first_error: None }
    }

    pub fn window(&self) -> Window {
        self.window
    }

    /// Something has completed. It counts when `moment` is in the window: of a closed loop the time of its end, so
    /// that a window holds what was done in it; of an open loop the time at which it was due, so that a late answer is
    /// not lost.
    pub fn completed(&mut self, moment: Instant, latency: Duration, bytes: u64) {
        self.all.requests += 1;
        self.all.bytes += bytes;
        if self.window.contains(moment) {
            self.measured.requests += 1;
            self.measured.bytes += bytes;
            self.latencies.saturating_record(latency.as_nanos() as u64);
        }
    }

    /// Something has failed.
    pub fn failed(&mut self, error: impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Something that was due in the window has not been answered when the run ended. It is an error, and it has
    /// waited for as long as that: leaving it out of the latencies would praise whoever answers least.
    pub fn unanswered(&mut self, due: Instant, now: Instant, error: impl ToString) {
        self.failed(error);
        if self.window.contains(due) {
            self.latencies.saturating_record((now - due).as_nanos() as u64);
        }
    }

    pub fn report(self) -> Report {
        Report {
            seconds: (self.window.end - self.window.begin).as_secs_f64(),
            requests: self.measured.requests,
            bytes: self.measured.bytes,
            errors: self.errors,
            first_error: self.first_error,
            latency: latency(&self.latencies),
            with_warm_up: self.all,
        }
    }
}

fn latency(latencies: &Histogram<u64>) -> Option<Latency> {
    let micros = |nanos: f64| nanos / 1000.0;
    let at = |fraction: f64| micros(latencies.value_at_quantile(fraction) as f64);
    (!latencies.is_empty()).then(|| Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: micros(latencies.max() as f64),
        mean: micros(latencies.mean()),
        cdf: fractions(latencies.len()).map(|fraction| (at(fraction), fraction)).collect(),
    })
}

/// Where the distribution is drawn: every percent, and twenty points for each further nine, as far as there are
/// samples to tell.
fn fractions(samples: u64) -> impl Iterator<Item = f64> {
    let percents = (1..100).map(|percent| f64::from(percent) / 100.0);
    let tail = (41..=99).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 20.0));
    let told = 1.0 - 1.0 / samples as f64;
    percents.chain(tail.take_while(move |fraction| *fraction < told)).chain([1.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let begin = Instant::now();
        Window { begin, end: begin + Duration::from_secs(1) }
    }

    #[test]
    fn only_the_window_is_measured_and_everything_is_counted() {
        let window = window();
        let mut recorder = Recorder::new(window);
        for moment in [window.begin - Duration::from_nanos(1), window.begin, window.end] {
            recorder.completed(moment, Duration::from_micros(10), 5);
        }
        let report = recorder.report();
        assert_eq!((report.requests, report.bytes, report.seconds), (1, 5, 1.0));
        assert_eq!(report.with_warm_up, Counted { requests: 3, bytes: 15 });
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let window = window();
        let mut recorder = Recorder::new(window);
        for micros in 1..=10_000 {
            recorder.completed(window.begin, Duration::from_micros(micros), 0);
        }
        let latency = recorder.report().latency.unwrap();
        for (is, wanted) in [
            (latency.p50, 5000.0),
            (latency.p90, 9000.0),
            (latency.p99, 9900.0),
            (latency.p999, 9990.0),
            (latency.max, 10_000.0),
            (latency.mean, 5000.5),
        ] {
            assert!((is / wanted - 1.0).abs() < 0.002, "{is} is not {wanted}");
        }
        assert!(latency.cdf.len() <= 200 && latency.cdf.is_sorted());
        assert_eq!(latency.cdf.last().unwrap().1, 1.0);
    }

    #[test]
    fn what_was_never_answered_is_an_error_and_has_a_latency() {
        let window = window();
        let mut recorder = Recorder::new(window);
        recorder.unanswered(window.begin, window.end, "never sent");
        let report = recorder.report();
        assert_eq!(
            (report.requests, report.errors, report.first_error.as_deref()),
            (0, 1, Some("never sent"))
        );
        assert!(report.latency.unwrap().p50 >= 1e6);
    }

    #[test]
    fn nothing_completed_has_no_latency() {
        assert_eq!(Recorder::new(window()).report().latency, None);
    }
}
