//! Waiting for what has no event of its own.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};

use crate::ending;

/// How often a condition is looked at again: short beside what is waited for, cheap on two cores.
const EVERY: Duration = Duration::from_millis(5);

/// CLOCK_MONOTONIC in seconds, as Python's programs tell it, too.
pub fn now() -> f64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has it"));
    now.as_secs_f64()
}

/// Looks again and again until `found` gives something. A deadline that passes is an error that says what was
/// waited for; an error of `found` ends the wait at once.
pub fn until<T>(what: &str, timeout: Duration, found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(EVERY, what, timeout, found)
}

/// As [`until`], for a look that costs: this long passes between two.
pub fn until_every<T>(
    every: Duration,
    what: &str,
    timeout: Duration,
    mut found: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        ending::stand_still();
        if let Some(value) = found()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(every);
    }
}
