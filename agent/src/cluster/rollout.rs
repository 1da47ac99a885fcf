//! The other nodes' agents, while a DaemonSet replaces all of them one after the other.
//!
//! With `maxSurge` the DaemonSet's controller deletes an old pod once the new one on its node is ready, and goes on to the next
//! node at once: a node without an old pod counts as done, whatever becomes of the new one (`rollingUpdate` in Kubernetes'
//! pkg/controller/daemon/update.go). A new agent takes over only when the old one has ended,
//! so that the controller would be on its way through the cluster before it could know of a failure. So the agents look
//! themselves: one that stands by is not ready before the hand-overs elsewhere have come out well, and the controller waits
//! for that.

use super::connect::chain;
use super::name::ObjectName;
use super::value;
use kube::Client;
use serde_json::Value;
use std::collections::BTreeMap;

/// The label by which a DaemonSet's controller tells its versions apart.
const REVISION: &str = "controller-revision-hash";

/// Which agents to look at.
pub struct Rollout {
    pub client: Client,
    pub daemon_set: ObjectName,
    /// The version that the asking agent's pod is of: the value of its label `controller-revision-hash`.
    pub revision: String,
    /// The asking agent's own node, which does not count.
    pub node: String,
}

/// What an agent of the same version has to wait for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// An agent that has taken over, and is not ready.
    pub failed: Option<String>,
    /// One that is just about to take over, or to begin.
    pub moving: Option<String>,
}

impl Rollout {
    /// # Errors
    /// In words, when the API server does not say.
    pub async fn others(&self) -> Result<Others, String> {
        // What its cache has is good enough, and is asked for again.
        let path = format!("/api/v1/namespaces/{}/pods?resourceVersion=0", self.daemon_set.namespace);
        let get = http::Request::get(path).body(vec![]).map_err(|error| error.to_string())?;
        let text = self.client.request_text(get).await.map_err(|error| chain(&error))?;
        let pods: Vec<Value> = value::read_list(&text).map_err(|error| error.to_string())?.collect();
        Ok(self::others(&pods, &self.daemon_set.name, &self.revision, &self.node))
    }
}

fn others(pods: &[Value], daemon_set: &str, revision: &str, own_node: &str) -> Others {
    let mut nodes: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for pod in pods {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        if !has_ended && node != own_node && is_of(pod, daemon_set) {
            nodes.entry(node).or_default().push(pod);
        }
    }
    let mut others = Others::default();
    for (node, pods) in nodes {
        let is_new = |pod: &&&Value| pod["metadata"]["labels"][REVISION] == revision;
        let ends = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let Some(new) = pods.iter().find(|pod| is_new(pod) && !ends(pod)) else { continue };
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if pods.iter().any(|pod| !is_new(&pod) && !ends(pod)) {
            // The old one serves, and the new one stands by as this one does.
        } else if pods.iter().any(|pod| ends(pod)) {
            others.moving.get_or_insert_with(|| format!("pod {name} to take over node {node}"));
        } else {
            match standing(new) {
                Standing::Ready => {}
                Standing::Begins => {
                    others.moving.get_or_insert_with(|| format!("pod {name} to begin on node {node}"));
                }
                Standing::NotReady => {
                    others.failed.get_or_insert_with(|| {
                        format!(
                            "pod {name}, which is of this same version, has node {node} and is not ready: no further node is given \
                             to this version before that one is"
                        )
                    });
                }
            }
        }
    }
    others
}

fn is_of(pod: &Value, daemon_set: &str) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["kind"] == "DaemonSet" && owner["name"] == daemon_set)
}

enum Standing {
    Ready,
    /// Its container has never run: its image is on the way, for example.
    Begins,
    NotReady,
}

/// By what the kubelet says of the container. The pod's own condition is also changed by whoever finds its node gone, and a node
/// that is off is no fault of the version.
fn standing(pod: &Value) -> Standing {
    let Some(container) = pod["status"]["containerStatuses"].get(0) else { return Standing::Begins };
    if container["ready"] == true {
        return Standing::Ready;
    }
    let has_never_run = container["restartCount"] == 0 && !container["state"]["waiting"].is_null();
    if has_never_run { Standing::Begins } else { Standing::NotReady }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, revision: &str, ends: bool, status: &Value) -> Value {
        let ends = ends.then_some("2026-01-01T00:00:00Z");
        json!({
            "metadata": {"name": name, "labels": {REVISION: revision}, "deletionTimestamp": ends,
                "ownerReferences": [{"kind": "DaemonSet", "name": "pillion"}]},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "containerStatuses": [status]},
        })
    }

    fn seen(pods: &[Value]) -> Others {
        others(pods, "pillion", "new", "own")
    }

    fn ready() -> Value {
        json!({"ready": true, "restartCount": 0, "state": {"running": {}}})
    }

    fn crashed() -> Value {
        json!({"ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})
    }

    #[test]
    fn hand_overs_that_came_out_well_and_those_that_have_not_begun_are_nothing_to_wait_for() {
        let pods = [
            pod("done", "n1", "new", false, &ready()),
            pod("stands-by", "n2", "new", false, &json!({"ready": false, "state": {"running": {}}})),
            pod("serves", "n2", "old", false, &ready()),
            pod("untouched", "n3", "old", false, &crashed()),
            pod("own", "own", "new", false, &crashed()),
        ];
        assert_eq!(seen(&pods), Others::default());
    }

    // proves: SEC-3
    #[test]
    fn an_agent_of_the_same_version_that_fails_after_it_has_taken_over_is_waited_for() {
        for status in [crashed(), json!({"ready": false, "restartCount": 0, "state": {"running": {}}})] {
            let Others { failed, moving } = seen(&[pod("broken", "n1", "new", false, &status)]);
            let failed = failed.unwrap();
            assert!(failed.starts_with("pod broken, which is of this same version, has node n1"), "{failed}");
            assert_eq!(moving, None);
        }
        assert_eq!(seen(&[pod("of-before", "n1", "old", false, &crashed())]), Others::default());
    }

    #[test]
    fn a_hand_over_that_goes_on_is_waited_for() {
        let pods = [pod("next", "n1", "new", false, &ready()), pod("last", "n1", "old", true, &ready())];
        assert_eq!(seen(&pods).moving.unwrap(), "pod next to take over node n1");
        let pulls =
            json!({"ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}});
        assert_eq!(
            seen(&[pod("first", "n4", "new", false, &pulls)]).moving.unwrap(),
            "pod first to begin on node n4"
        );
    }

    #[test]
    fn other_pods_of_the_namespace_do_not_count() {
        let mut other = pod("ca", "n1", "new", false, &crashed());
        other["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet".into();
        let mut ended = pod("ended", "n1", "new", false, &crashed());
        ended["status"]["phase"] = "Failed".into();
        assert_eq!(seen(&[other, ended]), Others::default());
    }
}
