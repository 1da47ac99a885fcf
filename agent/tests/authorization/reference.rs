//! AuthorizationPolicy and PeerAuthentication at layer 4, slowly, on the objects as they are written.
//!
//! Written from Istio's documentation and from what Istio's own translation to a proxy does
//! (istio/istio `pilot/pkg/security/authz/{builder,model}`, `pilot/pkg/security/trustdomain`), without the agent's code,
//! so that the two can be held against each other. It takes valid objects for granted, and panics at others.

use crate::world::{Connection, Identity, Verdict, World};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

const NOTHING: &[Value] = &[];

/// A destination pod and what is written about it.
pub struct Reference<'a> {
    world: &'a World,
    /// The AuthorizationPolicies that are enforced at the pod, in the order of their names.
    authorization: Vec<&'a Value>,
}

impl<'a> Reference<'a> {
    pub fn new(world: &'a World) -> Self {
        let mut reference = Self { world, authorization: Vec::new() };
        let enforced = world.policies.iter().filter(|policy| {
            policy["kind"] == "AuthorizationPolicy" && reference.selects(policy) && !is_dry_run(policy)
        });
        let mut enforced: Vec<_> = enforced.collect();
        enforced.sort_by_key(|policy| (namespace(policy), name(policy)));
        reference.authorization = enforced;
        reference
    }

    /// Whether a connection may be made, and the rule that decides so, if one does.
    pub fn authorize(&self, connection: &Connection) -> Verdict {
        // Without an external authorizer, what it would be asked about is denied.
        for action in ["CUSTOM", "DENY"] {
            if let Some(by) = self.first_match(action, connection) {
                return Verdict { allowed: false, by: Some(by) };
            }
        }
        if !self.authorization.iter().any(|policy| action(policy) == "ALLOW") {
            return Verdict { allowed: true, by: None };
        }
        let by = self.first_match("ALLOW", connection);
        Verdict { allowed: by.is_some(), by }
    }

    /// Whether a port takes connections without mutual TLS.
    pub fn takes_plaintext(&self, port: u16) -> bool {
        let of_kind = self.world.policies.iter().filter(|policy| policy["kind"] == "PeerAuthentication");
        let mut oldest_first: Vec<_> = of_kind.collect();
        oldest_first.sort_by_key(|policy| {
            (policy["metadata"]["creationTimestamp"].as_str(), namespace(policy), name(policy))
        });
        let (pod, root) = (&self.world.pod, &self.world.root_namespace);
        let find = |fits: &dyn Fn(&Value) -> bool| oldest_first.iter().find(|policy| fits(policy));
        let workload = find(&|p| {
            has_selector(p) && namespace(p) == pod.namespace && namespace(p) != root && self.fits(p)
        });
        let of_namespace =
            find(&|p| !has_selector(p) && namespace(p) == pod.namespace && namespace(p) != root);
        let mesh = find(&|p| !has_selector(p) && namespace(p) == root);

        let port_mode = workload.map(|policy| &policy["spec"]["portLevelMtls"][port.to_string()]);
        let modes =
            [workload, of_namespace, mesh].into_iter().flatten().map(|policy| &policy["spec"]["mtls"]);
        let said = port_mode.into_iter().chain(modes).filter_map(|mtls| mtls["mode"].as_str());
        said.into_iter().find(|mode| *mode != "UNSET").unwrap_or("PERMISSIVE") != "STRICT"
    }

    /// Whether a policy is for the pod: of its namespace or the root namespace, with labels that it has.
    fn selects(&self, policy: &Value) -> bool {
        let targets = ["targetRef", "targetRefs"].map(|field| &policy["spec"][field]);
        let at_a_waypoint = targets.into_iter().any(|target| !target.is_null());
        let namespaces = [&self.world.pod.namespace, &self.world.root_namespace];
        !at_a_waypoint && namespaces.into_iter().any(|own| namespace(policy) == own) && self.fits(policy)
    }

    fn fits(&self, policy: &Value) -> bool {
        let wanted = policy["spec"]["selector"]["matchLabels"].as_object();
        let labels = &self.world.pod.labels;
        wanted.into_iter().flatten().all(|(key, value)| labels.get(key).is_some_and(|own| value == own))
    }

