//! Takes the startup taint off this node once the agent is ready: until then nothing is scheduled here that does not tolerate it.

use super::backoff::Backoff;
use super::connect::chain;
use super::value;
use kube::Client;
use rand::Rng;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often to look whether it has come back, in seconds: a node that boots anew may get it again.
const AGAIN: std::ops::Range<u64> = 45..75;

/// Until nobody says any more what the node waits for; nothing is what it waits for once it is ready.
pub async fn lift(client: Client, node: String, key: String, mut waits_for: watch::Receiver<Vec<String>>) {
    let mut failures = Backoff::up_to(LONGEST_WAIT);
    while waits_for.wait_for(Vec::is_empty).await.is_ok() {
        let wait = match timeout(PATIENCE, look(&client, &node, &key)).await {
            Ok(Ok(true)) => {
                tracing::info!(node, taint = key, "the agent is ready: the taint is taken off the node");
                // There may be another of that key, with another effect.
                failures.wait()
            }
            Ok(Ok(false)) => {
                failures.reset();
                Duration::from_secs(rand::rng().random_range(AGAIN))
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    node,
                    taint = key,
                    "the taint stays on the node, and is tried again: {}",
                    chain(&error)
                );
                failures.wait()
            }
            Err(_) => {
                tracing::warn!(
                    node,
                    taint = key,
                    "the taint stays on the node, and is tried again: no answer"
                );
                failures.wait()
            }
        };
        sleep(wait).await;
    }
}

/// Takes the taint off; false where it is not.
async fn look(client: &Client, node: &str, key: &str) -> Result<bool, kube::Error> {
    let path = format!("/api/v1/nodes/{node}");
    let get = http::Request::get(&path).body(vec![]).map_err(kube::Error::HttpError)?;
    let (object, _) = value::read(&client.request_text(get).await?);
    let Some(patch) = patch(&object, key) else { return Ok(false) };
    let patch = http::Request::patch(&path)
        .header("content-type", "application/json-patch+json")
        .body(patch.to_string().into_bytes());
    client.request_text(patch.map_err(kube::Error::HttpError)?).await?;
    Ok(true)
}

/// What takes it off the node as it was read, and no other: it is refused when the node has changed.
fn patch(node: &Value, key: &str) -> Option<Value> {
    let taints = node.pointer("/spec/taints")?.as_array()?;
    let index = taints.iter().position(|taint| taint["key"] == key)?;
    Some(json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]},
        {"op": "remove", "path": format!("/spec/taints/{index}")},
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_taint_of_that_key_is_taken_off_a_node_that_is_as_it_was_read() {
        let node = json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [
            {"key": "other", "effect": "NoSchedule"}, {"key": "ours", "effect": "NoSchedule"}]}});
        let patch = super::patch(&node, "ours").unwrap();
        assert_eq!(patch[0]["value"], "7");
        assert_eq!(patch[1], json!({"op": "remove", "path": "/spec/taints/1"}));
        assert_eq!(super::patch(&node, "none"), None);
        assert_eq!(super::patch(&json!({"spec": {}}), "ours"), None);
    }
}
