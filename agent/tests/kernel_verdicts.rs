//! Verdicts need evidence, and end with their generation whatever goes wrong in the kernel.

mod common;

use common::node::{Listener, Node, Pod, on_node};
use common::permit::{Party, permit};
use common::{Bed, Worker};
use pillion_agent::kernel::{Kernel, VerdictTable};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// Two captured pods, an app at two ports of the second, and a worker in the first.
struct Pair {
    kernel: Kernel,
    verdicts: VerdictTable,
    client: Pod,
    server: Pod,
    apps: [(u16, Listener); 2],
    worker: Worker,
}

impl Pair {
    fn new(bed: &Bed, node: &Node) -> Self {
        let mut kernel = bed.open();
        let [client, server] = [2, 3].map(|host| node.pod(host));
        for pod in [&client, &server] {
            pod.captured(&mut kernel, &pod.capture());
        }
        kernel.enforce(0, |_, _, _| None).unwrap();
        let (verdicts, worker) = (kernel.verdicts().unwrap(), client.worker(&kernel));
        let apps = [80, 81].map(|port| (port, server.listen(port)));
        Self { kernel, verdicts, client, server, apps, worker }
    }

    /// Whether a connection goes directly; else it goes to the worker.
    fn is_direct(&self, port: u16) -> bool {
        let (_, app) = self.apps.iter().find(|(of, _)| *of == port).expect("an app listens there");
        let to = SocketAddr::new(self.server.ipv4.into(), port);
        let _client = self.client.connect(to).unwrap();
        match self.worker.accept() {
            Some((_, destination)) => {
                assert_eq!(destination, Some(to));
                false
            }
            None => {
                app.accept().expect("it arrives at the server");
                true
            }
        }
    }
}

fn freeze(bed: &Bed, map: &str) {
    let pin = bed.pin(map);
    let output = Command::new("bpftool").args(["map", "freeze", "pinned"]).arg(&pin).output();
    let output = output.expect("bpftool is installed");
    assert!(output.status.success(), "{map}: {}", String::from_utf8_lossy(&output.stderr));
}

// proves: SEC-3
#[test]
fn a_permit_for_other_addresses_than_the_kernel_has_makes_no_verdict() {
    let bed = Bed::new();
    on_node(|node| {
        let mut pair = Pair::new(&bed, node);
        let exact = |pod: &Pod| Party::from(pod);
        let without_ipv6 = |pod: &Pod| Party { netns: pod.cookie, addresses: vec![pod.ipv4.into()] };
        let other: IpAddr = [10, 79, 0, 77].into();
        let elsewhere = |pod: &Pod| Party { netns: pod.cookie, addresses: vec![other, pod.ipv6.into()] };
        let stranger = |pod: &Pod| Party { netns: u64::MAX, ..Party::from(pod) };
        type Asked<'a> = &'a dyn Fn(&Pod) -> Party;
        let asked: [(&str, Asked); 3] = [
            ("policies were not asked about one of its addresses", &without_ipv6),
            ("policies were asked about another address", &elsewhere),
            ("policies were asked about another pod", &stranger),
        ];
        for (what, of) in asked {
            pair.verdicts.allow(&permit(0, of(&pair.client), exact(&pair.server), 80));
            assert!(!pair.is_direct(80), "of the client: {what}");
            pair.verdicts.allow(&permit(0, exact(&pair.client), of(&pair.server), 80));
            assert!(!pair.is_direct(80), "of the server: {what}");
        }
        pair.verdicts.allow(&permit(0, &pair.client, &pair.server, 80));
        assert!(pair.is_direct(80));

        // What was carried over before is not, once the kernel has another address.
        let (client, server) = (exact(&pair.client), elsewhere(&pair.server));
        pair.kernel.enforce(1, |_, _, port| Some(permit(1, client.clone(), server.clone(), port))).unwrap();
        assert!(!pair.is_direct(80));
    });
}

// proves: SEC-3
#[test]
fn verdicts_that_cannot_be_carried_over_are_lost_and_the_generation_changes_all_the_same() {
    let bed = Bed::new();
    on_node(|node| {
        let mut pair = Pair::new(&bed, node);
        for port in [80, 81] {
            pair.verdicts.allow(&permit(0, &pair.client, &pair.server, port));
        }
        assert!(pair.is_direct(80) && pair.is_direct(81));
        freeze(&bed, "VERDICTS");
        let parties = [Party::from(&pair.client), Party::from(&pair.server)];
        let only_81 = |_, _, port| {
            let [client, server] = parties.clone();
            (port == 81).then(|| permit(1, client, server, port))
        };
        pair.kernel.enforce(1, only_81).unwrap();
        assert!(!pair.is_direct(80), "policies deny it");
        assert!(!pair.is_direct(81), "its verdict could not be carried over");
        // A worker's decision is lost, too, and its connections go by mutual TLS.
        pair.verdicts.allow(&permit(1, &pair.client, &pair.server, 81));
        assert!(!pair.is_direct(81));
    });
}

// proves: SEC-3
#[test]
fn a_generation_that_cannot_be_written_takes_all_verdicts_with_it_and_is_an_error() {
    let bed = Bed::new();
    on_node(|node| {
        let mut pair = Pair::new(&bed, node);
        pair.verdicts.allow(&permit(0, &pair.client, &pair.server, 80));
        assert!(pair.is_direct(80));
        freeze(&bed, "GENERATION");
        for _ in 0..2 {
            let error = pair.kernel.enforce(1, |_, _, _| None).unwrap_err().to_string();
            assert!(error.contains("GENERATION"), "{error}");
            assert!(!pair.is_direct(80));
        }
    });
}
