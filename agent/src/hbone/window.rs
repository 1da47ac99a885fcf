//! How much a peer may send unread: enough for the path's bandwidth × delay, and no more.
//!
//! A fixed window for 10 Gb/s × 50 ms would let one sleeping reader pile up 64 MiB in the agent. So a
//! connection's streams start small and grow while a measured round trip shows that the window holds the
//! sender back (as TCP's own receive buffer does, and hyper's adaptive window).

use std::cell::RefCell;
use std::time::Duration;
use tokio::time::Instant;

/// Where streams start: 80 Gb/s at 100 µs, a data centre's round trip.
pub(super) const INITIAL_WINDOW: u32 = 1 << 20;

/// Where growth ends: 10 Gb/s × 50 ms, rounded up.
const MAX_WINDOW: u32 = 64 << 20;

/// The first measurements follow each other quickly; once the window fits, they become rare.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Decides on the window from what arrives between a ping and its pong. No I/O, no clock.
#[derive(Debug)]
struct Estimator {
    window: u32,
    received: u64,
    pinged: bool,
    next: Option<Instant>,
    pause: Duration,
}

impl Estimator {
    fn new() -> Self {
        Self { window: INITIAL_WINDOW, received: 0, pinged: false, next: None, pause: SHORTEST_PAUSE }
    }

    /// Counts data; true asks for a ping.
    fn on_data(&mut self, bytes: usize, now: Instant) -> bool {
        if self.pinged {
            self.received += bytes as u64;
            return false;
        }
        if self.window >= MAX_WINDOW || self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.pinged = true;
        self.received = bytes as u64;
        true
    }

    /// The pong is here; a window to set, when two thirds of the present one were used in the round trip.
    fn on_pong(&mut self, now: Instant) -> Option<u32> {
        self.pinged = false;
        let tight = self.received * 3 > u64::from(self.window) * 2;
        self.pause = if tight { SHORTEST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.next = Some(now + self.pause);
        tight.then(|| {
            self.window = self.window.saturating_mul(2).min(MAX_WINDOW);
            self.window
        })
    }
}

/// A connection's estimator together with its means to measure.
pub(super) struct Tuner(RefCell<(Estimator, Option<h2::PingPong>)>);

impl Tuner {
    pub fn new(ping_pong: Option<h2::PingPong>) -> Self {
        Self(RefCell::new((Estimator::new(), ping_pong)))
    }

    /// A stream of the connection received data.
    pub fn on_data(&self, bytes: usize) {
        let (estimator, ping_pong) = &mut *self.0.borrow_mut();
        let Some(ping_pong) = ping_pong else { return };
        if estimator.on_data(bytes, Instant::now()) && ping_pong.send_ping(h2::Ping::opaque()).is_err() {
            estimator.pinged = false;
        }
    }

    /// To be called when the connection is polled: a window to set for its streams, if it has to grow.
    pub fn poll(&self, cx: &mut std::task::Context<'_>) -> Option<u32> {
        let (estimator, ping_pong) = &mut *self.0.borrow_mut();
        if !estimator.pinged {
            return None;
        }
        match ping_pong.as_mut()?.poll_pong(cx) {
            std::task::Poll::Ready(Ok(_)) => estimator.on_pong(Instant::now()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_holds_the_sender_back_grows_to_the_bound() {
        let mut estimator = Estimator::new();
        let mut now = Instant::now();
        let mut windows = vec![];
        for _ in 0..10 {
            now += LONGEST_PAUSE;
            if !estimator.on_data(1, now) {
                break;
            }
            estimator.on_data(estimator.window as usize, now);
            windows.extend(estimator.on_pong(now));
        }
        assert_eq!(windows, [2, 4, 8, 16, 32, 64].map(|mib: u32| mib << 20));
    }

    #[test]
    fn a_window_that_is_wide_enough_stays_and_is_measured_ever_more_rarely() {
        let mut estimator = Estimator::new();
        let now = Instant::now();
        assert!(estimator.on_data(1000, now));
        assert_eq!(estimator.on_pong(now), None);
        assert!(!estimator.on_data(1000, now + SHORTEST_PAUSE));
        assert!(estimator.on_data(1000, now + 2 * SHORTEST_PAUSE));
        assert_eq!(estimator.window, INITIAL_WINDOW);
    }
}
