//! What is told of a connection: metrics while it lives, a line in the access log when it is over.

use super::budget::OverMemory;
use super::context::Context;
use super::relay::Ending;
use super::traffic::Traffic;
use crate::telemetry::{Direction, OpenConnection, Outcome, Parties};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;
use time::OffsetDateTime;

/// When a connection came to the worker: by the wall clock for people, by the steady one for durations.
pub(super) struct Began {
    wall: OffsetDateTime,
    steady: Instant,
}

/// An open connection.
pub(super) struct Record {
    context: Rc<Context>,
    began: Began,
    parties: Parties,
    series: OpenConnection,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Record {
    pub fn open(context: &Rc<Context>, began: Began, parties: Parties) -> Self {
        let series = context.metrics.series(parties.labels()).open();
        Self { context: context.clone(), began, parties, series, sent: Cell::new(0), received: Cell::new(0) }
    }

    /// A connection that never came up.
    pub fn failed(context: &Context, began: &Began, parties: &Parties, flags: &'static str, reason: &str) {
        tracing::debug!(pod = %context.name, from = %parties.source_address, to = %parties.destination_address,
            flags, "connection failed: {reason}");
        context.metrics.failed(&parties.labels(), flags);
        log(context, began, parties, (0, 0), flags, Some(reason));
    }

    pub fn close(self, ending: &Ending) {
        let (flags, error) = self.verdict(ending);
        if let Ending::OverMemory = ending {
            self.context.metrics.budget_refused("memory");
        }
        if let Some(flags) = flags {
            self.context.metrics.failed(self.series.labels(), flags);
        }
        let bytes = (self.sent.get(), self.received.get());
        log(&self.context, &self.began, &self.parties, bytes, flags.unwrap_or("-"), error.as_deref());
    }

    /// Envoy's flags for a connection that did not end in order: which side ended it, client or server.
    fn verdict(&self, ending: &Ending) -> (Option<&'static str>, Option<String>) {
        let (app, far) = match self.parties.direction {
            Direction::Outbound => ("DC", "UC"),
            Direction::Inbound => ("UC", "DC"),
        };
        match ending {
            Ending::Finished => (None, None),
            Ending::App(e) => (Some(app), Some(e.to_string())),
            Ending::Far(e) => (Some(far), Some(e.clone())),
            Ending::Revoked(verdict) => (Some("DENY"), Some(verdict.clone())),
            Ending::OverMemory => (Some(OverMemory::RESPONSE_FLAGS), Some(OverMemory.to_string())),
        }
    }

    fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.series.sent(bytes as u64);
    }

    fn count_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        self.series.received(bytes as u64);
    }
}

/// Istio counts from the server's side: received is what the client sent to it.
impl Traffic for Record {
    fn sent_by_app(&self, bytes: usize) {
        match self.parties.direction {
            Direction::Outbound => self.count_received(bytes),
            Direction::Inbound => self.count_sent(bytes),
        }
    }

    fn sent_to_app(&self, bytes: usize) {
        match self.parties.direction {
            Direction::Outbound => self.count_sent(bytes),
            Direction::Inbound => self.count_received(bytes),
        }
    }
}

impl Began {
    pub fn now() -> Self {
        Self { wall: OffsetDateTime::now_utc(), steady: Instant::now() }
    }
}

/// Bytes are `(sent, received)`.
fn log(
    context: &Context,
    began: &Began,
    parties: &Parties,
    (sent, received): (u64, u64),
    flags: &str,
    error: Option<&str>,
) {
    let Some(log) = &context.access_log else { return };
    let (pod, start, duration) = (&context.name, began.wall, began.steady.elapsed());
    let outcome =
        Outcome { pod, start, duration, sent, received, flags, error, srtt_us: None, retransmits: None };
    parties.log(log, &outcome);
}
