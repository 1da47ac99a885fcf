//! Which accounts have pods on which node, as far as it was heard. Of a pod nothing else is kept: a cluster has many.

use crate::cluster::{
    Heard, News, ObjectName, Resource, Unreadable, What, built_in, failing_since, stands_still,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// Pods that have a node and have not finished.
const PODS: Resource = Resource {
    fields: Some("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"),
    ..built_in("pods", "Pod", "v1", "/api/v1/pods")
};

/// News that wait to be taken in.
const QUEUE: usize = 256;

/// A pod that somebody may be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub account: String,
    /// It shares its node's network, is never captured, and so has no identity.
    pub host_network: bool,
    pub finished: bool,
}

impl Pod {
    pub fn of(value: &Value) -> Option<Self> {
        let (metadata, spec) = (&value["metadata"], &value["spec"]);
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self {
            namespace: text(&metadata["namespace"])?,
            name: text(&metadata["name"])?,
            uid: text(&metadata["uid"])?,
            node: text(&spec["nodeName"])?,
            account: text(&spec["serviceAccountName"]).unwrap_or_else(|| "default".to_owned()),
            host_network: spec["hostNetwork"].as_bool().unwrap_or_default(),
            finished: matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
        })
    }

    /// Whether its node may speak for it under this account.
    pub fn lends(&self, account: &ObjectName) -> bool {
        !self.finished
            && !self.host_network
            && self.namespace == account.namespace
            && self.account == account.name
    }
}

impl Heard for Pod {
    fn read(_: &Resource, value: Value, unreadable: &[Unreadable]) -> Option<Self> {
        let pod = Self::of(&value);
        if let (None, Some(Unreadable { field, message })) = (&pod, unreadable.first()) {
            let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            tracing::error!(pod = name, "a pod is not known: {field}: {message}");
        }
        pod
    }
}

pub struct Pods {
    /// The pods of these are nodes' agents.
    agents: Vec<ObjectName>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// All of them have been heard once.
    is_whole: bool,
    failing_since: Option<OffsetDateTime>,
    /// By node, and by `namespace/name`.
    nodes: BTreeMap<Box<str>, BTreeMap<Box<str>, Kept>>,
}

struct Kept {
    /// `None` where the pod lends none.
    account: Option<Box<str>>,
    /// Of agents alone.
    uid: Option<Box<str>>,
}

impl Pods {
    pub fn new(agents: Vec<ObjectName>) -> Self {
        Self { agents, known: RwLock::default() }
    }

    pub fn is_whole(&self) -> bool {
        self.read(|known| known.is_whole)
    }

    /// Since when the pods are not heard of any more, though they should be.
    pub fn stands_still(&self) -> Option<OffsetDateTime> {
        self.read(|known| stands_still(known.failing_since, OffsetDateTime::now_utc()))
    }

    pub fn count(&self) -> usize {
        self.read(|known| known.nodes.values().map(BTreeMap::len).sum())
    }

    /// On which node the agent's pod is that has this name and uid.
    pub fn node_of_agent(&self, namespace: &str, name: &str, uid: &str) -> Option<String> {
        let key = format!("{namespace}/{name}");
        self.read(|known| {
            let is_it = |pods: &BTreeMap<Box<str>, Kept>| {
                pods.get(&*key).is_some_and(|kept| kept.uid.as_deref() == Some(uid))
            };
            known.nodes.iter().find(|(_, pods)| is_it(pods)).map(|(node, _)| node.to_string())
        })
    }

