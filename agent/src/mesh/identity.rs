//! SPIFFE identities, as Istio forms them: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of the authority that identities belong to, e.g. `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain(Arc<str>);

/// The trust domain of this mesh, and the names that it had or will have: an identity of any of them is an identity of
/// this mesh (Istio's `trustDomain` and `trustDomainAliases`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    own: TrustDomain,
    aliases: Arc<[TrustDomain]>,
}

/// A workload's identity. Two pods with the same service account have the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a string is no SPIFFE identity of this mesh's form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpiffeIdError {
    /// Not of the form that Istio and Pillion give to workloads.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// A trust domain holds lower-case letters, digits, dots, dashes and underscores (SPIFFE-ID §2.1).
    #[error(
        "{0:?} is not a trust domain: use 1 to 255 lower-case letters, digits, dots, dashes or underscores, \
         for example cluster.local"
    )]
    TrustDomain(String),
}

impl TrustDomains {
    /// An alias that is the own domain, or given twice, says nothing new.
    pub fn new(own: TrustDomain, aliases: impl IntoIterator<Item = TrustDomain>) -> Self {
        let mut distinct: Vec<TrustDomain> = Vec::new();
        for alias in aliases {
            if alias != own && !distinct.contains(&alias) {
                distinct.push(alias);
            }
        }
        Self { own, aliases: distinct.into() }
    }

    /// The one that this mesh's certificates are for.
    pub fn own(&self) -> &TrustDomain {
        &self.own
    }

    /// All of them, the own one first.
    pub fn iter(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.own).chain(self.aliases.iter())
    }

    pub fn contains(&self, domain: &TrustDomain) -> bool {
        self.iter().any(|own| own == domain)
    }

    /// Whether both name the same workload of this mesh, each under any of its names.
    pub fn same_workload(&self, one: &SpiffeId, other: &SpiffeId) -> bool {
        let same_domain = one.trust_domain == other.trust_domain
            || self.contains(&one.trust_domain) && self.contains(&other.trust_domain);
        same_domain && one.namespace == other.namespace && one.service_account == other.service_account
    }
}

impl SpiffeId {
    /// Joins parts that are already valid: Kubernetes names need no escaping in a SPIFFE path.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The identity without its scheme, as Istio's policies write principals (its metrics keep the scheme).
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let form = || SpiffeIdError::Form(s.to_owned());
        let rest = s.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(form());
        };
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(form());
        }
        Ok(Self::new(&trust_domain.parse()?, namespace, service_account))
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `cluster.local`, Istio's default.
impl Default for TrustDomains {
    fn default() -> Self {
        Self::new(TrustDomain("cluster.local".into()), [])
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if s.is_empty() || s.len() > 255 || !s.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomain(s.to_owned()));
        }
        Ok(Self(s.into()))
    }
}

/// A path segment as SPIFFE-ID §2.2 allows it.
fn is_segment(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !s.is_empty() && s != "." && s != ".." && s.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_reads_back_as_written() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), ("shop", "cart"));
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
    }

    #[test]
    fn an_alias_names_the_same_workloads() {
        let domain = |name: &str| name.parse::<TrustDomain>().unwrap();
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let mesh = TrustDomains::new(domain("new"), ["old", "new", "old"].map(domain));
        assert_eq!(mesh.iter().map(ToString::to_string).collect::<Vec<_>>(), ["new", "old"]);
        for (one, other, expected) in [
            ("spiffe://new/ns/a/sa/b", "spiffe://old/ns/a/sa/b", true),
            ("spiffe://old/ns/a/sa/b", "spiffe://old/ns/a/sa/c", false),
            ("spiffe://old/ns/a/sa/b", "spiffe://old/ns/c/sa/b", false),
            ("spiffe://new/ns/a/sa/b", "spiffe://other/ns/a/sa/b", false),
            ("spiffe://other/ns/a/sa/b", "spiffe://other/ns/a/sa/b", true),
        ] {
            assert_eq!(mesh.same_workload(&id(one), &id(other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn what_is_not_of_istios_form_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://Cluster.Local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
