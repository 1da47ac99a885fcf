//! Pods, as far as a mesh needs to know them.

use super::{Authorization, InboundMtls, PortSet, SpiffeId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A pod's namespace and name: unique in a cluster at any one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

/// A pod and what follows from its labels and annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub name: PodName,
    /// `metadata.uid`, or the pod's name where a manifest has none. Another pod under the same name has another.
    pub uid: String,
    /// `spec.nodeName`; empty while the pod is not scheduled.
    pub node: String,
    pub identity: SpiffeId,
    /// The addresses that are the pod's own: `status.podIPs`, the primary of each family first. Empty for a pod
    /// on the host network (they are its node's) and for one that has finished. IPv4-mapped IPv6 is IPv4 here.
    pub addresses: Vec<IpAddr>,
    /// Where the pod's network namespace is (annotation `pillion.dev/netns`).
    pub netns: Option<PathBuf>,
    /// Whether the pod is in the mesh: it opted in by label, is not on the host network and has not finished.
    pub captured: bool,
    /// `metadata.deletionTimestamp` is set: the pod is on its way out and takes no new connections.
    pub terminating: bool,
    /// The name of what made the pod (Deployment, StatefulSet, Job …), or the pod's own.
    pub workload_name: String,
    /// Label `app`, or `app.kubernetes.io/name`; empty where there is none (Istio's `source_app`).
    pub app: String,
    /// Label `version`, or `app.kubernetes.io/version`; empty where there is none.
    pub version: String,
    /// Istio's canonical service: label `service.istio.io/canonical-name`, else `app`, else the workload's name.
    pub canonical_service: String,
    /// Istio's canonical revision: label `service.istio.io/canonical-revision`, else `version`, else `latest`.
    pub canonical_revision: String,
    pub exclusions: Exclusions,
    /// What the pod accepts of connections that do not come through the mesh.
    pub mtls: InboundMtls,
    /// The AuthorizationPolicies that concern the pod.
    pub authorization: Arc<Authorization>,
    /// The NetworkPolicy that selects the pod, the first by name; `None` where none does.
    pub network_policy: Option<String>,
    /// The annotation by which the pod's bandwidth is limited, `kubernetes.io/ingress-bandwidth` or `…/egress-bandwidth`; `None`
    /// where it has neither.
    pub bandwidth: Option<String>,
    /// Ports of the pod's containers that the node's kubelet probes.
    pub probe_ports: PortSet,
    /// Whether the pod may use the direct path (annotation `pillion.dev/direct`).
    pub direct: bool,
    pub on_agent_loss: OnAgentLoss,
}

/// What becomes of a captured pod's new connections while no agent serves it (annotation
/// `pillion.dev/on-agent-loss`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAgentLoss {
    /// They are refused.
    #[default]
    Closed,
    /// They go out in plain.
    Open,
}

/// What a pod keeps out of the mesh (annotations `pillion.dev/exclude-…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exclusions {
    /// Destination ports that are never captured.
    pub outbound_ports: PortSet,
    /// Destination networks that are never captured.
    pub outbound_cidrs: Vec<IpNet>,
    /// Ports of this pod that peers reach as if it were not in the mesh.
    pub inbound_ports: PortSet,
}

impl Workload {
    /// The first address of the wanted family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv6() == ipv6)
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
