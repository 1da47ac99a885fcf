//! Why a connection does not take the direct path.

/// Why connections go by mutual TLS, though they might stay within the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDirect {
    #[error("the direct path is switched off on this node (--direct off)")]
    MeshOff,
    #[error("the pod is not in the mesh")]
    NotCaptured,
    #[error("the pod says so (annotation pillion.dev/direct: disabled)")]
    PodDisabled,
    #[error("NetworkPolicy {name} selects the pod, and the direct path would go around what enforces it")]
    NetworkPolicy { name: String },
    #[error("the pods are on different nodes")]
    OtherNode,
    #[error("the pod reaches itself, which is none of the mesh's business")]
    SamePod,
    #[error("the port is the mesh's own")]
    ReservedPort,
    #[error("the pod keeps the port out of the mesh (annotation pillion.dev/exclude-inbound-ports)")]
    ExcludedPort,
    /// A worker says so to the client, in words.
    #[error("policies do not allow it: {verdict}")]
    Denied { verdict: String },
    #[error("the pod has no veth on the node that could be its path: {why}")]
    NoVeth { why: String },
    #[error("the pod's veth is in the hands of another datapath: {program} is attached to it")]
    ForeignProgram { program: String },
    #[error(
        "the pod has a further network device, {device}, by which others could write into its connections; without it, or \
         with it down, the pod is direct"
    )]
    FurtherDevice { device: String },
    #[error(
        "the queueing discipline {qdisc} shapes what passes the pod's veth, and the direct path would go around it"
    )]
    Shaped { qdisc: String },
    #[error(
        "the pod's bandwidth is limited (annotation {annotation}), and the direct path would go around the limit"
    )]
    Bandwidth { annotation: String },
    #[error("the pod cannot be guarded: {why}")]
    NoGuard { why: String },
    /// Nothing is known that policies could be asked about.
    #[error("{what}, so that policies cannot be asked")]
    Unknown { what: String },
}

impl NotDirect {
    /// The reason as metrics give it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MeshOff => "mesh_off",
            Self::NotCaptured => "not_captured",
            Self::PodDisabled => "pod_disabled",
            Self::NetworkPolicy { .. } => "network_policy",
            Self::OtherNode => "other_node",
            Self::SamePod => "same_pod",
            Self::ReservedPort => "reserved_port",
            Self::ExcludedPort => "excluded_port",
            Self::Denied { .. } => "denied",
            Self::NoVeth { .. } => "no_veth",
            Self::ForeignProgram { .. } => "foreign_program",
            Self::FurtherDevice { .. } => "further_device",
            Self::Shaped { .. } => "shaped",
            Self::Bandwidth { .. } => "bandwidth",
            Self::NoGuard { .. } => "no_guard",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether connections that are direct already have to end for this reason, when the node finds it at the pod. What
    /// others could write into is not the peer's word any more. Beside a datapath or a limit that is new they go on until
    /// they end: nothing that the kernel vouches for has become untrue.
    pub fn ends_open_connections(&self) -> bool {
        matches!(self, Self::FurtherDevice { .. })
    }
}
