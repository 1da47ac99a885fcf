//! A label brings a pod that runs into the mesh, and its absence gives it back.

use anyhow::{Result, ensure};

use crate::deployed::{Deployed, LABEL};

use super::wire::Wire;

const PODS: &str = include_str!("../pods.yaml");

/// Alice on node1, who asks web on node2.
pub fn pods_run_plain(deployed: &Deployed) -> Result<()> {
    deployed.standing.apply(PODS)?;
    deployed.standing.all_ready()?;
    ensure!(asks_plainly(deployed)?, "without Pillion the wire carries no plain text");
    Ok(())
}

pub fn brings_running_pods_into_the_mesh_and_gives_them_back(deployed: &Deployed) -> Result<()> {
    let before = containers(deployed)?;
    ensure!(asks_plainly(deployed)?, "without a label nobody is in the mesh");
    let standing = &deployed.standing;
    standing.kubectl(&["label", "pod", "alice", "web", LABEL], "")?;
    deployed.captured("node1", "alice", true)?;
    deployed.captured("node2", "web", true)?;
    let secured = |node: &str, reporter: &str| {
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", "mutual_tls"),
            ("source_principal", "spiffe://cluster.local/ns/default/sa/alice"),
            ("destination_principal", "spiffe://cluster.local/ns/default/sa/web"),
        ];
        anyhow::Ok(deployed.metrics(node)?.sum("istio_tcp_connections_opened_total", &labels))
    };
    ensure!(!asks_plainly(deployed)?, "plain text is on the wire between pods of the mesh");
    ensure!(secured("node1", "source")? == 1.0, "alice's end tells of another number of connections");
    ensure!(secured("node2", "destination")? == 1.0, "web's end tells of another number of connections");
    standing.say("a label brings running pods into the mesh");

    standing.kubectl(&["label", "pod", "alice", "web", "pillion.dev/capture-"], "")?;
    deployed.captured("node1", "alice", false)?;
    deployed.captured("node2", "web", false)?;
    ensure!(asks_plainly(deployed)?, "without the label the wire carries no plain text");
    let after = containers(deployed)?;
    ensure!(after == before, "pods were restarted: {before}, now {after}");
    standing.say("without the label they are as they were");
    Ok(())
}

/// Alice asks web, who sees her own address; gives whether it could be read on the wire.
fn asks_plainly(deployed: &Deployed) -> Result<bool> {
    let address = |pod: &str| deployed.standing.get(&["pod", pod], "{.status.podIP}");
    let (alice, web) = (address("alice")?, address("web")?);
    let service = deployed.standing.get(&["service", "web"], "{.spec.clusterIP}")?;
    let wire =
        Wire::tap(deployed, "node2", &format!("src host {alice} and dst host {web} and tcp dst port 80"))?;
    let said = deployed.ask("alice", &format!("http://{service}/addresses"))?;
    let (client, server) = said.trim().split_once(' ').unwrap_or_default();
    ensure!(client.starts_with(&format!("{alice}:")) && server == format!("{web}:80"), "nginx says {said:?}");
    Ok(wire.packets()? > 0)
}

/// Which containers run, and how often they were restarted.
fn containers(deployed: &Deployed) -> Result<String> {
    let template = "{range .items[*].status.containerStatuses[*]}{.containerID} {.restartCount} {end}";
    deployed.standing.get(&["pods"], template)
}
