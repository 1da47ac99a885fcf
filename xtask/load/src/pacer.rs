//! Hands out the requests of an open loop when they are due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use tokio::sync::Semaphore;

use crate::schedule::Schedule;
use crate::timer::Timer;

/// A queue of requests that are due. Whoever can send takes the oldest; while nobody can, they wait here.
pub struct Pacer {
    schedule: Schedule,
    end: Instant,
    /// All that are due before the end.
    all: u64,
    due: Semaphore,
    claimed: AtomicU64,
}

impl Pacer {
    /// Requests are handed out until `end`.
    pub fn new(schedule: Schedule, end: Instant) -> Self {
        let all = schedule.due_before(end);
        Self { schedule, end, all, due: Semaphore::new(0), claimed: AtomicU64::new(0) }
    }

    /// The time at which the next request was due, once it is; `None` after the end.
    pub async fn claim(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        Some(self.schedule.time(self.claimed.fetch_add(1, Ordering::Relaxed)))
    }

    /// Runs until the end.
    pub async fn run(&self) -> Result<()> {
        let timer = Timer::new()?;
        let mut released = 0;
        loop {
            let now = Instant::now();
            let due = self.schedule.due(now).min(self.all);
            self.due.add_permits((due - released) as usize);
            released = due;
            if now >= self.end {
                self.due.close();
                return Ok(());
            }
            timer.wait_until(self.schedule.time(released).min(self.end)).await?;
        }
    }

    /// When those were due that nobody took. For after the end.
    pub fn left(&self) -> impl Iterator<Item = Instant> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        (claimed..self.all).map(|number| self.schedule.time(number))
    }
}
