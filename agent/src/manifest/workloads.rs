//! What a Pod object says of a workload.

use super::error::Wrong;
use super::metadata::Metadata;
use super::names::{is_label, is_subdomain};
use super::objects::{Namespace, Pod};
use super::policies::Policies;
use crate::mesh::{Exclusions, OnAgentLoss, PodName, PortSet, SpiffeId, TrustDomain, Workload};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// The label that brings a pod, or a namespace's pods, into the mesh.
pub const CAPTURE: &str = "pillion.dev/capture";
const NETNS: &str = "pillion.dev/netns";
const EXCLUDE_OUTBOUND_PORTS: &str = "pillion.dev/exclude-outbound-ports";
const EXCLUDE_OUTBOUND_CIDRS: &str = "pillion.dev/exclude-outbound-cidrs";
const EXCLUDE_INBOUND_PORTS: &str = "pillion.dev/exclude-inbound-ports";
const DIRECT: &str = "pillion.dev/direct";
const ON_AGENT_LOSS: &str = "pillion.dev/on-agent-loss";
/// Items of one annotation: what a pod excludes goes into tables that the whole node shares. No pod that was met excludes a
/// tenth of it.
const MOST_ITEMS: usize = 1024;
/// What CNI's bandwidth plugin goes by.
const BANDWIDTH: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

/// Reads a pod, and says what is wrong with it. `namespace` is what the Namespace object says that it is in, or else whether the pod
/// is captured as far as is known. What is wrong is taken for the strictest that it could be.
pub(super) fn workload(
    pod: &Pod,
    namespace: Result<&Namespace, bool>,
    trust_domain: &TrustDomain,
    policies: &Policies<'_>,
) -> (Workload, Vec<Wrong>) {
    let metadata = &pod.metadata;
    let name = PodName { namespace: metadata.namespace().to_owned(), name: metadata.name.clone() };
    let mut reader = Reader { name: &name, metadata, wrong: Vec::new() };

    let service_account = match pod.spec.service_account_name.as_deref() {
        None | Some("") => "default",
        Some(account) => account,
    };
    reader.names(service_account);
    let labelled = reader.capture(namespace);
    let netns = reader.netns();
    let exclusions = Exclusions {
        outbound_ports: reader.ports(EXCLUDE_OUTBOUND_PORTS),
        outbound_cidrs: reader.cidrs(EXCLUDE_OUTBOUND_CIDRS),
        inbound_ports: reader.ports(EXCLUDE_INBOUND_PORTS),
    };
    let direct = reader.either(DIRECT, ("enabled", true), ("disabled", false));
    let on_agent_loss =
        reader.either(ON_AGENT_LOSS, ("closed", OnAgentLoss::Closed), ("open", OnAgentLoss::Open));
    // A pod on the host network has its node's address and netns, a finished one has neither any more.
    let own_network = !pod.spec.host_network.unwrap_or(false)
        && !matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let addresses = if own_network { reader.addresses(pod) } else { Vec::new() };
    let wrong = reader.wrong;
    let runs = !addresses.is_empty() || pod.spec.node_name.as_deref().is_some_and(|node| !node.is_empty());

    let label =
        |keys: &[&str]| keys.iter().find_map(|k| metadata.labels.get(*k).filter(|v| !v.is_empty())).cloned();
    let workload_name = workload_name(metadata);
    let app = label(&["app", "app.kubernetes.io/name"]).unwrap_or_default();
    let version = label(&["version", "app.kubernetes.io/version"]).unwrap_or_default();
    let or =
        |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
    let workload = Workload {
        uid: metadata.uid.clone().unwrap_or_else(|| name.name.clone()),
        node: pod.spec.node_name.clone().unwrap_or_default(),
        identity: SpiffeId::new(trust_domain, &name.namespace, service_account),
        addresses,
        netns,
        captured: labelled && own_network,
        terminating: metadata.deletion_timestamp.is_some(),
        canonical_service: label(&["service.istio.io/canonical-name"])
            .unwrap_or_else(|| or(&app, &workload_name)),
        canonical_revision: label(&["service.istio.io/canonical-revision"])
            .unwrap_or_else(|| or(&version, "latest")),
        workload_name,
        app,
        version,
        exclusions,
        mtls: policies.mtls(&name.namespace, &metadata.labels),
        authorization: policies.authorization(&name.namespace, &metadata.labels),
        network_policy: policies.network_policy(&name.namespace, &metadata.labels, runs),
        bandwidth: BANDWIDTH
            .into_iter()
            .find(|key| metadata.annotations.contains_key(*key))
            .map(str::to_owned),
        probe_ports: pod.spec.probe_ports.clone(),
        direct,
        on_agent_loss,
        name,
    };
    (workload, wrong)
}

