//! One connection to the agent's endpoints, of a node that knows nothing: for fuzzers.

use super::introspect::{AuthzQuestion, BoxFuture, Introspect, Vitals};
use super::routes::Admin;
use super::server::connection;
use crate::telemetry::Logging;
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

struct Nobody;

impl Vitals for Nobody {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async { String::new() })
    }
}

impl Introspect for Nobody {
    fn config_dump(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { Value::Null })
    }

    fn audit(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { Value::Null })
    }

    fn authz(&self, question: AuthzQuestion) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move { Err(format!("there is no pod {}", question.source)) })
    }
}

/// Answers what is asked, as the admin endpoint does, until the client has ended.
pub async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let (logging, _) = Logging::to_nobody("info");
    let _ = connection(stream, &Admin { node: Arc::new(Nobody), logging }).await;
}
