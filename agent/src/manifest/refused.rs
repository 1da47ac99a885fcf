//! Policies that cannot be read: each is refused alone, by name, and the rest of the mesh goes on.

use super::ManifestError;
use super::authorization::{DRY_RUN, is_dry_run};
use super::selector::WorkloadSelector;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kinds of policies that a worker or the kernel puts into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum PolicyKind {
    PeerAuthentication,
    AuthorizationPolicy,
}

/// A policy that has a name and is wrong in some field.
#[derive(Debug, PartialEq)]
pub struct RefusedPolicy {
    pub kind: PolicyKind,
    pub namespace: String,
    pub name: String,
    /// Whom the API server made it as: a policy that is made anew under the same name is another one.
    pub uid: Option<String>,
    /// `metadata.generation`: which form of its spec this is.
    pub generation: Option<i64>,
    /// Which pods it selects; `None` where the selector cannot be read.
    pub selector: Option<WorkloadSelector>,
    /// It is for gateways (`targetRef`, `targetRefs`) and has no selector.
    pub has_target: bool,
    /// Its annotation says that it is a dry run: in its right form it would not decide.
    pub dry_run: bool,
    /// Its action is AUDIT: in its right form it would not decide.
    pub audits: bool,
    /// The path of the field, and what is wrong with it.
    pub field: String,
    pub message: String,
}

/// A refusal, as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Refusal {
    pub kind: PolicyKind,
    pub namespace: String,
    pub name: String,
    #[serde(flatten)]
    pub error: ManifestError,
    pub in_force: InForce,
}

/// What is in force of a policy that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InForce {
    /// Its last form that could be read.
    LastGood,
    /// There is none: a stand-in denies all connections to the pods that it may select, or takes no plaintext there.
    StandIn,
}

impl PolicyKind {
    /// The kind that objects of this kind are of; `None` for what is no policy.
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "PeerAuthentication" => Some(Self::PeerAuthentication),
            "AuthorizationPolicy" => Some(Self::AuthorizationPolicy),
            _ => None,
        }
    }
}

impl RefusedPolicy {
    /// `None` for a policy without a usable name: nobody could say which one it is.
    pub fn new(kind: PolicyKind, value: &Value, (wrong_field, message): &(String, String)) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let namespace = match metadata.get("namespace") {
            None | Some(Value::Null) => "default".to_owned(),
            Some(_) => text("namespace")?,
        };
        let spec = value.get("spec").filter(|spec| !spec.is_null());
        let field = |name: &str| spec.and_then(|spec| spec.get(name)).filter(|value| !value.is_null());
        let selector = match (spec, field("selector")) {
            (Some(spec), _) if !spec.is_object() => None,
            (_, None) => Some(WorkloadSelector::default()),
            (_, Some(selector)) => WorkloadSelector::deserialize(selector).ok(),
        };
        // Whoever writes a selector means pods, whatever else stands beside it.
        let selects = selector.as_ref().is_none_or(|selector| !selector.match_labels.is_empty());
        let targets = field("targetRefs").and_then(Value::as_array);
        let targets_something = field("targetRef").is_some() || targets.is_some_and(|list| !list.is_empty());
        let annotation = metadata.get("annotations").and_then(|all| all.get(DRY_RUN)).and_then(Value::as_str);
        Some(Self {
            kind,
            namespace,
            name: text("name")?,
            uid: text("uid"),
            generation: metadata.get("generation").and_then(Value::as_i64),
            selector,
            has_target: targets_something && !selects,
            dry_run: annotation.is_some_and(is_dry_run),
            audits: field("action").and_then(Value::as_str) == Some("AUDIT"),
            field: wrong_field.clone(),
            message: message.clone(),
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name, error, in_force } = self;
        let in_force = match in_force {
            InForce::LastGood => "its last form that could be read stays in force",
            InForce::StandIn => {
                "this node knows no form of it that could be read, so all that it may be for is closed until it is mended"
            }
        };
        write!(f, "{kind:?} {namespace}/{name} is refused: {error}; {in_force}")
    }
}

#[cfg(test)]
#[path = "refused_tests.rs"]
mod tests;
