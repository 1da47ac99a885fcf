//! A node on which nothing is scheduled until its agent is ready.

use std::time::Duration;

use pillion_tests::{AgentOptions, ApiServer, Bed, wait};
use serde_json::{Value, json};

const KEY: &str = "pillion.dev/agent-not-ready";
const NODE: &str = "/api/v1/nodes/n1";

fn keys(api: &ApiServer) -> Vec<String> {
    let node = api.get(NODE).unwrap();
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.iter().filter_map(|taint| Some(taint["key"].as_str()?.to_owned())).collect()
}

fn put(api: &ApiServer, taints: &Value) {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"taints": taints}});
    api.apply(NODE, &node).unwrap();
}

#[test]
fn the_startup_taint_is_lifted_when_the_agent_is_ready_and_others_stay() {
    let bed = Bed::new("taint").unwrap();
    let node = bed.node("n1").unwrap();
    let api = ApiServer::start(&bed, &node, &[]).unwrap();
    let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
    put(&api, &json!([taint("other", "NoSchedule"), taint(KEY, "NoSchedule"), taint(KEY, "NoExecute")]));
    // Not ready: the mesh's objects have not come.
    let options = AgentOptions::default().arg("--startup-taint").arg(KEY).kube(&api.kubeconfig());
    api.kill().unwrap();
    let waiting = node.agent_command(&options).unwrap().start().unwrap();
    waiting.wait_log("the API server is away", Duration::from_secs(30)).unwrap();
    api.restart().unwrap();
    wait::until("the taint to be lifted", Duration::from_secs(60), || {
        Ok((!keys(&api).iter().any(|key| key == KEY)).then_some(()))
    })
    .unwrap();
    assert!(keys(&api).iter().any(|key| key == "other"), "{:?}", keys(&api));
    assert_eq!(waiting.log().matches("the taint is taken off").count(), 2, "{}", waiting.log());

    // It comes back, as for a node that is made anew.
    put(&api, &json!([taint("other", "NoSchedule"), taint(KEY, "NoSchedule")]));
    wait::until("the taint to be lifted again", Duration::from_secs(120), || {
        Ok((!keys(&api).iter().any(|key| key == KEY)).then_some(()))
    })
    .unwrap();
}
