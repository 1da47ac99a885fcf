//! The thread that reads the kernel's events.

use super::directory::Directory;
use super::recorder::{Recorder, WallClock};
use super::sample::{Sample, Samples};
use crate::kernel::{Events, FlowTable, KernelError};
use crate::telemetry::AccessLog;
use nix::time::{ClockId, clock_gettime};
use prometheus::IntCounter;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::sync::watch;

/// How often the thread comes round. The ring buffer holds 0.8 s of 10,000 connections a second.
const ROUND: Duration = Duration::from_millis(50);

/// How often unused series are let go of.
const FORGET: Duration = Duration::from_secs(60);

/// What the thread works with.
pub struct Parts {
    pub events: Events,
    pub flows: FlowTable,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub access_log: Option<AccessLog>,
    /// `pillion_direct_events_lost_total`
    pub lost: IntCounter,
}

/// Records direct connections until it is dropped, which waits for the last round.
pub struct DirectLog {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

pub(super) enum Message {
    Sample(Sample),
    Stop,
}

impl DirectLog {
    /// Starts once the directory has the pods that the kernel captures already: what it tells of others is lost, and
    /// so are their connections that are open. Events wait in the ring buffer until then.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (messages, inbox) = channel();
        let thread = Builder::new().name("direct-log".into()).spawn(move || run(parts, &inbox))?;
        Ok(Self { messages, thread: Some(thread) })
    }

    /// For the workers.
    pub fn samples(&self) -> Samples {
        Samples(self.messages.clone())
    }
}

impl Drop for DirectLog {
    fn drop(&mut self) {
        // It is gone already when it has panicked.
        let _ = self.messages.send(Message::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that records direct connections has panicked");
        }
    }
}

fn run(mut parts: Parts, inbox: &Receiver<Message>) {
    let mut recorder = Recorder::new(parts.access_log.take());
    round(&mut parts, &mut recorder);
    // After the first round: what has been opened and closed since then is told by events.
    match parts.flows.all() {
        Ok(flows) => recorder.adopt(&flows, now().monotonic),
        Err(e) => tracing::error!("direct connections that are open already are not told of: {e}"),
    }
    let (mut next_round, mut next_forget) = (Instant::now() + ROUND, Instant::now() + FORGET);
    loop {
        match inbox.recv_timeout(next_round.saturating_duration_since(Instant::now())) {
            Ok(Message::Sample(sample)) => recorder.on_sample(&sample, now().monotonic),
            Err(RecvTimeoutError::Timeout) => {
                round(&mut parts, &mut recorder);
                next_round = Instant::now() + ROUND;
            }
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return round(&mut parts, &mut recorder);
            }
        }
        if Instant::now() >= next_forget {
            recorder.forget_unused();
            next_forget = Instant::now() + FORGET;
        }
    }
}

fn round(parts: &mut Parts, recorder: &mut Recorder) {
    recorder.follow(&parts.directory.borrow_and_update());
    let clock = now();
    parts.events.drain(|event| recorder.on_event(event, clock));
    match parts.events.lost() {
        Ok(lost) => parts.lost.inc_by(lost.saturating_sub(parts.lost.get())),
        Err(e @ KernelError::Map { .. }) => tracing::debug!("{e}"),
        Err(e) => tracing::error!("{e}"),
    }
}

fn now() -> WallClock {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    WallClock {
        monotonic: monotonic.as_nanos().try_into().unwrap_or(u64::MAX),
        wall: OffsetDateTime::now_utc(),
    }
}
