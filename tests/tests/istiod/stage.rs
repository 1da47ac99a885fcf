//! Two nodes, an API server and an istiod on the first, and objects that a cluster would make.

use std::time::Duration;

use anyhow::{Context, Result};
use pillion_tests::peers::istio_ca::{Issued, Question, ask};
use pillion_tests::peers::{Istiod, istiod};
use pillion_tests::{ApiServer, Bed, Node, Pod, wait};
use serde_json::{Value, json};

/// istiod hears of pods and namespaces by its watches.
const WITHIN: Duration = Duration::from_secs(30);

/// The namespace of Pillion's agents, and their service account.
pub const PILLION: (&str, &str) = ("pillion-system", "pillion");
/// Those of Istio's own node agent.
pub const ZTUNNEL: (&str, &str) = (Istiod::NAMESPACE, "ztunnel");

/// `CA_TRUSTED_NODE_ACCOUNTS` as docs/install.md has it.
pub const BOTH: &str = "istio-system/ztunnel,pillion-system/pillion";

pub struct Stage {
    pub api: ApiServer,
    pub n1: Node,
    pub n2: Node,
    pub bed: Bed,
}

impl Stage {
    /// Without an istiod.
    pub fn new(name: &str) -> Result<Self> {
        let bed = Bed::new(name)?;
        let (n1, n2) = (bed.node("n1")?, bed.node("n2")?);
        let api = ApiServer::start(&bed, &n1, &[])?;
        for namespace in [PILLION.0, Istiod::NAMESPACE, "shop"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            api.apply(&format!("/api/v1/namespaces/{namespace}"), &object)?;
        }
        Ok(Self { api, n1, n2, bed })
    }

    /// An istiod that trusts these accounts, on the first node; ready, and its root is published for agents.
    pub fn istiod(&self, trusted_node_accounts: &str) -> Result<Istiod> {
        let kubeconfig = self.api.kubeconfig();
        let options = istiod::Options { kubeconfig: &kubeconfig, trusted_node_accounts };
        let istiod = Istiod::start(&self.n1, self.bed.dir(), &options)?;
        self.roots()?;
        Ok(istiod)
    }

    /// Makes a pod of that service account, which is only said to run on that node; gives its uid.
    pub fn pod(&self, account: (&str, &str), node: &Node) -> Result<String> {
        self.pod_that_is(account, node, "Running", false)
    }

    /// The same in another phase, or on the node's own network.
    pub fn pod_that_is(
        &self,
        account: (&str, &str),
        node: &Node,
        phase: &str,
        host_network: bool,
    ) -> Result<String> {
        let metadata = json!({"name": format!("{}-{}", account.1, node.name())});
        let spec = json!({"nodeName": node.name(), "hostNetwork": host_network});
        self.put_pod(account, &metadata, spec, &json!({"phase": phase}))
    }

    /// Says of a pod that it runs on the first node, where it does, and that it is captured; gives its uid.
    pub fn post(&self, pod: &Pod) -> Result<String> {
        let metadata = json!({"name": pod.name(), "labels": {"pillion.dev/capture": "enabled"}});
        let ips: Vec<Value> = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"phase": "Running", "podIP": pod.ip4(), "podIPs": ips});
        self.put_pod((pod.namespace(), pod.name()), &metadata, json!({"nodeName": self.n1.name()}), &status)
    }

    /// istiod's Service, by which agents find it.
    pub fn publish(&self) -> Result<()> {
        let (namespace, port) = (Istiod::NAMESPACE, Istiod::PORT);
        let spec = json!({"ports": [{"name": "https-dns", "port": port}]});
        let service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istiod"}, "spec": spec});
        self.api.apply(&format!("/api/v1/namespaces/{namespace}/services/istiod"), &service)?;
        let metadata = json!({"name": "istiod-1", "labels": {"kubernetes.io/service-name": "istiod"}});
        let endpoint = json!({"addresses": [self.n1.ip4()], "conditions": {"ready": true}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "https-dns", "port": port}]});
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/istiod-1");
        self.api.apply(&path, &slice)
    }

    /// Makes a pod with all that it needs besides, and its service account.
    fn put_pod(
        &self,
        (namespace, account): (&str, &str),
        metadata: &Value,
        mut spec: Value,
        status: &Value,
    ) -> Result<String> {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        self.api.apply(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}"), &object)?;
        spec["serviceAccountName"] = account.into();
        spec["automountServiceAccountToken"] = false.into();
        spec["containers"] = json!([{"name": "app", "image": "app"}]);
        let name = metadata["name"].as_str().context("a pod has a name")?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.api.apply(&path, &pod)?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": status});
        self.api.apply(&format!("{path}/status"), &pod)?;
        let pod = self.api.get(&path)?;
        Ok(pod["metadata"]["uid"].as_str().context("a pod without uid")?.to_owned())
    }

    /// The token of a pod of that account on that node, as a kubelet asks for it. Makes the pod.
    pub fn token(&self, account: (&str, &str), node: &Node) -> Result<String> {
        let uid = self.pod(account, node)?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": format!("{}-{}", account.1, node.name()), "uid": uid});
        self.request_token(account, Some(&pod))
    }

    /// A token that is bound to this object, or to none.
    pub fn request_token(&self, (namespace, account): (&str, &str), bound: Option<&Value>) -> Result<String> {
        let mut spec = json!({"audiences": ["istio-ca"], "expirationSeconds": 3600});
        if let Some(bound) = bound {
            spec["boundObjectRef"] = bound.clone();
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api.post(&path, &request)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// istiod's root, where agents look for it.
    pub fn roots(&self) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/configmaps/{}", PILLION.0, Istiod::CONFIG_MAP);
        wait::until("istiod's root", WITHIN, || {
            let map = self.api.find(&path)?;
            Ok(map.and_then(|map| map["data"]["root-cert.pem"].as_str().map(str::to_owned)))
        })
    }

    /// Asks istiod for a certificate of an hour, for that identity or for the caller's own.
    pub fn ask(&self, token: &str, cluster: Option<&str>, identity: Option<&str>) -> Result<Issued> {
        let roots = self.roots()?;
        let question =
            Question { token: Some(token), cluster, identity, seconds: 3600, ..Question::default() };
        self.n1.visit(|| ask(Istiod::HOST, &question, &roots))
    }

    /// Asks until istiod signs: it may not have heard of the pods yet.
    pub fn wait_issued(&self, token: &str, identity: &str) -> Result<Issued> {
        let mut said = String::new();
        let issued = wait::until("a certificate", WITHIN, || {
            match self.ask(token, Some(Istiod::CLUSTER_ID), Some(identity)) {
                Ok(issued) => Ok(Some(issued)),
                Err(error) => {
                    said = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        issued.with_context(|| format!("istiod said {said:?}"))
    }
}
