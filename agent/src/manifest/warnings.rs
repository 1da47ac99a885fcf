//! What of a policy can never match, as people are told of it: on the policy itself, in `/config_dump`, in the log.

use super::authorization::possible_label;
use super::peer_authentication::PeerAuthentication;
use super::refused::PolicyKind;
use super::{Complaint, Object, Origin, Settings, Sourced};
use serde::Serialize;
use std::fmt;

/// As many are told; more of one policy say nothing new.
const MOST: usize = 20;

/// A policy that is in force, and means less than it seems to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PolicyWarnings {
    pub kind: PolicyKind,
    pub namespace: String,
    pub name: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// Each is a sentence that begins with the field.
    pub warnings: Vec<String>,
}

impl PolicyWarnings {
    /// `None` for what is no policy, and for a policy of which nothing is to be said.
    pub fn of(sourced: &Sourced, settings: &Settings) -> Option<Self> {
        let (kind, metadata) = match &sourced.object {
            Object::PeerAuthentication(policy) => (PolicyKind::PeerAuthentication, &policy.metadata),
            Object::AuthorizationPolicy(policy) => (PolicyKind::AuthorizationPolicy, &policy.metadata),
            _ => return None,
        };
        let warnings = sourced.object.warnings(settings);
        (!warnings.is_empty()).then(|| Self {
            kind,
            namespace: metadata.namespace().to_owned(),
            name: metadata.name.clone(),
            origin: sourced.place.origin.clone(),
            warnings,
        })
    }
}

impl Object {
    /// What of the policy can never match in this mesh, each in a sentence that begins with the field.
    fn warnings(&self, settings: &Settings) -> Vec<String> {
        let mut warnings: Vec<String> = match self {
            Self::AuthorizationPolicy(policy) => {
                let warnings = policy.policy.warnings(&settings.trust_domains);
                warnings.map(ToString::to_string).collect()
            }
            Self::PeerAuthentication(policy) => peer_authentication(policy, &settings.root_namespace),
            _ => Vec::new(),
        };
        if let Some(rest) = warnings.len().checked_sub(MOST).filter(|rest| *rest > 0) {
            warnings.truncate(MOST);
            warnings.push(format!("and {rest} more"));
        }
        warnings
    }

    /// The same as one text, for the policy's own status.
    pub fn never_matches(&self, settings: &Settings) -> Option<Complaint> {
        let warnings = self.warnings(settings);
        (!warnings.is_empty()).then(|| Complaint { reason: "NeverMatches", message: warnings.join("; ") })
    }
}

fn peer_authentication(policy: &PeerAuthentication, root_namespace: &str) -> Vec<String> {
    let labels = policy.spec.selector.match_labels.iter();
    let impossible = labels.filter_map(|(key, value)| Some((key, possible_label(key, value).err()?)));
    let mut warnings: Vec<_> = impossible
        .map(|(key, never)| format!("spec.selector.matchLabels.{key}: selects no pod: {}", never.why))
        .collect();
    if policy.metadata.namespace() == root_namespace && policy.spec.has_selector() {
        warnings.push(format!(
            "spec.selector: a PeerAuthentication of the root namespace {root_namespace} with a selector is for no pod: leave \
             the selector out to mean the whole mesh, or move the policy into the pods' namespace"
        ));
    }
    warnings
}

impl fmt::Display for PolicyWarnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, origin, warnings } = self;
        write!(
            f,
            "{kind:?} {namespace}/{name} ({origin}) means less than it seems to: {}",
            warnings.join("; ")
        )
    }
}
