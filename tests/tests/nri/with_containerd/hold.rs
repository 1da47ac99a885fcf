//! The plugin that the runtime itself starts: labelled pods wait while there is no agent.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::{CONFIG_DIR, LoneNode, PLUGIN_DIR, images};
use pillion_tests::cri::{Cri, PodSpec, Refused};
use serde_json::json;

use crate::pods::{labelled, on_a_node};

// proves: CAP-2
#[test]
fn while_no_agent_has_them_pods_of_the_mesh_wait_and_others_start() {
    on_a_node("hold", pods_wait_and_others_start);
}

fn pods_wait_and_others_start(node: &LoneNode) -> Result<()> {
    let shop = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"pillion.dev/capture": "enabled"}}});
    node.put("shop", &shop)?;
    node.start_agent()?;
    node.kill_runtime()?;
    node.start_runtime()?;
    let running = node.machine().running()?;
    ensure!(running.contains("10-pillion"), "the runtime did not start the plugin: {running:?}");
    node.kill_agent()?;
    are_held(node, "away")?;

    // After a boot, nothing in the kernel knows any pod, and nobody has heard of the API server.
    node.reboot()?;
    are_held(node, "booted")?;

    // What was held starts once the agent is there, in the mesh.
    let (cri, pod) = (node.cri()?, labelled("late"));
    node.put_pod(&pod, true, None)?;
    let sandbox = cri.run_sandbox(&pod)?;
    held(&cri, &sandbox, &pod)?;
    node.start_agent()?;
    let dump = node.config_dump()?;
    let worker = &dump["workers"][0];
    ensure!(worker["pod"] == "late" && worker["state"] == "serving", "{worker}");
    let container = cri.start_container(&sandbox, &pod, images::BUSYBOX, &["true"])?;
    ensure!(cri.wait_exit(&container, Duration::from_secs(10))? == 0, "it did not run well");

    removed_it_holds_nobody(node, &cri, &pod, &sandbox)
}

/// Labelled pods, and those of a labelled namespace, are held; others are not.
fn are_held(node: &LoneNode, when: &str) -> Result<()> {
    let cri = node.cri()?;
    let of_namespace = PodSpec { namespace: "shop".into(), ..PodSpec::new(&format!("shop-{when}")) };
    for pod in [labelled(when), of_namespace] {
        let sandbox = cri.run_sandbox(&pod)?;
        held(&cri, &sandbox, &pod)?;
        cri.remove_sandbox(&sandbox)?;
    }
    let plain = PodSpec::new(&format!("plain-{when}"));
    let sandbox = cri.run_sandbox(&plain)?;
    let container = cri.start_container(&sandbox, &plain, images::BUSYBOX, &["true"])?;
    ensure!(cri.wait_exit(&container, Duration::from_secs(10))? == 0, "it did not run well");
    cri.remove_sandbox(&sandbox)
}

fn held(cri: &Cri, sandbox: &str, pod: &PodSpec) -> Result<()> {
    let started = cri.start_container(sandbox, pod, images::BUSYBOX, &["true"]);
    let said = started.err().context("the container was made")?.downcast::<Refused>()?.message;
    let expected = format!("pod {}/{} is to be in the mesh", pod.namespace, pod.name);
    ensure!(said.contains(&expected) && said.contains("agent of this node does not have it yet"), "{said}");
    Ok(())
}

/// The runtime's process of it runs on, and refuses nothing any more.
fn removed_it_holds_nobody(node: &LoneNode, cri: &Cri, pod: &PodSpec, sandbox: &str) -> Result<()> {
    node.kill_agent()?;
    let said = node.uninstall()?;
    ensure!(said.contains("10-pillion") && said.contains("nothing of the agent is left"), "{said}");
    for dir in [PLUGIN_DIR, CONFIG_DIR] {
        let left: Vec<_> = fs::read_dir(node.path(dir)?)?.collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "{dir} has {left:?}");
    }
    ensure!(!node.path("/run/pillion/passes")?.exists(), "passes are left");
    cri.remove_sandbox(sandbox)?;
    let again = PodSpec { attempt: 1, ..pod.clone() };
    let sandbox = cri.run_sandbox(&again)?;
    let container = cri.start_container(&sandbox, &again, images::BUSYBOX, &["true"])?;
    ensure!(cri.wait_exit(&container, Duration::from_secs(10))? == 0, "it did not run well");
    cri.remove_sandbox(&sandbox)
}
