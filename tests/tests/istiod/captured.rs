//! Captured pods under certificates of istiod's: an agent that asks it for them, and what they carry.

use super::stage::{BOTH, PILLION, Stage};
use pillion_tests::cri::FakeRuntime;
use pillion_tests::peers::Istiod;
use pillion_tests::security::MUTUAL_TLS;
use pillion_tests::{AgentOptions, apps};
use std::fs;

// proves: ID-1, ID-2
#[test]
fn captured_pods_talk_by_mutual_tls_under_certificates_of_istiods() {
    let stage = Stage::new("istiod-captured").unwrap();
    let _istiod = stage.istiod(BOTH).unwrap();
    stage.publish().unwrap();
    let runtime = FakeRuntime::start(&stage.bed.dir().join("cri.sock")).unwrap();
    let [client, server] = ["client", "server"].map(|name| {
        let pod = stage.n1.pod(name).namespace("shop").service_account(name).create().unwrap();
        runtime.add_as(&pod, &stage.post(&pod).unwrap()).unwrap();
        pod
    });
    let token = stage.bed.dir().join("istio-token");
    fs::write(&token, stage.token(PILLION, &stage.n1).unwrap()).unwrap();
    let options = AgentOptions::default()
        .kube(&stage.api.kubeconfig())
        .arg(format!("--cri-socket={}", runtime.socket().display()))
        .arg("--ca-addr")
        .arg(format!("{}:{}", Istiod::HOST, Istiod::PORT))
        .arg(format!("--ca-config-map={}/{}", PILLION.0, Istiod::CONFIG_MAP))
        .arg(format!("--ca-token={}", token.display()));
    let agent = stage.n1.start_agent(&options).unwrap();
    [&client, &server].into_iter().for_each(|pod| agent.wait_serving(pod).unwrap());

    apps::echo(&server, 7).unwrap();
    let talk = apps::converse(&client, server.ip4().into(), 7, "talk").unwrap();
    talk.say("hello").unwrap();
    talk.close().unwrap();
    let what = "a connection by mutual TLS, which names both";
    agent
        .wait_metrics(what, |metrics| metrics.opened("destination", &client, &server, MUTUAL_TLS) == 1.0)
        .unwrap();
    let roots = agent.config_dump().unwrap()["authority"]["roots"].clone();
    assert_eq!(roots.as_array().map(Vec::len), Some(1), "istiod's root alone: {roots}");
}
