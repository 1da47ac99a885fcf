//! Network namespaces that are made anew under the same path, or that nobody can enter.

use super::scene::{Scene, answers};
use pillion_tests::cri::FakeRuntime;
use pillion_tests::{AgentOptions, Bed, Pod, apps};
use std::os::unix::fs::symlink;
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

/// Nobody has entered the pod's namespace, so that no hook can refuse the pod: it is plain, and that is what is said.
// proves: SEC-3, CAP-1
#[test]
fn a_pod_that_can_neither_be_captured_nor_refused_is_told_as_plain_and_the_node_is_not_ready() {
    let bed = Bed::new("no-way-in").unwrap();
    let node = bed.node("n1").unwrap();
    let runtime = FakeRuntime::start(&bed.dir().join("cri.sock")).unwrap();
    let options = AgentOptions::default().arg("--cri-socket").arg(runtime.socket().display().to_string());
    let agent = node.start_agent(&options).unwrap();
    let pod = node.pod("late").captured().known_to_a_runtime().create().unwrap();
    let place = bed.dir().join("netns-of-late");
    runtime.add_at(&pod, &pod.uid().unwrap(), place.clone());
    agent
        .wait_not_ready("the pod", |said| {
            said.contains("pod default/late, whose connections are neither captured nor refused")
        })
        .unwrap();
    let metrics = agent.metrics().unwrap();
    let degraded = |reason| metrics.sum("pillion_degraded", &[("reason", reason)]);
    assert_eq!((degraded("pod_plain"), degraded("pod_refused")), (1.0, 0.0));
    let log = agent.log();
    assert!(log.contains("not captured, its connections are plain"), "{log}");

    symlink(pod.netns(), place).unwrap();
    agent.wait_ready().unwrap();
    agent.wait_serving(&pod).unwrap();
}

/// The worker cannot be given what it needs, so that it never enters the pod; the node looks into it by itself.
// proves: SEC-3, CAP-1
#[test]
fn a_pod_whose_worker_finds_no_descriptors_is_refused_until_there_are_some() {
    let scene = Scene::new("no-descriptors");
    let (agent, mesh) = (scene.agent(), &scene.mesh);
    // Looked into takes two. A worker takes more.
    let limit = agent.fds().unwrap() + 2;
    let (pid, most) = (agent.pid().to_string(), format!("--nofile={limit}:"));
    let limit = |most: &str| {
        let done = std::process::Command::new("prlimit").args(["--pid", &pid, most]).status().unwrap();
        assert!(done.success());
    };
    limit(&most);
    let late = mesh.node().pod("late").captured().create().unwrap();
    agent.process().wait_log("not captured", Duration::from_secs(15)).unwrap();
    assert!(!answers(&late, &scene.outsider), "nothing goes out of it in plain");
    limit("--nofile=4096:");
    agent.wait_serving(&late).unwrap();
    assert!(agent.log().contains("not captured, its connections are refused"), "{}", agent.log());
    assert!(answers(&late, &scene.outsider));
}
