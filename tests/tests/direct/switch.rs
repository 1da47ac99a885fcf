//! When a pair is not direct, and who says why.

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{Agent, AgentOptions, Pod, SameNode, apps, wait};

use crate::{SECONDS_10, ask, introduce};

/// Three connections, by mutual TLS each.
fn stays_on_mutual_tls(same_node: &SameNode) {
    let SameNode { client, server, agent, .. } = same_node;
    apps::echo(server, 7).unwrap();
    for _ in 0..3 {
        ask(client, server.ip4().into()).unwrap();
    }
    let metrics = agent
        .wait_metrics("three connections by mutual TLS", |metrics| {
            metrics.opened("source", client, server, MUTUAL_TLS) == 3.0
        })
        .unwrap();
    assert_eq!(metrics.opened("source", client, server, DIRECT), 0.0);
}

/// What the metric says of the pod: the reason, and 1 where it is direct.
fn reason(agent: &Agent, pod: &Pod) -> (String, f64) {
    let metrics = agent.metrics().unwrap();
    let samples: Vec<_> = metrics.select("pillion_pod_direct", &[("pod", pod.name())]).cloned().collect();
    assert_eq!(samples.len(), 1, "{samples:?}");
    (samples[0].label("reason").to_owned(), samples[0].value)
}

/// Why the pod is not direct, as `/config_dump` says it.
fn dumped(agent: &Agent, pod: &Pod) -> String {
    let worker = agent.worker(pod).unwrap().unwrap();
    assert_eq!(worker["direct"], false);
    worker["not_direct"].to_string()
}

#[test]
fn off_means_mutual_tls_always() {
    let same_node = SameNode::with("off", &AgentOptions::default().arg("--direct=off"), &[]).unwrap();
    stays_on_mutual_tls(&same_node);
    assert_eq!(reason(&same_node.agent, &same_node.client), ("mesh_off".into(), 0.0));
    assert!(dumped(&same_node.agent, &same_node.client).contains("--direct off"));
}

#[test]
fn a_pod_may_opt_out_and_the_other_keeps_its_path() {
    let same_node = SameNode::new("opted-out").unwrap();
    let opted_out = same_node.node().pod("opted-out").captured().annotation("pillion.dev/direct", "disabled");
    let opted_out = opted_out.create().unwrap();
    same_node.agent.wait_serving(&opted_out).unwrap();
    let same_node = SameNode { server: opted_out, ..same_node };
    stays_on_mutual_tls(&same_node);
    assert_eq!(reason(&same_node.agent, &same_node.server), ("pod_disabled".into(), 0.0));
    assert!(dumped(&same_node.agent, &same_node.server).contains("pillion.dev/direct"));
    assert_eq!(reason(&same_node.agent, &same_node.client), (String::new(), 1.0));
}

#[test]
fn a_network_policy_keeps_its_pods_on_the_way_that_it_guards() {
    const ISOLATE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: isolate, namespace: default }
spec: { podSelector: { matchExpressions: [{ key: app, operator: In, values: [server] }] } }
";
    let same_node = SameNode::with("isolated", &AgentOptions::default(), &[ISOLATE]).unwrap();
    stays_on_mutual_tls(&same_node);
    assert_eq!(reason(&same_node.agent, &same_node.server), ("network_policy".into(), 0.0));
    assert!(dumped(&same_node.agent, &same_node.server).contains("isolate"));
}

#[test]
fn pods_that_are_direct_say_so() {
    let same_node = SameNode::new("says-so").unwrap();
    for pod in [&same_node.client, &same_node.server] {
        assert_eq!(reason(&same_node.agent, pod), (String::new(), 1.0));
    }
}

#[test]
fn an_agent_that_starts_with_the_direct_path_off_ends_what_an_earlier_one_has_left() {
    let same_node = SameNode::new("switched-off").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip4().into(), 7, "talk").unwrap();
    talk.say("hello").unwrap();
    agent.stop().unwrap();
    talk.say("an agent's end changes nothing").unwrap();
    let agent = same_node.node().start_agent(&AgentOptions::default().arg("--direct=off")).unwrap();
    talk.wait_end().unwrap();
    let cut = [("reason", "mesh_off")];
    agent
        .wait_metrics("the cut at one end at least", |metrics| {
            metrics.sum("pillion_connections_cut_total", &cut) >= 1.0
        })
        .unwrap();
    for pod in [client, server] {
        let bare = || Ok(pod.programs_on_veth()?.is_empty().then_some(()));
        wait::until("the veth to be as it was", SECONDS_10, bare).unwrap();
    }
    ask(client, server.ip6().into()).unwrap();
}
