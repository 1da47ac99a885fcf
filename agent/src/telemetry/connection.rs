//! The labels of a connection's metrics: Istio's names, values and conventions
//! (<https://istio.io/latest/docs/reference/config/metrics/>), so that dashboards made for Istio work.

use super::label_sets::OTHER;
use crate::mesh::{Service, SpiffeId, Workload};
use serde::Serialize;

/// What Istio writes for what is not known.
const UNKNOWN: &str = "unknown";

/// Which end of a connection reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
}

/// How a connection travels between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionSecurity {
    MutualTls,
    /// Plain TCP within one kernel, which vouches for both ends.
    KernelAttested,
    None,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer<'a> {
    pub workload: Option<&'a Workload>,
    /// The identity that TLS or the kernel has proven; `None` on a plain connection, whatever the workload is.
    pub identity: Option<&'a SpiffeId>,
}

/// A connection's label values, in the order of [`ConnectionLabels::NAMES`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionLabels([String; Self::NAMES.len()]);

impl ConnectionLabels {
    /// `response_flags` is not among them: it differs between what is counted of one connection.
    pub const NAMES: [&'static str; 20] = [
        "reporter",
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_canonical_service",
        "source_canonical_revision",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "request_protocol",
        "connection_security_policy",
    ];

    /// `service` is the one that the client asked for; `None` where it asked for the pod's own address, and where
    /// the reporter is not told.
    pub fn new(
        reporter: Reporter,
        source: Peer<'_>,
        destination: Peer<'_>,
        service: Option<&Service>,
        security: ConnectionSecurity,
    ) -> Self {
        let [
            source_workload,
            source_namespace,
            source_principal,
            source_app,
            source_version,
            source_service,
            source_revision,
        ] = source.labels();
        let [workload, namespace, principal, app, version, canonical_service, canonical_revision] =
            destination.labels();
        Self([
            reporter.as_str().to_owned(),
            source_workload,
            source_namespace,
            source_principal,
            source_app,
            source_version,
            source_service,
            source_revision,
            workload,
            namespace,
            principal,
            app,
            version,
            canonical_service,
            canonical_revision,
            service.map_or_else(|| UNKNOWN.to_owned(), Service::host),
            known(service.map(|s| s.name.as_str())),
            known(service.map(|s| s.namespace.as_str())),
            "tcp".to_owned(),
            security.as_str().to_owned(),
        ])
    }

    /// The same for all connections that this end reports and that travel in this way: for a pod that has as many label sets as
    /// it may.
    pub(super) fn without_names(&self) -> Self {
        let kept = ["reporter", "request_protocol", "connection_security_policy"];
        let mut values = self.0.clone();
        for (name, value) in Self::NAMES.iter().zip(&mut values) {
            if !kept.contains(name) {
                OTHER.clone_into(value);
            }
        }
        Self(values)
    }

    /// The values, and the response flags after them.
    pub(super) fn with_flags<'a>(&'a self, flags: &'a str) -> Vec<&'a str> {
        self.0.iter().map(String::as_str).chain([flags]).collect()
    }
}

impl Peer<'_> {
    /// Workload, namespace, principal, app, version, canonical service and revision.
    fn labels(&self) -> [String; 7] {
        let of = |field: fn(&Workload) -> &str| known(self.workload.map(field));
        [
            of(|w| &w.workload_name),
            of(|w| &w.name.namespace),
            // Istio's metrics carry the whole SPIFFE id; only its policies leave the scheme out.
            self.identity.map_or_else(|| UNKNOWN.to_owned(), ToString::to_string),
            of(|w| &w.app),
            of(|w| &w.version),
            of(|w| &w.canonical_service),
            // Istio has `latest` for what is not known here.
            self.workload.map_or("latest", |w| &w.canonical_revision).to_owned(),
        ]
    }
}

impl Reporter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl ConnectionSecurity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::KernelAttested => "kernel_attested",
            Self::None => "none",
        }
    }
}

fn known(value: Option<&str>) -> String {
    value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN).to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mesh::{Exclusions, InboundMtls, Locality, OnAgentLoss, PodName, PortSet};

    pub fn workload(name: &str) -> Workload {
        let pod = PodName { namespace: "shop".into(), name: format!("{name}-0") };
        Workload {
            uid: pod.name.clone(),
            node: "node-a".into(),
            identity: SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", name),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            netns: None,
            captured: true,
            terminating: false,
            workload_name: name.into(),
            app: name.into(),
            version: String::new(),
            canonical_service: name.into(),
            canonical_revision: "v1".into(),
            exclusions: Exclusions::default(),
            mtls: InboundMtls::default(),
            authorization: Default::default(),
            network_policy: None,
            bandwidth: None,
            probe_ports: PortSet::new(),
            direct: true,
            on_agent_loss: OnAgentLoss::Closed,
            name: pod,
        }
    }

    fn value<'a>(labels: &'a ConnectionLabels, name: &str) -> &'a str {
        let at = ConnectionLabels::NAMES.iter().position(|n| *n == name).unwrap();
        &labels.0[at]
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        let labels = ConnectionLabels::new(
            Reporter::Source,
            Peer::default(),
            Peer::default(),
            None,
            ConnectionSecurity::None,
        );
        for name in ConnectionLabels::NAMES {
            let expected = match name {
                "reporter" => "source",
                "source_canonical_revision" | "destination_canonical_revision" => "latest",
                "request_protocol" => "tcp",
                "connection_security_policy" => "none",
                _ => "unknown",
            };
            assert_eq!(value(&labels, name), expected, "{name}");
        }
    }

    #[test]
    fn labels_follow_istios_conventions() {
        let (cart, db) = (workload("cart"), workload("db"));
        let service = Service {
            namespace: "shop".into(),
            name: "db".into(),
            cluster_ips: Vec::new(),
            locality: Locality::Anywhere,
            is_refused: false,
            ports: Vec::new(),
            slices: Vec::new(),
        };
        let labels = ConnectionLabels::new(
            Reporter::Destination,
            Peer { workload: Some(&cart), identity: Some(&cart.identity) },
            Peer { workload: Some(&db), identity: None },
            Some(&service),
            ConnectionSecurity::MutualTls,
        );
        for (name, expected) in [
            ("reporter", "destination"),
            ("source_workload", "cart"),
            ("source_workload_namespace", "shop"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
            ("source_app", "cart"),
            ("source_version", "unknown"),
            ("source_canonical_revision", "v1"),
            ("destination_workload", "db"),
            ("destination_principal", "unknown"),
            ("destination_service", "db.shop.svc.cluster.local"),
            ("destination_service_name", "db"),
            ("destination_service_namespace", "shop"),
            ("connection_security_policy", "mutual_tls"),
        ] {
            assert_eq!(value(&labels, name), expected, "{name}");
        }
    }
}
