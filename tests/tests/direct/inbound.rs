//! Plaintext that comes into a pod: what PeerAuthentication makes of it.

use std::net::IpAddr;

use pillion_tests::metrics::Metrics;
use pillion_tests::security::NONE;
use pillion_tests::{AgentOptions, Node, Pod, SameNode, apps, wait};

use crate::{SECONDS_10, STRICT, ask, ask_from, introduce, wait_direct};

const PLAINTEXT: &str = "pillion_inbound_plaintext_total";

fn strict(name: &str) -> SameNode {
    SameNode::with(name, &AgentOptions::default().access_log(), &[STRICT]).unwrap()
}

/// What PeerAuthentication says of the pods with the label `app: server`.
fn for_server(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: server, namespace: default }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: server }} }}, {spec} }}\n"
    )
}

fn plaintext(metrics: &Metrics, pod: &Pod, result: &str) -> f64 {
    metrics.sum(PLAINTEXT, &[("pod", pod.name()), ("result", result)])
}

/// What comes of a connection by curl: 0 is an answer, 7 "could not connect".
fn curl(command: pillion_tests::Command, ip: IpAddr, port: u16) -> Option<i32> {
    let url = format!("http://{}/hello", std::net::SocketAddr::new(ip, port));
    command.args(["-sS", "-m", "5", "-o", "/dev/null", &url]).output().unwrap().status.code()
}

fn from_node(node: &Node, ip: IpAddr, port: u16) -> Option<i32> {
    curl(node.command("curl"), ip, port)
}

fn from_pod(pod: &Pod, ip: IpAddr, port: u16) -> Option<i32> {
    curl(pod.command("curl"), ip, port)
}

