//! Network namespaces that are made anew under the same path.

use super::scene::{Scene, answers};
use pillion_tests::{Pod, apps};
use std::time::Duration;

fn cookie(scene: &Scene, pod: &Pod) -> Option<u64> {
    scene.agent().worker(pod).unwrap().filter(|worker| worker["state"] == "serving")?["netns_cookie"].as_u64()
}

// proves: SEC-3
#[test]
fn a_network_namespace_that_is_remade_under_the_same_path_is_captured_anew() {
    let scene = Scene::new("remade");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    let before = cookie(&scene, server).unwrap();
    server.remake().unwrap();
    let audit = agent.audit().unwrap();
    assert_eq!(audit["repairs"][0]["what"], "namespace", "{audit:#}");
    agent
        .process()
        .wait_for("a worker in the new namespace", Duration::from_secs(15), || {
            Ok(cookie(&scene, server).filter(|now| *now != before))
        })
        .unwrap();
    apps::nginx(server, 80).unwrap();
    assert!(!scene.server_is_plain());
    // Its neighbours have to learn its new MAC address first.
    agent
        .process()
        .wait_for("the pod to answer within the mesh", Duration::from_secs(60), || {
            Ok(answers(&scene.mesh.client, server).then_some(()))
        })
        .unwrap();
    assert_eq!(agent.config_dump().unwrap()["orphans"], serde_json::json!([]));
    assert!(!scene.server_is_plain());
}
