//! What an agent knew holds for its successor.

use super::scene::{Scene, answers, wait_members};
use serde_json::Value;
use std::fs;

/// An audit says whether anything is forgotten: none that has run since may have.
fn audits_forget_nobody(scene: &Scene) {
    for _ in 0..2 {
        let audit = scene.agent().audit().unwrap();
        assert_eq!(audit["repairs"], Value::Array(vec![]), "{audit:#}");
        assert!(!scene.server_is_plain());
    }
    assert_eq!(scene.agent().members().unwrap().len(), 2);
}

// proves: SEC-3, LIF-1
#[test]
fn a_new_agent_refuses_a_pod_that_it_cannot_enter_and_is_not_ready() {
    let scene = Scene::new("no-entry");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    agent.kill().unwrap();
    server.annotate("pillion.dev/netns", Some("/run/netns/nowhere")).unwrap();
    agent.restart().expect_err("it does not serve what the agent before it has served");
    let said = agent.wait_not_ready("the pod", |said| said.contains("default/server")).unwrap();
    assert!(said.contains("cannot be entered"), "{said}");
    audits_forget_nobody(&scene);
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("pillion_degraded", &[("reason", "pod_refused")]), 1.0);
    assert_eq!(metrics.sum("pillion_audit_repairs_total", &[("what", "stale_entry")]), 0.0);

    server.annotate("pillion.dev/netns", None).unwrap();
    agent.wait_ready().unwrap();
    assert!(answers(&scene.mesh.client, server) && !scene.server_is_plain());
}

// proves: SEC-3, LIF-1
#[test]
fn a_pod_whose_object_vanishes_while_no_agent_runs_stays_refused() {
    let scene = Scene::new("vanished-meanwhile");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    agent.kill().unwrap();
    server.remove_object().unwrap();
    agent.restart().unwrap();
    audits_forget_nobody(&scene);
    let orphans = agent.config_dump().unwrap()["orphans"].clone();
    assert_eq!((&orphans[0]["pod"]["name"], &orphans[0]["is_served"]), (&"server".into(), &false.into()));
    assert_eq!(agent.metrics().unwrap().sum("pillion_pods_orphaned", &[]), 1.0);
    server.end().unwrap();
    wait_members(agent, 1);
}

// proves: SEC-3, LIF-1
#[test]
fn a_pod_of_which_nothing_was_written_down_stays_refused_until_its_object_releases_it() {
    let scene = Scene::new("unwritten");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    agent.kill().unwrap();
    fs::remove_file(scene.mesh.bed.dir().join("state/n1/captured.json")).unwrap();
    let object = fs::read_to_string(scene.mesh.bed.manifest_dir().join("pod-server.yaml")).unwrap();
    server.remove_object().unwrap();
    agent.restart().unwrap();
    audits_forget_nobody(&scene);
    assert_eq!(agent.metrics().unwrap().sum("pillion_pods_orphaned", &[]), 1.0);

    let released = object.replace("pillion.dev/capture: enabled", "pillion.dev/capture: disabled");
    scene.mesh.bed.write_manifest("again.yaml", &released).unwrap();
    agent.wait_known(server).unwrap();
    agent.audit().unwrap();
    wait_members(agent, 1);
    assert!(answers(&scene.outsider, server));
}

// proves: SEC-3
#[test]
fn a_pod_that_is_released_while_no_agent_runs_is_released() {
    let scene = Scene::new("released-meanwhile");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    agent.kill().unwrap();
    server.release().unwrap();
    agent.restart().unwrap();
    wait_members(agent, 1);
    assert!(answers(&scene.outsider, server));
}

// proves: SEC-3
#[test]
fn a_state_directory_that_cannot_be_written_is_told_and_weakens_nothing() {
    let scene = Scene::new("state-dir");
    let agent = scene.agent();
    let ledger = scene.mesh.bed.dir().join("state/n1/captured.json");
    // As on a full disk: the file cannot be replaced.
    fs::remove_file(&ledger).unwrap();
    fs::create_dir(&ledger).unwrap();
    let more = scene.mesh.captured("more").unwrap();
    let told = |metrics: &pillion_tests::metrics::Metrics| {
        metrics.sum("pillion_degraded", &[("reason", "state_dir")]) == 1.0
    };
    agent.wait_metrics("the state directory", told).unwrap();
    assert!(answers(&more, &scene.mesh.server) && !scene.server_is_plain());
    agent.wait_ready().unwrap();

    fs::remove_dir(&ledger).unwrap();
    agent.audit().unwrap();
    assert_eq!(agent.metrics().unwrap().sum("pillion_degraded", &[("reason", "state_dir")]), 0.0);
    let written: Value = serde_json::from_slice(&fs::read(&ledger).unwrap()).unwrap();
    assert_eq!(written["captured"].as_array().unwrap().len(), 3);
}
