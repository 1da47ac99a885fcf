//! Others with root on the node: another datapath at a pod's veth, and programs that somebody detaches.

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{AgentOptions, Pod, SameNode, apps};

use crate::{STRICT, ask, ask_from, introduce, wait_direct};

/// A filter at the node's end of the pod's veth, as other projects have there. It takes everything, and changes nothing.
fn add_filter(same_node: &SameNode, pod: &Pod) {
    let tc = |line: &str| same_node.node().command("tc").args(line.split(' ')).run().unwrap();
    tc(&format!("qdisc add dev {} clsact", pod.device()));
    tc(&format!("filter add dev {} ingress protocol all prio 1 u32 match u32 0 0", pod.device()));
}

#[test]
fn a_pod_whose_veth_has_anothers_program_is_not_direct() {
    let same_node = SameNode::with("other-datapath", &AgentOptions::default(), &[]).unwrap();
    let SameNode { client, agent, .. } = &same_node;
    let owned = same_node.node().pod("owned").create().unwrap();
    apps::echo(&owned, 7).unwrap();
    add_filter(&same_node, &owned);
    owned.capture().unwrap();
    agent.wait_serving(&owned).unwrap();
    for _ in 0..3 {
        ask(client, owned.ip4().into()).unwrap();
    }
    agent
        .wait_metrics("three connections by mutual TLS", |metrics| {
            metrics.opened("source", client, &owned, MUTUAL_TLS) == 3.0
        })
        .unwrap();
    let metrics = agent.metrics().unwrap();
    let labels = [("pod", "owned"), ("reason", "foreign_program")];
    assert_eq!(metrics.select("pillion_pod_direct", &labels).count(), 1);
    assert_eq!(metrics.opened("source", client, &owned, DIRECT), 0.0);
}

#[test]
fn a_program_that_comes_later_ends_the_direct_path_with_the_next_audit() {
    let options = AgentOptions::default().access_log().arg("--audit-interval=1h");
    let same_node = SameNode::with("later-datapath", &options, &[]).unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    ask(client, server.ip4().into()).unwrap();
    wait_direct(&same_node, 1).unwrap();
    add_filter(&same_node, server);
    agent.audit().unwrap();
    let before = agent.metrics().unwrap().opened("source", client, server, MUTUAL_TLS);
    ask(client, server.ip4().into()).unwrap();
    agent
        .wait_metrics("a connection by mutual TLS", |metrics| {
            metrics.opened("source", client, server, MUTUAL_TLS) == before + 1.0
        })
        .unwrap();
}

#[test]
fn detached_programs_are_found_by_the_audit_and_attached_again() {
    let options = AgentOptions::default().arg("--audit-interval=1h");
    let same_node = SameNode::with("detached", &options, &[STRICT]).unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    introduce(&same_node, client, server).unwrap();
    let links = agent.kernel_objects().unwrap().links;
    for link in &links {
        same_node.node().command("bpftool").args(["link", "detach", "id", &link.to_string()]).run().unwrap();
    }
    assert_eq!(server.programs_on_veth().unwrap(), [""; 0]);
    let audit = agent.audit().unwrap();
    let repaired = audit["repairs"].as_array().unwrap().iter().filter(|repair| repair["what"] == "pod_link");
    assert_eq!(repaired.count(), 4, "guard and path of both pods: {audit:#}");
    assert_eq!(audit["errors"].as_array().unwrap().len(), 0, "{audit:#}");
    assert_eq!(server.programs_on_veth().unwrap(), ["from_pod", "to_pod"]);
    assert_eq!(ask_from(&outsider, "", server.ip4().into()).unwrap(), "ConnectionRefusedError");
    ask(client, server.ip4().into()).unwrap();
    wait_direct(&same_node, 1).unwrap();
}
