//! An agent whose authority is away from it: what it trusts.

use std::fs;
use std::time::Duration;

use super::stage::Stage;
use pillion_tests::{Agent, AgentOptions};
use serde_json::Value;

fn options(stage: &Stage) -> AgentOptions {
    let token = stage.bed.dir().join("istio-token");
    fs::write(&token, stage.agent("agent-1", "n1").unwrap()).unwrap();
    AgentOptions::default()
        .kube(&stage.api.kubeconfig())
        .arg("--ca-addr")
        .arg("pillion-ca.pillion-system.svc:15012")
        .arg("--ca-token")
        .arg(token.display().to_string())
}

fn roots(dump: &Value) -> usize {
    dump["authority"]["roots"].as_array().map_or(0, Vec::len)
}

fn errors(dump: &Value) -> String {
    dump["authority"]["errors"].to_string()
}

fn wait_roots(agent: &Agent, count: usize) {
    agent.wait_config(&format!("{count} roots"), |dump| roots(dump) == count).unwrap();
}

// proves: ID-2
#[test]
fn an_agent_trusts_what_the_authority_publishes_and_keeps_the_last_good() {
    let stage = Stage::without_authority("agent-trust").unwrap();
    let agent =
        stage.node.start_agent_that_waits(&options(&stage), "the certificate authority's roots").unwrap();
    let dump =
        agent.wait_config("no ConfigMap", |dump| errors(dump).contains("there is no ConfigMap")).unwrap();
    assert_eq!(roots(&dump), 0, "nobody is trusted before");

    stage.start(&[]).unwrap();
    wait_roots(&agent, 1);
    agent.wait_ready().unwrap();
    agent.wait_config("no errors", |dump| errors(dump) == "[]").unwrap();
    stage.operate(&["rotate", "begin"]).unwrap();
    wait_roots(&agent, 2);

    stage.stop().unwrap();
    let broken = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "pillion-ca-root-cert"}, "data": {"root-cert.pem": "broken"}});
    stage.api.apply(super::stage::CONFIG_MAP, &broken).unwrap();
    let dump = agent.wait_config("the error", |dump| errors(dump).contains("cannot be used")).unwrap();
    assert_eq!(roots(&dump), 2);
    stage.api.kill().unwrap();
    let dump = agent.wait_config("no API server", |dump| errors(dump).contains("not heard of")).unwrap();
    assert_eq!(roots(&dump), 2);
    stage.api.restart().unwrap();
    stage.start(&[]).unwrap();
    agent.wait_config("no errors", |dump| errors(dump) == "[]").unwrap();
    assert_eq!(agent.stop().unwrap().code(), Some(0));
    agent.process().wait_log("cannot be used", Duration::from_secs(1)).unwrap();
}
