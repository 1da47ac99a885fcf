use super::super::directory::Pod;
use super::super::sample::SampledSocket;
use super::*;
use crate::manifest::{Settings, parse, snapshot};
use crate::mesh::{Mesh, PodName};
use crate::telemetry::{LabelSets, WorkerMetrics};
use pillion_ebpf_common::Address;
use prometheus::{IntCounter, TextEncoder};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

const CART: u64 = 11;
const DB: u64 = 22;

const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, labels: {app: cart, pillion.dev/capture: enabled}}, spec: {nodeName: n1, serviceAccountName: cart}, status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db, pillion.dev/capture: enabled}}, spec: {nodeName: n1, serviceAccountName: db}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: store, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 6379}]}}
"#;

const CLIENT: &str = "10.0.0.1:40000";
const SERVER: &str = "10.0.0.2:6379";

/// The kernel's time of the first event; its wall clock says 2023-11-14T22:13:20Z then.
const START: u64 = 7_000_000_000_000;
const MS: u64 = 1_000_000;

/// A recorder, the pods `cart` and `db`, and what is told of them.
struct Scene {
    recorder: Recorder,
    pods: HashMap<u64, Pod>,
    mesh: Arc<Mesh>,
    log: AccessLog,
    lines: Lines,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Scene {
    fn new() -> Self {
        let objects = parse("x.yaml", MANIFESTS.as_bytes()).unwrap();
        let mesh = Arc::new(snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap());
        let pods = [(CART, "cart"), (DB, "db")].map(|(netns, name)| {
            let name = PodName { namespace: "shop".into(), name: name.into() };
            let metrics = Arc::new(WorkerMetrics::new(&name, &LabelSets::new(100)));
            (netns, Pod { workload: mesh.workloads[&name].clone(), metrics })
        });
        let lines = Lines::default();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let log = AccessLog::start(lines.clone(), dropped).unwrap();
        let mut scene =
            Self { recorder: Recorder::new(Some(log.clone())), pods: pods.into(), mesh, log, lines };
        scene.publish();
        scene
    }

    /// Lets the recorder know of the pods as they are now.
    fn publish(&mut self) {
        let directory = Directory::new(self.mesh.clone(), self.pods.clone());
        self.recorder.follow(&Arc::new(directory));
    }

    fn tell(&mut self, event: Event) {
        let wall = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let since = Duration::from_nanos(event.time - START);
        self.recorder.on_event(&event, WallClock { monotonic: event.time, wall: wall + since });
    }

    fn sample(&mut self, netns: u64, sockets: Vec<SampledSocket>) {
        self.recorder.on_sample(&Sample { netns, sockets }, START);
    }

    fn lines(&self) -> Vec<Value> {
        assert!(self.log.flush(Duration::from_secs(5)));
        let text = self.lines.0.lock().unwrap().clone();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The value of a pod's first series with this name that has these labels; 0 where there is none.
    fn value(&self, netns: u64, name: &str, labels: &[&str]) -> f64 {
        let registry = self.pods[&netns].metrics.registry();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let has_labels = |line: &&str| line.starts_with(name) && labels.iter().all(|l| line.contains(l));
        text.lines().find(has_labels).map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Opened, closed, sent, received.
    fn counts(&self, netns: u64, labels: &[&str]) -> [f64; 4] {
        let family = |name| self.value(netns, &format!("istio_tcp_{name}_total"), labels);
        ["connections_opened", "connections_closed", "sent_bytes", "received_bytes"].map(family)
    }
}

fn address(text: &str) -> Address {
    to_address(text.parse().unwrap())
}

fn opened_by_client() -> Event {
    Event {
        time: START,
        netns: CART,
        local: address(CLIENT),
        remote: address(SERVER),
        asked: address(SERVER),
        kind: event::OPENED,
        is_client: 1,
        ..Event::default()
    }
}

fn opened_to_server() -> Event {
    Event {
        time: START + MS,
        netns: DB,
        client: CART,
        local: address(SERVER),
        remote: address(CLIENT),
        kind: event::OPENED,
        ..Event::default()
    }
}

/// The end of what `opened` has opened: `sent` and `received` are the end's own.
fn closed(opened: Event, sent: u64, received: u64, old_state: u32) -> Event {
    Event {
        time: START + 250 * MS,
        client: 0,
        sent,
        received,
        kind: event::CLOSED,
        srtt: 40,
        retransmits: 2,
        old_state,
        ..opened
    }
}

const TCP_FIN_WAIT2: u32 = 5;
const TCP_LAST_ACK: u32 = 9;

const ATTESTED: [&str; 3] = [
    r#"connection_security_policy="kernel_attested""#,
    r#"source_principal="spiffe://cluster.local/ns/shop/sa/cart""#,
    r#"destination_principal="spiffe://cluster.local/ns/shop/sa/db""#,
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&ATTESTED[..], more].concat()
}

// proves: TEL-1
#[test]
fn both_ends_count_a_connection_as_istio_does() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    scene.tell(opened_to_server());
    let (source, destination) = (with(&[r#"reporter="source""#]), with(&[r#"reporter="destination""#]));
    assert_eq!(scene.counts(CART, &source), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(scene.counts(DB, &destination), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(scene.value(CART, "pillion_direct_connections", &[]), 1.0);
    assert_eq!(scene.value(DB, "pillion_open_connections", &[]), 1.0);

    scene.tell(closed(opened_by_client(), 75, 1_048_822, TCP_FIN_WAIT2));
    scene.tell(closed(opened_to_server(), 1_048_822, 75, TCP_LAST_ACK));
    assert_eq!(scene.counts(CART, &source), [1.0, 1.0, 1_048_822.0, 75.0]);
    assert_eq!(scene.counts(DB, &destination), [1.0, 1.0, 1_048_822.0, 75.0]);
    for netns in [CART, DB] {
        assert_eq!(scene.value(netns, "pillion_direct_connections", &[]), 0.0);
        assert_eq!(scene.value(netns, "pillion_open_connections", &[]), 0.0);
        assert_eq!(scene.value(netns, "pillion_direct_retransmits_total", &[]), 2.0);
        assert_eq!(scene.value(netns, "pillion_direct_srtt_seconds_count", &[]), 1.0);
        assert_eq!(scene.value(netns, "pillion_direct_srtt_seconds_sum", &[]), 40e-6);
        assert_eq!(scene.value(netns, "istio_tcp_connections_failed_total", &[]), 0.0);
    }
}

// proves: TEL-2
#[test]
fn both_ends_write_a_line_as_the_proxied_path_does() {
    let mut scene = Scene::new();
    scene.tell(Event { asked: address("10.96.0.7:6379"), ..opened_by_client() });
    scene.tell(opened_to_server());
    scene.tell(closed(Event { asked: address("10.96.0.7:6379"), ..opened_by_client() }, 3, 8, TCP_FIN_WAIT2));
    scene.tell(closed(opened_to_server(), 8, 3, TCP_LAST_ACK));
    let line = |start: &str, duration, reporter: &str, pod: &str, direction: &str, asked: &str, service| {
        serde_json::json!({
            "start": start, "duration_ms": duration, "reporter": reporter, "pod": pod, "direction": direction,
            "source_address": CLIENT, "source_principal": "spiffe://cluster.local/ns/shop/sa/cart",
            "source_workload": "cart", "destination_address": asked, "upstream_address": SERVER,
            "destination_principal": "spiffe://cluster.local/ns/shop/sa/db", "destination_workload": "db",
            "destination_service": service, "connection_security_policy": "kernel_attested",
            "bytes_sent": 8, "bytes_received": 3, "response_flags": "-", "error": null,
            "srtt_us": 40, "retransmits": 2,
        })
    };
    let service: Option<&str> = Some("store.shop.svc.cluster.local");
    assert_eq!(
        scene.lines(),
        [
            line("2023-11-14T22:13:20Z", 250, "source", "shop/cart", "outbound", "10.96.0.7:6379", service),
            line("2023-11-14T22:13:20.001Z", 249, "destination", "shop/db", "inbound", SERVER, None),
        ]
    );
    let service = with(&[r#"destination_service="store.shop.svc.cluster.local""#]);
    assert_eq!(scene.counts(CART, &service), [1.0, 1.0, 8.0, 3.0]);
}

#[test]
fn a_connection_that_never_opened_has_failed() {
    let mut scene = Scene::new();
    scene.tell(Event { srtt: 0, ..closed(opened_by_client(), 0, 0, TCP_SYN_SENT) });
    let failed = with(&[r#"response_flags="UF""#]);
    assert_eq!(scene.value(CART, "istio_tcp_connections_failed_total", &failed), 1.0);
    assert_eq!(scene.counts(CART, &[]), [0.0; 4]);
    assert_eq!(scene.value(CART, "pillion_direct_srtt_seconds_count", &[]), 0.0);
    let lines = scene.lines();
    assert_eq!((&lines[0]["response_flags"], &lines[0]["duration_ms"]), (&"UF".into(), &0.into()));
    assert!(lines[0]["error"].as_str().unwrap().contains("did not come up"), "{}", lines[0]);
    assert!(lines[0].get("srtt_us").is_none());
}

#[test]
fn a_reset_connection_says_so_on_both_ends() {
    for state in [TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_CLOSE_WAIT] {
        let mut scene = Scene::new();
        scene.tell(opened_by_client());
        scene.tell(opened_to_server());
        scene.tell(closed(opened_by_client(), 5, 0, state));
        scene.tell(closed(opened_to_server(), 0, 5, state));
        for (netns, flags) in [(CART, "UC"), (DB, "DC")] {
            let labels = with(&[flags]);
            assert_eq!(scene.value(netns, "istio_tcp_connections_failed_total", &labels), 1.0, "{flags}");
            assert_eq!(scene.counts(netns, &ATTESTED), [1.0, 1.0, 0.0, 5.0]);
        }
        let lines = scene.lines();
        assert_eq!([&lines[0]["response_flags"], &lines[1]["response_flags"]], ["UC", "DC"]);
        assert!(lines.iter().all(|line| line["error"].as_str().unwrap().contains("reset")));
    }
}

#[test]
fn an_end_whose_opening_was_lost_is_told_of_by_its_end_alone() {
    let mut scene = Scene::new();
    scene.tell(closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2));
    scene.tell(closed(opened_to_server(), 8, 3, TCP_LAST_ACK));
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 8.0, 3.0]);
    // The server's end does not say whose the client is: a workload at its address, but no principal.
    let server = [r#"source_workload="cart""#, r#"source_principal="unknown""#];
    assert_eq!(scene.counts(DB, &server), [1.0, 1.0, 8.0, 3.0]);
    assert_eq!(scene.lines().len(), 2);
}

#[test]
fn an_end_whose_closing_was_lost_makes_room_for_the_next_one() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    scene.tell(Event { time: START + 9 * MS, ..opened_by_client() });
    assert_eq!(scene.counts(CART, &ATTESTED), [2.0, 1.0, 0.0, 0.0]);
    scene.tell(closed(opened_by_client(), 0, 0, TCP_SYN_SENT));
    assert_eq!(scene.counts(CART, &ATTESTED), [2.0, 2.0, 0.0, 0.0]);
}

#[test]
fn a_pod_that_is_deleted_in_between_is_told_of_to_the_end() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    let cart = scene.pods.remove(&CART).unwrap();
    scene.mesh = Arc::new(Mesh::default());
    scene.publish();
    // The client's cookie is known for a while, whoever has its address now.
    scene.tell(opened_to_server());
    scene.tell(closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2));
    scene.tell(Event { local: address("10.0.0.1:40001"), ..closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2) });
    let destination = &[r#"source_principal="spiffe://cluster.local/ns/shop/sa/cart""#];
    assert_eq!(scene.counts(DB, destination), [1.0, 0.0, 0.0, 0.0]);
    scene.pods.insert(CART, cart);
    assert_eq!(scene.counts(CART, &ATTESTED), [2.0, 2.0, 16.0, 6.0]);
    assert_eq!(scene.lines().len(), 2);
}

#[test]
fn a_pod_that_has_long_been_gone_is_not_known() {
    let mut scene = Scene::new();
    let cart = scene.pods.remove(&CART).unwrap();
    scene.publish();
    scene.recorder.forget_unused();
    scene.recorder.forget_unused();
    scene.tell(opened_to_server());
    scene.tell(opened_by_client());
    scene.pods.insert(CART, cart);
    let nobody = [r#"source_workload="unknown""#, r#"source_principal="unknown""#];
    assert_eq!(scene.counts(DB, &nobody), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(scene.counts(CART, &[]), [0.0; 4]);
}

#[test]
fn who_the_client_is_follows_from_its_namespace_and_not_from_its_address() {
    let mut scene = Scene::new();
    scene.tell(Event { client: 33, ..opened_to_server() });
    let nobody = [r#"source_workload="unknown""#, r#"source_principal="unknown""#];
    assert_eq!(scene.counts(DB, &nobody), [1.0, 0.0, 0.0, 0.0]);
}

fn flow() -> AttestedFlow {
    AttestedFlow {
        client: CLIENT.parse().unwrap(),
        server: SERVER.parse().unwrap(),
        client_netns: CART,
        server_netns: DB,
    }
}

#[test]
fn connections_of_an_earlier_agent_are_open() {
    let mut scene = Scene::new();
    let own: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let hairpin = AttestedFlow { server: own, ..flow() };
    scene.recorder.adopt(&[flow(), hairpin], START + 2 * MS);
    // What was in the ring buffer still.
    scene.tell(opened_by_client());
    scene.tell(opened_to_server());
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(scene.counts(DB, &ATTESTED), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(scene.value(CART, "pillion_direct_connections", &[]), 1.0);
    scene.tell(closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2));
    scene.tell(closed(opened_to_server(), 8, 3, TCP_LAST_ACK));
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 8.0, 3.0]);
    assert_eq!(scene.counts(DB, &ATTESTED), [1.0, 1.0, 8.0, 3.0]);
}

/// The client's end, as a worker sees it: its SYN is a byte.
fn sampled(sent: u64, received: u64) -> SampledSocket {
    SampledSocket {
        local: CLIENT.parse().unwrap(),
        remote: SERVER.parse().unwrap(),
        bytes: Bytes { sent: sent + 1, received },
        flow: Some(flow()),
    }
}

// proves: TEL-1
#[test]
fn bytes_are_counted_while_a_connection_is_open() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    scene.sample(CART, vec![sampled(100, 2000)]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 0.0, 2000.0, 100.0]);
    scene.sample(CART, vec![sampled(150, 2000)]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 0.0, 2000.0, 150.0]);
    scene.tell(closed(opened_by_client(), 175, 2500, TCP_FIN_WAIT2));
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 2500.0, 175.0]);
    assert_eq!(scene.lines()[0]["bytes_sent"], 2500);
}

#[test]
fn what_two_samples_show_is_open_and_what_two_do_not_is_not() {
    let mut scene = Scene::new();
    scene.sample(CART, vec![sampled(1, 1)]);
    assert_eq!(scene.counts(CART, &ATTESTED), [0.0; 4]);
    scene.sample(CART, vec![sampled(1, 1)]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 0.0, 0.0, 0.0]);
    scene.sample(CART, vec![]);
    scene.sample(DB, vec![]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 0.0, 0.0, 0.0]);
    scene.sample(CART, vec![]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn a_sample_that_crosses_a_closing_opens_nothing() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    scene.tell(closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2));
    scene.sample(CART, vec![sampled(3, 8)]);
    scene.sample(CART, vec![]);
    scene.sample(CART, vec![sampled(3, 8)]);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 8.0, 3.0]);
}

