//! What Prometheus makes of the chart's PodMonitor.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::chart;

type Labels = BTreeMap<String, String>;

/// The labels that Prometheus gives the target of an agent's pod: what the operator writes for every PodMonitor, then what
/// this one says.
fn target(relabelings: &[Value], pod: &str, node: &str, ip: &str) -> Labels {
    let mut labels: Labels = [
        ("namespace", "pillion-system"),
        ("pod", pod),
        ("container", "agent"),
        ("__meta_kubernetes_pod_ip", ip),
        ("__meta_kubernetes_pod_node_name", node),
        ("__address__", ip),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for rule in relabelings {
        match rule["action"].as_str().unwrap_or("replace") {
            "replace" => {
                let source = rule["sourceLabels"][0].as_str().unwrap();
                let source = labels.get(source).cloned().unwrap_or_default();
                let is_match = match rule["regex"].as_str() {
                    None => true,
                    Some("([0-9.]+)") => source.chars().all(|c| c.is_ascii_digit() || c == '.'),
                    Some("(.*:.*)") => source.contains(':'),
                    Some(other) => panic!("what does {other} match?"),
                };
                if is_match {
                    let value = rule["replacement"].as_str().unwrap_or("$1").replace("$1", &source);
                    labels.insert(rule["targetLabel"].as_str().unwrap().to_owned(), value);
                }
            }
            "labeldrop" => {
                let names: Vec<&str> = rule["regex"].as_str().unwrap().split('|').collect();
                labels.retain(|name, _| !names.contains(&name.as_str()));
            }
            other => panic!("what does the action {other} do?"),
        }
    }
    // Prometheus does so itself, after the relabelings.
    let address = labels["__address__"].clone();
    labels.entry("instance".to_owned()).or_insert(address);
    labels.retain(|name, _| !name.starts_with("__meta_"));
    labels
}

// proves: TEL-1
#[test]
fn prometheus_asks_each_node_once_while_one_agent_replaces_another_and_tells_nodes_apart() {
    let objects = chart().unwrap().template(&["podMonitor.enabled=true"]).unwrap();
    let monitors = objects.split("\n---\n").filter(|text| text.contains("kind: PodMonitor"));
    let monitors = monitors.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    let agents = monitors.into_iter().find(|monitor| monitor["metadata"]["name"] == "pillion").unwrap();
    let endpoint = &agents["spec"]["podMetricsEndpoints"][0];
    // The labels `namespace` and `pod` of a metric are those of the pod that it is about.
    assert_eq!(endpoint["honorLabels"], true);
    let relabelings = endpoint["relabelings"].as_array().unwrap();
    for [one, other] in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
        let old = target(relabelings, "pillion-old", "n1", one);
        // On the host's network the new agent's pod has the same address, where the old agent answers until it ends.
        let new = target(relabelings, "pillion-new", "n1", one);
        let elsewhere = target(relabelings, "pillion-else", "n2", other);
        let distinct: BTreeSet<_> = [&old, &new, &elsewhere].into_iter().collect();
        assert_eq!(distinct.len(), 2, "{distinct:?}");
        assert_eq!((&*old["node"], &*elsewhere["node"]), ("n1", "n2"));
        assert!(old["__address__"].ends_with(":15020"), "{old:?}");
    }
}
