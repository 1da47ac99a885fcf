//! A new agent serves the pods that the last one had, also while the runtime does not say which there are.

use std::fs;
use std::thread::scope;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::{LoneNode, images};
use pillion_tests::cri::PodSpec;
use pillion_tests::wait;

use crate::pods::{Server, create, labelled, on_a_node};

/// For what is done while the slow container is being stopped.
const GRACE: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(15);

// proves: LIF-1
#[test]
fn a_new_agent_serves_the_pods_it_inherits_while_the_runtime_says_nothing() {
    on_a_node("handover", |node| {
        node.start_agent()?;
        let server = Server::start(node)?;
        ask_on_and_on(node, &server)?;
        while_a_container_is_being_stopped(node)?;
        while_the_runtime_is_away(node)?;
        ensure!(server.plain(node)? == 0.0, "plain connections came");
        Ok(())
    })
}

/// containerd answers a plugin that connects with its pods only when no container is being stopped.
fn while_a_container_is_being_stopped(node: &LoneNode) -> Result<()> {
    let (cri, slow) = (node.cri()?, PodSpec::new("slow"));
    node.put_pod(&slow, false, None)?;
    let sandbox = cri.run_sandbox(&slow)?;
    let deaf = ["sh", "-c", "trap 'echo told' TERM; while true; do sleep 0.1; done"];
    let container = create(&cri, &sandbox, &slow, images::BUSYBOX, &deaf)?;
    scope(|scope| {
        let stopped = scope.spawn(|| cri.stop_container(&container, GRACE));
        let log = node.path("/var/log/pods/slow/app-0.log")?;
        wait::until("the container to be told to end", WITHIN, || {
            Ok(fs::read_to_string(&log).unwrap_or_default().contains("told").then_some(()))
        })?;
        node.kill_agent()?;
        node.begin_agent()?;
        is_served(node)?;
        ensure!(!node.is_agent_ready(), "containerd has said which pods there are: nothing is tested");
        ensure!(!stopped.is_finished(), "the container is stopped already");
        stopped.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    node.agent_ready()?;
    is_served(node)
}

fn while_the_runtime_is_away(node: &LoneNode) -> Result<()> {
    node.kill_runtime()?;
    node.kill_agent()?;
    node.begin_agent()?;
    is_served(node)?;
    ensure!(!node.is_agent_ready(), "it is ready without its runtime");
    node.start_runtime()?;
    node.agent_ready()?;
    is_served(node)
}

/// A member of the mesh that asks the server all the time, by a new connection each time.
fn ask_on_and_on(node: &LoneNode, server: &Server) -> Result<()> {
    let (cri, pod) = (node.cri()?, labelled("client"));
    node.put_pod(&pod, true, None)?;
    let sandbox = cri.run_sandbox(&pod)?;
    let url = format!("http://{}/hello", server.address);
    let command = ["sh", "-c", &format!("while true; do wget -q -O /dev/null {url}; sleep 0.1; done")];
    create(&cri, &sandbox, &pod, images::BUSYBOX, &command)?;
    is_served(node)
}

/// From now on connections of the client are answered.
fn is_served(node: &LoneNode) -> Result<()> {
    let answered = || {
        let lines = node.access_log()?;
        let of_client = |line: &&serde_json::Value| {
            line["direction"] == "outbound" && line["pod"] == "default/client" && line["bytes_received"] != 0
        };
        anyhow::Ok(lines.iter().filter(of_client).count())
    };
    let before = answered()?;
    wait::until("the client to be answered", WITHIN, || Ok((answered()? >= before + 3).then_some(())))
        .with_context(|| format!("{:?}", node.access_log().map(|lines| lines.last().cloned())))
}
