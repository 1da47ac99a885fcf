//! An AuthorizationPolicy that has been read, and makes sense as a whole.

use super::compile::compile;
use super::written::{Written, WrittenAction};
use crate::manifest::metadata::Metadata;
use crate::manifest::selector::WorkloadSelector;
use crate::mesh::Policy;
use serde::Deserialize;
use std::sync::Arc;

/// Istio's `security.istio.io` AuthorizationPolicy.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct AuthorizationPolicy {
    pub metadata: Metadata,
    /// Pods of the policy's namespace; in the root namespace, of all.
    pub selector: WorkloadSelector,
    /// It is for gateways or waypoints (`targetRefs`), and no pod's business.
    pub has_target: bool,
    pub policy: Arc<Policy>,
    /// The policy as it is written, as far as it means anything here.
    pub text: Box<str>,
}

impl TryFrom<Written> for AuthorizationPolicy {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let spec = &written.spec;
        let has_target = spec.has_target();
        let labels = &spec.selector.match_labels;
        if has_target && !labels.is_empty() {
            return Err(
                "has a selector and targetRefs; it can be for pods or for gateways, not for both".into()
            );
        }
        match (spec.action, &spec.provider) {
            (WrittenAction::Custom, None) => return Err("is CUSTOM and names no provider.name to ask".into()),
            (WrittenAction::Custom, Some(_)) | (_, None) => {}
            (_, Some(_)) => return Err("names a provider, which only action CUSTOM asks".into()),
        }
        let policy = Arc::new(compile(&written));
        let (metadata, selector) = (written.metadata, written.spec.selector);
        Ok(Self { metadata, selector, has_target, policy, text: Box::default() })
    }
}
