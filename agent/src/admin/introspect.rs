//! What the servers need to know, and nothing of who knows it.

use serde_json::Value;
use std::future::Future;
use std::pin::Pin;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthzQuestion {
    /// `namespace/name` of a pod, or an address.
    pub source: String,
    /// `namespace/name` of a pod.
    pub destination: String,
    /// The pod's own port.
    pub port: u16,
}

/// What probes and Prometheus ask. A future is dropped unfinished when its client goes away.
pub trait Vitals: Send + Sync + 'static {
    /// Prometheus' text format, for `GET /metrics`.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// For `GET /healthz/ready`.
    ///
    /// # Errors
    /// What the node waits for, in words.
    fn ready(&self) -> Result<(), Vec<String>>;
}

/// What people ask of the node besides.
pub trait Introspect: Vitals {
    /// Everything the agent holds, for `GET /config_dump`. No secrets.
    fn config_dump(&self) -> BoxFuture<'_, Value>;
    /// Runs the audit now and says what it found, for `POST /audit`.
    fn audit(&self) -> BoxFuture<'_, Value>;
    /// Whether a connection would be let in, for `GET /authz`.
    ///
    /// # Errors
    /// What is wrong with the question, in a sentence.
    fn authz(&self, question: AuthzQuestion) -> BoxFuture<'_, Result<Value, String>>;
}
