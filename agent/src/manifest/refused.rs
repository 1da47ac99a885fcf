//! Policies that cannot be read: each is refused alone, by name, and the rest of the mesh goes on.

use super::ManifestError;
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
    /// Whom it selects: all, where that cannot be read either.
    pub selector: WorkloadSelector,
    /// It is for gateways, whatever it says.
    pub has_target: bool,
    /// The path of the field, and what is wrong with it.
    pub field: String,
    pub message: String,
}

/// A refusal, as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub kind: PolicyKind,
    pub namespace: String,
    pub name: String,
    #[serde(flatten)]
    pub error: ManifestError,
    pub in_force: InForce,
}

/// What is in force of a policy that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InForce {
    /// Its last form that could be read.
    LastGood,
    /// There is none: it denies all that it may select, or takes no plaintext there.
    StandIn,
    /// It never was in force, and is not now.
    Nothing,
}

impl RefusedPolicy {
    /// `None` for a policy without a usable name: nobody could say which one it is.
    pub fn new(kind: PolicyKind, value: &Value, (field, message): &(String, String)) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let namespace = match metadata.get("namespace") {
            None | Some(Value::Null) => "default".to_owned(),
            Some(_) => text("namespace")?,
        };
        let field_of_spec = |name: &str| value.get("spec").and_then(|spec| spec.get(name));
        let is_given = |name: &str| field_of_spec(name).is_some_and(|value| !value.is_null());
        let selector = field_of_spec("selector").and_then(|value| WorkloadSelector::deserialize(value).ok());
        Some(Self {
            kind,
            namespace,
            name: text("name")?,
            selector: selector.unwrap_or_default(),
            has_target: is_given("targetRef") || is_given("targetRefs"),
            field: field.clone(),
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
                "until it is mended, all that it may be for is closed (nobody knows what was in force before)"
            }
            InForce::Nothing => "it is not in force and never was",
        };
        write!(f, "{kind:?} {namespace}/{name} is refused: {error}; {in_force}")
    }
}
