//! When a certificate is renewed. Pure: time and chance come in as arguments.

use std::time::Duration;
use time::OffsetDateTime;

/// Renewal falls into this part of a certificate's life: late enough to be cheap, early enough that an
/// authority may be away for a third of it. The spread keeps the pods of a node from asking all at once.
const EARLIEST: f64 = 0.5;
const LATEST: f64 = 0.7;

/// So far into its life a certificate should long have a successor: a renewal that was late and a few that failed are over
/// by then, and a quarter of the life is left to mend what keeps it.
const OVERDUE: f64 = 0.75;

/// Where `chance` (0 to 1) puts the renewal of a certificate that was issued at `issued`.
pub fn renewal_time(issued: OffsetDateTime, not_after: OffsetDateTime, chance: f64) -> OffsetDateTime {
    part_of_life(issued, not_after, EARLIEST + (LATEST - EARLIEST) * chance.clamp(0.0, 1.0))
}

/// From when on a certificate without a successor is a matter for people.
pub fn overdue_time(issued: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    part_of_life(issued, not_after, OVERDUE)
}

fn part_of_life(issued: OffsetDateTime, not_after: OffsetDateTime, part: f64) -> OffsetDateTime {
    issued + (not_after - issued).max(time::Duration::ZERO) * part
}

/// Back-off between failed attempts: doubling, capped, with jitter of ±25 %.
#[derive(Debug)]
pub struct Retry {
    failures: u32,
    longest: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    /// For certificates that live this long: a short life leaves a few attempts, too.
    pub fn within(lifetime: Duration) -> Self {
        Self { failures: 0, longest: (lifetime / 20).clamp(Self::FIRST, Self::LONGEST) }
    }

    /// How long to wait after one more failure; `chance` from 0 to 1.
    pub fn next_delay(&mut self, chance: f64) -> Duration {
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        delay.mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_falls_between_half_and_seven_tenths_of_the_life() {
        let issued = OffsetDateTime::UNIX_EPOCH;
        let end = issued + time::Duration::hours(24);
        for (chance, hours) in [(0.0, 12.0), (0.5, 14.4), (1.0, 16.8), (7.0, 16.8)] {
            let at = renewal_time(issued, end, chance);
            assert!(((at - issued).as_seconds_f64() / 3600.0 - hours).abs() < 1e-6, "{chance}: {at}");
        }
    }

    #[test]
    fn a_renewal_is_overdue_after_three_quarters_of_the_life() {
        let issued = OffsetDateTime::UNIX_EPOCH;
        let overdue = overdue_time(issued, issued + time::Duration::hours(24));
        assert_eq!(overdue, issued + time::Duration::hours(18));
    }

    #[test]
    fn a_certificate_without_life_left_is_renewed_at_once() {
        let issued = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(renewal_time(issued, issued - time::Duration::hours(1), 0.5), issued);
    }

    #[test]
    fn retries_back_off_to_a_bound() {
        let mut retry = Retry::within(Duration::from_secs(24 * 3600));
        let delays: Vec<_> = (0..40).map(|_| retry.next_delay(0.5)).collect();
        assert_eq!(delays[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(delays[39], Duration::from_secs(30));
        let mut retry = Retry::within(Duration::from_secs(10));
        assert_eq!((0..40).map(|_| retry.next_delay(0.5)).last(), Some(Duration::from_millis(500)));
    }
}
