//! What the kernel does not take: it is told, it is tried until it holds, and one object's error stays its own.

use super::scene::{Scene, answers};
use pillion_ebpf_common::PodPort;
use pillion_tests::{Agent, AgentOptions, SameNode, apps};
use std::fs;
use std::time::Duration;

fn degraded(agent: &Agent, reason: &str) -> f64 {
    agent.metrics().unwrap().sum("pillion_degraded", &[("reason", reason)])
}

const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny, namespace: \
    default}, spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {ports: ['81']}}]}]}}";

// proves: SEC-3, POL-1
#[test]
fn policies_that_cannot_be_put_in_force_are_told_and_the_node_is_not_ready() {
    let scene = Scene::new("enforce");
    let (agent, server) = (scene.agent(), &scene.mesh.server);
    let direct = |dump: &serde_json::Value| {
        dump["workers"].as_array().unwrap().iter().all(|worker| worker["direct"] == true)
    };
    agent.wait_config("direct paths", direct).unwrap();
    assert!(answers(&scene.mesh.client, server), "there is a verdict to carry over");
    agent.freeze_map("GENERATION").unwrap();
    scene.mesh.bed.write_manifest("deny.yaml", DENY).unwrap();
    let said = agent.wait_not_ready("the policies", |said| said.contains("policies")).unwrap();
    assert!(said.contains("GENERATION"), "{said}");
    assert_eq!(degraded(agent, "policies"), 1.0);
    // It is not forgotten with the next look either.
    agent.audit().unwrap();
    assert_eq!(degraded(agent, "policies"), 1.0);
}

// proves: SEC-3
#[test]
fn a_change_that_finds_no_room_leaves_a_serving_pod_as_it_was_and_is_made_later() {
    // Audits would take out what means nothing.
    let options = AgentOptions::default().access_log().arg("--audit-interval=1h");
    let scene = Scene::with("no-room", &options);
    let (agent, mesh) = (scene.agent(), &scene.mesh);
    let open = apps::python(
        &mesh.client,
        "
import socket, sys
f = socket.create_connection((sys.argv[1], 7), 10).makefile('rw')
for line in sys.stdin:
    f.write(line); f.flush()
    print('back', f.readline() or 'ended', end='', flush=True)
",
        [mesh.server.ip4().to_string()],
    );
    apps::echo(&mesh.server, 7).unwrap();
    let open = open.start().unwrap();
    let speak = |word: &str| {
        open.write_line(word).unwrap();
        open.wait_log(&format!("back {word}\n"), Duration::from_secs(10)).unwrap();
    };
    speak("first");
    let full =
        agent.fill_map("EXCLUDED_PORTS", 1_u8, |port| PodPort { netns: u64::MAX, port, zero: 0 }).unwrap();
    mesh.client.annotate("pillion.dev/exclude-outbound-ports", Some("9999")).unwrap();
    let said = agent.wait_not_ready("the pod", |said| said.contains("default/client")).unwrap();
    assert!(said.contains("EXCLUDED_PORTS"), "{said}");
    assert_eq!(agent.worker(&mesh.client).unwrap().unwrap()["state"], "serving");
    speak("still");
    assert!(answers(&mesh.client, &mesh.server) && !scene.server_is_plain());
    assert_eq!(degraded(agent, "pod_unsettled"), 1.0);

    full.empty().unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(degraded(agent, "pod_unsettled"), 0.0);
    speak("last");
}

