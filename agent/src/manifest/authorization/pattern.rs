//! Whether a text of a policy, with a star or without, can match any identity, namespace or trust domain that there can be.

use crate::manifest::names::{is_label, is_subdomain};
use crate::mesh::TrustDomain;

/// A text as policies compare it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern<'a> {
    Any,
    Exact(&'a str),
    /// `abc*`
    Begins(&'a str),
    /// `*abc`
    Ends(&'a str),
}

/// Why a text matches nothing.
#[derive(Debug, PartialEq)]
pub struct Never {
    pub why: String,
    /// It does match where this is a trust domain of the mesh.
    pub unless: Option<String>,
}

const FORM: &str = "a principal is <trust domain>/ns/<namespace>/sa/<service account>";

/// What policies write for the mesh's own trust domain.
const POINTER: &str = "cluster.local";

impl<'a> Pattern<'a> {
    pub fn new(text: &'a str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(end), _) => Self::Ends(end),
            (None, Some(begin)) => Self::Begins(begin),
            (None, None) => Self::Exact(text),
        }
    }

    /// Whether it matches everything that the other one matches.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Begins(a), Self::Exact(b) | Self::Begins(b)) => b.starts_with(a),
            (Self::Ends(a), Self::Exact(b) | Self::Ends(b)) => b.ends_with(a),
            (Self::Exact(_) | Self::Begins(_) | Self::Ends(_), _) => false,
        }
    }

    /// Whether some text may match both.
    pub fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Begins(a), Self::Begins(b)) => a.starts_with(b) || b.starts_with(a),
            (Self::Ends(a), Self::Ends(b)) => a.ends_with(b) || b.ends_with(a),
            (Self::Begins(_), Self::Ends(_)) | (Self::Ends(_), Self::Begins(_)) => true,
            _ => self.covers(other) || other.covers(self),
        }
    }
}

/// The namespace that a principal's identities have, where it can only be one.
pub fn namespace_of(principal: &str) -> Option<&str> {
    let segments: Vec<&str> = principal.split('/').collect();
    match segments[..] {
        [_, "ns", namespace, "sa", ..] => Some(namespace),
        _ => None,
    }
}

pub fn principal(text: &str) -> Result<(), Never> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme {
            "spiffe" => never(format!("principals are written without spiffe://: write {rest:?}")),
            _ => never(format!("{FORM}, without a scheme")),
        };
    }
    let (stem, is_fitting) = match Pattern::new(text) {
        Pattern::Any => return Ok(()),
        Pattern::Exact(stem) => (stem, stem.split('/').count() == 5 && begins(stem) && ends(stem)),
        Pattern::Begins(stem) => (stem, begins(stem)),
        Pattern::Ends(stem) => return if ends(stem) { Ok(()) } else { never(FORM.to_owned()) },
    };
    if !is_fitting {
        return never(FORM.to_owned());
    }
    match stem.split_once('/') {
        // Of five segments the first may stand for the mesh, whatever its name is.
        Some((POINTER, _)) if text.split('/').count() == 5 => Ok(()),
        Some((domain, _)) => foreign(domain),
        None => Ok(()),
    }
}

pub fn namespace(text: &str) -> Result<(), Never> {
    let is_fitting = match Pattern::new(text) {
        Pattern::Any => true,
        Pattern::Exact(name) => is_label(name),
        Pattern::Begins(stem) => begins_label(stem),
        Pattern::Ends(stem) => ends_label(stem),
    };
    let why = "a namespace's name has lower-case letters, digits and dashes, 63 at the most";
    if is_fitting { Ok(()) } else { never(why.to_owned()) }
}

pub fn service_account(namespace: Option<&str>, name: &str) -> Result<(), Never> {
    if is_subdomain(name) && namespace.is_none_or(is_label) {
        return Ok(());
    }
    never(
        "the names of namespaces and service accounts have lower-case letters, digits and dashes".to_owned(),
    )
}

