//! What this process says of itself to its probes, and what it goes by: a heartbeat, and the last thing it knew.
//!
//! Nobody else answers for it, and it answers for nobody else: of two agents on one node each has its own.

use crate::admin::Probes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// How often the node core turns at least. One whose turns are far apart computes, or is stuck.
pub const TURN_EVERY: Duration = Duration::from_secs(1);

/// After so long without a turn what is known is no news any more, and the process is not ready.
const STALE_AFTER: Duration = Duration::from_secs(20);

/// After so long without a turn the process is not live: only another one can help. One that computes must not be killed,
/// because its successor would have to compute the same, with every worker's connections gone. A mesh of 150,000 pods takes
/// seconds (docs/scale.md); an audit waits a second for each worker that is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Shared by the node core, which tells, and the health servers, which answer.
pub struct Health {
    state: Mutex<State>,
    /// What keeps the node from being served as it should be; empty once nothing does.
    waits_for: watch::Sender<Vec<String>>,
}

struct State {
    turned: Instant,
    known: Known,
    at: Instant,
    at_date: OffsetDateTime,
}

/// What the process is at.
enum Known {
    /// Serves the node, as soon as these are there.
    Serves(Vec<String>),
    /// Another agent serves the node; this one could take over as soon as these are there.
    StandsBy(Vec<String>),
    /// On its way out.
    Ends(&'static str),
}

impl Default for Health {
    fn default() -> Self {
        let first = vec!["the first look at the mesh".to_owned()];
        let state = State {
            turned: Instant::now(),
            known: Known::Serves(first.clone()),
            at: Instant::now(),
            at_date: OffsetDateTime::now_utc(),
        };
        Self { state: Mutex::new(state), waits_for: watch::Sender::new(first) }
    }
}

impl Health {
    /// The node core has turned once more.
    pub fn turn(&self) {
        self.state().turned = Instant::now();
    }

    /// The agent serves the node, but for what it waits for.
    pub fn serves(&self, waits_for: Vec<String>) {
        self.waits_for.send_replace(waits_for.clone());
        self.know(Known::Serves(waits_for));
    }

    /// Another agent serves the node. This one could, but for what it lacks.
    pub fn stands_by(&self, lacks: Vec<String>) {
        self.know(Known::StandsBy(lacks));
    }

    /// The agent does so from now on, and is ready no more.
    pub fn ends(&self, how: &'static str) {
        self.waits_for.send_replace(vec![format!("nothing: {how}")]);
        self.know(Known::Ends(how));
    }

    /// Nothing has changed.
    pub fn still(&self) {
        let mut state = self.state();
        let now = Instant::now();
        (state.turned, state.at, state.at_date) = (now, now, OffsetDateTime::now_utc());
    }

    /// What the node waits for to be served as it should be, now and at every change. An agent that stands by waits.
    pub fn waits_for(&self) -> watch::Receiver<Vec<String>> {
        self.waits_for.subscribe()
    }

    fn know(&self, known: Known) {
        let now = Instant::now();
        *self.state() = State { turned: now, known, at: now, at_date: OffsetDateTime::now_utc() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn live(&self, now: Instant) -> Result<(), String> {
        let age = now.saturating_duration_since(self.turned);
        match age <= STUCK_AFTER {
            true => Ok(()),
            false => Err(format!("the node core has not turned for {} s: it is stuck", age.as_secs())),
        }
    }

    fn ready(&self, now: Instant) -> Result<String, String> {
        let age = now.saturating_duration_since(self.at);
        let date = self.at_date.replace_nanosecond(0).unwrap_or(self.at_date);
        let date = date.format(&Rfc3339).unwrap_or_else(|_| date.to_string());
        let dated = |said: String| format!("{said}\nas of {date}, {:.1} s ago", age.as_secs_f32());
        if age > STALE_AFTER {
            return Err(dated("waiting for news of the node core, which computes or is stuck".to_owned()));
        }
        match &self.known {
            Known::Serves(waits) if waits.is_empty() => Ok(dated("ready".to_owned())),
            Known::Serves(waits) => Err(dated(format!("waiting for {}", waits.join(", ")))),
            Known::StandsBy(lacks) if lacks.is_empty() => {
                Ok(dated("ready to take over: another agent serves the node until it ends".to_owned()))
            }
            Known::StandsBy(lacks) => Err(dated(format!(
                "standing by, and waiting for {} before it could take over",
                lacks.join(", ")
            ))),
            Known::Ends(how) => Err(dated(format!("not ready: {how}"))),
        }
    }
}

impl Probes for Health {
    fn live(&self) -> Result<(), String> {
        self.state().live(Instant::now())
    }

    fn ready(&self) -> Result<String, String> {
        self.state().ready(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    // proves: OPS-3
    #[test]
    fn readiness_says_of_when_it_is_and_that_nothing_is_known_any_more() {
        let health = Health::default();
        health.serves(vec![]);
        let state = health.state();
        let said = state.ready(state.at + seconds(2)).unwrap();
        assert!(said.starts_with("ready\nas of 2") && said.ends_with("Z, 2.0 s ago"), "{said}");
        let said = state.ready(state.at + STALE_AFTER + seconds(1)).unwrap_err();
        assert!(
            said.starts_with("waiting for news of the node core") && said.ends_with(" 21.0 s ago"),
            "{said}"
        );
    }

    #[test]
    fn a_core_that_computes_is_live_and_one_that_is_stuck_is_not() {
        let health = Health::default();
        let state = health.state();
        assert_eq!(state.live(state.turned + seconds(59)), Ok(()));
        let said = state.live(state.turned + seconds(61)).unwrap_err();
        assert_eq!(said, "the node core has not turned for 61 s: it is stuck");
    }

    #[test]
    fn an_agent_that_stands_by_is_ready_by_its_own_checks_and_the_node_waits_all_the_same() {
        let health = Health::default();
        health.stands_by(vec!["the API server".into()]);
        let said = health.ready().unwrap_err();
        assert!(said.starts_with("standing by, and waiting for the API server"), "{said}");
        health.stands_by(vec![]);
        assert!(health.ready().unwrap().starts_with("ready to take over"));
        // The startup taint stays until the node is served by this agent.
        assert!(!health.waits_for().borrow().is_empty());
        health.serves(vec![]);
        assert!(health.waits_for().borrow().is_empty());
    }

    #[test]
    fn an_agent_that_drains_says_so() {
        let health = Health::default();
        health.serves(vec![]);
        health.ends("the agent is draining");
        let said = health.ready().unwrap_err();
        assert!(said.starts_with("not ready: the agent is draining\n"), "{said}");
        assert!(health.live().is_ok());
    }
}
