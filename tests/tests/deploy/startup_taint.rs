//! An agent takes its own node's startup taint off, and can do nothing else to any node.

use std::fs;
use std::time::Duration;

use pillion_tests::chart::NAMESPACE;
use pillion_tests::wait;
use serde_json::{Value, json};

use crate::Standing;

const KEY: &str = "pillion.dev/agent-not-ready";

#[test]
fn an_agent_may_take_its_own_nodes_startup_taint_off_and_nothing_else() {
    let Standing { api, chart: _, bed: _bed } =
        Standing::installed("deploy-taint", &["startupTaint.enabled=true"]).unwrap();
    let other = json!({"key": "example.org/keep", "effect": "NoSchedule"});
    let ours = json!({"key": KEY, "effect": "NoSchedule"});
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": "a"}},
            "spec": {"taints": [ours, other]}});
        api.kubectl(&["apply", "--filename=-"], &node.to_string()).unwrap();
    }
    // As n1's agent, by what the API server knows of its token.
    let mut config: Value = serde_json::from_slice(&fs::read(api.kubeconfig()).unwrap()).unwrap();
    let user = &mut config["users"][0]["user"];
    user["as"] = format!("system:serviceaccount:{NAMESPACE}:pillion").into();
    user["as-user-extra"] = json!({"authentication.kubernetes.io/node-name": ["n1"]});
    let agent = api.kubeconfig().with_file_name("agent.conf");
    fs::write(&agent, config.to_string()).unwrap();
    let agent = format!("--kubeconfig={}", agent.display());
    let run = |node: &str, patch: &Value, how: &str| {
        let patch = patch.to_string();
        api.kubectl(&[&agent, "patch", "node", node, "--type=merge", "--patch", &patch, how], "")
    };
    let patch = |node: &str, patch: &Value| run(node, patch, "--dry-run=none");

    // The API server gives every new node this one.
    let new = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let lifted = json!({"spec": {"taints": [new, other]}});
    // The API server looks for new policies now and then.
    let in_force = || Ok(run("n2", &lifted, "--dry-run=server").is_err().then_some(()));
    wait::until("the policy to be in force", Duration::from_secs(30), in_force).unwrap();
    // The garbage collector deletes what has an owner that is not there.
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "no-such-uid"});
    for (node, change, named) in [
        ("n2", lifted.clone(), "its own node only"),
        ("n1", json!({"spec": {"taints": [new, ours]}}), "change no other"),
        ("n1", json!({"spec": {"taints": [other]}}), "change no other"),
        (
            "n1",
            json!({"spec": {"taints": [new, other, {"key": "x", "effect": "NoExecute"}]}}),
            "change no other",
        ),
        ("n1", json!({"metadata": {"labels": {"zone": "b"}}}), "nothing of its node but"),
        ("n1", json!({"metadata": {"annotations": {"a": "b"}}}), "nothing of its node but"),
        ("n1", json!({"spec": {"unschedulable": true}}), "nothing of its node but"),
        ("n1", json!({"metadata": {"ownerReferences": [owner]}}), "nothing of its node but"),
        ("n1", json!({"spec": {"providerID": "cloud://another-machine"}}), "nothing of its node but"),
        (
            "n1",
            json!({"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}}),
            "nothing of its node but",
        ),
    ] {
        let said = format!("{:#}", patch(node, &change).unwrap_err());
        assert!(said.contains(named), "{node} {change}: {said}");
    }
    patch("n1", &lifted).unwrap();
    let left = api.kubectl(&["get", "node", "n1", "--output=jsonpath={.spec.taints[*].key}"], "").unwrap();
    assert_eq!(left, "node.kubernetes.io/not-ready example.org/keep");
}
