//! A policy that changes: open direct connections that it no longer allows are cut, new ones go by mutual TLS.

use std::net::IpAddr;

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{SameNode, apps};

use pillion_tests::wait::now;

use crate::{ask, introduce, wait_direct};

const DIRECT_ANNOTATION: &str = "pillion.dev/direct";

fn network_policy(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{ name: isolate, namespace: default }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ app: {app} }} }} }}\n"
    )
}

/// Asserts that a client saw the end of its connection within a second, and shows when it did. `end` is what the client
/// said of it. (100 ms are promised from when the agent has read the change; a machine that runs tests is busy.)
pub fn cut_within_a_second(what: &str, begun: f64, end: &str) {
    let seen: f64 = end.split(' ').nth(1).unwrap().parse().unwrap();
    let took = seen - begun;
    println!("cut {:.0} ms after the change was written: {what}", took * 1e3);
    assert!(took < 1.0, "{what}: {took} s");
}

/// Applies a change to a pair that talks directly, and expects the cut; then takes it back, and expects the direct path.
fn cuts(name: &str, change: impl Fn(&SameNode), undo: impl Fn(&SameNode)) {
    let same_node = SameNode::new(name).unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let talks = [0, 1].map(|family| {
        let talk = apps::converse(client, server.addresses()[family], 7, &format!("open-{family}")).unwrap();
        talk.say("hello").unwrap();
        talk
    });
    wait_direct(&same_node, 2).unwrap();
    // Somebody else's connection to somebody else is none of the change's business.
    let [bystander, other] = ["bystander", "other"].map(|name| same_node.captured(name).unwrap());
    apps::echo(&other, 7).unwrap();
    introduce(&same_node, &bystander, &other).unwrap();
    let spared = apps::converse(&bystander, other.ip4().into(), 7, "spared").unwrap();
    spared.say("hello").unwrap();

    let begun = now();
    change(&same_node);
    for talk in &talks {
        cut_within_a_second(name, begun, &talk.wait_end().unwrap());
    }
    let by_mutual_tls = agent.metrics().unwrap().opened("source", client, server, MUTUAL_TLS);
    let ips: Vec<IpAddr> = server.addresses().to_vec();
    for ip in &ips {
        ask(client, *ip).unwrap();
    }
    agent
        .wait_metrics("new connections by mutual TLS", |metrics| {
            metrics.opened("source", client, server, MUTUAL_TLS) == by_mutual_tls + 2.0
        })
        .unwrap();
    wait_direct(&same_node, 2).unwrap();
    spared.say("still here").unwrap();
    spared.close().unwrap();
    agent
        .wait_metrics("the cuts", |metrics| metrics.sum("pillion_connections_cut_total", &[]) >= 2.0)
        .unwrap();

    undo(&same_node);
    agent
        .process()
        .wait_for("a direct connection again", crate::SECONDS_10, || {
            ask(client, ips[0])?;
            Ok((agent.metrics()?.opened("source", client, server, DIRECT) > 2.0).then_some(()))
        })
        .unwrap();
}

// proves: POL-2
#[test]
fn disabling_the_servers_direct_path_cuts_its_direct_connections() {
    cuts(
        "server-disabled",
        |same_node| same_node.server.annotate(DIRECT_ANNOTATION, Some("disabled")).unwrap(),
        |same_node| same_node.server.annotate(DIRECT_ANNOTATION, None).unwrap(),
    );
}

// proves: POL-2
#[test]
fn disabling_the_clients_direct_path_cuts_its_direct_connections() {
    cuts(
        "client-disabled",
        |same_node| same_node.client.annotate(DIRECT_ANNOTATION, Some("disabled")).unwrap(),
        |same_node| same_node.client.annotate(DIRECT_ANNOTATION, Some("enabled")).unwrap(),
    );
}

// proves: POL-2
#[test]
fn a_network_policy_that_selects_the_server_cuts_its_direct_connections() {
    cuts(
        "server-isolated",
        |same_node| same_node.bed.write_manifest("policy.yaml", &network_policy("server")).unwrap(),
        |same_node| same_node.bed.remove_manifest("policy.yaml").unwrap(),
    );
}

// proves: POL-2
#[test]
fn a_network_policy_that_selects_the_client_cuts_its_direct_connections() {
    cuts(
        "client-isolated",
        |same_node| same_node.bed.write_manifest("policy.yaml", &network_policy("client")).unwrap(),
        |same_node| same_node.bed.remove_manifest("policy.yaml").unwrap(),
    );
}

// proves: POL-2, SEC-3
#[test]
fn a_bandwidth_limit_of_the_server_cuts_its_direct_connections() {
    const LIMIT: &str = "kubernetes.io/ingress-bandwidth";
    cuts(
        "server-limited",
        |same_node| same_node.server.annotate(LIMIT, Some("10M")).unwrap(),
        |same_node| same_node.server.annotate(LIMIT, None).unwrap(),
    );
}

#[test]
fn a_change_that_concerns_nobody_here_cuts_nothing_and_verdicts_stay() {
    let same_node = SameNode::new("unconcerned").unwrap();
    let SameNode { client, server, agent, bed, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let open = apps::converse(client, server.ip4().into(), 7, "open").unwrap();
    let far = bed.node("n2").unwrap().pod("far").captured().create().unwrap();
    agent.wait_known(&far).unwrap();
    bed.write_manifest("policy.yaml", &network_policy("nobody")).unwrap();
    bed.service("echo", 7, 7, &[server]).unwrap();
    agent.wait_config("the service", |dump| dump["services"].to_string().contains("\"echo\"")).unwrap();
    ask(client, server.ip4().into()).unwrap();
    wait_direct(&same_node, 2).unwrap();
    open.say("still here").unwrap();
    open.close().unwrap();
    assert_eq!(agent.metrics().unwrap().opened("source", client, server, MUTUAL_TLS), 1.0);
}