    /// Whether a pod of this account is on the node.
    pub fn has(&self, node: &str, account: &ObjectName) -> bool {
        let ObjectName { namespace, name } = account;
        self.read(|known| {
            known.nodes.get(node).is_some_and(|pods| {
                pods.iter().any(|(key, kept)| {
                    kept.account.as_deref() == Some(name) && key.split('/').next() == Some(namespace)
                })
            })
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn take(&self, what: What<Pod>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.failing_since = failing_since(known.failing_since, &what, OffsetDateTime::now_utc());
        match what {
            What::All(pods) => {
                // It has just been heard.
                *known = Known { is_whole: true, ..Known::default() };
                for pod in pods {
                    self.put(&mut known, pod);
                }
            }
            What::Put(pod) if pod.finished => remove(&mut known, &pod),
            What::Put(pod) => self.put(&mut known, pod),
            What::Deleted(pod) => remove(&mut known, &pod),
            // What is known may be old, and stays: who asks is known by the API server alone, which is away, too.
            What::Connected | What::Current | What::Disconnected(_) | What::Absent => {}
        }
    }

    fn put(&self, known: &mut Known, pod: Pod) {
        let is_agent = self.agents.iter().any(|a| a.namespace == pod.namespace && a.name == pod.account);
        let key = key(&pod);
        let kept = Kept {
            account: (!pod.host_network).then(|| pod.account.into()),
            uid: is_agent.then(|| pod.uid.into()),
        };
        known.nodes.entry(pod.node.into()).or_default().insert(key, kept);
    }
}

fn remove(known: &mut Known, pod: &Pod) {
    if let Some(pods) = known.nodes.get_mut(&*pod.node) {
        pods.remove(&key(pod));
        if pods.is_empty() {
            known.nodes.remove(&*pod.node);
        }
    }
}

fn key(pod: &Pod) -> Box<str> {
    format!("{}/{}", pod.namespace, pod.name).into()
}

/// Keeps them current.
pub async fn follow(client: kube::Client, pods: Arc<Pods>) {
    let (sender, mut news) = mpsc::channel(QUEUE);
    let take = async {
        while let Some(News { what, .. }) = news.recv().await {
            match &what {
                What::All(all) => tracing::info!(pods = all.len(), "the cluster's pods are known"),
                What::Disconnected(e) => tracing::warn!("the pods are not heard of: {e}"),
                _ => {}
            }
            pods.take(what);
        }
    };
    tokio::join!(crate::cluster::follow(client, 0, &PODS, false, sender), take);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, account: &str) -> Pod {
        Pod::of(&json!({"metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
            "spec": {"nodeName": node, "serviceAccountName": account}}))
        .unwrap()
    }

    fn account(text: &str) -> ObjectName {
        text.parse().unwrap()
    }

    #[test]
    fn an_account_is_on_a_node_as_long_as_a_pod_of_it_is() {
        let pods = Pods::new(vec![account("shop/agent")]);
        assert!(!pods.is_whole());
        pods.take(What::All(vec![pod("a", "n1", "cart"), pod("agent-1", "n1", "agent")]));
        assert!(pods.is_whole());
        pods.take(What::Put(pod("b", "n1", "cart")));
        pods.take(What::Put(pod("c", "n2", "web")));
        let has = |node: &str, name: &str| pods.has(node, &account(name));
        assert!(has("n1", "shop/cart") && has("n2", "shop/web"));
        assert!(!has("n2", "shop/cart") && !has("n1", "shop/web") && !has("n1", "sho/cart"));
        pods.take(What::Deleted(pod("a", "n1", "cart")));
        assert!(has("n1", "shop/cart"), "b is there");
        pods.take(What::Put(Pod { finished: true, ..pod("b", "n1", "cart") }));
        assert!(!has("n1", "shop/cart"));
        pods.take(What::Put(Pod { host_network: true, ..pod("d", "n1", "cart") }));
        assert!(!has("n1", "shop/cart"), "a pod of the node's network has no identity");
        assert_eq!(pods.node_of_agent("shop", "agent-1", "uid-agent-1").as_deref(), Some("n1"));
        assert_eq!(pods.node_of_agent("shop", "agent-1", "another"), None);
        assert_eq!(pods.node_of_agent("shop", "c", "uid-c"), None, "it is no agent");
        pods.take(What::Disconnected(String::new()));
        assert_eq!((pods.count(), pods.is_whole()), (3, true));
        pods.take(What::All(vec![]));
        assert_eq!(pods.count(), 0);
    }
}
