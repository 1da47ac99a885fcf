//! Which policies apply to a pod, and what follows from them.

use super::authorization::{AuthorizationPolicy, Scopes};
use super::metadata::Key;
use super::network_policies::NetworkPolicies;
use super::objects::NetworkPolicy;
use super::peer_authentication::{Mode, PeerAuthentication};
use super::selector::Labels;
use crate::mesh::{Authorization, InboundMtls, TrustDomains};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where Istio keeps the policies of the whole mesh, unless told otherwise.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The policies of a mesh, ready to be asked.
#[derive(Default)]
pub(super) struct Policies<'a> {
    /// The mesh's own mode.
    mesh: Option<Mode>,
    namespaces: BTreeMap<&'a str, Namespace<'a>>,
    network_policies: NetworkPolicies<'a>,
    authorization: Scopes<'a>,
}

/// The PeerAuthentications of one namespace.
#[derive(Default)]
struct Namespace<'a> {
    mode: Option<Mode>,
    /// Those with a selector, the oldest first.
    workloads: Vec<&'a PeerAuthentication>,
}

impl<'a> Policies<'a> {
    /// Sorts policies into their scopes as Istio does: without a selector a policy is its namespace's, in the root
    /// namespace the mesh's. The oldest of a scope wins.
    pub fn new(
        root_namespace: &str,
        trust_domains: &TrustDomains,
        peer_authentications: impl IntoIterator<Item = &'a PeerAuthentication>,
        authorization_policies: impl IntoIterator<Item = &'a AuthorizationPolicy>,
        network_policies: impl IntoIterator<Item = &'a NetworkPolicy>,
    ) -> Self {
        let authorization = Scopes::new(root_namespace, trust_domains, authorization_policies);
        let network_policies = NetworkPolicies::new(network_policies);
        let mut policies = Self { authorization, network_policies, ..Self::default() };
        let mut by_age: Vec<_> = peer_authentications.into_iter().collect();
        // A policy that does not say when it was made is older than all that do: stand-ins are such.
        by_age.sort_by_key(|policy| {
            (!policy.comes_first, policy.metadata.creation_timestamp, policy.metadata.key())
        });
        for policy in by_age {
            let (namespace, mode) = (policy.metadata.namespace(), policy.spec.mtls.mode);
            let is_narrow = policy.spec.has_selector() || policy.comes_first && namespace != root_namespace;
            match (namespace == root_namespace, is_narrow) {
                (true, false) => _ = policies.mesh.get_or_insert(mode),
                // Istio ignores these, whomever they select.
                (true, true) => {}
                (false, false) => {
                    policies.namespaces.entry(namespace).or_default().mode.get_or_insert(mode);
                }
                (false, true) => policies.namespaces.entry(namespace).or_default().workloads.push(policy),
            }
        }
        policies
    }

    /// What a pod accepts in plain. Where a policy says UNSET, the next wider scope decides.
    pub fn mtls(&self, namespace: &str, labels: &Labels) -> InboundMtls {
        let of_namespace = self.namespaces.get(namespace);
        let of_workload = of_namespace
            .and_then(|scope| scope.workloads.iter().find(|policy| policy.spec.selector.selects(labels)));
        let narrowest_first = [
            of_workload.map(|policy| policy.spec.mtls.mode),
            of_namespace.and_then(|scope| scope.mode),
            self.mesh,
        ];
        let default = narrowest_first.into_iter().flatten().find_map(Mode::set).unwrap_or_default();
        let ports = of_workload.into_iter().flat_map(|policy| &policy.spec.port_level_mtls);
        let ports = ports.map(|(port, mtls)| (port.get(), mtls.mode.set().unwrap_or(default)));
        InboundMtls { default, ports: ports.filter(|(_, mode)| *mode != default).collect() }
    }

    /// Who may connect to a pod.
    pub fn authorization(&self, namespace: &str, labels: &Labels) -> Arc<Authorization> {
        self.authorization.authorization(namespace, labels)
    }

    /// The first NetworkPolicy by name that selects a pod. Of a pod that runs nowhere, one that may.
    pub fn network_policy(&self, namespace: &str, labels: &Labels, runs: bool) -> Option<String> {
        match runs {
            true => self.network_policies.of(namespace, labels),
            false => self.network_policies.any_of(namespace),
        }
    }

