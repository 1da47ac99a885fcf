//! Which direct connections are open, and what is told of each.
//!
//! State and arithmetic only: events, samples and the time come in as arguments.

use super::denial::denied;
use super::directory::{Directory, Known};
use super::relation::{End, EndKey, Relation, RelationKey};
use super::sample::Sample;
use crate::kernel::{AttestedFlow, Bytes, to_address};
use crate::telemetry::{AccessLog, AuthorizationLog, DirectConnection, OpenConnection, Outcome, Parties};
use pillion_ebpf_common::{Denial, Event, event};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// An end that this many samples in a row do not show has ended without an event: a sample and an event may cross once.
const MISSES: u8 = 2;

/// Linux's numbers of TCP states.
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_CLOSE_WAIT: u32 = 8;

pub struct Recorder {
    known: Known,
    access_log: Option<AccessLog>,
    /// What was found out with this directory.
    relations: HashMap<RelationKey, Arc<Relation>>,
    open: HashMap<EndKey, Open>,
    /// Ends that a sample has shown and no event has told of.
    strangers: HashSet<EndKey>,
}

/// What the wall clock says at a moment of the kernel's clock (CLOCK_MONOTONIC, in nanoseconds).
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    pub monotonic: u64,
    pub wall: OffsetDateTime,
}

/// An end that is open.
struct Open {
    is_client: bool,
    relation: Arc<Relation>,
    series: OpenConnection,
    _counted: DirectConnection,
    authorization: Option<Arc<AuthorizationLog>>,
    /// By the kernel's clock.
    began: u64,
    /// What the metrics have of it already.
    carried: Carried,
    /// Samples in a row that have not shown it.
    misses: u8,
}

/// Bytes as the metrics mean them: sent is from the server to the client.
#[derive(Clone, Copy, Default)]
struct Carried {
    sent: u64,
    received: u64,
}

/// How an end's connection ended, as far as its last state tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It never opened.
    Failed,
    Reset,
    InOrder,
}

impl Recorder {
    pub fn new(access_log: Option<AccessLog>) -> Self {
        Self {
            known: Known::default(),
            access_log,
            relations: HashMap::new(),
            open: HashMap::new(),
            strangers: HashSet::new(),
        }
    }

    /// From now on ends are looked up in here. What is open keeps the names that it was opened under.
    pub fn follow(&mut self, directory: &Arc<Directory>) {
        if !Arc::ptr_eq(&self.known.directory, directory) {
            self.known.follow(directory);
            self.relations.clear();
        }
    }

    /// Lets go of what is only kept in case it is used again, so that idle series expire. To be called now and then.
    pub fn forget_unused(&mut self) {
        self.relations.clear();
        self.known.forget_departed();
    }

    /// Events of one end come in the order in which they happened.
    pub fn on_event(&mut self, event: &Event, clock: WallClock) {
        match event.kind {
            event::OPENED => self.opened(End::of(event), event.time),
            event::CLOSED => self.closed(event, clock),
            _ => {}
        }
    }

    /// A plain connection that the kernel has refused, because policies do not allow it.
    pub fn on_denial(&self, denial: &Denial, clock: WallClock) {
        let Some((pod, parties, verdict)) = denied(denial, &self.known) else { return };
        pod.metrics.failed(&parties.labels(), "DENY");
        let Some(log) = &self.access_log else { return };
        parties.log(
            log,
            &Outcome {
                pod: &pod.workload.name,
                start: clock.at(denial.time),
                duration: Duration::ZERO,
                sent: 0,
                received: 0,
                flags: "DENY",
                error: Some(&verdict),
                srtt_us: None,
                retransmits: None,
            },
        );
    }

    /// Takes in the connections that were opened before anybody listened. `now` is the kernel's time.
    pub fn adopt(&mut self, flows: &[AttestedFlow], now: u64) {
        for flow in flows {
            let server_netns = self.known.directory.netns(flow.server.ip());
            // A pod's connections to itself are not told of.
            let server = server_netns.filter(|netns| *netns != flow.client_netns);
            let Some(server_netns) = server else { continue };
            for end in [End::client_of(flow), End::server_of(flow, server_netns)] {
                if !self.open.contains_key(&end.key) {
                    self.opened(end, now);
                }
            }
        }
    }

    /// Counts what has gone over a pod's open connections so far, and mends what lost events have left wrong: an end
    /// that is shown twice is open, one that is missing twice is not.
    pub fn on_sample(&mut self, sample: &Sample, now: u64) {
        let mut shown = HashSet::new();
        let mut strangers = HashSet::new();
        for socket in &sample.sockets {
            let (local, remote) = (to_address(socket.local), to_address(socket.remote));
            let key = EndKey { netns: sample.netns, local, remote };
            shown.insert(key);
            match (self.open.get_mut(&key), socket.flow) {
                (Some(open), _) => open.sampled(socket.bytes),
                (None, Some(flow)) if self.strangers.contains(&key) => {
                    self.opened(End::in_flow(&flow, socket.local, sample.netns), now);
                }
                (None, Some(_)) => drop(strangers.insert(key)),
                (None, None) => {}
            }
        }
        self.strangers.retain(|key| key.netns != sample.netns);
        self.strangers.extend(strangers);
        self.open.retain(|key, open| {
            if key.netns == sample.netns {
                open.misses = if shown.contains(key) { 0 } else { open.misses + 1 };
            }
            open.misses < MISSES
        });
    }