// proves: SEC-3
#[test]
fn a_service_that_cannot_be_written_leads_to_no_former_endpoint() {
    let mesh = SameNode::new("services").unwrap();
    let (agent, bed) = (&mesh.agent, &mesh.bed);
    let other = mesh.captured("other").unwrap();
    apps::nginx(&other, 80).unwrap();
    // Nobody listens at the server: connections that are led there fail.
    let service = bed.service("web", 80, 80, &[&mesh.server, &other]).unwrap();
    let asks = || {
        let url = format!("http://{}/hello", service.ip4);
        mesh.client.command("curl").args(["-sS", "-m", "3", &url]).output().unwrap().status.success()
    };
    // Until the hook chooses endpoints by itself: there are verdicts for both.
    let is_direct = |dump: &serde_json::Value| {
        dump["workers"].as_array().unwrap().iter().all(|worker| worker["direct"] == true)
    };
    agent.wait_config("direct paths", is_direct).unwrap();
    let asked: Vec<bool> = (0..16).map(|_| asks()).collect();
    assert!(asked.contains(&true) && asked.contains(&false), "{asked:?}");

    agent.freeze_map("ENDPOINTS").unwrap();
    mesh.server.set_ready(false).unwrap();
    let said = agent.wait_not_ready("the Services", |said| said.contains("Services")).unwrap();
    assert!(said.contains("ENDPOINTS"), "{said}");
    assert_eq!(degraded(agent, "services"), 1.0);
    assert_eq!((0..16).filter(|_| asks()).count(), 16, "the worker knows what the hook is not told");
}

// proves: SEC-3, ID-2
#[test]
fn a_pod_without_a_certificate_switches_nothing_off_for_others_and_is_refused() {
    let scene = Scene::new("no-certificate");
    let (agent, mesh) = (scene.agent(), &scene.mesh);
    let (root, away) = (mesh.bed.ca_dir().join("ca.pem"), mesh.bed.ca_dir().join("ca.pem.away"));
    fs::rename(&root, &away).unwrap();
    let is_noticed = |metrics: &pillion_tests::metrics::Metrics| metrics.sum("pillion_ca_errors", &[]) == 1.0;
    agent.wait_metrics("that nothing can be signed", is_noticed).unwrap();
    let late = mesh.node().pod("late").captured().create().unwrap();
    agent.wait_not_ready("the certificate", |said| said.contains("default/late")).unwrap();
    // The pod is to be in the mesh: what it opens meanwhile does not go plain.
    agent
        .process()
        .wait_for("the pod to be refused", Duration::from_secs(15), || {
            Ok((agent.members()?.len() == 3 && !answers(&late, &scene.outsider)).then_some(()))
        })
        .unwrap();
    agent.detach_hook("connect4").unwrap();
    agent.delete_entry(&mesh.client).unwrap();
    let audit = agent.audit().unwrap();
    let repaired = |what| audit["repairs"].as_array().unwrap().iter().any(|repair| repair["what"] == what);
    assert!(repaired("link") && repaired("pod_entry"), "{audit:#}");
    assert!(answers(&mesh.client, &mesh.server));

    fs::rename(&away, &root).unwrap();
    agent.wait_serving(&late).unwrap();
    assert!(answers(&late, &mesh.server));
}

// proves: SEC-3, ID-3
#[test]
fn a_strict_pod_that_never_served_takes_no_plaintext_and_stays_refused_when_its_path_is_made_anew() {
    let scene = Scene::new("never-served");
    let (agent, mesh) = (scene.agent(), &scene.mesh);
    fs::rename(mesh.bed.ca_dir().join("ca.pem"), mesh.bed.ca_dir().join("ca.pem.away")).unwrap();
    let is_noticed = |metrics: &pillion_tests::metrics::Metrics| metrics.sum("pillion_ca_errors", &[]) == 1.0;
    agent.wait_metrics("that nothing can be signed", is_noticed).unwrap();
    let before = agent.members().unwrap();
    let late = mesh.node().pod("late").label("app", "server").captured().create().unwrap();
    apps::nginx(&late, 80).unwrap();
    let refused = agent
        .process()
        .wait_for("the pod to be refused", Duration::from_secs(15), || {
            Ok(agent.members()?.into_iter().find(|cookie| !before.contains(cookie)))
        })
        .unwrap();
    assert!(!answers(&scene.outsider, &late), "STRICT holds for a pod that is not served");

    // Its programs go on in the namespace that the path led to.
    for change in ["del", "add"] {
        let ip =
            std::process::Command::new("ip").args(["netns", change, &late.netns_name()]).status().unwrap();
        assert!(ip.success(), "{change}");
    }
    for _ in 0..2 {
        agent.audit().unwrap();
        assert!(agent.members().unwrap().contains(&refused), "what its programs open stays refused");
        assert!(!answers(&scene.outsider, &late), "and nothing gets to them in plain");
    }
}
