//! Istio's PeerAuthentication: what a pod accepts of connections that do not come through the mesh.

use super::metadata::Metadata;
use super::null::null_as_default;
use super::selector::WorkloadSelector;
use crate::mesh::MtlsMode;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// Istio's `security.istio.io` PeerAuthentication.
#[derive(Debug, PartialEq, Deserialize)]
pub struct PeerAuthentication {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PeerAuthenticationSpec,
    /// It stands in for a policy whose selector cannot be read: it comes before every other policy of its namespace,
    /// also before those that select a pod.
    #[serde(skip)]
    pub comes_first: bool,
    /// The policy as it is written, as far as it means anything here.
    #[serde(skip)]
    pub text: Box<str>,
}

/// A field that is not known may be a mistyped one that was to keep plaintext out: it is an error.
#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    #[serde(default, deserialize_with = "null_as_default")]
    pub selector: WorkloadSelector,
    #[serde(default, deserialize_with = "null_as_default")]
    pub mtls: MutualTls,
    /// Ports of the pod, not of its Services.
    #[serde(default, deserialize_with = "by_port")]
    pub port_level_mtls: BTreeMap<NonZeroU16, MutualTls>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTls {
    #[serde(default, deserialize_with = "null_as_default")]
    pub mode: Mode,
}

/// A mode as a policy writes it.
#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// As the next wider scope says.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl PeerAuthentication {
    /// What Istio's own API refuses of a policy, because it would not do what it seems to: the field, and why.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.spec.port_level_mtls.is_empty() || self.spec.has_selector() {
            return Ok(());
        }
        Err((
            "spec.portLevelMtls".into(),
            "has ports, but no selector.matchLabels to say of which pods".into(),
        ))
    }
}

impl PeerAuthenticationSpec {
    pub fn has_selector(&self) -> bool {
        !self.selector.match_labels.is_empty()
    }
}

impl Mode {
    pub fn set(self) -> Option<MtlsMode> {
        match self {
            Self::Unset => None,
            Self::Disable => Some(MtlsMode::Disable),
            Self::Permissive => Some(MtlsMode::Permissive),
            Self::Strict => Some(MtlsMode::Strict),
        }
    }
}

/// JSON's keys are texts.
fn by_port<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<NonZeroU16, MutualTls>, D::Error> {
    let written: BTreeMap<String, MutualTls> = null_as_default(d)?;
    let port = |text: &str| text.parse::<NonZeroU16>().ok().filter(|port| port.to_string() == text);
    let entries = written.into_iter().map(|(text, mtls)| match port(&text) {
        Some(port) => Ok((port, mtls)),
        None => Err(D::Error::custom(format!("{text:?} is no port: use a number from 1 to 65535"))),
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_would_not_do_what_it_seems_to_is_refused() {
        let policy = |selector| -> PeerAuthentication {
            let spec = json!({"selector": selector, "portLevelMtls": {"80": {}}});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
        };
        assert_eq!(policy(json!({"matchLabels": {"app": "cart"}})).check(), Ok(()));
        for none in [json!(null), json!({}), json!({"matchLabels": {}})] {
            let (field, message) = policy(none).check().unwrap_err();
            assert_eq!(field, "spec.portLevelMtls");
            assert_eq!(message, "has ports, but no selector.matchLabels to say of which pods");
        }
    }
}
