//! What runs in pods: where it is put, how it is reached, how it is looked after.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use pillion_tests::cluster::Standing;

pub fn run_on_both_nodes(standing: &Standing) -> Result<()> {
    let nodes = web(standing, "{.items[*].spec.nodeName}")?;
    let nodes: BTreeSet<&str> = nodes.iter().map(String::as_str).collect();
    ensure!(nodes == BTreeSet::from(["node1", "node2"]), "the web pods are on {nodes:?}");
    let class = standing.get(&["pod", "solid"], "{.status.qosClass}")?;
    ensure!(class == "Guaranteed", "solid's quality of service is {class}");
    let seccomp = standing.exec("meek", &["grep", "^Seccomp:", "/proc/self/status"])?;
    ensure!(seccomp.ends_with('2'), "meek's system calls are not filtered: {seccomp}");
    Ok(())
}

pub fn reach_each_other(standing: &Standing) -> Result<()> {
    let (names, ips) =
        (web(standing, "{.items[*].metadata.name}")?, web(standing, "{.items[*].status.podIP}")?);
    for (from, to) in [(0, 1), (1, 0)] {
        let said = fetch(standing, &names[from], &format!("http://{}:8080/", ips[to]))?;
        ensure!(said == names[to], "{} was answered by {said}", names[from]);
    }
    let logs = standing.kubectl(&["logs", &names[0], "--container=web"], "")?;
    ensure!(logs == "serving", "the log says {logs:?}");

    let service = standing.get(&["service", "web"], "{.spec.clusterIP}")?;
    let mut answered = BTreeSet::new();
    standing.wait("the Service leads to both pods", || {
        answered.insert(fetch(standing, "solid", &format!("http://{service}/"))?);
        Ok(answered.len() == 2)
    })?;

    let nginx = standing.get(&["pod", "nginx"], "{.status.podIP}")?;
    let hello = fetch(standing, "redis", &format!("http://{nginx}/hello"))?;
    ensure!(hello == "hello", "nginx says {hello:?}");
    let at_port = fetch(standing, "redis", "http://10.93.0.11:8000/hello")?;
    ensure!(at_port == "hello", "nginx says {at_port:?} at a port of its node");
    let redis = standing.get(&["pod", "redis"], "{.status.podIP}")?;
    let pong = standing.exec("redis", &["redis-cli", "-h", &redis, "PING"])?;
    ensure!(pong == "PONG", "redis says {pong:?}");
    Ok(())
}

pub fn are_probed(standing: &Standing) -> Result<()> {
    let name =
        web(standing, "{.items[*].metadata.name}")?.into_iter().next().context("there is no web pod")?;
    let is_ready = |wanted: bool| {
        let endpoints = "{range .items[*].endpoints[*]}{.targetRef.name}={.conditions.ready} {end}";
        let said =
            standing.get(&["endpointslices", "--selector=kubernetes.io/service-name=web"], endpoints)?;
        Ok(said.split(' ').any(|endpoint| endpoint == format!("{name}={wanted}")))
    };
    standing.exec(&name, &["rm", "/www/index.html"])?;
    standing.wait("the readiness probe takes a pod out of its Service", || is_ready(false))?;
    standing.exec(&name, &["sh", "-c", "echo back > /www/index.html"])?;
    standing.wait("the readiness probe puts it back", || is_ready(true))?;
    standing.exec(&name, &["touch", "/www/sick", "/shared/x"])?;
    standing.wait("the liveness probe restarts a container", || {
        let restarts = standing.get(&["pod", &name], "{.status.containerStatuses[0].restartCount}")?;
        Ok(restarts != "0")
    })
}

/// What the template says of the web pods, word by word.
fn web(standing: &Standing, template: &str) -> Result<Vec<String>> {
    let said = standing.get(&["pods", "--selector=app=web"], template)?;
    let words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    ensure!(words.len() == 2, "two web pods say {said:?}");
    Ok(words)
}

fn fetch(standing: &Standing, pod: &str, url: &str) -> Result<String> {
    // Debian's static busybox ends with a segmentation fault where wget itself has the limit (-T).
    standing.exec(pod, &["timeout", "10", "wget", "-qO-", url])
}