/// Whether a namespace's pods are in the mesh unless they say otherwise.
pub(super) fn captures(namespace: &Namespace) -> bool {
    namespace.metadata.labels.get(CAPTURE).is_some_and(|value| value != "disabled")
}

/// What made the pod: its controller; for a ReplicaSet the Deployment behind it, whose name the ReplicaSet's
/// begins with.
fn workload_name(metadata: &Metadata) -> String {
    let owner = metadata.owner_references.iter().find(|o| o.controller == Some(true));
    let Some(owner) = owner.or(metadata.owner_references.first()) else {
        return metadata.name.clone();
    };
    let hash = metadata.labels.get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    deployment.unwrap_or(&owner.name).to_owned()
}

/// Reads one pod's fields and gathers what is wrong with them, so that all of it is told at once.
struct Reader<'a> {
    name: &'a PodName,
    metadata: &'a Metadata,
    wrong: Vec<Wrong>,
}

impl<'a> Reader<'a> {
    fn wrong(&mut self, field: &'static str, what: String) {
        self.wrong.push(Wrong { field, message: format!("pod {}: {what}", self.name) });
    }

    fn names(&mut self, service_account: &str) {
        let name = "use lower-case letters, digits and dashes";
        if !is_label(&self.name.namespace) {
            self.wrong(
                "metadata.namespace",
                format!("{:?} is no namespace's name: {name}", self.name.namespace),
            );
        }
        if !is_subdomain(&self.name.name) {
            self.wrong("metadata.name", format!("{:?} is no pod's name: {name}", self.name.name));
        }
        if !is_subdomain(service_account) {
            let what = format!("{service_account:?} is no service account's name: {name}");
            self.wrong("spec.serviceAccountName", what);
        }
    }

    /// Whether the pod opted in. Its own label wins over its namespace's.
    fn capture(&mut self, namespace: Result<&Namespace, bool>) -> bool {
        let own = self.metadata.labels.get(CAPTURE).map(|value| (value, ""));
        let inherited = namespace
            .ok()
            .and_then(|n| n.metadata.labels.get(CAPTURE))
            .map(|value| (value, " (from its namespace)"));
        match own.or(inherited) {
            None => namespace.err().unwrap_or(false),
            Some((value, _)) if value == "enabled" => true,
            Some((value, _)) if value == "disabled" => false,
            Some((value, whose)) => {
                let what = format!("label {CAPTURE}{whose} is {value:?}; it is either enabled or disabled");
                self.wrong("metadata.labels", what);
                true
            }
        }
    }

    fn netns(&mut self) -> Option<PathBuf> {
        let path = self.annotation(NETNS)?;
        if !path.starts_with('/') || path.contains('\0') {
            self.annotation_wrong(NETNS, path, "it is an absolute path such as /run/netns/cart");
            return None;
        }
        Some(path.into())
    }

    fn ports(&mut self, annotation: &'static str) -> PortSet {
        self.list(annotation, "a port is a number from 1 to 65535", |item| {
            item.parse().ok().filter(|port| *port != 0)
        })
    }

    fn cidrs(&mut self, annotation: &'static str) -> Vec<IpNet> {
        self.list(annotation, "a network is an address or a CIDR such as 10.0.0.0/8", |item| {
            let net = item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
            net.ok().map(|net| net.trunc())
        })
    }

    /// Reads a comma-separated annotation; empty items are passed over.
    fn list<T, C>(&mut self, annotation: &'static str, rule: &str, read: impl Fn(&str) -> Option<T>) -> C
    where
        C: FromIterator<T> + Default,
    {
        let Some(value) = self.annotation(annotation) else { return C::default() };
        let items: Vec<&str> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if items.len() > MOST_ITEMS {
            let wrong = format!("it has {} items, and {MOST_ITEMS} are the most", items.len());
            let shown: String = value.chars().take(40).collect();
            self.annotation_wrong(annotation, &shown, &wrong);
            return C::default();
        }
        if let Some(bad) = items.iter().find(|item| read(item).is_none()) {
            self.annotation_wrong(annotation, value, &format!("{bad:?} does not fit: {rule}"));
            return C::default();
        }
        items.into_iter().filter_map(read).collect()
    }

    /// Reads an annotation of two values; the first is the default.
    fn either<T>(&mut self, annotation: &'static str, default: (&str, T), other: (&str, T)) -> T {
        match self.annotation(annotation) {
            Some(value) if value == other.0 => other.1,
            None => default.1,
            Some(value) => {
                if value != default.0 {
                    let rule = format!("it is either {} or {}", default.0, other.0);
                    self.annotation_wrong(annotation, value, &rule);
                }
                default.1
            }
        }
    }

    fn annotation(&self, annotation: &str) -> Option<&'a str> {
        self.metadata.annotations.get(annotation).map(String::as_str)
    }