    /// The NetworkPolicies that are taken to select every pod, and why.
    pub fn refused_network_policies(&self) -> &[(Key<'a>, String)] {
        &self.network_policies.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::MtlsMode;
    use serde_json::{Value, json};

    /// A policy; a selector is the value of the label `app`, made is the day of the month.
    fn policy(namespace: &str, name: &str, made: u8, selector: Option<&str>, mode: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-{made:02}T00:00:00Z")},
            "spec": {"selector": selector.map(|app| json!({"matchLabels": {"app": app}})), "mtls": {"mode": mode}},
        })
    }

    fn with_ports(mut policy: Value, ports: Value) -> Value {
        policy["spec"]["portLevelMtls"] = ports;
        policy
    }

    fn object(policy: Value) -> PeerAuthentication {
        serde_json::from_value(policy).unwrap()
    }

    /// What the pod `cart` of the namespace `shop` accepts.
    fn cart(policies: &[Value]) -> InboundMtls {
        resolve("shop", "cart", policies)
    }

    fn resolve(namespace: &str, app: &str, policies: &[Value]) -> InboundMtls {
        let objects: Vec<_> = policies.iter().cloned().map(object).collect();
        for object in &objects {
            assert_eq!(object.check(), Ok(()));
        }
        let labels = [("app".to_owned(), app.to_owned())].into();
        Policies::new(ROOT_NAMESPACE, &TrustDomains::default(), &objects, [], []).mtls(namespace, &labels)
    }

    // proves: ID-3
    #[test]
    fn the_narrowest_scope_decides_and_unset_asks_the_next() {
        const ROOT: &str = ROOT_NAMESPACE;
        use MtlsMode::{Disable, Permissive, Strict};
        // The modes of mesh, namespace and workload, `-` where there is no policy.
        for (mesh, namespace, workload, expected) in [
            ("-", "-", "-", Permissive),
            ("UNSET", "-", "-", Permissive),
            ("STRICT", "-", "-", Strict),
            ("DISABLE", "-", "-", Disable),
            ("STRICT", "PERMISSIVE", "-", Permissive),
            ("STRICT", "UNSET", "-", Strict),
            ("-", "UNSET", "-", Permissive),
            ("-", "STRICT", "-", Strict),
            ("STRICT", "PERMISSIVE", "DISABLE", Disable),
            ("STRICT", "PERMISSIVE", "UNSET", Permissive),
            ("STRICT", "UNSET", "UNSET", Strict),
            ("STRICT", "-", "UNSET", Strict),
            ("UNSET", "UNSET", "UNSET", Permissive),
            ("PERMISSIVE", "-", "STRICT", Strict),
        ] {
            let scopes = [(ROOT, None, mesh), ("shop", None, namespace), ("shop", Some("cart"), workload)];
            let written = scopes.into_iter().filter(|(.., mode)| *mode != "-");
            let policies: Vec<_> =
                written.map(|(ns, app, mode)| policy(ns, "default", 1, app, mode)).collect();
            let names: Vec<_> =
                ["mesh", "namespace", "workload"].into_iter().zip([mesh, namespace, workload]).collect();
            let found = cart(&policies);
            assert_eq!((found.default, found.ports.len()), (expected, 0), "{names:?}");
        }
    }

    #[test]
    fn the_oldest_of_a_scope_wins_and_then_the_first_by_name() {
        for (namespace, app) in [(ROOT_NAMESPACE, None), ("shop", None), ("shop", Some("cart"))] {
            let mode = |policies: &[Value]| cart(policies).default;
            let by_age =
                [policy(namespace, "a", 2, app, "PERMISSIVE"), policy(namespace, "b", 1, app, "STRICT")];
            assert_eq!(mode(&by_age), MtlsMode::Strict);
            let by_name =
                [policy(namespace, "b", 1, app, "STRICT"), policy(namespace, "a", 1, app, "DISABLE")];
            assert_eq!(mode(&by_name), MtlsMode::Disable);
            // Also when the oldest only passes the question on.
            let unset = [policy(namespace, "a", 1, app, "UNSET"), policy(namespace, "b", 2, app, "STRICT")];
            assert_eq!(mode(&unset), MtlsMode::Permissive);
        }
        let mut ageless = policy("shop", "z", 1, None, "STRICT");
        ageless["metadata"]["creationTimestamp"] = Value::Null;
        assert_eq!(cart(&[policy("shop", "a", 1, None, "DISABLE"), ageless]).default, MtlsMode::Strict);
    }

