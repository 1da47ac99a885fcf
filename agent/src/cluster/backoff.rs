//! How long to wait before the next try.

use rand::Rng;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);

/// Doubles from try to try, up to a bound. Each wait is a random part of it, so that the nodes of a cluster do not come back
/// all at once.
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_anew() {
        let mut backoff = Backoff::up_to(Duration::from_secs(1));
        let is_within = |wait: Duration, most: u64| (most / 2..=most).contains(&(wait.as_millis() as u64));
        for most in [200, 400, 800, 1000, 1000] {
            let wait = backoff.wait();
            assert!(is_within(wait, most), "{wait:?}");
        }
        backoff.reset();
        assert!(is_within(backoff.wait(), 200));
    }
}
