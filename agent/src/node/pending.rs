//! What the node has tried in vain, and tries again until it holds.

use std::time::{Duration, Instant};

/// How soon after the first failure it is tried again; after each further one twice as long, up to the bound.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Something that has failed, and when it is tried again.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    pub reason: String,
    failures: u32,
    pub at: Instant,
}

impl Pending {
    /// What follows from an attempt: nothing is pending once it holds. A failure is logged when it is another than before.
    pub fn after(before: Option<Self>, attempt: Result<(), String>, what: &str) -> Option<Self> {
        let (reason, before) = match (attempt, before) {
            (Ok(()), Some(_)) => {
                tracing::info!("{what}: it holds again");
                return None;
            }
            (Ok(()), None) => return None,
            (Err(reason), before) => (reason, before),
        };
        if before.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::error!("{what}: {reason}; it is tried until it holds");
        }
        let failures = before.map_or(0, |before| before.failures + 1);
        Some(Self { reason, failures, at: Instant::now() + delay(failures) })
    }

    /// Whether it is time to try again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.at <= now
    }
}

/// How long to wait after so many failures in a row before the last one.
pub fn delay(failures: u32) -> Duration {
    (FIRST_RETRY * (1 << failures.min(10))).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_and_again_ever_more_rarely_until_it_holds() {
        let mut pending = None;
        let mut waits = vec![];
        for _ in 0..8 {
            let begun = Instant::now();
            pending = Pending::after(pending, Err("the map is full".into()), "policies");
            let told = pending.as_ref().unwrap();
            assert!(!told.is_due(begun) && told.is_due(told.at));
            waits.push((told.at - begun).as_millis() / 500);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(Pending::after(pending, Ok(()), "policies"), None);
        assert_eq!(Pending::after(None, Ok(()), "policies"), None);
    }
}
