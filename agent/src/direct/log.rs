//! The thread that reads the kernel's events.

use super::directory::Directory;
use super::recorder::{Recorder, WallClock};
use super::sample::{Message, Samples};
use crate::kernel::{Denials, Events, FlowTable, monotonic};
use crate::telemetry::AccessLog;
use pillion_ebpf_common::{Denial, Event};
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
    pub denials: Denials,
    pub flows: FlowTable,
    /// `None` until the pods that the kernel captures already are in it: what it tells of others is lost, and so are
    /// their connections that are open. Events wait in the ring buffer meanwhile.
    pub directory: watch::Receiver<Option<Arc<Directory>>>,
    pub access_log: Option<AccessLog>,
    /// `pillion_direct_events_lost_total`
    pub lost: IntCounter,
    /// `pillion_denials_lost_total`
    pub denials_lost: IntCounter,
}

/// Records direct connections until it is dropped, which waits for the last round.
pub struct DirectLog {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl DirectLog {
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

fn run(parts: Parts, inbox: &Receiver<Message>) {
    let mut reader = Reader::new(parts);
    let (mut next_round, mut next_forget) = (Instant::now(), Instant::now() + FORGET);
    loop {
        match inbox.recv_timeout(next_round.saturating_duration_since(Instant::now())) {
            Ok(Message::Sample(sample)) => reader.recorder.on_sample(&sample, now().monotonic),
            Err(RecvTimeoutError::Timeout) => {
                reader.round();
                next_round = Instant::now() + ROUND;
            }
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return reader.round(),
        }
        if Instant::now() >= next_forget {
            reader.recorder.forget_unused();
            next_forget = Instant::now() + FORGET;
        }
    }
}

struct Reader {
    events: Events,
    denials: Denials,
    flows: FlowTable,
    directory: watch::Receiver<Option<Arc<Directory>>>,
    lost: IntCounter,
    denials_lost: IntCounter,
    recorder: Recorder,
    /// Whether the connections that were there before are taken in.
    adopted: bool,
    /// Kept for its memory.
    batch: Vec<Event>,
    denied: Vec<Denial>,
}

impl Reader {
    fn new(parts: Parts) -> Self {
        let Parts { events, denials, flows, directory, access_log, lost, denials_lost } = parts;
        let recorder = Recorder::new(access_log);
        let (adopted, batch, denied) = (false, vec![], vec![]);
        Self { events, denials, flows, directory, lost, denials_lost, recorder, adopted, batch, denied }
    }

    fn round(&mut self) {
        if self.directory.borrow().is_none() {
            return;
        }
        // Events first: a pod is in the directory before the kernel tells of it.
        self.events.drain(|event| self.batch.push(*event));
        self.denials.drain(|denial| self.denied.push(*denial));
        if let Some(directory) = &*self.directory.borrow_and_update() {
            self.recorder.follow(directory);
        }
        let clock = now();
        for event in self.batch.drain(..) {
            self.recorder.on_event(&event, clock);
        }
        for denial in self.denied.drain(..) {
            self.recorder.on_denial(&denial, clock);
        }
        for (lost, counter) in [(self.events.lost(), &self.lost), (self.denials.lost(), &self.denials_lost)] {
            match lost {
                Ok(lost) => counter.inc_by(lost.saturating_sub(counter.get())),
                Err(e) => tracing::debug!("lost events are not counted: {e}"),
            }
        }
        if !self.adopted {
            self.adopt();
        }
    }

    /// After the events of the first round: what is opened or closed from then on is told by others.
    fn adopt(&mut self) {
        self.adopted = true;
        match self.flows.all() {
            Ok(flows) => self.recorder.adopt(&flows, now().monotonic),
            Err(e) => {
                tracing::error!("direct connections that are open already are told of when they end: {e}")
            }
        }
    }
}

fn now() -> WallClock {
    WallClock { monotonic: monotonic(), wall: OffsetDateTime::now_utc() }
}
