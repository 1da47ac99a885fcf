//! Bad days of a node, measured: what captured pods send and accept in plain meanwhile (nothing), how long it takes until
//! all is well again, and what the agent says of it. `--nocapture` prints a line for each, of which a table can be made:
//!
//! `bad day | plain packets | time to heal | readiness | metrics`

mod clock;
mod day;
mod needles;
mod objects;
mod places;
mod reboot;
mod room;
mod runtime;
mod second;

use std::time::Duration;

const SECONDS_10: Duration = Duration::from_secs(10);
/// The agents' audits come this often in here, so that a wrong one does its harm while the test looks.
const AUDIT: &str = "--audit-interval=500ms";