// proves: ID-3
#[test]
fn strict_takes_what_the_kernel_attests_and_mutual_tls_and_refuses_all_else_at_once() {
    let same_node = strict("strict");
    let SameNode { client, server, agent, bed, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    let elsewhere = bed.node("n2").unwrap();
    let far = elsewhere.pod("far").captured().create().unwrap();
    let far_outsider = elsewhere.pod("far-outsider").create().unwrap();
    let far_agent = elsewhere.start_agent(&AgentOptions::default()).unwrap();
    far_agent.wait_serving(&far).unwrap();
    agent.wait_known(&far).unwrap();

    introduce(&same_node, client, server).unwrap();
    for ip in server.addresses() {
        ask(client, *ip).unwrap();
        ask(&far, *ip).unwrap();
        for stranger in [&outsider, &far_outsider] {
            assert_eq!(ask_from(stranger, "", *ip).unwrap(), "ConnectionRefusedError", "{}", stranger.name());
        }
        assert_eq!(from_node(same_node.node(), *ip, 7), Some(7), "the node itself");
    }
    wait_direct(&same_node, 2).unwrap();
    let refused = |metrics: &Metrics| plaintext(metrics, server, "refused") == 6.0;
    let metrics = agent.wait_metrics("six refused connections", refused).unwrap();
    assert_eq!(plaintext(&metrics, server, "passed"), 0.0);
}

// proves: ID-3
#[test]
fn strict_holds_at_link_local_addresses_too() {
    const SCRIPT: &str = "
import socket, sys
try:
    socket.create_connection((sys.argv[1] + '%eth0', 7), 5); print('accepted')
except OSError as error:
    print(type(error).__name__)
";
    let same_node = strict("link-local");
    apps::echo(&same_node.server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    let addresses = ["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"];
    let said = same_node.server.command("ip").args(addresses).run().unwrap();
    let link_local = said.split_whitespace().find(|word| word.starts_with("fe80:")).unwrap();
    let link_local = link_local.split_once('/').unwrap().0;
    assert_eq!(apps::python(&outsider, SCRIPT, [link_local]).run().unwrap(), "ConnectionRefusedError\n");
}

// proves: ID-3
#[test]
fn permissive_takes_plaintext_untouched_and_counts_it() {
    let same_node = SameNode::new("permissive").unwrap();
    let SameNode { server, agent, .. } = &same_node;
    let echo = apps::echo(server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    for ip in server.addresses() {
        ask(&outsider, *ip).unwrap();
    }
    for ip in outsider.addresses() {
        assert!(echo.log().contains(&ip.to_string()), "{}", echo.log());
    }
    let passed = |metrics: &Metrics| plaintext(metrics, server, "passed") == 2.0;
    let metrics = agent.wait_metrics("two connections in plain", passed).unwrap();
    assert_eq!(plaintext(&metrics, server, "refused"), 0.0);
}

// proves: ID-3
#[test]
fn disable_leaves_plaintext_alone_in_both_directions() {
    let manifest = for_server("mtls: { mode: DISABLE }");
    let same_node = SameNode::with("disable", &AgentOptions::default().access_log(), &[STRICT, &manifest]);
    let same_node = same_node.unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    ask(&outsider, server.ip4().into()).unwrap();
    ask(client, server.ip4().into()).unwrap();
    agent
        .wait_access("the client's connection, in plain", |line| {
            line["reporter"] == "source" && line["connection_security_policy"] == NONE
        })
        .unwrap();
    let metrics = agent.metrics().unwrap();
    assert_eq!(plaintext(&metrics, server, "passed"), 0.0, "none of the mesh's business");
}

// proves: ID-3
#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let manifest = for_server("mtls: { mode: STRICT }, portLevelMtls: { 81: { mode: PERMISSIVE } }");
    let same_node = SameNode::with("port-level", &AgentOptions::default(), &[&manifest]).unwrap();
    let server = &same_node.server;
    apps::nginx(server, 80).unwrap();
    apps::nginx(server, 81).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    for ip in server.addresses() {
        assert_eq!(from_pod(&outsider, *ip, 80), Some(7));
        assert_eq!(from_pod(&outsider, *ip, 81), Some(0));
    }
}

// proves: ID-3
#[test]
fn an_excluded_inbound_port_is_open_under_strict() {
    let same_node = strict("excluded");
    let server = same_node.node().pod("metrics").captured();
    let server = server.annotation("pillion.dev/exclude-inbound-ports", "9090").create().unwrap();
    same_node.agent.wait_serving(&server).unwrap();
    apps::nginx(&server, 9090).unwrap();
    apps::nginx(&server, 80).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    assert_eq!(from_pod(&outsider, server.ip4().into(), 9090), Some(0));
    assert_eq!(from_pod(&outsider, server.ip4().into(), 80), Some(7));
}

// proves: POL-3
#[test]
fn probes_come_from_the_node_alone_under_strict() {
    let same_node = strict("probes");
    let probed = same_node.node().pod("probed").captured().probed(8080).create().unwrap();
    same_node.agent.wait_serving(&probed).unwrap();
    apps::nginx(&probed, 8080).unwrap();
    apps::nginx(&probed, 80).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    for ip in probed.addresses() {
        assert_eq!(from_node(same_node.node(), *ip, 8080), Some(0), "the kubelet's probe");
        assert_eq!(from_node(same_node.node(), *ip, 80), Some(7), "no probe's port");
        assert_eq!(from_pod(&outsider, *ip, 8080), Some(7), "not the node");
    }
}

// proves: ID-3, POL-2
#[test]
fn a_mode_that_becomes_strict_ends_open_plaintext_and_spares_the_attested() {
    let same_node = SameNode::new("becomes-strict").unwrap();
    let SameNode { client, server, bed, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    introduce(&same_node, client, server).unwrap();
    let ip = IpAddr::from(server.ip4());
    let attested = apps::converse(client, ip, 7, "attested").unwrap();
    let plain = apps::converse(&outsider, ip, 7, "plain").unwrap();
    attested.say("hello").unwrap();
    plain.say("hello").unwrap();
    wait_direct(&same_node, 1).unwrap();

    let begun = pillion_tests::wait::now();
    bed.write_manifest("strict.yaml", STRICT).unwrap();
    let end = plain.wait_end().unwrap();
    crate::policy::cut_within_a_second("plaintext, by STRICT", begun, &end);
    attested.say("still here").unwrap();
    assert_eq!(ask_from(&outsider, "", ip).unwrap(), "ConnectionRefusedError");

    bed.remove_manifest("strict.yaml").unwrap();
    let taken = || Ok((ask_from(&outsider, "", ip)? == "word").then_some(()));
    wait::until("plaintext to be taken again", SECONDS_10, taken).unwrap();
    attested.close().unwrap();
}

/// Takes one connection, closes its listener, and echoes.
const LISTENS_NO_MORE: &str = "
import socket, sys
l = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True)
print('listening', flush=True)
s = l.accept()[0]; l.close()
while data := s.recv(4096): s.sendall(data)
";

// proves: ID-3, POL-2, SEC-3
#[test]
fn a_mode_that_becomes_strict_ends_plaintext_whose_listener_is_closed_and_spares_what_the_pod_has_opened() {
    let same_node = SameNode::new("no-listener").unwrap();
    let SameNode { server, bed, .. } = &same_node;
    let outsider = same_node.outsider("outsider").unwrap();
    let once = apps::python(server, LISTENS_NO_MORE, [""; 0]).log("once").start().unwrap();
    once.wait_log("listening", SECONDS_10).unwrap();
    let plain = apps::converse(&outsider, server.ip4().into(), 9, "plain").unwrap();
    plain.say("hello").unwrap();
    // The pod's own connection out of the mesh, which its worker carries in plain.
    apps::echo(&outsider, 7).unwrap();
    let outward = apps::converse(server, outsider.ip4().into(), 7, "outward").unwrap();
    outward.say("hello").unwrap();

    let begun = pillion_tests::wait::now();
    bed.write_manifest("strict.yaml", STRICT).unwrap();
    let end = plain.wait_end().unwrap();
    crate::policy::cut_within_a_second("plaintext whose listener is closed, by STRICT", begun, &end);
    outward.say("still here").unwrap();
    outward.close().unwrap();
}

/// Connects from source port 5432, and says how the connection ends.
const FROM_5432: &str = "
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', 5432))
s.connect((sys.argv[1], 9)); s.sendall(b'hello'); s.recv(100)
print('open', flush=True)
try: print('the end:', s.recv(100), flush=True)
except OSError as e: print('the end:', type(e).__name__, flush=True)
";

// proves: POL-2, SEC-3
#[test]
fn plaintext_from_a_source_port_that_the_pod_keeps_out_of_the_mesh_ends_with_strict_and_the_pods_own_does_not()
 {
    let same_node = SameNode::new("excluded-source").unwrap();
    let keeper = same_node.node().pod("keeper").captured();
    let keeper = keeper.annotation("pillion.dev/exclude-outbound-ports", "5432").create().unwrap();
    same_node.agent.wait_serving(&keeper).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    let once = apps::python(&keeper, LISTENS_NO_MORE, [""; 0]).log("once").start().unwrap();
    once.wait_log("listening", SECONDS_10).unwrap();
    let stranger =
        apps::python(&outsider, FROM_5432, [keeper.ip4().to_string()]).log("stranger").start().unwrap();
    stranger.wait_log("open", SECONDS_10).unwrap();
    let database = same_node.outsider("database").unwrap();
    apps::echo(&database, 5432).unwrap();
    let own = apps::converse(&keeper, database.ip4().into(), 5432, "own").unwrap();
    own.say("hello").unwrap();

    same_node.bed.write_manifest("strict.yaml", STRICT).unwrap();
    stranger.wait_log("the end: ConnectionResetError", SECONDS_10).unwrap();
    own.say("still here").unwrap();
    own.close().unwrap();
}
