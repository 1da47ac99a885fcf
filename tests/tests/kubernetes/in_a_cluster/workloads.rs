//! What clusters run, runs unchanged in the mesh.

use anyhow::{Context, Result, ensure};

use crate::deployed::Deployed;

const WEB: &str = include_str!("../web.yaml");
const OTHERS: &str = include_str!("../workloads.yaml");

pub fn run_unchanged_under_strict(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    standing.apply(WEB)?;
    // Its probes by HTTP and TCP come in plain from the node, under STRICT.
    standing.kubectl(&["--namespace=shop", "rollout", "status", "deployment/web", "--timeout=60s"], "")?;
    let web = standing.get(&["service", "web", "--namespace=shop"], "{.spec.clusterIP}")?;
    standing.apply(&OTHERS.replace("WEB", &web))?;
    standing.wait("a Job of the mesh ends", || {
        Ok(standing.get(&["job", "ask", "--namespace=shop"], "{.status.succeeded}")? == "4")
    })?;
    standing.wait("a pod with an init container, a native sidecar and every probe is ready", || {
        Ok(standing.get(&["pod", "probed", "--namespace=shop"], "{.status.containerStatuses[0].ready}")?
            == "true")
    })?;
    standing.kubectl(&["--namespace=shop", "rollout", "status", "statefulset/redis", "--timeout=60s"], "")?;
    a_headless_service_leads_to_each_pod(deployed)?;
    others_see_no_change(deployed, &web)?;
    standing.kubectl(&["delete", "namespace", "shop", "--timeout=60s"], "")?;
    standing.say("what clusters run, runs under STRICT");
    Ok(())
}

/// There is no DNS here: what it would say is in the endpoints.
fn a_headless_service_leads_to_each_pod(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let slices = ["endpointslices", "--namespace=shop", "--selector=kubernetes.io/service-name=redis"];
    let addresses = standing.get(&slices, "{range .items[*].endpoints[*]}{.addresses[0]} {end}")?;
    let addresses: Vec<&str> = addresses.split_whitespace().collect();
    ensure!(addresses.len() == 2, "the StatefulSet has the endpoints {addresses:?}");
    for address in addresses {
        let pong = standing.kubectl(
            &["--namespace=shop", "exec", "redis-0", "--", "redis-cli", "-h", address, "PING"],
            "",
        )?;
        ensure!(pong == "PONG", "redis at {address} says {pong:?}");
    }
    Ok(())
}

/// Pods on the host's network, and pods that are told not to be, are no pods of the mesh: they reach whom they reached, and STRICT
/// pods refuse them.
fn others_see_no_change(deployed: &Deployed, web: &str) -> Result<()> {
    let standing = &deployed.standing;
    let outside = standing.get(&["pod", "outside", "--namespace=shop"], "{.status.podIP}")?;
    let ask = |pod: &str, address: &str| {
        let url = format!("http://{address}/addresses");
        standing.kubectl(&["--namespace=shop", "exec", pod, "--", "timeout", "10", "wget", "-qO-", &url], "")
    };
    let said = ask("host", &outside)?;
    ensure!(said.ends_with(&format!(" {outside}:80")), "from the host's network nginx is {said:?}");
    for pod in ["host", "outside"] {
        ensure!(ask(pod, web).is_err(), "{pod}, which is not in the mesh, reached a STRICT pod");
    }
    let dump = deployed.config_dump("node1")?;
    let workers = dump["workers"].as_array().context("/config_dump has no workers")?;
    let has_worker =
        |pod: &str| workers.iter().any(|worker| worker["namespace"] == "shop" && worker["pod"] == pod);
    ensure!(has_worker("probed"), "a pod of the mesh has no worker: {workers:?}");
    ensure!(!has_worker("host") && !has_worker("outside"), "pods outside the mesh have workers: {workers:?}");
    Ok(())
}
