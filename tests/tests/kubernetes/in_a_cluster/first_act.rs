//! A pod whose first act is to connect.

use std::ops::Range;
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};

use pillion_tests::cluster::pillion::NAMESPACE;

use crate::deployed::{Deployed, extent};

use super::wire::Wire;

const WEB: &str = include_str!("../web.yaml");

/// How many pods at a time.
const BATCH: usize = 20;

/// Pods on node1 whose first act is to ask web, on node2, while node1's agent and containerd are killed: each waits for them or is
/// refused, and tries again, and not one packet of theirs is plain.
pub fn is_in_the_mesh_every_time(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    standing.apply(WEB)?;
    standing.kubectl(&["--namespace=shop", "rollout", "status", "deployment/web", "--timeout=60s"], "")?;
    let web = standing.get(&["service", "web", "--namespace=shop"], "{.spec.clusterIP}")?;
    // From its next start on, the runtime has the plugin that holds.
    restart(deployed, "containerd")?;
    deployed.agent_is_ready("node1")?;

    let pods = extent("PILLION_FIRST_ACTS", 40)?;
    let wire = Wire::tap(deployed, "node2", "src net 10.94.1.0/24 and tcp dst port 80")?;
    for (round, first) in (0..pods).step_by(BATCH).enumerate() {
        let numbers = first..pods.min(first + BATCH);
        scope(|scope| {
            let restart = scope.spawn(|| restart(deployed, ["containerd", "agent"][round % 2]));
            let connected = all_connect(deployed, numbers, &web);
            restart.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(connected)
        })?;
    }
    let plain = wire.packets()?;
    ensure!(plain == 0, "{plain} packets of theirs were plain");
    deployed.agent_is_ready("node1")?;
    would_have_been_seen(deployed, &web)?;
    standing.kubectl(&["delete", "namespace", "shop", "--timeout=60s"], "")?;
    standing.say(&format!("{pods} of {pods} pods were in the mesh when they connected first"));
    Ok(())
}

/// Begins these pods, and waits until each has had an answer.
fn all_connect(deployed: &Deployed, numbers: Range<usize>, web: &str) -> Result<()> {
    let standing = &deployed.standing;
    let count = numbers.len();
    standing.apply(&numbers.map(|number| pod(number, web)).collect::<String>())?;
    let of_them = ["--namespace=shop", "--selector=app=first"];
    let what = format!("{count} pods whose first act is to connect have done it");
    standing.wait_within(Duration::from_secs(150), &what, || {
        let phases = standing.get(&[&["pods"], &of_them[..]].concat(), "{.items[*].status.phase}")?;
        Ok(phases.split_whitespace().filter(|phase| *phase == "Succeeded").count() == count)
    })?;
    standing.kubectl(&[&["delete", "pods", "--timeout=60s"], &of_them[..]].concat(), "").map(drop)
}

/// A pod outside the mesh that asks is seen on the wire.
fn would_have_been_seen(deployed: &Deployed, web: &str) -> Result<()> {
    let wire = Wire::tap(deployed, "node2", "src net 10.94.1.0/24 and tcp dst port 80")?;
    ensure!(
        deployed.ask("alice", &format!("http://{web}/hello")).is_err(),
        "alice reached a STRICT pod in plain"
    );
    ensure!(wire.packets()? > 0, "plain packets are not seen");
    Ok(())
}

fn pod(number: usize, web: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: first-{number}, namespace: shop, labels: {{app: first}}}}
spec:
  nodeName: node1
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: 'pillion.test/busybox:1', command: [timeout, '10', wget, -qO-, 'http://{web}/hello']}}]
"
    )
}

/// Ends a program of node1's the hard way, and has it come back after a moment.
fn restart(deployed: &Deployed, what: &str) -> Result<()> {
    let cluster = &deployed.standing.cluster;
    // In the midst of what is begun at the same time.
    sleep(Duration::from_millis(700));
    if what == "agent" {
        let agent = deployed.agent("node1")?;
        let delete = ["delete", "pod", &agent, "--namespace", NAMESPACE, "--grace-period=0", "--force"];
        deployed.standing.kubectl(&delete, "")?;
    } else {
        let start = cluster.kill("node1", what)?;
        sleep(Duration::from_millis(500));
        start()?;
    }
    deployed.agent_is_ready("node1")
}
