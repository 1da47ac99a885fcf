//! A destination pod, the policies around it, and a connection: what an evaluator is asked about.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, Serialize)]
pub struct World {
    pub root_namespace: String,
    /// Those of the mesh, its own one first.
    pub trust_domains: Vec<String>,
    pub pod: Pod,
    /// AuthorizationPolicies and PeerAuthentications, as they are written.
    pub policies: Vec<Value>,
}

/// The pod that is connected to.
#[derive(Clone, Debug, Serialize)]
pub struct Pod {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    pub source: IpAddr,
    /// None of who comes in plain.
    pub identity: Option<Identity>,
    pub destination: SocketAddr,
}

#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    pub trust_domain: String,
    pub namespace: String,
    pub service_account: String,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub allowed: bool,
    /// The rule that decided, if one did: its policy's namespace and name, and its place among the policy's rules.
    pub by: Option<(String, usize)>,
}

impl Verdict {
    /// Before any rule was asked.
    pub fn refused() -> Self {
        Self { allowed: false, by: None }
    }
}