    /// The first rule of policies with an action that matches, as the policy's name and the rule's place.
    fn first_match(&self, wanted: &str, connection: &Connection) -> Option<(String, usize)> {
        let policies = self.authorization.iter().filter(|policy| action(policy) == wanted);
        policies.into_iter().find_map(|policy| {
            let mut rules = list(&policy["spec"]["rules"]).iter();
            let place = rules.position(|rule| Rule { reference: self, policy, rule }.matches(connection))?;
            Some((format!("{}/{}", namespace(policy), name(policy)), place))
        })
    }
}

/// A rule of a policy at the reference's pod.
struct Rule<'a> {
    reference: &'a Reference<'a>,
    policy: &'a Value,
    rule: &'a Value,
}

impl Rule<'_> {
    fn matches(&self, connection: &Connection) -> bool {
        let sources = list(&self.rule["from"]);
        let operations = list(&self.rule["to"]);
        let conditions = list(&self.rule["when"]);
        if action(self.policy) == "ALLOW" && self.asks_for_what_is_unknown() {
            return false;
        }
        (sources.is_empty() || sources.iter().any(|from| self.all_fields(&from["source"], connection)))
            && (operations.is_empty()
                || operations.iter().any(|to| self.all_fields(&to["operation"], connection)))
            && conditions.iter().all(|when| self.condition(when, connection))
    }

    fn asks_for_what_is_unknown(&self) -> bool {
        let fields = |entry: &str, inner: &str| -> Vec<&str> {
            let objects = list(&self.rule[entry]).iter().filter_map(|item| item[inner].as_object());
            let fields = objects.flatten().filter(|(_, values)| !list(values).is_empty());
            fields.map(|(field, _)| attribute(field).0).collect()
        };
        let conditions = list(&self.rule["when"]).iter().map(|when| when["key"].as_str().unwrap());
        let mut all = fields("from", "source").into_iter().chain(fields("to", "operation")).chain(conditions);
        all.any(|attribute| !is_known(attribute))
    }

    /// Every field of a source or an operation has to hold.
    fn all_fields(&self, fields: &Value, connection: &Connection) -> bool {
        fields.as_object().into_iter().flatten().all(|(field, values)| match attribute(field) {
            (attribute, true) => self.holds(attribute, list(values), NOTHING, connection),
            (attribute, false) => self.holds(attribute, NOTHING, list(values), connection),
        })
    }

    fn condition(&self, when: &Value, connection: &Connection) -> bool {
        let key = when["key"].as_str().unwrap();
        self.holds(key, list(&when["values"]), list(&when["notValues"]), connection)
    }

    /// Whether an attribute is one of the values, where there are any, and none of those that it must not be. One that
    /// is not known at layer 4 counts as fitting: only a rule that denies comes so far.
    fn holds(&self, attribute: &str, values: &[Value], not: &[Value], connection: &Connection) -> bool {
        let is = |value: &Value| self.is(attribute, value.as_str().unwrap(), connection);
        !is_known(attribute) || (values.is_empty() || values.iter().any(is)) && !not.iter().any(is)
    }

    fn is(&self, attribute: &str, value: &str, connection: &Connection) -> bool {
        let Connection { source, identity, destination } = connection;
        // Whoever has no identity is like nothing, not even like a star.
        let of_identity = |is: &dyn Fn(&Identity) -> bool| identity.as_ref().is_some_and(is);
        let world = self.reference.world;
        match attribute {
            "source.principal" => of_identity(&|peer| {
                let Identity { trust_domain, namespace, service_account } = peer;
                let principal = format!("{trust_domain}/ns/{namespace}/sa/{service_account}");
                names_of_principal(value, &world.trust_domains).iter().any(|name| is_like(&principal, name))
            }),
            "source.namespace" => of_identity(&|peer| is_like(&peer.namespace, value)),
            "source.serviceAccount" => of_identity(&|peer| {
                let (namespace, name) = value.split_once('/').unwrap_or((namespace(self.policy), value));
                peer.namespace == namespace && peer.service_account == name
            }),
            "source.trustDomain" => of_identity(&|peer| {
                let ours = world.trust_domains.iter().any(|domain| domain == value);
                is_like(&peer.trust_domain, value) || ours && world.trust_domains.contains(&peer.trust_domain)
            }),
            // Nobody at layer 4 says that a client stands behind the one who connects.
            "source.ip" | "remote.ip" => is_in(*source, value),
            "destination.ip" => is_in(destination.ip(), value),
            "destination.port" => destination.port().to_string() == value,
            _ => unreachable!("{attribute} is not known at layer 4"),
        }
    }
}