    fn annotation_wrong(&mut self, annotation: &str, value: &str, rule: &str) {
        self.wrong("metadata.annotations", format!("annotation {annotation} is {value:?}; {rule}"));
    }

    /// `status.podIPs`, or `status.podIP` where an older object has only that.
    fn addresses(&mut self, pod: &Pod) -> Vec<IpAddr> {
        let status = &pod.status;
        let mut addresses = Vec::new();
        let several = status.pod_ips.iter().map(|p| &p.ip);
        let one = status.pod_ip.iter().filter(|_| status.pod_ips.is_empty());
        for ip in several.chain(one).filter(|ip| !ip.is_empty()) {
            match ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
                Ok(ip) if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() => {
                    self.wrong("status.podIPs", format!("{ip} is no address that a pod can have"));
                }
                Ok(ip) if addresses.contains(&ip) => {}
                Ok(ip) => addresses.push(ip),
                Err(_) => self.wrong("status.podIPs", format!("{ip:?} is no IP address")),
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(pod: Value) -> Result<Workload, String> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let trust_domain = "cluster.local".parse().unwrap();
        let (workload, wrong) = workload(&pod, Err(false), &trust_domain, &Policies::default());
        let said: Vec<_> = wrong.iter().map(|w| format!("{}: {}", w.field, w.message)).collect();
        if said.is_empty() { Ok(workload) } else { Err(said.join("\n")) }
    }

    fn labelled(labels: Value) -> Result<Workload, String> {
        read(json!({"metadata": {"name": "cart-0", "namespace": "shop", "labels": labels}}))
    }

    fn annotated(annotations: Value) -> Result<Workload, String> {
        read(json!({"metadata": {"name": "cart-0", "namespace": "shop", "annotations": annotations}}))
    }

    #[test]
    fn a_pod_opts_in_by_label_and_its_own_label_wins() {
        let namespace = |value| {
            let json = json!({"metadata": {"name": "shop", "labels": {CAPTURE: value}}});
            serde_json::from_value::<Namespace>(json).unwrap()
        };
        let captured = |own: Option<&str>, namespace: &Namespace| {
            let labels = own.map(|value| json!({CAPTURE: value}));
            let pod = serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels}})).unwrap();
            let trust_domain = "cluster.local".parse().unwrap();
            let (workload, wrong) = workload(&pod, Ok(namespace), &trust_domain, &Policies::default());
            wrong.is_empty().then_some(workload.captured)
        };
        let (on, off, odd) = (namespace("enabled"), namespace("disabled"), namespace("on"));
        assert_eq!(captured(None, &on), Some(true));
        assert_eq!(captured(Some("disabled"), &on), Some(false));
        assert_eq!(captured(Some("enabled"), &off), Some(true));
        assert_eq!(captured(None, &off), Some(false));
        assert_eq!(captured(None, &odd), None);
        assert_eq!(captured(Some("enabled"), &odd), Some(true));
        assert!(!labelled(json!({})).unwrap().captured);
        assert_eq!(
            labelled(json!({CAPTURE: "true"})).unwrap_err(),
            "metadata.labels: pod shop/cart-0: label pillion.dev/capture is \"true\"; it is either enabled or disabled"
        );
    }

    #[test]
    fn host_network_and_finished_pods_are_never_captured() {
        let pod = |spec, status| {
            let metadata = json!({"name": "a", "labels": {CAPTURE: "enabled"}});
            read(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
        };
        let addresses = json!({"podIPs": [{"ip": "10.0.0.1"}]});
        assert!(pod(json!({}), addresses.clone()).captured);
        let host = pod(json!({"hostNetwork": true}), addresses);
        assert!(!host.captured && host.addresses.is_empty());
        let done = pod(json!({}), json!({"phase": "Failed", "podIP": "10.0.0.1"}));
        assert!(!done.captured && done.addresses.is_empty());
    }

    #[test]
    fn a_captured_pod_without_a_netns_is_kept_for_its_node_to_report() {
        let pod = labelled(json!({CAPTURE: "enabled"})).unwrap();
        assert!(pod.captured && pod.netns.is_none());
        assert_eq!(
            annotated(json!({NETNS: "/run/netns/cart"})).unwrap().netns,
            Some("/run/netns/cart".into())
        );
        assert!(annotated(json!({NETNS: "cart"})).unwrap_err().contains("absolute path"));
    }

    #[test]
    fn exclusions_are_read_from_annotations() {
        let pod = annotated(json!({
            EXCLUDE_OUTBOUND_PORTS: "5432, 6379",
            EXCLUDE_OUTBOUND_CIDRS: "10.1.2.3/8,fd00::/8,192.0.2.1",
            EXCLUDE_INBOUND_PORTS: "",
        }))
        .unwrap();
        assert_eq!(pod.exclusions.outbound_ports, [5432, 6379].into());
        let cidrs: Vec<_> = pod.exclusions.outbound_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]);
        assert!(pod.exclusions.inbound_ports.is_empty());
    }

    #[test]
    fn a_broken_annotation_is_named_with_pod_and_value() {
        assert_eq!(
            annotated(json!({EXCLUDE_INBOUND_PORTS: "80,http"})).unwrap_err(),
            "metadata.annotations: pod shop/cart-0: annotation pillion.dev/exclude-inbound-ports is \"80,http\"; \
             \"http\" does not fit: a port is a number from 1 to 65535"
        );
        for bad in ["0", "65536", "-1", "80-90"] {
            assert!(annotated(json!({EXCLUDE_OUTBOUND_PORTS: bad})).is_err(), "{bad}");
        }
        for bad in ["10.0.0.0/33", "ten", "10.0.0/8"] {
            assert!(annotated(json!({EXCLUDE_OUTBOUND_CIDRS: bad})).is_err(), "{bad}");
        }
        // All that is wrong is told at once.
        let both = annotated(json!({EXCLUDE_OUTBOUND_CIDRS: "x", EXCLUDE_OUTBOUND_PORTS: "x"})).unwrap_err();
        assert_eq!(both.lines().count(), 2);
    }

    #[test]
    fn a_pod_says_whether_it_goes_direct_and_what_becomes_of_it_without_an_agent() {
        let pod = annotated(json!({})).unwrap();
        assert!(pod.direct && pod.on_agent_loss == OnAgentLoss::Closed);
        let pod = annotated(json!({DIRECT: "disabled", ON_AGENT_LOSS: "open"})).unwrap();
        assert!(!pod.direct && pod.on_agent_loss == OnAgentLoss::Open);
        let pod = annotated(json!({DIRECT: "enabled", ON_AGENT_LOSS: "closed"})).unwrap();
        assert!(pod.direct && pod.on_agent_loss == OnAgentLoss::Closed);
        assert_eq!(
            annotated(json!({DIRECT: "off", ON_AGENT_LOSS: "Open"})).unwrap_err(),
            "metadata.annotations: pod shop/cart-0: annotation pillion.dev/direct is \"off\"; it is either enabled or \
             disabled\nmetadata.annotations: pod shop/cart-0: annotation pillion.dev/on-agent-loss is \"Open\"; it is \
             either closed or open"
        );
    }

    #[test]
    fn names_that_do_not_fit_an_identity_are_refused() {
        let pod = |namespace: &str, account: &str| {
            read(
                json!({"metadata": {"name": "a", "namespace": namespace}, "spec": {"serviceAccountName": account}}),
            )
        };
        assert_eq!(
            pod("shop", "cart").unwrap().identity.to_string(),
            "spiffe://cluster.local/ns/shop/sa/cart"
        );
        assert_eq!(pod("shop", "").unwrap().identity.service_account(), "default");
        for (namespace, account) in
            [("a/b", "c"), ("..", "c"), ("Shop", "c"), ("shop", "a/sa/b"), ("shop", "ä"), ("", "c")]
        {
            assert!(pod(namespace, account).is_err(), "{namespace} {account}");
        }
    }

    #[test]
    fn addresses_that_no_pod_has_are_refused() {
        let pod = |ip: &str| read(json!({"metadata": {"name": "a"}, "status": {"podIPs": [{"ip": ip}]}}));
        for bad in ["10.0.0.256", "10.0.0.1/24", "127.0.0.1", "0.0.0.0", "::", "ff02::1", "::ffff:127.0.0.1"]
        {
            assert!(pod(bad).is_err(), "{bad}");
        }
        assert_eq!(pod("::ffff:10.0.0.1").unwrap().addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_workload_is_what_made_the_pod() {
        let pod = |owner: Value, labels: Value| {
            read(json!({"metadata": {"name": "cart-7d9-x", "labels": labels, "ownerReferences": owner}}))
                .unwrap()
        };
        let replica_set = json!([{"kind": "ReplicaSet", "name": "cart-7d9", "controller": true}]);
        let deployment =
            pod(replica_set.clone(), json!({"pod-template-hash": "7d9", "app": "cart", "version": "v2"}));
        assert_eq!(deployment.workload_name, "cart");
        assert_eq!((&*deployment.canonical_service, &*deployment.canonical_revision), ("cart", "v2"));
        assert_eq!(pod(replica_set, json!({})).workload_name, "cart-7d9");
        assert_eq!(pod(json!([{"kind": "StatefulSet", "name": "db"}]), json!({})).workload_name, "db");
        let alone = pod(json!([]), json!({}));
        assert_eq!((&*alone.workload_name, &*alone.app), ("cart-7d9-x", ""));
        assert_eq!((&*alone.canonical_service, &*alone.canonical_revision), ("cart-7d9-x", "latest"));
    }
}
