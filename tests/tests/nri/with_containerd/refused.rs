//! Pods that cannot be captured do not start, and say why.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::{FOREIGN, LoneNode, images};
use pillion_tests::cri::{Cri, PodSpec, Refused};
use pillion_tests::wait;
use serde_json::json;

use crate::pods::{labelled, on_a_node};

// proves: CAP-2
#[test]
fn a_container_of_a_pod_that_cannot_be_captured_is_refused_with_the_reason() {
    on_a_node("refused", |node| {
        node.start_agent()?;
        waits_for_its_object(node)?;
        of_another_node(node)?;
        whose_port_is_taken(node)?;
        whose_sockets_are_elsewhere(node)?;
        others_are_not_concerned(node)
    });
}

/// The sandbox is made at once, the container waits a second, the next try succeeds once the object is there.
fn waits_for_its_object(node: &LoneNode) -> Result<()> {
    let (cri, pod) = (node.cri()?, labelled("early"));
    let sandbox = cri.run_sandbox(&pod)?;
    let begun = Instant::now();
    let said = refusal(&cri, &sandbox, &pod)?;
    ensure!(
        said.contains("pod default/early") && said.contains("does not know its Pod object yet"),
        "{said}"
    );
    let waited = begun.elapsed();
    ensure!(
        (0.9..1.9).contains(&waited.as_secs_f64()),
        "answered after {waited:?}, the runtime waits for 2 s"
    );
    node.put_pod(&pod, true, None)?;
    starts(&cri, &sandbox, &pod)
}

fn of_another_node(node: &LoneNode) -> Result<()> {
    let (cri, pod) = (node.cri()?, labelled("elsewhere"));
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "elsewhere", "uid": pod.uid(), "labels": {"pillion.dev/capture": "enabled"}},
        "spec": {"nodeName": "node9"}});
    node.put("pod-elsewhere", &object)?;
    let sandbox = cri.run_sandbox(&pod)?;
    let said = refusal(&cri, &sandbox, &pod)?;
    ensure!(said.contains("on node \"node9\""), "{said}");
    cri.remove_sandbox(&sandbox)
}

/// The label comes to a pod that runs, in which somebody listens at the worker's port.
fn whose_port_is_taken(node: &LoneNode) -> Result<()> {
    let (cri, pod) = (node.cri()?, PodSpec::new("taken"));
    node.put_pod(&pod, false, None)?;
    let sandbox = cri.run_sandbox(&pod)?;
    cri.start_container(&sandbox, &pod, images::BUSYBOX, &["httpd", "-f", "-p", "15001"])?;
    node.put_pod(&pod, true, Some(cri.address(&sandbox)?))?;
    wait::until("the worker to fail", Duration::from_secs(10), || {
        let dump = node.config_dump()?;
        let workers = dump["workers"].as_array().context("no workers")?;
        Ok(workers.iter().any(|w| w["pod"] == "taken" && w["state"] == "failed").then_some(()))
    })?;
    let again = PodSpec { attempt: 1, ..pod };
    let said = refusal(&cri, &sandbox, &again)?;
    ensure!(said.contains("pod default/taken") && said.contains("15001"), "{said}");
    cri.remove_sandbox(&sandbox)
}

/// As gVisor's are: the handler's name tells. A pod of it that is not to be in the mesh starts.
fn whose_sockets_are_elsewhere(node: &LoneNode) -> Result<()> {
    let cri = node.cri()?;
    let pod = PodSpec { handler: FOREIGN.to_owned(), ..labelled("foreign") };
    node.put_pod(&pod, true, None)?;
    let sandbox = cri.run_sandbox(&pod)?;
    let said = refusal(&cri, &sandbox, &pod)?;
    for part in ["pod default/foreign", "its runtime \"runsc\"", "take the label", "RuntimeClass"] {
        ensure!(said.contains(part), "{said}");
    }
    let dump = node.config_dump()?;
    let mut workers = dump["workers"].as_array().context("no workers")?.iter();
    let worker = workers.find(|worker| worker["pod"] == "foreign").context("it is not told of")?;
    ensure!(worker["state"] == "failed", "{worker}");
    cri.remove_sandbox(&sandbox)?;
    let plain = PodSpec { handler: FOREIGN.to_owned(), ..PodSpec::new("plain-foreign") };
    let sandbox = cri.run_sandbox(&plain)?;
    starts(&cri, &sandbox, &plain)
}

/// Unlabelled pods start, with an object or without.
fn others_are_not_concerned(node: &LoneNode) -> Result<()> {
    let (cri, pod) = (node.cri()?, PodSpec::new("plain"));
    let sandbox = cri.run_sandbox(&pod)?;
    starts(&cri, &sandbox, &pod)
}

fn starts(cri: &Cri, sandbox: &str, pod: &PodSpec) -> Result<()> {
    let container = cri.start_container(sandbox, pod, images::BUSYBOX, &["true"])?;
    ensure!(cri.wait_exit(&container, Duration::from_secs(10))? == 0, "it did not run well");
    cri.remove_sandbox(sandbox)
}

/// What the runtime says when it does not make a container.
fn refusal(cri: &Cri, sandbox: &str, pod: &PodSpec) -> Result<String> {
    let started = cri.start_container(sandbox, pod, images::BUSYBOX, &["true"]);
    let error = started.err().context("the container was made")?;
    Ok(error.downcast::<Refused>()?.message)
}
