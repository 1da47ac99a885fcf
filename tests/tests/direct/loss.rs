//! The agent's death, and what is left after it.

use std::time::Duration;

use pillion_tests::security::DIRECT;
use pillion_tests::{AgentOptions, Pod, SameNode, apps, wait};

use crate::{SECONDS_10, STRICT, ask, ask_from, introduce};

// proves: LIF-1
#[test]
fn a_killed_agent_costs_direct_connections_nothing_and_new_ones_fail_closed() {
    let same_node = SameNode::new("killed-direct").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::nginx(server, 80).unwrap();
    apps::echo(server, 7).unwrap();
    let url = format!("http://{}/1k", server.ip4());
    client.command("curl").args(["-sS", "-o", "/dev/null", &url]).run().unwrap();
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip6().into(), 7, "talk").unwrap();
    talk.say("hello").unwrap();
    let wrk = client.command("wrk").args(["-t1", "-c8", "-d6s", &url]).start().unwrap();
    agent
        .wait_metrics("the load, and the conversation", |metrics| {
            metrics.opened("source", client, server, DIRECT) >= 9.0
        })
        .unwrap();

    agent.kill().unwrap();
    for ip in server.addresses() {
        assert_eq!(ask_from(client, "", *ip).unwrap(), "PermissionError");
    }
    talk.say("nobody is there").unwrap();
    assert_eq!(wrk.exited(), None, "the load goes on");

    agent.restart().unwrap();
    same_node.settle().unwrap();
    talk.say("somebody is there").unwrap();
    ask(client, server.ip4().into()).unwrap();
    let open = [("pod", "client"), ("connection_security_policy", DIRECT)];
    agent
        .wait_metrics("the connections of before, taken over", |metrics| {
            metrics.sum("istio_tcp_connections_opened_total", &open) >= 9.0
        })
        .unwrap();
    assert!(wrk.wait(SECONDS_10).unwrap().success());
    let said = wrk.log();
    assert!(said.contains("Requests/sec") && !said.contains("Socket errors"), "{said}");
    agent
        .wait_metrics("the end of the load", |metrics| {
            metrics.sum("istio_tcp_connections_closed_total", &open) >= 8.0
        })
        .unwrap();
    talk.close().unwrap();
}

// proves: LIF-1
#[test]
fn without_its_agent_a_pod_that_asks_for_it_fails_open_and_is_attested_only_under_a_verdict_of_before() {
    const STRICT_FOR_GUARDED: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: guarded, namespace: guarded }
spec: { mtls: { mode: STRICT } }
";
    let same_node = SameNode::with("fail-open", &AgentOptions::default(), &[STRICT_FOR_GUARDED]).unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    let pod = |name: &str| same_node.node().pod(name).captured();
    let [known, unknown] = ["known", "unknown"].map(|name| pod(name).namespace("guarded").create().unwrap());
    let open = pod("open").annotation("pillion.dev/on-agent-loss", "open").create().unwrap();
    for pod in [&known, &unknown, &open] {
        agent.wait_serving(pod).unwrap();
    }
    let echo = apps::echo(server, 7).unwrap();
    for pod in [&known, &unknown] {
        apps::echo(pod, 7).unwrap();
    }
    introduce(&same_node, &open, &known).unwrap();

    agent.kill().unwrap();
    for family in [0, 1] {
        ask(&open, server.addresses()[family]).unwrap();
        assert!(echo.log().contains(&open.addresses()[family].to_string()), "plain: {}", echo.log());
        ask(&open, known.addresses()[family]).unwrap();
        let said = ask_from(&open, "", unknown.addresses()[family]).unwrap();
        assert_eq!(said, "ConnectionRefusedError", "by STRICT");
        assert_eq!(ask_from(client, "", server.addresses()[family]).unwrap(), "PermissionError");
    }
    agent.restart().unwrap();
    agent.wait_serving(&open).unwrap();
    agent.wait_serving(&unknown).unwrap();
    ask(&open, unknown.ip4().into()).unwrap();
}

// proves: LIF-1, ID-3
#[test]
fn without_its_agent_a_pod_is_guarded_as_before() {
    let same_node = SameNode::with("guarded", &AgentOptions::default(), &[STRICT]).unwrap();
    apps::echo(&same_node.server, 7).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    same_node.agent.kill().unwrap();
    for ip in same_node.server.addresses() {
        assert_eq!(ask_from(&outsider, "", *ip).unwrap(), "ConnectionRefusedError");
        ask(&same_node.server, *ip).unwrap();
    }
}

// proves: LIF-5
#[test]
fn uninstall_leaves_nothing_on_veths_and_in_pods() {
    let same_node = SameNode::new("uninstall-direct").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip4().into(), 7, "talk").unwrap();
    talk.say("hello").unwrap();
    let held = agent.kernel_objects().unwrap();
    for pod in [client, server] {
        assert_eq!(pod.programs_on_veth().unwrap(), ["from_pod", "to_pod"], "{}", pod.name());
        assert_eq!(pod.programs_in_netns().unwrap(), 1, "{}", pod.name());
    }
    agent.stop().unwrap();
    same_node.node().uninstall().unwrap();
    // The kernel ends a link that lost its pin on a work queue of its own, a moment later.
    for pod in [client, server] {
        let is_bare = || {
            let attached = (pod.programs_on_veth()?, pod.programs_in_netns()?);
            Ok((attached == (vec![], 0)).then_some(()))
        };
        wait::until(&format!("{} to have no program", pod.name()), SECONDS_10, is_bare).unwrap();
    }
    let freed = || Ok((held.alive()? == Default::default()).then_some(()));
    wait::until("the kernel to have freed all", SECONDS_10, freed).unwrap();
    // The connection is an ordinary one.
    talk.say("still here").unwrap();
    talk.close().unwrap();
    ask(client, server.ip4().into()).unwrap();
}

// proves: LIF-5
#[test]
fn a_pod_that_leaves_the_mesh_or_dies_takes_its_programs_along() {
    let same_node = SameNode::new("takes-along").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    client.release().unwrap();
    agent.wait_released(client).unwrap();
    let bare =
        || Ok((client.programs_on_veth()?.is_empty() && client.programs_in_netns()? == 0).then_some(()));
    wait::until("the released pod's veth to be as it was", SECONDS_10, bare).unwrap();

    let before = agent.kernel_objects().unwrap().links.len();
    let netns = server.netns_inode().unwrap();
    server.delete().unwrap();
    let gone = || {
        let fewer = agent.kernel_objects()?.links.len() < before;
        Ok((fewer && Pod::users_of_netns(netns)?.is_empty()).then_some(()))
    };
    wait::until("the dead pod's links to be gone", Duration::from_secs(10), gone).unwrap();
}
