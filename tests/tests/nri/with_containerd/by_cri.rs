//! A runtime without NRI: pods are found by CRI, as fast as that goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::{LoneNode, images};
use pillion_tests::cri::PodSpec;
use pillion_tests::wait;

use crate::pods::{Server, ask_first, labelled, on_a_node};

const WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_pod_is_captured_within_a_second_of_its_sandbox_and_released_with_it() {
    on_a_node("by-cri", |node| {
        node.start_agent_by_cri()?;
        let dump = node.config_dump()?;
        ensure!(dump["runtime"]["by"] == "cri, best effort", "{}", dump["runtime"]);
        ensure!(node.agent_log().contains("best effort"), "nothing is said of it");
        let mut times = Vec::new();
        for number in 0..5 {
            let pod = labelled(&format!("pod-{number}"));
            node.put_pod(&pod, true, None)?;
            let sandbox = node.cri()?.run_sandbox(&pod)?;
            let begun = Instant::now();
            is_captured(node, &pod)?;
            times.push(begun.elapsed());
            node.cri()?.remove_sandbox(&sandbox)?;
            is_gone(node, &pod)?;
        }
        times.sort();
        println!("captured after {times:?}");
        // The machine may be busy once.
        ensure!(times[2] < Duration::from_secs(1), "{times:?}");
        are_in_the_mesh(node)
    });
}

/// They speak as members of it, and others are refused.
fn are_in_the_mesh(node: &LoneNode) -> Result<()> {
    let server = Server::start(node)?;
    let client = labelled("client");
    node.put_pod(&client, true, None)?;
    let in_vain = ask_first(node, &client, &server)?;
    println!("{in_vain} programs ran in vain first");
    Ok(())
}

#[test]
fn pods_are_found_that_were_there_before_and_those_that_came_while_the_runtime_was_away() {
    on_a_node("cri-before", |node| {
        let (cri, early) = (node.cri()?, labelled("early"));
        node.put_pod(&early, true, None)?;
        let sandbox = cri.run_sandbox(&early)?;
        cri.start_container(&sandbox, &early, images::BUSYBOX, &["sleep", "600"])?;
        node.start_agent_by_cri()?;
        is_captured(node, &early)?;
        let before = worker(node, &early)?.context("no worker")?;

        node.kill_runtime()?;
        wait::until("the agent to miss the runtime", WITHIN, || {
            Ok((node.config_dump()?["runtime"]["state"] == "away").then_some(()))
        })?;
        node.start_runtime()?;
        let late = labelled("late");
        node.put_pod(&late, true, None)?;
        // A runtime that has just begun is not ready for pods yet.
        wait::until("a sandbox to be made", WITHIN, || Ok(cri.run_sandbox(&late).ok()))?;
        is_captured(node, &late)?;
        let after = worker(node, &early)?.context("no worker")?;
        ensure!(before["netns_cookie"] == after["netns_cookie"] && after["state"] == "serving", "{after}");

        // What ended while nobody listened is gone when all is heard anew.
        node.kill_agent()?;
        cri.remove_sandbox(&sandbox)?;
        node.start_agent_by_cri()?;
        is_captured(node, &late)?;
        is_gone(node, &early)
    });
}

fn is_captured(node: &LoneNode, pod: &PodSpec) -> Result<()> {
    wait::until(&format!("pod {} to be captured", pod.name), WITHIN, || {
        Ok(worker(node, pod)?.filter(|worker| worker["state"] == "serving").map(drop))
    })
}

fn is_gone(node: &LoneNode, pod: &PodSpec) -> Result<()> {
    wait::until(&format!("pod {} to be gone", pod.name), WITHIN, || {
        Ok(worker(node, pod)?.is_none().then_some(()))
    })
}

fn worker(node: &LoneNode, pod: &PodSpec) -> Result<Option<serde_json::Value>> {
    let dump = node.config_dump()?;
    let mut workers = dump["workers"].as_array().into_iter().flatten();
    Ok(workers.find(|worker| worker["pod"] == pod.name.as_str()).cloned())
}
