//! A pod's path is all of its devices, and nothing on it makes packets wait: else the pod is not direct.

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::wait::now;
use pillion_tests::{AgentOptions, Pod, SameNode, apps};

use crate::policy::cut_within_a_second;
use crate::{ask, introduce, wait_direct};

/// The server is not direct, for this reason; the next connection goes by mutual TLS.
fn is_not_direct(same_node: &SameNode, reason: &str) {
    let SameNode { client, server, agent, .. } = same_node;
    let metrics = agent.metrics().unwrap();
    let labels = [("pod", "server"), ("reason", reason)];
    assert_eq!(metrics.select("pillion_pod_direct", &labels).count(), 1, "{reason}");
    let dump = agent.worker(server).unwrap().unwrap();
    assert_eq!((&dump["direct"], dump["not_direct"].as_str().is_some()), (&false.into(), true), "{dump:#}");
    let before = metrics.opened("source", client, server, MUTUAL_TLS);
    ask(client, server.ip4().into()).unwrap();
    agent
        .wait_metrics("a connection by mutual TLS", |metrics| {
            metrics.opened("source", client, server, MUTUAL_TLS) == before + 1.0
        })
        .unwrap();
}

/// The server is direct once more.
fn is_direct_again(same_node: &SameNode) {
    let SameNode { client, server, agent, .. } = same_node;
    agent.audit().unwrap();
    let before = agent.metrics().unwrap().opened("source", client, server, DIRECT);
    introduce(same_node, client, server).unwrap();
    ask(client, server.ip4().into()).unwrap();
    agent
        .wait_metrics("a direct connection", |metrics| {
            metrics.opened("source", client, server, DIRECT) > before
        })
        .unwrap();
}

fn introduced(name: &str) -> SameNode {
    let options = AgentOptions::default().access_log().arg("--audit-interval=1h");
    let same_node = SameNode::with(name, &options, &[]).unwrap();
    let SameNode { client, server, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    same_node
}

fn at_node(same_node: &SameNode, program: &str, line: &str) {
    same_node.node().command(program).args(line.split(' ')).run().unwrap();
}

fn in_pod(pod: &Pod, program: &str, line: &str) {
    pod.command(program).args(line.split(' ')).run().unwrap();
}

// proves: ID-1, SEC-3
#[test]
fn a_second_network_ends_the_direct_path_and_the_open_connections_that_it_could_write_into() {
    let same_node = introduced("second-network");
    let SameNode { client, server, agent, .. } = &same_node;
    let talk = apps::converse(client, server.ip4().into(), 7, "open").unwrap();
    talk.say("hello").unwrap();
    wait_direct(&same_node, 1).unwrap();

    // As Multus does it. While the device is down, nothing comes by it.
    let netns = server.netns_name();
    at_node(&same_node, "ip", &format!("link add second type veth peer name eth1 netns {netns}"));
    agent.audit().unwrap();
    talk.say("still here").unwrap();
    in_pod(server, "ip", "link set eth1 up");
    let begun = now();
    agent.audit().unwrap();
    cut_within_a_second("a direct connection beside a second network", begun, &talk.wait_end().unwrap());
    let cut = [("reason", "further_device")];
    agent
        .wait_metrics("the cut at one end at least", |metrics| {
            metrics.sum("pillion_connections_cut_total", &cut) >= 1.0
        })
        .unwrap();
    is_not_direct(&same_node, "further_device");

    at_node(&same_node, "ip", "link del second");
    is_direct_again(&same_node);
}

// proves: SEC-3
#[test]
fn a_shaped_veth_is_not_gone_around() {
    let same_node = introduced("shaped");
    let SameNode { server, agent, .. } = &same_node;
    let device = server.device();
    at_node(&same_node, "tc", &format!("qdisc add dev {device} root tbf rate 10mbit burst 32k latency 50ms"));
    agent.audit().unwrap();
    is_not_direct(&same_node, "shaped");
    at_node(&same_node, "tc", &format!("qdisc del dev {device} root"));
    is_direct_again(&same_node);
}