    // proves: ID-3
    #[test]
    fn ports_differ_where_the_workloads_policy_says_so() {
        let ports = json!({"8080": {"mode": "DISABLE"}, "9090": {"mode": "UNSET"}, "9091": {}, "9092": {"mode": "STRICT"}});
        let workload = with_ports(policy("shop", "cart", 1, Some("cart"), "UNSET"), ports);
        let found = cart(&[policy("shop", "default", 1, None, "STRICT"), workload]);
        assert_eq!(found.mode(8080), MtlsMode::Disable);
        for port in [80, 9090, 9091, 9092] {
            assert_eq!(found.mode(port), MtlsMode::Strict, "{port}");
        }
        assert_eq!(found.ports.len(), 1);
        // Of several for one pod only the oldest counts, also for ports that it does not name.
        let older = policy("shop", "older", 1, Some("cart"), "STRICT");
        let younger = with_ports(
            policy("shop", "younger", 2, Some("cart"), "UNSET"),
            json!({"8080": {"mode": "DISABLE"}}),
        );
        assert_eq!(cart(&[younger, older]).mode(8080), MtlsMode::Strict);
    }

    #[test]
    fn a_policy_is_for_the_pods_that_it_selects() {
        let policies =
            [policy("shop", "a", 1, Some("cart"), "STRICT"), policy("bank", "b", 1, None, "DISABLE")];
        for (namespace, app, expected) in [
            ("shop", "cart", MtlsMode::Strict),
            ("shop", "db", MtlsMode::Permissive),
            ("bank", "cart", MtlsMode::Disable),
            ("default", "cart", MtlsMode::Permissive),
        ] {
            assert_eq!(resolve(namespace, app, &policies).default, expected, "{namespace} {app}");
        }
        // An empty selector is none.
        let mut everyone = policy("shop", "a", 1, None, "STRICT");
        everyone["spec"]["selector"] = json!({"matchLabels": {}});
        assert_eq!(resolve("shop", "db", &[everyone]).default, MtlsMode::Strict);
    }

    // proves: SEC-3
    #[test]
    fn what_stands_in_for_an_unreadable_selector_comes_before_policies_that_select_a_pod() {
        let open = with_ports(
            policy("shop", "a", 1, Some("cart"), "PERMISSIVE"),
            json!({"8080": {"mode": "DISABLE"}}),
        );
        let mut stand_in = object(policy("shop", "z", 2, None, "STRICT"));
        stand_in.comes_first = true;
        let policies = [object(open), stand_in];
        let labels = [("app".to_owned(), "cart".to_owned())].into();
        let policies = Policies::new(ROOT_NAMESPACE, &TrustDomains::default(), &policies, [], []);
        let found = policies.mtls("shop", &labels);
        assert_eq!((found.default, found.mode(8080)), (MtlsMode::Strict, MtlsMode::Strict));
        assert_eq!(policies.mtls("bank", &labels).default, MtlsMode::Permissive);
    }

    #[test]
    fn a_selector_in_the_root_namespace_selects_nobody() {
        let root = policy(ROOT_NAMESPACE, "a", 1, Some("cart"), "STRICT");
        for namespace in ["shop", ROOT_NAMESPACE] {
            assert_eq!(resolve(namespace, "cart", std::slice::from_ref(&root)).default, MtlsMode::Permissive);
        }
    }

    #[test]
    fn the_first_network_policy_by_name_is_told() {
        let network_policy = |namespace: &str, name: &str, selector: Value| {
            let metadata = json!({"name": name, "namespace": namespace});
            let object =
                json!({"metadata": metadata, "spec": {"podSelector": selector, "policyTypes": ["Ingress"]}});
            serde_json::from_value::<NetworkPolicy>(object).unwrap()
        };
        let all = [
            network_policy("shop", "z-all", json!({})),
            network_policy("shop", "b-cart", json!({"matchLabels": {"app": "cart"}})),
            network_policy(
                "shop",
                "a-not-cart",
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["cart"]}]}),
            ),
        ];
        let policies = Policies::new(ROOT_NAMESPACE, &TrustDomains::default(), [], [], &all);
        let found = |namespace: &str, app: &str| {
            policies.network_policy(namespace, &[("app".to_owned(), app.to_owned())].into(), true)
        };
        assert_eq!(found("shop", "cart").as_deref(), Some("b-cart"));
        assert_eq!(found("shop", "db").as_deref(), Some("a-not-cart"));
        assert_eq!(found("bank", "cart"), None);
    }
}
