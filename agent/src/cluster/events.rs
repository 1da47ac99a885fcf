//! Events on pods, for who looks at the pod and not at the agent: few, and none that anybody waits for.

use crate::mesh::PodName;
use kube::Client;
use prometheus::IntCounter;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const QUEUE: usize = 64;

/// The same is said of a pod once in so long.
const SILENCE: Duration = Duration::from_secs(300);

/// So many at once, and then one in so long: what is wrong with a node is wrong with all its pods.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(10);

/// What an event's note may have (its API's own limit).
const LONGEST_NOTE: usize = 1024;

/// What has become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    pub pod: PodName,
    pub uid: String,
    pub what: Happening,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Why.
    CaptureFailed(String),
    /// After it had failed.
    Captured,
}

/// Where to put events. What has no room is dropped, and counted.
#[derive(Clone)]
pub struct PodEvents {
    queue: mpsc::Sender<PodEvent>,
    dropped: IntCounter,
}

impl PodEvents {
    pub fn new(dropped: IntCounter) -> (Self, mpsc::Receiver<PodEvent>) {
        let (queue, received) = mpsc::channel(QUEUE);
        (Self { queue, dropped }, received)
    }

    pub fn tell(&self, event: PodEvent) {
        if self.queue.try_send(event).is_err() {
            self.dropped.inc();
        }
    }
}

/// Sends what comes, one after the other, until nobody tells any more. While the API server is away events are dropped.
pub async fn send(client: Client, node: String, mut events: mpsc::Receiver<PodEvent>, dropped: IntCounter) {
    let mut sparing = Sparing::new(Instant::now());
    while let Some(event) = events.recv().await {
        match sparing.take(&event, Instant::now()) {
            Take::Send => {}
            Take::Again => continue,
            Take::TooMany => {
                dropped.inc();
                continue;
            }
        }
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", event.pod.namespace);
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(object(&node, &event).to_string().into_bytes());
        let Ok(request) = request else { continue };
        let why = match timeout(PATIENCE, client.request_text(request)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        tracing::warn!(pod = %event.pod, "an event is dropped: {why}");
        dropped.inc();
        sparing.forget(&event);
    }
}

/// Which events are sent.
struct Sparing {
    said: HashMap<(String, &'static str), Instant>,
    left: u32,
    refilled: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Take {
    Send,
    /// It was said a moment ago.
    Again,
    TooMany,
}

impl Sparing {
    fn new(now: Instant) -> Self {
        Self { said: HashMap::new(), left: BURST, refilled: now }
    }

    fn take(&mut self, event: &PodEvent, now: Instant) -> Take {
        self.said.retain(|_, at| now - *at < SILENCE);
        let key = (event.uid.clone(), event.what.reason());
        if self.said.contains_key(&key) {
            return Take::Again;
        }
        while self.left < BURST && now - self.refilled >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == 0 {
            return Take::TooMany;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        self.left -= 1;
        self.said.insert(key, now);
        Take::Send
    }

    /// It was not said after all.
    fn forget(&mut self, event: &PodEvent) {
        self.said.remove(&(event.uid.clone(), event.what.reason()));
    }
}

impl Happening {
    fn reason(&self) -> &'static str {
        match self {
            Self::CaptureFailed(_) => "CaptureFailed",
            Self::Captured => "Captured",
        }
    }
}

fn object(node: &str, event: &PodEvent) -> Value {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = OffsetDateTime::now_utc();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (kind, mut note) = match &event.what {
        Happening::CaptureFailed(why) => {
            ("Warning", format!("Pillion cannot bring the pod into the mesh: {why}"))
        }
        Happening::Captured => ("Normal", "Pillion has brought the pod into the mesh".to_owned()),
    };
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    let time = now
        .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"));
    let PodName { namespace, name } = &event.pod;
    // A pod's name may be as long as an event's.
    let beginning = name.get(..200).unwrap_or(name).trim_end_matches(['.', '-']);
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {
            "namespace": namespace,
            "name": format!("{beginning}.{:x}{number:x}", now.unix_timestamp_nanos()),
        },
        "eventTime": time.unwrap_or_default(),
        "type": kind,
        "reason": event.what.reason(),
        "action": "Capture",
        "note": note,
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": event.uid},
        "reportingController": "pillion.dev/agent",
        "reportingInstance": node.get(..128).unwrap_or(node),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(pod: u32) -> PodEvent {
        let name = PodName { namespace: "shop".into(), name: format!("pod-{pod}") };
        PodEvent { pod: name, uid: format!("uid-{pod}"), what: Happening::CaptureFailed("no".into()) }
    }

    #[test]
    fn the_same_is_said_once_in_five_minutes() {
        let now = Instant::now();
        let mut sparing = Sparing::new(now);
        assert_eq!(sparing.take(&failed(1), now), Take::Send);
        assert_eq!(sparing.take(&failed(1), now + SILENCE / 2), Take::Again);
        let captured = PodEvent { what: Happening::Captured, ..failed(1) };
        assert_eq!(sparing.take(&captured, now + SILENCE / 2), Take::Send, "it is something else");
        assert_eq!(sparing.take(&failed(1), now + SILENCE), Take::Send);
        sparing.forget(&failed(1));
        assert_eq!(sparing.take(&failed(1), now + SILENCE), Take::Send, "it was not said");
    }

    #[test]
    fn a_node_says_only_so_much() {
        let mut now = Instant::now();
        let mut sparing = Sparing::new(now);
        let taken = (0..100).filter(|pod| sparing.take(&failed(*pod), now) == Take::Send).count();
        assert_eq!(taken, BURST as usize);
        now += REFILL;
        let taken = (100..200).filter(|pod| sparing.take(&failed(*pod), now) == Take::Send).count();
        assert_eq!(taken, 1);
    }

    #[test]
    fn an_event_without_room_is_dropped_and_counted() {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let (events, _received) = PodEvents::new(dropped.clone());
        (0..QUEUE as u32 + 3).for_each(|pod| events.tell(failed(pod)));
        assert_eq!(dropped.get(), 3);
    }
}
