//! Policies are for plaintext, too: nobody has proven who sends it, but where it comes from and where to is known.

use std::net::IpAddr;

use pillion_tests::{Pod, SameNode, apps};
use serde_json::Value;

use crate::{apply, connect, line_at_the_server};

const REFUSED: &str = "ConnectionRefusedError";

/// What comes of a connection from an address of the pod's or the node's, by curl: 0 is an answer, 7 "could not connect".
fn curl(command: pillion_tests::Command, ip: IpAddr, port: u16) -> Option<i32> {
    let url = format!("http://{}/hello", std::net::SocketAddr::new(ip, port));
    command.args(["-sS", "-m", "5", "-o", "/dev/null", &url]).output().unwrap().status.code()
}

fn said(pod: &Pod, server: &Pod, family: usize, port: u16) -> String {
    connect(pod, server.addresses()[family], port).unwrap().said
}

// proves: POL-1, TEL-2
#[test]
fn plaintext_comes_in_from_where_policies_let_it_and_is_refused_at_once_from_elsewhere() {
    let same_node = SameNode::new("plaintext").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    let [friend, stranger] = ["friend", "stranger"].map(|name| same_node.outsider(name).unwrap());
    for port in [7, 8] {
        apps::echo(server, port).unwrap();
    }
    let spec = format!(
        "{{ rules: [{{ from: [{{ source: {{ ipBlocks: [{}, '{}/128'] }} }}], to: [{{ operation: {{ ports: ['7'] }} }}] }}, \
         {{ from: [{{ source: {{ principals: ['*'] }} }}] }}] }}",
        friend.ip4(),
        friend.ip6()
    );
    let policy = apply(bed, &[agent], Some(&spec));
    for family in [0, 1] {
        assert_eq!(said(&friend, server, family, 7), "word");
        assert_eq!(said(&friend, server, family, 8), REFUSED);
        assert_eq!(said(&stranger, server, family, 7), REFUSED);
        // Who is of the mesh has proven it.
        assert_eq!(said(client, server, family, 7), "word");
        assert_eq!(said(client, server, family, 8), "word");
    }
    let denied = connect(&stranger, server.ip4().into(), 7).unwrap();
    let line = line_at_the_server(agent, denied.local.unwrap());
    assert_eq!(line["response_flags"], "DENY", "{line}");
    assert_eq!(line["connection_security_policy"], "none", "{line}");
    assert_eq!(line["source_workload"], "stranger", "{line}");
    assert_eq!(
        line["error"], "in plain, denied: ALLOW policies concern the pod, and none of them matches",
        "{line}"
    );
    assert_eq!(line["authorization"]["decision"], "DENY", "{line}");
    let metrics = agent
        .wait_metrics("five denied connections", |metrics| {
            metrics.sum("pillion_inbound_plaintext_total", &[("pod", "server"), ("result", "denied")]) == 5.0
        })
        .unwrap();
    assert_eq!(metrics.sum("pillion_authorization_total", &[("result", "denied"), ("policy", "")]), 5.0);
    assert_eq!(metrics.sum("pillion_denials_lost_total", &[]), 0.0);

    // A rule that denies is named.
    let deny = format!(
        "{{ action: DENY, rules: [{{ from: [{{ source: {{ ipBlocks: [{}] }} }}] }}] }}",
        stranger.ip4()
    );
    let policy_2 = apply(bed, &[agent], Some(&deny));
    assert_ne!(policy, policy_2);
    let denied = connect(&stranger, server.ip4().into(), 8).unwrap();
    assert_eq!(denied.said, REFUSED);
    let line = line_at_the_server(agent, denied.local.unwrap());
    assert_eq!(line["authorization"]["policy"], policy_2.as_str(), "{line}");
    assert_eq!(said(&stranger, server, 1, 8), "word");
    // Without policies all is as it was.
    apply(bed, &[agent], None);
    assert_eq!(said(&stranger, server, 0, 7), "word");
}

// proves: POL-2
#[test]
fn a_policy_cuts_open_plaintext_that_it_does_not_allow_and_spares_the_rest() {
    let same_node = SameNode::new("cut-plain").unwrap();
    let SameNode { server, agent, bed, .. } = &same_node;
    let [friend, stranger] = ["friend", "stranger"].map(|name| same_node.outsider(name).unwrap());
    apps::echo(server, 7).unwrap();
    let talk = |pod: &Pod| {
        let talk = apps::converse(pod, server.ip4().into(), 7, "talk").unwrap();
        talk.say("hello").unwrap();
        talk
    };
    let (spared, cut) = (talk(&friend), talk(&stranger));
    let deny = format!(
        "{{ action: DENY, rules: [{{ from: [{{ source: {{ notIpBlocks: [{}] }} }}] }}] }}",
        friend.ip4()
    );
    let policy = apply(bed, &[agent], Some(&deny));
    assert!(cut.wait_end().unwrap().starts_with("ConnectionResetError"));
    spared.say("still here").unwrap();
    spared.close().unwrap();
    let log = agent.log();
    let line =
        log.lines().find(|line| line.contains("cut an open connection: in plain, denied by rule 0")).unwrap();
    assert!(line.contains(&policy), "{line}");
    let cut = |metrics: &pillion_tests::metrics::Metrics| {
        metrics.sum("pillion_connections_cut_total", &[("reason", "denied")])
    };
    assert_eq!(cut(&agent.metrics().unwrap()), 1.0);
}

// proves: POL-3
#[test]
fn probes_pass_and_addresses_that_the_mesh_does_not_know_are_closed() {
    const LINK_LOCAL: &str = "
import socket, sys
try:
    socket.create_connection((sys.argv[1] + '%eth0', 80), 5); print('accepted')
except OSError as error:
    print(type(error).__name__)
";
    let same_node = SameNode::new("probes").unwrap();
    let SameNode { agent, bed, .. } = &same_node;
    let probed = same_node.node().pod("probed").captured().probed(80).create().unwrap();
    agent.wait_serving(&probed).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    apps::nginx(&probed, 80).unwrap();
    let show = ["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"];
    let shown = probed.command("ip").args(show).run().unwrap();
    let link_local = shown.split_whitespace().find(|word| word.starts_with("fe80:")).unwrap();
    let link_local = link_local.split_once('/').unwrap().0.to_owned();
    let at_link_local = || apps::python(&outsider, LINK_LOCAL, [link_local.as_str()]).run().unwrap();
    assert_eq!(at_link_local(), "accepted\n");
    apply(bed, &[agent], Some("{}"));
    for ip in probed.addresses() {
        assert_eq!(curl(same_node.node().command("curl"), *ip, 80), Some(0), "the kubelet's probe");
        assert_eq!(curl(outsider.command("curl"), *ip, 80), Some(7), "somebody else");
    }
    assert_eq!(at_link_local(), "ConnectionRefusedError\n");
    // What is kept out of the mesh is not policies' business.
    let open = same_node.node().pod("open").captured().annotation("pillion.dev/exclude-inbound-ports", "80");
    let open = open.create().unwrap();
    agent.wait_serving(&open).unwrap();
    apps::nginx(&open, 80).unwrap();
    assert_eq!(curl(outsider.command("curl"), open.ip4().into(), 80), Some(0));
    let denied = |line: &Value| line["response_flags"] == "DENY";
    assert_eq!(agent.access_log().unwrap().iter().filter(|line| denied(line)).count(), 2);
}
