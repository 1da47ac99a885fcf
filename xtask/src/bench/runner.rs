//! Takes turns: every contestant is measured once in every round, so that what the machine does meanwhile hits all of
//! them alike. A measurement in which the machine did something else is thrown away and taken again.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Error, Result};

use super::cost::cpu::Spent;
use super::metric::Metric;
use super::progress::Progress;
use super::quiet;
use super::results::{Disturbed, Results};

/// How often a disturbed measurement is taken again before it is kept as it is.
const REPEATS: usize = 2;

pub struct Runner {
    pub results: Arc<Mutex<Results>>,
    pub progress: Progress,
}

/// A case, as the runner sees it.
#[derive(Clone, Copy)]
pub struct Turns<'a> {
    pub case: &'a str,
    pub rounds: usize,
    /// How long each measurement takes.
    pub seconds: f64,
    /// A measurement before the first round, which is not kept; none where everything is new each time.
    pub warm_up: Option<f64>,
}

/// What one measurement gave.
#[derive(Default)]
pub struct Findings {
    pub values: Vec<(Metric, f64)>,
    /// Latencies (µs), and the fraction of all that are not greater.
    pub distribution: Vec<(f64, f64)>,
    /// What it took, where that tells whether the machine was quiet.
    pub spent: Option<Spent>,
}

impl Runner {
    pub fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().expect("no holder panics")
    }

    /// Measures all entrants (a contestant's name, and what is measured of it) in turns. One that fails is out of this
    /// case, and its reason is noted.
    pub fn take_turns<E>(
        &self,
        turns: Turns<'_>,
        entrants: Vec<(&str, E)>,
        measure: impl Fn(&E, f64) -> Result<Findings>,
    ) {
        let mut entrants = entrants;
        if let Some(seconds) = turns.warm_up {
            entrants.retain(|(name, entrant)| {
                self.progress.now(&format!("{} · {name} · warm-up", turns.case));
                self.succeeds(turns.case, name, measure(entrant, seconds))
            });
        }
        for round in 0..turns.rounds {
            entrants.retain(|(name, entrant)| {
                self.progress.now(&format!("{} · {name} · {}/{}", turns.case, round + 1, turns.rounds));
                let measured = self.measure(turns, name, round, || measure(entrant, turns.seconds));
                self.succeeds(turns.case, name, measured)
            });
        }
        self.progress.done(turns.case, &self.results());
    }

    /// Notes why there is no result. Errors show the ends of logs on lines of their own; a reason has one.
    pub fn miss(&self, case: &str, name: &str, error: &Error) {
        let words = format!("{error:#}");
        let words: Vec<&str> = words.split_whitespace().collect();
        self.results().miss(name, case, &words.join(" "));
    }

    fn succeeds<T>(&self, case: &str, name: &str, result: Result<T>) -> bool {
        result.inspect_err(|error| self.miss(case, name, error)).is_ok()
    }

    fn measure(
        &self,
        turns: Turns<'_>,
        name: &str,
        round: usize,
        measure: impl Fn() -> Result<Findings>,
    ) -> Result<()> {
        for repeat in 0..=REPEATS {
            let findings = measure()?;
            let Some(why) = findings.spent.as_ref().and_then(quiet::disturbance) else {
                self.keep(turns.case, name, &findings);
                break;
            };
            let last = repeat == REPEATS;
            self.results().disturbed.push(Disturbed {
                case: turns.case.to_owned(),
                contestant: name.to_owned(),
                round,
                why: if last { format!("{why}; kept after {REPEATS} repeats") } else { why },
            });
            if last {
                self.keep(turns.case, name, &findings);
            }
        }
        Ok(())
    }

    fn keep(&self, case: &str, name: &str, findings: &Findings) {
        let mut results = self.results();
        for (metric, value) in &findings.values {
            results.add(name, case, *metric, *value);
        }
        if !findings.distribution.is_empty() {
            results.add_distribution(name, case, &findings.distribution);
        }
    }
}