/// What a field of a source or an operation is about, and whether it lists what is to be or what is not to be.
fn attribute(field: &str) -> (&'static str, bool) {
    match field {
        "principals" => ("source.principal", true),
        "notPrincipals" => ("source.principal", false),
        "namespaces" => ("source.namespace", true),
        "notNamespaces" => ("source.namespace", false),
        "serviceAccounts" => ("source.serviceAccount", true),
        "notServiceAccounts" => ("source.serviceAccount", false),
        "trustDomains" => ("source.trustDomain", true),
        "notTrustDomains" => ("source.trustDomain", false),
        "ipBlocks" => ("source.ip", true),
        "notIpBlocks" => ("source.ip", false),
        "remoteIpBlocks" => ("remote.ip", true),
        "notRemoteIpBlocks" => ("remote.ip", false),
        "ports" => ("destination.port", true),
        "notPorts" => ("destination.port", false),
        "requestPrincipals" => ("request.auth.principal", true),
        "notRequestPrincipals" => ("request.auth.principal", false),
        "hosts" => ("request.host", true),
        "notHosts" => ("request.host", false),
        "methods" => ("request.method", true),
        "notMethods" => ("request.method", false),
        "paths" => ("request.path", true),
        "notPaths" => ("request.path", false),
        _ => panic!("there is no field {field}"),
    }
}

/// Whether an attribute is known at layer 4. Server names of TLS and what filters of a proxy say are not: connections
/// come without either.
fn is_known(attribute: &str) -> bool {
    match attribute.split_once('.') {
        Some(("source" | "destination" | "remote", _)) => true,
        Some(("request" | "connection" | "experimental", _)) => false,
        _ => panic!("there is no attribute {attribute}"),
    }
}

/// The principals that one in a policy stands for: where it names a trust domain of the mesh, or `cluster.local`, it
/// means all of the mesh's. One that does not care about the trust domain stays as it is.
fn names_of_principal(principal: &str, mesh: &[String]) -> Vec<String> {
    let parts: Vec<_> = principal.splitn(2, '/').collect();
    let [domain, rest] = parts[..] else { return vec![principal.to_owned()] };
    let ours = mesh.iter().any(|own| is_like(own, domain)) || domain == "cluster.local";
    if principal.split('/').count() != 5 || domain == "*" || !ours {
        return vec![principal.to_owned()];
    }
    let names = mesh.iter().map(|own| match domain.strip_prefix('*') {
        Some(end) if own.ends_with(end) => principal.to_owned(),
        _ => format!("{own}/{rest}"),
    });
    names.collect()
}

/// Exact, `begins*`, `*ends`, or `*` for anything but nothing.
fn is_like(text: &str, pattern: &str) -> bool {
    if pattern == "*" {
        !text.is_empty()
    } else if let Some(end) = pattern.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(start) = pattern.strip_suffix('*') {
        text.starts_with(start)
    } else {
        text == pattern
    }
}

/// Whether an address is another, or in a network.
fn is_in(address: IpAddr, block: &str) -> bool {
    match block.parse::<IpAddr>() {
        Ok(other) => address == other,
        Err(_) => block.parse::<IpNet>().unwrap().contains(&address),
    }
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn action(policy: &Value) -> &str {
    policy["spec"]["action"].as_str().unwrap_or("ALLOW")
}

fn is_dry_run(policy: &Value) -> bool {
    policy["metadata"]["annotations"]["istio.io/dry-run"] == "true"
}

fn has_selector(policy: &Value) -> bool {
    policy["spec"]["selector"]["matchLabels"].as_object().is_some_and(|labels| !labels.is_empty())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(NOTHING, Vec::as_slice)
}
