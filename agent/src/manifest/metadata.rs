//! What every Kubernetes object says of itself.

use super::null::null_as_default;
use super::selector::Labels;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use time::OffsetDateTime;

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespace: Option<String>,
    pub uid: Option<String>,
    /// Counts the forms that the object's spec has had, from 1; no manifest has it.
    pub generation: Option<i64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: Labels,
    /// Those that may mean anything here: others are many, and can be as large as the object.
    #[serde(default, deserialize_with = "known_annotations")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub creation_timestamp: Option<OffsetDateTime>,
    /// Only whether it is there matters.
    pub deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub owner_references: Vec<OwnerReference>,
}

/// Whose annotations are read.
const PREFIXES: [&str; 4] =
    ["pillion.dev/", "istio.io/", "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

fn known_annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations: BTreeMap<String, String> = null_as_default(from)?;
    annotations.retain(|key, _| PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
    Ok(annotations)
}

/// An object's namespace and name.
pub type Key<'a> = (&'a str, &'a str);

#[derive(Debug, PartialEq, Deserialize)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    pub controller: Option<bool>,
}

impl Metadata {
    /// The namespace that a namespaced object is in.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    pub fn key(&self) -> Key<'_> {
        (self.namespace(), &self.name)
    }
}