#[test]
fn a_server_whose_client_is_gone_is_open_until_it_closes() {
    let mut scene = Scene::new();
    scene.tell(opened_to_server());
    let alone = SampledSocket {
        local: SERVER.parse().unwrap(),
        remote: CLIENT.parse().unwrap(),
        bytes: Bytes { sent: 8, received: 3 },
        flow: None,
    };
    for _ in 0..5 {
        scene.sample(DB, vec![alone]);
    }
    assert_eq!(scene.counts(DB, &ATTESTED), [1.0, 0.0, 8.0, 3.0]);
}

#[test]
fn series_of_direct_connections_expire_like_others() {
    let mut scene = Scene::new();
    scene.tell(opened_by_client());
    scene.tell(closed(opened_by_client(), 3, 8, TCP_FIN_WAIT2));
    let (metrics, now, idle) = (scene.pods[&CART].metrics.clone(), Instant::now(), Duration::from_secs(900));
    metrics.expire_idle(now, idle);
    metrics.expire_idle(now + idle, idle);
    assert_eq!(scene.counts(CART, &ATTESTED), [1.0, 1.0, 8.0, 3.0], "it may be used again");
    scene.recorder.forget_unused();
    metrics.expire_idle(now + 2 * idle, idle);
    assert_eq!(scene.counts(CART, &ATTESTED), [0.0; 4]);
}

/// 10,000 connections a second are 40,000 events: what a second brings is told within a fraction of one.
#[test]
fn ten_thousand_connections_are_all_counted_within_a_second() {
    let mut scene = Scene::new();
    scene.recorder = Recorder::new(None);
    scene.publish();
    let began = Instant::now();
    for index in 0..10_000_u32 {
        let client = Address { port: 20_000 + index, ..address(CLIENT) };
        let at_client = Event { local: client, ..opened_by_client() };
        let at_server = Event { remote: client, ..opened_to_server() };
        scene.tell(at_client);
        scene.tell(at_server);
        scene.tell(closed(at_client, 75, 500, TCP_FIN_WAIT2));
        scene.tell(closed(at_server, 500, 75, TCP_LAST_ACK));
    }
    let took = began.elapsed();
    for netns in [CART, DB] {
        assert_eq!(scene.counts(netns, &ATTESTED), [10_000.0, 10_000.0, 5_000_000.0, 750_000.0]);
    }
    assert!(took < Duration::from_secs(1), "{took:?}");
}
