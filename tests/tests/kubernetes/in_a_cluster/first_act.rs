//! A pod whose first act is to connect.

use std::sync::atomic::{AtomicBool, Ordering};
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
    let done = AtomicBool::new(false);
    let restarts = scope(|scope| {
        let restarts = scope.spawn(|| {
            let mut restarts = 0;
            while !done.load(Ordering::Relaxed) {
                // Only once by a signal: the kubelet waits longer and longer with a container that dies again and again.
                restart(
                    deployed,
                    ["pillion", "containerd", "agent", "containerd"][restarts.min(2 + restarts % 2)],
                )?;
                restarts += 1;
            }
            anyhow::Ok(restarts)
        });
        let asked = (0..pods).step_by(BATCH).try_for_each(|first| {
            let numbers: Vec<usize> = (first..pods.min(first + BATCH)).collect();
            standing.apply(&numbers.iter().map(|number| pod(*number, &web)).collect::<String>())?;
            let names: Vec<String> = numbers.iter().map(|number| format!("first-{number}")).collect();
            standing.wait_within(
                Duration::from_secs(180),
                "pods whose first act is to connect have done it",
                || {
                    let phases = standing.get(
                        &["pods", "--namespace=shop", "--selector=app=first"],
                        "{.items[*].status.phase}",
                    )?;
                    Ok(phases.split_whitespace().filter(|phase| *phase == "Succeeded").count() == names.len())
                },
            )?;
            standing
                .kubectl(&["delete", "pods", "--namespace=shop", "--selector=app=first", "--timeout=60s"], "")
                .map(drop)
        });
        done.store(true, Ordering::Relaxed);
        let restarts = restarts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        asked.map(|()| restarts)
    })?;
    let plain = wire.packets()?;
    ensure!(plain == 0, "{plain} packets of theirs were plain, in {restarts} restarts");
    ensure!(restarts >= 2, "only {restarts} restarts");
    deployed.agent_is_ready("node1")?;
    would_have_been_seen(deployed, &web)?;
    standing.kubectl(&["delete", "namespace", "shop", "--timeout=60s"], "")?;
    standing.say(&format!("{pods} of {pods} pods connected first in the mesh, in {restarts} restarts"));
    Ok(())
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

/// Kills a program of node1's, and has it come back after a moment.
fn restart(deployed: &Deployed, program: &str) -> Result<()> {
    let cluster = &deployed.standing.cluster;
    if program == "pillion" {
        // The kubelet starts it again.
        cluster.machine("node1")?.kill(program)?;
        return deployed.agent_is_ready("node1");
    }
    if program == "agent" {
        let agent = deployed.agent("node1")?;
        let delete = ["delete", "pod", &agent, "--namespace", NAMESPACE, "--grace-period=1"];
        deployed.standing.kubectl(&delete, "")?;
        return deployed.agent_is_ready("node1");
    }
    let start = cluster.kill("node1", program)?;
    sleep(Duration::from_millis(500));
    start()?;
    sleep(Duration::from_secs(2));
    Ok(())
}