    fn opened(&mut self, end: End, time: u64) {
        // It was taken in before its event was read.
        if self.open.get(&end.key).is_some_and(|open| time <= open.began) {
            return;
        }
        let Some(relation) = self.relation(&end) else { return };
        // One that is in its place has ended, and that event was lost: dropping it counts it as closed.
        self.open.insert(end.key, Open::new(&end, relation, time));
    }

    fn closed(&mut self, event: &Event, clock: WallClock) {
        let (end, ending) = (End::of(event), Ending::after(event.old_state));
        self.strangers.remove(&end.key);
        // What is known under the addresses of one that never opened was an earlier connection.
        let known = self.open.remove(&end.key).filter(|_| ending != Ending::Failed);
        let Some(relation) = known.as_ref().map(|open| open.relation.clone()).or_else(|| self.relation(&end))
        else {
            return;
        };
        let metrics = &relation.pod.metrics;
        metrics.direct().closed(event.srtt, event.retransmits);
        let flags = ending.flags(event.is_client == 1);
        if let Some(flags) = flags {
            metrics.failed(relation.series.labels(), flags);
        }
        let (began, carried, authorization) = match (known, ending) {
            (None, Ending::Failed) => (event.time, Carried::default(), None),
            (known, _) => {
                let mut open = known.unwrap_or_else(|| Open::new(&end, relation.clone(), event.time));
                open.carried(Carried::of(event.is_client == 1, event.sent, event.received));
                (open.began, open.carried, open.authorization)
            }
        };
        let Some(log) = &self.access_log else { return };
        Parties { authorization, ..relation.parties(&end) }.log(
            log,
            &Outcome {
                pod: &relation.pod.workload.name,
                start: clock.at(began),
                duration: Duration::from_nanos(event.time.saturating_sub(began)),
                sent: carried.sent,
                received: carried.received,
                flags: flags.unwrap_or("-"),
                error: ending.error(),
                srtt_us: (event.srtt > 0).then_some(event.srtt),
                retransmits: Some(event.retransmits),
            },
        );
    }

    fn relation(&mut self, end: &End) -> Option<Arc<Relation>> {
        match self.relations.entry(end.relation_key()) {
            Entry::Occupied(known) => Some(known.get().clone()),
            Entry::Vacant(unknown) => {
                let relation = Arc::new(Relation::of(end, &self.known)?);
                Some(unknown.insert(relation).clone())
            }
        }
    }
}

impl WallClock {
    fn at(&self, time: u64) -> OffsetDateTime {
        // Events are minutes old at most; connections may be years.
        let ago = self.monotonic.saturating_sub(time);
        self.wall - Duration::from_nanos(ago)
    }
}

impl Open {
    fn new(end: &End, relation: Arc<Relation>, began: u64) -> Self {
        Self {
            is_client: end.is_client,
            series: relation.series.open(),
            _counted: relation.pod.metrics.direct().opened(),
            authorization: relation.authorization(end),
            relation,
            began,
            carried: Carried::default(),
            misses: 0,
        }
    }

    fn sampled(&mut self, bytes: Bytes) {
        // The client's SYN counts as a byte in the kernel.
        let sent = bytes.sent.saturating_sub(u64::from(self.is_client));
        self.carried(Carried::of(self.is_client, sent, bytes.received));
    }

    /// Counts what has been carried since the last time.
    fn carried(&mut self, now: Carried) {
        self.series.sent(now.sent.saturating_sub(self.carried.sent));
        self.series.received(now.received.saturating_sub(self.carried.received));
        self.carried = now;
    }
}

impl Carried {
    /// From what an end has sent and received.
    fn of(is_client: bool, sent: u64, received: u64) -> Self {
        if is_client { Self { sent: received, received: sent } } else { Self { sent, received } }
    }
}

impl Ending {
    fn after(state: u32) -> Self {
        match state {
            TCP_SYN_SENT => Self::Failed,
            TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_CLOSE_WAIT => Self::Reset,
            _ => Self::InOrder,
        }
    }

    /// Envoy's flags.
    fn flags(self, is_client: bool) -> Option<&'static str> {
        match (self, is_client) {
            (Self::InOrder, _) => None,
            (Self::Failed, _) => Some("UF"),
            (Self::Reset, true) => Some("UC"),
            (Self::Reset, false) => Some("DC"),
        }
    }

    fn error(self) -> Option<&'static str> {
        match self {
            Self::InOrder => None,
            Self::Failed => Some("the connection did not come up: refused, timed out or given up"),
            Self::Reset => Some("the connection was reset or cut before both sides had ended it"),
        }
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
