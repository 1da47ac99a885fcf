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

/// What probes ask. Answers are at hand: they wait for nobody.
pub trait Probes: Send + Sync + 'static {
    /// For `GET /healthz/live`: whether this process does its work, well or not.
    ///
    /// # Errors
    /// Why only a new process can help, in a sentence.
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    /// For `GET /healthz/ready`: what is to be shown to people, `ready` first where all is well.
    ///
    /// # Errors
    /// What the process waits for.
    fn ready(&self) -> Result<String, String>;
}

/// What Prometheus asks. A future is dropped unfinished when its client goes away.
pub trait Vitals: Send + Sync + 'static {
    /// Prometheus' text format, for `GET /metrics`.
    fn metrics(&self) -> BoxFuture<'_, String>;
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
    /// Has a pod's worker panic, for `POST /panic`; `namespace/name` of the pod, and whether in a task of the worker. `None` where
    /// nobody may ask for that.
    ///
    /// # Errors
    /// What is wrong with the question, in a sentence.
    fn panic(&self, _pod: String, _in_task: bool) -> BoxFuture<'_, Option<Result<(), String>>> {
        Box::pin(async { None })
    }
}
