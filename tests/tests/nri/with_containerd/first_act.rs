//! The promise: a labelled pod is in the mesh from its first instruction on, whatever restarts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use std::{collections::BTreeSet, env};

use anyhow::{Context, Result, ensure};
use pillion_tests::cluster::LoneNode;
use pillion_tests::cri::PodSpec;
use pillion_tests::wait;

use crate::pods::{Server, ask_first, labelled, on_a_node, once};

/// How many pods; `PILLION_FIRST_ACTS` for more. Of 1,000 all were in the mesh, 0.4 s each. Without the plugin that holds, the test
/// with restarts finds plain connections.
fn pods() -> Result<usize> {
    env::var("PILLION_FIRST_ACTS").map_or(Ok(50), |number| number.parse().context("PILLION_FIRST_ACTS"))
}

// proves: CAP-2
#[test]
fn a_pod_whose_first_act_is_to_connect_is_in_the_mesh_every_time() {
    on_a_node("first-act", every_time);
}

fn every_time(node: &LoneNode) -> Result<()> {
    node.start_agent()?;
    let server = Server::start(node)?;
    let begun = Instant::now();
    let pods = pods()?;
    for number in 0..pods {
        let pod = labelled(&format!("client-{number}"));
        node.put_pod(&pod, true, None)?;
        ensure!(ask_first(node, &pod, &server)? == 0, "the program of pod {number} ran in vain");
        node.remove_object(&format!("pod-client-{number}"))?;
    }
    println!("{pods} pods of {pods}, {:?} each", begun.elapsed() / u32::try_from(pods)?);
    heard_from(node, pods)?;
    ensure!(server.plain(node)? == 0.0, "plain connections came");

    // It would have been seen.
    ensure!(once(node, &PodSpec::new("plain"), &server)? != 0, "a pod outside the mesh got in");
    ensure!(server.plain(node)? > 0.0, "a plain connection was not counted");

    // What is ended leaves nothing: no worker, no namespace, no pass.
    node.cri()?.remove_sandbox(&server.sandbox)?;
    node.remove_object("pod-server")?;
    wait::until("no worker to be left", Duration::from_secs(10), || {
        let dump = node.config_dump()?;
        let gone =
            dump["workers"] == serde_json::json!([]) && dump["kernel"]["pods"] == serde_json::json!([]);
        Ok(gone.then_some(()))
    })?;
    for dir in ["/run/pillion/passes", "/run/netns"] {
        let left: Vec<_> = std::fs::read_dir(node.path(dir)?)?.collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "{dir} has {left:?}");
    }
    Ok(())
}

// proves: CAP-2
#[test]
fn also_while_the_runtime_and_the_agent_restart_no_connection_is_plain() {
    on_a_node("restarts", no_connection_is_plain);
}

fn no_connection_is_plain(node: &LoneNode) -> Result<()> {
    node.start_agent()?;
    // From its next start on, the runtime has the plugin that holds.
    node.kill_runtime()?;
    node.start_runtime()?;
    let server = Server::start(node)?;
    let pods = pods()?;
    let done = AtomicBool::new(false);
    let (restarts, in_vain) = scope(|scope| {
        let restarts = scope.spawn(|| restart(node, &done));
        let asked = (0..pods).try_fold(0, |in_vain, number| {
            let pod = labelled(&format!("client-{number}"));
            node.put_pod(&pod, true, None)?;
            let more = ask_first(node, &pod, &server).with_context(|| format!("pod {number}"))?;
            node.remove_object(&format!("pod-client-{number}"))?;
            anyhow::Ok(in_vain + more)
        });
        done.store(true, Ordering::Relaxed);
        let restarts = restarts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok((restarts, asked?))
    })?;
    println!("{pods} pods of {pods} in {restarts} restarts; {in_vain} programs ran in vain first");
    ensure!(restarts >= 4, "only {restarts} restarts");
    ensure!(server.plain(node)? == 0.0, "plain connections came");
    Ok(())
}

/// Restarts the runtime and the agent in turn, each after having been away for a moment; gives how often.
fn restart(node: &LoneNode, done: &AtomicBool) -> Result<usize> {
    let mut restarts = 0;
    while !done.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(700));
        if restarts % 2 == 0 {
            node.kill_agent()?;
            sleep(Duration::from_millis(500));
            node.start_agent()?;
        } else {
            node.kill_runtime()?;
            sleep(Duration::from_millis(200));
            node.start_runtime()?;
        }
        restarts += 1;
    }
    Ok(restarts)
}

/// The server's end tells of each client, under its own identity.
fn heard_from(node: &LoneNode, pods: usize) -> Result<()> {
    let expected: BTreeSet<String> =
        (0..pods).map(|number| format!("spiffe://cluster.local/ns/default/sa/client-{number}")).collect();
    wait::until("the server's end to tell of all clients", Duration::from_secs(10), || {
        let lines = node.access_log()?;
        let inbound = lines.iter().filter(|line| line["direction"] == "inbound");
        let told: BTreeSet<String> =
            inbound.filter_map(|line| Some(line["source_principal"].as_str()?.to_owned())).collect();
        Ok(told.is_superset(&expected).then_some(()))
    })
}
