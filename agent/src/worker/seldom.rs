//! What strangers can make a worker log: a few lines at once, then one now and then, with a count of those left out.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// So many lines at once are logged.
const AT_ONCE: u32 = 20;

/// Afterwards one in this time.
const EVERY: Duration = Duration::from_secs(5);

/// One kind of event of one pod.
pub(super) struct Seldom {
    left: Cell<u32>,
    since: Cell<Instant>,
    left_out: Cell<u64>,
}

impl Default for Seldom {
    fn default() -> Self {
        Self { left: Cell::new(AT_ONCE), since: Cell::new(Instant::now()), left_out: Cell::new(0) }
    }
}

impl Seldom {
    /// Whether to log one more, and how many were left out since the last; `None` leaves this one out.
    pub fn next(&self) -> Option<u64> {
        let earned = self.since.get().elapsed().as_millis() / EVERY.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(AT_ONCE);
            self.left.set(self.left.get().saturating_add(earned).min(AT_ONCE));
            self.since.set(Instant::now());
        }
        match self.left.get() {
            0 => {
                self.left_out.set(self.left_out.get() + 1);
                None
            }
            left => {
                self.left.set(left - 1);
                Some(self.left_out.take())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: ISO-1
    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_of_now_and_then_with_a_count_of_what_was_left_out() {
        let seldom = Seldom::default();
        let logged = (0..1000).filter_map(|_| seldom.next()).collect::<Vec<_>>();
        assert_eq!(logged, [0; AT_ONCE as usize]);
        tokio::time::advance(EVERY).await;
        assert_eq!(seldom.next(), Some(1000 - u64::from(AT_ONCE)));
        assert_eq!(seldom.next(), None);
        tokio::time::advance(EVERY * 1000).await;
        assert_eq!((0..1000).filter_map(|_| seldom.next()).count(), AT_ONCE as usize);
    }
}
