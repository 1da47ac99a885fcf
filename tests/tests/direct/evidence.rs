//! What allows a direct connection is evidence: pods whose objects say nothing yet of their addresses are judged by those
//! that the kernel has.

use pillion_tests::cri::FakeRuntime;
use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::wait::now;
use pillion_tests::{AgentOptions, Bed, SameNode, apps};

use crate::policy::cut_within_a_second;
use crate::{ask, ask_from, introduce, wait_direct};

/// A pair whose client has no address in its object yet: its runtime alone has said where it is.
fn early(name: &str) -> (SameNode, FakeRuntime) {
    let bed = Bed::new(name).unwrap();
    let node = bed.node("n1").unwrap();
    let client = node.pod("client").captured().unposted().create().unwrap();
    let server = node.pod("server").captured().create().unwrap();
    let runtime = FakeRuntime::start(&bed.dir().join("cri.sock")).unwrap();
    [&client, &server].into_iter().for_each(|pod| runtime.add(pod).unwrap());
    let socket = runtime.socket().display().to_string();
    let options = AgentOptions::default().access_log().arg(format!("--cri-socket={socket}"));
    let agent = node.start_agent(&options).unwrap();
    let same_node = SameNode { client, server, agent, bed };
    same_node.settle().unwrap();
    apps::echo(&same_node.server, 7).unwrap();
    (same_node, runtime)
}

/// At port 7 of the server; another port is nobody's to connect to, so that the policy is in force in either case.
fn deny(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: deny, namespace: default }}\n\
         spec:\n  selector: {{ matchLabels: {{ app: server }} }}\n  action: DENY\n  rules:\n  \
         - from: [{{ source: {{ principals: ['cluster.local/ns/default/sa/{account}'] }} }}]\n"
    )
}

// proves: POL-1, SEC-3
#[test]
fn a_pod_without_addresses_in_its_object_is_denied_every_time_and_not_only_the_first() {
    let (same_node, _runtime) = early("early-denied");
    let SameNode { client, server, agent, bed } = &same_node;
    bed.write_manifest("deny.yaml", &deny("client")).unwrap();
    agent.wait_config("the policy", |dump| dump.to_string().contains("default/deny")).unwrap();
    for try_ in 0..4 {
        assert_ne!(ask_from(client, "", server.ip4().into()).unwrap(), "word", "try {try_}");
    }
    assert_eq!(agent.metrics().unwrap().opened("destination", client, server, DIRECT), 0.0);

    // It is the policy that stands against it, and nothing else: another account's is nothing to the client.
    bed.write_manifest("deny.yaml", &deny("another")).unwrap();
    agent
        .process()
        .wait_for("a direct connection", crate::SECONDS_10, || {
            let said = ask_from(client, "", server.ip4().into())?;
            let direct = agent.metrics()?.opened("destination", client, server, DIRECT);
            Ok((said == "word" && direct >= 1.0).then_some(()))
        })
        .unwrap();
}

// proves: POL-2, SEC-3
#[test]
fn a_policy_cuts_the_direct_connection_of_a_pod_without_addresses_in_its_object() {
    let (same_node, _runtime) = early("early-cut");
    let SameNode { client, server, agent, bed } = &same_node;
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip4().into(), 7, "open").unwrap();
    talk.say("hello").unwrap();
    wait_direct(&same_node, 1).unwrap();
    let begun = now();
    bed.write_manifest("deny.yaml", &deny("client")).unwrap();
    cut_within_a_second("an early pod's connection", begun, &talk.wait_end().unwrap());
    // By the worker of either end: the first that cuts it leaves the other nothing to cut.
    let cut = [("reason", "denied")];
    agent
        .wait_metrics("the cut at one end at least", |metrics| {
            metrics.sum("pillion_connections_cut_total", &cut) >= 1.0
        })
        .unwrap();
    assert_ne!(ask_from(client, "", server.ip4().into()).unwrap(), "word");
}

#[test]
fn posted_addresses_change_nothing_for_a_direct_pair() {
    let (same_node, _runtime) = early("early-posted");
    let SameNode { client, server, agent, .. } = &same_node;
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip4().into(), 7, "open").unwrap();
    talk.say("hello").unwrap();
    client.post_addresses().unwrap();
    agent.wait_known(client).unwrap();
    ask(client, server.ip4().into()).unwrap();
    talk.say("still here").unwrap();
    talk.close().unwrap();
    wait_direct(&same_node, 2).unwrap();
    assert_eq!(agent.metrics().unwrap().opened("source", client, server, MUTUAL_TLS), 1.0);
}
