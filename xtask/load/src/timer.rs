//! A timer that wakes when it is told to. The only file with `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's resolution: tokio's wakes by the millisecond, which is a hundred round trips.
pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("cannot make a timer")?;
        // SAFETY: the descriptor is owned by the value that is registered, and nothing takes it out again.
        Ok(Self(unsafe { AsyncFd::register(timer) }?))
    }

    pub async fn wait_until(&self, moment: Instant) -> Result<()> {
        let left = moment.saturating_duration_since(Instant::now());
        // A timer that is set to zero never fires.
        if left.is_zero() {
            return Ok(());
        }
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once).context("cannot set a timer")?;
        // Setting it anew takes back what there would be to read.
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
