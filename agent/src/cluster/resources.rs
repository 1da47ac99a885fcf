//! What is read of the API server.

use super::name::ObjectName;

/// One kind of objects, in all namespaces.
#[derive(Debug)]
pub struct Resource {
    /// In the plural, as in paths.
    pub name: &'static str,
    /// The path of the whole collection.
    pub path: &'static str,
    pub api_version: &'static str,
    pub kind: &'static str,
    /// What the API server leaves out by itself.
    pub fields: Option<&'static str>,
    /// A cluster may be without it: it comes with a CustomResourceDefinition.
    pub may_be_absent: bool,
    /// Policies say on themselves what is wrong with them.
    pub is_policy: bool,
    /// The mesh reads what its objects say in `status`.
    pub reads_status: bool,
}

impl Resource {
    /// The path of those of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> String {
        let all = self.path.strip_suffix(self.name).unwrap_or(self.path);
        format!("{all}namespaces/{namespace}/{}", self.name)
    }
}

/// A finished pod has no address and no network: the cluster may hold many of them, and none is sent.
const NOT_FINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

pub const RESOURCES: [Resource; 7] = [
    Resource {
        fields: Some(NOT_FINISHED),
        reads_status: true,
        ..built_in("pods", "Pod", "v1", "/api/v1/pods")
    },
    built_in("namespaces", "Namespace", "v1", "/api/v1/namespaces"),
    built_in("services", "Service", "v1", "/api/v1/services"),
    built_in(
        "endpointslices",
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ),
    built_in(
        "networkpolicies",
        "NetworkPolicy",
        "networking.k8s.io/v1",
        "/apis/networking.k8s.io/v1/networkpolicies",
    ),
    Resource {
        may_be_absent: true,
        is_policy: true,
        ..built_in(
            "peerauthentications",
            "PeerAuthentication",
            "security.istio.io/v1",
            "/apis/security.istio.io/v1/peerauthentications",
        )
    },
    Resource {
        may_be_absent: true,
        is_policy: true,
        ..built_in(
            "authorizationpolicies",
            "AuthorizationPolicy",
            "security.istio.io/v1",
            "/apis/security.istio.io/v1/authorizationpolicies",
        )
    },
];

impl Resource {
    /// One object alone, of a kind of the core that has namespaces; `name` is the kind's plural. It is followed for as long as
    /// the process lives, and so lives what names it.
    pub fn object(name: &'static str, kind: &'static str, object: &ObjectName) -> &'static Self {
        let path = format!("/api/v1/namespaces/{}/{name}", object.namespace);
        let fields = format!("metadata.name={}", object.name);
        let resource = built_in(name, kind, "v1", path.leak());
        Box::leak(Box::new(Self { fields: Some(fields.leak()), ..resource }))
    }
}

pub const fn built_in(
    name: &'static str,
    kind: &'static str,
    api_version: &'static str,
    path: &'static str,
) -> Resource {
    Resource {
        name,
        path,
        api_version,
        kind,
        fields: None,
        may_be_absent: false,
        is_policy: false,
        reads_status: false,
    }
}
