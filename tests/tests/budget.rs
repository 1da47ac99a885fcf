//! What a pod may take of what all pods of a node share.

use pillion_tests::metrics::Metrics;
use pillion_tests::{AgentOptions, Bed, SameNode, apps, requirements, wait};
use std::time::Duration;

const SECONDS_10: Duration = Duration::from_secs(10);

/// Tries as many connections as it is told to, and keeps those that come up and those that do not.
const HOLD: &str = r"
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], int(sys.argv[3]))); held.append(s)
print('held', flush=True)
sys.stdin.read()
";

// proves: ISO-1, ISO-3
#[test]
fn a_pod_that_takes_all_descriptors_stops_neither_the_node_nor_its_neighbours() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("descriptors").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let pod = |name: &str| n1.pod(name).captured().create().unwrap();
    let (greedy, neighbour) = (pod("greedy"), pod("neighbour"));
    let server = n2.pod("server").captured().create().unwrap();
    let limited = AgentOptions::default().access_log().under("prlimit", &["--nofile=400:400"]);
    let near = n1.start_agent(&limited).unwrap();
    let far = n2.start_agent(&AgentOptions::default()).unwrap();
    for pod in [&greedy, &neighbour] {
        near.wait_serving(pod).unwrap();
        far.wait_known(pod).unwrap();
    }
    near.wait_known(&server).unwrap();
    far.wait_serving(&server).unwrap();
    apps::echo(&server, 7).unwrap();
    let address = server.ip4();
    let hold = apps::python(&greedy, HOLD, [address.to_string(), "1000".to_owned(), "7".to_owned()])
        .start()
        .unwrap();
    hold.wait_log("held", SECONDS_10).unwrap();
    let refused = |agent: &pillion_tests::Agent| {
        let metrics = agent.metrics()?;
        Ok((metrics.sum("pillion_budget_refused_total", &[("budget", "outbound_descriptors")]) >= 500.0)
            .then_some(()))
    };
    // The node core still answers, has room for a new worker, and the neighbour's connections come up.
    wait::until("the refused connections are counted", SECONDS_10, || refused(&near)).unwrap();
    let flagged = near.wait_access("a refused connection", |line| line["response_flags"] == "UO").unwrap();
    assert!(flagged["pod"].as_str().unwrap().contains("greedy"), "{flagged}");
    near.wait_ready().unwrap();
    let late = pod("late");
    near.wait_serving(&late).unwrap();
    for pod in [&neighbour, &late] {
        far.wait_known(pod).unwrap();
        let talk = apps::converse(pod, address.into(), 7, "neighbour").unwrap();
        talk.say("hello").unwrap();
        talk.close().unwrap();
    }
    // What the pod gives back is its own again.
    hold.kill().unwrap();
    let again = || {
        let talk = apps::converse(&greedy, address.into(), 7, "again")?;
        Ok(talk.say("hello").is_ok().then_some(()))
    };
    wait::until("the pod connects again", SECONDS_10, again).unwrap();
}

// proves: ISO-1, ISO-3
#[test]
fn strangers_take_no_descriptors_from_peers_nor_from_the_pod_itself_and_it_takes_none_from_peers() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("sides").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let pod = |name: &str| n2.pod(name).captured().create().unwrap();
    let (server, other) = (pod("server"), pod("other"));
    let (peer, stranger) =
        (n1.pod("peer").captured().create().unwrap(), n1.pod("stranger").create().unwrap());
    let near = n1.start_agent(&AgentOptions::default()).unwrap();
    let limited = AgentOptions::default().under("prlimit", &["--nofile=400:400"]);
    let far = n2.start_agent(&limited).unwrap();
    near.wait_serving(&peer).unwrap();
    far.wait_serving(&server).unwrap();
    for pod in [&server, &other] {
        near.wait_known(pod).unwrap();
    }
    far.wait_known(&peer).unwrap();
    for pod in [&server, &peer] {
        apps::echo(pod, 7).unwrap();
    }
    let hold = |from: &pillion_tests::Pod, to: &pillion_tests::Pod, port: &str| {
        let args = [to.ip4().to_string(), "1000".to_owned(), port.to_owned()];
        let hold = apps::python(from, HOLD, args).log("hold").start().unwrap();
        hold.wait_log("held", SECONDS_10).unwrap();
        hold
    };
    let talk = |from: &pillion_tests::Pod, to: &pillion_tests::Pod| {
        let talk = apps::converse(from, to.ip4().into(), 7, "talk").unwrap();
        talk.say("hello").unwrap();
        talk.close().unwrap();
    };
    // Strangers who say nothing.
    let _strangers = hold(&stranger, &server, "15008");
    talk(&server, &peer);
    talk(&peer, &server);
    // The pod itself.
    let _own = hold(&server, &peer, "7");
    let is_full = |metrics: &Metrics| {
        metrics.sum("pillion_budget_refused_total", &[("budget", "outbound_descriptors")]) >= 500.0
    };
    far.wait_metrics("the pod has its share of connections", is_full).unwrap();
    talk(&peer, &server);
    let used = far.metrics().unwrap();
    let used = used.sum("pillion_budget_used_ratio", &[("budget", "outbound_descriptors")]);
    assert!(used > 0.9, "the pod is told to have {used} of its share");
}

/// Says something that is no TLS, again and again.
const STRANGER: &str = "
import socket, sys
for _ in range(500):
    with socket.create_connection((sys.argv[1], 15008), 10) as s:
        s.sendall(b'x' * 100)
        try: s.recv(100)
        except OSError: pass
";

// proves: ISO-1
#[test]
fn strangers_that_fail_again_and_again_are_logged_now_and_then() {
    let same_node = SameNode::new("strangers").unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    apps::python(&outsider, STRANGER, [same_node.server.ip4().to_string()]).run().unwrap();
    let failed = [("role", "server"), ("result", "failed")];
    let all = |metrics: &Metrics| metrics.sum("pillion_handshakes_total", &failed) >= 500.0;
    same_node.agent.wait_metrics("all are counted", all).unwrap();
    let logged = same_node.agent.log().matches("mutual TLS with a peer failed").count();
    assert!((1..100).contains(&logged), "{logged} lines");
}
