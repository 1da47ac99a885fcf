//! What makes several nodes of one machine.

use std::process::Command;

use anyhow::{Result, ensure};

use pillion_tests::cluster::Standing;

/// Pods are in cgroups below the root of their own node, and containerd there takes NRI plugins.
pub fn are_apart(standing: &Standing) -> Result<()> {
    for (node, own, other) in [("node1", "nginx", "redis"), ("node2", "redis", "nginx")] {
        let machine = standing.cluster.machine(node)?;
        let running = machine.running()?;
        let runs = |name: &str| running.iter().any(|program| program.starts_with(name));
        ensure!(runs(own) && !runs(other), "these run on {node}: {running:?}");
        let socket = machine.run(Command::new("ls").arg("/var/run/nri/nri.sock"), "");
        ensure!(socket.is_ok(), "{node} takes no NRI plugins: {:#}", socket.unwrap_err());
    }
    Ok(())
}

pub fn come_back_with_their_disk(standing: &Standing) -> Result<()> {
    let (cluster, node) = (&standing.cluster, "node2");
    cluster.machine(node)?.run(Command::new("tee").arg("/var/lib/kept"), "kept")?;
    let container = || standing.get(&["pod", "redis"], "{.status.containerStatuses[0].containerID}");
    let before = container()?;
    cluster.node_off(node)?;
    ensure!(!cluster.machine(node)?.is_on() && !cluster.status()?.is_well(), "{node} is on");
    standing.say("node2 is off");
    cluster.node_on(node, &|what| standing.say(what))?;
    let kept = cluster.machine(node)?.run(Command::new("cat").arg("/var/lib/kept"), "")?;
    ensure!(kept == "kept", "the disk holds {kept:?}");
    standing.wait("redis runs again on node2", || {
        let ready = standing.get(&["pod", "redis"], "{.status.containerStatuses[0].ready}")?;
        Ok(ready == "true" && container()? != before)
    })?;
    let pong = standing.exec("redis", &["redis-cli", "PING"])?;
    ensure!(pong == "PONG", "redis says {pong:?}");
    let status = cluster.status()?;
    ensure!(status.is_well(), "not all is well:\n{status}");
    Ok(())
}
