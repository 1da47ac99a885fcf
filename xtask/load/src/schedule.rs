//! When the requests of an open loop are due: a function of the rate alone, so that nothing a server does can shift
//! it ("coordinated omission": Gil Tene, "How NOT to Measure Latency").

use std::time::{Duration, Instant};

/// Requests at a fixed rate from `start` on; the first is due at `start` itself.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    /// Requests a second.
    rate: f64,
}

impl Schedule {
    /// `rate` is in requests a second and above 0.
    pub fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate }
    }

    /// When the request with this number is due. Computed from its number, not from its predecessor: rounding does
    /// not add up.
    pub fn time(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos((number as f64 * 1e9 / self.rate).round() as u64)
    }

    /// How many requests are due before `end`.
    pub fn due_before(&self, end: Instant) -> u64 {
        end.checked_sub(Duration::from_nanos(1)).map_or(0, |last| self.due(last))
    }

    /// How many requests are due by `now`, that moment included.
    pub fn due(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else { return 0 };
        // Close; the exact answer is the one that agrees with `time`.
        let mut due = (elapsed.as_nanos() as f64 * self.rate / 1e9) as u64;
        while due > 0 && self.time(due - 1) > now {
            due -= 1;
        }
        while self.time(due) <= now {
            due += 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_multiples_of_the_interval() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 4000.0);
        for (number, micros) in [(0, 0), (1, 250), (4000, 1_000_000), (400_000_000, 100_000_000_000)] {
            assert_eq!(schedule.time(number) - start, Duration::from_micros(micros));
        }
    }

    #[test]
    fn a_request_is_due_at_its_time_and_not_before() {
        let start = Instant::now();
        for rate in [0.3, 1.0, 7.0, 3333.3, 1e6, 1e9 / 3.0] {
            let schedule = Schedule::new(start, rate);
            for number in (0..2000).chain(1_000_000..1_002_000) {
                let time = schedule.time(number);
                assert!(schedule.due(time) > number, "number {number} at rate {rate}");
                let before = schedule.due(time - Duration::from_nanos(1));
                assert!(before <= number, "number {number} at rate {rate}: {before} are due before it");
            }
        }
    }

    #[test]
    fn a_second_holds_as_many_requests_as_the_rate() {
        let start = Instant::now();
        assert_eq!(Schedule::new(start, 4000.0).due_before(start + Duration::from_secs(1)), 4000);
        assert_eq!(Schedule::new(start, 4000.0).due_before(start), 0);
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let start = Instant::now() + Duration::from_secs(1);
        assert_eq!(Schedule::new(start, 1e6).due(start - Duration::from_nanos(1)), 0);
        assert_eq!(Schedule::new(start, 1e6).due(start), 1);
    }
}
