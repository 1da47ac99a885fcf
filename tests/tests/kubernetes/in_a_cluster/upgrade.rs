//! A new version that does not work: the old one goes on, on every node but the first at most.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::cluster::pillion::NAMESPACE;
use serde_json::Value;

use crate::deployed::Deployed;

const NODES: [&str; 2] = ["node1", "node2"];

/// A version that cannot start, as its own checks say before it takes over; and the way back.
pub fn that_cannot_start_stops_with_every_old_agent_serving(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let former = agents(deployed)?;
    let site = standing.get(&["service", "site"], "{.spec.clusterIP}")?;
    let serves = || -> Result<()> {
        let said = deployed.ask("client", &format!("http://{site}/hello"))?;
        ensure!(said == "hello", "the site says {said:?}");
        Ok(())
    };
    let add = r#"[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--hbone-congestion=warp"}]"#;
    let daemon_set = ["--namespace", NAMESPACE, "daemonset/pillion"];
    standing.kubectl(
        &["--namespace", NAMESPACE, "patch", "daemonset/pillion", "--type=json", "--patch", add],
        "",
    )?;
    standing.wait("a new agent's pod has ended with an error", || {
        let pods = pods(deployed)?;
        Ok(pods.iter().any(|pod| {
            !former.contains(&name(pod))
                && pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        }))
    })?;
    serves()?;
    let now = pods(deployed)?;
    for old in &former {
        let pod = now.iter().find(|pod| name(pod) == *old);
        ensure!(pod.is_some_and(is_ready), "the old agent {old} is gone or not ready");
    }
    ensure!(now.len() == former.len() + 1, "the update went on to a second node: {} agents", now.len());

    standing.kubectl(&[&["rollout", "undo"], &daemon_set[..]].concat(), "")?;
    standing.kubectl(&[&["rollout", "status", "--timeout=90s"], &daemon_set[..]].concat(), "")?;
    standing.wait("the agents are those of before", || Ok(agents(deployed)? == former))?;
    serves()?;
    standing.say("an upgrade that cannot start stopped at the first node, with every old agent serving");
    Ok(())
}

/// A version whose take-over fails, which no check can see beforehand: the first node's agent is in trouble, and the other node's
/// old agent goes on. Once the first one is well again, so does the update.
pub fn that_fails_to_take_over_stops_at_the_first_node(deployed: &Deployed) -> Result<()> {
    let standing = &deployed.standing;
    let former = agents(deployed)?;
    // The pins of another layout are read by an agent that has taken over, and these cannot be: a directory is where a map should be.
    let on_each = |program: &str, args: &[&str]| -> Result<()> {
        for node in NODES {
            let pins = format!("/sys/fs/bpf/pillion/{node}/v0");
            let mut command = Command::new(program);
            command.args(args).arg(format!("{pins}/MEMBERS"));
            standing.cluster.machine(node)?.run(&mut command, "")?;
        }
        Ok(())
    };
    on_each("mkdir", &["-p"])?;
    standing.kubectl(&["--namespace", NAMESPACE, "rollout", "restart", "daemonset/pillion"], "")?;
    standing.wait_within(
        Duration::from_secs(120),
        "an agent waits for one that failed to take over",
        || {
            let logs = pods(deployed)?.iter().map(|pod| log(deployed, &name(pod))).collect::<String>();
            Ok(logs.contains("no further node is given to this version"))
        },
    )?;
    let now = pods(deployed)?;
    let old: Vec<&Value> = now.iter().filter(|pod| former.contains(&name(pod))).collect();
    ensure!(
        matches!(old[..], [old] if is_ready(old) && old["metadata"]["deletionTimestamp"].is_null()),
        "not one node has its old agent: {old:?}"
    );
    let failed: Vec<String> = now
        .iter()
        .filter(|pod| !former.contains(&name(pod)) && pod["spec"]["nodeName"] != old[0]["spec"]["nodeName"])
        .map(name)
        .collect();

    on_each("rmdir", &["-p", "--ignore-fail-on-non-empty"])?;
    for pod in &failed {
        // It would be started again by itself, after a pause that has grown.
        standing.kubectl(&["--namespace", NAMESPACE, "delete", "pod", pod], "")?;
    }
    let status = ["--namespace", NAMESPACE, "rollout", "status", "daemonset/pillion", "--timeout=120s"];
    standing.kubectl(&status, "")?;
    for node in NODES {
        deployed.agent_is_ready(node)?;
    }
    standing
        .say("an upgrade that fails to take over stopped at the first node, and went on once that was well");
    Ok(())
}

fn log(deployed: &Deployed, pod: &str) -> String {
    // One that has just been replaced has none.
    deployed.standing.kubectl(&["--namespace", NAMESPACE, "logs", "--tail=100", pod], "").unwrap_or_default()
}

fn pods(deployed: &Deployed) -> Result<Vec<Value>> {
    let what = [
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app.kubernetes.io/name=pillion",
        "--output=json",
    ];
    let pods: Value = serde_json::from_str(&deployed.standing.kubectl(&what, "")?)?;
    Ok(pods["items"].as_array().cloned().unwrap_or_default())
}

/// The names of all agents' pods, in order.
fn agents(deployed: &Deployed) -> Result<Vec<String>> {
    let mut names: Vec<String> = pods(deployed)?.iter().map(name).collect();
    names.sort();
    Ok(names)
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}
