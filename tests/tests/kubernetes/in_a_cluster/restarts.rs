//! Programs that are killed and come back, under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::pillion::NAMESPACE;
use serde_json::Value;

use crate::deployed::Deployed;

use super::rolling::Load;

const NEIGHBOUR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: neighbour, labels: {pillion.dev/capture: enabled}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: echo, image: 'pillion.test/load:1', args: [serve, --echo, '7']}]
";

const NODES: [&str; 2] = ["node1", "node2"];

/// Two pods of node1 talk directly while its agent is killed, and while all agents are replaced in an orderly way.
pub fn of_the_agent_are_not_noticed_by_direct_connections(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    standing.apply(NEIGHBOUR)?;
    standing.all_ready()?;
    deployed.captured("node1", "neighbour", true)?;
    let neighbour = format!("{}:7", standing.get(&["pod", "neighbour"], "{.status.podIP}")?);
    let ping_pong = |seconds: &str| {
        let command = [
            "pillion-load",
            "ping-pong",
            "--warm-up=0",
            "--rate=20",
            "--seconds",
            seconds,
            "--to",
            &neighbour,
        ];
        deployed.begin("client", &command)
    };
    // The first connection of a pair is not direct.
    ping_pong("0.2")?.finish(Duration::from_secs(10))?;
    let stream = ping_pong("75")?;
    standing.wait("a direct connection is open", || {
        Ok(deployed.metrics("node1")?.sum("pillion_direct_connections", &[("pod", "client")]) == 1.0)
    })?;
    standing.cluster.machine("node1")?.kill("pillion")?;
    deployed.agent_is_ready("node1")?;
    let former = NODES.map(|node| deployed.agent(node));
    standing.kubectl(&["--namespace", NAMESPACE, "rollout", "restart", "daemonset/pillion"], "")?;
    standing.kubectl(
        &["--namespace", NAMESPACE, "rollout", "status", "daemonset/pillion", "--timeout=150s"],
        "",
    )?;
    // A new agent that stands by is ready, too: Kubernetes is content before it has taken over.
    for (node, former) in NODES.iter().zip(former) {
        let former = former?;
        standing.wait("another agent has taken over", || {
            Ok(deployed.agent(node).is_ok_and(|now| now != former))
        })?;
        deployed.agent_is_ready(node)?;
    }
    deployed.captured("node1", "neighbour", true)?;
    let report: Value =
        serde_json::from_str(&stream.finish(Duration::from_secs(90))?).context("no report")?;
    ensure!(report["errors"] == 0, "the direct connection was hurt: {}", report["first_error"]);
    standing.kubectl(&["delete", "pod", "neighbour"], "")?;
    standing.say("direct connections did not notice that agents were replaced");
    Ok(())
}

/// One after the other is killed and comes back a while later; then a whole node.
pub fn of_the_cluster_are_not_noticed_by_the_mesh(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let killed = [
        ("cp", "kube-apiserver"),
        ("cp", "kube-controller-manager"),
        ("node1", "containerd"),
        ("node2", "containerd"),
        ("node1", "kubelet"),
        ("node2", "kubelet"),
    ];
    for (machine, program) in killed {
        // Nothing that the API server tells is asked while it is away: the load is begun before.
        let load = Load::begin(deployed, "client", 6)?;
        std::thread::sleep(Duration::from_millis(500));
        let start = standing.cluster.kill(machine, program)?;
        std::thread::sleep(Duration::from_secs(2));
        start()?;
        load.end().with_context(|| format!("{program} of {machine} was killed"))?;
        standing.say(&format!("{program} of {machine} was killed: nobody noticed"));
    }
    Ok(())
}
