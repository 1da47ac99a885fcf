//! What a pod accepts of connections that do not come through the mesh (Istio's PeerAuthentication, resolved).

use serde::Serialize;
use std::collections::BTreeMap;

/// How a port takes what arrives in plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// The mesh has nothing to do with the port: plaintext passes, and peers of the mesh use it too.
    Disable,
    /// Plaintext passes beside mutual TLS (Istio's default).
    #[default]
    Permissive,
    /// Only what the mesh vouches for passes.
    Strict,
}

/// The modes of a pod's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboundMtls {
    pub default: MtlsMode,
    /// The ports whose mode is not the default one: equal policies give equal values.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl InboundMtls {
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}