pub fn trust_domain(text: &str) -> Result<(), Never> {
    let (stem, is_exact) = match Pattern::new(text) {
        Pattern::Any => return Ok(()),
        Pattern::Exact(name) => (name, true),
        Pattern::Begins(stem) | Pattern::Ends(stem) => (stem, false),
    };
    match stem.parse::<TrustDomain>() {
        Ok(_) if is_exact => foreign(stem),
        Ok(_) => Ok(()),
        Err(error) => never(error.to_string()),
    }
}

/// A label of a pod, by Kubernetes' rules.
pub fn label(key: &str, value: &str) -> Result<(), Never> {
    let is_name = |name: &str| {
        let at_ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        bytes.len() <= 63
            && at_ends(bytes.first())
            && at_ends(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    let is_key = match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(key),
    };
    match is_key && (value.is_empty() || is_name(value)) {
        true => Ok(()),
        false => never(format!("Kubernetes lets no pod have a label {key:?} with the value {value:?}")),
    }
}

/// Certificates of another trust domain are not accepted at all.
fn foreign(domain: &str) -> Result<(), Never> {
    let why = format!(
        "{domain} is neither the mesh's trust domain nor an alias of it (--trust-domain, --trust-domain-aliases)"
    );
    Err(Never { why, unless: Some(domain.to_owned()) })
}

fn never(why: String) -> Result<(), Never> {
    Err(Never { why, unless: None })
}

/// Whether some principal begins so.
fn begins(stem: &str) -> bool {
    let segments: Vec<&str> = stem.split('/').collect();
    let last = segments.len() - 1;
    last < 5
        && segments.iter().enumerate().all(|(i, segment)| match (i, i == last) {
            (0, true) => segment.is_empty() || segment.parse::<TrustDomain>().is_ok(),
            (0, false) => segment.parse::<TrustDomain>().is_ok(),
            (1, true) => "ns".starts_with(segment),
            (1, false) => *segment == "ns",
            (2, true) => begins_label(segment),
            (2, false) => is_label(segment),
            (3, true) => "sa".starts_with(segment),
            (3, false) => *segment == "sa",
            _ => segment.split('.').all(|part| begins_label(part) || part.is_empty()),
        })
}

/// Whether some principal ends so.
fn ends(stem: &str) -> bool {
    let segments: Vec<&str> = stem.split('/').rev().collect();
    let last = segments.len() - 1;
    last < 5
        && segments.iter().enumerate().all(|(i, segment)| match (i, i == last) {
            (0, true) => segment.split('.').all(|part| ends_label(part) || part.is_empty()),
            (0, false) => is_subdomain(segment),
            (1, true) => "sa".ends_with(segment),
            (1, false) => *segment == "sa",
            (2, true) => ends_label(segment),
            (2, false) => is_label(segment),
            (3, true) => "ns".ends_with(segment),
            (3, false) => *segment == "ns",
            (_, true) => segment.is_empty() || segment.parse::<TrustDomain>().is_ok(),
            (_, false) => false,
        })
}

/// Whether some name begins so.
fn begins_label(stem: &str) -> bool {
    stem.is_empty() || is_label(&format!("{stem}0")) || stem.len() == 63 && is_label(stem)
}

/// Whether some name ends so.
fn ends_label(stem: &str) -> bool {
    stem.is_empty() || is_label(&format!("0{stem}")) || stem.len() == 63 && is_label(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: OPS-4
    #[test]
    fn a_principal_that_no_identity_has_is_told_from_one_that_some_may_have() {
        for good in [
            "cluster.local/ns/shop/sa/web",
            "cluster.local/ns/shop/sa/*",
            "cluster.local/ns/shop/s*",
            "*",
            "*/ns/shop/sa/web",
            "*/sa/web",
            "*web",
            "*s/shop/sa/w.e-b",
            "cluster.l*",
            "*a/web",
        ] {
            assert_eq!(principal(good).err().filter(|never| never.unless.is_none()), None, "{good}");
        }
        for bad in [
            "spiffe://cluster.local/ns/shop/sa/web",
            "spiffe://*",
            "https://a",
            "web",
            "shop/web",
            "cluster.local/ns/shop/sa/web/",
            "cluster.local/ns/shop/web",
            "cluster.local/namespace/shop/sa/web",
            "cluster.local/ns/Shop/sa/web",
            "cluster.local/ns/shop/sa/Web",
            "Cluster.local/ns/shop/sa/web",
            "/ns/shop/sa/web",
            "cluster.local/ns//sa/web",
            "*/ns/shop/serviceaccount/web",
            "*/Web",
            "*web/",
            "cluster.local/sa/*",
            "cluster.local/ns/shop/sa/web/*",
        ] {
            assert_eq!(principal(bad).unwrap_err().unless, None, "{bad}");
        }
        let never = principal("spiffe://cluster.local/ns/shop/sa/web").unwrap_err();
        assert_eq!(
            never.why,
            "principals are written without spiffe://: write \"cluster.local/ns/shop/sa/web\""
        );
    }

    #[test]
    fn another_trust_domain_matches_where_it_is_one_of_the_meshs() {
        for (text, unless) in [
            ("example.org/ns/shop/sa/web", Some("example.org")),
            ("example.org/*", Some("example.org")),
            // Only a whole principal has the mesh's pointer.
            ("cluster.local/*", Some("cluster.local")),
            ("cluster.local/ns/shop/sa/*", None),
            ("example.*", None),
            ("*/ns/shop/sa/web", None),
        ] {
            let found = principal(text).err().and_then(|never| never.unless);
            assert_eq!(found.as_deref(), unless, "{text}");
        }
        assert_eq!(trust_domain("example.org").unwrap_err().unless.as_deref(), Some("example.org"));
        assert!(trust_domain("example.*").is_ok() && trust_domain("*").is_ok());
        assert_eq!(trust_domain("Example").unwrap_err().unless, None);
    }

    #[test]
    fn names_that_kubernetes_does_not_accept_are_nobodys() {
        for good in ["shop", "shop-*", "*-1", "*", "-1*"] {
            assert_eq!(namespace(good).is_ok(), good != "-1*", "{good}");
        }
        for bad in ["Shop", "shop/web", "shop.web", "shop_*", "*Shop", "*-", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
        assert!(service_account(Some("shop"), "web.v1").is_ok() && service_account(None, "web").is_ok());
        for (namespace, name) in
            [(Some("shop"), "Web"), (Some("Shop"), "web"), (None, "we_b"), (Some("a.b"), "c")]
        {
            assert!(service_account(namespace, name).is_err(), "{namespace:?} {name}");
        }
        for (key, value, is_good) in [
            ("app", "cart", true),
            ("app.kubernetes.io/name", "Cart_1.2", true),
            ("app", "", true),
            ("app", "cart db", false),
            ("app", "-cart", false),
            ("App/x/y", "cart", false),
            ("", "cart", false),
            ("app", &"a".repeat(64), false),
        ] {
            assert_eq!(label(key, value).is_ok(), is_good, "{key}={value}");
        }
    }

    #[test]
    fn patterns_cover_and_meet() {
        for (a, b, covers, meets) in [
            ("*", "abc", true, true),
            ("ab*", "abc", true, true),
            ("ab*", "abc*", true, true),
            ("abc*", "ab*", false, true),
            ("*bc", "abc", true, true),
            ("ab*", "*bc", false, true),
            ("abc", "ab*", false, true),
            ("abc", "abd", false, false),
            ("ab*", "b*", false, false),
            ("*a", "*b", false, false),
        ] {
            let (a, b) = (Pattern::new(a), Pattern::new(b));
            assert_eq!((a.covers(b), a.meets(b), b.meets(a)), (covers, meets, meets), "{a:?} {b:?}");
        }
    }
}
