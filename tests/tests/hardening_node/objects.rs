//! Objects that vanish.

use super::scene::{Scene, answers, wait_members, wait_unknown};

// proves: SEC-3
#[test]
fn a_pod_whose_object_vanishes_stays_captured_until_its_namespace_ends() {
    let scene = Scene::new("vanished");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    assert_eq!(agent.members().unwrap().len(), 2);
    server.remove_object().unwrap();
    wait_unknown(agent, server);
    assert!(!scene.server_is_plain());
    assert_eq!(agent.worker(server).unwrap().unwrap()["state"], "serving", "its worker serves on");
    assert_eq!(agent.members().unwrap().len(), 2);

    // People are told, and the node is ready: nothing has to happen.
    agent.process().wait_log("its object is gone", std::time::Duration::from_secs(15)).unwrap();
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("pillion_pods_orphaned", &[]), 1.0);
    assert_eq!(metrics.sum("pillion_degraded", &[("reason", "pod_orphaned")]), 1.0);
    let dump = agent.config_dump().unwrap();
    assert_eq!(dump["orphans"][0]["pod"]["name"], "server", "{:#}", dump["orphans"]);
    agent.wait_ready().unwrap();
    let audit = agent.audit().unwrap();
    assert_eq!(audit["repairs"], serde_json::json!([]));
    assert!(!scene.server_is_plain());

    server.end().unwrap();
    wait_members(agent, 1);
    assert_eq!(agent.config_dump().unwrap()["orphans"], serde_json::json!([]));
    assert_eq!(agent.metrics().unwrap().sum("pillion_pods_orphaned", &[]), 0.0);
}

// proves: SEC-3
#[test]
fn a_label_that_is_taken_off_releases_a_pod_at_once() {
    let scene = Scene::new("label");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    server.release().unwrap();
    agent.wait_released(server).unwrap();
    assert!(answers(&scene.outsider, server), "plaintext comes in again");
    wait_members(agent, 1);
}

// proves: SEC-3
#[test]
fn a_pod_that_is_deleted_with_its_network_is_no_orphan() {
    let scene = Scene::new("deleted");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    server.delete().unwrap();
    let is_gone = |dump: &serde_json::Value| dump["workers"].as_array().is_some_and(|all| all.len() == 1);
    agent.wait_config("that its worker is gone", is_gone).unwrap();
    agent.audit().unwrap();
    assert_eq!(agent.config_dump().unwrap()["orphans"], serde_json::json!([]));
    assert_eq!(agent.metrics().unwrap().sum("pillion_degraded", &[]), 0.0);
}

// proves: SEC-3
#[test]
fn an_object_that_comes_back_says_again_what_becomes_of_its_pod() {
    let scene = Scene::new("back");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    let object = std::fs::read_to_string(scene.mesh.bed.manifest_dir().join("pod-server.yaml")).unwrap();
    server.remove_object().unwrap();
    wait_unknown(agent, server);
    scene.mesh.bed.write_manifest("again.yaml", &object).unwrap();
    agent.wait_known(server).unwrap();
    assert!(!scene.server_is_plain());
    assert!(answers(&scene.mesh.client, server));
    let released = object.replace("pillion.dev/capture: enabled", "pillion.dev/capture: disabled");
    assert_ne!(object, released);
    scene.mesh.bed.write_manifest("again.yaml", &released).unwrap();
    agent.wait_released(server).unwrap();
    assert!(answers(&scene.outsider, server));
}

// proves: SEC-3
#[test]
fn an_object_that_names_another_pods_namespace_neither_closes_nor_releases_that_pod() {
    let scene = Scene::new("thief");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    let node = agent.config_dump().unwrap()["node"].as_str().unwrap().to_owned();
    let thief = |capture: &str| {
        let object = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: thief, labels: {{pillion.dev/capture: {capture}}}, \
             annotations: {{pillion.dev/netns: {}}}}}, spec: {{nodeName: {node}}}}}",
            server.netns().display()
        );
        scene.mesh.bed.write_manifest("thief.yaml", &object).unwrap();
    };
    let state = |dump: &serde_json::Value| {
        let mut workers = dump["workers"].as_array().into_iter().flatten();
        let worker = workers.find(|worker| worker["pod"] == "thief")?;
        Some(worker["state"].as_str().unwrap_or_default().to_owned())
    };
    thief("enabled");
    agent
        .wait_config("that there is no room for it", |dump| state(dump).as_deref() == Some("failed"))
        .unwrap();
    assert!(answers(&scene.mesh.client, server), "the server is served as before");
    thief("disabled");
    agent.wait_config("that it is let go", |dump| state(dump).is_none()).unwrap();
    assert_eq!(agent.members().unwrap().len(), 2);
    assert!(!scene.server_is_plain());
    assert_eq!(agent.audit().unwrap()["repairs"], serde_json::json!([]), "nothing was to be mended");
    agent.restart().unwrap();
    assert_eq!(agent.members().unwrap().len(), 2);
    assert!(!scene.server_is_plain(), "its successor knows whose namespace it is");
}
