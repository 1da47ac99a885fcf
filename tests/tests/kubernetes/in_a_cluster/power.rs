//! A node loses its power and comes back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::deployed::{Deployed, extent};

use super::rolling::Load;
use super::wire::Wire;

/// What is heard of an endpoint is a mesh by then, on two busy cores, too.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Pods that are bound to the node, and whose first act is to connect.
const BOUND: usize = 3;

pub fn comes_back_without_a_plain_connection(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    peers_fail_over(deployed)?;
    let site = standing.get(&["service", "site"], "{.spec.clusterIP}")?;
    standing.apply(&(0..BOUND).map(|number| pod(number, &site)).collect::<String>())?;
    standing.all_ready()?;
    let times = extent("PILLION_POWER_CYCLES", 3)?;
    for _ in 0..times {
        let before = restarts(deployed)?;
        // What leaves node1 arrives here.
        let wire = Wire::tap(deployed, "node2", "src net 10.94.1.0/24 and tcp dst port 80")?;
        standing.cluster.node_off("node1")?;
        standing.cluster.node_on("node1", &|_| {})?;
        standing.wait_within(
            Duration::from_secs(90),
            "pods that were bound to the node have connected again",
            || Ok(restarts(deployed)?.iter().zip(&before).all(|(now, before)| now > before)),
        )?;
        standing.all_ready()?;
        let plain = wire.packets()?;
        ensure!(plain == 0, "{plain} packets of a node that came back were plain");
    }
    standing.kubectl(&["delete", "pods", "--selector=app=bound"], "")?;
    standing.say(&format!("a node came back {times} times without a plain packet"));
    Ok(())
}

/// Node2 is off: as soon as its endpoints are out, nobody is sent there; when it is back, they are in again.
fn peers_fail_over(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let ready = || {
        let slices = ["endpointslices", "--selector=kubernetes.io/service-name=site"];
        let ready = standing
            .get(&slices, "{range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName} {end}")?;
        anyhow::Ok(ready.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    standing.wait("the site is ready on both nodes", || Ok(ready()?.len() == 2))?;
    standing.cluster.node_off("node2")?;
    standing.wait_within(Duration::from_secs(90), "the site's endpoints of node2 are out", || {
        Ok(ready()? == ["node1"])
    })?;
    let site = standing.get(&["service", "site"], "{.spec.clusterIP}")?;
    // The API server says so; agents hear of it a moment later.
    let (out, mut answered) = (Instant::now(), 0);
    while answered < 20 {
        match deployed.ask("client", &format!("http://{site}/hello")) {
            Ok(_) => answered += 1,
            Err(_) if out.elapsed() < HEARD_WITHIN => answered = 0,
            Err(error) => {
                let log = deployed.log_of_agent("node1");
                return Err(
                    error.context(format!("node2 was out of the endpoints; node1's agent says: {log}"))
                );
            }
        }
    }
    standing.cluster.node_on("node2", &|_| {})?;
    standing.wait_within(Duration::from_secs(90), "the site is ready on both nodes again", || {
        Ok(ready()?.len() == 2)
    })?;
    deployed.agent_is_ready("node2")?;
    standing.rolled_out("deployment/echo")?;
    Load::begin(deployed, "client", 4)?.end()
}

/// How often each pod's container began anew.
fn restarts(deployed: &Deployed) -> Result<Vec<u32>> {
    let counts = deployed
        .standing
        .get(&["pods", "--selector=app=bound"], "{.items[*].status.containerStatuses[0].restartCount}")?;
    counts.split_whitespace().map(|count| Ok(count.parse()?)).collect()
}

fn pod(number: usize, site: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: bound-{number}, labels: {{app: bound, pillion.dev/capture: enabled}}}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  tolerations: [{{operator: Exists}}]
  containers:
  - name: c
    image: pillion.test/busybox:1
    command: [sh, -c, 'rm -f /tmp/asked; timeout 10 wget -qO- http://{site}/hello && touch /tmp/asked; exec sleep 1000000']
    readinessProbe: {{exec: {{command: [test, -e, /tmp/asked]}}, periodSeconds: 1}}
"
    )
}
