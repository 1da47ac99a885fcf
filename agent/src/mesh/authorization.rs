//! Who may connect to a pod: Istio's AuthorizationPolicy, resolved for the pod and compiled for layer 4.

use super::{Networks, PortSet, SpiffeId, Strings, TrustDomain, TrustDomains};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The policies that concern a pod. Pods that the same policies concern share one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    trust_domains: TrustDomains,
    /// In the order in which they are asked: by action, then by name.
    policies: Vec<Arc<Policy>>,
}

/// A policy's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    pub namespace: String,
    pub name: String,
}

/// One AuthorizationPolicy, as far as layer 4 knows what it speaks of.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub action: Action,
    /// Annotation `istio.io/dry-run`: what it would do is told, and not done.
    pub dry_run: bool,
    pub rules: Vec<Rule>,
    /// The fields that only HTTP has, by their paths. A rule of an ALLOW policy that has one is not among `rules`; those
    /// of others go without.
    pub http_fields: Vec<String>,
    /// What of the policy can never match: it means less than it seems to.
    pub warnings: Vec<Warning>,
    /// Whom a CUSTOM policy wants to be asked.
    pub provider: Option<String>,
    /// Why this is not the policy that was written: that one could not be read, and this one keeps closed what it may
    /// have meant.
    pub stands_in: Option<String>,
}

/// A part of a policy that can never match. Its `Display` is a sentence that begins with the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The path of the field, e.g. `spec.rules[0].from[0].source.principals[0]`.
    pub field: String,
    pub message: String,
    /// The warning holds unless one of these is a trust domain of the mesh.
    pub unless: Vec<String>,
}

/// What a policy says of the connections that it matches, in the order in which Istio asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// An external authorizer is to be asked. There is none here: they are denied, as Istio denies them where the
    /// provider is not known.
    Custom,
    Deny,
    #[default]
    Allow,
    /// They are marked in the access log.
    Audit,
}

/// Matches a connection of any source, to any destination, under all conditions; no source or destination is any.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the policy as it is written, from 0 (as Istio's logs count).
    pub index: usize,
    pub from: Vec<Vec<Condition>>,
    pub to: Vec<Vec<Condition>>,
    pub when: Vec<Condition>,
}

/// What something known of a connection has to be. An identity that nobody has proven is none of any list.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition {
    SourceAddress(Test<Networks>),
    /// `trust domain/ns/namespace/sa/service account`.
    SourcePrincipal(Box<Test<Principals>>),
    SourceNamespace(Test<Strings>),
    /// `namespace/service account`.
    SourceServiceAccount(Test<Strings>),
    SourceTrustDomain(Test<Strings>),
    DestinationAddress(Test<Networks>),
    DestinationPort(Test<PortSet>),
}

/// In one list, if there is one, and not in the other, if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Test<T> {
    pub values: Option<T>,
    pub not_values: Option<T>,
}

/// Principals, of which those with one of the mesh's trust domains mean it under all of its names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Principals {
    /// With five segments: a trust domain, a namespace and a service account.
    whole: Strings,
    /// Those of them whose trust domain is [`POINTER`], without it.
    of_mesh: Strings,
    others: Strings,
}

/// An identity as policies may name it.
pub struct Subject {
    namespace: Arc<str>,
    service_account: String,
    /// The principal without its trust domain.
    path: String,
    is_of_mesh: bool,
    /// Its own principal first, then the same under the mesh's other names, where it is one of the mesh's.
    principals: Vec<String>,
    trust_domains: Vec<TrustDomain>,
}

/// What policies write for the mesh's own trust domain, whatever its name is (Istio's rule).
const POINTER: &str = "cluster.local/";

impl Authorization {
    pub fn new(trust_domains: TrustDomains, policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by(|a, b| (a.action, &a.name).cmp(&(b.action, &b.name)));
        Self { trust_domains, policies }
    }

    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// The names of the mesh that these policies are asked in.
    pub fn trust_domains(&self) -> &TrustDomains {
        &self.trust_domains
    }

    pub fn subject(&self, identity: &SpiffeId) -> Subject {
        let (namespace, service_account) = (identity.namespace(), identity.service_account());
        let path = format!("ns/{namespace}/sa/{service_account}");
        let is_of_mesh = self.trust_domains.contains(identity.trust_domain());
        let mut trust_domains = vec![identity.trust_domain().clone()];
        if is_of_mesh {
            let others = self.trust_domains.iter().filter(|domain| *domain != identity.trust_domain());
            trust_domains.extend(others.cloned());
        }
        Subject {
            namespace: namespace.into(),
            service_account: format!("{namespace}/{service_account}"),
            is_of_mesh,
            principals: trust_domains.iter().map(|domain| format!("{domain}/{path}")).collect(),
            path,
            trust_domains,
        }
    }
}

impl Policy {
    /// Whether it decides: an AUDIT policy and a dry run do not.
    pub fn is_enforced(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }
}

impl Policy {
    /// What of it can never match in a mesh with these trust domains.
    pub fn warnings<'a>(&'a self, trust_domains: &'a TrustDomains) -> impl Iterator<Item = &'a Warning> {
        let is_of_mesh = |name: &String| trust_domains.iter().any(|domain| domain.as_ref() == name);
        self.warnings.iter().filter(move |warning| !warning.unless.iter().any(is_of_mesh))
    }
}

impl<T> Test<T> {
    /// `is_in` says whether the value in question is in a list.
    pub fn holds(&self, is_in: impl Fn(&T) -> bool) -> bool {
        self.values.as_ref().is_none_or(&is_in) && !self.not_values.as_ref().is_some_and(is_in)
    }

    pub fn lists(&self) -> impl Iterator<Item = &T> {
        self.values.iter().chain(&self.not_values)
    }
}

impl Subject {
    pub fn is_principal(&self, listed: &Principals) -> bool {
        listed.others.contains(&self.principals[0])
            || self.is_of_mesh && listed.of_mesh.contains(&self.path)
            || self.principals.iter().any(|principal| listed.whole.contains(principal))
    }

    pub fn is_in_namespace(&self, listed: &Strings) -> bool {
        listed.contains(&self.namespace)
    }

    pub fn is_service_account(&self, listed: &Strings) -> bool {
        listed.contains(&self.service_account)
    }

    /// One of the mesh's trust domains that is listed by its name means all of them.
    pub fn is_of_trust_domain(&self, listed: &Strings) -> bool {
        let [own, others @ ..] = &self.trust_domains[..] else { return false };
        listed.contains(own.as_ref()) || others.iter().any(|other| listed.names(other.as_ref()))
    }
}

impl<'a> FromIterator<&'a str> for Principals {
    fn from_iter<I: IntoIterator<Item = &'a str>>(patterns: I) -> Self {
        let (mut whole, mut of_mesh, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern.strip_prefix(POINTER) {
                _ if pattern.split('/').count() != 5 || pattern.starts_with("*/") => others.push(pattern),
                Some(path) => of_mesh.push(path),
                None => whole.push(pattern),
            }
        }
        let strings = |patterns: Vec<&str>| patterns.into_iter().collect();
        Self { whole: strings(whole), of_mesh: strings(of_mesh), others: strings(others) }
    }
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The names alone: `/config_dump` has the policies in a place of their own.
impl Serialize for Authorization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.policies.iter().map(|policy| &policy.name))
    }
}
