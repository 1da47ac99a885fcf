//! `helm uninstall`.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::deployed::Deployed;

/// Pods that run are given back to the cluster as they were, and nothing is left on the nodes.
pub fn leaves_nothing_on_the_nodes(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let site = standing.get(&["service", "site"], "{.spec.clusterIP}")?;
    let container = || standing.get(&["pod", "client"], "{.status.containerStatuses[0].containerID}");
    let before = container()?;
    standing.cluster.uninstall_pillion()?;
    for node in ["node1", "node2"] {
        let machine = standing.cluster.machine(node)?;
        let left = "ls -A /sys/fs/bpf/pillion /var/lib/pillion /run/pillion /var/lib/nri/plugins /var/lib/nri/conf.d 2>/dev/null \
                    | grep -v ':$' | grep . || true";
        let left = machine.run(Command::new("sh").args(["-c", left]), "")?;
        ensure!(left.is_empty(), "on {node} is left: {left}");
        ensure!(!machine.running()?.contains("pillion"), "an agent runs on {node}");
    }
    let said = deployed.ask("client", &format!("http://{site}/hello"))?;
    ensure!(said == "hello", "without the mesh the site says {said:?}");
    ensure!(container()? == before, "the client was restarted");
    standing.say("helm uninstall left nothing on the nodes");
    Ok(())
}
