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

    /// The time at which the next request was due, once it is; `None` when all of them are taken. What was due before
    /// the end is handed out after it, too: a request that came late is the answer, not an error.
    pub async fn claim(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        (number < self.all).then(|| self.schedule.time(number))
    }

    /// Runs until the end. After it, each of so many takers is told when nothing is left.
    pub async fn run(&self, takers: usize) -> Result<()> {
        let timer = Timer::new()?;
        let mut released = 0;
        loop {
            let now = Instant::now();
            let due = self.schedule.due(now).min(self.all);
            self.due.add_permits((due - released) as usize);
            released = due;
            if now >= self.end {
                self.due.add_permits(takers);
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
